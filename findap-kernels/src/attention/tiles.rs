//! Tiled attention for f32, sixteen queries in a vector.
//!
//! All tiles are held transposed, `[key, query]`, so that the query is the vector: the maximum, the exponentials, their sum
//! and the rescaling of the softmax then work lane by lane, without a sum across lanes, and keys and values are read in
//! place. The query heads that share a key head share its tiles: a lane is one (token, head of the group) pair, tokens
//! first, so that lanes to the right see at least the keys that lanes to the left see. On the diagonal the keys of a tile
//! therefore form [`Band`]s: each is multiplied only with the vectors in which some query sees it.
//!
//! Forward: one task per (document, key head, span of queries). Backward: one task per (document, key head), which owns its
//! rows of dk and dv and visits query tiles and key tiles in order, so every sum has one order.

use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use super::cpu::{Rows, Saved, with_buffer};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Lanes, Portable, Product, WIDTH};
use crate::scratch::with_scratch;

/// Vectors of queries in a tile: the widest register tile.
const VECTORS: usize = 3;
/// Queries in a tile.
const QUERIES: usize = VECTORS * WIDTH;
/// Keys in a tile: with the head dimension 64, queries, scores, keys and values fit the first-level cache.
const KEYS: usize = 32;
/// Queries of one forward task.
const SPAN: usize = 4 * QUERIES;

/// Lanes of an instruction set, and the way to run a task compiled for it.
pub(super) trait Compiled: Lanes {
    /// Runs `task`, everything of which must be `#[inline(always)]`.
    fn enter(task: impl FnOnce());
}

#[cfg(target_arch = "x86_64")]
impl Compiled for Avx512 {
    #[inline(always)]
    fn enter(task: impl FnOnce()) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn run(task: impl FnOnce()) {
            task();
        }
        // SAFETY: `forward` and `backward` pick this type only where the instructions were found.
        unsafe { run(task) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Compiled for Avx2 {
    #[inline(always)]
    fn enter(task: impl FnOnce()) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn run(task: impl FnOnce()) {
            task();
        }
        // SAFETY: as above.
        unsafe { run(task) }
    }
}

impl Compiled for Portable {
    #[inline(always)]
    fn enter(task: impl FnOnce()) {
        task();
    }
}

/// The queries of one tile and the keys of its document.
#[derive(Clone, Copy)]
struct Tile {
    /// First token of the document.
    start: usize,
    /// First token of the tile.
    first: usize,
    /// Row of that token in the queries and outputs: `first`, but for decoding.
    query_row: usize,
    /// Tokens of the tile.
    tokens: usize,
    /// The key head.
    group: usize,
    /// First query head of the tile.
    head: usize,
    /// Query heads of the tile.
    num_heads: usize,
}

impl Tile {
    fn lanes(&self) -> usize {
        self.tokens * self.num_heads
    }

    fn vectors(&self) -> usize {
        self.lanes().div_ceil(WIDTH)
    }

    /// The token of a lane; lanes past the last repeat its token.
    fn token(&self, lane: usize) -> usize {
        self.first + (lane / self.num_heads).min(self.tokens - 1)
    }

    /// The row of a lane in a `[n, heads]` array of all heads. Only for lanes of the tile.
    fn place(&self, lane: usize, heads: Heads) -> usize {
        (self.query_row + lane / self.num_heads) * heads.num_heads + self.head + lane % self.num_heads
    }

    /// How many keys from `key_start` on some query of vector `v` sees.
    fn seen(&self, v: usize, key_start: usize) -> usize {
        (self.token(v * WIDTH + WIDTH - 1) + 1).saturating_sub(key_start)
    }

    /// How many keys from `key_start` on every query of vector `v` sees.
    fn seen_by_all(&self, v: usize, key_start: usize) -> usize {
        (self.token(v * WIDTH) + 1).saturating_sub(key_start)
    }

