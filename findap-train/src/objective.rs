//! Objectives as weights per token: `dLoss / dlogp[t]`. The model turns them into gradients.
//!
//! Cross-entropy over the `N` loss tokens of an optimizer step: `L = -(1/N) sum logp[t]`, so every weight is `-1/N`, whatever the
//! micro-batches.
//!
//! DPO with a likelihood term over `P` pairs (Rafailov et al. 2023; Pang et al. 2024; FinDAP section 3.3): with the sums
//! `c, r` of the policy's log-probabilities of the chosen and rejected answer, and `c0, r0` the reference's,
//!
//! ```text
//! m = beta ((c - c0) - (r - r0))      L = (1/P) sum_pairs softplus(-m) + a NLL
//! dL/dc = -(beta/P) sigmoid(-m)       dL/dr = (beta/P) sigmoid(-m)
//! NLL, token: -(sum of all chosen logp) / (number of them)         (TRL's "sft" loss)
//! NLL, pair:  (1/P) sum_pairs -(c / |chosen|)                      (Pang et al.)
//! ```

use findap_data::{Batch, IGNORE};

use crate::recipe::NllMean;

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

/// Sums over pairs, each divided by the step's totals already: those of the micro-batches of a step add up to its averages.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct DpoMetrics {
    /// `dpo_loss + nll_weight * nll_loss`.
    pub loss: f64,
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

