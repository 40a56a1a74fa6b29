//! Weights of the tokens of preference pairs, from the scores of the head.

use findap_kernels::Dtype;
use findap_kernels::cuda::Operand;
use findap_kernels::preference::{self, TokenWeights, check_pairs, cuda};
pub use findap_kernels::preference::{Pair, PairLoss, PreferenceLoss, PreferenceStats};

use crate::error::TensorError;
use crate::ops::cross_entropy::{Column, Scores};
use crate::step_stats::StepStats;

/// Pairs as packed documents: 2 i and 2 i + 1 are the chosen and the rejected answer of pair i, each behind its prompt.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// `[n]`: the targets that the head had; only tokens of answers have one.
    pub targets: &'a [u32],
    /// `[2 pairs + 1]`.
    pub cu_seqlens: &'a [u32],
    /// `[pairs]`.
    pub pairs: &'a [Pair],
    /// The numbers of the objective.
    pub rule: PreferenceLoss,
}

/// Leaves the token weights in `scores`, and adds the pairs' loss and its terms to `stats`. Does not wait for a device.
///
/// # Errors
/// As [`preference::token_weights`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
///
/// # Panics
/// If there are more tokens than the scores have room for.
pub fn token_weights(scores: &mut Scores, pairs: Pairs<'_>, stats: &mut StepStats) -> Result<(), TensorError> {
    let Pairs { targets, cu_seqlens, pairs, rule } = pairs;
    let n = targets.len();
    let Some(placed) = &mut scores.placed else {
        let (weights, logp) = (&mut scores.weights[..n], &scores.logp[..n]);
        let terms = preference::token_weights(TokenWeights { weights, logp, targets, cu_seqlens, pairs, rule })?;
        stats.add(terms.loss(rule.likelihood_weight), &terms);
        return Ok(());
    };
    check_pairs("preference::token_weights", targets, cu_seqlens, pairs, n)?;
    placed.pairs.clear();
    placed.pairs.extend(pairs.iter().map(cuda::pair_numbers));
    placed.columns.write(Column::Bounds as usize, bytemuck::cast_slice(cu_seqlens))?;
    placed.columns.write(Column::Pairs as usize, bytemuck::cast_slice(placed.pairs.as_flattened()))?;
    let columns = &placed.columns;
    let device = columns.cuda();
    let sums = stats.on(device)?;
    device.run(&[cuda::token_weights(&cuda::TokenWeights {
        loss: sums.loss(),
        terms: sums.terms(),
        weights: columns.operand(Column::Weights as usize, 0, n),
        logp: columns.operand(Column::Logp as usize, 0, n),
        targets: columns.indices(Column::Targets as usize, 0, n),
        cu_seqlens: columns.indices(Column::Bounds as usize, 0, cu_seqlens.len()),
        pairs: Operand {
            address: columns.address(Column::Pairs as usize, 0),
            len: cuda::PAIR_LEN * pairs.len(),
            dtype: Dtype::F64,
        },
        rule,
    })?])
}
