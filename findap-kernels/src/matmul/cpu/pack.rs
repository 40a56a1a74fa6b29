//! Copies of panels of the operands, in the order in which tiles read them.

use std::ops::Range;

use half::bf16;

use super::tile::{MAX_DEPTH, MAX_ROWS, ROW_STRIDE, STEP_STRIDE};
use crate::dtype::{Element, Real};
use crate::isa::Isa;

/// Numbers in a panel of a, in either layout.
pub(super) const A_PANEL: usize = {
    let (row_major, k_major) = (MAX_ROWS * ROW_STRIDE, MAX_DEPTH * STEP_STRIDE);
    if row_major > k_major { row_major } else { k_major }
};

/// A stored matrix and the number of its columns.
#[derive(Clone, Copy)]
pub(in crate::matmul) struct Matrix<'a, E> {
    pub(super) numbers: &'a [E],
    pub(super) columns: usize,
}

/// Packs `rows` and `steps` of a stored `[m, k]` as `[rows][ROW_STRIDE]`.
pub(super) fn a_row_major<T: Real>(a: Matrix<'_, T>, rows: Range<usize>, steps: Range<usize>, panel: &mut [T]) {
    for (i, packed) in panel.chunks_exact_mut(ROW_STRIDE).take(rows.len()).enumerate() {
        let stored = &a.numbers[(rows.start + i) * a.columns..][steps.clone()];
        packed[..steps.len()].copy_from_slice(stored);
    }
}

/// Packs `rows` and `steps` of op(a), stored `[k, m]`, as panels of `height` rows, each
/// `[depth][STEP_STRIDE]` and `A_PANEL` after the one before. Each stored row is read once for all panels.
pub(super) fn a_k_major<T: Real>(
    a: Matrix<'_, T>,
    rows: Range<usize>,
    height: usize,
    steps: Range<usize>,
    panels: &mut [T],
) {
    for (p, step) in steps.enumerate() {
        let stored = &a.numbers[step * a.columns..][rows.clone()];
        for (panel, stored) in stored.chunks(height).enumerate() {
            let to = panel * A_PANEL + p * STEP_STRIDE;
            panels[to..to + stored.len()].copy_from_slice(stored);
        }
    }
}

/// [`a_k_major`] of f32 with the instructions of `isa`.
pub(super) fn a_k_major_f32(
    isa: Isa,
    a: Matrix<'_, f32>,
    rows: Range<usize>,
    height: usize,
    steps: Range<usize>,
    panels: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 {
        assert!(height <= STEP_STRIDE && rows.len().div_ceil(height) * A_PANEL <= panels.len());
        assert!(steps.len() <= MAX_DEPTH && rows.end <= a.columns && steps.end * a.columns <= a.numbers.len());
        // SAFETY: `isa` says that the machine has AVX-512, and the assertions that all reads and writes are inside.
        return unsafe { avx512::a_k_major(a, rows, height, steps, panels) };
    }
    let _ = isa;
    a_k_major(a, rows, height, steps, panels);
}

/// Packs `columns` and `steps` of a stored `[k, n]` as panels of `width` columns,
/// each `[depth][width]`, with zeros after the last column. Each stored row is read once for all panels.
pub(super) fn b_plain<E: Element, T: Real>(
    b: Matrix<'_, E>,
    columns: Range<usize>,
    steps: Range<usize>,
    width: usize,
    panels: &mut [T],
) {
    let depth = steps.len();
    for (p, step) in steps.enumerate() {
        let stored = &b.numbers[step * b.columns..][columns.clone()];
        for (panel, stored) in stored.chunks(width).enumerate() {
            let to = (panel * depth + p) * width;
            let packed = &mut panels[to..to + width];
            packed.iter_mut().zip(stored).for_each(|(x, y)| *x = y.load());
            packed[stored.len()..].fill(T::ZERO);
        }
    }
}

/// [`b_plain`] of f32 or bf16 into f32, with the instructions of `isa`.
pub(super) fn b_plain_f32<E: Widen>(
    isa: Isa,
    b: Matrix<'_, E>,
    columns: Range<usize>,
    steps: Range<usize>,
    width: usize,
    panels: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && width == 32 {
        assert!(columns.len().next_multiple_of(32) * steps.len() <= panels.len());
        assert!(columns.end <= b.columns && steps.end * b.columns <= b.numbers.len());
        // SAFETY: `isa` says that the machine has AVX-512, and the assertions that all reads and writes are inside.
        return unsafe { avx512::b_plain(b, columns, steps, panels) };
    }
    let _ = isa;
    b_plain(b, columns, steps, width, panels);
}

