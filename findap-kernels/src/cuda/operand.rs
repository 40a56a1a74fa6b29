//! Arrays in device memory: an address, a length and a format.

use super::arg::Arg;
use crate::check;
use crate::dtype::Dtype;
use crate::error::KernelError;

/// Contiguous numbers in the memory of an executor. It owns nothing, as a pointer does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The address of the first number.
    pub address: u64,
    /// Numbers.
    pub len: usize,
    /// Their format.
    pub dtype: Dtype,
}

impl Operand {
    /// The pointer that a kernel takes.
    pub fn arg(&self) -> Arg {
        Arg::Address(self.address)
    }
}

/// Contiguous `u32` numbers in the memory of an executor: tokens, positions, offsets. A kernel cannot refuse a bad one, so who
/// writes them checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// The address of the first number.
    pub address: u64,
    /// Numbers.
    pub len: usize,
}

impl Indices {
    /// The pointer that a kernel takes.
    pub fn arg(&self) -> Arg {
        Arg::Address(self.address)
    }
}

/// `want` numbers at a multiple of 16 bytes, as loads of 16 bytes need.
pub(crate) fn array(op: &'static str, arg: &'static str, operand: &Operand, want: usize) -> Result<(), KernelError> {
    check::length(op, arg, operand.len, want)?;
    aligned(op, arg, operand)
}

/// At a multiple of 16 bytes.
pub(crate) fn aligned(op: &'static str, arg: &'static str, operand: &Operand) -> Result<(), KernelError> {
    let past = operand.address % 16;
    check::holds(op, arg, past as f64, past == 0, "an address 0 bytes past a multiple of 16")
}

/// One of several lists of formats; `which` names the arguments in the order of the list.
pub(crate) fn one_of<const N: usize, const M: usize>(
    op: &'static str,
    which: [(&'static str, Dtype); N],
    allowed: [[Dtype; N]; M],
) -> Result<usize, KernelError> {
    let given = which.map(|(_, dtype)| dtype);
    allowed.iter().position(|allowed| *allowed == given).ok_or_else(|| check::unsupported(op, which))
}

/// A size as the 32-bit numbers of kernels and grids have it.
pub(crate) fn to_u32(op: &'static str, arg: &'static str, x: usize) -> Result<u32, KernelError> {
    check::holds(op, arg, x as f64, x <= i32::MAX as usize, "at most 2^31 - 1")?;
    Ok(x as u32)
}
