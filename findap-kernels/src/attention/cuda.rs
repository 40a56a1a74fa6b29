//! Attention on CUDA: checked arguments to [`Launch`] values, for bf16 numbers with sums in f32.
//!
//! The kernels are in `kernel.cu` (compute capability 8.0 and above) and `kernel_sm90.cu` (exactly 9.0); both say what they
//! compute and how. Documents come as [`Tiles`], made on the host once for a packing and used by every layer and pass.

#[path = "cuda_plain.rs"]
pub mod plain;
#[cfg(test)]
#[path = "cuda_tests.rs"]
mod tests;
#[path = "cuda_tiles.rs"]
mod tiles;

pub use self::tiles::{PlacedTiles, Tiles};
use super::{Heads, check_window};
use crate::check;
use crate::cuda::operand::{Indices, array, one_of, to_u32};
use crate::cuda::{Arg, Launch, Needs, Operand, Source, Swizzle, TensorMap};
use crate::dtype::Dtype;
use crate::error::KernelError;

/// The kernels for compute capability 8.0 and above.
pub static SOURCE: Source =
    Source { file: "attention/kernel.cu", text: include_str!("kernel.cu"), needs: Needs::Ampere };

/// The kernels for Hopper.
pub static SOURCE_SM90: Source =
    Source { file: "attention/kernel_sm90.cu", text: include_str!("kernel_sm90.cu"), needs: Needs::Hopper };

/// Rows of a tile, in every kernel.
const TILE_ROWS: usize = 128;
/// Queries of one step of the key gradient.
const QUERIES: usize = 64;
/// Keys of one step of the other kernels of [`SOURCE`].
const KEYS: usize = 64;
/// Stages of the key gradient of [`SOURCE_SM90`].
const QUERY_STAGES: usize = 3;
/// What [`SOURCE_SM90`] needs beside its tiles: its barriers, and room to start on a multiple of 1024 bytes.
const BARRIERS_BYTES: usize = 256 + 1024;
/// Keys of one part of a decoded sequence.
const PART_KEYS: usize = 512;
/// Query heads of one block of the decode kernel.
const DECODE_HEADS: usize = 16;
/// The largest grid along y and z.
const MAX_GRID: usize = 65_535;

/// The largest block of [`Target::Ampere`]: that of the key gradient for head dim 128.
const AMPERE_SHARED_BYTES: u32 = ((2 * TILE_ROWS + 4 * QUERIES) * 128 * 2 + 2 * QUERIES * 8) as u32;
/// What a block has on devices of compute capability 8.6, 8.9 and 12.0.
pub const SMALL_SHARED_BYTES: u32 = 99 * 1024;

/// Which kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The kernels of [`SOURCE`].
    Ampere,
    /// The kernels of [`SOURCE`] that need at most [`SMALL_SHARED_BYTES`] of shared memory in a block.
    SmallAmpere,
    /// The kernels of [`SOURCE_SM90`], in one block for each multiprocessor. They have no window: a layer with one, and decoding, run
    /// those of [`Target::Ampere`].
    Hopper {
        /// Multiprocessors of the device.
        multiprocessors: u32,
    },
}

impl Target {
    /// The best for a device of this compute capability, whose blocks can have so much shared memory.
    pub fn of(compute_capability: (u32, u32), multiprocessors: u32, max_shared_bytes: u32) -> Self {
        let ampere = if max_shared_bytes < AMPERE_SHARED_BYTES { Target::SmallAmpere } else { Target::Ampere };
        if SOURCE_SM90.runs_on(compute_capability) { Target::Hopper { multiprocessors } } else { ampere }
    }

    /// What runs in a layer of these heads.
    fn of_window(self, heads: Heads) -> Self {
        match (self, heads.window) {
            (Target::Hopper { .. }, Some(_)) => Target::Ampere,
            (target, _) => target,
        }
    }

    /// Stages of the gradients of [`SOURCE`].
    fn stages(self, head_dim: usize) -> usize {
        if self == Target::SmallAmpere && head_dim == 128 { 1 } else { 2 }
    }
}