    /// The keys of a key tile that are seen by the vectors from `first_vector` on and by none before.
    fn bands(self, key_start: usize, keys: usize) -> impl Iterator<Item = Band> {
        let mut from = 0;
        (0..self.vectors()).filter_map(move |v| {
            let to = self.seen(v, key_start).min(keys);
            let band = Band { from, to, first_vector: v, vectors: self.vectors() - v };
            from = from.max(to);
            (band.from < to).then_some(band)
        })
    }
}

/// Keys `from..to` of a key tile, for the last `vectors` vectors of a query tile.
#[derive(Clone, Copy)]
struct Band {
    from: usize,
    to: usize,
    first_vector: usize,
    vectors: usize,
}

impl Band {
    fn keys(&self) -> usize {
        self.to - self.from
    }

    /// Its first number in a `[KEYS, QUERIES]` tile.
    fn corner(&self) -> usize {
        self.from * QUERIES + self.first_vector * WIDTH
    }
}

/// Query heads and tokens of one tile: all heads of the group if they fit, then as many tokens as fit beside them.
fn tile_size(heads: Heads) -> (usize, usize) {
    let tile_heads = (heads.num_heads / heads.num_kv_heads).min(QUERIES);
    (tile_heads, QUERIES / tile_heads)
}

/// The tokens of each document.
fn documents(cu_seqlens: &[u32]) -> impl Iterator<Item = Range<usize>> + '_ {
    cu_seqlens.windows(2).map(|d| d[0] as usize..d[1] as usize).filter(|d| !d.is_empty())
}

pub(super) fn forward(
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    cu_seqlens: &[u32],
    heads: Heads,
) {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => forward_with::<Avx512>(out, lse, q, k, v, cu_seqlens, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => forward_with::<Avx2>(out, lse, q, k, v, cu_seqlens, heads),
        _ => forward_with::<Portable>(out, lse, q, k, v, cu_seqlens, heads),
    }
}

pub(super) fn forward_with<L: Compiled>(
    out: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let (out, lse) = (Rows(out.as_mut_ptr()), Rows(lse.as_mut_ptr()));
    let e = heads.head_dim;
    let (_, tile_tokens) = tile_size(heads);
    let span = SPAN.div_ceil(tile_tokens) * tile_tokens;
    with_buffer(|tasks| {
        for document in documents(cu_seqlens) {
            tasks.extend(document.clone().step_by(span).map(|from| {
                let to = document.end.min(from + span);
                [document.start as u32, from as u32, to as u32]
            }));
        }
        // The longest first, so that no thread is left with one at the end. Order does not matter to the result.
        tasks.sort_unstable_by_key(|&[start, from, to]| {
            (Reverse(u64::from(to - from) * u64::from(from - start + to - start)), from)
        });
        (0..tasks.len() * heads.num_kv_heads).into_par_iter().with_max_len(8).for_each(|i| {
            let [start, from, to] = tasks[i / heads.num_kv_heads].map(|x| x as usize);
            with_scratch((2 * e + KEYS) * QUERIES, |scratch: &mut [f32]| {
                L::enter(
                    #[inline(always)]
                    || {
                        for_each_tile(
                            heads,
                            i % heads.num_kv_heads,
                            start,
                            from..to,
                            #[inline(always)]
                            |tile| {
                                // SAFETY: lengths and offsets were checked; the tile's rows of the outputs belong to this task.
                                unsafe { forward_tile::<L>(&out, Some(&lse), q, k, v, tile, heads, scratch) };
                            },
                        );
                    },
                );
            });
        });
    });
}

/// Calls `visit` for the tiles of the tokens `range` of a document, in order.
#[inline(always)]
fn for_each_tile(heads: Heads, group: usize, start: usize, range: Range<usize>, mut visit: impl FnMut(Tile)) {
    let per_group = heads.num_heads / heads.num_kv_heads;
    let (tile_heads, tile_tokens) = tile_size(heads);
    for first_head in (0..per_group).step_by(tile_heads) {
        for first in range.clone().step_by(tile_tokens) {
            visit(Tile {
                start,
                first,
                query_row: first,
                tokens: tile_tokens.min(range.end - first),
                group,
                head: group * per_group + first_head,
                num_heads: tile_heads.min(per_group - first_head),
            });
        }
    }
}

