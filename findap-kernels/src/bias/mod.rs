//! The bias of a linear layer: y\[i] += b for every row i.
//!
//! Backward: db += sum over the rows i of dy\[i].

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use crate::check;
use crate::error::KernelError;
use crate::slice::{Slice, SliceMut};

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[rows, columns]`, added to.
    pub y: SliceMut<'a>,
    /// `[columns]`; may be bf16 beside f32.
    pub bias: Slice<'a>,
}

/// The arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// `[columns]`, added to.
    pub dbias: SliceMut<'a>,
    /// `[rows, columns]`.
    pub dy: Slice<'a>,
}

/// Adds the bias to each row.
///
/// # Errors
/// [`KernelError::BadArgument`] for lengths that are no whole rows, [`KernelError::UnsupportedDtype`].
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    const OP: &str = "bias::forward";
    let Forward { y, bias } = args;
    check_rows(OP, "y", y.len(), bias.len())?;
    let dtypes = [("y", y.dtype()), ("bias", bias.dtype())];
    match (y, bias) {
        (SliceMut::F32(y), Slice::F32(bias)) => cpu::forward(y, bias),
        (SliceMut::F32(y), Slice::Bf16(bias)) => cpu::forward(y, bias),
        (SliceMut::F64(y), Slice::F64(bias)) => cpu::forward(y, bias),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Adds the sum over the rows to the gradient of the bias.
///
/// # Numerics
/// The sum runs over fixed groups of rows, so its bits do not depend on the number of threads.
/// # Cost
/// Reads `rows * columns` numbers once.
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    const OP: &str = "bias::backward";
    let Backward { dbias, dy } = args;
    check_rows(OP, "dy", dy.len(), dbias.len())?;
    let dtypes = [("dbias", dbias.dtype()), ("dy", dy.dtype())];
    match (dbias, dy) {
        (SliceMut::F32(dbias), Slice::F32(dy)) => cpu::backward(dbias, dy),
        (SliceMut::F64(dbias), Slice::F64(dy)) => cpu::backward(dbias, dy),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

fn check_rows(op: &'static str, arg: &'static str, len: usize, columns: usize) -> Result<(), KernelError> {
    check::holds(op, "columns", columns as f64, columns > 0, "at least 1")?;
    check::holds(op, arg, len as f64, len.is_multiple_of(columns), "whole rows of the bias's length")
}
