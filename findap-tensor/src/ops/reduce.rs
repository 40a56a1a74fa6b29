//! Passes over whole tensors.

use findap_kernels::reduce::{self, cuda};

use crate::error::TensorError;
use crate::tensor::{Tensor, ViewMut};

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

/// x *= factor.
///
/// # Errors
/// As [`reduce::scale`] and [`cuda::scale`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn scale(x: ViewMut<'_>, factor: f64) -> Result<(), TensorError> {
    if let Some(device) = x.cuda() {
        return device.run(&[cuda::scale(&x.on(device)?, factor)?]);
    }
    Ok(reduce::scale(x.host()?, factor)?)
}

/// out = x rounded to the format of `out`, between f32 and bf16.
///
/// # Errors
/// As [`reduce::cast`] and [`cuda::cast`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn cast(out: &mut Tensor, x: &Tensor) -> Result<(), TensorError> {
    let len = out.len();
    cast_part(out, 0, x, 0, len.max(x.len()))
}

/// Casts `len` numbers of `x` from `x_start` on to those of `out` from `start` on, as [`cast`] does.
///
/// # Errors
/// As [`cast`].
///
/// # Panics
/// If there are fewer numbers.
pub fn cast_part(out: &mut Tensor, start: usize, x: &Tensor, x_start: usize, len: usize) -> Result<(), TensorError> {
    let (out, x) = (out.part_mut(start, 1, len), x.part(x_start, 1, len));
    if let Some(device) = out.cuda() {
        return device.run(&[cuda::cast(&out.on(device)?, &x.on(device)?, cuda::Rounding::Nearest)?]);
    }
    Ok(reduce::cast(out.host()?, x.host()?)?)
}
