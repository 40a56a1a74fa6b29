//! The innermost product: one tile of c, held in registers while k runs.
//!
//! A tile of `rows` x `columns` sums `a[i, p] * b[p, j]` over p in order, from zero, each term one fused multiply-add
//! (separate multiplication and addition without FMA), and only then writes or adds to c. Lanes run over the columns, so
//! every element sees the same operations in the same order wherever in the tile, and in a tile of whatever height, it lies.
//! With AVX-512, 14 x 32 is 28 accumulators, two registers for b and one for the broadcast element of a: per step of p two
//! loads of b and 14 broadcasts feed 28 multiply-adds.

use crate::aligned::line_len;
use crate::dtype::Real;

/// Most rows of a tile over all instruction sets.
pub(super) const MAX_ROWS: usize = 14;
/// Most columns of a tile over all instruction sets.
pub(super) const MAX_COLUMNS: usize = 32;
/// Longest run of p that one tile sums before it goes to c: 14 rows of a (21 KiB of f32) stay in a 32 KiB L1 cache.
pub(super) const MAX_DEPTH: usize = 384;
/// Distance of two rows in a row-major panel of a: odd in cache lines, so that rows spread over the sets of the cache.
pub(super) const ROW_STRIDE: usize = MAX_DEPTH + 16;
/// Distance of two steps of p in a k-major panel of a.
pub(super) const STEP_STRIDE: usize = 16;

/// Computes `rows x columns` of c from a packed panel of each operand.
///
/// Arguments: depth, a, b `[depth, columns]`, c, distance of two rows of c, whether to add to c, what to fetch meanwhile.
///
/// # Safety
/// The machine has the instructions; `a` holds a panel of the function's rows in its layout, `b` is `[depth, columns]`, and
/// the tile lies inside `c`.
pub(in crate::matmul) type TileFn<T> = unsafe fn(usize, *const T, *const T, *mut T, usize, bool, Ahead<T>);

/// Numbers that are packed after this tile and come to the L2 cache while it is computed: rows of some lines, as many as there are
/// stretches of a tile.
#[derive(Clone, Copy, Debug)]
pub(in crate::matmul) struct Ahead<T> {
    pub(super) start: *const T,
    pub(super) stride: usize,
    pub(super) row_len: usize,
}

/// The tiles of one instruction set and number format.
pub(in crate::matmul) struct Tiles<T: 'static> {
    /// Columns of every tile.
    pub(super) columns: usize,
    /// Tiles of 1, 2, .. rows for a row-major panel of a.
    pub(super) row_major: &'static [TileFn<T>],
    /// Tiles of 1, 2, .. rows for a k-major panel of a.
    pub(super) k_major: &'static [TileFn<T>],
}

/// One register of numbers.
trait Lanes: Copy {
    type Number: Real;
    const COUNT: usize;

    /// All lanes 0.
    unsafe fn zero() -> Self;
    /// All lanes the number at `p`.
    unsafe fn broadcast(p: *const Self::Number) -> Self;
    /// The `COUNT` numbers from `p`.
    unsafe fn load(p: *const Self::Number) -> Self;
    /// Writes the lanes from `p`.
    unsafe fn store(self, p: *mut Self::Number);
    /// self + other.
    unsafe fn add(self, other: Self) -> Self;
    /// self + a * b.
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
}

/// A tile of `ROWS` x two registers. `a[i, p]` is at `i * ROW + p * STEP`.
///
/// # Safety
/// As [`TileFn`]; must be inlined into a function that enables the instructions of `V`.
#[inline(always)]
unsafe fn tile<V: Lanes, const ROWS: usize, const ROW: usize, const STEP: usize>(
    depth: usize,
    a: *const V::Number,
    b: *const V::Number,
    c: *mut V::Number,
    c_stride: usize,
    accumulate: bool,
    ahead: Ahead<V::Number>,
) {
    // SAFETY: p < depth and i < ROWS keep a and b inside their panels, and i < ROWS with two registers keeps c inside its
    // tile, by the caller's promise. Prefetching an address outside memory does nothing.
    unsafe {
        let mut sums = [[V::zero(); 2]; ROWS];
        // Fetched one after the other: all at once would hold up what the tile itself waits for.
        let stretch = depth.div_ceil(STRETCHES);
        let (mut c_row, mut ahead_row) = (c, ahead.start);
        for start in (0..depth).step_by(stretch) {
            prefetch::<FIRST, _>(c_row);
            prefetch::<FIRST, _>(c_row.wrapping_add(2 * V::COUNT - 1));
            c_row = c_row.wrapping_add(c_stride);
            for at in (0..ahead.row_len).step_by(line_len::<V::Number>()) {
                prefetch::<SECOND, _>(ahead_row.wrapping_add(at));
            }
            ahead_row = ahead_row.wrapping_add(ahead.stride);
            for p in start..depth.min(start + stretch) {
                let step = b.add(p * 2 * V::COUNT);
                prefetch::<FIRST, _>(step.wrapping_add(PREFETCH_STEPS * 2 * V::COUNT));
                prefetch::<FIRST, _>(step.wrapping_add((PREFETCH_STEPS * 2 + 1) * V::COUNT));
                let (left, right) = (V::load(step), V::load(step.add(V::COUNT)));
                for (i, [first, second]) in sums.iter_mut().enumerate() {
                    let x = V::broadcast(a.add(i * ROW + p * STEP));
                    *first = first.add_product(x, left);
                    *second = second.add_product(x, right);
                }
            }
        }
        for (i, [first, second]) in sums.into_iter().enumerate() {
            let left = c.add(i * c_stride);
            let right = left.add(V::COUNT);
            if accumulate {
                V::load(left).add(first).store(left);
                V::load(right).add(second).store(right);
            } else {
                first.store(left);
                second.store(right);
            }
        }
    }
}

