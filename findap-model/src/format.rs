//! Which format numbers have beside which.

use findap_tensor::{DeviceKind, Dtype};

/// The format of activations beside matmuls in `dtype`: the same, and f32 for bf16 on the CPU, which rounds only what it multiplies.
pub(crate) fn activation_dtype(kind: DeviceKind, dtype: Dtype) -> Dtype {
    if kind == DeviceKind::Cpu && dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}

/// The format of norm factors, log-sums, rotary tables and logits beside activations in `dtype`, and of gradients beside such weights.
pub(crate) fn statistics_dtype(dtype: Dtype) -> Dtype {
    if dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}