/// The arguments of [`forward`].
#[derive(Clone, Copy, Debug)]
pub struct Forward {
    /// `[n, num_heads, head_dim]` bf16, written.
    pub out: Operand,
    /// As `out` in f32, written; makes the statistics of the backward pass unbiased.
    pub out_f32: Option<Operand>,
    /// `[n, num_heads]` f32, written.
    pub lse: Operand,
    /// `[n, num_heads, head_dim]` bf16.
    pub q: Operand,
    /// `[n, num_kv_heads, head_dim]` bf16.
    pub k: Operand,
    /// `[n, num_kv_heads, head_dim]` bf16.
    pub v: Operand,
    /// The documents.
    pub tiles: PlacedTiles,
    /// The heads.
    pub heads: Heads,
    /// Which kernels run.
    pub target: Target,
}

/// The arguments of [`backward`].
#[derive(Clone, Copy, Debug)]
pub struct Backward {
    /// As `q`, written.
    pub dq: Operand,
    /// As `k`, written.
    pub dk: Operand,
    /// As `v`, written.
    pub dv: Operand,
    /// As `out`, bf16.
    pub dout: Operand,
    /// From the forward pass, bf16 or f32.
    pub out: Operand,
    /// From the forward pass, f32.
    pub lse: Operand,
    /// `[n, num_heads, head_dim]` bf16.
    pub q: Operand,
    /// `[n, num_kv_heads, head_dim]` bf16.
    pub k: Operand,
    /// `[n, num_kv_heads, head_dim]` bf16.
    pub v: Operand,
    /// [`statistics_len`] numbers in f32, written: scratch.
    pub statistics: Operand,
    /// The documents.
    pub tiles: PlacedTiles,
    /// The heads.
    pub heads: Heads,
    /// Which kernels run.
    pub target: Target,
}

/// The arguments of [`decode`]. A cache of one slot for each sequence has pages of `max_len` tokens and the slots as its table.
#[derive(Clone, Copy, Debug)]
pub struct Decode {
    /// `[sequences, num_heads, head_dim]` bf16, written.
    pub out: Operand,
    /// `[sequences, num_heads, head_dim]` bf16: one new token each.
    pub q: Operand,
    /// `[pages, page_tokens, num_kv_heads, head_dim]` bf16.
    pub k_cache: Operand,
    /// `[pages, page_tokens, num_kv_heads, head_dim]` bf16.
    pub v_cache: Operand,
    /// `[sequences, table_pages]`: the page of each `page_tokens` tokens of a sequence, below `pages`: whoever wrote them has
    /// seen to it, here and for `seq_lens`.
    pub table: Indices,
    /// `[sequences]`: tokens of each sequence, the new one included, at most `table_pages page_tokens`.
    pub seq_lens: Indices,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// [`decode_scratch_len`] numbers in f32, written.
    pub scratch: Operand,
    /// The heads.
    pub heads: Heads,
}

/// Numbers of [`Backward::statistics`].
pub fn statistics_len(num_tokens: usize, heads: Heads) -> usize {
    2 * heads.num_heads * pitch(num_tokens)
}

/// Numbers of [`Decode::scratch`].
pub fn decode_scratch_len(num_sequences: usize, table_pages: usize, page_tokens: usize, heads: Heads) -> usize {
    num_sequences * (table_pages * page_tokens).div_ceil(PART_KEYS) * heads.num_heads * (heads.head_dim + 1)
}

/// The window as the kernels take it: the largest hides nothing.
fn window_of(heads: Heads) -> usize {
    heads.window.unwrap_or(usize::MAX).min(i32::MAX as usize)
}

/// Tokens of one head in the statistics: even, so that every head starts at a multiple of 16 bytes.
fn pitch(num_tokens: usize) -> usize {
    num_tokens.next_multiple_of(2)
}

