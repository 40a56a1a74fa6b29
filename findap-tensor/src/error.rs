//! Why an op cannot run.

use findap_kernels::cuda::CudaError;
use findap_kernels::{Dtype, KernelError};

/// Why an op cannot run, or memory cannot be had.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorError {
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The device failed, or could not be taken into use.
    #[error(transparent)]
    Cuda(CudaError),
    /// The memory of the device is used up.
    #[error(
        "{want_bytes} bytes for {purpose} do not fit the device's memory, of which {free_bytes} are free; \
         use smaller micro-batches or recompute more"
    )]
    OutOfMemory {
        /// What the memory was for.
        purpose: &'static str,
        /// Bytes asked for.
        want_bytes: usize,
        /// Bytes left.
        free_bytes: usize,
    },
    /// Operands of one op lie on different devices, or a host function was given memory of a device.
    #[error("an operand lies on {found}, where one on {wanted} is needed")]
    OtherDevice {
        /// The device on which the operand should be.
        wanted: String,
        /// The device on which the operand is.
        found: String,
    },
    /// The device has no arithmetic in this format.
    #[error("{device} does not compute in {dtype}; f64 is for the CPU")]
    NoArithmetic {
        /// The device.
        device: String,
        /// The format.
        dtype: Dtype,
    },
}

impl From<CudaError> for TensorError {
    fn from(error: CudaError) -> Self {
        match error {
            CudaError::OutOfMemory { want_bytes, free_bytes } => {
                TensorError::OutOfMemory { purpose: "a run", want_bytes, free_bytes }
            }
            other => TensorError::Cuda(other),
        }
    }
}
