//! AdamW over all tensors at once: flat arenas of parameters, of their gradients and of both moments. The latter three have one layout,
//! in which frozen parameters may be missing.
//!
//! p <- p (1 - lr wd);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
//! p <- p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//!
//! The formula and the order of rounding of `torch.optim.AdamW`. One pass: reads four arrays, writes three.
//! Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::slice::{Slice, SliceMut};

/// A run of parameters that share their weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// The first of the parameters.
    pub start: usize,
    /// The first of their gradients and moments.
    pub state_start: usize,
    /// How many.
    pub len: usize,
    /// Weight decay, per unit of learning rate.
    pub weight_decay: f64,
}

/// The arguments of [`step`].
#[derive(Debug)]
pub struct Step<'a> {
    /// `[n]`, updated.
    pub params: SliceMut<'a>,
    /// `[m]`.
    pub grads: Slice<'a>,
    /// `[m]`, updated: the running mean of the gradients.
    pub first_moment: SliceMut<'a>,
    /// `[m]`, updated: the running mean of their squares.
    pub second_moment: SliceMut<'a>,
    /// Which parameters are updated; those outside all segments are frozen. In any order, but none shares an element with another.
    pub segments: &'a [Segment],
    /// The numbers of this step.
    pub rule: AdamWStep,
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Multiplied to every gradient first: the clipping factor.
    pub grad_scale: f64,
}

impl AdamWStep {
    /// 1 - beta1^step, by which the first moment is too small.
    fn bias1(&self) -> f64 {
        1.0 - self.beta1.powf(self.step as f64)
    }

    /// sqrt(1 - beta2^step), by which the root of the second moment is too small.
    fn bias2_root(&self) -> f64 {
        (1.0 - self.beta2.powf(self.step as f64)).sqrt()
    }
}

/// Makes one optimizer step.
///
/// # Errors
/// [`KernelError::ShapeMismatch`] if gradients and moments differ in length or a segment reaches past an arena;
/// [`KernelError::BadArgument`] for `step` 0 and for segments that overlap; [`KernelError::UnsupportedDtype`].
pub fn step(args: Step<'_>) -> Result<(), KernelError> {
    const OP: &str = "adamw::step";
    let (n, m) = (args.params.len(), args.grads.len());
    check::length(OP, "first_moment", args.first_moment.len(), m)?;
    check::length(OP, "second_moment", args.second_moment.len(), m)?;
    check::holds(OP, "step", args.rule.step as f64, args.rule.step > 0, "at least 1")?;
    for segment in args.segments {
        check::at_least(OP, "params", n, segment.start + segment.len)?;
        check::at_least(OP, "grads", m, segment.state_start + segment.len)?;
    }
    check_disjoint(OP, args.segments)?;
    let dtypes = [("params", args.params.dtype()), ("grads", args.grads.dtype())];
    let Step { params, grads, first_moment, second_moment, segments, rule } = args;
    use {Slice as S, SliceMut as M};
    match (params, grads, first_moment, second_moment) {
        (M::F32(p), S::F32(g), M::F32(m), M::F32(v)) => update(rule, segments, p, g, m, v),
        (M::F64(p), S::F64(g), M::F64(m), M::F64(v)) => update(rule, segments, p, g, m, v),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// No two segments share a parameter or a gradient: each is updated once. Compares pairs, because a step allocates nothing and segments
/// are as few as tensors.
fn check_disjoint(op: &'static str, segments: &[Segment]) -> Result<(), KernelError> {
    for (i, a) in segments.iter().enumerate() {
        for b in &segments[..i] {
            let overlap = |x: usize, y: usize| x.max(y) < (x + a.len).min(y + b.len);
            let is_shared = overlap(a.start, b.start) || overlap(a.state_start, b.state_start);
            check::holds(op, "segments", a.start as f64, !is_shared, "the start of a segment that overlaps no other")?;
        }
    }
    Ok(())
}

/// Elements of one task: four arrays of them stay in the second-level cache.
const TASK: usize = 32_768;

fn update<T: Real>(
    rule: AdamWStep,
    segments: &[Segment],
    params: &mut [T],
    grads: &[T],
    first: &mut [T],
    second: &mut [T],
) {
    let (rate, root) = (T::from_f64(rule.lr / rule.bias1()), T::from_f64(rule.bias2_root()));
    for segment in segments {
        let of_params = segment.start..segment.start + segment.len;
        let of_state = segment.state_start..segment.state_start + segment.len;
        let state = first[of_state.clone()].par_chunks_mut(TASK).zip(second[of_state.clone()].par_chunks_mut(TASK));
        let values = params[of_params].par_chunks_mut(TASK).zip(grads[of_state].par_chunks(TASK));
        let shrink = T::from_f64(1.0 - rule.lr * segment.weight_decay);
        values.zip(state).for_each(|((p, g), (m, v))| {
            vectorised(
                #[inline(always)]
                || chunk(rule, [shrink, rate, root], p, g, m, v),
            )
        });
    }
}

#[inline(always)]
fn chunk<T: Real>(
    rule: AdamWStep,
    [shrink, rate, root]: [T; 3],
    params: &mut [T],
    grads: &[T],
    first: &mut [T],
    second: &mut [T],
) {
    let real = T::from_f64;
    let (scale, one_less_beta1) = (real(rule.grad_scale), real(1.0 - rule.beta1));
    let (beta2, one_less_beta2) = (real(rule.beta2), real(1.0 - rule.beta2));
    let eps = real(rule.eps);
    for i in 0..params.len() {
        let g = grads[i] * scale;
        // lerp, as torch computes it: m + (g - m) (1 - b1)
        let m = first[i] + (g - first[i]) * one_less_beta1;
        let v = second[i] * beta2 + g * g * one_less_beta2;
        params[i] = params[i] * shrink - rate * (m / (v.sqrt() / root + eps));
        first[i] = m;
        second[i] = v;
    }
}
