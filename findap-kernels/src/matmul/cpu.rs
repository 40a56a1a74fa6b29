//! Products on the CPU: the `gemm` crate over a partition that depends on the shape alone.
//!
//! `c` is cut into panels of rows (or of columns where there are few rows); each panel is one single-threaded product, so
//! neither the number of threads nor the other rows can change a sum.

use std::cell::RefCell;

use half::bf16;
use rayon::prelude::*;

use super::Shape;
use crate::dtype::{Element, Real};
use crate::slice::Write;

/// Rows of `c` in one panel: enough to reuse a packed operand, few enough to share the work between threads.
const PANEL_ROWS: usize = 128;
/// Columns of `c` in one panel where `c` is wider than it is tall.
const PANEL_COLUMNS: usize = 256;
/// Products below this many multiplications are not worth waking another thread.
const SERIAL_LIMIT: usize = 64 * 64 * 64;

pub(super) fn gemm<T: Real>(shape: Shape, a: &[T], b: &[T], c: &mut [T]) {
    let Shape { m, n, k, .. } = shape;
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if shape.write == Write::Overwrite {
            c.fill(T::ZERO);
        }
        return;
    }
    let target = Target(c.as_mut_ptr());
    let tall = m >= n || m >= 4 * PANEL_ROWS;
    let (step, extent) = if tall { (PANEL_ROWS, m) } else { (PANEL_COLUMNS, n) };
    let panel = |index: usize| {
        let start = index * step;
        let len = step.min(extent - start);
        let region = if tall {
            Region { row: start, column: 0, m: len, n }
        } else {
            Region { row: 0, column: start, m, n: len }
        };
        product(shape, region, a, b, &target);
    };
    let panels = extent.div_ceil(step);
    if m * n * k <= SERIAL_LIMIT {
        (0..panels).for_each(panel);
    } else {
        (0..panels).into_par_iter().for_each(panel);
    }
}

/// A product with a bf16 weight: the weight is widened to f32 once per call, which is exact.
pub(super) fn gemm_bf16(shape: Shape, a: &[f32], b: &[bf16], c: &mut [f32]) {
    thread_local! {
        static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    WIDENED.with_borrow_mut(|widened| {
        widened.clear();
        widened.extend(b.iter().map(|x| x.load::<f32>()));
        gemm(shape, a, widened, c);
    });
}

/// A rectangle of `c`.
#[derive(Clone, Copy)]
struct Region {
    row: usize,
    column: usize,
    m: usize,
    n: usize,
}

struct Target<T>(*mut T);
// SAFETY: the pointer is only used by `product`, whose regions are disjoint between panels.
unsafe impl<T: Send> Sync for Target<T> {}

fn product<T: Real>(shape: Shape, region: Region, a: &[T], b: &[T], c: &Target<T>) {
    let Shape { m, n, k, transpose_a, transpose_b, write } = shape;
    let (a_row, a_column) = if transpose_a { (1, m) } else { (k, 1) };
    let (b_row, b_column) = if transpose_b { (1, k) } else { (n, 1) };
    // SAFETY: the caller checked that a, b and c have m*k, k*n and m*n elements; the region lies inside c and the strides
    // describe row-major storage or its transpose, so every access is in bounds. Regions of concurrent calls are disjoint.
    unsafe {
        gemm::gemm(
            region.m,
            region.n,
            k,
            c.0.add(region.row * n + region.column),
            1,
            n as isize,
            write == Write::Accumulate,
            a.as_ptr().add(region.row * a_row),
            a_column as isize,
            a_row as isize,
            b.as_ptr().add(region.column * b_column),
            b_column as isize,
            b_row as isize,
            T::ONE,
            T::ONE,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
