//! The gated unit.

use findap_kernels::KernelError;
use findap_kernels::swiglu::{self, Backward, Forward};

use crate::tensor::{View, ViewMut};

/// out = silu(gate) * up, all `[n, f]`.
///
/// # Errors
/// As [`swiglu::forward`].
pub fn forward(out: ViewMut<'_>, gate: View<'_>, up: View<'_>) -> Result<(), KernelError> {
    swiglu::forward(Forward { out: out.data, gate: gate.data, up: up.data })
}

/// The gradients of gate and up.
///
/// # Errors
/// As [`swiglu::backward`].
pub fn backward(
    dgate: ViewMut<'_>,
    dup: ViewMut<'_>,
    dout: View<'_>,
    gate: View<'_>,
    up: View<'_>,
) -> Result<(), KernelError> {
    swiglu::backward(Backward { dgate: dgate.data, dup: dup.data, dout: dout.data, gate: gate.data, up: up.data })
}
