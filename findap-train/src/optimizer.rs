//! AdamW over all parameters at once, and clipping by the global gradient norm.

use findap_tensor::ops::adamw::{self, Clip, Plan, Rule, Segment, Step};
use findap_tensor::ops::reduce;
use findap_tensor::{Arena, Dtype, Ledger, TensorError};

use crate::recipe::Optimization;

/// The moments of all parameters, in the parameters' order, and the constants of the update (torch.optim.AdamW's formula).
#[derive(Debug)]
pub struct AdamW {
    /// Running mean of the gradients.
    pub first_moment: Arena,
    /// Running mean of their squares.
    pub second_moment: Arena,
    /// The parameters in f32, where the model's are their rounding to bf16.
    pub master: Option<Arena>,
    plan: Plan,
    betas: [f64; 2],
    epsilon: f64,
    clip_norm: f64,
}

impl AdamW {
    /// Zero moments for `params`, on their device; decay on matrices only.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(params: &Arena, keys: &Optimization) -> Result<Self, TensorError> {
        let device = params.device();
        let has_master = params.dtype() == Dtype::Bf16;
        let dtype = if has_master { Dtype::F32 } else { params.dtype() };
        let zeros = |purpose| Arena::zeros_on(&device, purpose, params.spec().clone(), dtype);
        let segment = |entry: &findap_tensor::arena::Entry| Segment {
            start: entry.start,
            len: entry.range().len(),
            weight_decay: if entry.is_vector { 0.0 } else { keys.weight_decay },
        };
        let mut master = has_master.then(|| zeros("weights in f32")).transpose()?;
        if let Some(master) = &mut master {
            reduce::cast(master.tensor_mut(), params.tensor())?;
        }
        Ok(Self {
            first_moment: zeros("optimizer moments")?,
            second_moment: zeros("optimizer moments")?,
            master,
            plan: Plan::new(&device, params.spec().entries().iter().map(segment).collect())?,
            betas: keys.betas,
            epsilon: keys.epsilon,
            clip_norm: keys.clip_norm,
        })
    }

    /// Makes step number `step` (from 1), with gradients clipped by their norm, which it adds to the `ledger`. Changes nothing
    /// where that norm or the loss in the ledger is not finite. Does not wait for a device.
    ///
    /// # Errors
    /// [`TensorError`] if the arenas differ in length or device (a caller bug), or the device has failed.
    pub fn step(
        &mut self,
        params: &mut Arena,
        grads: &Arena,
        ledger: &mut Ledger,
        step: u64,
        rate: f64,
    ) -> Result<(), TensorError> {
        ledger.add_squares(grads.tensor())?;
        adamw::step(Step {
            params: params.tensor_mut(),
            master: self.master.as_mut().map(Arena::tensor_mut),
            grads: grads.tensor(),
            first_moment: self.first_moment.tensor_mut(),
            second_moment: self.second_moment.tensor_mut(),
            plan: &self.plan,
            clip: Some(Clip { ledger, max_norm: self.clip_norm }),
            rule: Rule {
                lr: rate,
                beta1: self.betas[0],
                beta2: self.betas[1],
                eps: self.epsilon,
                step,
                grad_scale: 1.0,
            },
        })
    }
}
