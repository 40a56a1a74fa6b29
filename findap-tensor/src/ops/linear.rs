//! y = x W^T, with W `[out, in]`, and its two gradients.

use findap_kernels::Write;
use findap_kernels::cuda::{Matrix, Product};
use findap_kernels::matmul::{self, Gemm, PackedWeight, gemm};

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// W `[out, in]`, as its products read it.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    /// The matrix as it is stored.
    Plain(View<'a>),
    /// A copy packed for products on the CPU; operands beside it may be f32.
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
    let weight = match weight.into() {
        Weight::Plain(weight) => Right::transposed(weight),
        Weight::Packed(weight) => Right::OnHost(matmul::Weight::Packed(weight).of_forward()),
    };
    multiply(y, Write::Overwrite, Factor::plain(x), weight)
}

/// y `[n, out]` += x `[n, in]` W^T.
///
/// # Errors
/// As [`forward`].
pub fn forward_add(y: ViewMut<'_>, x: View<'_>, weight: View<'_>) -> Result<(), TensorError> {
    multiply(y, Write::Accumulate, Factor::plain(x), Right::transposed(weight))
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
    let weight = match weight.into() {
        Weight::Plain(weight) => Right::plain(weight),
        Weight::Packed(weight) => Right::OnHost(matmul::Weight::Packed(weight).of_backward()?),
    };
    multiply(dx, write, Factor::plain(dy), weight)
}

/// dW `[out, in]` += dy^T x. Where the others are bf16, dW is f32, or on a device bf16: the sum in f32 is then rounded once.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), TensorError> {
    multiply(dweight, Write::Accumulate, Factor::transposed(dy), Right::plain(x))
}

/// Computes [`backward_weight`] on the CPU with dy and x rounded to bf16.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight_in_bf16(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), TensorError> {
    let x = Right::OnHost(matmul::Factor::Rounded(x.host()?));
    multiply(dweight, Write::Accumulate, Factor::transposed(dy), x)
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

    /// Rows and columns of the factor.
    fn shape(self) -> (usize, usize) {
        let View { rows, columns, .. } = self.matrix;
        if self.is_transposed { (columns, rows) } else { (rows, columns) }
    }
}

/// The right factor of a product.
#[derive(Clone, Copy)]
enum Right<'a> {
    Stored(Factor<'a>),
    /// A factor in a form that only products on the CPU read.
    OnHost(matmul::Factor<'a>),
}

impl<'a> Right<'a> {
    fn plain(matrix: View<'a>) -> Self {
        Right::Stored(Factor::plain(matrix))
    }

    fn transposed(matrix: View<'a>) -> Self {
        Right::Stored(Factor::transposed(matrix))
    }
}

/// Multiplies two factors into `c`; the kernels check that the sizes fit. On a device, rows of `c` may be longer than the product's.
fn multiply(c: ViewMut<'_>, write: Write, a: Factor<'_>, b: Right<'_>) -> Result<(), TensorError> {
    let (m, k) = a.shape();
    let n = match b {
        Right::Stored(b) => b.shape().1,
        Right::OnHost(_) => c.columns,
    };
    if let (Some(device), Right::Stored(b)) = (c.cuda(), b) {
        let matrix = |view: View<'_>| Ok::<_, TensorError>(Matrix { elements: view.on(device)?, pitch: view.columns });
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
    let (b, transpose_b) = match b {
        Right::Stored(b) => (b.matrix.host()?.into(), b.is_transposed),
        Right::OnHost(b) => (b, false),
    };
    Ok(gemm(Gemm { m, n, k, a: a.matrix.host()?, transpose_a: a.is_transposed, b, transpose_b, c: c.host()?, write })?)
}
