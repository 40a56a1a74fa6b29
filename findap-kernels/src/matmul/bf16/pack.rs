//! Copies of panels of the factors, rounded to bf16, in the order in which kernels read them.

use std::ops::Range;

use half::bf16;

use super::COLUMNS;
use crate::dtype::bf16_bits;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Compiled, Lanes, Portable};
use crate::slice::Slice;

/// Pairs of a line.
pub(super) const LINE: usize = 16;
/// Numbers of k in a step: a line of pairs of one row.
pub(crate) const STEP: usize = 32;

/// Sixteen pairs of bf16, one cache line; the first of a pair is in the lower half.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(super) [u32; LINE]);

impl Line {
    pub(in crate::matmul) const ZERO: Line = Line([0; LINE]);

    /// f32 numbers that fill a line.
    pub(crate) const F32_LEN: usize = LINE;

    /// Whole lines of memory that begins at a line.
    pub(crate) fn of(numbers: &mut [f32]) -> &mut [Line] {
        let first = numbers.as_mut_ptr().cast::<Line>();
        assert!(first.is_aligned(), "invariant: working memory begins at a line");
        // SAFETY: no more bytes, aligned as just seen; any bits are a line.
        unsafe { std::slice::from_raw_parts_mut(first, numbers.len() / Line::F32_LEN) }
    }

    /// The memory of lines as f32 numbers.
    pub(crate) fn as_f32(lines: &mut [Line]) -> &mut [f32] {
        // SAFETY: as many bytes, of a format that needs less alignment; any bits are numbers.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * Line::F32_LEN) }
    }

    /// The numbers in their order.
    #[inline(always)]
    fn numbers(&mut self) -> &mut [u16; STEP] {
        const { assert!(cfg!(target_endian = "little"), "the first number of a pair is in its lower half") };
        // SAFETY: as many bytes, of a format that needs less alignment and in which every pattern is valid.
        unsafe { &mut *(&raw mut self.0).cast() }
    }
}

/// A storage format of a factor.
trait Source: Copy + Default {
    /// The bits of the nearest bf16.
    fn bits(self) -> u16;
}

impl Source for f32 {
    #[inline(always)]
    fn bits(self) -> u16 {
        bf16_bits(self)
    }
}

impl Source for bf16 {
    #[inline(always)]
    fn bits(self) -> u16 {
        self.to_bits()
    }
}

/// A stored matrix and the number of its columns.
#[derive(Clone, Copy)]
struct Matrix<'a, E> {
    numbers: &'a [E],
    columns: usize,
}

/// Packs `rows` and `block` of op(a), stored `[m, k]` or `[k, m]`, as `[steps][height]` lines. Lines of rows behind the last may hold
/// anything.
pub(crate) fn a_panel(
    a: Slice<'_>,
    is_transposed: bool,
    [m, k]: [usize; 2],
    rows: Range<usize>,
    block: Range<usize>,
    height: usize,
    panel: &mut [Line],
) {
    let columns = if is_transposed { m } else { k };
    let call = Call { is_transposed, lines: rows, block };
    match a {
        Slice::F32(numbers) => call.enter(Matrix { numbers, columns }, Side::Left { height }, panel),
        Slice::Bf16(numbers) => call.enter(Matrix { numbers, columns }, Side::Left { height }, panel),
        Slice::F64(_) => unreachable!("products in bf16 of f64 are refused"),
    }
}

/// Packs `columns` and `block` of op(b), stored `[k, n]` or `[n, k]`, as panels of 32 columns, each `[16 steps][2]` lines.
pub(crate) fn b_panels(
    b: Slice<'_>,
    is_transposed: bool,
    [k, n]: [usize; 2],
    columns: Range<usize>,
    block: Range<usize>,
    panels: &mut [Line],
) {
    let stored_columns = if is_transposed { k } else { n };
    let call = Call { is_transposed, lines: columns, block };
    match b {
        Slice::F32(numbers) => call.enter(Matrix { numbers, columns: stored_columns }, Side::Right, panels),
        Slice::Bf16(numbers) => call.enter(Matrix { numbers, columns: stored_columns }, Side::Right, panels),
        Slice::F64(_) => unreachable!("products in bf16 of f64 are refused"),
    }
}

/// What is packed: lines (rows of op(a), columns of op(b)) over a block of k.
struct Call {
    is_transposed: bool,
    lines: Range<usize>,
    block: Range<usize>,
}

#[derive(Clone, Copy)]
enum Side {
    Left { height: usize },
    Right,
}

