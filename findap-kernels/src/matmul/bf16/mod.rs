//! Products in bf16 on the CPU: both factors are rounded to bf16 while they are packed, sums are in f32.
//!
//! The loops are those of [`super::cpu`]: c is cut into rectangles, one task each; a task walks k in blocks, packs its columns of b
//! for each block, then a panel of rows of a after the other, and runs the tiles along it. Everything here is the same on every
//! machine but the [`Kernel`], which multiplies one panel of a by some panels of b:
//!
//! - a panel of a is `[steps][rows][16]` pairs: `steps` of 32 numbers of k, `rows` those of the kernel
//! - a panel of b is `[16 steps][32]` pairs, 32 columns: the layout that AMX and AVX-512 BF16 want
//!
//! A pair is two neighbours along k, the first in the lower half. What is missing at the edges is 0. The cut never touches the order
//! of a sum, so the bits of an element depend on its row of op(a), its column of op(b), k and the kernel alone.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use self::pack::LINE;
pub(crate) use self::pack::{Line, STEP, a_panel, b_panels};
use super::Shape;
use super::cpu::{Costs, for_each_rectangle};
use crate::check;
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::isa::Bf16Isa;
use crate::slice::{Slice, SliceMut, Write};

#[cfg(target_arch = "x86_64")]
mod amx;
mod pack;
// They run the text of the AMX kernel.
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod tests;
mod vector;

/// Columns of a panel of b.
pub(crate) const COLUMNS: usize = 32;
/// Most rows of a kernel.
const MAX_ROWS: usize = 32;

/// What a machine does with packed panels.
pub(crate) struct Kernel {
    /// Rows of a panel of a.
    pub(crate) rows: usize,
    /// Longest run of k that goes into the sums before they go to c, a multiple of [`STEP`].
    depth: usize,
    /// Multiplications in a cycle.
    rate: f64,
    /// What a thread does before the first strip and after the last, on a machine with state of its own for products. It takes longer
    /// than a small strip.
    state: Option<State>,
    /// # Safety
    /// The machine has the instructions, the thread has entered the kernel, and the strip is as its fields say.
    run: unsafe fn(&Strip),
}

#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86-64 has such machines"))]
struct State {
    /// # Safety
    /// The machine has the instructions, and the thread is in no kernel.
    configure: unsafe fn(),
    /// # Safety
    /// The thread has configured the state.
    release: unsafe fn(),
}

/// While it lives its thread may multiply with the kernel.
pub(crate) struct Entered<'a>(&'a Kernel, PhantomData<*const ()>);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(state) = &self.0.state {
            // SAFETY: `enter` configured what this releases.
            unsafe { (state.release)() }
        }
    }
}

/// One panel of a times neighbouring panels of b, added to c or replacing it.
pub(crate) struct Strip {
    pub(crate) steps: usize,
    /// `[steps][rows]`.
    pub(crate) a: *const Line,
    /// `[panels]`, each `[16 steps][2]`.
    pub(crate) b: *const Line,
    /// Lines from one panel of b to the next.
    pub(crate) b_stride: usize,
    pub(crate) panels: usize,
    /// `[rows, 32 panels]`.
    pub(crate) c: *mut f32,
    pub(crate) c_stride: usize,
    pub(crate) accumulate: bool,
}

impl Kernel {
    pub(crate) fn of(isa: Bf16Isa) -> &'static Kernel {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Amx => &amx::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx512Bf16 => &vector::avx512::PAIRS,
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx512 => &vector::avx512::WIDENED,
            #[cfg(target_arch = "x86_64")]
            Bf16Isa::Avx2 => &vector::avx2::WIDENED,
            _ => &vector::portable::WIDENED,
        }
    }

    /// Lets this thread multiply until the result is dropped.
    ///
    /// # Safety
    /// The machine has the instructions, and the thread enters no kernel meanwhile.
    pub(crate) unsafe fn enter(&self) -> Entered<'_> {
        if let Some(state) = &self.state {
            // SAFETY: the caller's promise.
            unsafe { (state.configure)() }
        }
        Entered(self, PhantomData)
    }

    /// Multiplies panels that the caller packed.
    ///
    /// # Safety
    /// As [`Kernel::run`].
    pub(crate) unsafe fn multiply(&self, strip: Strip) {
        let block = self.depth / STEP;
        for first in (0..strip.steps).step_by(block) {
            let part = Strip {
                steps: block.min(strip.steps - first),
                // SAFETY: the steps from `first` on lie inside of the panels.
                a: unsafe { strip.a.add(first * self.rows) },
                // SAFETY: as above.
                b: unsafe { strip.b.add(first * STEP) },
                accumulate: strip.accumulate || first > 0,
                ..strip
            };
            // SAFETY: the caller's promise.
            unsafe { (self.run)(&part) };
        }
    }

    /// Steps of k that go into the sums at once: k in equal blocks.
    fn block_steps(&self, k: usize) -> usize {
        k.div_ceil(k.div_ceil(self.depth)).div_ceil(STEP)
    }
}

