//! Launches of the normalisation.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::operand::{array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::slice::Write;

/// The kernels of this family.
pub static SOURCE: Source =
    Source { file: "rms_norm/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// The formats of activations and weights that have kernels, and the ends of the kernels' names.
const FORMATS: [[Dtype; 2]; 3] = [[Dtype::F32, Dtype::F32], [Dtype::F32, Dtype::Bf16], [Dtype::Bf16, Dtype::Bf16]];
const FORWARD: [&str; 3] = ["rms_norm_fwd_f32", "rms_norm_fwd_f32_bf16", "rms_norm_fwd_bf16"];
const BACKWARD: [&str; 3] = ["rms_norm_bwd_f32", "rms_norm_bwd_f32_bf16", "rms_norm_bwd_bf16"];

/// The arguments of [`forward`], as in [`super::Forward`] and [`super::ForwardAdd`].
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// `[rows, dim]`, written.
    pub out: Operand,
    /// `[rows]` f32, written.
    pub rstd: Operand,
    /// `[rows, dim]`.
    pub x: Operand,
    /// Added to `x` first: `residual`, and `sum` where the sum goes, both `[rows, dim]`. `sum` may be either summand.
    pub add: Option<Residual>,
    /// `[dim]`.
    pub weight: Operand,
    /// Rows.
    pub rows: usize,
    /// Numbers per row, a multiple of 8.
    pub dim: usize,
    /// Added to the mean square.
    pub eps: f64,
}

/// The residual stream before and after an addition.
#[derive(Clone, Copy, Debug)]
pub struct Residual {
    /// `[rows, dim]`.
    pub residual: Operand,
    /// `[rows, dim]`, written.
    pub sum: Operand,
}

/// Normalises each row, after an addition if there is one.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a `dim` that is no
/// multiple of 8 or an address that is none of 16.
pub fn forward(args: &Forward) -> Result<Launch, KernelError> {
    const OP: &str = "rms_norm::forward";
    let Forward { out, rstd, x, add, weight, rows, dim, eps } = *args;
    check_sizes(OP, rows, dim)?;
    array(OP, "out", &out, rows * dim)?;
    array(OP, "x", &x, rows * dim)?;
    array(OP, "weight", &weight, dim)?;
    check::length(OP, "rstd", rstd.len, rows)?;
    check::holds(OP, "eps", eps, eps >= 0.0, "at least 0")?;
    let format = one_of(OP, [("x", x.dtype), ("weight", weight.dtype)], FORMATS)?;
    one_of(OP, [("out", out.dtype), ("rstd", rstd.dtype)], [[x.dtype, Dtype::F32]])?;
    let (residual, sum) = match add {
        None => (Arg::Address(0), Arg::Address(0)),
        Some(Residual { residual, sum }) => {
            array(OP, "residual", &residual, rows * dim)?;
            array(OP, "sum", &sum, rows * dim)?;
            one_of(OP, [("residual", residual.dtype), ("sum", sum.dtype)], [[x.dtype, x.dtype]])?;
            (residual.arg(), sum.arg())
        }
    };
    Ok(Launch {
        source: &SOURCE,
        kernel: FORWARD[format],
        grid: [rows as u32, 1, 1],
        block: [threads(dim, x.dtype), 1, 1],
        shared_bytes: 0,
        args: vec![
            out.arg(),
            sum,
            rstd.arg(),
            x.arg(),
            residual,
            weight.arg(),
            Arg::U32(dim as u32),
            Arg::F32(eps as f32),
        ],
    })
}

/// The arguments of [`backward`], as in [`super::Backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// `[rows, dim]`, written.
    pub dx: Operand,
    /// Whether `dx` is replaced or added to.
    pub write_dx: Write,
    /// `[dim]`, added to: f32, or bf16 beside bf16, for which the sum of f32 is rounded once; `None` for a frozen weight.
    pub dweight: Option<Operand>,
    /// `[rows, dim]`.
    pub dy: Operand,
    /// `[rows, dim]`.
    pub x: Operand,
    /// `[dim]`.
    pub weight: Operand,
    /// `[rows]` f32.
    pub rstd: Operand,
    /// `[scratch_len(rows, dim)]` f32.
    pub scratch: Operand,
    /// Rows.
    pub rows: usize,
    /// Numbers per row, a multiple of 8.
    pub dim: usize,
}

