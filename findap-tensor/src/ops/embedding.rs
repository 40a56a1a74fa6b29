//! Rows of a table by token.

use findap_kernels::KernelError;
use findap_kernels::embedding::{self, Backward, Forward};

use crate::tensor::{View, ViewMut};

/// out `[n, d]` = table\[ids].
///
/// # Errors
/// As [`embedding::forward`].
pub fn forward(out: ViewMut<'_>, table: View<'_>, ids: &[u32]) -> Result<(), KernelError> {
    embedding::forward(Forward { out: out.data, table: table.data, ids, dim: table.columns })
}

/// dtable\[ids] += dout.
///
/// # Errors
/// As [`embedding::backward`].
pub fn backward(dtable: ViewMut<'_>, dout: View<'_>, ids: &[u32]) -> Result<(), KernelError> {
    embedding::backward(Backward { dim: dtable.columns, dtable: dtable.data, dout: dout.data, ids })
}
