//! Dense matrix products, the bulk of a training step.
//!
//! c[i, j] (+)= sum_p op(a)[i, p] * op(b)[p, j],   op(x) = x or its transpose
//!
//! All matrices are row-major and contiguous. A linear layer y = x W^T with W `[out, in]` is `transpose_b`; its two
//! gradients are dx = dy W (no transpose) and dW = dy^T x (`transpose_a`, accumulating).

pub(crate) mod bf16;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod packed;
mod reference;
#[cfg(test)]
mod tests;
mod weight;

use self::packed::Panels;
pub use self::packed::{Packed, PackedFormat};
pub use self::weight::{PackedWeight, Weight};
use crate::check;
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::isa::{Bf16Isa, Isa};
use crate::slice::{Slice, SliceMut, Write};

/// The arguments of [`gemm`].
#[derive(Debug)]
pub struct Gemm<'a> {
    /// Rows of `c`.
    pub m: usize,
    /// Columns of `c`.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// `[m, k]`, or `[k, m]` with `transpose_a`.
    pub a: Slice<'a>,
    /// Whether `a` is stored transposed.
    pub transpose_a: bool,
    /// `[k, n]`, or `[n, k]` with `transpose_b`.
    pub b: Factor<'a>,
    /// Whether `b` is stored transposed; not looked at where it is packed.
    pub transpose_b: bool,
    /// `[m, n]`, written.
    pub c: SliceMut<'a>,
    /// Whether the product replaces `c` or is added to it.
    pub write: Write,
}

/// The right factor, and by it the arithmetic.
#[derive(Clone, Copy, Debug)]
pub enum Factor<'a> {
    /// Computed in the format of the other factor; bf16 beside f32 is a weight.
    Plain(Slice<'a>),
    /// Both factors are rounded to bf16 and summed in f32.
    Rounded(Slice<'a>),
    /// As [`Factor::Plain`] in f32 or as [`Factor::Rounded`], packed before.
    Packed(&'a Packed),
}

impl<'a, S: Into<Slice<'a>>> From<S> for Factor<'a> {
    fn from(b: S) -> Self {
        Factor::Plain(b.into())
    }
}

/// Computes a matrix product.
///
/// # Shapes
/// `a`: `m * k`, `b`: `k * n`, `c`: `m * n` numbers; any of the sizes may be 0.
/// # Numerics
/// f32 sums in f32, f64 in f64, by blocks of k whose length depends on k alone. The bits of c[i, j] depend on row i of op(a),
/// column j of op(b) and k: not on the other rows, on their number, or on the number of threads. With factors rounded to bf16,
/// sums are in f32 by the same rule, and a `c` in bf16 is rounded once.
/// # Cost
/// 2 m n k operations; operands that are not packed already are packed once or a few times into buffers that each thread keeps.
/// # Errors
/// [`KernelError::ShapeMismatch`] if a length disagrees with the sizes; [`KernelError::UnsupportedDtype`] for formats other
/// than all f32, all f64, f32 with `b` in bf16, or any of f32 and bf16 with factors rounded to bf16;
/// [`KernelError::MissingInstructions`] for these where the environment asks for too much.
pub fn gemm(args: Gemm<'_>) -> Result<(), KernelError> {
    const OP: &str = "matmul::gemm";
    let Gemm { m, n, k, a, transpose_a, b, transpose_b, c, write } = args;
    check::length(OP, "a", a.len(), m * k)?;
    check::length(OP, "c", c.len(), m * n)?;
    let shape = Shape { m, n, k, transpose_a, transpose_b, write };
    let b = match b {
        Factor::Plain(b) => b,
        Factor::Packed(packed @ Packed { panels: Panels::F32(panels), .. }) => {
            packed.check(OP, k, n)?;
            let dtypes = [("a", a.dtype()), ("c", c.dtype())];
            let (Slice::F32(a), SliceMut::F32(c)) = (a, c) else {
                return Err(check::unsupported(OP, dtypes));
            };
            cpu::gemm_packed(shape, a, panels, c);
            return Ok(());
        }
        Factor::Packed(_) | Factor::Rounded(_) => {
            return gemm_in_bf16(OP, bf16::Kernel::of(Bf16Isa::current()?), shape, a, b, c);
        }
    };
    check::length(OP, "b", b.len(), k * n)?;
    let dtypes = [("a", a.dtype()), ("b", b.dtype()), ("c", c.dtype())];
    match (a, b, c) {
        (Slice::F32(a), Slice::F32(b), SliceMut::F32(c)) => cpu::gemm(Isa::current(), shape, a, b, c),
        (Slice::F64(a), Slice::F64(b), SliceMut::F64(c)) => cpu::gemm(Isa::current(), shape, a, b, c),
        (Slice::F32(a), Slice::Bf16(b), SliceMut::F32(c)) => cpu::gemm(Isa::current(), shape, a, b, c),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// The product of factors rounded to bf16, by a kernel; any of `a`, b and `c` may be in f32 or bf16.
fn gemm_in_bf16(
    op: &'static str,
    kernel: &bf16::Kernel,
    shape: Shape,
    a: Slice<'_>,
    b: Factor<'_>,
    c: SliceMut<'_>,
) -> Result<(), KernelError> {
    let right = match b {
        Factor::Packed(packed) => {
            packed.check(op, shape.k, shape.n)?;
            let Panels::Bf16(lines) = &packed.panels else {
                return Err(check::unsupported(op, [("b", Dtype::F32)]));
            };
            bf16::Right::Packed(lines)
        }
        Factor::Plain(b) | Factor::Rounded(b) => {
            check::length(op, "b", b.len(), shape.k * shape.n)?;
            bf16::Right::Stored(b)
        }
    };
    bf16::gemm(op, kernel, shape, a, right, c)
}

/// What a product is, apart from its operands.
#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
    transpose_b: bool,
    write: Write,
}
