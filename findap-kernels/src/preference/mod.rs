//! Losses that compare the answers of preference pairs, as weights of tokens.
//!
//! With c, r the log-probabilities of the chosen and the rejected answer of a pair, c0, r0 the reference's, and P the pairs of a whole
//! optimizer step:
//!
//! L = sum over pairs of f(c - c0, r - r0) / P - a s C        dL/dC = (df/dc) / P - a s        dL/dR = (df/dr) / P
//!
//! C and R are the sums over an answer's tokens, and c and r these sums or, for losses without a reference (where c0 = r0 = 0), their
//! means. A sum's derivative is the weight dL/dlogp of each of its tokens. [`PairLoss`] has the forms of f; a is the weight of the
//! likelihood, and s what each pair's is multiplied by: an average over tokens or over pairs is the caller's choice.
//! Source of the likelihood term: Pang et al. 2024, arXiv:2404.19733, equation 1.

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
    /// The reference's log-probabilities of the chosen answer, summed over its tokens; 0 where the loss has no reference.
    pub reference_chosen: f64,
    /// The same of the rejected answer.
    pub reference_rejected: f64,
    /// What the likelihood of the chosen answer is multiplied by.
    pub likelihood_scale: f64,
}

/// What is minimised for each pair, by the letters of [the module](self), with x = c - c0, y = r - r0, b for [`PreferenceLoss::beta`] and
/// S(z) for softplus(-z), which is -ln sigmoid(z).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairLoss {
    /// (1 - e) S(b (x - y)) + e S(-b (x - y)), the loss of DPO where e = 0 (Rafailov et al. 2023, arXiv:2305.18290, equation 7) and
    /// of conservative DPO elsewhere (Mitchell 2023, "A note on DPO with noisy preferences", equation 3). TRL's `sigmoid`, which has e
    /// in its CPO trainer only since version 1.
    Dpo {
        /// e: the share of pairs whose answers are believed to be in the wrong order, 0..=0.5.
        label_smoothing: f64,
    },
    /// ((1 - e) S(b (x - y)) - e S(-b (x - y))) / (1 - 2 e), whose mean over pairs in the wrong order at a rate of e is the loss of DPO on
    /// the right ones (Chowdhury et al. 2024, arXiv:2403.00409, section 3). TRL's `robust`. It has no lower bound.
    Robust {
        /// e: the share of pairs whose answers are in the wrong order, 0..0.5.
        label_smoothing: f64,
    },
    /// max(0, 1 - b (x - y)) (SLiC's calibration, Zhao et al. 2023, arXiv:2305.10425, on the ratio to a reference as in Liu et al. 2023,
    /// arXiv:2309.06657). TRL's `hinge`.
    Hinge,
    /// (x / |x| - y / |y| - 1 / (2 b))^2, where |x| and |y| count the tokens of the answers (Azar et al. 2023, arXiv:2310.12036, equation
    /// 17). The means over tokens are not in the paper; TRL's `ipo` has them on the word of its authors.
    Ipo,
    /// As [`PairLoss::Dpo`] with b (x - y) - g for b (x - y), and x and y means over tokens without a reference (Meng et al. 2024,
    /// arXiv:2405.14734, equation 6). TRL's `simpo`. The paper's advice is on g / b, about 0.5, with b from 2 to 10.
    Simpo {
        /// g: the margin that the rewards are to have.
        gamma: f64,
        /// e, which is 0 in the paper.
        label_smoothing: f64,
    },
    /// b S(o(x) - o(y)) with the log odds o(z) = z - ln(1 - e^z), and x and y means over tokens without a reference (Hong et al. 2024,
    /// arXiv:2403.07691, equations 4 and 7, b being their lambda). The paper's loss has a likelihood term of weight 1 beside it, over the
    /// answer's tokens; TRL's `orpo` takes that over the tokens of the prompt, too.
    Orpo,
}

impl PairLoss {
    /// Whether log-probabilities are compared with those of a reference. Without one they are means over an answer's tokens.
    pub fn has_reference(self) -> bool {
        !matches!(self, PairLoss::Simpo { .. } | PairLoss::Orpo)
    }
}

/// The numbers of the objective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PreferenceLoss {
    /// What is minimised for each pair.
    pub pair_loss: PairLoss,
    /// What log-probabilities are multiplied by where they become rewards.
    pub beta: f64,
    /// Weight of the likelihood term.
    pub likelihood_weight: f64,
    /// Pairs of the optimizer step.
    pub num_pairs: usize,
}

/// Sums over pairs, each divided by the pairs of the step already: those of its micro-batches add up to its averages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PreferenceStats {
    /// Mean of what is minimised for each pair.
    pub pair_loss: f64,
    /// The likelihood term before its weight.
    pub nll_loss: f64,
    /// Mean of beta (c - c0).
    pub reward_chosen: f64,
    /// Mean of beta (r - r0).
    pub reward_rejected: f64,
    /// Mean of beta ((c - c0) - (r - r0)).
    pub reward_margin: f64,
    /// Share of pairs whose chosen answer has the greater reward.
    pub reward_accuracy: f64,
    /// Mean of c.
    pub logp_chosen: f64,
    /// Mean of r.
    pub logp_rejected: f64,
}

impl PreferenceStats {
    /// How many there are.
    pub const LEN: usize = 8;

    /// In the order of the fields.
    pub fn to_array(self) -> [f64; PreferenceStats::LEN] {
        [
            self.pair_loss,
            self.nll_loss,
            self.reward_chosen,
            self.reward_rejected,
            self.reward_margin,
            self.reward_accuracy,
            self.logp_chosen,
            self.logp_rejected,
        ]
    }

