//! What a stage minimises: a weight for each token, `dLoss / dlogp[t]`, which the model turns into gradients.
//!
//! Everything that distinguishes one objective from another stands here. A new one is a variant of [`Loss`], or one of [`PairLoss`], whose
//! arms are in [`findap_tensor::ops::preference`], where its weights depend on the log-probabilities.
//!
//! Cross-entropy over the `N` loss tokens of an optimizer step: `L = -(1/N) sum logp[t]`, so every weight is `-1/N`, whatever the
//! micro-batches.
//!
//! A loss of pairs is a mean over the `P` pairs of a step and has a likelihood term beside it (DPO in FinDAP section 3.3, ORPO), which is
//! averaged
//!
//! ```text
//! over tokens: -(sum of all chosen logp) / (number of them)         (TRL's "sft" loss)
//! over pairs:  (1/P) sum_pairs -(c / |chosen|)                      (Pang et al. 2024)
//! ```

use std::collections::BTreeMap;

use findap_data::{Batch, IGNORE, MicroBatch, RowRef};
use findap_model::{Pass, Scored};
pub use findap_tensor::ops::preference::PairLoss;
use findap_tensor::ops::preference::{self, Pair, Pairs, PreferenceLoss, PreferenceStats};
use findap_tensor::{Arena, StepStats};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// The loss that a stage minimises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Next-token cross-entropy.
    CrossEntropy,
    /// A loss of pairs of answers with a likelihood term.
    Preference(Preference),
}

/// A loss of pairs with the numbers that all of them have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// What is minimised for each pair.
    pub pair_loss: PairLoss,
    /// What log-probabilities are multiplied by where they become rewards: for losses with a reference, the strength of the pull
    /// towards it.
    pub beta: f64,
    /// Weight of the likelihood term.
    pub nll_weight: f64,
    /// How the likelihood term is averaged.
    pub nll_mean: NllMean,
}

/// How the likelihood term is averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NllMean {
    /// The mean over all chosen tokens of the step (TRL's `sft` loss).
    Token,
    /// The mean over the tokens of each chosen answer, then over pairs (iterative reasoning preference optimisation).
    #[default]
    Pair,
}

/// A loss with the reference log-probabilities that it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Objective {
    /// What is minimised.
    pub loss: Loss,
    /// The reference model's log-probabilities of each row that is trained on, if the loss [has a reference](Loss::has_reference).
    pub references: References,
    /// The reference model's log-probabilities of each row of the dev loss.
    pub dev_references: References,
}

/// The reference model's log-probabilities, by row.
pub type References = BTreeMap<RowRef, Reference>;

/// The reference model's log-probabilities of one pair: sums over the answers' tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reference {
    /// The sum of the chosen answer.
    pub chosen: f64,
    /// The sum of the rejected answer.
    pub rejected: f64,
}

/// Counts over all micro-batches of an optimizer step, over which averages are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepTotals {
    /// Tokens.
    pub tokens: usize,
    /// Tokens that are targets.
    pub loss_tokens: usize,
    /// Rows: contexts, or pairs.
    pub rows: usize,
    /// Targets in documents of even number, which are the chosen answers of pairs.
    pub chosen_tokens: usize,
}

/// Memory that an objective uses again for every micro-batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    weights: Vec<f64>,
    pairs: Vec<Pair>,
}

