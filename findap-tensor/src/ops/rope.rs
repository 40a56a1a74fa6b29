//! Rotary positions in place.

use findap_kernels::KernelError;
use findap_kernels::rope::{self, Apply};

use crate::tensor::{View, ViewMut};

/// cos and sin by position: `[max_positions, head_dim / 2]` each.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Cosines.
    pub cos: View<'a>,
    /// Sines.
    pub sin: View<'a>,
}

impl<'a> Tables<'a> {
    fn apply<'x>(self, x: ViewMut<'x>, positions: &'x [u32]) -> Apply<'x>
    where
        'a: 'x,
    {
        let head_dim = 2 * self.cos.columns;
        let heads = x.columns / head_dim;
        Apply { x: x.data, cos: self.cos.data, sin: self.sin.data, positions, heads, head_dim }
    }
}

/// Rotates x `[n, heads * head_dim]`.
///
/// # Errors
/// As [`rope::forward`].
pub fn forward(x: ViewMut<'_>, tables: Tables<'_>, positions: &[u32]) -> Result<(), KernelError> {
    rope::forward(tables.apply(x, positions))
}

/// Rotates a gradient back.
///
/// # Errors
/// As [`rope::backward`].
pub fn backward(x: ViewMut<'_>, tables: Tables<'_>, positions: &[u32]) -> Result<(), KernelError> {
    rope::backward(tables.apply(x, positions))
}
