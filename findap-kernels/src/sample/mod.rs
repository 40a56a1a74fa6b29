//! The choice of the next token from logits.
//!
//! Temperature divides the logits; top-k keeps the k most probable tokens; top-p then keeps the shortest prefix of them
//! whose probability reaches p (at least one token). Ties go to the lower id everywhere, so a choice depends on the logits
//! and the uniform number alone. Source of top-p: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::slice::Slice;
use crate::softmax::{largest, log_sum_exp};

/// How the next token is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most probable token.
    pub temperature: f64,
    /// Keeps this many tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens up to this probability; 1 keeps all.
    pub top_p: f64,
}

impl Sampling {
    /// The most probable token, always.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 };
}

/// The index of the largest logit; the lowest such index if several are equal.
///
/// # Errors
/// [`KernelError::ShapeMismatch`] if there are no logits; [`KernelError::UnsupportedDtype`] for bf16.
pub fn argmax(logits: Slice<'_>) -> Result<u32, KernelError> {
    const OP: &str = "sample::argmax";
    check::at_least(OP, "logits", logits.len(), 1)?;
    match logits {
        Slice::F32(x) => Ok(first_of(x, largest(x))),
        Slice::F64(x) => Ok(first_of(x, largest(x))),
        Slice::Bf16(_) => Err(check::unsupported(OP, [("logits", logits.dtype())])),
    }
}

/// Draws a token with `uniform`, a number in [0, 1), and returns it with its log-probability under the unmodified logits.
///
/// # Errors
/// As [`argmax`], and [`KernelError::BadArgument`] for a temperature below 0 or a `top_p` outside (0, 1].
pub fn sample(logits: Slice<'_>, sampling: Sampling, uniform: f64) -> Result<(u32, f64), KernelError> {
    const OP: &str = "sample::sample";
    let Sampling { temperature, top_p, .. } = sampling;
    check::at_least(OP, "logits", logits.len(), 1)?;
    check::holds(OP, "temperature", temperature, temperature >= 0.0, "at least 0")?;
    check::holds(OP, "top_p", top_p, top_p > 0.0 && top_p <= 1.0, "in (0, 1]")?;
    match logits {
        Slice::F32(x) => Ok(draw(x, sampling, uniform)),
        Slice::F64(x) => Ok(draw(x, sampling, uniform)),
        Slice::Bf16(_) => Err(check::unsupported(OP, [("logits", logits.dtype())])),
    }
}

/// The log-probability of `token`, and the most probable token.
///
/// # Errors
/// As [`argmax`]; [`KernelError::IdOutOfRange`].
pub fn score_tokens(logits: Slice<'_>, token: u32) -> Result<(f64, u32), KernelError> {
    const OP: &str = "sample::rate";
    check::ids(OP, "token", &[token], logits.len())?;
    match logits {
        Slice::F32(x) => Ok(rating(x, token)),
        Slice::F64(x) => Ok(rating(x, token)),
        Slice::Bf16(_) => Err(check::unsupported(OP, [("logits", logits.dtype())])),
    }
}

/// Rows of logits, and the token and log-probability of each, to be written.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `[rows]`.
    pub tokens: &'a mut [u32],
    /// `[rows]`.
    pub logp: &'a mut [f64],
    /// `[rows, vocab]`.
    pub logits: Slice<'a>,
}

/// [`sample`] for each row by its own settings and number in [0, 1).
///
/// # Errors
/// As [`sample`]; [`KernelError::ShapeMismatch`].
pub fn sample_rows(rows: Rows<'_>, samplings: &[Sampling], uniform: &[f64]) -> Result<(), KernelError> {
    const OP: &str = "sample::sample_rows";
    check::length(OP, "samplings", samplings.len(), rows.tokens.len())?;
    check::length(OP, "uniform", uniform.len(), rows.tokens.len())?;
    for_each_row(OP, rows, |row, logits| sample(logits, samplings[row], uniform[row]))
}

/// [`score_tokens`] for each row and its token of `targets`: the most probable token, and the log-probability of that one.
///
/// # Errors
/// As [`score_tokens`]; [`KernelError::ShapeMismatch`].
pub fn score_rows(rows: Rows<'_>, targets: &[u32]) -> Result<(), KernelError> {
    const OP: &str = "sample::score_rows";
    check::length(OP, "targets", targets.len(), rows.tokens.len())?;
    for_each_row(OP, rows, |row, logits| score_tokens(logits, targets[row]).map(|(logp, best)| (best, logp)))
}

