//! AdamW over all parameters at once, and clipping by the global gradient norm.

use findap_tensor::ops::adamw::{self, Segment, Step};
use findap_tensor::ops::reduce;
use findap_tensor::{Arena, KernelError};

use crate::recipe::Optimization;

/// The moments of all parameters, in the parameters' order, and the constants of the update (torch.optim.AdamW's formula).
#[derive(Debug)]
pub struct AdamW {
    /// Running mean of the gradients.
    pub first_moment: Arena,
    /// Running mean of their squares.
    pub second_moment: Arena,
    segments: Vec<Segment>,
    betas: [f64; 2],
    epsilon: f64,
}

impl AdamW {
    /// Zero moments for `params`; decay on matrices only.
    pub fn new(params: &Arena, keys: &Optimization) -> Self {
        let zeros = || Arena::zeros(params.spec().clone(), params.dtype());
        let segment = |entry: &findap_tensor::arena::Entry| Segment {
            start: entry.start,
            len: entry.range().len(),
            weight_decay: if entry.is_vector { 0.0 } else { keys.weight_decay },
        };
        let segments = params.spec().entries().iter().map(segment).collect();
        Self { first_moment: zeros(), second_moment: zeros(), segments, betas: keys.betas, epsilon: keys.epsilon }
    }

    /// Makes step number `step` (from 1) with gradients multiplied by `grad_scale`.
    ///
    /// # Errors
    /// [`KernelError`] if the arenas differ in length (a caller bug).
    pub fn step(
        &mut self,
        params: &mut Arena,
        grads: &Arena,
        step: u64,
        rate: f64,
        grad_scale: f64,
    ) -> Result<(), KernelError> {
        adamw::step(Step {
            params: params.flat_mut(),
            grads: grads.flat(),
            first_moment: self.first_moment.flat_mut(),
            second_moment: self.second_moment.flat_mut(),
            segments: &self.segments,
            lr: rate,
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.epsilon,
            step,
            grad_scale,
        })
    }
}

/// The norm of all gradients together. NaN and infinities go through.
pub fn gradient_norm(grads: &Arena) -> f64 {
    reduce::sum_squares(grads.flat()).sqrt()
}

/// The factor that brings a gradient of this norm down to `clip_norm` (`torch.nn.utils.clip_grad_norm_`'s, at most 1).
pub fn clip_factor(norm: f64, clip_norm: f64) -> f64 {
    (clip_norm / (norm + 1e-6)).min(1.0)
}
