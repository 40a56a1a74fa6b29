//! Products on the CPU: blocked for the caches as in Goto & van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), with the tiles of [`tile`].
//!
//! c is cut into rectangles, one task each. A task walks k in blocks of [`block_depth`]; for each it packs its columns of b
//! (which then stay in the L2 cache), and for every panel of rows packs a (which stays in the L1 cache) and runs the tiles
//! along the row. The cut never touches the order of a sum: block by block of k, each from zero in order of p, each added
//! to c in turn. So the bits of an element depend on its row of op(a), its column of op(b) and k alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use self::pack::{Matrix, Widen};
use self::tile::{Ahead, MAX_COLUMNS, MAX_DEPTH, MAX_ROWS, Tiles};
use super::Shape;
use crate::aligned::{Aligned, line_len};
use crate::dtype::{Element, Real};
use crate::isa::Isa;
use crate::slice::Write;

mod pack;
mod tile;

pub(super) use self::tile::{FIRST, prefetch};

/// Panels of a transposed a that are packed together, so that each of its rows is read in longer runs.
const GROUP_PANELS: usize = 4;
/// Columns of one task: with `MAX_DEPTH` steps of k, 576 KiB of f32 packed from b in an L2 cache of 1 MiB.
const TASK_COLUMNS: usize = 384;
/// Most tasks of a thread.
const THREAD_TASKS: usize = 4;
/// How far apart threads end, in parts of a task: what speaks for small ones.
const UNEVENNESS: f64 = 0.125;
/// Multiplications below which waking another thread costs more than it saves.
const SERIAL_LIMIT: usize = 1 << 19;

/// A format that products are computed in: its tiles, its packing of a transposed a, and its buffers.
pub(super) trait Compute: Real {
    fn tiles(isa: Isa) -> &'static Tiles<Self>;
    /// See [`pack::a_k_major`].
    fn pack_k_major(
        isa: Isa,
        a: Matrix<'_, Self>,
        rows: Range<usize>,
        height: usize,
        steps: Range<usize>,
        to: &mut [Self],
    );
    /// The calling thread's packing buffers.
    fn with_buffers<R>(use_them: impl FnOnce(&mut Buffers<Self>) -> R) -> R;
}

