//! Launches of the table look-up and of its gradient.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::operand::{Indices, aligned, array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source =
    Source { file: "embedding/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// The arguments of [`forward`], as in [`super::Forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// `[n, dim]`, written.
    pub out: Operand,
    /// `[vocab, dim]`; may be bf16 beside f32.
    pub table: Operand,
    /// `[n]`, each below `vocab`: whoever wrote them has seen to it.
    pub ids: Indices,
    /// Numbers per row, a multiple of 8.
    pub dim: usize,
}

/// Copies one row of the table for each token.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a `dim` that is no
/// multiple of 8 or an address that is none of 16.
pub fn forward(args: &Forward) -> Result<Launch, KernelError> {
    const OP: &str = "embedding::forward";
    let Forward { out, table, ids, dim } = *args;
    check_dim(OP, dim)?;
    array(OP, "out", &out, ids.len * dim)?;
    array(OP, "table", &table, table.len / dim * dim)?;
    let pairs = [[Dtype::F32, Dtype::F32], [Dtype::F32, Dtype::Bf16], [Dtype::Bf16, Dtype::Bf16]];
    let format = one_of(OP, [("out", out.dtype), ("table", table.dtype)], pairs)?;
    let kernel = ["embedding_fwd_f32", "embedding_fwd_f32_bf16", "embedding_fwd_bf16"][format];
    let args = vec![out.arg(), table.arg(), ids.arg(), Arg::U32(dim as u32)];
    rows(OP, kernel, ids.len, dim, out.dtype, args)
}

/// The arguments of [`scatter`], as in [`super::Scatter`], in one format.
#[derive(Clone, Copy, Debug)]
pub struct Scatter {
    /// `[rows, dim]`; the rows of `indices` are written.
    pub out: Operand,
    /// `[n, dim]`.
    pub x: Operand,
    /// `[n]`, each below `rows`, no two equal: whoever wrote them has seen to it.
    pub indices: Indices,
    /// Numbers per row, a multiple of 8.
    pub dim: usize,
}

/// Copies each row to its place.
///
/// # Errors
/// As [`forward`].
pub fn scatter(args: &Scatter) -> Result<Launch, KernelError> {
    const OP: &str = "embedding::scatter";
    let Scatter { out, x, indices, dim } = *args;
    check_dim(OP, dim)?;
    array(OP, "out", &out, out.len / dim * dim)?;
    array(OP, "x", &x, indices.len * dim)?;
    let format = one_of(OP, [("out", out.dtype), ("x", x.dtype)], [[Dtype::F32; 2], [Dtype::Bf16; 2]])?;
    let kernel = ["embedding_scatter_f32", "embedding_scatter_bf16"][format];
    rows(OP, kernel, indices.len, dim, x.dtype, vec![out.arg(), x.arg(), indices.arg(), Arg::U32(dim as u32)])
}

/// The tokens of a batch by value: what [`backward`] walks through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedIds {
    /// `[u]`: each distinct token, in increasing order.
    pub tokens: Vec<u32>,
    /// `[u + 1]`: where the positions of each begin, and the number of positions.
    pub starts: Vec<u32>,
    /// `[n]`: positions by token, and by place within one.
    pub positions: Vec<u32>,
}

/// Sorts the tokens of a batch, on the host, where they come from.
pub fn sort(ids: &[u32]) -> SortedIds {
    let mut positions: Vec<u32> = (0..ids.len() as u32).collect();
    positions.sort_by_key(|&position| ids[position as usize]); // stable: positions of one id stay in order
    let (mut tokens, mut starts) = (Vec::new(), Vec::new());
    for (k, &position) in positions.iter().enumerate() {
        let token = ids[position as usize];
        if tokens.last() != Some(&token) {
            tokens.push(token);
            starts.push(k as u32);
        }
    }
    starts.push(ids.len() as u32);
    SortedIds { tokens, starts, positions }
}

/// The arguments of [`backward`]: those of [`super::Backward`] with [`SortedIds`] in the executor's memory.
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// `[vocab, dim]`, added to: f32, or bf16 beside bf16, for which the sum of f32 is rounded once.
    pub dtable: Operand,
    /// `[n, dim]`.
    pub dout: Operand,
    /// `[u]`.
    pub tokens: Indices,
    /// `[u + 1]`.
    pub starts: Indices,
    /// `[n]`.
    pub positions: Indices,
    /// Numbers per row, a multiple of 8.
    pub dim: usize,
}

/// Adds the gradient of each token to its row, in the order of the tokens.
///
/// # Errors
/// As [`forward`].
pub fn backward(args: &Backward) -> Result<Launch, KernelError> {
    const OP: &str = "embedding::backward";
    let Backward { dtable, dout, tokens, starts, positions, dim } = *args;
    check_dim(OP, dim)?;
    array(OP, "dout", &dout, positions.len * dim)?;
    check::length(OP, "starts", starts.len, tokens.len + 1)?;
    check::length(OP, "dtable", dtable.len, dtable.len / dim * dim)?;
    aligned(OP, "dtable", &dtable)?;
    let pairs = [[Dtype::F32, Dtype::F32], [Dtype::F32, Dtype::Bf16], [Dtype::Bf16, Dtype::Bf16]];
    let format = one_of(OP, [("dtable", dtable.dtype), ("dout", dout.dtype)], pairs)?;
    let args = vec![dtable.arg(), dout.arg(), tokens.arg(), starts.arg(), positions.arg(), Arg::U32(dim as u32)];
    let kernel = ["embedding_bwd_f32", "embedding_bwd_bf16", "embedding_bwd_bf16_to_bf16"][format];
    rows(OP, kernel, tokens.len, dim, dout.dtype, args)
}

fn check_dim(op: &'static str, dim: usize) -> Result<(), KernelError> {
    check::holds(op, "dim", dim as f64, dim > 0 && dim.is_multiple_of(8), "a multiple of 8, at least 8")
}

/// One block for each row and each 256 loads of it.
fn rows(
    op: &'static str,
    kernel: &'static str,
    count: usize,
    dim: usize,
    dtype: Dtype,
    args: Vec<Arg>,
) -> Result<Launch, KernelError> {
    check::holds(op, "ids", count as f64, count > 0, "at least 1")?;
    let loads = dim.div_ceil(16 / dtype.size_bytes());
    let threads = loads.min(256).next_multiple_of(32);
    let parts = loads.div_ceil(threads) as u32;
    let grid = [to_u32(op, "ids", count)?, parts, 1];
    Ok(Launch { source: &SOURCE, kernel, grid, block: [threads as u32, 1, 1], shared_bytes: 0, args })
}