    /// In the order of the fields.
    pub fn from_array(terms: [f64; PreferenceStats::LEN]) -> PreferenceStats {
        let [
            pair_loss,
            nll_loss,
            reward_chosen,
            reward_rejected,
            reward_margin,
            reward_accuracy,
            logp_chosen,
            logp_rejected,
        ] = terms;
        PreferenceStats {
            pair_loss,
            nll_loss,
            reward_chosen,
            reward_rejected,
            reward_margin,
            reward_accuracy,
            logp_chosen,
            logp_rejected,
        }
    }

    /// The loss that they make.
    pub fn loss(&self, likelihood_weight: f64) -> f64 {
        self.pair_loss + likelihood_weight * self.nll_loss
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
    let answer = |index: usize| {
        let bears_loss = || document(index).filter(|&t| targets[t] != IGNORE);
        Answer { logp: bears_loss().map(|t| logp[t]).sum(), tokens: bears_loss().count().max(1) as f64 }
    };
    let mut terms = PreferenceStats::default();
    for (i, pair) in pairs.iter().enumerate() {
        let (of_pair, [chosen, rejected]) = rule.pair(pair, answer(2 * i), answer(2 * i + 1));
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

/// An answer as the policy sees it.
#[derive(Clone, Copy, Debug)]
struct Answer {
    /// The sum of its tokens' log-probabilities.
    logp: f64,
    /// How many they are.
    tokens: f64,
}

impl PreferenceLoss {
    /// The terms of one pair, and the derivatives of the loss by the sums of its chosen and its rejected answer.
    fn pair(&self, pair: &Pair, chosen: Answer, rejected: Answer) -> (PreferenceStats, [f64; 2]) {
        let pairs = self.num_pairs.max(1) as f64;
        let length = |answer: Answer| if self.pair_loss.has_reference() { 1.0 } else { answer.tokens };
        let (logp_chosen, logp_rejected) = (chosen.logp / length(chosen), rejected.logp / length(rejected));
        let (x, y) = (logp_chosen - pair.reference_chosen, logp_rejected - pair.reference_rejected);
        let (reward_chosen, reward_rejected) = (self.beta * x, self.beta * y);
        let margin = reward_chosen - reward_rejected;
        // minus the derivative by x and plus that by y: both are positive where the chosen answer is to gain on the rejected one
        let (loss, pull, push) = match self.pair_loss {
            PairLoss::Dpo { label_smoothing } => self.of_margin(smoothed(margin, label_smoothing)),
            PairLoss::Robust { label_smoothing } => self.of_margin(debiased(margin, label_smoothing)),
            PairLoss::Hinge => self.of_margin(((1.0 - margin).max(0.0), f64::from(u8::from(margin < 1.0)))),
            PairLoss::Ipo => {
                let missing = 1.0 / (2.0 * self.beta) - (x / chosen.tokens - y / rejected.tokens);
                (missing * missing, 2.0 * missing / chosen.tokens, 2.0 * missing / rejected.tokens)
            }
            PairLoss::Simpo { gamma, label_smoothing } => self.of_margin(smoothed(margin - gamma, label_smoothing)),
            PairLoss::Orpo => {
                let (x, y) = (x.min(LARGEST_LOGP), y.min(LARGEST_LOGP));
                let (not_x, not_y) = (-x.exp_m1(), -y.exp_m1());
                let log_odds = (x - y) - (not_x.ln() - not_y.ln());
                let pull = self.beta * sigmoid(-log_odds);
                (self.beta * softplus(-log_odds), pull / not_x, pull / not_y)
            }
        };
        let terms = PreferenceStats {
            pair_loss: loss / pairs,
            nll_loss: -pair.likelihood_scale * chosen.logp,
            reward_chosen: reward_chosen / pairs,
            reward_rejected: reward_rejected / pairs,
            reward_margin: margin / pairs,
            reward_accuracy: f64::from(u8::from(margin > 0.0)) / pairs,
            logp_chosen: logp_chosen / pairs,
            logp_rejected: logp_rejected / pairs,
        };
        let (pull, push) = (pull / length(chosen) / pairs, push / length(rejected) / pairs);
        (terms, [-pull - self.likelihood_weight * pair.likelihood_scale, push])
    }

    /// The loss, pull and push of a loss of the margin alone, given with minus its derivative.
    fn of_margin(&self, (loss, pull): (f64, f64)) -> (f64, f64, f64) {
        (loss, self.beta * pull, self.beta * pull)
    }
}

/// The greatest mean log-probability that f32 tells from 0, where the odds are infinite: 1 - 2^-24 is the number below 1.
const LARGEST_LOGP: f64 = -5.960_464_477_539_063e-8;

/// DPO's loss of a margin with smoothed labels, and minus its derivative.
fn smoothed(margin: f64, label_smoothing: f64) -> (f64, f64) {
    let kept = 1.0 - label_smoothing;
    let loss = kept * softplus(-margin) + label_smoothing * softplus(margin);
    (loss, kept * sigmoid(-margin) - label_smoothing * sigmoid(margin))
}

/// DPO's loss of a margin of labels without bias, and minus its derivative.
fn debiased(margin: f64, label_smoothing: f64) -> (f64, f64) {
    let (kept, scale) = (1.0 - label_smoothing, 1.0 - 2.0 * label_smoothing);
    let loss = kept * softplus(-margin) - label_smoothing * softplus(margin);
    (loss / scale, (kept * sigmoid(-margin) + label_smoothing * sigmoid(margin)) / scale)
}

/// ln(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
