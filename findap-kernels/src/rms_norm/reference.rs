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
pub(super) fn row_backward<T: Real, W: Element>(
    dx: &mut [T],
    write_dx: Write,
    dweight: &mut [T],
    dy: &[T],
    x: &[T],
    weight: &[W],
    rstd: T,
) {
    let mean = dot_scaled(dy, weight, x) * rstd * rstd / T::from_f64(x.len() as f64);
    let gradient = |dy: T, w: T, x: T| rstd * (dy * w - x * mean);
    let rows = dx.iter_mut().zip(dy).zip(weight).zip(x);
    // one loop for each, without a branch inside
    match write_dx {
        Write::Overwrite => rows.for_each(|(((dx, &dy), &w), &x)| *dx = gradient(dy, w.load(), x)),
        Write::Accumulate => rows.for_each(|(((dx, &dy), &w), &x)| *dx += gradient(dy, w.load(), x)),
    }
    dweight.iter_mut().zip(dy).zip(x).for_each(|((dw, &dy), &x)| *dw += dy * x * rstd);
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

/// The sum of dy w x.
#[inline(always)]
fn dot_scaled<T: Real, W: Element>(dy: &[T], w: &[W], x: &[T]) -> T {
    let mut lanes = [T::ZERO; LANES];
    let ((dys, dy), (ws, w), (xs, x)) = (dy.as_chunks::<LANES>(), w.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    for ((dy, w), x) in dys.iter().zip(ws).zip(xs) {
        for lane in 0..LANES {
            lanes[lane] += dy[lane] * w[lane].load::<T>() * x[lane];
        }
    }
    for (lane, ((&dy, &w), &x)) in dy.iter().zip(w).zip(x).enumerate() {
        lanes[lane] += dy * w.load::<T>() * x;
    }
    sum(&lanes)
}

#[inline(always)]
fn sum<T: Real>(lanes: &[T; LANES]) -> T {
    lanes.iter().fold(T::ZERO, |sum, &x| sum + x)
}
