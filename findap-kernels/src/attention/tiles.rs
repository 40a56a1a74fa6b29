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

use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use super::cpu::Saved;
use super::softmax::{Softmax, finish, rescale, unpack_transposed};
use super::tasks::{Rows, Tile, for_each_document, for_each_span, for_each_tile, whole_tiles};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Compiled, Lanes, Portable, Product, WIDTH};
use crate::scratch::with_scratch;

/// Vectors of queries in a tile: the widest register tile.
const VECTORS: usize = 3;
/// Queries in a tile.
const QUERIES: usize = VECTORS * WIDTH;
/// Keys in a tile: with the head dimension 64, queries, scores, keys and values fit the first-level cache.
const KEYS: usize = 32;
/// Tokens of one forward task, or a few more.
const SPAN: usize = 4 * QUERIES;

/// The keys of a tile of keys that are seen by the vectors from `first_vector` on and by none before.
fn bands(tile: Tile, keys: Range<usize>) -> impl Iterator<Item = Band> {
    let mut from = 0;
    (0..tile.vectors()).filter_map(move |v| {
        let to = tile.seen(v, &keys);
        let band = Band { from, to, first_vector: v, vectors: tile.vectors() - v };
        from = from.max(to);
        (band.from < to).then_some(band)
    })
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
    for_each_span(cu_seqlens, heads.num_kv_heads, whole_tiles(heads, QUERIES, SPAN), |document, queries, group| {
        with_scratch((2 * e + KEYS) * QUERIES, |scratch: &mut [f32]| {
            for_each_tile::<L>(
                heads,
                QUERIES,
                group,
                document.start,
                queries,
                #[inline(always)]
                |tile| {
                    // SAFETY: lengths and offsets were checked; the tile's rows of the outputs belong to this task.
                    unsafe { forward_tile::<L>(&out, Some(&lse), q, k, v, tile, heads, scratch) };
                },
            );
        });
    });
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
        let tokens = tile.tokens_of_lanes::<L, VECTORS>();
        let mut softmax = [Softmax::<L>::new(); VECTORS];
        for keys in tile.key_tiles(KEYS) {
            for band in bands(tile, keys.clone()) {
                multiply_keys::<L>(scores, k, queries, band, keys.start, tile, heads);
            }
            for v in 0..tile.vectors() {
                let vector = tile.vector(v, &keys, tokens[v]);
                let column = scores.as_mut_ptr().add(v * WIDTH);
                let shrink = vector.exponentiate(column, QUERIES, &mut softmax[v]);
                if keys.start > tile.start && vector.seen > 0 {
                    rescale(sums.as_mut_ptr().add(v * WIDTH), QUERIES, e, shrink);
                }
            }
            for band in bands(tile, keys.clone()) {
                L::product(&Product {
                    c: sums.as_mut_ptr().add(band.first_vector * WIDTH),
                    c_row: QUERIES,
                    a: v.as_ptr().add((keys.start + band.from) * key_row + tile.group * e),
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
        finish::<L, QUERIES>(out, lse, sums, &softmax, tile, heads);
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

/// One new token of each sequence over the cached keys and values of its slot. The same tiles in the same order as in the
/// forward pass over the whole sequence, hence the same bits.
#[expect(clippy::too_many_arguments, reason = "the fields of one argument structure, after dispatch on the format")]
pub(super) fn decode(
    out: &mut [f32],
    q: &[f32],
    k_cache: &[f32],
    v_cache: &[f32],
    slots: &[u32],
    seq_lens: &[u32],
    slot_len: usize,
    heads: Heads,
) {
    let cache = Cache { k: k_cache, v: v_cache, slots, seq_lens, slot_len };
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
    seq_lens: &'a [u32],
    slot_len: usize,
}

fn decode_with<L: Compiled>(out: &mut [f32], q: &[f32], cache: Cache<'_>, heads: Heads) {
    let out = Rows(out.as_mut_ptr());
    let e = heads.head_dim;
    (0..cache.seq_lens.len() * heads.num_kv_heads).into_par_iter().for_each(|i| {
        let (sequence, group) = (i / heads.num_kv_heads, i % heads.num_kv_heads);
        let token = cache.seq_lens[sequence] as usize - 1;
        let slot = cache.slots[sequence] as usize * cache.slot_len;
        let (k, v) = (&cache.k[slot..][..cache.slot_len], &cache.v[slot..][..cache.slot_len]);
        with_scratch((2 * e + KEYS) * QUERIES, |scratch: &mut [f32]| {
            for_each_tile::<L>(
                heads,
                QUERIES,
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
    for_each_document(cu_seqlens, heads.num_kv_heads, |document, group| {
        let tile_len = (3 * e + 2 * KEYS) * QUERIES + 2 * QUERIES * padded;
        // Whole vectors are added to rows of dk and dv: a head that is no multiple of them is summed elsewhere first.
        let apart = if padded == e { 0 } else { 2 * document.len() * padded };
        with_scratch(tile_len + apart, |scratch: &mut [f32]| {
            let (scratch, apart) = scratch.split_at_mut(tile_len);
            // SAFETY: lengths and offsets were checked; the rows of this document and group belong to this task.
            unsafe {
                let sums = if padded == e {
                    let base = (document.start * heads.num_kv_heads + group) * e;
                    KeyGradients { dk: dk.at(base), dv: dv.at(base), row: heads.num_kv_heads * e }
                } else {
                    let (dk, dv) = apart.split_at_mut(document.len() * padded);
                    KeyGradients { dk: dk.as_mut_ptr(), dv: dv.as_mut_ptr(), row: padded }
                };
                for token in 0..document.len() {
                    std::slice::from_raw_parts_mut(sums.dk.add(token * sums.row), padded).fill(0.0);
                    std::slice::from_raw_parts_mut(sums.dv.add(token * sums.row), padded).fill(0.0);
                }
                for_each_tile::<L>(
                    heads,
                    QUERIES,
                    group,
                    document.start,
                    document.clone(),
                    #[inline(always)]
                    |tile| backward_tile::<L>(&dq, &sums, saved, tile, heads, scratch),
                );
                if padded != e {
                    for (from, token) in document.enumerate() {
                        let place = (token * heads.num_kv_heads + group) * e;
                        for (to, sums) in [(&dk, sums.dk), (&dv, sums.dv)] {
                            let sums = std::slice::from_raw_parts(sums.add(from * padded), e);
                            to.get(place, e).copy_from_slice(sums);
                        }
                    }
                }
            }
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
        let tokens = tile.tokens_of_lanes::<L, VECTORS>();
        for keys in tile.key_tiles(KEYS) {
            for band in bands(tile, keys.clone()) {
                multiply_keys::<L>(p, saved.k, queries, band, keys.start, tile, heads);
                multiply_keys::<L>(ds, saved.v, gradients, band, keys.start, tile, heads);
            }
            for (v, &tokens) in tokens.iter().enumerate().take(tile.vectors()) {
                let (first, vector) = (v * WIDTH, tile.vector(v, &keys, tokens));
                let (lse, delta) = (L::load(lse.as_ptr().add(first)), L::load(delta.as_ptr().add(first)));
                let (p, ds) = (p.as_mut_ptr().add(first), ds.as_mut_ptr().add(first));
                vector.differentiate(p, ds, QUERIES, lse, delta);
            }
            for band in bands(tile, keys.clone()) {
                let key = keys.start + band.from;
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
        unpack_transposed::<L, QUERIES>(dq, dqueries, tile, heads, &[scale; QUERIES]);
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
