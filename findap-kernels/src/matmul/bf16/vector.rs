//! Kernels of vector instructions: sums of `rows` x two registers of columns, held in registers while k runs.
//!
//! Each sum takes the second product of a pair first, then the first, as AVX-512 BF16 does. A product of two bf16 is exact in f32,
//! fused or not, so all kernels here compute the same bits (AVX-512 BF16 but for numbers below 2^-126, which it takes as 0).

use std::mem::MaybeUninit;

use super::pack::LINE;
use super::{COLUMNS, Kernel, Strip};
use crate::matmul::cpu::{FIRST, prefetch};

/// Longest run of k: 12 rows of a (18 KiB of f32) stay in a 32 KiB L1 cache.
const DEPTH: usize = 384;
/// Most rows of the kernels here.
const MAX_ROWS: usize = 12;
/// How many pairs ahead b is fetched into the L1 cache.
const PREFETCH_PAIRS: usize = 8;

/// Instructions on one register.
trait Unit {
    /// Sums of some columns.
    type Sum: Copy;
    /// A pair of a as it is multiplied.
    type Left: Copy;
    /// Pairs of b of some columns as they are multiplied.
    type Right: Copy;
    /// Columns of a register.
    const WIDTH: usize;

    /// Turns pairs of a into what is multiplied, in `space` where it has another form.
    ///
    /// # Safety
    /// The machine has the instructions; `pairs` are so many, and `space` holds them.
    unsafe fn left(pairs: *const u32, count: usize, space: *mut Self::Left) -> *const Self::Left;
    /// # Safety
    /// The machine has the instructions; a register of pairs lies at `pairs`.
    unsafe fn right(pairs: *const u32) -> Self::Right;
    /// sum + the second product of each pair + the first.
    ///
    /// # Safety
    /// The machine has the instructions; `left` is valid.
    unsafe fn add_products(sum: Self::Sum, left: *const Self::Left, right: Self::Right) -> Self::Sum;
    /// # Safety
    /// The machine has the instructions.
    unsafe fn zero() -> Self::Sum;
    /// # Safety
    /// The machine has the instructions; a register of numbers lies at `to`.
    unsafe fn write(sum: Self::Sum, to: *mut f32, accumulate: bool);
}