fn for_each_row(
    op: &'static str,
    rows: Rows<'_>,
    answer: impl Fn(usize, Slice<'_>) -> Result<(u32, f64), KernelError> + Sync,
) -> Result<(), KernelError> {
    let Rows { tokens, logp, logits } = rows;
    let vocab = logits.len() / tokens.len().max(1);
    check::length(op, "logits", logits.len(), tokens.len() * vocab)?;
    check::length(op, "logp", logp.len(), tokens.len())?;
    tokens.par_iter_mut().zip(logp).with_max_len(1).enumerate().try_for_each(|(row, (token, logp))| {
        (*token, *logp) = answer(row, logits.sub(row * vocab..(row + 1) * vocab))?;
        Ok(())
    })
}

fn rating<T: Real>(logits: &[T], token: u32) -> (f64, u32) {
    let (best, total) = log_sum_exp(logits);
    (logits[token as usize].to_f64() - total, first_of(logits, best))
}

/// The first token of this logit; of a row of NaN, the first.
fn first_of<T: Real>(logits: &[T], logit: T) -> u32 {
    logits.iter().position(|&x| x == logit).unwrap_or(0) as u32
}

fn draw<T: Real>(logits: &[T], sampling: Sampling, uniform: f64) -> (u32, f64) {
    let (best, total) = log_sum_exp(logits);
    let token =
        if sampling.temperature == 0.0 { first_of(logits, best) } else { choose(logits, best, sampling, uniform) };
    (token, logits[token as usize].to_f64() - total)
}

fn choose<T: Real>(logits: &[T], best: T, sampling: Sampling, uniform: f64) -> u32 {
    let Sampling { temperature, top_k, top_p } = sampling;
    let ranking = Ranking::new(logits, best, temperature);
    let (mut kept, mut total) = (logits.len(), ranking.groups.iter().map(|group| group.weight).sum::<f64>());
    if top_k > 0 && top_k < kept {
        (kept, total, _) = ranking.prefix(|count, _| count >= top_k);
    }
    if top_p < 1.0 {
        let enough = top_p * total;
        (kept, total, _) = ranking.prefix(|count, weight| count >= kept || weight >= enough);
    }
    let left = uniform * total;
    let (_, _, last) = ranking.prefix(|count, weight| count >= kept || weight > left);
    last
}

/// Tokens from the most probable on, ties from the lowest. They are put into order only where that is asked for: tokens of nearly equal
/// logits are a group, and few groups are ever sorted.
struct Ranking<'a, T> {
    logits: &'a [T],
    /// exp((logit - best) / temperature).
    weights: Vec<T>,
    /// The group of each token.
    group_of: Vec<u16>,
    /// The most probable first.
    groups: Vec<Group>,
}

#[derive(Clone, Copy, Default)]
struct Group {
    tokens: usize,
    weight: f64,
}

/// Some dozens of tokens in each where the vocabulary is large and its logits are near each other.
const GROUPS: usize = 1024;
/// Below the best by this many temperatures, tokens are one group: they are hardly ever drawn.
const SPREAD: f64 = 24.0;

impl<'a, T: Real> Ranking<'a, T> {
    fn new(logits: &'a [T], best: T, temperature: f64) -> Self {
        let (mut weights, mut group_of) = (vec![T::ZERO; logits.len()], vec![0u16; logits.len()]);
        // so that 0, the best, times it is 0
        let scale = T::from_f64(temperature.recip().min(1e30));
        let to_groups = T::from_f64(GROUPS as f64 / SPREAD);
        vectorised(
            #[inline(always)]
            || {
                for ((weight, group_index), &x) in weights.iter_mut().zip(&mut group_of).zip(logits) {
                    let below = (best - x) * scale;
                    *weight = (T::ZERO - below).exp_vector();
                    // rounding is monotonic: no token is in a group after that of a less probable one
                    *group_index = ((below * to_groups).to_f64() as u32).min(GROUPS as u32 - 1) as u16;
                }
            },
        );
        let mut groups = vec![Group::default(); GROUPS];
        for (&group_index, weight) in group_of.iter().zip(&weights) {
            let group = &mut groups[usize::from(group_index)];
            group.tokens += 1;
            group.weight += weight.to_f64();
        }
        Ranking { logits, weights, group_of, groups }
    }

    /// The shortest prefix of the ranking of whose number of tokens and weight `is_reached` holds, which must then hold for longer ones;
    /// otherwise all of it. Its number of tokens, its weight and its last token.
    fn prefix(&self, is_reached: impl Fn(usize, f64) -> bool) -> (usize, f64, u32) {
        let (mut count, mut weight, mut last) = (0, 0.0, 0);
        for (index, group) in self.groups.iter().enumerate() {
            if !is_reached(count + group.tokens, weight + group.weight) {
                count += group.tokens;
                weight += group.weight;
                continue;
            }
            for id in self.sorted(index as u16) {
                count += 1;
                weight += self.weights[id as usize].to_f64();
                last = id;
                if is_reached(count, weight) {
                    return (count, weight, last);
                }
            }
        }
        (count, weight, last)
    }

    /// The tokens of a group.
    fn sorted(&self, index: u16) -> Vec<u32> {
        let of_group = self.group_of.iter().enumerate().filter(|(_, at)| **at == index);
        let mut ids: Vec<u32> = of_group.map(|(id, _)| id as u32).collect();
        // 0 makes zeros of either sign equal
        let logit = |id: u32| self.logits[id as usize].to_f64() + 0.0;
        ids.sort_unstable_by(|&a, &b| logit(b).total_cmp(&logit(a)).then(a.cmp(&b)));
        ids
    }
}
