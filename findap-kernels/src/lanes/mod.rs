//! Sixteen f32 numbers at a time, written once for every instruction set, and the small matrix product of attention tiles.
//!
//! Code generic over [`Lanes`] is `#[inline(always)]` and entered through a function that enables the instructions, so each
//! method becomes the instruction it names. The methods are unsafe for that reason: the caller promises that the processor
//! has the instructions of the type.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

#[cfg(target_arch = "x86_64")]
use crate::isa::{with_avx2, with_avx512};

/// Numbers of one [`Lanes`] value.
pub(crate) const WIDTH: usize = 16;

/// Sixteen f32 numbers.
pub(crate) trait Lanes: Copy {
    /// Sixteen numbers from memory, of any alignment.
    ///
    /// # Safety
    /// As the module says; `from` is valid for 16 reads.
    unsafe fn load(from: *const f32) -> Self;
    /// Sixteen numbers to memory, of any alignment.
    ///
    /// # Safety
    /// As the module says; `to` is valid for 16 writes.
    unsafe fn store(self, to: *mut f32);
    /// One number in every lane.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn splat(x: f32) -> Self;
    /// self + x.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn add(self, x: Self) -> Self;
    /// self - x.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn sub(self, x: Self) -> Self;
    /// self * x.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn mul(self, x: Self) -> Self;
    /// self * x + y, in one rounding where the processor has it.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn mul_add(self, x: Self, y: Self) -> Self;
    /// The larger of each pair.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn max(self, x: Self) -> Self;
    /// `self` where `at >= bound`, `other` elsewhere.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn where_at_least(self, at: Self, bound: Self, other: Self) -> Self;
    /// e^self for self <= 88, within 2 units in the last place; 0 below -87.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn exp(self) -> Self;
    /// Sixteen rows become sixteen columns.
    ///
    /// # Safety
    /// As the module says.
    unsafe fn transpose(rows: &mut [Self; WIDTH]);
    /// Computes `product`.
    ///
    /// # Safety
    /// As the module says, and as [`Product`] says.
    unsafe fn product(product: &Product);

    /// The sum of the lanes, in one order.
    ///
    /// # Safety
    /// As the module says.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut x = [0.0; WIDTH];
        // SAFETY: the array holds sixteen numbers; instructions by the caller's promise.
        unsafe { self.store(x.as_mut_ptr()) };
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }
}

/// Lanes of an instruction set, and the way to run a task compiled for it.
pub(crate) trait Compiled: Lanes {
    /// Runs `task`, everything of which must be `#[inline(always)]`. Whoever picks the type found the instructions.
    fn enter<R>(task: impl FnOnce() -> R) -> R;
}

#[cfg(target_arch = "x86_64")]
impl Compiled for Avx512 {
    #[inline(always)]
    fn enter<R>(task: impl FnOnce() -> R) -> R {
        // SAFETY: this type is picked only where the instructions were found.
        unsafe { with_avx512(task) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Compiled for Avx2 {
    #[inline(always)]
    fn enter<R>(task: impl FnOnce() -> R) -> R {
        // SAFETY: as above.
        unsafe { with_avx2(task) }
    }
}

impl Compiled for Portable {
    #[inline(always)]
    fn enter<R>(task: impl FnOnce() -> R) -> R {
        task()
    }
}

/// c[i, j] (+)= sum_p a[i, p] b[p, j] for operands that are in the cache: i < rows, j < 16 vectors, p < depth.
///
/// Whoever runs it promises that every element named by the sizes and strides is valid, and that `c` overlaps neither `a`
/// nor `b`. Each element is summed over p in order, whatever the sizes.
pub(crate) struct Product {
    pub(crate) c: *mut f32,
    /// From one row of `c` to the next; its columns are adjacent.
    pub(crate) c_row: usize,
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_column: usize,
    pub(crate) b: *const f32,
    /// From one row of `b` to the next; its columns are adjacent.
    pub(crate) b_row: usize,
    pub(crate) rows: usize,
    /// Columns of `c` and `b`, in units of sixteen.
    pub(crate) vectors: usize,
    pub(crate) depth: usize,
    /// Added to `c`, which is otherwise replaced.
    pub(crate) accumulate: bool,
}

/// [`Product`] by register tiles of at most `ROWS` rows (a power of two) and three vectors.
///
/// # Safety
/// As [`Product`] says.
#[inline(always)]
unsafe fn product<L: Lanes, const ROWS: usize>(x: &Product) {
    let mut column = 0;
    while column < x.vectors {
        // four vectors go as two and two: one vector alone keeps the multipliers waiting
        let vectors = match x.vectors - column {
            4 => 2,
            left => left.min(3),
        };
        // SAFETY: the columns lie inside; the rest by the caller's promise.
        unsafe {
            match vectors {
                1 => rows_of::<L, ROWS, 1>(x, column * WIDTH),
                2 => rows_of::<L, ROWS, 2>(x, column * WIDTH),
                _ => rows_of::<L, ROWS, 3>(x, column * WIDTH),
            }
        }
        column += vectors;
    }
}

/// # Safety
/// As [`Product`] says; the vectors from `column` on are inside.
#[inline(always)]
unsafe fn rows_of<L: Lanes, const ROWS: usize, const VECTORS: usize>(x: &Product, column: usize) {
    let mut row = 0;
    // SAFETY: rows stay below `x.rows`.
    unsafe {
        while row + ROWS <= x.rows {
            tile::<L, ROWS, VECTORS>(x, row, column);
            row += ROWS;
        }
        if ROWS > 4 && row + 4 <= x.rows {
            tile::<L, 4, VECTORS>(x, row, column);
            row += 4;
        }
        if ROWS > 2 && row + 2 <= x.rows {
            tile::<L, 2, VECTORS>(x, row, column);
            row += 2;
        }
        if row < x.rows {
            tile::<L, 1, VECTORS>(x, row, column);
        }
    }
}

/// # Safety
/// As [`Product`] says; the tile lies inside.
#[inline(always)]
unsafe fn tile<L: Lanes, const ROWS: usize, const VECTORS: usize>(x: &Product, row: usize, column: usize) {
    // SAFETY: all offsets are those of elements inside the operands.
    unsafe {
        let (c, a, b) = (x.c.add(row * x.c_row + column), x.a.add(row * x.a_row), x.b.add(column));
        let mut sums = [[L::splat(0.0); VECTORS]; ROWS];
        if x.accumulate {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(c.add(i * x.c_row + j * WIDTH));
                }
            }
        }
        for p in 0..x.depth {
            let (a, b) = (a.add(p * x.a_column), b.add(p * x.b_row));
            let mut values = [L::splat(0.0); VECTORS];
            for (j, value) in values.iter_mut().enumerate() {
                *value = L::load(b.add(j * WIDTH));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*a.add(i * x.a_row));
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum = factor.mul_add(value, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(c.add(i * x.c_row + j * WIDTH));
            }
        }
    }
}

/// e^r on |r| <= ln 2 / 2 as 1 + r + r^2 p(r), highest power of p first; relative error below 2^-24. Moshier's Cephes, expf.
const EXP: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_5e-2, 1.666_666_5e-1, 0.5];
/// ln 2 in two parts: multiples of the first up to 2^9 are exact.
const LN2_UPPER: f32 = 0.693_359_4;
const LN2_LOWER: f32 = -2.121_944_4e-4;
/// Below it, e^x counts as 0.
const EXP_SMALLEST: f32 = -87.0;
