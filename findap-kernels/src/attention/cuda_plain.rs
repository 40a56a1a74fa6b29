//! Attention without tensor cores: f32, and bf16 with any head dim up to 128. The kernels are in `kernel_plain.cu`.

#[cfg(test)]
#[path = "cuda_plain_tests.rs"]
mod tests;

use super::{Backward, Decode, Forward, MAX_GRID, PlacedTiles, window_of};
use crate::attention::{Heads, check_window};
use crate::check;
use crate::cuda::operand::{array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Source};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels.
pub static SOURCE: Source =
    Source { file: "attention/kernel_plain.cu", text: include_str!("kernel_plain.cu"), needs: Needs::Ampere };

/// As [`super::forward`], with all numbers in f32 or all but `lse` in bf16; `out_f32` and `target` are not looked at.
///
/// # Errors
/// As [`super::forward`]; head dims are those up to 128.
pub fn forward(args: &Forward) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::plain::forward";
    let Forward { out, lse, q, k, v, tiles, heads, .. } = *args;
    let Lengths { queries, keys, rows } = lengths(OP, tiles, heads)?;
    for (arg, operand, want) in [("out", &out, queries), ("q", &q, queries), ("k", &k, keys), ("v", &v, keys)] {
        array(OP, arg, operand, want)?;
    }
    array(OP, "lse", &lse, rows)?;
    let dtypes = [("out", out.dtype), ("q", q.dtype), ("k", k.dtype), ("v", v.dtype), ("lse", lse.dtype)];
    let format = one_of(OP, dtypes, [Dtype::F32, Dtype::Bf16].map(|x| [x, x, x, x, Dtype::F32]))?;
    let kernel = ["attention_plain_forward_f32", "attention_plain_forward_bf16"][format];
    let operands = [out.arg(), lse.arg(), q.arg(), k.arg(), v.arg(), tiles.by_queries()];
    Ok(launch(kernel, heads.num_heads, tiles, &operands, heads).into_iter().collect())
}

/// As [`super::backward`], with the formats of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(args: &Backward) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::plain::backward";
    let Backward { dq, dk, dv, dout, out, lse, q, k, v, statistics, tiles, heads, .. } = *args;
    let Lengths { queries, keys, rows } = lengths(OP, tiles, heads)?;
    let of_queries = [("dq", dq), ("dout", dout), ("out", out), ("q", q)];
    let of_keys = [("dk", dk), ("dv", dv), ("k", k), ("v", v)];
    for (arg, operand) in of_queries {
        array(OP, arg, &operand, queries)?;
    }
    for (arg, operand) in of_keys {
        array(OP, arg, &operand, keys)?;
    }
    array(OP, "lse", &lse, rows)?;
    check::at_least(OP, "statistics", statistics.len, rows)?;
    let formats = [Dtype::F32, Dtype::Bf16].map(|dtype| [dtype; 4]);
    let format = one_of(OP, of_queries.map(|(arg, operand)| (arg, operand.dtype)), formats)?;
    one_of(OP, of_keys.map(|(arg, operand)| (arg, operand.dtype)), [[q.dtype; 4]])?;
    one_of(OP, [("lse", lse.dtype), ("statistics", statistics.dtype)], [[Dtype::F32; 2]])?;
    let inputs = [lse.arg(), q.arg(), k.arg(), v.arg()];
    let queries = [&[dq.arg(), statistics.arg(), dout.arg(), out.arg()], &inputs[..], &[tiles.by_queries()]].concat();
    let keys = [&[dk.arg(), dv.arg(), dout.arg(), statistics.arg()], &inputs[..], &[tiles.by_keys()]].concat();
    let of_query = ["attention_plain_query_gradient_f32", "attention_plain_query_gradient_bf16"][format];
    let of_key = ["attention_plain_key_gradient_f32", "attention_plain_key_gradient_bf16"][format];
    let launches = [
        launch(of_query, heads.num_heads, tiles, &queries, heads),
        launch(of_key, heads.num_kv_heads, tiles, &keys, heads),
    ];
    Ok(launches.into_iter().flatten().collect())
}

