//! Launches of the bias.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use super::check_rows;
use crate::check;
use crate::cuda::launch::elementwise;
use crate::cuda::operand::{array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "bias/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// Partial sums of a column: enough blocks to fill any device. A constant, because it orders the sum.
const MAX_PARTIALS: usize = 256;

/// y (`[rows, columns]`) += bias (`[columns]`, in the format of y, or bf16 beside f32).
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for lengths that are no whole rows,
/// an address of y that is no multiple of 16, or sizes beyond 32 bits.
pub fn forward(y: &Operand, bias: &Operand) -> Result<Launch, KernelError> {
    const OP: &str = "bias::forward";
    check_rows(OP, "y", y.len, bias.len)?;
    array(OP, "y", y, y.len)?;
    let formats = [[Dtype::F32, Dtype::F32], [Dtype::F32, Dtype::Bf16], [Dtype::Bf16, Dtype::Bf16]];
    let format = one_of(OP, [("y", y.dtype), ("bias", bias.dtype)], formats)?;
    let columns = to_u32(OP, "columns", bias.len)?;
    let kernel = ["bias_fwd_f32", "bias_fwd_f32_bf16", "bias_fwd_bf16"][format];
    let args = vec![y.arg(), bias.arg(), Arg::U32(columns), Arg::I64(y.len as i64)];
    elementwise(OP, &SOURCE, kernel, y, args)
}

/// Numbers of f32 scratch that [`backward`] needs.
pub fn scratch_len(rows: usize, columns: usize) -> usize {
    rows.min(MAX_PARTIALS) * columns
}

/// dbias (`[columns]`) += the sum over the rows of dy (`[rows, columns]`): f32, or bf16 beside bf16, for which the sum of f32 is rounded
/// once.
///
/// # Errors
/// As [`forward`].
pub fn backward(dbias: &Operand, dy: &Operand, scratch: &Operand) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "bias::backward";
    check_rows(OP, "dy", dy.len, dbias.len)?;
    let (rows, columns) = (dy.len / dbias.len, dbias.len);
    check::at_least(OP, "scratch", scratch.len, scratch_len(rows, columns))?;
    let formats = [Dtype::F32, Dtype::Bf16].map(|dtype| [dtype]);
    let rows_format = one_of(OP, [("dy", dy.dtype)], formats)?;
    let sums = [[Dtype::F32, dy.dtype], [Dtype::Bf16, Dtype::Bf16]];
    let sum_format = one_of(OP, [("dbias", dbias.dtype), ("dy", dy.dtype)], sums)?;
    one_of(OP, [("scratch", scratch.dtype)], [[Dtype::F32]])?;
    if rows == 0 {
        return Ok(Vec::new());
    }
    let (num_rows, num_columns) = (to_u32(OP, "rows", rows)?, to_u32(OP, "columns", columns)?);
    let partials = rows.min(MAX_PARTIALS) as u32;
    let launch =
        |kernel, grid, args| Launch { source: &SOURCE, kernel, grid, block: [256, 1, 1], shared_bytes: 0, args };
    let blocks = num_columns.div_ceil(256);
    Ok(vec![
        launch(
            ["bias_bwd_rows_f32", "bias_bwd_rows_bf16"][rows_format],
            [blocks, partials, 1],
            vec![scratch.arg(), dy.arg(), Arg::U32(num_rows), Arg::U32(num_columns)],
        ),
        launch(
            ["bias_bwd_sum_f32", "bias_bwd_sum_bf16"][sum_format],
            [blocks, 1, 1],
            vec![dbias.arg(), scratch.arg(), Arg::U32(partials), Arg::U32(num_columns)],
        ),
    ])
}
