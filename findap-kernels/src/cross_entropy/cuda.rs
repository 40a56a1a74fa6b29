//! The launch of the loss on a chunk of logits.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::operand::{Indices, array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source =
    Source { file: "cross_entropy/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// What is done with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Writes `lse` and `logp`; leaves the logits alone.
    Forward,
    /// Turns the logits into gradients, with `lse` from the forward pass.
    Backward,
    /// Both.
    ForwardBackward,
}

/// The arguments of [`softmax_gradient`].
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxGradient {
    /// `[rows, pitch]`; gradients afterwards, where the pass has them.
    pub logits: Operand,
    /// `[n]` f32, written going forward; 0 where there is no loss.
    pub logp: Operand,
    /// `[n]` f32, written going forward, read going backward alone.
    pub lse: Operand,
    /// `[n]`, each below `vocab` or [`super::IGNORE`]: whoever wrote them has seen to it.
    pub targets: Indices,
    /// `[n]` f32: dLoss / dlogp; `None` going forward alone.
    pub weights: Option<Operand>,
    /// `[rows]`, each below n and none twice: the token of each row of the logits. `None`: row t is of token t, and rows are n.
    pub tokens: Option<Indices>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Numbers from row to row, at least `vocab`; a multiple of 8.
    pub pitch: usize,
    /// What is done.
    pub pass: Pass,
}

/// Log-probabilities of the targets, gradients of the logits, or both.
///
/// # Numerics
/// Sums in f32, in one order; a row depends on itself alone. lse is off by a few units in its last place.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a `pitch` that is no
/// multiple of 8 or an address that is none of 16, and for a backward pass without weights.
pub fn softmax_gradient(args: &SoftmaxGradient) -> Result<Launch, KernelError> {
    const OP: &str = "cross_entropy::softmax_gradient";
    let SoftmaxGradient { logits, logp, lse, targets, weights, tokens, vocab, pitch, pass } = *args;
    let (n, rows) = (targets.len, tokens.map_or(targets.len, |tokens| tokens.len));
    check::holds(OP, "rows", rows as f64, rows > 0, "at least 1")?;
    check::holds(OP, "vocab", vocab as f64, vocab > 0, "at least 1")?;
    let is_whole = pitch >= vocab && pitch.is_multiple_of(8);
    check::holds(OP, "pitch", pitch as f64, is_whole, "a multiple of 8 and at least `vocab`")?;
    array(OP, "logits", &logits, rows * pitch)?;
    check::length(OP, "logp", logp.len, n)?;
    check::length(OP, "lse", lse.len, n)?;
    one_of(OP, [("logp", logp.dtype), ("lse", lse.dtype)], [[Dtype::F32; 2]])?;
    let format = one_of(OP, [("logits", logits.dtype)], [[Dtype::F32], [Dtype::Bf16]])?;
    let weights = match weights {
        Some(weights) => {
            check::length(OP, "weights", weights.len, n)?;
            one_of(OP, [("weights", weights.dtype)], [[Dtype::F32]])?;
            weights.arg()
        }
        None => {
            check::holds(OP, "weights", 0.0, pass == Pass::Forward, "given, unless the pass is forward alone")?;
            Arg::Address(0)
        }
    };
    let pass = match pass {
        Pass::Forward => 1,
        Pass::Backward => 2,
        Pass::ForwardBackward => 3,
    };
    let loads = pitch / (16 / logits.dtype.size_bytes());
    Ok(Launch {
        source: &SOURCE,
        kernel: ["cross_entropy_f32", "cross_entropy_bf16"][format],
        grid: [to_u32(OP, "rows", rows)?, 1, 1],
        block: [loads.next_multiple_of(32).clamp(32, 512) as u32, 1, 1],
        shared_bytes: 0,
        args: vec![
            logits.arg(),
            logp.arg(),
            lse.arg(),
            targets.arg(),
            weights,
            tokens.map_or(Arg::Address(0), |tokens| tokens.arg()),
            Arg::U32(to_u32(OP, "vocab", vocab)?),
            Arg::U32(to_u32(OP, "pitch", pitch)?),
            Arg::U32(pass),
        ],
    })
}
