//! Number formats: the storage [`Dtype`], the [`Element`]s stored, and the [`Real`]s computed with.

use std::fmt;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

use half::bf16;

/// The storage format of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: the precision of the truth in tests.
    F64,
    /// bfloat16: the upper half of a binary32; on the CPU storage of weights only, on CUDA of activations, too.
    Bf16,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn size_bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F64 => 8,
            Dtype::Bf16 => 2,
        }
    }

    /// Lower-case name: `f32`, `f64` or `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F64 => "f64",
            Dtype::Bf16 => "bf16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
}

/// A number that can be stored: it converts to a [`Real`] at the load.
pub trait Element: sealed::Sealed + Copy + Send + Sync + Default + fmt::Debug + PartialEq + 'static {
    /// The storage format.
    const DTYPE: Dtype;

    /// The value in the compute format. Exact, except for f64 into f32, which no kernel does.
    fn load<T: Real>(self) -> T;
}

/// A number that kernels compute with: f32 or f64. The references are written once, generic over it.
pub trait Real:
    Element
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
    + fmt::Display
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity, the identity of `max`.
    const NEG_INFINITY: Self;

    /// The nearest value to `x`.
    fn from_f64(x: f64) -> Self;
    /// The value as f64, exact.
    fn to_f64(self) -> f64;
    /// e^self.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// The larger of the two.
    fn max(self, other: Self) -> Self;
    /// self * a + b in one rounding.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// e^self to within 2 units in the last place (f32) or as the standard library has it (f64); written without branches,
    /// so that loops over it become vector instructions. 0 far below the range, as masks need.
    fn exp_vector(self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
    #[inline(always)]
    fn load<T: Real>(self) -> T {
        T::from_f64(f64::from(self))
    }
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
    #[inline(always)]
    fn load<T: Real>(self) -> T {
        T::from_f64(self)
    }
}

impl Element for bf16 {
    const DTYPE: Dtype = Dtype::Bf16;
    #[inline(always)]
    fn load<T: Real>(self) -> T {
        T::from_f64(f64::from(f32::from_bits(u32::from(self.to_bits()) << 16)))
    }
}

/// The bits of the bf16 nearest to `x`, the even one of two; NaN stays NaN. Without branches, for loops of vector instructions.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    (if is_nan { (bits >> 16) | 0x40 } else { nearest }) as u16
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f32::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        f32::max(self, other)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn exp_vector(self) -> Self {
        exp_f32(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        f64::max(self, other)
    }
    #[inline(always)]
    fn mul_add(self, a: Self, b: Self) -> Self {
        f64::mul_add(self, a, b)
    }
    #[inline(always)]
    fn exp_vector(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

/// 2^n * p(r) with x = n ln 2 + r, |r| <= ln 2 / 2 and p the Taylor polynomial of degree 7, whose remainder there is below
/// 2^-27 relative. ln 2 is split so that n ln 2 is exact in its upper part (Cody and Waite).
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const LN2_UPPER: f32 = 0.693_359_4;
    const LN2_LOWER: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let clamped = if x < -87.0 { -87.0 } else { x };
    let clamped = if clamped > 88.0 { 88.0 } else { clamped };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_UPPER) - n * LN2_LOWER;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = p * f32::from_bits(exponent);
    // NaN stays NaN: the comparisons are false for it.
    if x < -87.0 {
        0.0
    } else if x > 88.0 {
        f32::INFINITY
    } else if x.is_nan() {
        x
    } else {
        y
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vector_exponential_is_within_two_units_of_the_exact_one() {
        let mut worst = 0.0f64;
        for i in -86_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(x.exp_vector()) - exact).abs() / (exact * f64::from(f32::EPSILON)));
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!((-1e30f32).exp_vector(), 0.0);
        assert_eq!(f32::NEG_INFINITY.exp_vector(), 0.0);
        assert_eq!(f32::INFINITY.exp_vector(), f32::INFINITY);
        assert!(f32::NAN.exp_vector().is_nan());
        assert_eq!(0.0f32.exp_vector(), 1.0);
    }

    #[test]
    fn every_finite_bf16_loads_exactly() {
        for bits in 0..=u16::MAX {
            let x = bf16::from_bits(bits);
            if x.is_finite() {
                assert_eq!(x.load::<f32>().to_bits(), x.to_f32().to_bits());
                assert_eq!(x.load::<f64>(), x.to_f64());
            }
        }
    }

    #[test]
    fn numbers_are_rounded_as_the_half_crate_rounds_them() {
        for upper in 0..=u16::MAX {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let x = f32::from_bits(u32::from(upper) << 16 | lower);
                assert_eq!(bf16_bits(x), bf16::from_f32(x).to_bits(), "{x:e}");
            }
        }
    }

    #[test]
    fn names_and_sizes_agree_with_the_types() {
        assert_eq!((Dtype::F32.name(), Dtype::F32.size_bytes()), ("f32", size_of::<f32>()));
        assert_eq!((Dtype::F64.name(), Dtype::F64.size_bytes()), ("f64", size_of::<f64>()));
        assert_eq!((Dtype::Bf16.name(), Dtype::Bf16.size_bytes()), ("bf16", size_of::<bf16>()));
    }
}
