//! The definition's rows on all threads.

use rayon::prelude::*;

use super::reference;
use crate::dtype::{Element, Real};
use crate::isa::vectorised;
use crate::scratch::with_scratch;
use crate::slice::Write;

/// Rows of one task. Also the groups in which `dweight` is summed: a constant of the result.
const TASK_ROWS: usize = 64;

pub(super) fn forward<T: Real, W: Element>(out: &mut [T], rstd: &mut [T], x: &[T], weight: &[W], dim: usize, eps: f64) {
    let tasks =
        out.par_chunks_mut(TASK_ROWS * dim).zip(rstd.par_chunks_mut(TASK_ROWS)).zip(x.par_chunks(TASK_ROWS * dim));
    tasks.for_each(|((out, rstd), x)| {
        vectorised(
            #[inline(always)]
            || {
                for ((out, rstd), x) in out.chunks_exact_mut(dim).zip(rstd).zip(x.chunks_exact(dim)) {
                    *rstd = reference::row(out, x, weight, eps);
                }
            },
        )
    });
}

#[expect(clippy::too_many_arguments, reason = "the fields of one argument structure, after dispatch on the format")]
pub(super) fn forward_add<T: Real, W: Element>(
    out: &mut [T],
    sum: &mut [T],
    rstd: &mut [T],
    x: &[T],
    residual: &[T],
    weight: &[W],
    dim: usize,
    eps: f64,
) {
    let outputs = out.par_chunks_mut(TASK_ROWS * dim).zip(sum.par_chunks_mut(TASK_ROWS * dim));
    let inputs = x.par_chunks(TASK_ROWS * dim).zip(residual.par_chunks(TASK_ROWS * dim));
    outputs.zip(rstd.par_chunks_mut(TASK_ROWS)).zip(inputs).for_each(|(((out, sum), rstd), (x, residual))| {
        vectorised(
            #[inline(always)]
            || {
                sum.iter_mut().zip(x).zip(residual).for_each(|((sum, &x), &residual)| *sum = x + residual);
                for ((out, rstd), x) in out.chunks_exact_mut(dim).zip(rstd).zip(sum.chunks_exact(dim)) {
                    *rstd = reference::row(out, x, weight, eps);
                }
            },
        )
    });
}

#[expect(clippy::too_many_arguments, reason = "the fields of one argument structure, after dispatch on the format")]
pub(super) fn backward<T: Real, W: Element>(
    dx: &mut [T],
    write_dx: Write,
    dweight: Option<&mut [T]>,
    dy: &[T],
    x: &[T],
    weight: &[W],
    rstd: &[T],
    dim: usize,
) {
    let tasks = rstd.len().div_ceil(TASK_ROWS);
    with_scratch(tasks * dim, |partial: &mut [T]| {
        partial.fill(T::ZERO);
        let rows =
            dx.par_chunks_mut(TASK_ROWS * dim).zip(dy.par_chunks(TASK_ROWS * dim)).zip(x.par_chunks(TASK_ROWS * dim));
        let sums = rstd.par_chunks(TASK_ROWS).zip(partial.par_chunks_mut(dim));
        rows.zip(sums).for_each(|(((dx, dy), x), (rstd, partial))| {
            vectorised(
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(dim).zip(dy.chunks_exact(dim)).zip(x.chunks_exact(dim)).zip(rstd);
                    for (((dx, dy), x), &rstd) in rows {
                        reference::row_backward(dx, write_dx, partial, dy, x, weight, rstd);
                    }
                },
            )
        });
        if let Some(dweight) = dweight {
            for partial in partial.chunks_exact(dim) {
                dweight.iter_mut().zip(partial).for_each(|(dw, &x)| *dw += x);
            }
        }
    });
}