/// Packs `columns` and the steps from `start` of op(b), stored `[n, k]`, as `[depth][width]`,
/// with zeros in the columns past `columns`.
pub(super) fn b_transposed<E: Element, T: Real>(
    b: Matrix<'_, E>,
    columns: Range<usize>,
    start: usize,
    width: usize,
    panel: &mut [T],
) {
    let depth = panel.len() / width;
    if columns.len() < width {
        panel.fill(T::ZERO);
    }
    // Blocks of p keep the lines being written in the L1 cache while the columns pass.
    const BLOCK: usize = 16;
    for block in (0..depth).step_by(BLOCK) {
        let steps = BLOCK.min(depth - block);
        for (j, column) in columns.clone().enumerate() {
            let from = column * b.columns + start + block;
            for (p, x) in b.numbers[from..from + steps].iter().enumerate() {
                panel[(block + p) * width + j] = x.load();
            }
        }
    }
}

/// [`b_transposed`] of f32 or bf16 into f32, with the instructions of `isa`.
pub(super) fn b_transposed_f32<E: Widen>(
    isa: Isa,
    b: Matrix<'_, E>,
    columns: Range<usize>,
    start: usize,
    width: usize,
    panel: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Avx512 && width.is_multiple_of(16) {
        assert!(columns.end * b.columns <= b.numbers.len() && start + panel.len() / width <= b.columns);
        // SAFETY: `isa` says that the machine has AVX-512, and the assertion that the last element read is inside b.
        return unsafe { avx512::b_transposed(b, columns, start, width, panel) };
    }
    let _ = isa;
    b_transposed(b, columns, start, width, panel);
}

/// A storage format that AVX-512 widens to f32.
pub(super) trait Widen: Element {
    /// `count` (at most 16) numbers from `p`, widened, and zeros.
    ///
    /// # Safety
    /// The machine has AVX-512 and `p` points to `count` numbers.
    #[cfg(target_arch = "x86_64")]
    unsafe fn widen(p: *const Self, count: usize) -> std::arch::x86_64::__m512;
}

impl Widen for f32 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn widen(p: *const f32, count: usize) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the mask keeps the load inside the `count` numbers.
        unsafe { if count >= 16 { _mm512_loadu_ps(p) } else { _mm512_maskz_loadu_ps((1 << count) - 1, p) } }
    }
}

