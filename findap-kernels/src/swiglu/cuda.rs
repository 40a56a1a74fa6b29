//! Launches of the gated unit.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::cuda::launch::elementwise;
use crate::cuda::operand::{array, one_of};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "swiglu/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

const FORMATS: [Dtype; 2] = [Dtype::F32, Dtype::Bf16];

/// The arguments of [`forward`], as in [`super::Forward`]: arrays of one length and format.
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// `[n]`, written; may be `gate` or `up`.
    pub out: Operand,
    /// `[n]`.
    pub gate: Operand,
    /// `[n]`.
    pub up: Operand,
}

/// Computes the gated unit.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for an address that is no
/// multiple of 16.
pub fn forward(args: &Forward) -> Result<Launch, KernelError> {
    const OP: &str = "swiglu::forward";
    let Forward { out, gate, up } = *args;
    for (arg, operand) in [("out", out), ("gate", gate), ("up", up)] {
        array(OP, arg, &operand, out.len)?;
    }
    let dtypes = [("out", out.dtype), ("gate", gate.dtype), ("up", up.dtype)];
    let format = one_of(OP, dtypes, FORMATS.map(|dtype| [dtype; 3]))?;
    let kernel = ["swiglu_fwd_f32", "swiglu_fwd_bf16"][format];
    let args = vec![out.arg(), gate.arg(), up.arg(), Arg::I64(out.len as i64)];
    elementwise(OP, &SOURCE, kernel, &out, args)
}

/// The arguments of [`backward`], as in [`super::Backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// `[n]`, written; may be `gate`.
    pub dgate: Operand,
    /// `[n]`, written; may be `up` or `dout`.
    pub dup: Operand,
    /// `[n]`.
    pub dout: Operand,
    /// `[n]`.
    pub gate: Operand,
    /// `[n]`.
    pub up: Operand,
}

/// The gradients of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(args: &Backward) -> Result<Launch, KernelError> {
    const OP: &str = "swiglu::backward";
    let Backward { dgate, dup, dout, gate, up } = *args;
    for (arg, operand) in [("dgate", dgate), ("dup", dup), ("dout", dout), ("gate", gate), ("up", up)] {
        array(OP, arg, &operand, dgate.len)?;
    }
    let dtypes =
        [("dgate", dgate.dtype), ("dup", dup.dtype), ("dout", dout.dtype), ("gate", gate.dtype), ("up", up.dtype)];
    let format = one_of(OP, dtypes, FORMATS.map(|dtype| [dtype; 5]))?;
    let kernel = ["swiglu_bwd_f32", "swiglu_bwd_bf16"][format];
    let args = vec![dgate.arg(), dup.arg(), dout.arg(), gate.arg(), up.arg(), Arg::I64(dgate.len as i64)];
    elementwise(OP, &SOURCE, kernel, &dgate, args)
}
