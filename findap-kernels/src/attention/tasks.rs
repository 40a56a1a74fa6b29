//! How attention on the CPU is cut: into documents or spans of their queries for threads, and these into tiles for vectors.
//!
//! A vector of queries is one of lanes; a lane is a (token, query head of the group) pair, tokens first, so that lanes to the right
//! see at least the keys that lanes to the left see.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use crate::lanes::{Lanes, WIDTH};

/// An output whose rows are written by different tasks.
pub(super) struct Rows<T>(pub(super) *mut T);
// SAFETY: every task writes rows of its own (document, head); see the callers.
unsafe impl<T: Send> Sync for Rows<T> {}

impl<T> Rows<T> {
    /// # Safety
    /// The range lies inside the output and no other task touches it.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn get(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    /// # Safety
    /// The place lies inside the output.
    pub(super) unsafe fn at(&self, start: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(start) }
    }
}

/// Runs `task(document, head)` for every head of every document that has tokens.
pub(super) fn for_each_document(cu_seqlens: &[u32], num_heads: usize, task: impl Fn(Range<usize>, usize) + Sync) {
    for_each_span(cu_seqlens, num_heads, usize::MAX, |document, _, head| task(document, head));
}

/// Runs `task(document, queries, head)` for every head of every `span` queries of every document. The longest tasks first, so that
/// no thread is left with one at the end. Order does not matter to the result.
pub(super) fn for_each_span(
    cu_seqlens: &[u32],
    num_heads: usize,
    span: usize,
    task: impl Fn(Range<usize>, Range<usize>, usize) + Sync,
) {
    thread_local! {
        static TASKS: RefCell<Vec<[u32; 4]>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out while in use: a waiting thread may start another task of the pool meanwhile.
    let mut tasks = TASKS.take();
    tasks.clear();
    for document in cu_seqlens.windows(2) {
        let [start, end] = [document[0], document[1]];
        let spans = (start..end).step_by(span.min(u32::MAX as usize));
        tasks.extend(
            spans.map(|from| [start, from, (from as usize).saturating_add(span).min(end as usize) as u32, end]),
        );
    }
    tasks.sort_unstable_by_key(|&[start, from, to, _]| {
        (Reverse(u64::from(to - from) * u64::from(from - start + to - start)), from)
    });
    (0..tasks.len() * num_heads).into_par_iter().with_max_len(8).for_each(|i| {
        let [start, from, to, end] = tasks[i / num_heads].map(|x| x as usize);
        task(start..end, from..to, i % num_heads);
    });
    TASKS.set(tasks);
}

/// The queries of one tile and the keys of its document.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// First token of the document.
    pub(super) start: usize,
    /// First token of the tile.
    pub(super) first: usize,
    /// Row of that token in the queries and outputs: `first`, but for decoding.
    pub(super) query_row: usize,
    /// Tokens of the tile.
    pub(super) tokens: usize,
    /// The key head.
    pub(super) group: usize,
    /// First query head of the tile.
    pub(super) head: usize,
    /// Query heads of the tile.
    pub(super) num_heads: usize,
}

impl Tile {
    pub(super) fn lanes(&self) -> usize {
        self.tokens * self.num_heads
    }

    pub(super) fn vectors(&self) -> usize {
        self.lanes().div_ceil(WIDTH)
    }

    /// The token of a lane; lanes past the last repeat its token.
    fn token(&self, lane: usize) -> usize {
        self.first + (lane / self.num_heads).min(self.tokens - 1)
    }

    /// The row of a lane in a `[n, heads]` array of all heads. Only for lanes of the tile.
    pub(super) fn place(&self, lane: usize, heads: Heads) -> usize {
        (self.query_row + lane / self.num_heads) * heads.num_heads + self.head + lane % self.num_heads
    }

    /// The keys that some query of the tile sees, `size` at a time.
    pub(super) fn key_tiles(self, size: usize) -> impl Iterator<Item = Range<usize>> {
        key_tiles(self.start..self.first + self.tokens, size)
    }

    /// How many of the keys some query of vector `v` sees.
    pub(super) fn seen(&self, v: usize, keys: &Range<usize>) -> usize {
        (self.token(v * WIDTH + WIDTH - 1) + 1).saturating_sub(keys.start).min(keys.len())
    }

