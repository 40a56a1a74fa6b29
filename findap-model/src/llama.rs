//! The parameters of a Llama model.

use std::path::Path;
use std::sync::Arc;

use findap_tensor::{Arena, ArenaSpec, Device, Dtype, Tensor, TensorId};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checkpoint;
use crate::config::Config;
use crate::error::ModelError;
use crate::session::{activation_dtype, statistics_dtype};

/// A Llama model: its configuration and its parameters in one arena.
#[derive(Clone, Debug)]
pub struct Llama {
    /// The architecture.
    pub config: Config,
    /// All parameters; gradients and moments use the same spec.
    pub params: Arena,
    pub(crate) layout: Arc<Layout>,
}

/// The purpose of the parameters' memory.
pub(crate) const WEIGHTS: &str = "weights";

/// Which tensor of the arena is which.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) embedding: TensorId,
    pub(crate) blocks: Vec<BlockParams>,
    pub(crate) final_norm: TensorId,
    /// The embedding itself where they are tied.
    pub(crate) head: TensorId,
}

/// The parameters of one block; all matrices are `[out, in]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockParams {
    pub(crate) attention_norm: TensorId,
    pub(crate) q: TensorId,
    pub(crate) k: TensorId,
    pub(crate) v: TensorId,
    pub(crate) o: TensorId,
    pub(crate) mlp_norm: TensorId,
    pub(crate) gate: TensorId,
    pub(crate) up: TensorId,
    pub(crate) down: TensorId,
}

impl Layout {
    /// The order of the tensors, under their names in Hugging Face files.
    pub(crate) fn new(config: &Config) -> (ArenaSpec, Layout) {
        let mut spec = ArenaSpec::new();
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let embedding = spec.matrix("model.embed_tokens.weight", config.vocab_size, d);
        let blocks = (0..config.num_layers)
            .map(|l| {
                let name = |part: &str| format!("model.layers.{l}.{part}.weight");
                BlockParams {
                    attention_norm: spec.vector(name("input_layernorm"), d),
                    q: spec.matrix(name("self_attn.q_proj"), q, d),
                    k: spec.matrix(name("self_attn.k_proj"), kv, d),
                    v: spec.matrix(name("self_attn.v_proj"), kv, d),
                    o: spec.matrix(name("self_attn.o_proj"), d, q),
                    mlp_norm: spec.vector(name("post_attention_layernorm"), d),
                    gate: spec.matrix(name("mlp.gate_proj"), f, d),
                    up: spec.matrix(name("mlp.up_proj"), f, d),
                    down: spec.matrix(name("mlp.down_proj"), d, f),
                }
            })
            .collect();
        let final_norm = spec.vector("model.norm.weight", d);
        let head = match config.tie_word_embeddings {
            true => embedding,
            false => spec.matrix("lm_head.weight", config.vocab_size, d),
        };
        (spec, Layout { embedding, blocks, final_norm, head })
    }

    /// The weights of matrix products.
    pub(crate) fn multiplied(&self) -> Vec<TensorId> {
        let of_block = |p: &BlockParams| [p.q, p.k, p.v, p.o, p.gate, p.up, p.down];
        self.blocks.iter().flat_map(of_block).chain([self.head]).collect()
    }
}

impl Llama {
    /// Reads a Hugging Face directory. `dtype` is the format in memory: f32 or f64 to train, bf16 to run with half the
    /// memory.
    ///
    /// # Errors
    /// Any [`ModelError`] but `TooLong`; each names the file or the tensor.
    pub fn load(directory: &Path, dtype: Dtype) -> Result<Llama, ModelError> {
        checkpoint::load_weights(&Device::Cpu, directory, Config::load(directory)?, dtype)
    }

    /// Reads a Hugging Face directory to the memory of `device`, a part of a tensor at a time; f32 or bf16.
    ///
    /// # Errors
    /// As [`Llama::load`]; [`ModelError::Device`].
    pub fn load_to(device: &Device, directory: &Path, dtype: Dtype) -> Result<Llama, ModelError> {
        checkpoint::load_weights(device, directory, Config::load(directory)?, dtype)
    }

