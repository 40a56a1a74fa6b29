//! Sixteen lanes in an array: what the compiler makes of it on any machine.

use std::array::from_fn;

use super::{EXP, EXP_SMALLEST, LN2_LOWER, LN2_UPPER, Lanes, Product, WIDTH};

/// Sixteen numbers.
#[derive(Clone, Copy)]
pub(crate) struct Portable(pub(super) [f32; WIDTH]);

// SAFETY of every block below: valid pointers by the caller's promise; no special instructions are used.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one reason for all, stated above")]
impl Lanes for Portable {
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        Self(unsafe { from.cast::<[f32; WIDTH]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { to.cast::<[f32; WIDTH]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; WIDTH])
    }
    #[inline(always)]
    unsafe fn add(self, x: Self) -> Self {
        Self(from_fn(|i| self.0[i] + x.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(self, x: Self) -> Self {
        Self(from_fn(|i| self.0[i] - x.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        Self(from_fn(|i| self.0[i] * x.0[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        // two roundings: a fused one is a slow library call where the processor lacks it
        Self(from_fn(|i| self.0[i] * x.0[i] + y.0[i]))
    }
    #[inline(always)]
    unsafe fn max(self, x: Self) -> Self {
        Self(from_fn(|i| if self.0[i] > x.0[i] { self.0[i] } else { x.0[i] }))
    }
    #[inline(always)]
    unsafe fn where_at_least(self, at: Self, bound: Self, other: Self) -> Self {
        Self(from_fn(|i| if at.0[i] >= bound.0[i] { self.0[i] } else { other.0[i] }))
    }
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
        Self(self.0.map(|x| {
            let shifted = x.clamp(EXP_SMALLEST, 88.0) * std::f32::consts::LOG2_E + ROUND;
            let n = shifted - ROUND;
            let r = (x - n * LN2_UPPER) - n * LN2_LOWER;
            let p = EXP[1..].iter().fold(EXP[0], |p, coefficient| p * r + coefficient);
            let y = p * (r * r) + (r + 1.0);
            let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
            let y = y * f32::from_bits(exponent);
            if x < EXP_SMALLEST { 0.0 } else { y }
        }))
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [Self; WIDTH]) {
        for i in 0..WIDTH {
            for j in 0..i {
                let x = rows[i].0[j];
                rows[i].0[j] = rows[j].0[i];
                rows[j].0[i] = x;
            }
        }
    }
    #[inline(never)]
    unsafe fn product(product: &Product) {
        unsafe { super::product::<Portable, 2>(product) }
    }
}