/// The launches of [`super::forward`]: none where there are no tokens, else one.
///
/// # Numerics
/// Products of bf16 in f32 sums; probabilities are rounded to bf16 before they meet v; `out` is rounded once. The bits of a
/// document depend on nothing outside of it, and are the same from run to run.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::UnsupportedDtype`], [`KernelError::BadArgument`] for a head dim other than 64
/// and 128, a scale that is not positive, addresses that are not multiples of 16, or sizes beyond 32 bits.
pub fn forward(args: &Forward) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::forward";
    let Forward { out, out_f32, lse, q, k, v, tiles, heads, target } = *args;
    let (sizes, target) = (Sizes::new(OP, tiles.num_tokens, heads)?, target.of_window(heads));
    let queries = sizes.tokens * heads.num_heads * heads.head_dim;
    let keys = sizes.tokens * heads.num_kv_heads * heads.head_dim;
    for (arg, operand, want) in [("out", &out, queries), ("q", &q, queries), ("k", &k, keys), ("v", &v, keys)] {
        array(OP, arg, operand, want)?;
    }
    array(OP, "lse", &lse, sizes.tokens * heads.num_heads)?;
    if let Some(out_f32) = &out_f32 {
        array(OP, "out_f32", out_f32, queries)?;
        one_of(OP, [("out_f32", out_f32.dtype)], [[Dtype::F32]])?;
    }
    let dtypes = [("out", out), ("q", q), ("k", k), ("v", v), ("lse", lse)].map(|(arg, operand)| (arg, operand.dtype));
    one_of(OP, dtypes, [[Dtype::Bf16, Dtype::Bf16, Dtype::Bf16, Dtype::Bf16, Dtype::F32]])?;
    if tiles.num_tiles == 0 {
        return Ok(Vec::new());
    }
    let outputs = [out.arg(), out_f32.map_or(Arg::Address(0), |out| out.arg()), lse.arg()];
    let launch = match target {
        Target::Ampere | Target::SmallAmpere => Launch {
            source: &SOURCE,
            kernel: sizes.pick(["attention_forward_d64", "attention_forward_d128"]),
            grid: [sizes.num_heads, tiles.num_tiles as u32, 1],
            block: [128, 1, 1],
            shared_bytes: sizes.rows_bytes(TILE_ROWS + 2 * KEYS),
            args: [&outputs[..], &[q.arg(), k.arg(), v.arg(), tiles.by_queries()], &sizes.heads_window_and_scale()]
                .concat(),
        },
        Target::Hopper { multiprocessors } => Launch {
            source: &SOURCE_SM90,
            kernel: sizes.pick(["attention_forward_sm90_d64", "attention_forward_sm90_d128"]),
            grid: [sizes.blocks(tiles.num_tiles, heads.num_heads, multiprocessors), 1, 1],
            block: [384, 1, 1],
            shared_bytes: sizes.rows_bytes(5 * TILE_ROWS) + BARRIERS_BYTES as u32,
            args: [
                &[sizes.query_map(&q, TILE_ROWS), sizes.key_map(&k), sizes.key_map(&v)],
                &outputs[..],
                &[tiles.by_queries(), Arg::I32(tiles.num_tiles as i32)],
                &sizes.heads_and_scale(),
            ]
            .concat(),
        },
    };
    Ok(vec![launch])
}

