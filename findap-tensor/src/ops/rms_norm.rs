//! RMS normalisation of rows, alone or with the residual addition before it.

use findap_kernels::cuda::Operand;
use findap_kernels::rms_norm::{self, Backward, Forward, ForwardAdd, cuda};
use findap_kernels::{Dtype, Write};

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// Computes out `[n, d]` = norm of x, and rstd `[n, 1]`, which is f32 for x in bf16.
///
/// # Errors
/// As [`rms_norm::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(
    out: ViewMut<'_>,
    rstd: ViewMut<'_>,
    x: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<(), TensorError> {
    let (rows, dim) = (x.rows, x.columns);
    if let Some(device) = out.cuda() {
        let (out, rstd) = (out.on(device)?, rstd.on(device)?);
        let (x, weight) = (x.on(device)?, weight.on(device)?);
        return device.run(&[cuda::forward(&cuda::Forward { out, rstd, x, add: None, weight, rows, dim, eps })?]);
    }
    let (out, rstd, x, weight) = (out.host()?, rstd.host()?, x.host()?, weight.host()?);
    Ok(rms_norm::forward(Forward { out, rstd, x, weight, rows, dim, eps })?)
}

/// Computes sum `[n, d]` = x + residual and out = norm of sum.
///
/// # Errors
/// As [`forward`].
pub fn forward_add(
    out: ViewMut<'_>,
    sum: ViewMut<'_>,
    rstd: ViewMut<'_>,
    x: View<'_>,
    residual: View<'_>,
    weight: View<'_>,
    eps: f64,
) -> Result<(), TensorError> {
    let (rows, dim) = (x.rows, x.columns);
    if let Some(device) = out.cuda() {
        let add = cuda::Residual { residual: residual.on(device)?, sum: sum.on(device)? };
        let (out, rstd) = (out.on(device)?, rstd.on(device)?);
        let (x, weight) = (x.on(device)?, weight.on(device)?);
        return device.run(&[cuda::forward(&cuda::Forward { out, rstd, x, add: Some(add), weight, rows, dim, eps })?]);
    }
    Ok(rms_norm::forward_add(ForwardAdd {
        out: out.host()?,
        sum: sum.host()?,
        rstd: rstd.host()?,
        x: x.host()?,
        residual: residual.host()?,
        weight: weight.host()?,
        rows,
        dim,
        eps,
    })?)
}

/// The results and inputs of the forward pass that the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[n, d]`: the input that was normalised.
    pub x: View<'a>,
    /// `[n, 1]`.
    pub rstd: View<'a>,
    /// `[1, d]`.
    pub weight: View<'a>,
}

/// dx (+)= the gradient of the input; dweight += that of the weight, if it is trained. Where the others are bf16, dweight is f32, or on
/// a device bf16: the sum in f32 is then rounded once.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dx: ViewMut<'_>,
    write_dx: Write,
    dweight: Option<ViewMut<'_>>,
    dy: View<'_>,
    saved: Saved<'_>,
) -> Result<(), TensorError> {
    let Saved { x, rstd, weight } = saved;
    let (rows, dim) = (x.rows, x.columns);
    if let Some(device) = dx.cuda() {
        let dweight = dweight.map(|dweight| dweight.on(device)).transpose()?;
        let (dx, dy) = (dx.on(device)?, dy.on(device)?);
        let (x, rstd, weight) = (x.on(device)?, rstd.on(device)?, weight.on(device)?);
        let len = cuda::scratch_len(rows, dim);
        return device.with_scratch(4 * len, |address| {
            let scratch = Operand { address, len, dtype: Dtype::F32 };
            let args = cuda::Backward { dx, write_dx, dweight, dy, x, weight, rstd, scratch, rows, dim };
            device.run(&cuda::backward(&args)?)
        });
    }
    Ok(rms_norm::backward(Backward {
        dx: dx.host()?,
        write_dx,
        dweight: dweight.map(ViewMut::host).transpose()?,
        dy: dy.host()?,
        x: x.host()?,
        weight: weight.host()?,
        rstd: rstd.host()?,
        rows,
        dim,
    })?)
}
