//! Rotary positions in place.

use findap_kernels::KernelError;
use findap_kernels::cuda::Launch;
use findap_kernels::rope::{self, Apply, cuda};

use crate::documents::Documents;
use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// Tables of cos and sin by position, `[max_positions, head_dim / 2]` each; f32 for x in bf16.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Cosines.
    pub cos: View<'a>,
    /// Sines.
    pub sin: View<'a>,
}

/// Rotates x `[n, heads * head_dim]` in place.
///
/// # Errors
/// As [`rope::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(x: ViewMut<'_>, tables: Tables<'_>, documents: &Documents<'_>) -> Result<(), TensorError> {
    rotate(x, tables, documents, rope::forward, cuda::forward)
}

/// Rotates a gradient `[n, heads * head_dim]` back, in place.
///
/// # Errors
/// As [`forward`].
pub fn backward(x: ViewMut<'_>, tables: Tables<'_>, documents: &Documents<'_>) -> Result<(), TensorError> {
    rotate(x, tables, documents, rope::backward, cuda::backward)
}

fn rotate(
    x: ViewMut<'_>,
    tables: Tables<'_>,
    documents: &Documents<'_>,
    on_host: fn(Apply<'_>) -> Result<(), KernelError>,
    on_device: fn(&cuda::Apply) -> Result<Launch, KernelError>,
) -> Result<(), TensorError> {
    let Tables { cos, sin } = tables;
    let head_dim = 2 * cos.columns;
    let heads = x.columns / head_dim;
    if let Some(device) = x.cuda() {
        let (x, cos, sin) = (x.on(device)?, cos.on(device)?, sin.on(device)?);
        let positions = documents.on(device)?.positions;
        return device.run(&[on_device(&cuda::Apply { x, cos, sin, positions, heads, head_dim })?]);
    }
    let (x, cos, sin) = (x.host()?, cos.host()?, sin.host()?);
    Ok(on_host(Apply { x, cos, sin, positions: documents.positions, heads, head_dim })?)
}