/// Lines of a right factor packed for many products.
pub(super) fn num_lines(k: usize, n: usize) -> usize {
    n.div_ceil(COLUMNS) * k.next_multiple_of(STEP)
}

/// Packs `b` `[k, n]` in f32 or bf16, stored `[n, k]` with `is_transposed`, as `[panels][16 steps][2]`.
pub(super) fn pack(lines: &mut [Line], b: Slice<'_>, is_transposed: bool, [k, n]: [usize; 2]) {
    let panels = lines.par_chunks_exact_mut(k.next_multiple_of(STEP).max(1)).enumerate();
    panels.for_each(|(panel, lines)| {
        let columns = panel * COLUMNS..n.min((panel + 1) * COLUMNS);
        pack::b_panels(b, is_transposed, [k, n], columns, 0..k, lines);
    });
}

/// Lengths were checked; any of `a`, b and `c` may be in f32 or bf16.
pub(super) fn gemm(
    op: &'static str,
    kernel: &Kernel,
    shape: Shape,
    a: Slice<'_>,
    right: Right<'_>,
    mut c: SliceMut<'_>,
) -> Result<(), KernelError> {
    let Shape { m, n, k, .. } = shape;
    let target = match &mut c {
        SliceMut::F32(c) => Target::F32(c.as_mut_ptr()),
        SliceMut::Bf16(c) => Target::Bf16(c.as_mut_ptr()),
        SliceMut::F64(_) => return Err(check::unsupported(op, [("a", a.dtype()), ("c", Dtype::F64)])),
    };
    let b_dtype = if let Right::Stored(b) = right { b.dtype() } else { Dtype::Bf16 };
    if [a.dtype(), b_dtype].contains(&Dtype::F64) {
        return Err(check::unsupported(op, [("a", a.dtype()), ("b", b_dtype), ("c", c.dtype())]));
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        if shape.write == Write::Overwrite {
            crate::reduce::fill(c, 0.0);
        }
        return Ok(());
    }
    let product = Product { kernel, shape, a, b: right, c: target };
    let costs =
        Costs { multiplications: 1.0 / kernel.rate, a: 2.0, b: if let Right::Packed(_) = right { 0.5 } else { 2.0 } };
    for_each_rectangle(shape, (kernel.rows, COLUMNS), costs, |rows, columns| {
        thread_local!(static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers::EMPTY) });
        // SAFETY: whoever chose the kernel found its instructions; a task enters none besides.
        let _entered = unsafe { kernel.enter() };
        BUFFERS.with_borrow_mut(|buffers| product.rectangle(rows, columns, buffers));
    });
    Ok(())
}

/// The packed panels of one thread, and sums on their way to c; they grow to the largest task once.
struct Buffers {
    a: Vec<Line>,
    b: Vec<Line>,
    /// A panel of rows that c does not have in whole.
    edge: Vec<f32>,
    /// The rectangle of a c in bf16.
    sums: Vec<f32>,
}

impl Buffers {
    const EMPTY: Buffers = Buffers { a: Vec::new(), b: Vec::new(), edge: Vec::new(), sums: Vec::new() };
}

fn grown<T: Copy>(buffer: &mut Vec<T>, len: usize, zero: T) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    &mut buffer[..len]
}

/// One product: what every task reads, and where it writes.
struct Product<'a> {
    kernel: &'a Kernel,
    shape: Shape,
    a: Slice<'a>,
    b: Right<'a>,
    c: Target,
}

#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Stored(Slice<'a>),
    Packed(&'a [Line]),
}

#[derive(Clone, Copy)]
enum Target {
    F32(*mut f32),
    Bf16(*mut bf16),
}
// SAFETY: tasks write disjoint rectangles through the pointers, and nobody reads c meanwhile.
unsafe impl Sync for Target {}

/// A rectangle of f32 sums in memory: c itself or a buffer.
#[derive(Clone, Copy)]
struct Sums {
    first: *mut f32,
    stride: usize,
}

