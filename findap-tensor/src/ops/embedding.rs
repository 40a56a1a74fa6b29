//! Rows of a table by token.

use findap_kernels::embedding::{self, Backward, Forward, cuda};

use crate::documents::Documents;
use crate::error::TensorError;
use crate::tensor::{View, ViewMut};

/// out `[n, d]` = table\[ids].
///
/// # Errors
/// As [`embedding::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(out: ViewMut<'_>, table: View<'_>, documents: &Documents<'_>) -> Result<(), TensorError> {
    let dim = table.columns;
    if let Some(device) = out.cuda() {
        let ids = documents.on(device)?.ids;
        return device.run(&[cuda::forward(&cuda::Forward {
            out: out.on(device)?,
            table: table.on(device)?,
            ids,
            dim,
        })?]);
    }
    Ok(embedding::forward(Forward { out: out.host()?, table: table.host()?, ids: documents.ids, dim })?)
}

/// dtable\[ids] += dout.
///
/// # Errors
/// As [`forward`].
pub fn backward(dtable: ViewMut<'_>, dout: View<'_>, documents: &Documents<'_>) -> Result<(), TensorError> {
    let dim = dtable.columns;
    if let Some(device) = dtable.cuda() {
        let placed = documents.on(device)?;
        let args = cuda::Backward {
            dtable: dtable.on(device)?,
            dout: dout.on(device)?,
            tokens: placed.sorted_tokens,
            starts: placed.sorted_starts,
            positions: placed.sorted_positions,
            dim,
        };
        return device.run(&[cuda::backward(&args)?]);
    }
    Ok(embedding::backward(Backward { dim, dtable: dtable.host()?, dout: dout.host()?, ids: documents.ids })?)
}