impl DpoMetrics {
    /// Adds another micro-batch.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.dpo_loss += other.dpo_loss;
        self.nll_loss += other.nll_loss;
        self.reward_chosen += other.reward_chosen;
        self.reward_rejected += other.reward_rejected;
        self.reward_margin += other.reward_margin;
        self.reward_accuracy += other.reward_accuracy;
    }
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
    /// Metrics and weights of one micro-batch. Documents `2 i` and `2 i + 1` of `batch` are the chosen and the rejected answer of
    /// pair `i` after their prompt; only answer tokens are targets. `references` has one entry per pair.
    ///
    /// # Panics
    /// If the numbers of documents and references disagree (a caller bug).
    pub fn weights(
        &self,
        batch: &Batch,
        logp: &[f64],
        references: &[Reference],
        totals: StepTotals,
        weights: &mut Vec<f64>,
    ) -> DpoMetrics {
        assert_eq!(batch.num_documents(), 2 * references.len(), "two documents per pair");
        let sums = document_sums(batch, logp);
        let pairs = totals.pairs.max(1) as f64;
        weights.clear();
        weights.resize(batch.num_tokens(), 0.0);
        let mut metrics = DpoMetrics::default();
        for (i, reference) in references.iter().enumerate() {
            let (chosen, chosen_tokens) = sums[2 * i];
            let (rejected, _) = sums[2 * i + 1];
            let reward_chosen = self.beta * (chosen - reference.chosen);
            let reward_rejected = self.beta * (rejected - reference.rejected);
            let margin = reward_chosen - reward_rejected;
            let pull = self.beta * sigmoid(-margin) / pairs;
            let nll_scale = match self.nll_mean {
                NllMean::Token => 1.0 / totals.chosen_tokens.max(1) as f64,
                NllMean::Pair => 1.0 / (pairs * chosen_tokens.max(1) as f64),
            };
            metrics.add(&DpoMetrics {
                loss: softplus(-margin) / pairs - self.nll_weight * nll_scale * chosen,
                dpo_loss: softplus(-margin) / pairs,
                nll_loss: -nll_scale * chosen,
                reward_chosen: reward_chosen / pairs,
                reward_rejected: reward_rejected / pairs,
                reward_margin: margin / pairs,
                reward_accuracy: f64::from(u8::from(margin > 0.0)) / pairs,
            });
            for (document, weight) in [(2 * i, -pull - self.nll_weight * nll_scale), (2 * i + 1, pull)] {
                for t in batch.document(document).filter(|t| batch.targets[*t] != IGNORE) {
                    weights[t] = weight;
                }
            }
        }
        metrics
    }
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs() -> (Batch, Vec<f64>) {
        let mut batch = Batch::new();
        batch.push_document(&[1, 2, 3, 4], &[false, false, true, true]);
        batch.push_document(&[1, 2, 5], &[false, false, true]);
        batch.push_document(&[7, 8], &[false, true]);
        batch.push_document(&[7, 9, 9], &[false, true, true]);
        let logp = (0..batch.num_tokens())
            .map(|t| if batch.targets[t] == IGNORE { 0.0 } else { -0.3 - 0.1 * t as f64 })
            .collect();
        (batch, logp)
    }

    fn references(batch: &Batch, logp: &[f64], shift: f64) -> Vec<Reference> {
        let sums = document_sums(batch, logp);
        sums.chunks(2).map(|pair| Reference { chosen: pair[0].0 - shift, rejected: pair[1].0 + shift }).collect()
    }

    #[test]
    fn policy_equal_to_reference_gives_ln_2_exactly() {
        let (batch, logp) = pairs();
        let dpo = Dpo { beta: 0.1, nll_weight: 0.0, nll_mean: NllMean::Pair };
        let totals = StepTotals { pairs: 2, chosen_tokens: 3 };
        let metrics = dpo.weights(&batch, &logp, &references(&batch, &logp, 0.0), totals, &mut Vec::new());
        assert_eq!(metrics.loss, std::f64::consts::LN_2);
        assert_eq!((metrics.reward_margin, metrics.reward_accuracy), (0.0, 0.0));
    }

    #[test]
    fn weights_are_the_derivative_of_the_loss() {
        let (batch, logp) = pairs();
        let totals = StepTotals { pairs: 2, chosen_tokens: 3 };
        for nll_mean in [NllMean::Token, NllMean::Pair] {
            let dpo = Dpo { beta: 0.4, nll_weight: 0.7, nll_mean };
            let references = references(&batch, &logp, 0.5);
            let mut weights = Vec::new();
            dpo.weights(&batch, &logp, &references, totals, &mut weights);
            for t in 0..logp.len() {
                let at = |delta: f64| {
                    let mut moved = logp.clone();
                    moved[t] += delta;
                    dpo.weights(&batch, &moved, &references, totals, &mut Vec::new()).loss
                };
                let slope = (at(1e-6) - at(-1e-6)) / 2e-6;
                let want = if batch.targets[t] == IGNORE { 0.0 } else { slope };
                assert!((weights[t] - want).abs() < 1e-9, "{nll_mean:?} token {t}: {} against {want}", weights[t]);
            }
        }
    }

    #[test]
    fn micro_batches_add_up() {
        let (batch, logp) = pairs();
        let dpo = Dpo { beta: 0.4, nll_weight: 1.0, nll_mean: NllMean::Token };
        let totals = StepTotals { pairs: 2, chosen_tokens: 3 };
        let references = references(&batch, &logp, 0.5);
        let whole = dpo.weights(&batch, &logp, &references, totals, &mut Vec::new());
        let mut sum = DpoMetrics::default();
        for pair in 0..2 {
            let range = batch.document(2 * pair).start..batch.document(2 * pair + 1).end;
            let mut part = Batch::new();
            for document in [2 * pair, 2 * pair + 1] {
                let tokens = batch.document(document);
                let mut mask = vec![false];
                mask.extend(
                    batch.targets[tokens.clone()].iter().take(tokens.len() - 1).map(|target| *target != IGNORE),
                );
                part.push_document(&batch.tokens[tokens], &mask);
            }
            sum.add(&dpo.weights(&part, &logp[range], &references[pair..=pair], totals, &mut Vec::new()));
        }
        assert!((whole.loss - sum.loss).abs() < 1e-15);
    }

    #[test]
    fn extreme_margins_stay_finite() {
        assert_eq!(softplus(-1e4), 0.0);
        assert_eq!(softplus(1e4), 1e4);
        assert_eq!(softplus(0.0), std::f64::consts::LN_2);
        assert!(sigmoid(1e4) == 1.0 && sigmoid(-1e4) == 0.0);
    }
}
