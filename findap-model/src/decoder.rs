//! The parameters of a decoder.

use std::sync::Arc;

use findap_tensor::{Arena, Device, Dtype, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::Config;
use crate::error::ModelError;
use crate::format::{activation_dtype, statistics_dtype};
use crate::layout::Layout;
use crate::linear::Gradients;
use crate::trainable::Trainable;
use crate::trained::Trained;

/// A decoder of the Llama family: its configuration and its parameters in one arena.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The architecture.
    pub config: Config,
    /// All parameters.
    pub params: Arena,
    pub(crate) layout: Arc<Layout>,
    trained: Arc<Trained>,
}

/// The name of the parameters' memory in reports and errors.
pub(crate) const WEIGHTS: &str = "weights";

impl Decoder {
    /// Makes a model of these parameters, all of them trained.
    pub(crate) fn new(config: Config, params: Arena, layout: Layout) -> Decoder {
        let trained = Arc::new(Trained::all(&layout));
        Decoder { config, params, layout: Arc::new(layout), trained }
    }

    /// Copies this model to `device`.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn copy_to(&self, device: &Device) -> Result<Decoder, ModelError> {
        let params = self.params.copy_to(device, WEIGHTS)?;
        Ok(Decoder {
            params,
            config: self.config.clone(),
            layout: Arc::clone(&self.layout),
            trained: Arc::clone(&self.trained),
        })
    }

    /// Draws random weights: matrices normal with `initializer_range`, norms 1, biases 0. Equal seeds give equal weights.
    pub fn init(config: Config, seed: u64, dtype: Dtype) -> Decoder {
        Decoder::init_on(&Device::Cpu, config, seed, dtype).expect("invariant: the CPU's memory is not asked for")
    }

    /// Draws the weights of [`Decoder::init`] into the memory of `device`, a part of a tensor at a time.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn init_on(device: &Device, config: Config, seed: u64, dtype: Dtype) -> Result<Decoder, ModelError> {
        const PART: usize = 1 << 22;
        let deviation = config.initializer_range;
        let layout = Layout::new(&config);
        let mut params = Arena::zeros_on(device, WEIGHTS, Arc::clone(&layout.spec), dtype)?;
        let spec = Arc::clone(params.spec());
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let mut num_drawn = 0;
        for entry in spec.entries() {
            for start in entry.range().step_by(PART) {
                let constant = if entry.name.ends_with(".bias") { 0.0 } else { 1.0 };
                let mut values = vec![constant; PART.min(entry.range().end - start)];
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
        Ok(Decoder::new(config, params, layout))
    }

    /// Makes a model whose weights are all zero.
    pub fn zeros(config: Config, dtype: Dtype) -> Decoder {
        let layout = Layout::new(&config);
        let params = Arena::zeros(Arc::clone(&layout.spec), dtype);
        Decoder::new(config, params, layout)
    }

    /// Count of the weights of a model of this configuration.
    pub fn num_parameters(config: &Config) -> usize {
        Layout::new(config).spec.len()
    }

    /// The format of activations: that of the weights, but f32 beside bf16 on the CPU, which rounds only the factors of products.
    pub fn activation_dtype(&self) -> Dtype {
        activation_dtype(self.params.device().kind(), self.params.dtype())
    }

    /// Makes zero gradients of the trained parameters on their device and in their format; f32 for parameters in bf16.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn zero_gradients(&self) -> Result<Arena, ModelError> {
        self.zero_gradients_in(statistics_dtype(self.params.dtype()))
    }

    /// Makes [`Decoder::zero_gradients`] in another format that the backward pass can add to: bf16 for weights in bf16 on a device.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn zero_gradients_in(&self, dtype: Dtype) -> Result<Arena, ModelError> {
        let spec = Arc::clone(&self.trained.spec);
        Ok(Arena::zeros_on(&self.params.device(), "gradients", spec, dtype)?)
    }

    /// Selects the parameters to train: gradients made from now on are for these alone.
    ///
    /// # Errors
    /// [`ModelError::Trainable`] for a selection that this model cannot obey.
    pub fn train_only(&mut self, trainable: &Trainable) -> Result<(), ModelError> {
        self.trained = Arc::new(Trained::select(&self.layout, trainable)?);
        Ok(())
    }

    /// Count of frozen blocks from the input on, 0 if the embedding is trained; for [`SessionOptions`](crate::session::SessionOptions).
    pub fn frozen_blocks(&self) -> usize {
        self.trained.frozen_blocks()
    }

    /// The arena's gradients by parameter, for a backward pass to add to.
    pub(crate) fn gradients<'a>(&'a self, arena: &'a mut Arena) -> Result<Gradients<'a>, ModelError> {
        let (got, want) = (arena.spec().len(), self.trained.spec.len());
        if got != want {
            return Err(ModelError::Gradients { got, want });
        }
        Ok(Gradients { arena, ids: &self.trained.ids })
    }
}

/// Fills `numbers` with a generator's normal numbers from number `first` on. Each takes four words, so threads can start anywhere.
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

/// Draws a normal number by the method of Box and Muller.
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
