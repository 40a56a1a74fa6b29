//! One run of one kernel as a value.

use super::arg::Arg;
use super::error::CudaError;
use super::operand::{Operand, to_u32};
use super::source::Source;
use crate::error::KernelError;

/// One run of one kernel. A family's `cuda.rs` makes it from checked arguments; an [`Executor`](super::Executor) runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The source that has the kernel.
    pub source: &'static Source,
    /// The entry point.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// One for each parameter of the kernel, in its order and of its type.
    pub args: Vec<Arg>,
}

impl Launch {
    /// Refuses what a block cannot have.
    ///
    /// # Errors
    /// [`CudaError::SharedMemory`].
    pub(crate) fn check_shared(&self, limit_bytes: u32) -> Result<(), CudaError> {
        if self.shared_bytes <= limit_bytes {
            return Ok(());
        }
        Err(CudaError::SharedMemory { kernel: self.kernel, want_bytes: self.shared_bytes, limit_bytes })
    }
}

/// A launch in which each thread of 256 has 16 bytes of `over`.
pub(crate) fn elementwise(
    op: &'static str,
    source: &'static Source,
    kernel: &'static str,
    over: &Operand,
    args: Vec<Arg>,
) -> Result<Launch, KernelError> {
    elementwise_by(op, source, kernel, over.len, 16 / over.dtype.size_bytes(), args)
}

/// A launch in which each thread of 256 has `per_thread` of `len` numbers.
pub(crate) fn elementwise_by(
    op: &'static str,
    source: &'static Source,
    kernel: &'static str,
    len: usize,
    per_thread: usize,
    args: Vec<Arg>,
) -> Result<Launch, KernelError> {
    let blocks = to_u32(op, "blocks", len.div_ceil(per_thread).div_ceil(256))?.max(1);
    Ok(Launch { source, kernel, grid: [blocks, 1, 1], block: [256, 1, 1], shared_bytes: 0, args })
}