/// # Safety
/// The inputs have the lengths of `heads` and of at least the tokens of the tile; no other task writes the tile's outputs;
/// the processor has the instructions of `L`; the scratch holds `(2 head_dim + KEYS) QUERIES` numbers.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one tile: its outputs, inputs and place")]
unsafe fn forward_tile<L: Lanes>(
    out: &Rows<f32>,
    lse: Option<&Rows<f32>>,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    tile: Tile,
    heads: Heads,
    scratch: &mut [f32],
) {
    let e = heads.head_dim;
    let key_row = heads.num_kv_heads * e;
    let (queries, rest) = scratch.split_at_mut(e * QUERIES);
    let (sums, scores) = rest.split_at_mut(e * QUERIES);
    // SAFETY: every offset below is a lane of the tile, a key of its document up to the tile's last token, or a number of
    // the head, as `Tile` and `Band` compute them.
    unsafe {
        pack_transposed::<L>(queries, q, tile, heads, heads.scale as f32);
        sums.fill(0.0);
        let tokens = lane_tokens::<L>(tile);
        let mut best = [L::splat(f32::NEG_INFINITY); VECTORS];
        let mut total = [L::splat(0.0); VECTORS];
        for key_start in (tile.start..tile.first + tile.tokens).step_by(KEYS) {
            let keys = KEYS.min(tile.first + tile.tokens - key_start);
            for band in tile.bands(key_start, keys) {
                multiply_keys::<L>(scores, k, queries, band, key_start, tile, heads);
            }
            for vector in 0..tile.vectors() {
                let seen = tile.seen(vector, key_start).min(keys);
                let seen_by_all = tile.seen_by_all(vector, key_start).min(seen);
                let column = scores.as_mut_ptr().add(vector * WIDTH);
                let mut largest = [best[vector]; 2];
                for j in 0..seen_by_all {
                    largest[j % 2] = largest[j % 2].max(L::load(column.add(j * QUERIES)));
                }
                for j in seen_by_all..seen {
                    let key = L::splat((key_start + j - tile.start) as f32);
                    let masked = L::load(column.add(j * QUERIES)).where_at_least(
                        tokens[vector],
                        key,
                        L::splat(f32::NEG_INFINITY),
                    );
                    masked.store(column.add(j * QUERIES));
                    largest[0] = largest[0].max(masked);
                }
                let largest = largest[0].max(largest[1]);
                let shrink = best[vector].sub(largest).exp();
                best[vector] = largest;
                let mut partial = [L::splat(0.0); 2];
                for j in 0..seen {
                    let p = L::load(column.add(j * QUERIES)).sub(largest).exp();
                    p.store(column.add(j * QUERIES));
                    partial[j % 2] = partial[j % 2].add(p);
                }
                total[vector] = total[vector].mul_add(shrink, partial[0].add(partial[1]));
                if key_start > tile.start && seen > 0 {
                    let sums = sums.as_mut_ptr().add(vector * WIDTH);
                    for x in 0..e {
                        L::load(sums.add(x * QUERIES)).mul(shrink).store(sums.add(x * QUERIES));
                    }
                }
            }
            for band in tile.bands(key_start, keys) {
                L::product(&Product {
                    c: sums.as_mut_ptr().add(band.first_vector * WIDTH),
                    c_row: QUERIES,
                    a: v.as_ptr().add((key_start + band.from) * key_row + tile.group * e),
                    a_row: 1,
                    a_column: key_row,
                    b: scores.as_ptr().add(band.corner()),
                    b_row: QUERIES,
                    rows: e,
                    vectors: band.vectors,
                    depth: band.keys(),
                    accumulate: true,
                });
            }
        }
        let (mut bests, mut totals) = ([0.0; QUERIES], [0.0; QUERIES]);
        for vector in 0..tile.vectors() {
            best[vector].store(bests.as_mut_ptr().add(vector * WIDTH));
            total[vector].store(totals.as_mut_ptr().add(vector * WIDTH));
        }
        for lane in 0..tile.lanes() {
            if let Some(lse) = lse {
                lse.get(tile.place(lane, heads), 1)[0] = bests[lane] + totals[lane].ln();
            }
            totals[lane] = 1.0 / totals[lane];
        }
        unpack_transposed::<L>(out, sums, tile, heads, &totals);
    }
}