impl Widen for bf16 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn widen(p: *const bf16, count: usize) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: the mask keeps the load inside the `count` numbers. A bf16 is the upper half of an f32.
        unsafe {
            let halves = if count >= 16 {
                _mm256_loadu_si256(p.cast())
            } else {
                _mm256_maskz_loadu_epi16((1 << count) - 1, p.cast())
            };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use super::{A_PANEL, Matrix, STEP_STRIDE, Widen};

    /// Copies the rows of each panel as one masked register.
    ///
    /// # Safety
    /// The machine has AVX-512; the rows and steps asked for lie inside `a`; `panels` holds `A_PANEL` numbers for every
    /// `height` rows, `height` is at most `STEP_STRIDE`, and `depth` at most `MAX_DEPTH`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn a_k_major(
        a: Matrix<'_, f32>,
        rows: Range<usize>,
        height: usize,
        steps: Range<usize>,
        panels: &mut [f32],
    ) {
        for (p, step) in steps.enumerate() {
            // SAFETY: the step and its `rows` lie inside a; the mask keeps each load inside them. Each store is one step of one panel.
            unsafe {
                let from = a.numbers.as_ptr().add(step * a.columns + rows.start);
                let mut to = panels.as_mut_ptr().add(p * STEP_STRIDE);
                let mut done = 0;
                while done < rows.len() {
                    let count = height.min(rows.len() - done);
                    _mm512_storeu_ps(to, _mm512_maskz_loadu_ps(((1u32 << count) - 1) as __mmask16, from.add(done)));
                    (done, to) = (done + height, to.wrapping_add(A_PANEL));
                }
            }
        }
    }

    /// Copies the 32 columns of each panel as two registers.
    ///
    /// # Safety
    /// The machine has AVX-512; the columns and steps asked for lie inside `b`; `panels` is `[depth][32]` for every 32
    /// columns.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn b_plain<E: Widen>(
        b: Matrix<'_, E>,
        columns: Range<usize>,
        steps: Range<usize>,
        panels: &mut [f32],
    ) {
        let depth = steps.len();
        for (p, step) in steps.enumerate() {
            // SAFETY: the step and its `columns` lie inside b, and `widen` reads no further
            // than its count. Each pair of stores is one step of one panel.
            unsafe {
                let from = b.numbers.as_ptr().add(step * b.columns + columns.start);
                let mut to = panels.as_mut_ptr().add(p * 32);
                let mut done = 0;
                while done < columns.len() {
                    let (left, right) =
                        ((columns.len() - done).min(16), (columns.len() - done).saturating_sub(16).min(16));
                    _mm512_storeu_ps(to, E::widen(from.add(done), left));
                    _mm512_storeu_ps(to.add(16), E::widen(from.wrapping_add(done + 16), right));
                    (done, to) = (done + 32, to.wrapping_add(depth * 32));
                }
            }
        }
    }

    /// Transposes 16 x 16 blocks in registers.
    ///
    /// # Safety
    /// The machine has AVX-512; the columns and steps asked for lie inside `b`; `panel` is `[depth][width]` with `width` a
    /// multiple of 16.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn b_transposed<E: Widen>(
        b: Matrix<'_, E>,
        columns: Range<usize>,
        start: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        let depth = panel.len() / width;
        for block in (0..depth).step_by(16) {
            let steps = (depth - block).min(16);
            for side in (0..width).step_by(16) {
                let valid = columns.len().saturating_sub(side).min(16);
                // SAFETY: column `columns.start + side + j` with j < valid and `steps` numbers from `start + block` lie inside b; the
                // stores are 16 numbers at columns `side..side + 16 <= width` of steps below `depth`.
                unsafe {
                    let mut rows = [_mm512_setzero_ps(); 16];
                    let from = b.numbers.as_ptr().wrapping_add((columns.start + side) * b.columns);
                    for (j, row) in rows.iter_mut().enumerate() {
                        if j < valid {
                            *row = E::widen(from.add(j * b.columns + start + block), steps);
                        }
                    }
                    let rows = transpose(rows);
                    let to = panel.as_mut_ptr().add(block * width + side);
                    for (p, row) in rows.into_iter().enumerate() {
                        if p < steps {
                            _mm512_storeu_ps(to.add(p * width), row);
                        }
                    }
                }
            }
        }
    }

    /// Exchanges rows and columns: pairs, then fours, then the four 128-bit lanes.
    #[target_feature(enable = "avx512f")]
    fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
        let mut x = rows;
        for i in (0..16).step_by(4) {
            let (a, b) = (_mm512_unpacklo_ps(x[i], x[i + 1]), _mm512_unpackhi_ps(x[i], x[i + 1]));
            let (c, d) = (_mm512_unpacklo_ps(x[i + 2], x[i + 3]), _mm512_unpackhi_ps(x[i + 2], x[i + 3]));
            let [a, b, c, d] = [a, b, c, d].map(|v| _mm512_castps_pd(v));
            let fours = [
                _mm512_unpacklo_pd(a, c),
                _mm512_unpackhi_pd(a, c),
                _mm512_unpacklo_pd(b, d),
                _mm512_unpackhi_pd(b, d),
            ];
            for (j, four) in fours.into_iter().enumerate() {
                x[i + j] = _mm512_castpd_ps(four);
            }
        }
        // x[4 i + j] now holds, in lane l, the four numbers of rows 4 i.. in column 4 l + j.
        let mut out = x;
        for j in 0..4 {
            let (a, b) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(x[j], x[4 + j]),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(x[j], x[4 + j]),
            );
            let (c, d) = (
                _mm512_shuffle_f32x4::<0b10_00_10_00>(x[8 + j], x[12 + j]),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(x[8 + j], x[12 + j]),
            );
            // a: lanes 0, 2 of the first two; b: lanes 1, 3; c and d: the same of the last two.
            out[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
            out[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
            out[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
            out[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
        }
        out
    }
}