/// Blocks of the backward pass: enough to fill any device twice. A constant, because it orders the sum of `dweight`.
const MAX_PARTIALS: usize = 256;

/// Numbers of f32 scratch that [`backward`] needs.
pub fn scratch_len(rows: usize, dim: usize) -> usize {
    rows.min(MAX_PARTIALS) * dim
}

/// The gradients: a launch over rows, and for a weight that is trained one over columns.
///
/// # Errors
/// As [`forward`].
pub fn backward(args: &Backward) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "rms_norm::backward";
    let Backward { dx, write_dx, dweight, dy, x, weight, rstd, scratch, rows, dim } = *args;
    check_sizes(OP, rows, dim)?;
    for (arg, operand) in [("dx", dx), ("dy", dy), ("x", x)] {
        array(OP, arg, &operand, rows * dim)?;
    }
    array(OP, "weight", &weight, dim)?;
    check::length(OP, "rstd", rstd.len, rows)?;
    check::at_least(OP, "scratch", scratch.len, scratch_len(rows, dim))?;
    // the sums of a block's columns lie in shared memory
    check::holds(OP, "dim", dim as f64, dim <= 48 * 1024, "at most 49152")?;
    let format = one_of(OP, [("x", x.dtype), ("weight", weight.dtype)], FORMATS)?;
    one_of(OP, [("dx", dx.dtype), ("dy", dy.dtype)], [[x.dtype, x.dtype]])?;
    one_of(OP, [("rstd", rstd.dtype), ("scratch", scratch.dtype)], [[Dtype::F32; 2]])?;
    let partials = rows.min(MAX_PARTIALS) as u32;
    let rows_pass = Launch {
        source: &SOURCE,
        kernel: BACKWARD[format],
        grid: [partials, 1, 1],
        block: [threads(dim, x.dtype), 1, 1],
        shared_bytes: dim as u32 * 4,
        args: vec![
            dx.arg(),
            scratch.arg(),
            dy.arg(),
            x.arg(),
            weight.arg(),
            rstd.arg(),
            Arg::U32(rows as u32),
            Arg::U32(dim as u32),
            Arg::U32(u32::from(write_dx == Write::Accumulate)),
        ],
    };
    let columns_pass = |dweight: Operand| {
        check::length(OP, "dweight", dweight.len, dim)?;
        let sums = [[Dtype::F32, x.dtype], [Dtype::Bf16, Dtype::Bf16]];
        let sum_format = one_of(OP, [("dweight", dweight.dtype), ("x", x.dtype)], sums)?;
        Ok(Launch {
            source: &SOURCE,
            kernel: ["rms_norm_bwd_weight_f32", "rms_norm_bwd_weight_bf16"][sum_format],
            grid: [dim.div_ceil(256) as u32, 1, 1],
            block: [256, 1, 1],
            shared_bytes: 0,
            args: vec![dweight.arg(), scratch.arg(), Arg::U32(partials), Arg::U32(dim as u32)],
        })
    };
    let columns_pass = dweight.map(columns_pass).transpose()?;
    Ok([rows_pass].into_iter().chain(columns_pass).collect())
}

fn check_sizes(op: &'static str, rows: usize, dim: usize) -> Result<(), KernelError> {
    check::holds(op, "dim", dim as f64, dim > 0 && dim.is_multiple_of(8), "a multiple of 8, at least 8")?;
    check::holds(op, "rows", rows as f64, rows > 0, "at least 1")?;
    to_u32(op, "rows", rows)?;
    to_u32(op, "dim", dim).map(drop)
}

/// Threads of a block: two loads each, within 32..=512.
fn threads(dim: usize, dtype: Dtype) -> u32 {
    (dim * dtype.size_bytes() / 32).next_multiple_of(32).clamp(32, 512) as u32
}
