//! The head of a language model: log-probabilities of target tokens and their gradients, by chunks of rows, so that the
//! `[n, vocab]` logits never exist as a whole.
//!
//! logits\[t] = W hidden\[t],   lse\[t] = ln sum_j exp(logits\[t, j]),   logp\[t] = logits\[t, target\[t]] - lse\[t]
//!
//! Every objective is a function of logp; it enters the backward pass as one weight per token, w\[t] = dLoss / dlogp\[t]:
//! dlogits\[t, j] = w\[t] (\[j = target\[t]] - exp(logits\[t, j] - lse\[t])),  dhidden = dlogits W,  dW += dlogits^T hidden
//!
//! Rows whose target is [`IGNORE`] (and, going backward, rows of weight 0) are never computed: the others are gathered
//! first. `lse` is saved; logits are recomputed. Source of the scheme: Wijmans et al. 2024, arXiv:2411.09009.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::matmul::{Gemm, Weight, gemm};
use crate::slice::{Slice, SliceMut, Write};
use crate::softmax::log_sum_exp;

/// The target of a token that bears no loss.
pub const IGNORE: u32 = u32::MAX;

/// The sizes of a head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sizes {
    /// Numbers per hidden state.
    pub dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Rows of one chunk: the scratch holds that many rows of logits.
    pub chunk_rows: usize,
}

impl Sizes {
    /// Numbers of scratch needed: one chunk of logits, hidden states and their gradients.
    pub fn scratch_len(&self) -> usize {
        self.chunk_rows * (self.vocab + 2 * self.dim)
    }
}

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[n]`, written; 0 where the target is [`IGNORE`].
    pub logp: &'a mut [f64],
    /// `[n]`, written; 0 where the target is [`IGNORE`].
    pub lse: &'a mut [f64],
    /// `[n, dim]`.
    pub hidden: Slice<'a>,
    /// `[vocab, dim]`; may be bf16 beside f32, or packed for products in bf16.
    pub weight: Weight<'a>,
    /// `[n]`, each below `vocab` or [`IGNORE`].
    pub targets: &'a [u32],
    /// The sizes.
    pub sizes: Sizes,
    /// `[sizes.scratch_len()]`.
    pub scratch: SliceMut<'a>,
}

/// The arguments of [`backward`] and [`forward_backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// `[n]`: dLoss / dlogp.
    pub token_weights: &'a [f64],
    /// `[n, dim]`, written; 0 for rows without loss.
    pub dhidden: SliceMut<'a>,
    /// `[vocab, dim]`, added to; `None` for a frozen head.
    pub dweight: Option<SliceMut<'a>>,
    /// Everything of the forward pass. `backward` reads `lse` and leaves `logp` alone; `forward_backward` writes both.
    pub forward: Forward<'a>,
}

/// Computes the log-probability of each target.
///
/// # Numerics
/// Logits in the format of `hidden`; the sum of exponentials in f64 over f32 terms. A row depends on itself alone.
/// # Cost
/// 2 vocab dim operations per loss-bearing row.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::IdOutOfRange`], [`KernelError::UnsupportedDtype`],
/// [`KernelError::BadArgument`] for a chunk of no rows.
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    run("cross_entropy::forward", args, None)
}

/// The gradients of the loss whose derivative by each log-probability is known, with `lse` from [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    let Backward { token_weights, dhidden, dweight, forward } = args;
    run("cross_entropy::backward", forward, Some(Gradient { token_weights, dhidden, dweight, knows_lse: true }))
}

/// [`forward`] and [`backward`] in one pass, for objectives whose weights do not depend on the log-probabilities.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(args: Backward<'_>) -> Result<(), KernelError> {
    let Backward { token_weights, dhidden, dweight, forward } = args;
    run(
        "cross_entropy::forward_backward",
        forward,
        Some(Gradient { token_weights, dhidden, dweight, knows_lse: false }),
    )
}