/// # Safety
/// As [`Kernel::run`]; must be inlined into a function that enables the instructions of `U`.
#[inline(always)]
unsafe fn strip<U: Unit, const ROWS: usize>(x: &Strip) {
    const { assert!(ROWS <= MAX_ROWS && COLUMNS.is_multiple_of(2 * U::WIDTH)) };
    let mut space = MaybeUninit::<[U::Left; MAX_ROWS * DEPTH / 2]>::uninit();
    // SAFETY: a panel of `steps` (at most DEPTH numbers) and ROWS rows fits the space. All offsets are those of numbers inside the
    // panels and c; prefetching an address outside memory does nothing.
    unsafe {
        let left = U::left(x.a.cast(), x.steps * ROWS * LINE, space.as_mut_ptr().cast());
        for (panel, column) in
            (0..x.panels).flat_map(|panel| (0..COLUMNS).step_by(2 * U::WIDTH).map(move |c| (panel, c)))
        {
            let right = x.b.add(panel * x.b_stride).cast::<u32>().add(column);
            let c = x.c.add(panel * COLUMNS + column);
            for i in 0..ROWS {
                prefetch::<FIRST, _>(c.wrapping_add(i * x.c_stride));
                prefetch::<FIRST, _>(c.wrapping_add(i * x.c_stride + 2 * U::WIDTH - 1));
            }
            let mut sums = [[U::zero(); 2]; ROWS];
            for step in 0..x.steps {
                let left = left.add(step * ROWS * LINE);
                for p in 0..LINE {
                    let pairs = right.add((step * LINE + p) * COLUMNS);
                    prefetch::<FIRST, _>(pairs.wrapping_add(PREFETCH_PAIRS * COLUMNS));
                    prefetch::<FIRST, _>(pairs.wrapping_add(PREFETCH_PAIRS * COLUMNS + U::WIDTH));
                    let rights = [U::right(pairs), U::right(pairs.add(U::WIDTH))];
                    for (i, sums) in sums.iter_mut().enumerate() {
                        for (sum, right) in sums.iter_mut().zip(rights) {
                            *sum = U::add_products(*sum, left.add(i * LINE + p), right);
                        }
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    U::write(sum, c.add(i * x.c_stride + j * U::WIDTH), x.accumulate);
                }
            }
        }
    }
}

/// Both numbers of each pair in f32: a bf16 is the upper half of one.
///
/// # Safety
/// `pairs` are so many, and `space` holds them.
#[inline(always)]
unsafe fn widened(pairs: *const u32, count: usize, space: *mut [f32; 2]) -> *const [f32; 2] {
    // SAFETY: by the caller's promise.
    unsafe {
        for i in 0..count {
            space.add(i).write(both(*pairs.add(i)));
        }
    }
    space
}

#[inline(always)]
fn both(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use std::arch::x86_64::*;

    use super::*;

    pub(in super::super) static WIDENED: Kernel =
        Kernel { rows: 12, depth: DEPTH, rate: 32.0, state: None, run: run_widened };
    pub(in super::super) static PAIRS: Kernel =
        Kernel { rows: 12, depth: DEPTH, rate: 64.0, state: None, run: run_pairs };

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run_widened(x: &Strip) {
        // SAFETY: the caller's promise is that of `Kernel::run`.
        unsafe { strip::<Widened, 12>(x) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run_pairs(x: &Strip) {
        // SAFETY: the caller's promise is that of `Kernel::run`.
        unsafe { strip::<Pairs, 12>(x) }
    }

    /// Pairs widened to f32.
    struct Widened;
    /// The instruction for pairs.
    struct Pairs;

    // SAFETY of every block below: the callers of `Unit` run with the instructions and give valid pointers.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Unit for Widened {
        type Sum = __m512;
        type Left = [f32; 2];
        type Right = [__m512; 2];
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn left(pairs: *const u32, count: usize, space: *mut [f32; 2]) -> *const [f32; 2] {
            unsafe { widened(pairs, count, space) }
        }
        #[inline(always)]
        unsafe fn right(pairs: *const u32) -> [__m512; 2] {
            unsafe {
                let pairs = _mm512_loadu_si512(pairs.cast());
                let upper = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
                [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(upper)]
            }
        }
        #[inline(always)]
        unsafe fn add_products(sum: __m512, left: *const [f32; 2], right: [__m512; 2]) -> __m512 {
            unsafe {
                let sum = _mm512_fmadd_ps(_mm512_set1_ps((*left)[1]), right[1], sum);
                _mm512_fmadd_ps(_mm512_set1_ps((*left)[0]), right[0], sum)
            }
        }
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn write(sum: __m512, to: *mut f32, accumulate: bool) {
            unsafe { _mm512_storeu_ps(to, if accumulate { _mm512_add_ps(_mm512_loadu_ps(to), sum) } else { sum }) }
        }
    }

    #[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Unit for Pairs {
        type Sum = __m512;
        type Left = u32;
        type Right = __m512i;
        const WIDTH: usize = 16;

        #[inline(always)]
        unsafe fn left(pairs: *const u32, _: usize, _: *mut u32) -> *const u32 {
            pairs
        }
        #[inline(always)]
        unsafe fn right(pairs: *const u32) -> __m512i {
            unsafe { _mm512_loadu_si512(pairs.cast()) }
        }
        #[inline(always)]
        unsafe fn add_products(sum: __m512, left: *const u32, right: __m512i) -> __m512 {
            unsafe {
                let left = _mm512_set1_epi32(*left as i32);
                _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512i, __m512bh>(left),
                    std::mem::transmute::<__m512i, __m512bh>(right),
                )
            }
        }
        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn write(sum: __m512, to: *mut f32, accumulate: bool) {
            unsafe { Widened::write(sum, to, accumulate) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use std::arch::x86_64::*;

    use super::*;

    pub(in super::super) static WIDENED: Kernel = Kernel { rows: 4, depth: DEPTH, rate: 16.0, state: None, run };

    #[target_feature(enable = "avx2,fma")]
    unsafe fn run(x: &Strip) {
        // SAFETY: the caller's promise is that of `Kernel::run`.
        unsafe { strip::<Widened, 4>(x) }
    }

    /// Pairs widened to f32.
    struct Widened;

    // SAFETY of every block below: the callers of `Unit` run with the instructions and give valid pointers.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Unit for Widened {
        type Sum = __m256;
        type Left = [f32; 2];
        type Right = [__m256; 2];
        const WIDTH: usize = 8;

        #[inline(always)]
        unsafe fn left(pairs: *const u32, count: usize, space: *mut [f32; 2]) -> *const [f32; 2] {
            unsafe { widened(pairs, count, space) }
        }
        #[inline(always)]
        unsafe fn right(pairs: *const u32) -> [__m256; 2] {
            unsafe {
                let pairs = _mm256_loadu_si256(pairs.cast());
                let upper = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
                [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(upper)]
            }
        }
        #[inline(always)]
        unsafe fn add_products(sum: __m256, left: *const [f32; 2], right: [__m256; 2]) -> __m256 {
            unsafe {
                let sum = _mm256_fmadd_ps(_mm256_set1_ps((*left)[1]), right[1], sum);
                _mm256_fmadd_ps(_mm256_set1_ps((*left)[0]), right[0], sum)
            }
        }
        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn write(sum: __m256, to: *mut f32, accumulate: bool) {
            unsafe { _mm256_storeu_ps(to, if accumulate { _mm256_add_ps(_mm256_loadu_ps(to), sum) } else { sum }) }
        }
    }
}

pub(super) mod portable {
    use std::array::from_fn;

    use super::*;

    pub(in super::super) static WIDENED: Kernel = Kernel { rows: 4, depth: DEPTH, rate: 8.0, state: None, run };

    unsafe fn run(x: &Strip) {
        // SAFETY: the caller's promise is that of `Kernel::run`.
        unsafe { strip::<Widened, 4>(x) }
    }

    /// Pairs widened to f32, as many as the registers that every 64-bit processor has.
    pub(in super::super) struct Widened;

    // SAFETY of every block below: the callers of `Unit` give valid pointers.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Unit for Widened {
        type Sum = [f32; 4];
        type Left = [f32; 2];
        type Right = [[f32; 4]; 2];
        const WIDTH: usize = 4;

        #[inline(always)]
        unsafe fn left(pairs: *const u32, count: usize, space: *mut [f32; 2]) -> *const [f32; 2] {
            unsafe { widened(pairs, count, space) }
        }
        #[inline(always)]
        unsafe fn right(pairs: *const u32) -> [[f32; 4]; 2] {
            let pairs = unsafe { pairs.cast::<[u32; 4]>().read() };
            [pairs.map(|pair| both(pair)[0]), pairs.map(|pair| both(pair)[1])]
        }
        #[inline(always)]
        unsafe fn add_products(sum: [f32; 4], left: *const [f32; 2], right: [[f32; 4]; 2]) -> [f32; 4] {
            let left = unsafe { *left };
            from_fn(|i| sum[i] + left[1] * right[1][i] + left[0] * right[0][i])
        }
        #[inline(always)]
        unsafe fn zero() -> [f32; 4] {
            [0.0; 4]
        }
        #[inline(always)]
        unsafe fn write(sum: [f32; 4], to: *mut f32, accumulate: bool) {
            unsafe {
                let before = if accumulate { to.cast::<[f32; 4]>().read() } else { [0.0; 4] };
                to.cast::<[f32; 4]>().write(if accumulate { from_fn(|i| before[i] + sum[i]) } else { sum });
            }
        }
    }
}

/// The loops of AVX-512 BF16 without the instruction, for tests: Intel SDM, volume 2C, VDPBF16PS.
#[cfg(test)]
pub(super) mod model {
    use std::array::from_fn;

    use super::*;

    pub(in super::super) static PAIRS: Kernel = Kernel { rows: 12, depth: DEPTH, rate: 8.0, state: None, run };

    unsafe fn run(x: &Strip) {
        // SAFETY: the caller's promise is that of `Kernel::run`.
        unsafe { strip::<Pairs, 12>(x) }
    }

    struct Pairs;

    // SAFETY of every block below: the callers of `Unit` give valid pointers.
    #[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
    impl Unit for Pairs {
        type Sum = [f32; 16];
        type Left = u32;
        type Right = [u32; 16];
        const WIDTH: usize = 16;

        unsafe fn left(pairs: *const u32, _: usize, _: *mut u32) -> *const u32 {
            pairs
        }
        unsafe fn right(pairs: *const u32) -> [u32; 16] {
            unsafe { pairs.cast::<[u32; 16]>().read() }
        }
        unsafe fn add_products(sum: [f32; 16], left: *const u32, right: [u32; 16]) -> [f32; 16] {
            let [a, b] = both(unsafe { *left });
            from_fn(|i| {
                let [x, y] = both(right[i]);
                a.mul_add(x, b.mul_add(y, sum[i]))
            })
        }
        unsafe fn zero() -> [f32; 16] {
            [0.0; 16]
        }
        unsafe fn write(sum: [f32; 16], to: *mut f32, accumulate: bool) {
            for (j, sum) in sum.into_iter().enumerate() {
                unsafe { *to.add(j) = if accumulate { *to.add(j) + sum } else { sum } };
            }
        }
    }
}
