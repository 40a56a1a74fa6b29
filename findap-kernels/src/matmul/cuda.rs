//! Products on CUDA: checked arguments, and the launch of our own kernel.
//!
//! A device multiplies by cuBLASLt where it is installed ([`crate::cuda::Executor::multiply`]); the kernel here is for devices
//! without it and for the emulator.

#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;

use crate::check;
use crate::cuda::operand::{aligned, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Product, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::slice::Write;

/// The kernels of this family.
pub static SOURCE: Source = Source { file: "matmul/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// Columns and rows of c that a block computes.
const TILE: usize = 64;

/// The product by our own kernel.
///
/// # Numerics
/// Sums in f32 in the order of k, for bf16 by groups of 16 whose order is the tensor cores'; `c` is rounded once. The bits of a
/// number depend on its row, its column and k alone.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for sizes of 0 or beyond 32
/// bits, for an address that is no multiple of 16, and for bf16 operands whose pitch is no multiple of 8.
pub fn launch(args: &Product) -> Result<Launch, KernelError> {
    const OP: &str = "matmul::product";
    let Product { m, n, k, a, transpose_a, b, transpose_b, c, write } = *args;
    let format = one_of(
        OP,
        [("a", a.elements.dtype), ("b", b.elements.dtype), ("c", c.elements.dtype)],
        [[Dtype::F32; 3], [Dtype::Bf16; 3], [Dtype::Bf16, Dtype::Bf16, Dtype::F32]],
    )?;
    let stored = |rows, columns, is_transposed| if is_transposed { (columns, rows) } else { (rows, columns) };
    let [(arg_a, a_shape), (arg_b, b_shape)] = [("a", stored(m, k, transpose_a)), ("b", stored(k, n, transpose_b))];
    for (arg, matrix, (rows, columns)) in [(arg_a, a, a_shape), (arg_b, b, b_shape), ("c", c, (m, n))] {
        check::holds(OP, arg, rows as f64, rows > 0 && columns > 0, "of at least one row and one column")?;
        check::holds(OP, arg, matrix.pitch as f64, matrix.pitch >= columns, "of a pitch of at least its columns")?;
        check::at_least(OP, arg, matrix.elements.len, (rows - 1) * matrix.pitch + columns)?;
        aligned(OP, arg, &matrix.elements)?;
        let is_whole = format == 0 || arg == "c" || matrix.pitch.is_multiple_of(8);
        check::holds(OP, arg, matrix.pitch as f64, is_whole, "of a pitch that is a multiple of 8")?;
    }
    let sizes = [to_u32(OP, "m", m)?, to_u32(OP, "n", n)?, to_u32(OP, "k", k)?].map(|x| Arg::I32(x as i32));
    let row_tiles = m.div_ceil(TILE);
    check::holds(OP, "m", m as f64, row_tiles <= 65_535, "at most 4194240")?;
    let kernels = [
        ["matmul_nn_f32", "matmul_nn_bf16", "matmul_nn_bf16_to_f32"],
        ["matmul_nt_f32", "matmul_nt_bf16", "matmul_nt_bf16_to_f32"],
        ["matmul_tn_f32", "matmul_tn_bf16", "matmul_tn_bf16_to_f32"],
        ["matmul_tt_f32", "matmul_tt_bf16", "matmul_tt_bf16_to_f32"],
    ];
    Ok(Launch {
        source: &SOURCE,
        kernel: kernels[2 * usize::from(transpose_a) + usize::from(transpose_b)][format],
        grid: [n.div_ceil(TILE) as u32, row_tiles as u32, 1],
        block: [if format == 0 { 256 } else { 128 }, 1, 1],
        shared_bytes: 0,
        args: [
            &[c.elements.arg(), a.elements.arg(), b.elements.arg()],
            &sizes[..],
            &[c.pitch, a.pitch, b.pitch].map(|pitch| Arg::I64(pitch as i64)),
            &[Arg::U32(u32::from(write == Write::Accumulate))],
        ]
        .concat(),
    })
}
