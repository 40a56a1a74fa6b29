//! Rows of a table by token id, and rows of a matrix by index.

use findap_kernels::check;
use findap_kernels::embedding::{self, Backward, Forward, Scatter, cuda};

use crate::documents::Documents;
use crate::error::TensorError;
use crate::indices::Indices;
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

/// out `[n, d]` = x\[rows].
///
/// # Errors
/// As [`forward`].
pub fn gather(out: ViewMut<'_>, x: View<'_>, rows: &Indices) -> Result<(), TensorError> {
    let dim = x.columns;
    if let Some(device) = out.cuda() {
        check::ids("embedding::forward", "rows", rows.values(), x.rows)?;
        let (out, table, ids) = (out.on(device)?, x.on(device)?, rows.on(device)?);
        return device.run(&[cuda::forward(&cuda::Forward { out, table, ids, dim })?]);
    }
    Ok(embedding::forward(Forward { out: out.host()?, table: x.host()?, ids: rows.values(), dim })?)
}

/// out\[indices] = x `[n, d]`; all indices must differ.
///
/// # Errors
/// As [`embedding::scatter`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn scatter(out: ViewMut<'_>, x: View<'_>, indices: &Indices) -> Result<(), TensorError> {
    let dim = x.columns;
    if let Some(device) = out.cuda() {
        check::ids("embedding::scatter", "indices", indices.values(), out.rows)?;
        let (out, x, indices) = (out.on(device)?, x.on(device)?, indices.on(device)?);
        return device.run(&[cuda::scatter(&cuda::Scatter { out, x, indices, dim })?]);
    }
    Ok(embedding::scatter(Scatter { out: out.host()?, x: x.host()?, indices: indices.values(), dim })?)
}

/// dtable\[ids] += dout. For dout in bf16, dtable is f32, or on a device bf16: the sum in f32 is then rounded once.
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
