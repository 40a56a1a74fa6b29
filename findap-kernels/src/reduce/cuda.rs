//! Launches of sums and passes over arenas.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::launch::elementwise_by;
use crate::cuda::operand::{aligned, array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::slice::Write;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "reduce/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

const FORMATS: [[Dtype; 1]; 2] = [[Dtype::F32], [Dtype::Bf16]];

/// Partial sums of [`sum_squares`]: a constant of the result. Blocks of 256 threads that fill any device.
const MAX_PARTIALS: usize = 1024;

/// Numbers of f64 scratch that [`sum_squares`] needs.
pub const SUM_SQUARES_SCRATCH_LEN: usize = MAX_PARTIALS;

/// Blocks for a pass in which they go round: one a load of 256 threads, at most [`MAX_PARTIALS`].
fn blocks(x: &Operand) -> u32 {
    let loads = x.len.div_ceil(16 / x.dtype.size_bytes());
    loads.div_ceil(256).clamp(1, MAX_PARTIALS) as u32
}

/// `total` (`[1]` f64) becomes the sum of squares of `x`, or grows by it: several arenas have one norm.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for an address that is no
/// multiple of 16.
pub fn sum_squares(total: &Operand, write: Write, x: &Operand, scratch: &Operand) -> Result<[Launch; 2], KernelError> {
    const OP: &str = "reduce::sum_squares";
    check::length(OP, "total", total.len, 1)?;
    check::at_least(OP, "scratch", scratch.len, SUM_SQUARES_SCRATCH_LEN)?;
    one_of(OP, [("total", total.dtype), ("scratch", scratch.dtype)], [[Dtype::F64; 2]])?;
    aligned(OP, "x", x)?;
    let format = one_of(OP, [("x", x.dtype)], FORMATS)?;
    let partials = blocks(x);
    let launch = |kernel, blocks, args| Launch {
        source: &SOURCE,
        kernel,
        grid: [blocks, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args,
    };
    let parts = vec![scratch.arg(), x.arg(), Arg::I64(x.len as i64)];
    let adds = u32::from(write == Write::Accumulate);
    let whole = vec![total.arg(), scratch.arg(), Arg::U32(partials), Arg::U32(adds)];
    Ok([
        launch(["reduce_squares_f32", "reduce_squares_bf16"][format], partials, parts),
        launch("reduce_squares_total", 1, whole),
    ])
}

/// Adds to `count` (a `u32` at this address) how many numbers are NaN or infinite.
///
/// # Errors
/// As [`sum_squares`].
pub fn count_bad(count: u64, x: &Operand) -> Result<Launch, KernelError> {
    const OP: &str = "reduce::count_bad";
    aligned(OP, "x", x)?;
    let format = one_of(OP, [("x", x.dtype)], FORMATS)?;
    Ok(Launch {
        source: &SOURCE,
        kernel: ["reduce_count_bad_f32", "reduce_count_bad_bf16"][format],
        grid: [blocks(x), 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![Arg::Address(count), x.arg(), Arg::I64(x.len as i64)],
    })
}

/// `total` (`[1]` f64) grows by `factor` times the sum of `x` (f32).
///
/// # Errors
/// As [`sum_squares`].
pub fn add_sum(total: &Operand, factor: f64, x: &Operand) -> Result<Launch, KernelError> {
    const OP: &str = "reduce::add_sum";
    check::length(OP, "total", total.len, 1)?;
    one_of(OP, [("total", total.dtype), ("x", x.dtype)], [[Dtype::F64, Dtype::F32]])?;
    let n = to_u32(OP, "x", x.len)?;
    Ok(Launch {
        source: &SOURCE,
        kernel: "reduce_add_sum",
        grid: [1, 1, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: vec![total.arg(), x.arg(), Arg::U32(n), Arg::F64(factor)],
    })
}

/// out += x, rounded once; of one format, or f32 added to bf16.
///
/// # Errors
/// As [`sum_squares`].
pub fn add(out: &Operand, x: &Operand) -> Result<Launch, KernelError> {
    const OP: &str = "reduce::add";
    array(OP, "x", x, out.len)?;
    aligned(OP, "out", out)?;
    let pairs = [[Dtype::F32; 2], [Dtype::Bf16; 2], [Dtype::Bf16, Dtype::F32]];
    let format = one_of(OP, [("out", out.dtype), ("x", x.dtype)], pairs)?;
    let args = vec![out.arg(), x.arg(), Arg::I64(out.len as i64)];
    let per_thread = 16 / out.dtype.size_bytes();
    elementwise_by(
        OP,
        &SOURCE,
        ["reduce_add_f32", "reduce_add_bf16", "reduce_add_f32_to_bf16"][format],
        out.len,
        per_thread,
        args,
    )
}

/// x *= factor, in f32 and rounded once.
///
/// # Errors
/// As [`sum_squares`].
pub fn scale(x: &Operand, factor: f64) -> Result<Launch, KernelError> {
    const OP: &str = "reduce::scale";
    aligned(OP, "x", x)?;
    let format = one_of(OP, [("x", x.dtype)], FORMATS)?;
    let args = vec![x.arg(), Arg::F32(factor as f32), Arg::I64(x.len as i64)];
    elementwise_by(
        OP,
        &SOURCE,
        ["reduce_scale_f32", "reduce_scale_bf16"][format],
        x.len,
        16 / x.dtype.size_bytes(),
        args,
    )
}

/// How f32 becomes bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Up or down, with the mean kept; the bits are a function of the place, `stream` and `seed`.
    Stochastic {
        /// Such as the number of the step.
        stream: u64,
        /// The seed of the run.
        seed: u64,
    },
}

/// out = x in the format of `out`: f32 to bf16 or the opposite, which is exact and ignores `rounding`.
///
/// # Errors
/// As [`sum_squares`].
pub fn cast(out: &Operand, x: &Operand, rounding: Rounding) -> Result<Launch, KernelError> {
    const OP: &str = "reduce::cast";
    array(OP, "x", x, out.len)?;
    aligned(OP, "out", out)?;
    let pairs = [[Dtype::Bf16, Dtype::F32], [Dtype::F32, Dtype::Bf16]];
    let format = one_of(OP, [("out", out.dtype), ("x", x.dtype)], pairs)?;
    let mut args = vec![out.arg(), x.arg(), Arg::I64(out.len as i64)];
    let kernel = match (format, rounding) {
        (0, Rounding::Nearest) => "reduce_cast_f32_to_bf16",
        (0, Rounding::Stochastic { stream, seed }) => {
            args.extend([Arg::U64(stream), Arg::U64(seed)]);
            "reduce_cast_f32_to_bf16_stochastic"
        }
        _ => "reduce_cast_bf16_to_f32",
    };
    elementwise_by(OP, &SOURCE, kernel, out.len, 8, args)
}
