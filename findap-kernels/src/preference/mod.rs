//! Direct preference optimization with a likelihood term, as weights of tokens.
//!
//! With the sums c, r of the policy's log-probabilities of the chosen and the rejected answer of a pair, and c0, r0 the reference's:
//!
//! m = beta ((c - c0) - (r - r0))       L = sum over pairs of softplus(-m) / P - a s c
//! dL/dc = -(beta / P) sigmoid(-m) - a s       dL/dr = (beta / P) sigmoid(-m)
//!
//! A sum's derivative is the weight dL/dlogp of each of its tokens. P counts the pairs of a whole optimizer step, a is the weight of
//! the likelihood, and s what each pair's is multiplied by: an average over tokens or over pairs is the caller's choice.
//! Source: Rafailov et al. 2023, arXiv:2305.18290, equations 7 and 8; Pang et al. 2024, arXiv:2404.19733, equation 1.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use crate::check;
use crate::cross_entropy::IGNORE;
use crate::error::KernelError;

/// What is known of a pair beforehand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// The reference's log-probabilities of the chosen answer, summed over its tokens.
    pub reference_chosen: f64,
    /// The log-probability of the rejected answer.
    pub reference_rejected: f64,
    /// What the likelihood of the chosen answer is multiplied by.
    pub likelihood_scale: f64,
}

/// The numbers of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreferenceLoss {
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// Weight of the likelihood term.
    pub likelihood_weight: f64,
    /// Pairs of the optimizer step.
    pub num_pairs: usize,
}

/// Sums over pairs, each divided by the pairs of the step already: those of its micro-batches add up to its averages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PreferenceStats {
    /// Mean of softplus(-m).
    pub dpo_loss: f64,
    /// The likelihood term before its weight.
    pub nll_loss: f64,
    /// Mean of beta (c - c0).
    pub reward_chosen: f64,
    /// Mean of beta (r - r0).
    pub reward_rejected: f64,
    /// Mean of m.
    pub reward_margin: f64,
    /// Share of pairs with m > 0.
    pub reward_accuracy: f64,
}

impl PreferenceStats {
    /// How many there are.
    pub const LEN: usize = 6;

    /// In the order of the fields.
    pub fn to_array(self) -> [f64; PreferenceStats::LEN] {
        let PreferenceStats { dpo_loss, nll_loss, reward_chosen, reward_rejected, reward_margin, reward_accuracy } =
            self;
        [dpo_loss, nll_loss, reward_chosen, reward_rejected, reward_margin, reward_accuracy]
    }

    /// In the order of the fields.
    pub fn from_array(terms: [f64; PreferenceStats::LEN]) -> PreferenceStats {
        let [dpo_loss, nll_loss, reward_chosen, reward_rejected, reward_margin, reward_accuracy] = terms;
        PreferenceStats { dpo_loss, nll_loss, reward_chosen, reward_rejected, reward_margin, reward_accuracy }
    }

    /// The loss that they make.
    pub fn loss(&self, likelihood_weight: f64) -> f64 {
        self.dpo_loss + likelihood_weight * self.nll_loss
    }

    /// Adds those of another micro-batch.
    pub fn add(&mut self, other: &PreferenceStats) {
        let (mut sums, others) = (self.to_array(), other.to_array());
        sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        *self = PreferenceStats::from_array(sums);
    }
}

/// The arguments of [`token_weights`], for pairs one after the other: documents 2 i and 2 i + 1 are the chosen and the rejected answer of
/// pair i, each behind its prompt; only tokens of answers have targets.
#[derive(Debug)]
pub struct TokenWeights<'a> {
    /// `[n]`, written: dLoss / dlogp; 0 where there is no loss.
    pub weights: &'a mut [f64],
    /// `[n]`: log-probabilities of the targets.
    pub logp: &'a [f64],
    /// `[n]`, or [`IGNORE`].
    pub targets: &'a [u32],
    /// `[2 pairs + 1]`: where documents begin, and n.
    pub cu_seqlens: &'a [u32],
    /// `[pairs]`.
    pub pairs: &'a [Pair],
    /// The numbers of the objective.
    pub rule: PreferenceLoss,
}

/// Weighs the tokens of pairs.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::BadOffsets`].
pub fn token_weights(args: TokenWeights<'_>) -> Result<PreferenceStats, KernelError> {
    const OP: &str = "preference::token_weights";
    let TokenWeights { weights, logp, targets, cu_seqlens, pairs, rule } = args;
    let n = weights.len();
    check::length(OP, "logp", logp.len(), n)?;
    check_pairs(OP, targets, cu_seqlens, pairs, n)?;
    let document = |index: usize| cu_seqlens[index] as usize..cu_seqlens[index + 1] as usize;
    let sum = |index: usize| document(index).filter(|&t| targets[t] != IGNORE).map(|t| logp[t]).sum::<f64>();
    let mut terms = PreferenceStats::default();
    for (i, pair) in pairs.iter().enumerate() {
        let (of_pair, [chosen, rejected]) = rule.pair(pair, sum(2 * i), sum(2 * i + 1));
        terms.add(&of_pair);
        for (index, weight) in [(2 * i, chosen), (2 * i + 1, rejected)] {
            document(index).for_each(|t| weights[t] = if targets[t] == IGNORE { 0.0 } else { weight });
        }
    }
    Ok(terms)
}

/// What the kernel on a device cannot check.
///
/// # Errors
/// As [`token_weights`].
pub fn check_pairs(
    op: &'static str,
    targets: &[u32],
    cu_seqlens: &[u32],
    pairs: &[Pair],
    n: usize,
) -> Result<(), KernelError> {
    check::length(op, "targets", targets.len(), n)?;
    check::length(op, "cu_seqlens", cu_seqlens.len(), 2 * pairs.len() + 1)?;
    check::offsets(op, "cu_seqlens", cu_seqlens, n)
}

impl PreferenceLoss {
    /// The terms of one pair, and the derivatives of the loss by the sums of its chosen and its rejected answer.
    fn pair(&self, pair: &Pair, chosen: f64, rejected: f64) -> (PreferenceStats, [f64; 2]) {
        let pairs = self.num_pairs.max(1) as f64;
        let reward_chosen = self.beta * (chosen - pair.reference_chosen);
        let reward_rejected = self.beta * (rejected - pair.reference_rejected);
        let margin = reward_chosen - reward_rejected;
        let terms = PreferenceStats {
            dpo_loss: softplus(-margin) / pairs,
            nll_loss: -pair.likelihood_scale * chosen,
            reward_chosen: reward_chosen / pairs,
            reward_rejected: reward_rejected / pairs,
            reward_margin: margin / pairs,
            reward_accuracy: f64::from(u8::from(margin > 0.0)) / pairs,
        };
        let pull = self.beta * sigmoid(-margin) / pairs;
        (terms, [-pull - self.likelihood_weight * pair.likelihood_scale, pull])
    }
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
