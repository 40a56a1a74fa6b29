//! The choice of the next token from logits.
//!
//! Temperature divides the logits; top-k keeps the k most probable tokens; top-p then keeps the shortest prefix of them
//! whose probability reaches p (at least one token). Ties go to the lower id everywhere, so a choice depends on the logits
//! and the uniform number alone. Source of top-p: Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

pub mod cuda;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::slice::Slice;

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
        Slice::F32(x) => Ok(largest(x)),
        Slice::F64(x) => Ok(largest(x)),
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
pub fn rate(logits: Slice<'_>, token: u32) -> Result<(f64, u32), KernelError> {
    const OP: &str = "sample::rate";
    check::ids(OP, "token", &[token], logits.len())?;
    match logits {
        Slice::F32(x) => Ok(rating(x, token)),
        Slice::F64(x) => Ok(rating(x, token)),
        Slice::Bf16(_) => Err(check::unsupported(OP, [("logits", logits.dtype())])),
    }
}

fn rating<T: Real>(logits: &[T], token: u32) -> (f64, u32) {
    let best = largest(logits);
    let most = logits[best as usize].to_f64();
    let sum: f64 = logits.iter().map(|x| (x.to_f64() - most).exp()).sum();
    (logits[token as usize].to_f64() - most - sum.ln(), best)
}

fn largest<T: Real>(x: &[T]) -> u32 {
    let mut best = 0;
    for i in 1..x.len() {
        if x[i] > x[best] {
            best = i;
        }
    }
    best as u32
}

fn draw<T: Real>(logits: &[T], sampling: Sampling, uniform: f64) -> (u32, f64) {
    let best = logits[largest(logits) as usize].to_f64();
    let lse = best + logits.iter().map(|x| (x.to_f64() - best).exp()).sum::<f64>().ln();
    let token = if sampling.temperature == 0.0 { largest(logits) } else { choose(logits, best, sampling, uniform) };
    (token, logits[token as usize].to_f64() - lse)
}

fn choose<T: Real>(logits: &[T], best: f64, sampling: Sampling, uniform: f64) -> u32 {
    let weight = |id: u32| ((logits[id as usize].to_f64() - best) / sampling.temperature).exp();
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| {
        logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap_or(Ordering::Equal).then(a.cmp(b))
    };
    if sampling.top_k > 0 && sampling.top_k < ids.len() {
        ids.select_nth_unstable_by(sampling.top_k - 1, order);
        ids.truncate(sampling.top_k);
    }
    ids.sort_unstable_by(order);
    let mut total: f64 = ids.iter().map(|&id| weight(id)).sum();
    if sampling.top_p < 1.0 {
        let (mut kept, mut sum) = (0, 0.0);
        while kept < ids.len() && (kept == 0 || sum < sampling.top_p * total) {
            sum += weight(ids[kept]);
            kept += 1;
        }
        ids.truncate(kept);
        total = sum;
    }
    let mut left = uniform * total;
    for &id in &ids {
        left -= weight(id);
        if left < 0.0 {
            return id;
        }
    }
    ids[ids.len() - 1]
}