/// A storage format of b beside the compute format `T`.
pub(super) trait Operand<T: Real>: Element {
    /// See [`pack::b_plain`].
    fn pack_plain(
        isa: Isa,
        b: Matrix<'_, Self>,
        columns: Range<usize>,
        steps: Range<usize>,
        width: usize,
        to: &mut [T],
    );
    /// See [`pack::b_transposed`].
    fn pack_transposed(isa: Isa, b: Matrix<'_, Self>, columns: Range<usize>, start: usize, width: usize, to: &mut [T]);
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
    fn pack_k_major(
        isa: Isa,
        a: Matrix<'_, f32>,
        rows: Range<usize>,
        height: usize,
        steps: Range<usize>,
        to: &mut [f32],
    ) {
        pack::a_k_major_f32(isa, a, rows, height, steps, to);
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
    fn pack_k_major(
        _: Isa,
        a: Matrix<'_, f64>,
        rows: Range<usize>,
        height: usize,
        steps: Range<usize>,
        to: &mut [f64],
    ) {
        pack::a_k_major(a, rows, height, steps, to);
    }
    fn with_buffers<R>(use_them: impl FnOnce(&mut Buffers<f64>) -> R) -> R {
        thread_local!(static BUFFERS: RefCell<Buffers<f64>> = const { RefCell::new(Buffers::EMPTY) });
        BUFFERS.with_borrow_mut(use_them)
    }
}

impl<B: Widen> Operand<f32> for B {
    fn pack_plain(
        isa: Isa,
        b: Matrix<'_, B>,
        columns: Range<usize>,
        steps: Range<usize>,
        width: usize,
        to: &mut [f32],
    ) {
        pack::b_plain_f32(isa, b, columns, steps, width, to);
    }
    fn pack_transposed(isa: Isa, b: Matrix<'_, B>, columns: Range<usize>, start: usize, width: usize, to: &mut [f32]) {
        pack::b_transposed_f32(isa, b, columns, start, width, to);
    }
}

impl Operand<f64> for f64 {
    fn pack_plain(
        _: Isa,
        b: Matrix<'_, f64>,
        columns: Range<usize>,
        steps: Range<usize>,
        width: usize,
        to: &mut [f64],
    ) {
        pack::b_plain(b, columns, steps, width, to);
    }
    fn pack_transposed(_: Isa, b: Matrix<'_, f64>, columns: Range<usize>, start: usize, width: usize, to: &mut [f64]) {
        pack::b_transposed(b, columns, start, width, to);
    }
}

/// The right factor of products in f32, packed once for many of them.
#[derive(Debug)]
pub(super) struct Panels {
    isa: Isa,
    /// By block of k `[panels][depth][columns]`, the columns those of a tile, with zeros after the last.
    pub(super) numbers: Aligned<f32>,
}

impl Panels {
    /// Room for `[k, n]` numbers, all 0, for the tiles of `isa`, which the machine must have.
    pub(super) fn zeros(isa: Isa, k: usize, n: usize) -> Panels {
        Panels { isa, numbers: Aligned::zeros(Panels::len_of(isa, k, n)) }
    }

    pub(super) fn len_of(isa: Isa, k: usize, n: usize) -> usize {
        k * n.next_multiple_of(f32::tiles(isa).columns)
    }

    /// Takes the numbers of `b`: stored `[k, n]`, or `[n, k]` with `is_transposed`.
    pub(super) fn pack<B: Operand<f32>>(&mut self, b: &[B], is_transposed: bool, [k, n]: [usize; 2]) {
        let (isa, width) = (self.isa, f32::tiles(self.isa).columns);
        let depth = block_depth(k.max(1));
        let blocks = self.numbers.chunks_mut((depth * n.next_multiple_of(width)).max(1));
        for (start, block) in (0..k).step_by(depth).zip(blocks) {
            let steps = start..k.min(start + depth);
            block.par_chunks_exact_mut(width * steps.len()).enumerate().for_each(|(panel, to)| {
                let columns = panel * width..n.min((panel + 1) * width);
                if is_transposed {
                    B::pack_transposed(isa, Matrix { numbers: b, columns: k }, columns, start, width, to);
                } else {
                    B::pack_plain(isa, Matrix { numbers: b, columns: n }, columns, steps.clone(), width, to);
                }
            });
        }
    }
}

/// The right factor of a product.
enum Right<'a, T, B> {
    Stored(&'a [B]),
    /// As in [`Panels`].
    Packed(&'a [T]),
}

/// c (+)= op(a) op(b) with the instructions of `isa`, which the machine must have.
pub(super) fn gemm<T: Compute, B: Operand<T>>(isa: Isa, shape: Shape, a: &[T], b: &[B], c: &mut [T]) {
    run(isa, shape, a, Right::Stored(b), c);
}

/// [`gemm`] to the same bits with b packed before.
pub(super) fn gemm_packed(shape: Shape, a: &[f32], b: &Panels, c: &mut [f32]) {
    run::<f32, f32>(b.isa, shape, a, Right::Packed(&b.numbers), c);
}

fn run<T: Compute, B: Operand<T>>(isa: Isa, shape: Shape, a: &[T], b: Right<'_, T, B>, c: &mut [T]) {
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
    let product = Product { isa, tiles, shape, a, b: &b, c: Target(c.as_mut_ptr()) };
    let costs = Costs {
        multiplications: 1.0 / 32.0,
        a: if shape.transpose_a { 2.0 } else { 1.0 },
        // a packed b is read from memory all the same
        b: if let Right::Packed(_) = b { 0.5 } else { 2.0 },
    };
    for_each_rectangle(shape, (tiles.row_major.len(), tiles.columns), costs, |rows, columns| {
        T::with_buffers(|buffers| product.rectangle(rows, columns, buffers));
    });
}

/// What a product costs, in cycles, measured: for a multiplication, and for each number of a and of b that is packed.
pub(super) struct Costs {
    pub(super) multiplications: f64,
    pub(super) a: f64,
    pub(super) b: f64,
}

/// Cuts c into rectangles of whole tiles and runs `task` for each, with its rows and columns, on all threads if it is worth it.
pub(super) fn for_each_rectangle(
    shape: Shape,
    tile: (usize, usize),
    costs: Costs,
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let Shape { m, n, k, .. } = shape;
    let threads = if m * n * k <= SERIAL_LIMIT { 1 } else { rayon::current_num_threads() };
    let (row_step, column_step) = task_size(shape, threads, tile, costs);
    let (row_tasks, column_tasks) = (m.div_ceil(row_step), n.div_ceil(column_step));
    let task = |index: usize| {
        let (row, column) = (index / column_tasks * row_step, index % column_tasks * column_step);
        task(row..m.min(row + row_step), column..n.min(column + column_step));
    };
    let tasks = row_tasks * column_tasks;
    if tasks.min(threads) == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Rows and columns of one task's rectangle of c: whole tiles, all tasks of nearly the same size. How many there are depends on the
/// threads; no bit of the product does.
///
/// A task packs its rows of a and its columns of b, so cutting the rows packs b again and cutting the columns packs a again; few
/// tasks leave threads without work at the end. Of all cuts this takes the one that should be done first.
fn task_size(shape: Shape, threads: usize, tile: (usize, usize), costs: Costs) -> (usize, usize) {
    let Shape { m, n, .. } = shape;
    let part = |extent: usize, parts: usize, unit: usize| extent.div_ceil(unit).div_ceil(parts) * unit;
    let fewest_columns = n.div_ceil(TASK_COLUMNS);
    let cuts = (1..=THREAD_TASKS).flat_map(|of_thread| {
        let tasks = of_thread * threads;
        (1..=tasks).filter(move |parts| tasks.is_multiple_of(*parts)).map(move |parts| (parts, tasks / parts))
    });
    let sizes = cuts.map(|(row_parts, column_parts)| {
        (part(m, row_parts, tile.0), part(n, column_parts.max(fewest_columns), tile.1))
    });
    let cycles = |&(rows, columns): &(usize, usize)| {
        let tasks = m.div_ceil(rows) * n.div_ceil(columns);
        let (rows, columns) = (rows as f64, columns as f64);
        let task = rows * columns * costs.multiplications + rows * costs.a + columns * costs.b;
        task * (tasks.div_ceil(threads) as f64 + UNEVENNESS)
    };
    sizes.min_by(|x, y| cycles(x).total_cmp(&cycles(y))).expect("there is at least one cut")
}

/// Steps of k that a tile sums at once: k in equal blocks. It depends on k alone, because it fixes the order of the sums.
fn block_depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MAX_DEPTH)).next_multiple_of(16).min(MAX_DEPTH)
}

/// The packed panels of one thread; they grow to the largest task once.
pub(super) struct Buffers<T> {
    a: Aligned<T>,
    b: Aligned<T>,
}

impl<T: Real> Buffers<T> {
    const EMPTY: Self = Buffers { a: Aligned::EMPTY, b: Aligned::EMPTY };

