//! The launch of the choice of tokens.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use super::Sampling;
use crate::check;
use crate::cuda::operand::{Indices, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "sample/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// The arguments of [`sample`].
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// `[rows]`, written: the chosen tokens.
    pub tokens: Indices,
    /// `[rows]` f32, written: their log-probabilities under the unmodified logits, or those of `targets`.
    pub logp: Operand,
    /// `[rows, pitch]`. Of a row with NaN, some token below `vocab` is chosen, with a log-probability of NaN.
    pub logits: Operand,
    /// `[rows]` f32 in [0, 1); not read at temperature 0.
    pub uniform: Operand,
    /// `[rows]`, each below `vocab`: whoever wrote them has seen to it.
    pub targets: Option<Indices>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Numbers from row to row, at least `vocab`.
    pub pitch: usize,
    /// How tokens are drawn. [`Sampling::GREEDY`] is the argmax.
    pub sampling: Sampling,
}

/// Chooses a token for each row, as [`super::sample`] does: ties go to the lower token.
///
/// # Numerics
/// Weights are rounded down to multiples of 2^-40 of the largest; tokens below that are never drawn. The same bits on every run.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], and [`KernelError::BadArgument`] for a temperature below 0
/// or a `top_p` outside (0, 1].
pub fn sample(args: &Sample) -> Result<Launch, KernelError> {
    const OP: &str = "sample::sample";
    let Sample { tokens, logp, logits, uniform, targets, vocab, pitch, sampling } = *args;
    let Sampling { temperature, top_k, top_p } = sampling;
    let rows = tokens.len;
    check::holds(OP, "rows", rows as f64, rows > 0, "at least 1")?;
    check::holds(OP, "vocab", vocab as f64, vocab > 0 && vocab <= 1 << 20, "in 1..=2^20")?;
    check::holds(OP, "pitch", pitch as f64, pitch >= vocab, "at least `vocab`")?;
    check::length(OP, "logits", logits.len, rows * pitch)?;
    check::length(OP, "logp", logp.len, rows)?;
    check::length(OP, "uniform", uniform.len, rows)?;
    check::length(OP, "targets", targets.map_or(rows, |targets| targets.len), rows)?;
    check::holds(OP, "temperature", temperature, temperature >= 0.0, "at least 0")?;
    check::holds(OP, "top_p", top_p, top_p > 0.0 && top_p <= 1.0, "in (0, 1]")?;
    let format = one_of(OP, [("logits", logits.dtype)], [[Dtype::F32], [Dtype::Bf16]])?;
    one_of(OP, [("logp", logp.dtype), ("uniform", uniform.dtype)], [[Dtype::F32; 2]])?;
    Ok(Launch {
        source: &SOURCE,
        kernel: ["sample_f32", "sample_bf16"][format],
        grid: [to_u32(OP, "rows", rows)?, 1, 1],
        block: [512, 1, 1],
        shared_bytes: 0,
        args: vec![
            tokens.arg(),
            logp.arg(),
            logits.arg(),
            uniform.arg(),
            targets.map_or(Arg::Address(0), |targets| targets.arg()),
            Arg::U32(vocab as u32),
            Arg::U32(to_u32(OP, "pitch", pitch)?),
            Arg::F32(temperature as f32),
            Arg::U32(top_k.min(vocab) as u32),
            Arg::F32(top_p as f32),
        ],
    })
}