/// How many steps of p ahead b is fetched into the L1 cache.
const PREFETCH_STEPS: usize = 8;

/// Parts of the loop over p between which a tile fetches what comes later: one for each row of the highest tile.
pub(super) const STRETCHES: usize = MAX_ROWS;

/// The L1 cache, as processors call it that are told to fetch.
pub(in crate::matmul) const FIRST: i32 = 3;
/// The L2 cache.
const SECOND: i32 = 2;

/// Fetches what lies at `p` into a cache.
#[inline(always)]
pub(in crate::matmul) fn prefetch<const CACHE: i32, T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<CACHE>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// The tiles of the given heights in both layouts of a.
macro_rules! tiles {
    ($columns:expr, $tile:ident, $($rows:literal)*) => {
        Tiles {
            columns: $columns,
            row_major: &[$($tile::<$rows, ROW_STRIDE, 1>),*],
            k_major: &[$($tile::<$rows, 1, STEP_STRIDE>),*],
        }
    };
}

/// A [`TileFn`] of every height and layout, compiled for some instructions.
macro_rules! compiled_tile {
    ($name:ident, $number:ty, $register:ty $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name<const ROWS: usize, const ROW: usize, const STEP: usize>(
            depth: usize,
            a: *const $number,
            b: *const $number,
            c: *mut $number,
            c_stride: usize,
            accumulate: bool,
            ahead: Ahead<$number>,
        ) {
            // SAFETY: the caller's promise is that of `TileFn`.
            unsafe { tile::<$register, ROWS, ROW, STEP>(depth, a, b, c, c_stride, accumulate, ahead) }
        }
    };
}

/// [`Lanes`] of a register by the names of its instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! register_lanes {
    ($register:ty, $number:ty, $count:literal, $zero:ident, $set1:ident, $load:ident, $store:ident, $add:ident, $fmadd:ident) => {
        // SAFETY of the bodies: the callers of `Lanes` run with the instructions and give valid pointers.
        impl Lanes for $register {
            type Number = $number;
            const COUNT: usize = $count;

            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: see above.
                unsafe { $zero() }
            }
            #[inline(always)]
            unsafe fn broadcast(p: *const $number) -> Self {
                // SAFETY: see above.
                unsafe { $set1(*p) }
            }
            #[inline(always)]
            unsafe fn load(p: *const $number) -> Self {
                // SAFETY: see above.
                unsafe { $load(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $number) {
                // SAFETY: see above.
                unsafe { $store(p, self) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: see above.
                unsafe { $add(self, other) }
            }
            #[inline(always)]
            unsafe fn add_product(self, a: Self, b: Self) -> Self {
                // SAFETY: see above.
                unsafe { $fmadd(a, b, self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::*;

    pub(in super::super) static F32: Tiles<f32> = tiles!(32, tile_f32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    pub(in super::super) static F64: Tiles<f64> = tiles!(16, tile_f64, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);

    compiled_tile!(tile_f32, f32, __m512, "avx512f");
    compiled_tile!(tile_f64, f64, __m512d, "avx512f");
    register_lanes!(
        __m512,
        f32,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_fmadd_ps
    );
    register_lanes!(
        __m512d,
        f64,
        8,
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_fmadd_pd
    );
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::*;

    pub(in super::super) static F32: Tiles<f32> = tiles!(16, tile_f32, 1 2 3 4 5 6);
    pub(in super::super) static F64: Tiles<f64> = tiles!(8, tile_f64, 1 2 3 4 5 6);

    compiled_tile!(tile_f32, f32, __m256, "avx2,fma");
    compiled_tile!(tile_f64, f64, __m256d, "avx2,fma");
    register_lanes!(
        __m256,
        f32,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_fmadd_ps
    );
    register_lanes!(
        __m256d,
        f64,
        4,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_fmadd_pd
    );
}

pub(super) mod portable {
    use super::*;

    pub(in super::super) static F32: Tiles<f32> = tiles!(8, tile_f32, 1 2 3 4);
    pub(in super::super) static F64: Tiles<f64> = tiles!(4, tile_f64, 1 2 3 4);

    compiled_tile!(tile_f32, f32, [f32; 4]);
    compiled_tile!(tile_f64, f64, [f64; 2]);

    /// Arrays as wide as the registers that every 64-bit processor has; the compiler finds the instructions.
    impl<T: Real, const N: usize> Lanes for [T; N] {
        type Number = T;
        const COUNT: usize = N;

        #[inline(always)]
        unsafe fn zero() -> Self {
            [T::ZERO; N]
        }
        #[inline(always)]
        unsafe fn broadcast(p: *const T) -> Self {
            // SAFETY: the caller gives a valid pointer.
            [unsafe { *p }; N]
        }
        #[inline(always)]
        unsafe fn load(p: *const T) -> Self {
            // SAFETY: the caller gives a pointer to N numbers; an array has their alignment.
            unsafe { p.cast::<[T; N]>().read() }
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut T) {
            // SAFETY: the caller gives a pointer to N numbers; an array has their alignment.
            unsafe { p.cast::<[T; N]>().write(self) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            std::array::from_fn(|i| self[i] + other[i])
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| self[i] + a[i] * b[i])
        }
    }
}
