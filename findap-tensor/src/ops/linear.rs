//! y = x W^T, with W `[out, in]`, and its two gradients.

use findap_kernels::Write;
use findap_kernels::matmul::cuda::{Matrix, Product};
use findap_kernels::matmul::{Gemm, gemm};

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// y `[n, out]` = x `[n, in]` W^T.
///
/// # Errors
/// As [`gemm`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(y: ViewMut<'_>, x: View<'_>, weight: View<'_>) -> Result<(), TensorError> {
    multiply(y, Write::Overwrite, Factor::plain(x), Factor::transposed(weight))
}

/// dx `[n, in]` (+)= dy `[n, out]` W.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(dx: ViewMut<'_>, write: Write, dy: View<'_>, weight: View<'_>) -> Result<(), TensorError> {
    multiply(dx, write, Factor::plain(dy), Factor::plain(weight))
}

/// dW `[out, in]` += dy^T x.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), TensorError> {
    multiply(dweight, Write::Accumulate, Factor::transposed(dy), Factor::plain(x))
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
        b: b.matrix.host()?,
        transpose_b: b.is_transposed,
        c: c.host()?,
        write,
    })?)
}