impl Loss {
    /// The kind of stage that minimises this loss, as recipes name it.
    pub fn stage_kind(&self) -> &'static str {
        match self {
            Loss::CrossEntropy => "train",
            Loss::Preference(_) => "align",
        }
    }

    /// Its name: for losses of pairs, that of the recipe.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::CrossEntropy => "cross-entropy",
            Loss::Preference(preference) => preference.names()[0],
        }
    }

    /// Whether this loss compares with the log-probabilities of a reference model.
    pub fn has_reference(&self) -> bool {
        matches!(self, Loss::Preference(preference) if preference.pair_loss.has_reference())
    }

    /// Operations per token, as a multiple of those of one forward and one backward pass.
    pub fn relative_cost(&self) -> f64 {
        // the reference's forward pass, of three such passes, once a row; the policy's logits, which are computed again before the
        // weights are known, are a small part of a pass
        if self.has_reference() { 4.0 / 3.0 } else { 1.0 }
    }

    /// The metrics of a step beside its loss: names in `metrics.jsonl` with values.
    pub fn metrics(&self, totals: &StepTotals, stats: &PreferenceStats) -> Vec<(&'static str, f64)> {
        match self {
            Loss::CrossEntropy => Vec::new(),
            Loss::Preference(preference) => vec![
                ("pairs", totals.rows as f64),
                (preference.names()[1], stats.pair_loss),
                ("nll_loss", stats.nll_loss),
                ("reward_chosen", stats.reward_chosen),
                ("reward_rejected", stats.reward_rejected),
                ("reward_margin", stats.reward_margin),
                ("reward_accuracy", stats.reward_accuracy),
                ("logp_chosen", stats.logp_chosen),
                ("logp_rejected", stats.logp_rejected),
            ],
        }
    }
}

/// Makes an objective without references.
impl From<Loss> for Objective {
    fn from(loss: Loss) -> Self {
        Self { loss, references: References::new(), dev_references: References::new() }
    }
}

impl Objective {
    /// Ends the forward pass over a micro-batch of a step: adds its loss to `stats` and its gradients to `gradients`.
    pub(crate) fn backward<'a>(
        &self,
        pass: Pass<'a>,
        micro: &'a MicroBatch,
        totals: &StepTotals,
        scratch: &mut Scratch,
        stats: &mut StepStats,
        gradients: &mut Arena,
    ) -> Result<(), TrainError> {
        let targets = &micro.batch.targets;
        match &self.loss {
            Loss::CrossEntropy => {
                cross_entropy_weights(targets, totals.loss_tokens, &mut scratch.weights);
                let log_probs = pass.backward(targets, &scratch.weights, gradients)?;
                log_probs.add_loss(stats, totals.loss_tokens.max(1) as f64)?;
            }
            Loss::Preference(preference) => {
                let mut scored = pass.score(targets)?;
                preference.leave_weights(&mut scored, micro, &self.references, totals, scratch, stats)?;
                scored.backward(None, gradients)?;
            }
        }
        Ok(())
    }

    /// Ends the forward pass over a micro-batch of the dev loss, which it adds to `stats`.
    pub(crate) fn add_dev_loss<'a>(
        &self,
        pass: Pass<'a>,
        micro: &'a MicroBatch,
        totals: &StepTotals,
        scratch: &mut Scratch,
        stats: &mut StepStats,
    ) -> Result<(), TrainError> {
        let mut scored = pass.score(&micro.batch.targets)?;
        match &self.loss {
            Loss::CrossEntropy => Ok(scored.log_probs().add_loss(stats, totals.loss_tokens.max(1) as f64)?),
            Loss::Preference(preference) => {
                preference.leave_weights(&mut scored, micro, &self.dev_references, totals, scratch, stats)
            }
        }
    }
}

impl Preference {
    /// The name of the loss of pairs in recipes, and of its mean among the metrics.
    fn names(&self) -> [&'static str; 2] {
        match self.pair_loss {
            PairLoss::Dpo { .. } => ["dpo", "dpo_loss"],
            PairLoss::Robust { .. } => ["robust", "robust_loss"],
            PairLoss::Hinge => ["hinge", "hinge_loss"],
            PairLoss::Ipo => ["ipo", "ipo_loss"],
            PairLoss::Simpo { .. } => ["simpo", "simpo_loss"],
            PairLoss::Orpo => ["orpo", "orpo_loss"],
        }
    }