/// scores[key, lane] = keys . lanes of `transposed`, for one band.
///
/// # Safety
/// As [`forward_tile`].
#[inline(always)]
unsafe fn multiply_keys<L: Lanes>(
    scores: &mut [f32],
    keys: &[f32],
    transposed: &[f32],
    band: Band,
    key_start: usize,
    tile: Tile,
    heads: Heads,
) {
    let (e, key_row) = (heads.head_dim, heads.num_kv_heads * heads.head_dim);
    // SAFETY: the band lies inside the tile and the document.
    unsafe {
        L::product(&Product {
            c: scores.as_mut_ptr().add(band.corner()),
            c_row: QUERIES,
            a: keys.as_ptr().add((key_start + band.from) * key_row + tile.group * e),
            a_row: key_row,
            a_column: 1,
            b: transposed.as_ptr().add(band.first_vector * WIDTH),
            b_row: QUERIES,
            rows: band.keys(),
            vectors: band.vectors,
            depth: e,
            accumulate: false,
        });
    }
}

/// The token of each lane, counted from the document's first (exact: below 2^24).
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn lane_tokens<L: Lanes>(tile: Tile) -> [L; VECTORS] {
    let tokens: [f32; QUERIES] = std::array::from_fn(|lane| (tile.token(lane) - tile.start) as f32);
    // SAFETY: the caller's promise; the vectors lie inside the array.
    std::array::from_fn(|v| unsafe { L::load(tokens.as_ptr().add(v * WIDTH)) })
}

/// transposed[x, lane] = factor * source[lane, x]; lanes past the last are 0.
///
/// # Safety
/// As [`forward_tile`]; `transposed` holds `head_dim * QUERIES` numbers.
#[inline(always)]
unsafe fn pack_transposed<L: Lanes>(transposed: &mut [f32], source: &[f32], tile: Tile, heads: Heads, factor: f32) {
    let e = heads.head_dim;
    let lanes = tile.lanes();
    for first in (0..tile.vectors() * WIDTH).step_by(WIDTH) {
        let count = WIDTH.min(lanes - first);
        let whole = e / WIDTH * WIDTH;
        // SAFETY: rows of lanes of the tile, numbers of the head.
        unsafe {
            for x in (0..whole).step_by(WIDTH) {
                let mut rows = [L::splat(0.0); WIDTH];
                for (i, row) in rows[..count].iter_mut().enumerate() {
                    *row = L::load(source.as_ptr().add(tile.place(first + i, heads) * e + x)).mul(L::splat(factor));
                }
                L::transpose(&mut rows);
                for (i, row) in rows.iter().enumerate() {
                    row.store(transposed.as_mut_ptr().add((x + i) * QUERIES + first));
                }
            }
        }
        for x in whole..e {
            for i in 0..WIDTH {
                let value = if i < count { source[tile.place(first + i, heads) * e + x] * factor } else { 0.0 };
                transposed[x * QUERIES + first + i] = value;
            }
        }
    }
}

