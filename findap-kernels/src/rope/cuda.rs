//! Launches of the rotation.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::operand::{Indices, aligned, array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "rope/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// The arguments of [`forward`] and [`backward`], as in [`super::Apply`].
#[derive(Clone, Copy, Debug)]
pub struct Apply {
    /// `[n, heads, head_dim]`, rotated in place.
    pub x: Operand,
    /// `[max_positions, head_dim / 2]` f32.
    pub cos: Operand,
    /// `[max_positions, head_dim / 2]` f32.
    pub sin: Operand,
    /// `[n]`, each below `max_positions`: whoever wrote them has seen to it.
    pub positions: Indices,
    /// Heads per token.
    pub heads: usize,
    /// Numbers per head; a multiple of 16.
    pub head_dim: usize,
}

/// Rotates each head of each token by the angles of its position.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a `head_dim` that is no
/// multiple of 16 or an address that is none.
pub fn forward(args: &Apply) -> Result<Launch, KernelError> {
    rotate("rope::forward", args, 1.0)
}

/// Rotates back.
///
/// # Errors
/// As [`forward`].
pub fn backward(args: &Apply) -> Result<Launch, KernelError> {
    rotate("rope::backward", args, -1.0)
}

fn rotate(op: &'static str, args: &Apply, direction: f32) -> Result<Launch, KernelError> {
    let Apply { x, cos, sin, positions, heads, head_dim } = *args;
    let is_whole = head_dim > 0 && head_dim.is_multiple_of(16);
    check::holds(op, "head_dim", head_dim as f64, is_whole, "a multiple of 16, at least 16")?;
    array(op, "x", &x, positions.len * heads * head_dim)?;
    check::length(op, "sin", sin.len, cos.len)?;
    aligned(op, "cos", &cos)?;
    aligned(op, "sin", &sin)?;
    let dtypes = [("x", x.dtype), ("cos", cos.dtype), ("sin", sin.dtype)];
    let format = one_of(op, dtypes, [[Dtype::F32; 3], [Dtype::Bf16, Dtype::F32, Dtype::F32]])?;
    let threads = x.len / 2 / (16 / x.dtype.size_bytes());
    Ok(Launch {
        source: &SOURCE,
        kernel: ["rope_f32", "rope_bf16"][format],
        grid: [to_u32(op, "blocks", threads.div_ceil(256))?.max(1), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![
            x.arg(),
            cos.arg(),
            sin.arg(),
            positions.arg(),
            Arg::U32(to_u32(op, "positions", positions.len)?),
            Arg::U32(to_u32(op, "heads", heads)?),
            Arg::U32(head_dim as u32),
            Arg::F32(direction),
        ],
    })
}
