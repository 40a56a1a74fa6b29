//! The formats of activations and statistics that go with a format of weights.

use findap_tensor::{DeviceKind, Dtype};

/// The format of activations beside matmuls in `dtype`: the same, but f32 for bf16 on the CPU, which rounds only the factors.
pub fn activation_dtype(kind: DeviceKind, dtype: Dtype) -> Dtype {
    if kind == DeviceKind::Cpu && dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}

/// The format of norm factors, log-sums, rotary tables and logits for activations in `dtype`, and of gradients for weights in it.
pub(crate) fn statistics_dtype(dtype: Dtype) -> Dtype {
    if dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}
