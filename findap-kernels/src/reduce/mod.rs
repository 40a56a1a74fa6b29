//! Sums over whole arenas, and the elementwise passes that go with them.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::{Element, Real, bf16_bits};
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::slice::{Slice, SliceMut};

/// Numbers of one task, and of one partial sum: a constant of the result.
const TASK: usize = 32_768;

/// The sum of squares, in f64, with one order of summation whatever the number of threads. NaN and infinities go through,
/// so the result is finite only if every number is.
pub fn sum_squares(x: Slice<'_>) -> f64 {
    match x {
        Slice::F32(x) => squares(x),
        Slice::F64(x) => squares(x),
        Slice::Bf16(x) => squares(x),
    }
}

/// Whether no number is NaN or infinite.
pub fn all_finite(x: Slice<'_>) -> bool {
    match x {
        Slice::F32(x) => x.par_chunks(TASK).all(|x| x.iter().all(|x| x.is_finite())),
        Slice::F64(x) => x.par_chunks(TASK).all(|x| x.iter().all(|x| x.is_finite())),
        Slice::Bf16(x) => x.par_chunks(TASK).all(|x| x.iter().all(|x| x.is_finite())),
    }
}

/// out += x.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`].
pub fn add(out: SliceMut<'_>, x: Slice<'_>) -> Result<(), KernelError> {
    const OP: &str = "reduce::add";
    check::length(OP, "x", x.len(), out.len())?;
    let dtypes = [("out", out.dtype()), ("x", x.dtype())];
    match (out, x) {
        (SliceMut::F32(out), Slice::F32(x)) => add_all(out, x),
        (SliceMut::F64(out), Slice::F64(x)) => add_all(out, x),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// out = x in the format of `out`: f32 rounded to bf16, to the even one of two that are as near, or bf16 widened to f32.
///
/// # Errors
/// As [`add`].
pub fn cast(out: SliceMut<'_>, x: Slice<'_>) -> Result<(), KernelError> {
    const OP: &str = "reduce::cast";
    check::length(OP, "x", x.len(), out.len())?;
    let dtypes = [("out", out.dtype()), ("x", x.dtype())];
    match (out, x) {
        (SliceMut::Bf16(out), Slice::F32(x)) => map_all(
            out,
            x,
            #[inline(always)]
            |x| half::bf16::from_bits(bf16_bits(x)),
        ),
        (SliceMut::F32(out), Slice::Bf16(x)) => map_all(
            out,
            x,
            #[inline(always)]
            |x| x.load(),
        ),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// x *= factor.
///
/// # Errors
/// [`KernelError::UnsupportedDtype`].
pub fn scale(x: SliceMut<'_>, factor: f64) -> Result<(), KernelError> {
    match x {
        SliceMut::F32(x) => scale_all(x, factor as f32),
        SliceMut::F64(x) => scale_all(x, factor),
        SliceMut::Bf16(_) => return Err(check::unsupported("reduce::scale", [("x", x.dtype())])),
    }
    Ok(())
}

/// Sets every number.
pub fn fill(x: SliceMut<'_>, value: f64) {
    match x {
        SliceMut::F32(x) => x.par_chunks_mut(TASK).for_each(|x| x.fill(value as f32)),
        SliceMut::F64(x) => x.par_chunks_mut(TASK).for_each(|x| x.fill(value)),
        SliceMut::Bf16(x) => x.par_chunks_mut(TASK).for_each(|x| x.fill(half::bf16::from_f64(value))),
    }
}

/// Halves meet in a fixed tree: one order of sums whatever the number of threads, and no list of partial ones.
fn squares<E: Element>(x: &[E]) -> f64 {
    if x.len() > TASK {
        let (left, right) = x.split_at(x.len().div_ceil(TASK).div_ceil(2) * TASK);
        let (left, right) = rayon::join(|| squares(left), || squares(right));
        return left + right;
    }
    vectorised(
        #[inline(always)]
        || {
            let mut lanes = [0.0f64; 16];
            let (whole, rest) = x.as_chunks::<16>();
            for x in whole {
                for lane in 0..16 {
                    let x: f64 = x[lane].load();
                    lanes[lane] += x * x;
                }
            }
            for (lane, x) in rest.iter().enumerate() {
                let x: f64 = x.load();
                lanes[lane] += x * x;
            }
            lanes.iter().sum()
        },
    )
}

fn map_all<E: Element, F: Element>(out: &mut [F], x: &[E], map: impl Fn(E) -> F + Sync) {
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(y, &x)| *y = map(x)),
        )
    });
}

fn add_all<T: Real>(out: &mut [T], x: &[T]) {
    out.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(out, x)| {
        vectorised(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(y, &x)| *y += x),
        )
    });
}

fn scale_all<T: Real>(x: &mut [T], factor: T) {
    x.par_chunks_mut(TASK).for_each(|x| {
        vectorised(
            #[inline(always)]
            || x.iter_mut().for_each(|x| *x *= factor),
        )
    });
}
