//! y = x W^T, with W `[out, in]`, and its two gradients.

use findap_kernels::matmul::{Gemm, gemm};
use findap_kernels::{KernelError, Write};

use crate::tensor::{View, ViewMut};

/// y `[n, out]` = x `[n, in]` W^T.
///
/// # Errors
/// As [`gemm`].
pub fn forward(y: ViewMut<'_>, x: View<'_>, weight: View<'_>) -> Result<(), KernelError> {
    gemm(Gemm {
        m: x.rows,
        n: weight.rows,
        k: weight.columns,
        a: x.data,
        transpose_a: false,
        b: weight.data,
        transpose_b: true,
        c: y.data,
        write: Write::Overwrite,
    })
}

/// dx `[n, in]` (+)= dy `[n, out]` W.
///
/// # Errors
/// As [`gemm`].
pub fn backward_input(dx: ViewMut<'_>, write: Write, dy: View<'_>, weight: View<'_>) -> Result<(), KernelError> {
    gemm(Gemm {
        m: dy.rows,
        n: weight.columns,
        k: weight.rows,
        a: dy.data,
        transpose_a: false,
        b: weight.data,
        transpose_b: false,
        c: dx.data,
        write,
    })
}

/// dW `[out, in]` += dy^T x.
///
/// # Errors
/// As [`gemm`].
pub fn backward_weight(dweight: ViewMut<'_>, dy: View<'_>, x: View<'_>) -> Result<(), KernelError> {
    gemm(Gemm {
        m: dweight.rows,
        n: dweight.columns,
        k: dy.rows,
        a: dy.data,
        transpose_a: true,
        b: x.data,
        transpose_b: false,
        c: dweight.data,
        write: Write::Accumulate,
    })
}
