//! SwiGLU, the gated unit of the MLP.

use findap_kernels::swiglu::{self, Backward, Forward, cuda};

use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// out = silu(gate) * up, all `[n, f]`.
///
/// # Errors
/// As [`swiglu::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(out: ViewMut<'_>, gate: View<'_>, up: View<'_>) -> Result<(), TensorError> {
    if let Some(device) = out.cuda() {
        let args = cuda::Forward { out: out.on(device)?, gate: gate.on(device)?, up: up.on(device)? };
        return device.run(&[cuda::forward(&args)?]);
    }
    Ok(swiglu::forward(Forward { out: out.host()?, gate: gate.host()?, up: up.host()? })?)
}

/// Computes the gradients of gate and up, `[n, f]` each.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dgate: ViewMut<'_>,
    dup: ViewMut<'_>,
    dout: View<'_>,
    gate: View<'_>,
    up: View<'_>,
) -> Result<(), TensorError> {
    if let Some(device) = dgate.cuda() {
        let args = cuda::Backward {
            dgate: dgate.on(device)?,
            dup: dup.on(device)?,
            dout: dout.on(device)?,
            gate: gate.on(device)?,
            up: up.on(device)?,
        };
        return device.run(&[cuda::backward(&args)?]);
    }
    Ok(swiglu::backward(Backward {
        dgate: dgate.host()?,
        dup: dup.host()?,
        dout: dout.host()?,
        gate: gate.host()?,
        up: up.host()?,
    })?)
}
