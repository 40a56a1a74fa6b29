//! y = x W^T, with W `[out, in]`, and its two gradients.

use findap_kernels::Write;
use findap_kernels::matmul::cuda::{Matrix, Product};
use findap_kernels::matmul::{self, Gemm, PackedWeight, gemm};

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// W `[out, in]`, as its products read it.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// As it is stored.
    Plain(View<'a>),
    /// Packed for products in bf16 on the CPU; operands beside it may be f32.
    Packed(&'a PackedWeight),
}

impl<'a> From<View<'a>> for Weight<'a> {
    fn from(weight: View<'a>) -> Self {
        Weight::Plain(weight)
    }
}

impl<'a> Weight<'a> {
    /// Rows and columns.
    pub(crate) fn shape(self) -> (usize, usize) {
        match self {
            Weight::Plain(weight) => (weight.rows, weight.columns),
            Weight::Packed(weight) => (weight.rows(), weight.columns()),
        }
    }

    pub(crate) fn host(self) -> Result<matmul::Weight<'a>, TensorError> {
        match self {
            Weight::Plain(weight) => Ok(matmul::Weight::Plain(weight.host()?)),
            Weight::Packed(weight) => Ok(matmul::Weight::Packed(weight)),
        }
    }
}

/// y `[n, out]` = x `[n, in]` W^T.
///
/// # Errors
/// As [`gemm`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward<'w>(y: ViewMut<'_>, x: View<'_>, weight: impl Into<Weight<'w>>) -> Result<(), TensorError> {
    match weight.into() {
        Weight::Plain(weight) => multiply(y, Write::Overwrite, Factor::plain(x), Factor::transposed(weight)),
        Weight::Packed(weight) => {
            let factor = matmul::Weight::Packed(weight).of_forward();
            multiply_packed(y, Write::Overwrite, x, factor, weight.rows())
        }
    }
}

/// dx `[n, in]` (+)= dy `[n, out]` W.
///
/// # Errors
/// As [`forward`].
pub fn backward_input<'w>(
    dx: ViewMut<'_>,
    write: Write,
    dy: View<'_>,
    weight: impl Into<Weight<'w>>,
) -> Result<(), TensorError> {
    match weight.into() {
        Weight::Plain(weight) => multiply(dx, write, Factor::plain(dy), Factor::plain(weight)),
        Weight::Packed(weight) => {
            let factor = matmul::Weight::Packed(weight).of_backward()?;
            multiply_packed(dx, write, dy, factor, weight.columns())
        }
    }
}

/// dW `[out, in]` += dy^T x; with the others in bf16, in f32, or on a device bf16: the sum of f32 is rounded once.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), TensorError> {
    multiply(dweight, Write::Accumulate, Factor::transposed(dy), Factor::plain(x))
}

/// [`backward_weight`] on the CPU with dy and x rounded to bf16.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight_in_bf16(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), TensorError> {
    Ok(gemm(Gemm {
        m: dy.columns,
        n: x.columns,
        k: dy.rows,
        a: dy.host()?,
        transpose_a: true,
        b: matmul::Factor::Rounded(x.host()?),
        transpose_b: false,
        c: dweight.host()?,
        write: Write::Accumulate,
    })?)
}

fn multiply_packed(
    c: ViewMut<'_>,
    write: Write,
    a: View<'_>,
    b: matmul::Factor<'_>,
    n: usize,
) -> Result<(), TensorError> {
    Ok(gemm(Gemm {
        m: a.rows,
        n,
        k: a.columns,
        a: a.host()?,
        transpose_a: false,
        b,
        transpose_b: false,
        c: c.host()?,
        write,
    })?)
}

#[derive(Clone, Copy)]
struct Factor<'a> {
    matrix: View<'a>,
    is_transposed: bool,
}

impl<'a> Factor<'a> {
    fn plain(matrix: View<'a>) -> Self {
        Factor { matrix, is_transposed: false }
    }

    fn transposed(matrix: View<'a>) -> Self {
        Factor { matrix, is_transposed: true }
    }
}

/// The sizes are those of `c` and the rows or columns of `a`; that `b` fits them is found by the kernels.
fn multiply(c: ViewMut<'_>, write: Write, a: Factor<'_>, b: Factor<'_>) -> Result<(), TensorError> {
    let k = if a.is_transposed { a.matrix.rows } else { a.matrix.columns };
    let m = if a.is_transposed { a.matrix.columns } else { a.matrix.rows };
    let n = if b.is_transposed { b.matrix.rows } else { b.matrix.columns };
    if let Some(device) = c.cuda() {
        let matrix = |view: View<'_>| Ok::<_, TensorError>(Matrix { numbers: view.on(device)?, pitch: view.columns });
        return device.multiply(&Product {
            m,
            n,
            k,
            a: matrix(a.matrix)?,
            transpose_a: a.is_transposed,
            b: matrix(b.matrix)?,
            transpose_b: b.is_transposed,
            c: matrix(c.as_view())?,
            write,
        });
    }
    Ok(gemm(Gemm {
        m,
        n,
        k,
        a: a.matrix.host()?,
        transpose_a: a.is_transposed,
        b: b.matrix.host()?.into(),
        transpose_b: b.is_transposed,
        c: c.host()?,
        write,
    })?)
}
