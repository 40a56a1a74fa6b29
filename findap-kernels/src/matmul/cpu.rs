//! Products on the CPU: blocked for the caches as in Goto & van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), with the tiles of [`tile`].
//!
//! c is cut into rectangles, one task each. A task walks k in blocks of [`block_depth`]; for each it packs its columns of b
//! (which then stay in the L2 cache), and for every panel of rows packs a (which stays in the L1 cache) and runs the tiles
//! along the row. The cut never touches the order of a sum: block by block of k, each from zero in order of p, each added
//! to c in turn. So the bits of an element depend on its row of op(a), its column of op(b) and k alone.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use self::pack::Matrix;
use self::tile::{MAX_COLUMNS, MAX_DEPTH, MAX_ROWS, Tiles};
use super::Shape;
use crate::dtype::{Element, Real};
use crate::isa::Isa;
use crate::slice::Write;

mod pack;
mod tile;

/// Columns of one task: with `MAX_DEPTH` steps of k, 576 KiB of f32 packed from b in an L2 cache of 1 MiB.
const TASK_COLUMNS: usize = 384;
/// Rows below which sharing the packing of b between fewer tasks beats more tasks.
const TASK_ROWS: usize = 512;
/// Multiplications below which waking another thread costs more than it saves.
const SERIAL_LIMIT: usize = 1 << 19;

/// A format that products are computed in: its tiles, and the packing of a transposed b.
pub(super) trait Compute: Real {
    fn tiles(isa: Isa) -> &'static Tiles<Self>;
    /// The calling thread's packing buffers.
    fn with_buffers<R>(use_them: impl FnOnce(&mut Buffers<Self>) -> R) -> R;
}

/// A storage format of b beside the compute format `T`.
pub(super) trait Operand<T: Real>: Element {
    fn pack_transposed(
        isa: Isa,
        b: Matrix<'_, Self>,
        column: usize,
        columns: usize,
        start: usize,
        width: usize,
        panel: &mut [T],
    );
}

impl Compute for f32 {
    fn tiles(isa: Isa) -> &'static Tiles<f32> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &tile::avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &tile::avx2::F32,
            _ => &tile::portable::F32,
        }
    }
    fn with_buffers<R>(use_them: impl FnOnce(&mut Buffers<f32>) -> R) -> R {
        thread_local!(static BUFFERS: RefCell<Buffers<f32>> = const { RefCell::new(Buffers::EMPTY) });
        BUFFERS.with_borrow_mut(use_them)
    }
}

impl Compute for f64 {
    fn tiles(isa: Isa) -> &'static Tiles<f64> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &tile::avx512::F64,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &tile::avx2::F64,
            _ => &tile::portable::F64,
        }
    }
    fn with_buffers<R>(use_them: impl FnOnce(&mut Buffers<f64>) -> R) -> R {
        thread_local!(static BUFFERS: RefCell<Buffers<f64>> = const { RefCell::new(Buffers::EMPTY) });
        BUFFERS.with_borrow_mut(use_them)
    }
}

impl Operand<f32> for f32 {
    fn pack_transposed(
        isa: Isa,
        b: Matrix<'_, f32>,
        column: usize,
        columns: usize,
        start: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        pack::b_transposed_f32(isa, b, column, columns, start, width, panel);
    }
}

impl Operand<f32> for bf16 {
    fn pack_transposed(
        isa: Isa,
        b: Matrix<'_, bf16>,
        column: usize,
        columns: usize,
        start: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        pack::b_transposed_f32(isa, b, column, columns, start, width, panel);
    }
}

impl Operand<f64> for f64 {
    fn pack_transposed(
        _: Isa,
        b: Matrix<'_, f64>,
        column: usize,
        columns: usize,
        start: usize,
        width: usize,
        panel: &mut [f64],
    ) {
        pack::b_transposed(b, column, columns, start, width, panel);
    }
}

/// c (+)= op(a) op(b) with the instructions of `isa`, which the machine must have.
pub(super) fn gemm<T: Compute, B: Operand<T>>(isa: Isa, shape: Shape, a: &[T], b: &[B], c: &mut [T]) {
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
    let tiles = T::tiles(isa);
    let product = Product { isa, tiles, shape, a, b, c: Target(c.as_mut_ptr()) };
    let (row_step, column_step) = task_size(m, n, tiles);
    let (row_tasks, column_tasks) = (m.div_ceil(row_step), n.div_ceil(column_step));
    let task = |index: usize| {
        let (row, column) = (index / column_tasks * row_step, index % column_tasks * column_step);
        let (rows, columns) = (row..m.min(row + row_step), column..n.min(column + column_step));
        T::with_buffers(|buffers| product.rectangle(rows, columns, buffers));
    };
    let tasks = row_tasks * column_tasks;
    if tasks == 1 || m * n * k <= SERIAL_LIMIT {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Rows and columns of one task's rectangle of c: whole tiles, all tasks of nearly the same size, at least two of them.
fn task_size<T>(m: usize, n: usize, tiles: &Tiles<T>) -> (usize, usize) {
    let even = |extent: usize, parts: usize, unit: usize| extent.div_ceil(unit).div_ceil(parts).max(1) * unit;
    let column_parts = n.div_ceil(TASK_COLUMNS).max(if m < TASK_ROWS { 2 } else { 1 });
    let columns = even(n, column_parts, tiles.columns);
    let row_parts = m.div_ceil(TASK_ROWS).max(if n.div_ceil(columns) < 2 { 2 } else { 1 });
    (even(m, row_parts, tiles.row_major.len()), columns)
}

/// Steps of k that a tile sums at once: k in equal blocks. It depends on k alone, because it fixes the order of the sums.
fn block_depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MAX_DEPTH)).next_multiple_of(16).min(MAX_DEPTH)
}

