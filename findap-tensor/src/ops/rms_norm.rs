//! Normalisation of rows.

use findap_kernels::rms_norm::{self, Backward, Forward, ForwardAdd};
use findap_kernels::{KernelError, Write};

use crate::tensor::{View, ViewMut};

/// out `[n, d]` = norm of x; rstd `[n, 1]`.
///
/// # Errors
/// As [`rms_norm::forward`].
pub fn forward(
    out: ViewMut<'_>,
    rstd: ViewMut<'_>,
    x: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<(), KernelError> {
    rms_norm::forward(Forward {
        out: out.data,
        rstd: rstd.data,
        x: x.data,
        weight: weight.data,
        rows: x.rows,
        dim: x.columns,
        eps,
    })
}

/// sum `[n, d]` = x + residual, out = norm of sum.
///
/// # Errors
/// As [`rms_norm::forward_add`].
pub fn forward_add(
    out: ViewMut<'_>,
    sum: ViewMut<'_>,
    rstd: ViewMut<'_>,
    x: View<'_>,
    residual: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<(), KernelError> {
    rms_norm::forward_add(ForwardAdd {
        out: out.data,
        sum: sum.data,
        rstd: rstd.data,
        x: x.data,
        residual: residual.data,
        weight: weight.data,
        rows: x.rows,
        dim: x.columns,
        eps,
    })
}

/// What the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[n, d]`: the input that was normalised.
    pub x: View<'a>,
    /// `[n, 1]`.
    pub rstd: View<'a>,
    /// `[1, d]`.
    pub weight: View<'a>,
}

/// dx (+)= the gradient of the input; dweight += that of the weight.
///
/// # Errors
/// As [`rms_norm::backward`].
pub fn backward(
    dx: ViewMut<'_>,
    write_dx: Write,
    dweight: ViewMut<'_>,
    dy: View<'_>,
    saved: Saved<'_>,
) -> Result<(), KernelError> {
    rms_norm::backward(Backward {
        dx: dx.data,
        write_dx,
        dweight: dweight.data,
        dy: dy.data,
        x: saved.x.data,
        weight: saved.weight.data,
        rstd: saved.rstd.data,
        rows: saved.x.rows,
        dim: saved.x.columns,
    })
}
