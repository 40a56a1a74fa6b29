//! Sums over whole tensors, and the passes over them.

use findap_kernels::cuda::Operand;
use findap_kernels::reduce::{self, cuda};
use findap_kernels::{Dtype, Write};

use crate::error::TensorError;
use crate::tensor::Tensor;

/// The sum of squares, in f64; finite only if every number is. On a device, waits for everything queued so far.
///
/// # Errors
/// [`TensorError::Cuda`], also for an earlier op that failed on the device.
pub fn sum_squares(x: &Tensor) -> Result<f64, TensorError> {
    let view = x.all();
    let Some(device) = view.cuda() else { return Ok(reduce::sum_squares(view.host()?)) };
    let x = view.on(device)?;
    // the total, and behind it what the kernel needs
    const START: u64 = 256;
    device.with_scratch(START as usize + 8 * cuda::SUM_SQUARES_SCRATCH_LEN, |address| {
        let total = Operand { address, len: 1, dtype: Dtype::F64 };
        let scratch = Operand { address: address + START, len: cuda::SUM_SQUARES_SCRATCH_LEN, dtype: Dtype::F64 };
        device.run(&cuda::sum_squares(&total, Write::Overwrite, &x, &scratch)?)?;
        let mut bytes = [0; 8];
        device.read_scratch(address, &mut bytes)?;
        Ok(f64::from_ne_bytes(bytes))
    })
}

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