/// Every target below `vocab` or [`IGNORE`].
///
/// # Errors
/// [`KernelError::IdOutOfRange`] with the first that is neither.
pub fn check_targets(op: &'static str, targets: &[u32], vocab: usize) -> Result<(), KernelError> {
    match targets.iter().position(|&t| t != IGNORE && t as usize >= vocab) {
        None => Ok(()),
        Some(index) => Err(KernelError::IdOutOfRange { op, arg: "targets", index, id: targets[index], limit: vocab }),
    }
}

/// The rows that the head computes, in order: those with a target, of which a backward pass alone, for which the log-sums are
/// known, needs only those whose weight is not 0.
pub fn loss_rows<'a>(targets: &'a [u32], backward_weights: Option<&'a [f64]>) -> impl Iterator<Item = usize> + 'a {
    let has_weight = move |t: usize| backward_weights.is_none_or(|weights| weights[t] != 0.0);
    (0..targets.len()).filter(move |&t| targets[t] != IGNORE && has_weight(t))
}

struct Gradient<'a> {
    token_weights: &'a [f64],
    dhidden: SliceMut<'a>,
    dweight: Option<SliceMut<'a>>,
    knows_lse: bool,
}

fn run(op: &'static str, args: Forward<'_>, mut gradient: Option<Gradient<'_>>) -> Result<(), KernelError> {
    let Forward { logp, lse, hidden, weight, targets, sizes, mut scratch } = args;
    let Sizes { dim, vocab, chunk_rows } = sizes;
    let n = targets.len();
    check::holds(op, "chunk_rows", chunk_rows as f64, chunk_rows > 0, "at least 1")?;
    check::length(op, "hidden", hidden.len(), n * dim)?;
    check::length(op, "weight", weight.len(), vocab * dim)?;
    check::length(op, "logp", logp.len(), n)?;
    check::length(op, "lse", lse.len(), n)?;
    check::at_least(op, "scratch", scratch.len(), sizes.scratch_len())?;
    check_targets(op, targets, vocab)?;
    if hidden.dtype() != scratch.dtype() {
        return Err(check::unsupported(op, [("hidden", hidden.dtype()), ("scratch", scratch.dtype())]));
    }
    let knows_lse = gradient.as_ref().is_some_and(|g| g.knows_lse);
    if let Some(gradient) = &mut gradient {
        check::length(op, "token_weights", gradient.token_weights.len(), n)?;
        check::length(op, "dhidden", gradient.dhidden.len(), n * dim)?;
        if let Some(dweight) = &gradient.dweight {
            check::length(op, "dweight", dweight.len(), vocab * dim)?;
        }
        crate::reduce::fill(gradient.dhidden.reborrow(), 0.0);
    }
    if !knows_lse {
        logp.fill(0.0);
        lse.fill(0.0);
    }
    let weights = gradient.as_ref().map(|g| g.token_weights);
    let mut remaining = loss_rows(targets, weights.filter(|_| knows_lse));
    let mut chunk = [0usize; MAX_CHUNK_ROWS];
    loop {
        let mut count = 0;
        for (row, t) in chunk[..chunk_rows.min(MAX_CHUNK_ROWS)].iter_mut().zip(remaining.by_ref()) {
            *row = t;
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        let rows = &chunk[..count];
        let (logits, rest) = scratch.reborrow().split_at(chunk_rows * vocab);
        let mut logits = logits.sub(0..count * vocab);
        let (gathered, dgathered) = rest.split_at(chunk_rows * dim);
        let mut gathered = gathered.sub(0..count * dim);
        gather(gathered.reborrow(), hidden, rows, dim);
        gemm(Gemm {
            m: count,
            n: vocab,
            k: dim,
            a: gathered.as_const(),
            transpose_a: false,
            b: weight.of_forward(),
            transpose_b: true,
            c: logits.reborrow(),
            write: Write::Overwrite,
        })?;
        match logits.reborrow() {
            SliceMut::F32(x) => softmax_gradient(x, rows, targets, weights, knows_lse, logp, lse, vocab),
            SliceMut::F64(x) => softmax_gradient(x, rows, targets, weights, knows_lse, logp, lse, vocab),
            SliceMut::Bf16(_) => return Err(check::unsupported(op, [("hidden", hidden.dtype())])),
        }
        let Some(gradient) = &mut gradient else { continue };
        let mut dgathered = dgathered.sub(0..count * dim);
        gemm(Gemm {
            m: count,
            n: dim,
            k: vocab,
            a: logits.as_const(),
            transpose_a: false,
            b: weight.of_backward()?,
            transpose_b: false,
            c: dgathered.reborrow(),
            write: Write::Overwrite,
        })?;
        scatter(gradient.dhidden.reborrow(), dgathered.as_const(), rows, dim);
        if let Some(dweight) = &mut gradient.dweight {
            gemm(Gemm {
                m: vocab,
                n: dim,
                k: count,
                a: logits.as_const(),
                transpose_a: true,
                b: weight.of_gradient(gathered.as_const()),
                transpose_b: false,
                c: dweight.reborrow(),
                write: Write::Accumulate,
            })?;
        }
    }
}

/// The largest chunk: its list of rows lives on the stack.
pub const MAX_CHUNK_ROWS: usize = 1024;

/// Reads the log-probabilities off a chunk of logits and, with weights, turns it into the gradient of the logits.
#[expect(clippy::too_many_arguments, reason = "one fused pass over everything that a row of logits touches")]
fn softmax_gradient<T: Real>(
    logits: &mut [T],
    rows: &[usize],
    targets: &[u32],
    weights: Option<&[f64]>,
    knows_lse: bool,
    logp: &mut [f64],
    lse: &mut [f64],
    vocab: usize,
) {
    let results = Results { logp: logp.as_mut_ptr(), lse: lse.as_mut_ptr() };
    logits.par_chunks_exact_mut(vocab).zip(rows).for_each(|(row, &t)| {
        let target = targets[t] as usize;
        let at_target = row[target].to_f64();
        let total = if knows_lse {
            results.lse(t)
        } else {
            let (_, total) = log_sum_exp(row);
            results.set(t, at_target - total, total);
            total
        };
        if let Some(weights) = weights {
            let weight = weights[t];
            vectorised(
                #[inline(always)]
                || {
                    let (total, scale) = (T::from_f64(total), T::from_f64(-weight));
                    row.iter_mut().for_each(|x| *x = (*x - total).exp_vector() * scale);
                },
            );
            row[target] = T::from_f64(weight * -(at_target - total).exp_m1());
        }
    });
}

/// The two results of a row; each row is written by the one task that holds it.
struct Results {
    logp: *mut f64,
    lse: *mut f64,
}
// SAFETY: the rows of a chunk are distinct and in bounds, and each is touched by one task only.
unsafe impl Sync for Results {}

impl Results {
    fn lse(&self, t: usize) -> f64 {
        // SAFETY: `t` is a row of the chunk, below the checked length.
        unsafe { *self.lse.add(t) }
    }

    fn set(&self, t: usize, logp: f64, lse: f64) {
        // SAFETY: as above.
        unsafe {
            *self.logp.add(t) = logp;
            *self.lse.add(t) = lse;
        }
    }
}

fn gather(out: SliceMut<'_>, hidden: Slice<'_>, rows: &[usize], dim: usize) {
    match (out, hidden) {
        (SliceMut::F32(out), Slice::F32(x)) => copy_rows(out, x, rows, dim),
        (SliceMut::F64(out), Slice::F64(x)) => copy_rows(out, x, rows, dim),
        _ => {}
    }
}

fn copy_rows<T: Real>(out: &mut [T], x: &[T], rows: &[usize], dim: usize) {
    out.chunks_exact_mut(dim).zip(rows).for_each(|(out, &t)| out.copy_from_slice(&x[t * dim..][..dim]));
}

fn scatter(dhidden: SliceMut<'_>, x: Slice<'_>, rows: &[usize], dim: usize) {
    match (dhidden, x) {
        (SliceMut::F32(out), Slice::F32(x)) => place_rows(out, x, rows, dim),
        (SliceMut::F64(out), Slice::F64(x)) => place_rows(out, x, rows, dim),
        _ => {}
    }
}

fn place_rows<T: Real>(out: &mut [T], x: &[T], rows: &[usize], dim: usize) {
    x.chunks_exact(dim).zip(rows).for_each(|(x, &t)| out[t * dim..][..dim].copy_from_slice(x));
}
