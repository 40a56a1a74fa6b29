//! The bias on the CPU: rows in parallel forward, groups of rows in parallel backward.

use rayon::prelude::*;

use crate::dtype::{Element, Real};
use crate::isa::vectorised;
use crate::scratch::with_scratch;

/// Rows of one task. Also the groups in which the gradient is summed: a constant of the result.
const TASK_ROWS: usize = 64;

pub(super) fn forward<T: Real, W: Element>(y: &mut [T], bias: &[W]) {
    y.par_chunks_mut(TASK_ROWS * bias.len()).for_each(|rows| {
        vectorised(
            #[inline(always)]
            || {
                for row in rows.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b.load::<T>());
                }
            },
        );
    });
}

pub(super) fn backward<T: Real>(dbias: &mut [T], dy: &[T]) {
    let columns = dbias.len();
    let tasks = (dy.len() / columns).div_ceil(TASK_ROWS);
    with_scratch(tasks * columns, |partial: &mut [T]| {
        partial.par_chunks_mut(columns).zip(dy.par_chunks(TASK_ROWS * columns)).for_each(|(partial, rows)| {
            vectorised(
                #[inline(always)]
                || {
                    partial.fill(T::ZERO);
                    for row in rows.chunks_exact(columns) {
                        partial.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
                    }
                },
            );
        });
        for partial in partial.chunks_exact(columns) {
            dbias.iter_mut().zip(partial).for_each(|(db, &x)| *db += x);
        }
    });
}
