//! The definition: one row at a time.

use crate::dtype::{Element, Real};
use crate::slice::Write;

/// Normalises one row and returns its rstd.
#[inline(always)]
pub(super) fn row<T: Real, W: Element>(out: &mut [T], x: &[T], weight: &[W], eps: f64) -> T {
    let squares = dot(x, x);
    let rstd = T::ONE / (squares / T::from_f64(x.len() as f64) + T::from_f64(eps)).sqrt();
    for ((y, &x), w) in out.iter_mut().zip(x).zip(weight) {
        *y = x * rstd * w.load::<T>();
    }
    rstd
}

/// The gradients of one row.
#[inline(always)]
pub(super) fn row_backward<T: Real>(
    dx: &mut [T],
    write_dx: Write,
    dweight: &mut [T],
    dy: &[T],
    x: &[T],
    weight: &[T],
    rstd: T,
) {
    let mut lanes = [T::ZERO; LANES];
    for (i, ((&dy, &x), &w)) in dy.iter().zip(x).zip(weight).enumerate() {
        lanes[i % LANES] += dy * w * x;
    }
    let mean = sum(&lanes) * rstd * rstd / T::from_f64(x.len() as f64);
    for i in 0..x.len() {
        let gradient = rstd * (dy[i] * weight[i] - x[i] * mean);
        match write_dx {
            Write::Overwrite => dx[i] = gradient,
            Write::Accumulate => dx[i] += gradient,
        }
        dweight[i] += dy[i] * x[i] * rstd;
    }
}

/// Independent partial sums: short dependency chains, vector instructions, and a smaller error than one long chain.
const LANES: usize = 16;

#[inline(always)]
fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    let (whole_y, rest_y) = y.as_chunks::<LANES>();
    for (x, y) in whole.iter().zip(whole_y) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (&x, &y)) in rest.iter().zip(rest_y).enumerate() {
        lanes[lane] += x * y;
    }
    sum(&lanes)
}

#[inline(always)]
fn sum<T: Real>(lanes: &[T; LANES]) -> T {
    lanes.iter().fold(T::ZERO, |sum, &x| sum + x)
}
