//! Passes over whole tensors.

use findap_kernels::reduce::{self, cuda};

use crate::error::TensorError;
use crate::tensor::Tensor;

/// Sets every number to 0.
///
/// # Errors
/// [`TensorError::Cuda`].
pub fn clear(x: &mut Tensor) -> Result<(), TensorError> {
    match x.memory_mut() {
        Some(memory) => memory.clear(),
        None => {
            reduce::fill(x.slice_mut(), 0.0);
            Ok(())
        }
    }
}

/// out = x rounded to the format of `out`, between f32 and bf16.
///
/// # Errors
/// As [`reduce::cast`] and [`cuda::cast`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn cast(out: &mut Tensor, x: &Tensor) -> Result<(), TensorError> {
    let (out, x) = (out.all_mut(), x.all());
    if let Some(device) = out.cuda() {
        return device.run(&[cuda::cast(&out.on(device)?, &x.on(device)?, cuda::Rounding::Nearest)?]);
    }
    Ok(reduce::cast(out.host()?, x.host()?)?)
}
