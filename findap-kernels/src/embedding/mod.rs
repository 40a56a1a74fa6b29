//! Token embeddings: out\[t] = table\[ids\[t]], and dtable\[ids\[t]] += dout\[t]. And the opposite of the look-up, out\[indices\[t]] = x\[t],
//! by which keys and values come to their rows in a cache.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod tests;

use crate::check;
use crate::dtype::{Element, Real};
use crate::error::KernelError;
use crate::slice::{Slice, SliceMut};

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[n, dim]`, written.
    pub out: SliceMut<'a>,
    /// `[vocab, dim]`; may be bf16 beside f32.
    pub table: Slice<'a>,
    /// `[n]`, each below `vocab`.
    pub ids: &'a [u32],
    /// Numbers per row.
    pub dim: usize,
}

/// The arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// `[vocab, dim]`, added to.
    pub dtable: SliceMut<'a>,
    /// `[n, dim]`.
    pub dout: Slice<'a>,
    /// `[n]`, each below `vocab`.
    pub ids: &'a [u32],
    /// Numbers per row.
    pub dim: usize,
}

/// The arguments of [`scatter`].
#[derive(Debug)]
pub struct Scatter<'a> {
    /// `[rows, dim]`; the rows of `indices` are written.
    pub out: SliceMut<'a>,
    /// `[n, dim]`.
    pub x: Slice<'a>,
    /// `[n]`, each below `rows`, no two equal.
    pub indices: &'a [u32],
    /// Numbers per row.
    pub dim: usize,
}

/// Copies one row of the table for each token. Exact.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::IdOutOfRange`], [`KernelError::UnsupportedDtype`].
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    const OP: &str = "embedding::forward";
    let Forward { out, table, ids, dim } = args;
    check::holds(OP, "dim", dim as f64, dim > 0, "at least 1")?;
    check::length(OP, "out", out.len(), ids.len() * dim)?;
    check::length(OP, "table", table.len(), table.len() / dim * dim)?;
    check::ids(OP, "ids", ids, table.len() / dim)?;
    let dtypes = [("out", out.dtype()), ("table", table.dtype())];
    match (out, table) {
        (SliceMut::F32(out), Slice::F32(table)) => gather(out, table, ids, dim),
        (SliceMut::F32(out), Slice::Bf16(table)) => gather(out, table, ids, dim),
        (SliceMut::F64(out), Slice::F64(table)) => gather(out, table, ids, dim),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Adds the gradient of each token to its row, in the order of the tokens.
///
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    const OP: &str = "embedding::backward";
    let Backward { dtable, dout, ids, dim } = args;
    check::holds(OP, "dim", dim as f64, dim > 0, "at least 1")?;
    check::length(OP, "dout", dout.len(), ids.len() * dim)?;
    check::length(OP, "dtable", dtable.len(), dtable.len() / dim * dim)?;
    check::ids(OP, "ids", ids, dtable.len() / dim)?;
    let dtypes = [("dtable", dtable.dtype()), ("dout", dout.dtype())];
    match (dtable, dout) {
        (SliceMut::F32(dtable), Slice::F32(dout)) => scatter_add(dtable, dout, ids, dim),
        (SliceMut::F64(dtable), Slice::F64(dout)) => scatter_add(dtable, dout, ids, dim),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Copies each row to its place. Exact.
///
/// # Errors
/// As [`forward`].
pub fn scatter(args: Scatter<'_>) -> Result<(), KernelError> {
    const OP: &str = "embedding::scatter";
    let Scatter { out, x, indices, dim } = args;
    check::holds(OP, "dim", dim as f64, dim > 0, "at least 1")?;
    check::length(OP, "x", x.len(), indices.len() * dim)?;
    check::length(OP, "out", out.len(), out.len() / dim * dim)?;
    check::ids(OP, "indices", indices, out.len() / dim)?;
    let dtypes = [("out", out.dtype()), ("x", x.dtype())];
    match (out, x) {
        (SliceMut::F32(out), Slice::F32(x)) => put(out, x, indices, dim),
        (SliceMut::F64(out), Slice::F64(x)) => put(out, x, indices, dim),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

fn put<T: Real>(out: &mut [T], x: &[T], indices: &[u32], dim: usize) {
    for (row, &index) in x.chunks_exact(dim).zip(indices) {
        out[index as usize * dim..][..dim].copy_from_slice(row);
    }
}

fn gather<T: Real, W: Element>(out: &mut [T], table: &[W], ids: &[u32], dim: usize) {
    for (row, &id) in out.chunks_exact_mut(dim).zip(ids) {
        let source = &table[id as usize * dim..][..dim];
        row.iter_mut().zip(source).for_each(|(y, x)| *y = x.load());
    }
}

fn scatter_add<T: Real>(dtable: &mut [T], dout: &[T], ids: &[u32], dim: usize) {
    for (row, &id) in dout.chunks_exact(dim).zip(ids) {
        let target = &mut dtable[id as usize * dim..][..dim];
        target.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
    }
}
