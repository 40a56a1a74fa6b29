//! AdamW over all parameters at once, and clipping by the global gradient norm.
//!
//! With a state in bf16 every number that is kept is rounded to 8 bits in each step. Rounding to nearest would lose three things. A weight
//! would not move: a step is some 1e-5, and half a unit of a weight of 0.02 is 6e-5. A second moment would not fall: beta2 = 0.999 takes
//! a thousandth of it away, and half a unit is 1/512 to 1/256 of it. Steps would then be divided by gradients that are long past. A
//! first moment (beta1 = 0.9) would not notice gradients below a fiftieth of it. Stochastic rounding, up or down with the probabilities
//! that keep the mean, makes all three right on average; a moment averages its roundings, too. The kernel draws its bits by Philox, a
//! function of index, step and seed. Source: Gupta et al. 2015, "Deep learning with limited numerical precision", ICML.

use std::sync::Arc;

use findap_tensor::arena::Entry;
use findap_tensor::ops::adamw::{self, AdamWStep, Clip, Plan, Segment, Step};
use findap_tensor::ops::reduce;
use findap_tensor::{Arena, ArenaSpec, Dtype, StepStats, TensorError};

/// The format of the numbers that training keeps: gradients, moments, and the weights themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFormat {
    /// The format of the weights; f32 beside weights in bf16, with a copy of the weights in f32.
    Full,
    /// bf16 for weights in bf16 on a device, without a copy in f32. Weights and moments are rounded stochastically by index, step and
    /// seed, so that a resumed run rounds as one that was not stopped. Gradients are summed in f32 within a micro-batch and then
    /// rounded to nearest.
    Bf16 {
        /// The run's seed.
        seed: u64,
    },
}

impl StateFormat {
    /// The format of gradients and moments of weights in `weights`.
    pub fn dtype(self, weights: Dtype) -> Dtype {
        match (self, weights) {
            (StateFormat::Bf16 { .. }, _) => Dtype::Bf16,
            (StateFormat::Full, Dtype::Bf16) => Dtype::F32,
            (StateFormat::Full, other) => other,
        }
    }
}

/// The constants of AdamW and of clipping.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// The decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, on matrices only.
    pub weight_decay: f64,
    /// Maximum norm of all gradients together, as in `clip_grad_norm_`.
    pub clip_norm: f64,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { betas: [0.9, 0.95], epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 }
    }
}

/// The moments of all parameters, in the parameters' order, and the constants of the update (torch.optim.AdamW's formula).
#[derive(Debug)]
pub struct AdamW {
    /// Running mean of the gradients.
    pub first_moment: Arena,
    /// Running mean of the gradients' squares.
    pub second_moment: Arena,
    /// The parameters in f32, where the model's are their rounding to bf16.
    pub master: Option<Arena>,
    /// Seed of stochastic rounding; `None` rounds to nearest.
    pub(crate) stochastic_seed: Option<u64>,
    plan: Plan,
    options: AdamWOptions,
}

impl AdamW {
    /// Makes zero moments, on the device of `params`, for the parameters in `trained` (the spec of their gradients). Weight decay is on
    /// matrices only. The first step refuses a `state` that does not fit the format and the device of `params`.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(
        params: &Arena,
        trained: &Arc<ArenaSpec>,
        options: AdamWOptions,
        state: StateFormat,
    ) -> Result<Self, TensorError> {
        let device = params.device();
        let dtype = state.dtype(params.dtype());
        let has_master = dtype != params.dtype();
        let zeros = |purpose| Arena::zeros_on(&device, purpose, Arc::clone(trained), dtype);
        let segment = |entry: &Entry| Segment {
            start: offset(params.spec(), entry),
            state_start: entry.start,
            len: entry.range().len(),
            weight_decay: if entry.is_vector { 0.0 } else { options.weight_decay },
        };
        let segments: Vec<Segment> = trained.entries().iter().map(segment).collect();
        let mut master = has_master.then(|| zeros("weights in f32")).transpose()?;
        if let Some(master) = &mut master {
            for Segment { start, state_start, len, .. } in &segments {
                reduce::cast_part(master.tensor_mut(), *state_start, params.tensor(), *start, *len)?;
            }
        }
        Ok(Self {
            first_moment: zeros("optimizer moments")?,
            second_moment: zeros("optimizer moments")?,
            master,
            stochastic_seed: match state {
                StateFormat::Full => None,
                StateFormat::Bf16 { seed } => Some(seed),
            },
            plan: Plan::new(&device, segments)?,
            options,
        })
    }

    /// The trained parameters, as gradients and moments hold them.
    pub fn trained(&self) -> &Arc<ArenaSpec> {
        self.first_moment.spec()
    }

    /// Bytes of a checkpoint: the trained parameters, at full precision where that is known, and their moments.
    pub fn checkpoint_bytes(&self) -> usize {
        3 * self.first_moment.tensor().bytes()
    }

    /// Rounds the copy in f32, where there is one, into `params`.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    pub fn round_master(&self, params: &mut Arena) -> Result<(), TensorError> {
        let Some(master) = &self.master else { return Ok(()) };
        for entry in self.trained().entries() {
            let start = offset(params.spec(), entry);
            reduce::cast_part(params.tensor_mut(), start, master.tensor(), entry.start, entry.range().len())?;
        }
        Ok(())
    }

    /// Makes step number `step` (from 1), with gradients clipped by their norm, which it adds to the `stats`. Changes nothing
    /// where that norm or the loss in the step statistics is not finite. Does not wait for a device.
    ///
    /// # Errors
    /// [`TensorError`] if the arenas differ in length or device (a caller bug), or the device has failed.
    pub fn step(
        &mut self,
        params: &mut Arena,
        grads: &Arena,
        stats: &mut StepStats,
        step: u64,
        learning_rate: f64,
    ) -> Result<(), TensorError> {
        stats.add_squares(grads.tensor())?;
        adamw::step(Step {
            params: params.tensor_mut(),
            master: self.master.as_mut().map(Arena::tensor_mut),
            grads: grads.tensor(),
            first_moment: self.first_moment.tensor_mut(),
            second_moment: self.second_moment.tensor_mut(),
            plan: &self.plan,
            clip: Some(Clip { stats, max_norm: self.options.clip_norm }),
            rule: AdamWStep {
                lr: learning_rate,
                beta1: self.options.betas[0],
                beta2: self.options.betas[1],
                eps: self.options.epsilon,
                step,
                grad_scale: 1.0,
            },
            stochastic_seed: self.stochastic_seed,
        })
    }
}

/// Where a trained parameter begins among all parameters.
pub(crate) fn offset(params: &ArenaSpec, trained: &Entry) -> usize {
    params.find(&trained.name).expect("invariant: what is trained is a parameter").start
}