/// The launches of [`super::backward`], in order: statistics, key gradient, query gradient.
///
/// # Numerics
/// As [`forward`]. Where `out` is bf16, its rounding biases every gradient of scores in a row by the same factor of the
/// probability (arXiv:2510.04212); with `out` in f32 it does not. Deterministic: every sum has one order.
/// # Errors
/// As [`forward`].
pub fn backward(args: &Backward) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::backward";
    let Backward { dq, dk, dv, dout, out, lse, q, k, v, statistics, tiles, heads, target } = *args;
    let (sizes, target) = (Sizes::new(OP, tiles.num_tokens, heads)?, target.of_window(heads));
    let queries = sizes.tokens * heads.num_heads * heads.head_dim;
    let keys = sizes.tokens * heads.num_kv_heads * heads.head_dim;
    for (arg, operand, want) in [
        ("dq", &dq, queries),
        ("dk", &dk, keys),
        ("dv", &dv, keys),
        ("dout", &dout, queries),
        ("out", &out, queries),
        ("lse", &lse, sizes.tokens * heads.num_heads),
        ("q", &q, queries),
        ("k", &k, keys),
        ("v", &v, keys),
        ("statistics", &statistics, statistics_len(sizes.tokens, heads)),
    ] {
        array(OP, arg, operand, want)?;
    }
    let numbers = [("dq", dq), ("dk", dk), ("dv", dv), ("dout", dout), ("q", q), ("k", k), ("v", v)];
    one_of(OP, numbers.map(|(arg, operand)| (arg, operand.dtype)), [[Dtype::Bf16; 7]])?;
    one_of(OP, [("lse", lse.dtype), ("statistics", statistics.dtype)], [[Dtype::F32; 2]])?;
    let kept = one_of(OP, [("out", out.dtype)], [[Dtype::Bf16], [Dtype::F32]])?;
    if tiles.num_tiles == 0 {
        return Ok(Vec::new());
    }
    let pitch = to_u32(OP, "cu_seqlens", pitch(sizes.tokens))? as i32;
    let threads = sizes.tokens * heads.num_heads * (heads.head_dim / 8);
    let statistics_launch = Launch {
        source: &SOURCE,
        kernel: sizes.pick(
            [
                ["attention_statistics_d64", "attention_statistics_d128"],
                ["attention_statistics_f32_d64", "attention_statistics_f32_d128"],
            ][kept],
        ),
        grid: [to_u32(OP, "q", threads.div_ceil(128))?, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: vec![
            statistics.arg(),
            dout.arg(),
            out.arg(),
            lse.arg(),
            Arg::I32(sizes.tokens as i32),
            Arg::I32(heads.num_heads as i32),
            Arg::I32(pitch),
        ],
    };
    let [num_heads, num_kv_heads, window, scale] = sizes.heads_window_and_scale();
    let inputs = [dout.arg(), q.arg(), k.arg(), v.arg(), statistics.arg()];
    let num_tiles = Arg::I32(tiles.num_tiles as i32);
    let stages = target.stages(heads.head_dim);
    let (key_gradient, query_gradient) = match target {
        Target::Ampere | Target::SmallAmpere => (
            Launch {
                source: &SOURCE,
                kernel: match stages {
                    1 => "attention_key_gradient_d128_one_stage",
                    _ => sizes.pick(["attention_key_gradient_d64", "attention_key_gradient_d128"]),
                },
                grid: [heads.num_kv_heads as u32, tiles.num_tiles as u32, 1],
                block: [256, 1, 1],
                shared_bytes: sizes.rows_bytes(2 * TILE_ROWS + 2 * stages * QUERIES) + (stages * QUERIES * 8) as u32,
                args: [
                    &[dk.arg(), dv.arg()],
                    &inputs[..],
                    &[tiles.by_keys(), num_heads, num_kv_heads, Arg::I32(pitch), window, scale],
                ]
                .concat(),
            },
            Launch {
                source: &SOURCE,
                kernel: match stages {
                    1 => "attention_query_gradient_d128_one_stage",
                    _ => sizes.pick(["attention_query_gradient_d64", "attention_query_gradient_d128"]),
                },
                grid: [sizes.num_heads, tiles.num_tiles as u32, 1],
                block: [256, 1, 1],
                shared_bytes: sizes.rows_bytes(2 * TILE_ROWS + 2 * stages * KEYS),
                args: [
                    &[dq.arg()],
                    &inputs[..],
                    &[tiles.by_queries(), num_heads, num_kv_heads, Arg::I32(pitch), window, scale],
                ]
                .concat(),
            },
        ),
        Target::Hopper { multiprocessors } => (
            Launch {
                source: &SOURCE_SM90,
                kernel: sizes.pick(["attention_key_gradient_sm90_d64", "attention_key_gradient_sm90_d128"]),
                grid: [sizes.blocks(tiles.num_tiles, heads.num_kv_heads, multiprocessors), 1, 1],
                block: [384, 1, 1],
                shared_bytes: sizes.rows_bytes(2 * TILE_ROWS + 2 * QUERY_STAGES * QUERIES)
                    + (QUERY_STAGES * QUERIES * 8 + BARRIERS_BYTES) as u32,
                args: vec![
                    sizes.query_map(&q, QUERIES),
                    sizes.query_map(&dout, QUERIES),
                    sizes.key_map(&k),
                    sizes.key_map(&v),
                    sizes.statistics_map(&statistics),
                    dk.arg(),
                    dv.arg(),
                    tiles.by_keys(),
                    num_tiles,
                    num_heads,
                    num_kv_heads,
                    scale,
                ],
            },
            Launch {
                source: &SOURCE_SM90,
                kernel: sizes.pick(["attention_query_gradient_sm90_d64", "attention_query_gradient_sm90_d128"]),
                grid: [sizes.blocks(tiles.num_tiles, heads.num_heads, multiprocessors), 1, 1],
                block: [384, 1, 1],
                shared_bytes: sizes.rows_bytes(6 * TILE_ROWS) + BARRIERS_BYTES as u32,
                args: vec![
                    sizes.query_map(&q, TILE_ROWS),
                    sizes.query_map(&dout, TILE_ROWS),
                    sizes.key_map(&k),
                    sizes.key_map(&v),
                    dq.arg(),
                    statistics.arg(),
                    tiles.by_queries(),
                    num_tiles,
                    num_heads,
                    num_kv_heads,
                    Arg::I32(pitch),
                    scale,
                ],
            },
        ),
    };
    Ok(vec![statistics_launch, key_gradient, query_gradient])
}