    /// Computes the token weights, leaves them in the scores, and adds the loss to `stats`. Does not wait for a device.
    fn leave_weights(
        &self,
        scored: &mut Scored<'_>,
        micro: &MicroBatch,
        references: &References,
        totals: &StepTotals,
        scratch: &mut Scratch,
        stats: &mut StepStats,
    ) -> Result<(), TrainError> {
        let batch @ Batch { targets, cu_seqlens, .. } = &micro.batch;
        let has_reference = self.pair_loss.has_reference();
        let of_row = |row: &RowRef| if has_reference { references[row] } else { Reference::default() };
        self.fill_pairs(batch, micro.rows.iter().map(of_row), totals, &mut scratch.pairs);
        let Self { pair_loss, beta, nll_weight, .. } = *self;
        let rule = PreferenceLoss { pair_loss, beta, likelihood_weight: nll_weight, num_pairs: totals.rows };
        let pairs = Pairs { targets, cu_seqlens, pairs: &scratch.pairs, rule };
        Ok(preference::token_weights(scored.scores_mut(), pairs, stats)?)
    }

    /// Fills `pairs` with the numbers of a micro-batch's pairs that do not depend on the policy. Documents `2 i` and `2 i + 1` of
    /// `batch` are the answers of pair `i`, and `references` are in the order of pairs.
    fn fill_pairs(
        &self,
        batch: &Batch,
        references: impl Iterator<Item = Reference>,
        totals: &StepTotals,
        pairs: &mut Vec<Pair>,
    ) {
        let divisor = |chosen: usize| match self.nll_mean {
            NllMean::Token => totals.chosen_tokens.max(1),
            NllMean::Pair => totals.rows.max(1) * num_targets(batch, chosen).max(1),
        };
        pairs.clear();
        pairs.extend(references.enumerate().map(|(i, reference)| Pair {
            reference_chosen: reference.chosen,
            reference_rejected: reference.rejected,
            likelihood_scale: 1.0 / divisor(2 * i) as f64,
        }));
    }
}

impl StepTotals {
    /// Counts the totals of these micro-batches.
    pub fn of(micro_batches: &[MicroBatch]) -> Self {
        let sum = |of: fn(&MicroBatch) -> usize| micro_batches.iter().map(of).sum();
        Self {
            tokens: sum(|micro| micro.batch.num_tokens()),
            loss_tokens: sum(|micro| micro.batch.num_loss_tokens()),
            rows: sum(|micro| micro.rows.len()),
            chosen_tokens: sum(|MicroBatch { batch, .. }| {
                (0..batch.num_documents()).step_by(2).map(|document| num_targets(batch, document)).sum()
            }),
        }
    }
}

/// Writes the weights of cross-entropy: `-1/loss_tokens` at every target.
pub fn cross_entropy_weights(targets: &[u32], loss_tokens: usize, weights: &mut Vec<f64>) {
    let weight = -1.0 / loss_tokens.max(1) as f64;
    weights.clear();
    weights.extend(targets.iter().map(|target| if *target == IGNORE { 0.0 } else { weight }));
}

/// Sums the reference model's log-probabilities by answer: documents `2 i` and `2 i + 1` are the answers of pair `i`.
pub(crate) fn pair_references(batch: &Batch, logp: &[f64]) -> Vec<Reference> {
    let sum = |document: usize| -> f64 {
        batch.document(document).filter(|t| batch.targets[*t] != IGNORE).fold(0.0, |sum, t| sum + logp[t])
    };
    let pairs = (0..batch.num_documents() / 2).map(|pair| (2 * pair, 2 * pair + 1));
    pairs.map(|(chosen, rejected)| Reference { chosen: sum(chosen), rejected: sum(rejected) }).collect()
}

fn num_targets(batch: &Batch, document: usize) -> usize {
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
        let totals = StepTotals { tokens: 12, loss_tokens: 6, rows: 2, chosen_tokens: 3 };
        let reference = Reference { chosen: -1.0, rejected: -2.0 };
        let scales = |nll_mean| {
            let mut pairs = Vec::new();
            let pair_loss = PairLoss::Dpo { label_smoothing: 0.0 };
            let dpo = Preference { pair_loss, beta: 0.4, nll_weight: 0.7, nll_mean };
            dpo.fill_pairs(&batch, [reference; 2].into_iter(), &totals, &mut pairs);
            pairs.iter().map(|pair| pair.likelihood_scale).collect::<Vec<f64>>()
        };
        assert_eq!(scales(NllMean::Token), [1.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(scales(NllMean::Pair), [0.25, 0.5]);
    }
}
