//! Root-mean-square normalisation, alone or after a residual addition.
//!
//! y\[n, i] = x\[n, i] * rstd\[n] * w\[i],   rstd\[n] = 1 / sqrt(mean_i x\[n, i]^2 + eps)
//!
//! With g = dy * w:  dx = rstd * (g - x * rstd^2 * mean_i(g x)),   dw\[i] += sum_n dy\[n, i] x\[n, i] rstd\[n]
//!
//! Saved for the backward pass: rstd, one number a row. Source: Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use crate::check;
use crate::error::KernelError;
use crate::slice::{Slice, SliceMut, Write};

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[rows, dim]`, written.
    pub out: SliceMut<'a>,
    /// `[rows]`, written; the backward pass needs it.
    pub rstd: SliceMut<'a>,
    /// `[rows, dim]`.
    pub x: Slice<'a>,
    /// `[dim]`; may be bf16 beside f32.
    pub weight: Slice<'a>,
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f64,
}

/// The arguments of [`forward_add`].
#[derive(Debug)]
pub struct ForwardAdd<'a> {
    /// `[rows, dim]`, written: the norm of `sum`.
    pub out: SliceMut<'a>,
    /// `[rows, dim]`, written: x + residual, the new residual stream.
    pub sum: SliceMut<'a>,
    /// `[rows]`, written.
    pub rstd: SliceMut<'a>,
    /// `[rows, dim]`.
    pub x: Slice<'a>,
    /// `[rows, dim]`.
    pub residual: Slice<'a>,
    /// `[dim]`; may be bf16 beside f32.
    pub weight: Slice<'a>,
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f64,
}

/// The arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// `[rows, dim]`, written.
    pub dx: SliceMut<'a>,
    /// Whether `dx` is replaced or added to, as the residual stream wants.
    pub write_dx: Write,
    /// `[dim]`, added to; `None` for a frozen weight.
    pub dweight: Option<SliceMut<'a>>,
    /// `[rows, dim]`.
    pub dy: Slice<'a>,
    /// `[rows, dim]`, the input of the forward pass (`sum` after [`forward_add`]).
    pub x: Slice<'a>,
    /// `[dim]`; may be bf16 beside f32.
    pub weight: Slice<'a>,
    /// `[rows]`, from the forward pass.
    pub rstd: Slice<'a>,
    /// Rows.
    pub rows: usize,
    /// Numbers per row.
    pub dim: usize,
}

/// Normalises each row.
///
/// # Numerics
/// Sums and stores in the format of `x`. Each row depends on itself alone.
/// # Cost
/// Reads and writes `rows * dim` numbers once.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a negative `eps`.
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    const OP: &str = "rms_norm::forward";
    let Forward { out, rstd, x, weight, rows, dim, eps } = args;
    check::length(OP, "out", out.len(), rows * dim)?;
    check::length(OP, "x", x.len(), rows * dim)?;
    check::length(OP, "rstd", rstd.len(), rows)?;
    check::length(OP, "weight", weight.len(), dim)?;
    check::holds(OP, "eps", eps, eps >= 0.0, "at least 0")?;
    let dtypes = [("out", out.dtype()), ("rstd", rstd.dtype()), ("x", x.dtype()), ("weight", weight.dtype())];
    match (out, rstd, x, weight) {
        (SliceMut::F32(out), SliceMut::F32(rstd), Slice::F32(x), Slice::F32(w)) => {
            cpu::forward(out, rstd, x, w, dim, eps)
        }
        (SliceMut::F32(out), SliceMut::F32(rstd), Slice::F32(x), Slice::Bf16(w)) => {
            cpu::forward(out, rstd, x, w, dim, eps)
        }
        (SliceMut::F64(out), SliceMut::F64(rstd), Slice::F64(x), Slice::F64(w)) => {
            cpu::forward(out, rstd, x, w, dim, eps)
        }
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Adds two tensors and normalises each row of the sum, in one pass over memory.
///
/// # Errors
/// As [`forward`].
pub fn forward_add(args: ForwardAdd<'_>) -> Result<(), KernelError> {
    const OP: &str = "rms_norm::forward_add";
    let ForwardAdd { out, sum, rstd, x, residual, weight, rows, dim, eps } = args;
    for (arg, got) in [("out", out.len()), ("sum", sum.len()), ("x", x.len()), ("residual", residual.len())] {
        check::length(OP, arg, got, rows * dim)?;
    }
    check::length(OP, "rstd", rstd.len(), rows)?;
    check::length(OP, "weight", weight.len(), dim)?;
    check::holds(OP, "eps", eps, eps >= 0.0, "at least 0")?;
    let dtypes = [("out", out.dtype()), ("sum", sum.dtype()), ("x", x.dtype()), ("weight", weight.dtype())];
    use {Slice as S, SliceMut as M};
    match (out, sum, rstd, x, residual, weight) {
        (M::F32(out), M::F32(sum), M::F32(rstd), S::F32(x), S::F32(r), S::F32(w)) => {
            cpu::forward_add(out, sum, rstd, x, r, w, dim, eps)
        }
        (M::F32(out), M::F32(sum), M::F32(rstd), S::F32(x), S::F32(r), S::Bf16(w)) => {
            cpu::forward_add(out, sum, rstd, x, r, w, dim, eps)
        }
        (M::F64(out), M::F64(sum), M::F64(rstd), S::F64(x), S::F64(r), S::F64(w)) => {
            cpu::forward_add(out, sum, rstd, x, r, w, dim, eps)
        }
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// The gradients of [`forward`].
///
/// # Numerics
/// `dweight` is summed over fixed groups of rows, so its bits do not depend on the number of threads.
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    const OP: &str = "rms_norm::backward";
    let Backward { dx, write_dx, dweight, dy, x, weight, rstd, rows, dim } = args;
    for (arg, got) in [("dx", dx.len()), ("dy", dy.len()), ("x", x.len())] {
        check::length(OP, arg, got, rows * dim)?;
    }
    check::length(OP, "rstd", rstd.len(), rows)?;
    check::length(OP, "weight", weight.len(), dim)?;
    let dweight_dtype = dweight.as_ref().map_or(dx.dtype(), SliceMut::dtype);
    check::length(OP, "dweight", dweight.as_ref().map_or(dim, SliceMut::len), dim)?;
    let dtypes = [("dx", dx.dtype()), ("dweight", dweight_dtype), ("dy", dy.dtype()), ("weight", weight.dtype())];
    use {Slice as S, SliceMut as M};
    match (dx, dweight, dy, x, weight, rstd) {
        (M::F32(dx), dw @ (None | Some(M::F32(_))), S::F32(dy), S::F32(x), S::F32(w), S::F32(rstd)) => {
            cpu::backward(dx, write_dx, dw.and_then(SliceMut::into_f32), dy, x, w, rstd, dim)
        }
        (M::F32(dx), dw @ (None | Some(M::F32(_))), S::F32(dy), S::F32(x), S::Bf16(w), S::F32(rstd)) => {
            cpu::backward(dx, write_dx, dw.and_then(SliceMut::into_f32), dy, x, w, rstd, dim)
        }
        (M::F64(dx), dw @ (None | Some(M::F64(_))), S::F64(dy), S::F64(x), S::F64(w), S::F64(rstd)) => {
            cpu::backward(dx, write_dx, dw.and_then(SliceMut::into_f64), dy, x, w, rstd, dim)
        }
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}