/// As [`super::decode`], with all numbers in f32 or all in bf16; `scratch` is not looked at.
///
/// # Errors
/// As [`forward`].
pub fn decode(args: &Decode) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::plain::decode";
    let Decode { out, q, k_cache, v_cache, table, seq_lens, page_tokens, heads, .. } = *args;
    check_heads(OP, heads)?;
    let num_sequences = seq_lens.len;
    let table_pages = table.len / num_sequences.max(1);
    check::length(OP, "table", table.len, num_sequences * table_pages)?;
    check::holds(OP, "page_tokens", page_tokens as f64, page_tokens > 0, "at least 1")?;
    check::holds(OP, "seq_lens", num_sequences as f64, num_sequences <= MAX_GRID, "at most 65535")?;
    to_u32(OP, "table", table_pages * page_tokens)?;
    let page_len = page_tokens * heads.num_kv_heads * heads.head_dim;
    array(OP, "q", &q, num_sequences * heads.num_heads * heads.head_dim)?;
    array(OP, "out", &out, q.len)?;
    array(OP, "k_cache", &k_cache, k_cache.len / page_len * page_len)?;
    array(OP, "v_cache", &v_cache, k_cache.len)?;
    let dtypes = [("out", out), ("q", q), ("k_cache", k_cache), ("v_cache", v_cache)];
    let dtypes = dtypes.map(|(arg, operand)| (arg, operand.dtype));
    let format = one_of(OP, dtypes, [Dtype::F32, Dtype::Bf16].map(|dtype| [dtype; 4]))?;
    if num_sequences == 0 || table_pages == 0 {
        return Ok(Vec::new());
    }
    let operands = [out.arg(), q.arg(), k_cache.arg(), v_cache.arg(), table.arg(), seq_lens.arg()];
    let sizes = [heads.num_heads, heads.num_kv_heads, heads.head_dim, page_tokens, table_pages, window_of(heads)];
    Ok(vec![Launch {
        source: &SOURCE,
        kernel: ["attention_plain_decode_f32", "attention_plain_decode_bf16"][format],
        grid: [heads.num_heads as u32, num_sequences as u32, 1],
        block: [256, 1, 1],
        shared_bytes: 0,
        args: [&operands[..], &sizes.map(|x| Arg::I32(x as i32)), &[Arg::F32(heads.scale as f32)]].concat(),
    }])
}

struct Lengths {
    queries: usize,
    keys: usize,
    /// Numbers where each query head has one.
    rows: usize,
}

fn lengths(op: &'static str, tiles: PlacedTiles, heads: Heads) -> Result<Lengths, KernelError> {
    check_heads(op, heads)?;
    let Heads { num_heads, num_kv_heads, head_dim, .. } = heads;
    let n = tiles.num_tokens;
    Ok(Lengths { queries: n * num_heads * head_dim, keys: n * num_kv_heads * head_dim, rows: n * num_heads })
}

fn check_heads(op: &'static str, heads: Heads) -> Result<(), KernelError> {
    let Heads { num_heads, num_kv_heads, head_dim, scale, .. } = heads;
    check::holds(op, "head_dim", head_dim as f64, (1..=128).contains(&head_dim), "1 to 128")?;
    let divides = num_kv_heads > 0 && num_heads > 0 && num_heads.is_multiple_of(num_kv_heads);
    check::holds(op, "num_kv_heads", num_kv_heads as f64, divides, "a divisor of num_heads")?;
    check::holds(op, "scale", scale, scale.is_finite(), "finite")?;
    check_window(op, heads)?;
    to_u32(op, "num_heads", num_heads)?;
    Ok(())
}

/// None where there are no tokens.
fn launch(kernel: &'static str, heads_x: usize, tiles: PlacedTiles, operands: &[Arg], heads: Heads) -> Option<Launch> {
    let sizes = [heads.num_heads, heads.num_kv_heads, heads.head_dim, window_of(heads)].map(|x| Arg::I32(x as i32));
    (tiles.num_tiles > 0).then(|| Launch {
        source: &SOURCE,
        kernel,
        grid: [heads_x as u32, tiles.num_tiles as u32, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: [operands, &sizes, &[Arg::F32(heads.scale as f32)]].concat(),
    })
}
