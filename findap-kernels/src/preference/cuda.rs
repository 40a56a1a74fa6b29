//! The launch that weighs the tokens of preference pairs.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use super::{Pair, PairLoss, PreferenceLoss, PreferenceStats};
use crate::check;
use crate::cuda::operand::{one_of, to_u32};
use crate::cuda::{Arg, Indices, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernel of this family.
pub static SOURCE: Source =
    Source { file: "preference/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// Numbers in f64 of a pair on a device.
pub const PAIR_LEN: usize = 3;

/// A pair as a device reads it.
pub fn pair_numbers(pair: &Pair) -> [f64; PAIR_LEN] {
    [pair.reference_chosen, pair.reference_rejected, pair.likelihood_scale]
}

/// A form as the kernel reads it: its number, label smoothing and gamma, 0 where it has none.
fn form_numbers(pair_loss: PairLoss) -> (u32, f64, f64) {
    match pair_loss {
        PairLoss::Dpo { label_smoothing } => (0, label_smoothing, 0.0),
        PairLoss::Robust { label_smoothing } => (1, label_smoothing, 0.0),
        PairLoss::Hinge => (2, 0.0, 0.0),
        PairLoss::Ipo => (3, 0.0, 0.0),
        PairLoss::Simpo { gamma, label_smoothing } => (4, label_smoothing, gamma),
        PairLoss::Orpo => (5, 0.0, 0.0),
    }
}

/// The arguments of [`token_weights`], as in [`super::TokenWeights`].
#[derive(Clone, Copy, Debug)]
pub struct TokenWeights {
    /// `[1]` f64, added to.
    pub loss: Operand,
    /// `[PreferenceStats::LEN]` f64, added to.
    pub terms: Operand,
    /// `[n]` f32, written.
    pub weights: Operand,
    /// `[n]` f32.
    pub logp: Operand,
    /// `[n]`: [`super::check_pairs`] was called with what lies there.
    pub targets: Indices,
    /// `[2 pairs + 1]`, and with this.
    pub cu_seqlens: Indices,
    /// `[pairs, PAIR_LEN]` f64: [`pair_numbers`].
    pub pairs: Operand,
    /// The numbers of the objective.
    pub rule: PreferenceLoss,
}

/// Weighs the tokens of pairs.
///
/// # Numerics
/// Sums in f64, in one order; weights are rounded to f32 once.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for sizes beyond 2^31 - 1.
pub fn token_weights(args: &TokenWeights) -> Result<Launch, KernelError> {
    const OP: &str = "preference::token_weights";
    let TokenWeights { loss, terms, weights, logp, targets, cu_seqlens, pairs, rule } = *args;
    let (n, num_pairs) = (weights.len, pairs.len / PAIR_LEN);
    check::length(OP, "loss", loss.len, 1)?;
    check::length(OP, "terms", terms.len, PreferenceStats::LEN)?;
    check::length(OP, "logp", logp.len, n)?;
    check::length(OP, "targets", targets.len, n)?;
    check::length(OP, "pairs", pairs.len, num_pairs * PAIR_LEN)?;
    check::length(OP, "cu_seqlens", cu_seqlens.len, 2 * num_pairs + 1)?;
    to_u32(OP, "weights", n)?;
    one_of(
        OP,
        [
            ("loss", loss.dtype),
            ("terms", terms.dtype),
            ("weights", weights.dtype),
            ("logp", logp.dtype),
            ("pairs", pairs.dtype),
        ],
        [[Dtype::F64, Dtype::F64, Dtype::F32, Dtype::F32, Dtype::F64]],
    )?;
    let (form, label_smoothing, gamma) = form_numbers(rule.pair_loss);
    let mut launch_args = vec![loss.arg(), terms.arg(), weights.arg(), logp.arg(), targets.arg(), cu_seqlens.arg()];
    launch_args.extend([
        pairs.arg(),
        Arg::U32(num_pairs as u32),
        Arg::U32(form),
        Arg::F64(label_smoothing),
        Arg::F64(gamma),
        Arg::F64(rule.beta),
        Arg::F64(rule.likelihood_weight),
    ]);
    launch_args.push(Arg::F64(rule.num_pairs.max(1) as f64));
    Ok(Launch {
        source: &SOURCE,
        kernel: "preference_token_weights",
        grid: [1, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: launch_args,
    })
}