/// The packed panels of one thread; they grow to the largest task once.
pub(super) struct Buffers<T> {
    a: Vec<T>,
    b: Vec<T>,
}

impl<T: Real> Buffers<T> {
    const EMPTY: Self = Buffers { a: Vec::new(), b: Vec::new() };

    /// An A panel, and `b_len` numbers for b that start on a cache line.
    fn sized(&mut self, b_len: usize) -> (&mut [T], &mut [T]) {
        const LINE: usize = 64;
        let grown = |buffer: &mut Vec<T>, len: usize| {
            if buffer.len() < len + LINE {
                buffer.resize(len + LINE, T::ZERO);
            }
        };
        grown(&mut self.a, pack::A_PANEL);
        grown(&mut self.b, b_len);
        let (a_skip, b_skip) = (self.a.as_ptr().align_offset(LINE), self.b.as_ptr().align_offset(LINE));
        (&mut self.a[a_skip..a_skip + pack::A_PANEL], &mut self.b[b_skip..b_skip + b_len])
    }
}

/// One product: what every task reads, and where it writes.
struct Product<'a, T: 'static, B> {
    isa: Isa,
    tiles: &'static Tiles<T>,
    shape: Shape,
    a: &'a [T],
    b: &'a [B],
    c: Target<T>,
}

struct Target<T>(*mut T);
// SAFETY: tasks write disjoint rectangles through the pointer, and nobody reads c meanwhile.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T: Compute, B: Operand<T>> Product<'_, T, B> {
    /// Computes one rectangle of c.
    fn rectangle(&self, rows: Range<usize>, columns: Range<usize>, buffers: &mut Buffers<T>) {
        let Shape { k, write, .. } = self.shape;
        let width = self.tiles.columns;
        let panels = columns.len().div_ceil(width);
        let depth_max = block_depth(k);
        let (a_panel, b_panels) = buffers.sized(panels * width * depth_max.min(k));
        for start in (0..k).step_by(depth_max) {
            let depth = depth_max.min(k - start);
            let accumulate = write == Write::Accumulate || start > 0;
            let b_panels = &mut b_panels[..panels * width * depth];
            for (panel, column) in b_panels.chunks_exact_mut(width * depth).zip(columns.clone().step_by(width)) {
                self.pack_b(column, width.min(columns.end - column), start, panel);
            }
            for row in rows.clone().step_by(self.tiles.row_major.len()) {
                let height = self.tiles.row_major.len().min(rows.end - row);
                self.pack_a(row, height, start, depth, a_panel);
                for (panel, column) in b_panels.chunks_exact(width * depth).zip(columns.clone().step_by(width)) {
                    let columns = width.min(columns.end - column);
                    self.tile(row, height, column, columns, depth, a_panel, panel, accumulate);
                }
            }
        }
    }

    fn pack_a(&self, row: usize, rows: usize, start: usize, depth: usize, panel: &mut [T]) {
        let Shape { m, k, transpose_a, .. } = self.shape;
        if transpose_a {
            pack::a_k_major(Matrix { numbers: self.a, columns: m }, row, rows, start, depth, panel);
        } else {
            pack::a_row_major(Matrix { numbers: self.a, columns: k }, row, rows, start, depth, panel);
        }
    }

    fn pack_b(&self, column: usize, columns: usize, start: usize, panel: &mut [T]) {
        let Shape { n, k, transpose_b, .. } = self.shape;
        let width = self.tiles.columns;
        if transpose_b {
            B::pack_transposed(self.isa, Matrix { numbers: self.b, columns: k }, column, columns, start, width, panel);
        } else {
            pack::b_plain(Matrix { numbers: self.b, columns: n }, column, columns, start, width, panel);
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a rectangle, its depth and its operands; a structure would be used once"
    )]
    fn tile(
        &self,
        row: usize,
        rows: usize,
        column: usize,
        columns: usize,
        depth: usize,
        a: &[T],
        b: &[T],
        accumulate: bool,
    ) {
        let n = self.shape.n;
        let tiles = if self.shape.transpose_a { self.tiles.k_major } else { self.tiles.row_major };
        let tile = tiles[rows - 1];
        // SAFETY: the rectangle lies inside c and belongs to this task; the tiles are those of `isa`, which the machine has;
        // the panels were packed for `rows`, `columns` and `depth` just before.
        unsafe {
            let c = self.c.0.add(row * n + column);
            if columns == self.tiles.columns {
                tile(depth, a.as_ptr(), b.as_ptr(), c, n, accumulate);
                return;
            }
            // A tile at the right edge is computed beside c: the same sums, then the part that exists.
            let mut edge = [T::ZERO; MAX_ROWS * MAX_COLUMNS];
            tile(depth, a.as_ptr(), b.as_ptr(), edge.as_mut_ptr(), self.tiles.columns, false);
            for (i, sums) in edge.chunks_exact(self.tiles.columns).take(rows).enumerate() {
                let c = std::slice::from_raw_parts_mut(c.add(i * n), columns);
                for (c, &sum) in c.iter_mut().zip(sums) {
                    *c = if accumulate { *c + sum } else { sum };
                }
            }
        }
    }
}