    /// The token of each lane, counted from the document's first (exact: below 2^24).
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    pub(super) unsafe fn tokens_of_lanes<L: Lanes, const VECTORS: usize>(&self) -> [L; VECTORS] {
        std::array::from_fn(|v| {
            let token = |lane| (self.token(v * WIDTH + lane) - self.start) as f32;
            let tokens: [f32; WIDTH] = std::array::from_fn(token);
            // SAFETY: the caller's promise; sixteen numbers.
            unsafe { L::load(tokens.as_ptr()) }
        })
    }

    /// Vector `v` of the tile's queries over `keys`.
    pub(super) fn vector<L: Lanes>(&self, v: usize, keys: &Range<usize>, tokens: L) -> Vector<L> {
        Vector {
            seen: self.seen(v, keys),
            seen_by_all: (self.token(v * WIDTH) + 1).saturating_sub(keys.start).min(keys.len()),
            first_key: (keys.start - self.start) as f32,
            tokens,
        }
    }
}

/// The keys, `size` at a time.
pub(super) fn key_tiles(keys: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    keys.clone().step_by(size).map(move |start| start..keys.end.min(start + size))
}

/// Calls `visit` for the tiles of at most `max_lanes` lanes of the tokens `range` of a document, in order: all heads of the group if they
/// fit, then as many tokens as fit beside them.
#[inline(always)]
pub(super) fn for_each_tile(
    heads: Heads,
    max_lanes: usize,
    group: usize,
    start: usize,
    range: Range<usize>,
    mut visit: impl FnMut(Tile),
) {
    let per_group = heads.num_heads / heads.num_kv_heads;
    let tile_heads = per_group.min(max_lanes);
    let tile_tokens = max_lanes / tile_heads;
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

/// Queries of a task of about `tiles` tiles: whole ones.
pub(super) fn span(heads: Heads, max_lanes: usize, tiles: usize) -> usize {
    let tile_tokens = max_lanes / (heads.num_heads / heads.num_kv_heads).min(max_lanes);
    (tiles * max_lanes).div_ceil(tile_tokens) * tile_tokens
}

/// One vector of queries over a tile of keys, whose numbers lie in a column: `stride` numbers from one key to the next.
#[derive(Clone, Copy)]
pub(super) struct Vector<L> {
    /// Keys that some query sees.
    pub(super) seen: usize,
    /// Keys that every query sees.
    seen_by_all: usize,
    /// The first key, from the first token of the document.
    first_key: f32,
    /// The tokens, likewise (exact: below 2^24).
    tokens: L,
}

/// The largest score of each query so far, and the sum of e^(score - largest).
#[derive(Clone, Copy)]
pub(super) struct Softmax<L> {
    pub(super) best: L,
    pub(super) total: L,
}

impl<L: Lanes> Softmax<L> {
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    pub(super) unsafe fn new() -> Softmax<L> {
        // SAFETY: the caller's promise.
        unsafe { Softmax { best: L::splat(f32::NEG_INFINITY), total: L::splat(0.0) } }
    }
}

impl<L: Lanes> Vector<L> {
    /// Scores of the seen keys become e^(score - largest). Returns what sums of earlier keys are to be multiplied by.
    ///
    /// # Safety
    /// The processor has the instructions of `L`; the column holds the seen keys.
    #[inline(always)]
    pub(super) unsafe fn exponentiate(&self, column: *mut f32, stride: usize, softmax: &mut Softmax<L>) -> L {
        // SAFETY: the caller's promise.
        unsafe {
            let mut largest = [softmax.best; 2];
            for j in 0..self.seen_by_all {
                largest[j % 2] = largest[j % 2].max(L::load(column.add(j * stride)));
            }
            for j in self.seen_by_all..self.seen {
                let masked = self.masked(L::load(column.add(j * stride)), j, f32::NEG_INFINITY);
                masked.store(column.add(j * stride));
                largest[0] = largest[0].max(masked);
            }
            let largest = largest[0].max(largest[1]);
            let shrink = softmax.best.sub(largest).exp();
            let mut partial = [L::splat(0.0); 2];
            for j in 0..self.seen {
                let p = L::load(column.add(j * stride)).sub(largest).exp();
                p.store(column.add(j * stride));
                partial[j % 2] = partial[j % 2].add(p);
            }
            softmax.best = largest;
            softmax.total = softmax.total.mul_add(shrink, partial[0].add(partial[1]));
            shrink
        }
    }

    /// Scores of the seen keys become p = e^(score - lse), and products of gradients and values p (product - delta).
    ///
    /// # Safety
    /// The processor has the instructions of `L`; the columns hold the seen keys.
    #[inline(always)]
    pub(super) unsafe fn differentiate(&self, p: *mut f32, ds: *mut f32, stride: usize, lse: L, delta: L) {
        // SAFETY: the caller's promise.
        unsafe {
            for j in 0..self.seen {
                let mut probability = L::load(p.add(j * stride)).sub(lse).exp();
                if j >= self.seen_by_all {
                    probability = self.masked(probability, j, 0.0);
                }
                probability.store(p.add(j * stride));
                let slope = L::load(ds.add(j * stride)).sub(delta);
                probability.mul(slope).store(ds.add(j * stride));
            }
        }
    }

    /// `x` for the queries that see key `j`, `other` for the others.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn masked(&self, x: L, j: usize, other: f32) -> L {
        // SAFETY: the caller's promise.
        unsafe { x.where_at_least(self.tokens, L::splat(self.first_key + j as f32), L::splat(other)) }
    }
}

