//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;

use super::{EXP, EXP_SMALLEST, LN2_LOWER, LN2_UPPER, Lanes, Product, WIDTH};

/// One 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

// SAFETY of every block below: the caller promises that the processor has AVX-512 F, and valid pointers where there are any.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
impl Lanes for Avx512 {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        Self(unsafe { _mm512_add_ps(self.0, x.0) })
    }
    #[inline(always)]
    unsafe fn sub(self, x: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, x.0) })
    }
    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, x.0) })
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, x.0, y.0) })
    }
    #[inline(always)]
    unsafe fn max(self, x: Self) -> Self {
        Self(unsafe { _mm512_max_ps(self.0, x.0) })
    }
    #[inline(always)]
    unsafe fn where_at_least(self, at: Self, bound: Self, other: Self) -> Self {
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(at.0, bound.0), other.0, self.0) })
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        unsafe {
            let x = self.0;
            // not less than, so that NaN stays
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(EXP_SMALLEST));
            let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
                x,
                _mm512_set1_ps(std::f32::consts::LOG2_E),
            ));
            let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_UPPER), x);
            let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LOWER), r);
            let mut p = _mm512_set1_ps(EXP[0]);
            for coefficient in &EXP[1..] {
                p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(*coefficient));
            }
            let y = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0)));
            Self(_mm512_maskz_scalef_ps(kept, y, n))
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; WIDTH]) {
        // Pairs of rows, then fours, within 128-bit parts; then the parts themselves, twice.
        unsafe {
            let mut t = rows.map(|row| row.0);
            let mut u = t;
            for i in (0..WIDTH).step_by(2) {
                u[i] = _mm512_unpacklo_ps(t[i], t[i + 1]);
                u[i + 1] = _mm512_unpackhi_ps(t[i], t[i + 1]);
            }
            let pd = |x| _mm512_castps_pd(x);
            let ps = |x| _mm512_castpd_ps(x);
            for i in (0..WIDTH).step_by(4) {
                t[i] = ps(_mm512_unpacklo_pd(pd(u[i]), pd(u[i + 2])));
                t[i + 1] = ps(_mm512_unpackhi_pd(pd(u[i]), pd(u[i + 2])));
                t[i + 2] = ps(_mm512_unpacklo_pd(pd(u[i + 1]), pd(u[i + 3])));
                t[i + 3] = ps(_mm512_unpackhi_pd(pd(u[i + 1]), pd(u[i + 3])));
            }
            for i in 0..4 {
                u[i] = _mm512_shuffle_f32x4::<0x88>(t[i], t[4 + i]);
                u[4 + i] = _mm512_shuffle_f32x4::<0xdd>(t[i], t[4 + i]);
                u[8 + i] = _mm512_shuffle_f32x4::<0x88>(t[8 + i], t[12 + i]);
                u[12 + i] = _mm512_shuffle_f32x4::<0xdd>(t[8 + i], t[12 + i]);
            }
            for i in 0..4 {
                rows[i].0 = _mm512_shuffle_f32x4::<0x88>(u[i], u[8 + i]);
                rows[8 + i].0 = _mm512_shuffle_f32x4::<0xdd>(u[i], u[8 + i]);
                rows[4 + i].0 = _mm512_shuffle_f32x4::<0x88>(u[4 + i], u[12 + i]);
                rows[12 + i].0 = _mm512_shuffle_f32x4::<0xdd>(u[4 + i], u[12 + i]);
            }
        }
    }
    #[inline(always)]
    unsafe fn product(product: &Product) {
        unsafe { compute(product) }
    }
}

/// # Safety
/// AVX-512 F is there; as [`Product`] says.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn compute(product: &Product) {
    // SAFETY: the caller's promises. Eight rows of three vectors fill 24 of the 32 registers.
    unsafe { super::product::<Avx512, 8>(product) }
}