    /// [`GROUP_PANELS`] panels of a, and `b_len` numbers for b.
    fn sized(&mut self, b_len: usize) -> (&mut [T], &mut [T]) {
        (self.a.at_least(GROUP_PANELS * pack::A_PANEL), self.b.at_least(b_len))
    }
}

/// One product: what every task reads, and where it writes.
struct Product<'a, T: 'static, B> {
    isa: Isa,
    tiles: &'static Tiles<T>,
    shape: Shape,
    a: &'a [T],
    b: &'a Right<'a, T, B>,
    c: Target<T>,
}

struct Target<T>(*mut T);
// SAFETY: tasks write disjoint rectangles through the pointer, and nobody reads c meanwhile.
unsafe impl<T: Send> Sync for Target<T> {}

impl<T: Compute, B: Operand<T>> Product<'_, T, B> {
    /// Computes one rectangle of c.
    fn rectangle(&self, rows: Range<usize>, columns: Range<usize>, buffers: &mut Buffers<T>) {
        let Shape { n, k, write, .. } = self.shape;
        let (height, width) = (self.tiles.row_major.len(), self.tiles.columns);
        let panels = columns.len().div_ceil(width);
        let group_panels = if self.shape.transpose_a { GROUP_PANELS } else { 1 };
        let depth_max = block_depth(k);
        let buffered = if let Right::Stored(_) = self.b { panels * width * depth_max.min(k) } else { 0 };
        let (a_panels, buffer) = buffers.sized(buffered);
        for start in (0..k).step_by(depth_max) {
            let depth = depth_max.min(k - start);
            let accumulate = write == Write::Accumulate || start > 0;
            let b_panels = match *self.b {
                Right::Packed(packed) => {
                    &packed[start * n.next_multiple_of(width) + columns.start * depth..][..panels * width * depth]
                }
                Right::Stored(b) => {
                    let to = &mut buffer[..panels * width * depth];
                    self.pack_b(b, columns.clone(), start..start + depth, to);
                    &*to
                }
            };
            for group in rows.clone().step_by(height * group_panels) {
                let group = group..rows.end.min(group + height * group_panels);
                let next = group.end..rows.end.min(group.end + height * group_panels);
                let tiles = group.len().div_ceil(height) * panels;
                let mut tile = 0;
                self.pack_a(group.clone(), start..start + depth, a_panels);
                for (a_panel, row) in a_panels.chunks_exact(pack::A_PANEL).zip(group.clone().step_by(height)) {
                    let rows = height.min(group.end - row);
                    for (b_panel, column) in b_panels.chunks_exact(width * depth).zip(columns.clone().step_by(width)) {
                        let columns = width.min(columns.end - column);
                        let ahead = self.ahead(next.clone(), start..start + depth, tile, tiles);
                        tile += 1;
                        self.tile(row, rows, column, columns, depth, a_panel, b_panel, accumulate, ahead);
                    }
                }
            }
        }
    }