/// The launches of [`super::decode`] over a cache in pages: the parts of every sequence, then their sums.
///
/// # Numerics
/// As [`forward`]. The bits of a sequence do not depend on the others in the batch: parts have a fixed length.
/// # Errors
/// As [`forward`].
pub fn decode(args: &Decode) -> Result<Vec<Launch>, KernelError> {
    const OP: &str = "attention::cuda::decode";
    let Decode { out, q, k_cache, v_cache, table, seq_lens, page_tokens, scratch, heads } = *args;
    let num_sequences = seq_lens.len;
    let table_pages = table.len / num_sequences.max(1);
    check::length(OP, "table", table.len, num_sequences * table_pages)?;
    let sizes = Sizes::new(OP, num_sequences, heads)?;
    let page_len = page_tokens * heads.num_kv_heads * heads.head_dim;
    check::holds(OP, "page_tokens", page_tokens as f64, page_tokens > 0, "at least 1")?;
    check::holds(OP, "seq_lens", num_sequences as f64, num_sequences <= MAX_GRID, "at most 65535")?;
    let max_len = to_u32(OP, "table", table_pages * page_tokens + PART_KEYS)? as usize - PART_KEYS;
    let max_parts = max_len.div_ceil(PART_KEYS);
    array(OP, "q", &q, num_sequences * heads.num_heads * heads.head_dim)?;
    array(OP, "out", &out, q.len)?;
    array(OP, "k_cache", &k_cache, k_cache.len / page_len * page_len)?;
    array(OP, "v_cache", &v_cache, k_cache.len)?;
    array(OP, "scratch", &scratch, decode_scratch_len(num_sequences, table_pages, page_tokens, heads))?;
    let dtypes = [("out", out), ("q", q), ("k_cache", k_cache), ("v_cache", v_cache), ("scratch", scratch)];
    let dtypes = dtypes.map(|(arg, operand)| (arg, operand.dtype));
    one_of(OP, dtypes, [[Dtype::Bf16, Dtype::Bf16, Dtype::Bf16, Dtype::Bf16, Dtype::F32]])?;
    if num_sequences == 0 || max_parts == 0 {
        return Ok(Vec::new());
    }
    let group_blocks = (heads.num_heads / heads.num_kv_heads).div_ceil(DECODE_HEADS) * heads.num_kv_heads;
    check::holds(OP, "num_heads", heads.num_heads as f64, group_blocks <= MAX_GRID, "at most 65535 groups of 16")?;
    let [num_heads, num_kv_heads, window, scale] = sizes.heads_window_and_scale();
    let parts_bytes = 4 * (num_sequences * max_parts * heads.num_heads * heads.head_dim) as u64;
    let part_lse = Arg::Address(scratch.address + parts_bytes);
    Ok(vec![
        Launch {
            source: &SOURCE,
            kernel: sizes.pick(["attention_decode_part_d64", "attention_decode_part_d128"]),
            grid: [max_parts as u32, group_blocks as u32, num_sequences as u32],
            block: [128, 1, 1],
            // four warps with two stages of 16 keys and 16 values
            shared_bytes: sizes.rows_bytes(4 * 2 * 2 * 16),
            args: vec![
                scratch.arg(),
                part_lse,
                q.arg(),
                k_cache.arg(),
                v_cache.arg(),
                table.arg(),
                seq_lens.arg(),
                num_heads,
                num_kv_heads,
                Arg::I32(page_tokens as i32),
                Arg::I32(table_pages as i32),
                window,
                scale,
            ],
        },
        Launch {
            source: &SOURCE,
            kernel: sizes.pick(["attention_decode_merge_d64", "attention_decode_merge_d128"]),
            grid: [sizes.num_heads, num_sequences as u32, 1],
            block: [heads.head_dim as u32 / 2, 1, 1],
            shared_bytes: 0,
            args: vec![
                out.arg(),
                scratch.arg(),
                part_lse,
                seq_lens.arg(),
                num_heads,
                Arg::I32(max_parts as i32),
                window,
            ],
        },
    ])
}