impl Product<'_> {
    /// Computes one rectangle of c.
    fn rectangle(&self, rows: Range<usize>, columns: Range<usize>, buffers: &mut Buffers) {
        let Shape { n, write, .. } = self.shape;
        let Buffers { a, b, edge, sums } = buffers;
        match self.c {
            Target::F32(c) => {
                // SAFETY: the rectangle lies inside c.
                let first = unsafe { c.add(rows.start * n + columns.start) };
                self.sum(rows, columns, Sums { first, stride: n }, (a, b, edge));
            }
            Target::Bf16(c) => {
                let sums = grown(sums, rows.len() * columns.len(), 0.0);
                // SAFETY: the rectangle lies inside c, and is this task's alone.
                let row_of_c =
                    |row| unsafe { std::slice::from_raw_parts_mut(c.add(row * n + columns.start), columns.len()) };
                if write == Write::Accumulate {
                    for (row, sums) in rows.clone().zip(sums.chunks_exact_mut(columns.len())) {
                        sums.iter_mut().zip(row_of_c(row)).for_each(|(sum, c)| *sum = c.to_f32());
                    }
                }
                let target = Sums { first: sums.as_mut_ptr(), stride: columns.len() };
                self.sum(rows.clone(), columns.clone(), target, (a, b, edge));
                for (row, sums) in rows.zip(sums.chunks_exact(columns.len())) {
                    row_of_c(row).iter_mut().zip(sums).for_each(|(c, &sum)| *c = bf16::from_f32(sum));
                }
            }
        }
    }

    fn sum(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        c: Sums,
        (a, b, edge): (&mut Vec<Line>, &mut Vec<Line>, &mut Vec<f32>),
    ) {
        let Shape { m, n, k, transpose_a, transpose_b, write } = self.shape;
        let height = self.kernel.rows;
        let panels = columns.len().div_ceil(COLUMNS);
        let block_steps = self.kernel.block_steps(k);
        let edge = grown(edge, MAX_ROWS * panels * COLUMNS, 0.0);
        for start in (0..k).step_by(block_steps * STEP) {
            let block = start..k.min(start + block_steps * STEP);
            let steps = block.len().div_ceil(STEP);
            let accumulate = write == Write::Accumulate || start > 0;
            let (b, b_stride) = match self.b {
                Right::Packed(lines) => {
                    let stride = k.next_multiple_of(STEP);
                    (&lines[columns.start / COLUMNS * stride + start..], stride)
                }
                Right::Stored(stored) => {
                    let stride = steps * STEP;
                    let lines = grown(b, panels * stride, Line::ZERO);
                    pack::b_panels(stored, transpose_b, [k, n], columns.clone(), block.clone(), lines);
                    (&*lines, stride)
                }
            };
            let a = grown(a, steps * height, Line::ZERO);
            for row in rows.clone().step_by(height) {
                let panel_rows = row..rows.end.min(row + height);
                let count = panel_rows.len();
                pack::a_panel(self.a, transpose_a, [m, k], panel_rows, block.clone(), height, a);
                // SAFETY: `row` is one of the rectangle.
                let first = unsafe { c.first.add((row - rows.start) * c.stride) };
                let c = Sums { first, stride: c.stride };
                let whole = if count == height { columns.len() / COLUMNS } else { 0 };
                let strip = Strip {
                    steps,
                    a: a.as_ptr(),
                    b: b.as_ptr(),
                    b_stride,
                    panels: whole,
                    c: c.first,
                    c_stride: c.stride,
                    accumulate,
                };
                // SAFETY: whoever chose the kernel found its instructions; the panels were packed for these steps and rows, and
                // `whole` panels of columns lie inside the rectangle.
                unsafe { (self.kernel.run)(&strip) };
                let done = whole * COLUMNS;
                if done < columns.len() {
                    let part = Strip { b: b[whole * b_stride..].as_ptr(), panels: panels - whole, ..strip };
                    // SAFETY: the columns behind `done` are inside the rectangle.
                    let c = Sums { first: unsafe { c.first.add(done) }, ..c };
                    self.run_beside(part, c, (count, columns.len() - done), edge);
                }
            }
        }
    }

    /// Runs a strip of which c has only some rows and columns: with the same operations, in a buffer.
    fn run_beside(&self, strip: Strip, c: Sums, (rows, columns): (usize, usize), edge: &mut [f32]) {
        let width = strip.panels * COLUMNS;
        // SAFETY: rows and columns are those that c has.
        let row_of_c = |row| unsafe { std::slice::from_raw_parts_mut(c.first.add(row * c.stride), columns) };
        if strip.accumulate {
            for (row, sums) in edge.chunks_exact_mut(width).take(rows).enumerate() {
                sums[..columns].copy_from_slice(row_of_c(row));
            }
        }
        // SAFETY: as for the strip; the buffer has MAX_ROWS rows of all its panels.
        unsafe { (self.kernel.run)(&Strip { c: edge.as_mut_ptr(), c_stride: width, ..strip }) };
        for (row, sums) in edge.chunks_exact(width).take(rows).enumerate() {
            row_of_c(row).copy_from_slice(&sums[..columns]);
        }
    }
}

const _: () = assert!(LINE * 2 == STEP && STEP == 32);