/// Multiplies a column of a `[rows, stride]` array by `factor`.
///
/// # Safety
/// The processor has the instructions of `L`; the column holds `rows` vectors.
#[inline(always)]
pub(super) unsafe fn rescale<L: Lanes>(column: *mut f32, stride: usize, rows: usize, factor: L) {
    for x in 0..rows {
        // SAFETY: the caller's promise.
        unsafe { L::load(column.add(x * stride)).mul(factor).store(column.add(x * stride)) };
    }
}

/// Divides the sums of a tile by their totals, and writes lse if it is wanted.
///
/// # Safety
/// As [`unpack_transposed`].
#[inline(always)]
pub(super) unsafe fn finish<L: Lanes, const LANES: usize>(
    out: &Rows<f32>,
    lse: Option<&Rows<f32>>,
    sums: &[f32],
    softmax: &[Softmax<L>],
    tile: Tile,
    heads: Heads,
) {
    let (mut bests, mut totals) = ([0.0; LANES], [0.0; LANES]);
    // SAFETY: one vector after the other fills the lanes; rows of lanes of the tile, which belong to this task.
    unsafe {
        for ((softmax, bests), totals) in
            softmax.iter().zip(bests.chunks_exact_mut(WIDTH)).zip(totals.chunks_exact_mut(WIDTH))
        {
            softmax.best.store(bests.as_mut_ptr());
            softmax.total.store(totals.as_mut_ptr());
        }
        for lane in 0..tile.lanes() {
            if let Some(lse) = lse {
                lse.get(tile.place(lane, heads), 1)[0] = bests[lane] + totals[lane].ln();
            }
            totals[lane] = 1.0 / totals[lane];
        }
        unpack_transposed::<L, LANES>(out, sums, tile, heads, &totals);
    }
}

/// out\[lane, x] = transposed\[x, lane] * factors\[lane].
///
/// # Safety
/// The processor has the instructions of `L`; no other task writes the rows of the tile; `transposed` is `[head_dim, LANES]`, and
/// the tile has at most so many lanes.
#[inline(always)]
pub(super) unsafe fn unpack_transposed<L: Lanes, const LANES: usize>(
    out: &Rows<f32>,
    transposed: &[f32],
    tile: Tile,
    heads: Heads,
    factors: &[f32; LANES],
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
                    *row = L::load(transposed.as_ptr().add((x + i) * LANES + first)).mul(factor);
                }
                L::transpose(&mut rows);
                for (i, row) in rows[..count].iter().enumerate() {
                    row.store(out.get(tile.place(first + i, heads) * e + x, WIDTH).as_mut_ptr());
                }
            }
            for x in whole..e {
                for lane in first..first + count {
                    out.get(tile.place(lane, heads) * e + x, 1)[0] = transposed[x * LANES + lane] * factors[lane];
                }
            }
        }
    }
}