impl Call {
    /// [`Call::pack`] with the instructions in use; they copy and round, and so do not change a bit.
    fn enter<E: Source>(&self, x: Matrix<'_, E>, side: Side, panels: &mut [Line]) {
        match Isa::current() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => self.pack_with::<Avx512, E>(x, side, panels),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => self.pack_with::<Avx2, E>(x, side, panels),
            _ => self.pack_with::<Portable, E>(x, side, panels),
        }
    }

    fn pack_with<L: Compiled, E: Source>(&self, x: Matrix<'_, E>, side: Side, panels: &mut [Line]) {
        L::enter(
            #[inline(always)]
            || self.pack::<L, E>(x, side, panels),
        );
    }

    #[inline(always)]
    fn pack<L: Lanes, E: Source>(&self, x: Matrix<'_, E>, side: Side, panels: &mut [Line]) {
        let steps = self.block.len().div_ceil(STEP);
        let numbers = |step: usize| {
            let start = self.block.start + step * STEP;
            start..self.block.end.min(start + STEP)
        };
        match side {
            Side::Left { height } => {
                for (step, panel) in panels.chunks_exact_mut(height).take(steps).enumerate() {
                    for (packed, first) in panel.chunks_mut(LINE).zip((self.lines.start..).step_by(LINE)) {
                        if self.is_transposed {
                            let mut pairs = [Line::ZERO; LINE];
                            // also those rows of the next panel that share a line: the copy is faster in whole
                            across(x, numbers(step), first.min(x.columns)..x.columns.min(first + LINE), &mut pairs, 1);
                            transpose::<L>(&pairs, packed, 1);
                        } else {
                            along(x, first..self.lines.end.min(first + LINE), numbers(step), packed);
                        }
                    }
                }
            }
            Side::Right => {
                let count = self.lines.len().div_ceil(COLUMNS);
                // along the stored rows
                let (outer, inner) = if self.is_transposed { (count, steps) } else { (steps, count) };
                for first in 0..outer {
                    for second in 0..inner {
                        let (panel, step) = if self.is_transposed { (first, second) } else { (second, first) };
                        let packed = &mut panels[(panel * steps + step) * STEP..];
                        let column = self.lines.start + panel * COLUMNS;
                        self.pack_right::<L, E>(x, column, numbers(step), packed);
                    }
                }
            }
        }
    }

    /// One step of the panel that begins with `column`.
    #[inline(always)]
    fn pack_right<L: Lanes, E: Source>(
        &self,
        x: Matrix<'_, E>,
        column: usize,
        numbers: Range<usize>,
        packed: &mut [Line],
    ) {
        // the two halves of 32 columns take turns
        for half in 0..COLUMNS / LINE {
            let first = self.lines.end.min(column + half * LINE);
            let columns = first..self.lines.end.min(first + LINE);
            let packed = &mut packed[half..];
            if self.is_transposed {
                let mut lines = [Line::ZERO; LINE];
                along(x, columns, numbers.clone(), &mut lines);
                transpose::<L>(&lines, packed, 2);
            } else {
                across(x, numbers.clone(), columns, packed, 2);
            }
        }
    }
}

/// Lines of pairs that are neighbours in a stored row.
#[inline(always)]
fn along<E: Source>(x: Matrix<'_, E>, rows: Range<usize>, columns: Range<usize>, out: &mut [Line]) {
    for (out, row) in out.iter_mut().zip(rows) {
        let stored = &x.numbers[row * x.columns..][columns.clone()];
        let out = out.numbers();
        if let Some(stored) = stored.as_array::<STEP>() {
            for i in 0..STEP {
                out[i] = stored[i].bits();
            }
        } else {
            out.fill(0);
            out.iter_mut().zip(stored).for_each(|(out, x)| *out = x.bits());
        }
    }
}

/// Sixteen lines of pairs from two stored rows each, `stride` lines apart.
#[inline(always)]
fn across<E: Source>(x: Matrix<'_, E>, rows: Range<usize>, columns: Range<usize>, out: &mut [Line], stride: usize) {
    for (out, row) in out.iter_mut().step_by(stride).zip((rows.start..rows.start + STEP).step_by(2)) {
        let stored = |row: usize| &x.numbers[row * x.columns..][columns.clone()];
        if row + 1 < rows.end && columns.len() == LINE {
            let (upper, lower) = (stored(row), stored(row + 1));
            for i in 0..LINE {
                out.0[i] = pair(upper[i], lower[i]);
            }
            continue;
        }
        *out = Line::ZERO;
        for (shift, row) in [(0, row), (16, row + 1)] {
            if row < rows.end {
                out.0.iter_mut().zip(stored(row)).for_each(|(out, x)| *out |= u32::from(x.bits()) << shift);
            }
        }
    }
}

#[inline(always)]
fn pair<E: Source>(first: E, second: E) -> u32 {
    u32::from(first.bits()) | (u32::from(second.bits()) << 16)
}

/// The lines with rows and columns exchanged, as many as `out` takes, `stride` lines apart.
#[inline(always)]
fn transpose<L: Lanes>(lines: &[Line; LINE], out: &mut [Line], stride: usize) {
    // SAFETY: whoever chose `L` found its instructions; a line is sixteen numbers, which are moved and not looked at.
    unsafe {
        let mut rows = [L::splat(0.0); LINE];
        for i in 0..LINE {
            rows[i] = L::load(lines[i].0.as_ptr().cast());
        }
        L::transpose(&mut rows);
        for (out, row) in out.iter_mut().step_by(stride).zip(rows) {
            row.store(out.0.as_mut_ptr().cast());
        }
    }
}