/// Sizes that the kernels can take.
struct Sizes {
    tokens: usize,
    heads: Heads,
    num_heads: u32,
}

impl Sizes {
    fn new(op: &'static str, tokens: usize, heads: Heads) -> Result<Self, KernelError> {
        let Heads { num_heads, num_kv_heads, head_dim, scale, .. } = heads;
        check::holds(op, "head_dim", head_dim as f64, [64, 128].contains(&head_dim), "64 or 128 on CUDA")?;
        let divides = num_kv_heads > 0 && num_heads > 0 && num_heads.is_multiple_of(num_kv_heads);
        check::holds(op, "num_kv_heads", num_kv_heads as f64, divides, "a divisor of num_heads")?;
        // the largest score is that of the largest product
        check::holds(op, "scale", scale, scale > 0.0 && scale.is_finite(), "positive and finite")?;
        check_window(op, heads)?;
        // of all tiles together
        to_u32(op, "num_heads", num_heads * MAX_GRID)?;
        Ok(Self { tokens, heads, num_heads: num_heads as u32 })
    }

    /// The kernel for head dim 64 or 128.
    fn pick(&self, kernels: [&'static str; 2]) -> &'static str {
        kernels[usize::from(self.heads.head_dim == 128)]
    }

    /// The shared memory of that many rows of one head.
    fn rows_bytes(&self, rows: usize) -> u32 {
        (rows * self.heads.head_dim * 2) as u32
    }

    fn blocks(&self, num_tiles: usize, heads: usize, multiprocessors: u32) -> u32 {
        (num_tiles * heads).min(multiprocessors.max(1) as usize) as u32
    }

    fn heads_and_scale(&self) -> [Arg; 3] {
        let [num_heads, num_kv_heads, _, scale] = self.heads_window_and_scale();
        [num_heads, num_kv_heads, scale]
    }

    fn heads_window_and_scale(&self) -> [Arg; 4] {
        let Heads { num_heads, num_kv_heads, scale, .. } = self.heads;
        let [num_heads, num_kv_heads, window] =
            [num_heads, num_kv_heads, window_of(self.heads)].map(|x| Arg::I32(x as i32));
        [num_heads, num_kv_heads, window, Arg::F32(scale as f32)]
    }

    fn query_map(&self, operand: &Operand, rows: usize) -> Arg {
        self.rows_map(operand, self.heads.num_heads, rows)
    }

    fn key_map(&self, operand: &Operand) -> Arg {
        self.rows_map(operand, self.heads.num_kv_heads, TILE_ROWS)
    }

    /// Boxes of `rows` tokens and 64 numbers of one head.
    fn rows_map(&self, operand: &Operand, num_heads: usize, rows: usize) -> Arg {
        let head_bytes = (self.heads.head_dim * 2) as u64;
        Arg::TensorMap(TensorMap {
            address: operand.address,
            element_bytes: 2,
            rank: 3,
            dims: [self.heads.head_dim as u64, num_heads as u64, self.tokens as u64, 1, 1],
            strides: [head_bytes, num_heads as u64 * head_bytes, 0, 0],
            box_dims: [64, 1, rows as u32, 1, 1],
            swizzle: Swizzle::Bytes128,
        })
    }

    /// Boxes of the pairs of [`QUERIES`] tokens of one head.
    fn statistics_map(&self, operand: &Operand) -> Arg {
        Arg::TensorMap(TensorMap {
            address: operand.address,
            element_bytes: 4,
            rank: 2,
            dims: [2 * self.tokens as u64, self.heads.num_heads as u64, 1, 1, 1],
            strides: [8 * pitch(self.tokens) as u64, 0, 0, 0],
            box_dims: [2 * QUERIES as u32, 1, 1, 1, 1],
            swizzle: Swizzle::None,
        })
    }
}
