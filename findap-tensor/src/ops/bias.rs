//! The bias of a linear layer.

use findap_kernels::Dtype;
use findap_kernels::bias::{self, Backward, Forward, cuda};
use findap_kernels::cuda::Operand;

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// y `[n, c]` += bias `[1, c]`, for every row.
///
/// # Errors
/// As [`bias::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(y: ViewMut<'_>, bias: View<'_>) -> Result<(), TensorError> {
    if let Some(device) = y.cuda() {
        return device.run(&[cuda::forward(&y.on(device)?, &bias.on(device)?)?]);
    }
    Ok(bias::forward(Forward { y: y.host()?, bias: bias.host()? })?)
}

/// dbias `[1, c]` += the sum of the rows of dy `[n, c]`. For dy in bf16, dbias is f32, or on a device bf16: the sum in f32 is then
/// rounded once.
///
/// # Errors
/// As [`forward`].
pub fn backward(dbias: ViewMut<'_>, dy: View<'_>) -> Result<(), TensorError> {
    if let Some(device) = dbias.cuda() {
        let (dbias, len) = (dbias.on(device)?, cuda::scratch_len(dy.rows, dy.columns));
        let dy = dy.on(device)?;
        return device.with_scratch(4 * len, |address| {
            let scratch = Operand { address, len, dtype: Dtype::F32 };
            device.run(&cuda::backward(&dbias, &dy, &scratch)?)
        });
    }
    Ok(bias::backward(Backward { dbias: dbias.host()?, dy: dy.host()? })?)
}
