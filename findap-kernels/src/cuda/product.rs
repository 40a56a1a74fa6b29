//! A product of matrices in device memory: by a library of the device, or by the kernel of [`crate::matmul::cuda`].

use super::operand::Operand;
use crate::slice::Write;

/// A matrix whose rows may be further apart than they are long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Its elements, with those between the rows; those behind the last row may be missing.
    pub elements: Operand,
    /// Numbers from the start of a row to that of the next.
    pub pitch: usize,
}

/// A matrix product, as in [`Gemm`](crate::matmul::Gemm). f32, or bf16 with `c` in bf16 or f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of `c`.
    pub m: usize,
    /// Columns of `c`.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// `[m, k]`, or `[k, m]` with `transpose_a`.
    pub a: Matrix,
    /// Whether `a` is stored transposed.
    pub transpose_a: bool,
    /// `[k, n]`, or `[n, k]` with `transpose_b`.
    pub b: Matrix,
    /// Whether `b` is stored transposed.
    pub transpose_b: bool,
    /// `[m, n]`, written.
    pub c: Matrix,
    /// Whether the product replaces `c` or is added to it.
    pub write: Write,
}