    /// A copy of this model on `device`.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn copy_to(&self, device: &Device) -> Result<Llama, ModelError> {
        let params = self.params.copy_to(device, WEIGHTS)?;
        Ok(Llama { config: self.config.clone(), params, layout: Arc::clone(&self.layout) })
    }

    /// Fresh weights: matrices normal with `initializer_range`, norms 1. The same seed gives the same weights.
    pub fn init(config: Config, seed: u64, dtype: Dtype) -> Llama {
        Llama::init_on(&Device::Cpu, config, seed, dtype).expect("invariant: the CPU's memory is not asked for")
    }

    /// [`Llama::init`] in the memory of `device`, a part of a tensor at a time.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn init_on(device: &Device, config: Config, seed: u64, dtype: Dtype) -> Result<Llama, ModelError> {
        const PART: usize = 1 << 22;
        let deviation = config.initializer_range;
        let (spec, layout) = Layout::new(&config);
        let mut params = Arena::zeros_on(device, WEIGHTS, Arc::new(spec), dtype)?;
        let spec = Arc::clone(params.spec());
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut num_drawn = 0;
        for entry in spec.entries() {
            for start in entry.range().step_by(PART) {
                let mut values = vec![1.0; PART.min(entry.range().end - start)];
                if !entry.is_vector {
                    draw_normal(&mut values, &rng, num_drawn);
                    values.iter_mut().for_each(|x| *x *= deviation);
                    num_drawn += values.len();
                }
                let mut part = Tensor::zeros(dtype, 1, values.len());
                part.slice_mut().copy_from_f64(&values);
                params.tensor_mut().write(start, part.slice())?;
            }
        }
        Ok(Llama { config, params, layout: Arc::new(layout) })
    }

    /// All weights zero.
    pub fn zeros(config: Config, dtype: Dtype) -> Llama {
        let (spec, layout) = Layout::new(&config);
        Llama { config, params: Arena::zeros(Arc::new(spec), dtype), layout: Arc::new(layout) }
    }

    /// Weights of a model of this configuration.
    pub fn num_parameters(config: &Config) -> usize {
        Layout::new(config).0.len()
    }

    /// The format of activations beside these weights: theirs, and f32 for bf16 on the CPU, which rounds only what it multiplies.
    pub fn activation_dtype(&self) -> Dtype {
        activation_dtype(self.params.device().kind(), self.params.dtype())
    }

    /// Gradients of all parameters, zero, where the parameters are and in their format; in f32 for bf16.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn zero_gradients(&self) -> Result<Arena, ModelError> {
        self.zero_gradients_in(statistics_dtype(self.params.dtype()))
    }

    /// The same in a format that the backward pass adds to: that of [`Llama::zero_gradients`], or on a device bf16 for bf16.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn zero_gradients_in(&self, dtype: Dtype) -> Result<Arena, ModelError> {
        let spec = Arc::clone(self.params.spec());
        Ok(Arena::zeros_on(&self.params.device(), "gradients", spec, dtype)?)
    }
}

/// The normal numbers of a generator's stream from number `first` on. Each takes four words, so that every thread finds its own.
fn draw_normal(numbers: &mut [f64], rng: &ChaCha8Rng, first: usize) {
    const WORDS: usize = 4;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(numbers.len() / 65536 + 1);
    let stretch = numbers.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (index, part) in numbers.chunks_mut(stretch).enumerate() {
            let mut rng = rng.clone();
            scope.spawn(move || {
                rng.set_word_pos(((first + index * stretch) * WORDS) as u128);
                part.iter_mut().for_each(|x| *x = normal(&mut rng));
            });
        }
    });
}

/// A normal number by the method of Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_draw_what_one_would() {
        let rng = ChaCha8Rng::seed_from_u64(7);
        let mut one = rng.clone();
        let want: Vec<f64> = (0..300_000).map(|_| normal(&mut one)).collect();
        let mut got = vec![0.0; want.len()];
        let (before, after) = got.split_at_mut(100_001);
        draw_normal(before, &rng, 0);
        draw_normal(after, &rng, 100_001);
        assert_eq!(got, want);
    }
}