/// out[lane, x] = transposed[x, lane] * factors[lane].
///
/// # Safety
/// As [`forward_tile`].
#[inline(always)]
unsafe fn unpack_transposed<L: Lanes>(
    out: &Rows<f32>,
    transposed: &[f32],
    tile: Tile,
    heads: Heads,
    factors: &[f32; QUERIES],
) {
    let e = heads.head_dim;
    for first in (0..tile.lanes()).step_by(WIDTH) {
        let count = WIDTH.min(tile.lanes() - first);
        let whole = e / WIDTH * WIDTH;
        // SAFETY: rows of lanes of the tile, which belong to this task; numbers of the head.
        unsafe {
            let factor = L::load(factors.as_ptr().add(first));
            for x in (0..whole).step_by(WIDTH) {
                let mut rows = [factor; WIDTH];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = L::load(transposed.as_ptr().add((x + i) * QUERIES + first)).mul(factor);
                }
                L::transpose(&mut rows);
                for (i, row) in rows[..count].iter().enumerate() {
                    row.store(out.get(tile.place(first + i, heads) * e + x, WIDTH).as_mut_ptr());
                }
            }
            for x in whole..e {
                for lane in first..first + count {
                    out.get(tile.place(lane, heads) * e + x, 1)[0] = transposed[x * QUERIES + lane] * factors[lane];
                }
            }
        }
    }
}

/// One new token of each sequence over the cached keys and values of its slot. The same tiles in the same order as in the
/// forward pass over the whole sequence, hence the same bits.
#[expect(clippy::too_many_arguments, reason = "the fields of one argument structure, after dispatch on the format")]
pub(super) fn decode(
    out: &mut [f32],
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    slots: &[u32],
    lens: &[u32],
    slot_len: usize,
    heads: Heads,
) {
    let cache = Cache { k: k_cache, v: v_cache, slots, lens, slot_len };
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => decode_with::<Avx512>(out, q, cache, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => decode_with::<Avx2>(out, q, cache, heads),
        _ => decode_with::<Portable>(out, q, cache, heads),
    }
}

/// The keys and values of all sequences.
#[derive(Clone, Copy)]
struct Cache<'a> {
    k: &'a [f32],
    v: &'a [f32],
    slots: &'a [u32],
    lens: &'a [u32],
    slot_len: usize,
}

fn decode_with<L: Compiled>(out: &mut [f32], q: &[f32], cache: Cache<'_>, heads: Heads) {
    let out = Rows(out.as_mut_ptr());
    let e = heads.head_dim;
    (0..cache.lens.len() * heads.num_kv_heads).into_par_iter().for_each(|i| {
        let (sequence, group) = (i / heads.num_kv_heads, i % heads.num_kv_heads);
        let token = cache.lens[sequence] as usize - 1;
        let slot = cache.slots[sequence] as usize * cache.slot_len;
        let (k, v) = (&cache.k[slot..][..cache.slot_len], &cache.v[slot..][..cache.slot_len]);
        with_scratch((2 * e + KEYS) * QUERIES, |scratch: &mut [f32]| {
            L::enter(
                #[inline(always)]
                || {
                    for_each_tile(
                        heads,
                        group,
                        0,
                        token..token + 1,
                        #[inline(always)]
                        |tile| {
                            let tile = Tile { query_row: sequence, ..tile };
                            // SAFETY: lengths, slots and offsets were checked; the row of this sequence and group belongs to
                            // this task.
                            unsafe { forward_tile::<L>(&out, None, q, k, v, tile, heads, scratch) };
                        },
                    );
                },
            );
        });
    });
}

pub(super) fn backward(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: Saved<'_, f32>,
    cu_seqlens: &[u32],
    heads: Heads,
) {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => backward_with::<Avx512>(dq, dk, dv, saved, cu_seqlens, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => backward_with::<Avx2>(dq, dk, dv, saved, cu_seqlens, heads),
        _ => backward_with::<Portable>(dq, dk, dv, saved, cu_seqlens, heads),
    }
}

