//! The parameters of a decoder.

use std::sync::Arc;

use findap_tensor::ops::{linear, reduce};
use findap_tensor::{Arena, Device, Dtype, Tensor, TensorId, Write};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::Config;
use crate::error::ModelError;
use crate::format::{activation_dtype, statistics_dtype};
use crate::layout::{BlockParams, Layout};
use crate::linear::{AdapterWeights, Gradients, LowRank};
use crate::lora::Lora;
use crate::trainable::Trainable;
use crate::trained::Trained;

/// A decoder of the Llama family: its configuration and its parameters in one arena.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The architecture.
    pub config: Config,
    /// All parameters.
    pub params: Arena,
    adapter: Option<Adapter>,
    pub(crate) layout: Arc<Layout>,
    trained: Arc<Trained>,
}

/// A low-rank adapter of a model: its size and its parameters, in the format of activations.
#[derive(Clone, Debug)]
struct Adapter {
    lora: Lora,
    params: Arena,
}

/// The name of the parameters' memory in reports and errors.
pub(crate) const WEIGHTS: &str = "weights";

/// The name of an adapter's memory in reports and errors.
const ADAPTER: &str = "adapter";

impl Decoder {
    /// Makes a model of these parameters, all of them trained.
    pub(crate) fn new(config: Config, params: Arena, layout: Layout) -> Decoder {
        let trained = Arc::new(Trained::all(&layout));
        Decoder { config, params, adapter: None, layout: Arc::new(layout), trained }
    }

    /// Copies this model to `device`.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn copy_to(&self, device: &Device) -> Result<Decoder, ModelError> {
        let copy = |Adapter { lora, params }: &Adapter| {
            Ok::<_, ModelError>(Adapter { lora: *lora, params: params.copy_to(device, ADAPTER)? })
        };
        Ok(Decoder {
            params: self.params.copy_to(device, WEIGHTS)?,
            adapter: self.adapter.as_ref().map(copy).transpose()?,
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

    /// Puts a low-rank adapter beside the weights: A drawn by `seed` as PEFT does, uniformly between -1/sqrt(in) and 1/sqrt(in), and B
    /// zero, so that the model computes what it did without. Its numbers have the format of activations. An adapter that is there
    /// already is replaced.
    ///
    /// # Errors
    /// As [`Lora::check`] and [`Lora::check_on`]; [`ModelError::Device`].
    pub fn add_adapter(&mut self, lora: Lora, seed: u64) -> Result<(), ModelError> {
        self.add_zero_adapter(lora)?;
        let (layout, params) = (Arc::clone(&self.layout), self.trained_params_mut());
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for LowRank { a, .. } in layout.blocks.iter().flat_map(BlockParams::linears).filter_map(|l| l.low_rank) {
            let entry = layout.adapter.entry(a);
            let bound = (entry.columns as f64).sqrt().recip();
            let values: Vec<f64> = entry.range().map(|_| rng.random_range(-bound..bound)).collect();
            let mut part = Tensor::zeros(params.dtype(), 1, values.len());
            part.slice_mut().copy_from_f64(&values);
            params.tensor_mut().write(entry.start, part.slice())?;
        }
        Ok(())
    }

    /// Puts an adapter beside the weights whose numbers are all zero, in place of one that is there.
    pub(crate) fn add_zero_adapter(&mut self, lora: Lora) -> Result<(), ModelError> {
        lora.check()?;
        lora.check_on(self.params.device().kind(), self.params.dtype())?;
        let layout = Layout::new(&self.config).with_adapter(&lora);
        let (device, dtype) = (self.params.device(), self.activation_dtype());
        let params = Arena::zeros_on(&device, ADAPTER, Arc::clone(&layout.adapter), dtype)?;
        self.trained = Arc::new(Trained::select(&layout, &Trainable::Adapter(lora))?);
        self.layout = Arc::new(layout);
        self.adapter = Some(Adapter { lora, params });
        Ok(())
    }

    /// Adds the adapter to the weights, W + s B A with sums in f32 (f64 for weights in f64) and rounded once, and removes it. Without
    /// one, nothing changes.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn merge_adapter(&mut self) -> Result<(), ModelError> {
        let Some(Adapter { lora, params: adapter }) = self.adapter.take() else { return Ok(()) };
        let wide = statistics_dtype(self.params.dtype());
        let widened = |arena: &Arena, id: TensorId| -> Result<Tensor, ModelError> {
            let entry = arena.spec().entry(id);
            let mut stored = Tensor::zeros(arena.dtype(), entry.rows, entry.columns);
            arena.tensor().read(entry.start, stored.slice_mut())?;
            let mut tensor = Tensor::zeros(wide, entry.rows, entry.columns);
            tensor.slice_mut().copy_from_f64(&stored.slice().to_f64_vec());
            Ok(tensor)
        };
        for linear in self.layout.blocks.iter().flat_map(BlockParams::linears) {
            let Some(LowRank { a, b }) = linear.low_rank else { continue };
            let (a, mut b, mut weight) =
                (widened(&adapter, a)?, widened(&adapter, b)?, widened(&self.params, linear.weight)?);
            reduce::scale(b.all_mut(), lora.scale())?;
            // B A is, as a product, the gradient of the input of a layer with the weight A
            linear::backward_input(weight.all_mut(), Write::Accumulate, b.all(), a.all())?;
            let start = self.params.spec().entry(linear.weight).start;
            let mut merged = Tensor::zeros(self.params.dtype(), 1, weight.len());
            merged.slice_mut().copy_from_f64(&weight.slice().to_f64_vec());
            self.params.tensor_mut().write(start, merged.slice())?;
        }
        self.layout = Arc::new(Layout::new(&self.config));
        self.trained = Arc::new(Trained::all(&self.layout));
        Ok(())
    }

    /// The model's adapter, where it has one.
    pub fn lora(&self) -> Option<Lora> {
        self.adapter.as_ref().map(|adapter| adapter.lora)
    }

    /// The adapter as a pass reads it.
    pub(crate) fn adapter_weights(&self) -> Option<AdapterWeights<'_>> {
        self.adapter.as_ref().map(|Adapter { lora, params }| AdapterWeights { params, scale: lora.scale() })
    }

    /// The parameters among which those trained are: the adapter's, where there is one, else the model's.
    pub fn trained_params(&self) -> &Arena {
        self.adapter.as_ref().map_or(&self.params, |adapter| &adapter.params)
    }

    /// [`Decoder::trained_params`], to be changed.
    pub fn trained_params_mut(&mut self) -> &mut Arena {
        self.adapter.as_mut().map_or(&mut self.params, |adapter| &mut adapter.params)
    }

    /// Makes zero gradients of the trained parameters on their device and in their format; f32 for parameters in bf16.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn zero_gradients(&self) -> Result<Arena, ModelError> {
        self.zero_gradients_in(statistics_dtype(self.trained_params().dtype()))
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
    /// [`ModelError::Trainable`] for a selection that this model cannot obey; [`ModelError::Adapter`] for an adapter that is not the
    /// model's, and for the weights under one.
    pub fn train_only(&mut self, trainable: &Trainable) -> Result<(), ModelError> {
        if trainable.lora() != self.lora().as_ref() {
            let reason = match trainable.lora() {
                Some(_) => "the model has none of the size, scale and layers that are to be trained; add it first",
                None => "with an adapter in place, nothing else is trained; merge it first",
            };
            return Err(ModelError::Adapter { reason: reason.into() });
        }
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