    /// The part of the next rows of a to be packed that one of the tiles before fetches.
    #[inline(always)]
    fn ahead(&self, rows: Range<usize>, steps: Range<usize>, tile: usize, tiles: usize) -> Ahead<T> {
        let Shape { m, k, transpose_a, .. } = self.shape;
        let place = |at: usize| self.a.as_ptr().wrapping_add(at);
        if rows.is_empty() {
            return Ahead { start: self.a.as_ptr(), stride: 0, row_len: 0 };
        }
        if transpose_a {
            let step = steps.start + tile * steps.len().div_ceil(tiles);
            Ahead { start: place(step * m + rows.start), stride: m, row_len: rows.len() + line_len::<T>() - 1 }
        } else {
            let row_len = steps.len().div_ceil(tiles).next_multiple_of(line_len::<T>());
            Ahead { start: place(rows.start * k + steps.start + tile * row_len), stride: k, row_len }
        }
    }

    fn pack_a(&self, rows: Range<usize>, steps: Range<usize>, panels: &mut [T]) {
        let Shape { m, k, transpose_a, .. } = self.shape;
        let height = self.tiles.row_major.len();
        if transpose_a {
            T::pack_k_major(self.isa, Matrix { numbers: self.a, columns: m }, rows, height, steps, panels);
        } else {
            let a = Matrix { numbers: self.a, columns: k };
            for (panel, row) in panels.chunks_exact_mut(pack::A_PANEL).zip(rows.clone().step_by(height)) {
                pack::a_row_major(a, row..rows.end.min(row + height), steps.clone(), panel);
            }
        }
    }

    fn pack_b(&self, b: &[B], columns: Range<usize>, steps: Range<usize>, panels: &mut [T]) {
        let Shape { n, k, transpose_b, .. } = self.shape;
        let width = self.tiles.columns;
        if transpose_b {
            let b = Matrix { numbers: b, columns: k };
            for (panel, column) in panels.chunks_exact_mut(width * steps.len()).zip(columns.clone().step_by(width)) {
                B::pack_transposed(self.isa, b, column..columns.end.min(column + width), steps.start, width, panel);
            }
        } else {
            B::pack_plain(self.isa, Matrix { numbers: b, columns: n }, columns, steps, width, panels);
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
        ahead: Ahead<T>,
    ) {
        let n = self.shape.n;
        let tiles = if self.shape.transpose_a { self.tiles.k_major } else { self.tiles.row_major };
        let tile = tiles[rows - 1];
        // SAFETY: the rectangle lies inside c and belongs to this task; the tiles are those of `isa`, which the machine has;
        // the panels were packed for `rows`, `columns` and `depth` just before.
        unsafe {
            let c = self.c.0.add(row * n + column);
            if columns == self.tiles.columns {
                tile(depth, a.as_ptr(), b.as_ptr(), c, n, accumulate, ahead);
                return;
            }
            // A tile at the right edge is computed beside c: the same sums, then the part that exists.
            let mut edge = [T::ZERO; MAX_ROWS * MAX_COLUMNS];
            tile(depth, a.as_ptr(), b.as_ptr(), edge.as_mut_ptr(), self.tiles.columns, false, ahead);
            for (i, sums) in edge.chunks_exact(self.tiles.columns).take(rows).enumerate() {
                let c = std::slice::from_raw_parts_mut(c.add(i * n), columns);
                for (c, &sum) in c.iter_mut().zip(sums) {
                    *c = if accumulate { *c + sum } else { sum };
                }
            }
        }
    }
}