pub(super) fn backward_with<L: Compiled>(
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: Saved<'_, f32>,
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let (dq, dk, dv) = (Rows(dq.as_mut_ptr()), Rows(dk.as_mut_ptr()), Rows(dv.as_mut_ptr()));
    let (e, padded) = (heads.head_dim, heads.head_dim.next_multiple_of(WIDTH));
    with_buffer(|tasks| {
        tasks.extend(documents(cu_seqlens).map(|d| [d.start as u32, d.start as u32, d.end as u32]));
        tasks.sort_unstable_by_key(|&[start, _, end]| (Reverse(end - start), start));
        (0..tasks.len() * heads.num_kv_heads).into_par_iter().with_max_len(8).for_each(|i| {
            let [start, _, end] = tasks[i / heads.num_kv_heads].map(|x| x as usize);
            let group = i % heads.num_kv_heads;
            let tile_len = (3 * e + 2 * KEYS) * QUERIES + 2 * QUERIES * padded;
            // Whole vectors are added to rows of dk and dv: a head that is no multiple of them is summed elsewhere first.
            let apart = if padded == e { 0 } else { 2 * (end - start) * padded };
            with_scratch(tile_len + apart, |scratch: &mut [f32]| {
                L::enter(
                    #[inline(always)]
                    || {
                        let (scratch, apart) = scratch.split_at_mut(tile_len);
                        // SAFETY: lengths and offsets were checked; the rows of this document and group belong to this task.
                        unsafe {
                            let sums = if padded == e {
                                let base = (start * heads.num_kv_heads + group) * e;
                                KeyGradients { dk: dk.at(base), dv: dv.at(base), row: heads.num_kv_heads * e }
                            } else {
                                let (dk, dv) = apart.split_at_mut((end - start) * padded);
                                KeyGradients { dk: dk.as_mut_ptr(), dv: dv.as_mut_ptr(), row: padded }
                            };
                            for token in 0..end - start {
                                std::slice::from_raw_parts_mut(sums.dk.add(token * sums.row), padded).fill(0.0);
                                std::slice::from_raw_parts_mut(sums.dv.add(token * sums.row), padded).fill(0.0);
                            }
                            for_each_tile(
                                heads,
                                group,
                                start,
                                start..end,
                                #[inline(always)]
                                |tile| {
                                    backward_tile::<L>(&dq, &sums, saved, tile, heads, scratch);
                                },
                            );
                            if padded != e {
                                for token in 0..end - start {
                                    let place = ((start + token) * heads.num_kv_heads + group) * e;
                                    for (to, from) in [(&dk, sums.dk), (&dv, sums.dv)] {
                                        let from = std::slice::from_raw_parts(from.add(token * padded), e);
                                        to.get(place, e).copy_from_slice(from);
                                    }
                                }
                            }
                        }
                    },
                );
            });
        });
    });
}

/// Where a task sums its gradients of keys and values: the first token of the document, and from one token to the next.
struct KeyGradients {
    dk: *mut f32,
    dv: *mut f32,
    row: usize,
}

