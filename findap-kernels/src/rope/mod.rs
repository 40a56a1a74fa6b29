//! Rotary position embedding, in place, in the half-split layout of Hugging Face.
//!
//! With e the head dimension and c, s = cos, sin of position * inverse_frequency\[i]:
//! x\[i] <- x\[i] c - x\[i + e/2] s,   x\[i + e/2] <- x\[i + e/2] c + x\[i] s,   0 <= i < e/2
//!
//! A rotation: the backward pass is the rotation by the opposite angle. Source: Su et al. 2021, arXiv:2104.09864, section 3.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use crate::check;
use crate::dtype::Real;
use crate::error::KernelError;
use crate::isa::vectorised;
use crate::slice::{Slice, SliceMut};

/// The arguments of [`forward`] and [`backward`].
#[derive(Debug)]
pub struct Apply<'a> {
    /// `[n, heads, head_dim]`, rotated in place.
    pub x: SliceMut<'a>,
    /// `[max_positions, head_dim / 2]`.
    pub cos: Slice<'a>,
    /// `[max_positions, head_dim / 2]`.
    pub sin: Slice<'a>,
    /// `[n]`, each below `max_positions`.
    pub positions: &'a [u32],
    /// Heads per token.
    pub heads: usize,
    /// Numbers per head; even.
    pub head_dim: usize,
}

/// Rotates each head of each token by the angles of its position.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::IdOutOfRange`] for a position past the tables,
/// [`KernelError::BadArgument`] for an odd `head_dim`, [`KernelError::UnsupportedDtype`].
pub fn forward(args: Apply<'_>) -> Result<(), KernelError> {
    apply("rope::forward", args, false)
}

/// Rotates back: the gradient of [`forward`] with respect to its input.
///
/// # Errors
/// As [`forward`].
pub fn backward(args: Apply<'_>) -> Result<(), KernelError> {
    apply("rope::backward", args, true)
}

fn apply(op: &'static str, args: Apply<'_>, inverse: bool) -> Result<(), KernelError> {
    let Apply { x, cos, sin, positions, heads, head_dim } = args;
    check::holds(op, "head_dim", head_dim as f64, head_dim >= 2 && head_dim % 2 == 0, "even and at least 2")?;
    check::length(op, "x", x.len(), positions.len() * heads * head_dim)?;
    check::length(op, "cos", cos.len(), cos.len() / (head_dim / 2) * (head_dim / 2))?;
    check::length(op, "sin", sin.len(), cos.len())?;
    check::ids(op, "positions", positions, cos.len() / (head_dim / 2))?;
    let dtypes = [("x", x.dtype()), ("cos", cos.dtype()), ("sin", sin.dtype())];
    match (x, cos, sin) {
        (SliceMut::F32(x), Slice::F32(cos), Slice::F32(sin)) => {
            rotate(x, cos, sin, positions, heads, head_dim, inverse)
        }
        (SliceMut::F64(x), Slice::F64(cos), Slice::F64(sin)) => {
            rotate(x, cos, sin, positions, heads, head_dim, inverse)
        }
        _ => return Err(check::unsupported(op, dtypes)),
    }
    Ok(())
}

/// Tokens of one task.
const TASK_ROWS: usize = 128;

fn rotate<T: Real>(x: &mut [T], cos: &[T], sin: &[T], positions: &[u32], heads: usize, head_dim: usize, inverse: bool) {
    let (half, width) = (head_dim / 2, heads * head_dim);
    x.par_chunks_mut(TASK_ROWS * width).zip(positions.par_chunks(TASK_ROWS)).for_each(|(rows, positions)| {
        vectorised(
            #[inline(always)]
            || {
                for (row, &position) in rows.chunks_exact_mut(width).zip(positions) {
                    let cos = &cos[position as usize * half..][..half];
                    let sin = &sin[position as usize * half..][..half];
                    for head in row.chunks_exact_mut(head_dim) {
                        let (lower, upper) = head.split_at_mut(half);
                        for i in 0..half {
                            let s = if inverse { -sin[i] } else { sin[i] };
                            let (a, b) = (lower[i], upper[i]);
                            lower[i] = a * cos[i] - b * s;
                            upper[i] = b * cos[i] + a * s;
                        }
                    }
                }
            },
        )
    });
}
