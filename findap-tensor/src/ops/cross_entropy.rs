//! The head and its loss.

use findap_kernels::KernelError;
use findap_kernels::cross_entropy::{self, Backward, Forward};
pub use findap_kernels::cross_entropy::{IGNORE, MAX_CHUNK_ROWS, Sizes};

use crate::tensor::{View, ViewMut};

/// The inputs and results of the head for n tokens.
#[derive(Debug)]
pub struct Head<'a> {
    /// `[n]`, written: log-probability of each target.
    pub logp: &'a mut [f64],
    /// `[n]`, written: log of the sum of exponentials.
    pub lse: &'a mut [f64],
    /// `[n, d]`.
    pub hidden: View<'a>,
    /// `[v, d]`.
    pub weight: View<'a>,
    /// `[n]`, or [`IGNORE`].
    pub targets: &'a [u32],
    /// Rows of logits computed at a time; at most [`MAX_CHUNK_ROWS`].
    pub chunk_rows: usize,
    /// At least `Sizes::scratch_len` numbers.
    pub scratch: ViewMut<'a>,
}

impl<'a> Head<'a> {
    fn kernel(self) -> Forward<'a> {
        let sizes = Sizes { dim: self.weight.columns, vocab: self.weight.rows, chunk_rows: self.chunk_rows };
        Forward {
            logp: self.logp,
            lse: self.lse,
            hidden: self.hidden.data,
            weight: self.weight.data,
            targets: self.targets,
            sizes,
            scratch: self.scratch.data,
        }
    }
}

/// Log-probabilities only.
///
/// # Errors
/// As [`cross_entropy::forward`].
pub fn forward(head: Head<'_>) -> Result<(), KernelError> {
    cross_entropy::forward(head.kernel())
}

/// Gradients for weights that were computed from the log-probabilities of [`forward`].
///
/// # Errors
/// As [`cross_entropy::backward`].
pub fn backward(
    head: Head<'_>,
    token_weights: &[f64],
    dhidden: ViewMut<'_>,
    dweight: Option<ViewMut<'_>>,
) -> Result<(), KernelError> {
    let (dhidden, dweight) = (dhidden.data, dweight.map(|d| d.data));
    cross_entropy::backward(Backward { token_weights, dhidden, dweight, forward: head.kernel() })
}

/// Both at once, for weights known beforehand.
///
/// # Errors
/// As [`cross_entropy::forward_backward`].
pub fn forward_backward(
    head: Head<'_>,
    token_weights: &[f64],
    dhidden: ViewMut<'_>,
    dweight: Option<ViewMut<'_>>,
) -> Result<(), KernelError> {
    let (dhidden, dweight) = (dhidden.data, dweight.map(|d| d.data));
    cross_entropy::forward_backward(Backward { token_weights, dhidden, dweight, forward: head.kernel() })
}
