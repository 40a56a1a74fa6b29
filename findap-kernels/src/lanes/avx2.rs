//! Sixteen lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::{EXP, EXP_SMALLEST, LN2_LOWER, LN2_UPPER, Lanes, Portable, Product, WIDTH};

/// Two 256-bit registers, lower lanes first.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256, __m256);

// SAFETY of every block below: the caller promises that the processor has AVX2 and FMA, and valid pointers where there are any.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
impl Lanes for Avx2 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { Self(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe {
            _mm256_storeu_ps(to, self.0);
            _mm256_storeu_ps(to.add(8), self.1);
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { Self(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        unsafe { Self(_mm256_add_ps(self.0, x.0), _mm256_add_ps(self.1, x.1)) }
    }
    #[inline(always)]
    unsafe fn sub(self, x: Self) -> Self {
        unsafe { Self(_mm256_sub_ps(self.0, x.0), _mm256_sub_ps(self.1, x.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        unsafe { Self(_mm256_mul_ps(self.0, x.0), _mm256_mul_ps(self.1, x.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        unsafe { Self(_mm256_fmadd_ps(self.0, x.0, y.0), _mm256_fmadd_ps(self.1, x.1, y.1)) }
    }
    #[inline(always)]
    unsafe fn max(self, x: Self) -> Self {
        unsafe { Self(_mm256_max_ps(self.0, x.0), _mm256_max_ps(self.1, x.1)) }
    }
    #[inline(always)]
    unsafe fn where_at_least(self, at: Self, bound: Self, other: Self) -> Self {
        unsafe {
            let half = |yes, at, bound, other| _mm256_blendv_ps(other, yes, _mm256_cmp_ps::<_CMP_GE_OQ>(at, bound));
            Self(half(self.0, at.0, bound.0, other.0), half(self.1, at.1, bound.1, other.1))
        }
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        unsafe { Self(exp(self.0), exp(self.1)) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; WIDTH]) {
        let mut plain = [Portable([0.0; WIDTH]); WIDTH];
        unsafe {
            for (plain, row) in plain.iter_mut().zip(rows.iter()) {
                row.store(plain.0.as_mut_ptr());
            }
            Portable::transpose(&mut plain);
            for (plain, row) in plain.iter().zip(rows) {
                *row = Self::load(plain.0.as_ptr());
            }
        }
    }
    #[inline(always)]
    unsafe fn product(product: &Product) {
        unsafe { compute(product) }
    }
}

/// # Safety
/// AVX2 and FMA are there.
#[inline(always)]
unsafe fn exp(x: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(EXP_SMALLEST));
        let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
            x,
            _mm256_set1_ps(std::f32::consts::LOG2_E),
        ));
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_UPPER), x);
        let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LOWER), r);
        let mut p = _mm256_set1_ps(EXP[0]);
        for coefficient in &EXP[1..] {
            p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(*coefficient));
        }
        let y = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0)));
        let exponent = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)));
        _mm256_and_ps(_mm256_mul_ps(y, _mm256_castsi256_ps(exponent)), kept)
    }
}

/// # Safety
/// AVX2 and FMA are there; as [`Product`] says.
#[target_feature(enable = "avx2,fma")]
unsafe fn compute(product: &Product) {
    // SAFETY: the caller's promises. Two rows of three pairs fill 12 of the 16 registers.
    unsafe { super::product::<Avx2, 2>(product) }
}
