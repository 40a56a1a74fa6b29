//! What the softmax of a row of logits needs of it.

use crate::dtype::Real;
use crate::isa::vectorised;

const LANES: usize = 16;

/// The largest number, minus infinity for none; NaN is left out.
pub(crate) fn largest<T: Real>(row: &[T]) -> T {
    vectorised(
        #[inline(always)]
        || largest_of(row),
    )
}

/// The largest number and ln sum_j exp(row\[j]).
pub(crate) fn log_sum_exp<T: Real>(row: &[T]) -> (T, f64) {
    vectorised(
        #[inline(always)]
        || {
            let best = largest_of(row);
            (best, best.to_f64() + sum_exp(row, best).ln())
        },
    )
}

#[inline(always)]
fn largest_of<T: Real>(row: &[T]) -> T {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut best = [T::NEG_INFINITY; LANES];
    for x in whole {
        for lane in 0..LANES {
            best[lane] = if x[lane] > best[lane] { x[lane] } else { best[lane] };
        }
    }
    rest.iter().chain(&best).fold(T::NEG_INFINITY, |best, &x| best.max(x))
}

/// Sums of at most 64 terms in the storage format, then f64: the error stays near that of one exponential.
#[inline(always)]
fn sum_exp<T: Real>(row: &[T], best: T) -> f64 {
    let (whole, rest) = row.as_chunks::<LANES>();
    let mut total = 0.0;
    for block in whole.chunks(64) {
        let mut sums = [T::ZERO; LANES];
        for x in block {
            for lane in 0..LANES {
                sums[lane] += (x[lane] - best).exp_vector();
            }
        }
        total += sums.iter().map(|x| x.to_f64()).sum::<f64>();
    }
    total + rest.iter().map(|&x| (x - best).exp_vector().to_f64()).sum::<f64>()
}
