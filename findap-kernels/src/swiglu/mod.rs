//! The gated unit of the Llama MLP: out = gate * sigmoid(gate) * up.
//!
//! With s = sigmoid(gate):  dup = dout * gate * s,   dgate = dout * up * s * (1 + gate * (1 - s))
//!
//! Source: Shazeer 2020, arXiv:2002.05202, eq. 5.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::slice::{Slice, SliceMut};

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[n]`, written.
    pub out: SliceMut<'a>,
    /// `[n]`.
    pub gate: Slice<'a>,
    /// `[n]`.
    pub up: Slice<'a>,
}

/// The arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// `[n]`, written.
    pub dgate: SliceMut<'a>,
    /// `[n]`, written.
    pub dup: SliceMut<'a>,
    /// `[n]`.
    pub dout: Slice<'a>,
    /// `[n]`, as in the forward pass.
    pub gate: Slice<'a>,
    /// `[n]`, as in the forward pass.
    pub up: Slice<'a>,
}

/// Computes the gated unit.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`].
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    const OP: &str = "swiglu::forward";
    let Forward { out, gate, up } = args;
    check::length(OP, "gate", gate.len(), out.len())?;
    check::length(OP, "up", up.len(), out.len())?;
    let dtypes = [("out", out.dtype()), ("gate", gate.dtype()), ("up", up.dtype())];
    match (out, gate, up) {
        (SliceMut::F32(out), Slice::F32(gate), Slice::F32(up)) => gated(out, gate, up),
        (SliceMut::F64(out), Slice::F64(gate), Slice::F64(up)) => gated(out, gate, up),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// The gradients of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    const OP: &str = "swiglu::backward";
    let Backward { dgate, dup, dout, gate, up } = args;
    for (arg, got) in [("dup", dup.len()), ("dout", dout.len()), ("gate", gate.len()), ("up", up.len())] {
        check::length(OP, arg, got, dgate.len())?;
    }
    let dtypes = [("dgate", dgate.dtype()), ("dup", dup.dtype()), ("dout", dout.dtype()), ("gate", gate.dtype())];
    use {Slice as S, SliceMut as M};
    match (dgate, dup, dout, gate, up) {
        (M::F32(dgate), M::F32(dup), S::F32(dout), S::F32(gate), S::F32(up)) => gradients(dgate, dup, dout, gate, up),
        (M::F64(dgate), M::F64(dup), S::F64(dout), S::F64(gate), S::F64(up)) => gradients(dgate, dup, dout, gate, up),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Numbers of one task: four arrays of them stay in the second-level cache.
const TASK: usize = 16_384;

fn gated<T: Real>(out: &mut [T], gate: &[T], up: &[T]) {
    out.par_chunks_mut(TASK).zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK)).for_each(|((out, gate), up)| {
        vectorised(
            #[inline(always)]
            || {
                for ((y, &g), &u) in out.iter_mut().zip(gate).zip(up) {
                    *y = g / (T::ONE + (-g).exp_vector()) * u;
                }
            },
        )
    });
}

fn gradients<T: Real>(dgate: &mut [T], dup: &mut [T], dout: &[T], gate: &[T], up: &[T]) {
    let outputs = dgate.par_chunks_mut(TASK).zip(dup.par_chunks_mut(TASK));
    let inputs = dout.par_chunks(TASK).zip(gate.par_chunks(TASK)).zip(up.par_chunks(TASK));
    outputs.zip(inputs).for_each(|((dgate, dup), ((dout, gate), up))| {
        vectorised(
            #[inline(always)]
            || {
                for i in 0..dgate.len() {
                    let (g, d) = (gate[i], dout[i]);
                    let s = T::ONE / (T::ONE + (-g).exp_vector());
                    dup[i] = d * g * s;
                    dgate[i] = d * up[i] * s * (T::ONE + g * (T::ONE - s));
                }
            },
        )
    });
}