/// # Safety
/// As [`forward_tile`]; the scratch holds `(3 head_dim + 2 KEYS) QUERIES` numbers and two tiles of padded rows; `sums` holds
/// padded rows for every token of the document.
#[inline(always)]
unsafe fn backward_tile<L: Lanes>(
    dq: &Rows<f32>,
    sums: &KeyGradients,
    saved: Saved<'_, f32>,
    tile: Tile,
    heads: Heads,
    scratch: &mut [f32],
) {
    let e = heads.head_dim;
    let padded = e.next_multiple_of(WIDTH);
    let key_row = heads.num_kv_heads * e;
    let scale = heads.scale as f32;
    let (queries, rest) = scratch.split_at_mut(e * QUERIES);
    let (gradients, rest) = rest.split_at_mut(e * QUERIES);
    let (dqueries, rest) = rest.split_at_mut(e * QUERIES);
    let (p, rest) = rest.split_at_mut(KEYS * QUERIES);
    let (ds, rest) = rest.split_at_mut(KEYS * QUERIES);
    let (query_rows, gradient_rows) = rest.split_at_mut(QUERIES * padded);
    // SAFETY: as in `forward_tile`.
    unsafe {
        pack_transposed::<L>(queries, saved.q, tile, heads, scale);
        pack_transposed::<L>(gradients, saved.dout, tile, heads, 1.0);
        dqueries.fill(0.0);
        let (mut lse, mut delta) = ([0.0; QUERIES], [0.0; QUERIES]);
        for lane in 0..tile.lanes() {
            let place = tile.place(lane, heads);
            lse[lane] = saved.lse[place];
            delta[lane] = dot::<L>(&saved.dout[place * e..][..e], &saved.out[place * e..][..e]);
            let query_row = &mut query_rows[lane * padded..][..padded];
            query_row[..e].iter_mut().zip(&saved.q[place * e..][..e]).for_each(|(y, x)| *y = x * scale);
            query_row[e..].fill(0.0);
            let gradient_row = &mut gradient_rows[lane * padded..][..padded];
            gradient_row[..e].copy_from_slice(&saved.dout[place * e..][..e]);
            gradient_row[e..].fill(0.0);
        }
        let tokens = lane_tokens::<L>(tile);
        for key_start in (tile.start..tile.first + tile.tokens).step_by(KEYS) {
            let keys = KEYS.min(tile.first + tile.tokens - key_start);
            for band in tile.bands(key_start, keys) {
                multiply_keys::<L>(p, saved.k, queries, band, key_start, tile, heads);
                multiply_keys::<L>(ds, saved.v, gradients, band, key_start, tile, heads);
            }
            for (vector, &tokens) in tokens.iter().enumerate().take(tile.vectors()) {
                let seen = tile.seen(vector, key_start).min(keys);
                let seen_by_all = tile.seen_by_all(vector, key_start).min(seen);
                let lse = L::load(lse.as_ptr().add(vector * WIDTH));
                let delta = L::load(delta.as_ptr().add(vector * WIDTH));
                let (p, ds) = (p.as_mut_ptr().add(vector * WIDTH), ds.as_mut_ptr().add(vector * WIDTH));
                for j in 0..seen {
                    let mut probability = L::load(p.add(j * QUERIES)).sub(lse).exp();
                    if j >= seen_by_all {
                        let key = L::splat((key_start + j - tile.start) as f32);
                        probability = probability.where_at_least(tokens, key, L::splat(0.0));
                    }
                    probability.store(p.add(j * QUERIES));
                    let slope = L::load(ds.add(j * QUERIES)).sub(delta);
                    probability.mul(slope).store(ds.add(j * QUERIES));
                }
            }
            for band in tile.bands(key_start, keys) {
                let key = key_start + band.from;
                let lane = band.first_vector * WIDTH;
                for (sum, factors, rows) in [(sums.dv, &*p, &*gradient_rows), (sums.dk, &*ds, &*query_rows)] {
                    L::product(&Product {
                        c: sum.add((key - tile.start) * sums.row),
                        c_row: sums.row,
                        a: factors.as_ptr().add(band.corner()),
                        a_row: QUERIES,
                        a_column: 1,
                        b: rows.as_ptr().add(lane * padded),
                        b_row: padded,
                        rows: band.keys(),
                        vectors: padded / WIDTH,
                        depth: tile.lanes() - lane,
                        accumulate: true,
                    });
                }
                L::product(&Product {
                    c: dqueries.as_mut_ptr().add(lane),
                    c_row: QUERIES,
                    a: saved.k.as_ptr().add(key * key_row + tile.group * e),
                    a_row: 1,
                    a_column: key_row,
                    b: ds.as_ptr().add(band.corner()),
                    b_row: QUERIES,
                    rows: e,
                    vectors: band.vectors,
                    depth: band.keys(),
                    accumulate: true,
                });
            }
        }
        unpack_transposed::<L>(dq, dqueries, tile, heads, &[scale; QUERIES]);
    }
}

/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn dot<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    let whole = x.len() / WIDTH * WIDTH;
    // SAFETY: whole vectors lie inside both, which have one length.
    let lanes = unsafe {
        let mut sum = L::splat(0.0);
        for i in (0..whole).step_by(WIDTH) {
            sum = L::load(x.as_ptr().add(i)).mul_add(L::load(y.as_ptr().add(i)), sum);
        }
        sum.sum()
    };
    x[whole..].iter().zip(&y[whole..]).fold(lanes, |sum, (x, y)| sum + x * y)
}
