//! Objectives as weights per token: `dLoss / dlogp[t]`. The model turns them into gradients.
//!
//! Cross-entropy over the `N` loss tokens of an optimizer step: `L = -(1/N) sum logp[t]`, so every weight is `-1/N`, whatever the
//! micro-batches.
//!
//! DPO with a likelihood term over the `P` pairs of a step (FinDAP section 3.3): [`findap_tensor::ops::preference`] weighs the tokens, with
//! the likelihood averaged
//!
//! ```text
//! over tokens: -(sum of all chosen logp) / (number of them)         (TRL's "sft" loss)
//! over pairs:  (1/P) sum_pairs -(c / |chosen|)                      (Pang et al. 2024)
//! ```

use findap_data::{Batch, IGNORE};
use findap_tensor::ops::preference::{Pair, PreferenceLoss};
use serde::{Deserialize, Serialize};

/// How the likelihood term is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NllMean {
    /// Over all chosen tokens of the step (TRL's `sft` loss).
    Token,
    /// Over the tokens of each chosen answer, then over pairs (iterative reasoning preference optimisation).
    #[default]
    Pair,
}

/// Writes the weights of cross-entropy: `-1/loss_tokens` at every target.
pub fn cross_entropy_weights(targets: &[u32], loss_tokens: usize, weights: &mut Vec<f64>) {
    let weight = -1.0 / loss_tokens.max(1) as f64;
    weights.clear();
    weights.extend(targets.iter().map(|target| if *target == IGNORE { 0.0 } else { weight }));
}

/// DPO with a likelihood term.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// Strength of the pull towards the reference.
    pub beta: f64,
    /// Weight of the likelihood term.
    pub nll_weight: f64,
    /// How the likelihood term is averaged.
    pub nll_mean: NllMean,
}

/// What the averages of an optimizer step run over, all micro-batches together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTotals {
    /// Pairs.
    pub pairs: usize,
    /// Target tokens of the chosen answers.
    pub chosen_tokens: usize,
}

/// The reference's log-probabilities of one pair: sums over the answers' tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reference {
    /// Of the chosen answer.
    pub chosen: f64,
    /// Of the rejected answer.
    pub rejected: f64,
}

/// The sums of log-probabilities of each document of `batch`, and the number of its targets.
pub fn document_sums(batch: &Batch, logp: &[f64]) -> Vec<(f64, usize)> {
    let sum = |range: std::ops::Range<usize>| {
        let is_target = |t: &usize| batch.targets[*t] != IGNORE;
        let targets = range.filter(is_target);
        targets.fold((0.0, 0), |(sum, count), t| (sum + logp[t], count + 1))
    };
    (0..batch.num_documents()).map(|document| sum(batch.document(document))).collect()
}

impl Dpo {
    /// The numbers of the objective in a step.
    pub fn rule(&self, totals: StepTotals) -> PreferenceLoss {
        PreferenceLoss { beta: self.beta, likelihood_weight: self.nll_weight, num_pairs: totals.pairs }
    }

    /// What is known of the pairs of a micro-batch before the policy has read them: documents `2 i` and `2 i + 1` of `batch` are the
    /// answers of pair `i`, whose reference is the `i`-th. They replace those in `pairs`.
    pub fn pairs(
        &self,
        batch: &Batch,
        references: impl Iterator<Item = Reference>,
        totals: StepTotals,
        pairs: &mut Vec<Pair>,
    ) {
        let divisor = |chosen: usize| match self.nll_mean {
            NllMean::Token => totals.chosen_tokens.max(1),
            NllMean::Pair => totals.pairs.max(1) * num_targets(batch, chosen).max(1),
        };
        pairs.clear();
        pairs.extend(references.enumerate().map(|(i, reference)| Pair {
            reference_chosen: reference.chosen,
            reference_rejected: reference.rejected,
            likelihood_scale: 1.0 / divisor(2 * i) as f64,
        }));
    }
}

/// The targets of a document.
pub fn num_targets(batch: &Batch, document: usize) -> usize {
    batch.targets[batch.document(document)].iter().filter(|target| **target != IGNORE).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_is_averaged_over_tokens_or_over_pairs() {
        let mut batch = Batch::new();
        batch.push_document(&[1, 2, 3, 4], &[false, false, true, true]);
        batch.push_document(&[1, 2, 5], &[false, false, true]);
        batch.push_document(&[7, 8], &[false, true]);
        batch.push_document(&[7, 9, 9], &[false, true, true]);
        let totals = StepTotals { pairs: 2, chosen_tokens: 3 };
        let reference = Reference { chosen: -1.0, rejected: -2.0 };
        let scales = |nll_mean| {
            let mut pairs = Vec::new();
            let dpo = Dpo { beta: 0.4, nll_weight: 0.7, nll_mean };
            dpo.pairs(&batch, [reference; 2].into_iter(), totals, &mut pairs);
            pairs.iter().map(|pair| pair.likelihood_scale).collect::<Vec<f64>>()
        };
        assert_eq!(scales(NllMean::Token), [1.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(scales(NllMean::Pair), [0.25, 0.5]);
    }
}
