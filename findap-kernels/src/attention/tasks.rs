//! How attention on the CPU is cut: into documents or spans of their queries for threads, and these into tiles for vectors.
//!
//! The queries of a vector are its lanes. A lane is a (token, query head of the group) pair, tokens first, so that lanes to the right
//! see at least the keys that lanes to the left see.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use crate::lanes::{Compiled, WIDTH};

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
    /// Tokens that a query sees, itself included.
    pub(super) window: usize,
}

impl Tile {
    pub(super) fn lanes(&self) -> usize {
        self.tokens * self.num_heads
    }

    pub(super) fn vectors(&self) -> usize {
        self.lanes().div_ceil(WIDTH)
    }

    /// The token of a lane; lanes past the last repeat its token.
    pub(super) fn token(&self, lane: usize) -> usize {
        self.first + (lane / self.num_heads).min(self.tokens - 1)
    }

    /// The row of a lane in a `[n, heads]` array of all heads. Only for lanes of the tile.
    pub(super) fn place(&self, lane: usize, heads: Heads) -> usize {
        (self.query_row + lane / self.num_heads) * heads.num_heads + self.head + lane % self.num_heads
    }

    /// The keys that some query of the tile sees, `size` at a time, counted from the document's first: where tiles of keys begin does
    /// not depend on the tile of queries.
    pub(super) fn key_tiles(self, size: usize) -> impl Iterator<Item = Range<usize>> {
        let first = first_key_tile(self.start, self.first, self.window, size);
        key_tiles(first..self.first + self.tokens, size)
    }

    /// How many of the keys are too long ago for some query of vector `v`.
    pub(super) fn hidden(&self, v: usize, keys: &Range<usize>) -> usize {
        (self.token(v * WIDTH + WIDTH - 1) + 1).saturating_sub(self.window).saturating_sub(keys.start).min(keys.len())
    }

    /// How many of the keys some query of vector `v` sees.
    pub(super) fn seen(&self, v: usize, keys: &Range<usize>) -> usize {
        (self.token(v * WIDTH + WIDTH - 1) + 1).saturating_sub(keys.start).min(keys.len())
    }
}

/// The first key of the first tile of keys that a query sees, in a document that begins at `start`.
pub(super) fn first_key_tile(start: usize, query: usize, window: usize, size: usize) -> usize {
    let first_seen = (query + 1).saturating_sub(window).max(start);
    start + (first_seen - start) / size * size
}

/// The keys, `size` at a time.
pub(super) fn key_tiles(keys: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    keys.clone().step_by(size).map(move |start| start..keys.end.min(start + size))
}

/// Calls `visit` for the tiles of at most `max_lanes` lanes of the tokens `range` of a document, in order: all heads of the group if they
/// fit, then as many tokens as fit beside them. `visit`, which must be `#[inline(always)]`, is compiled for the instructions of `L`.
pub(super) fn for_each_tile<L: Compiled>(
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
    L::enter(
        #[inline(always)]
        || {
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
                        window: heads.window.unwrap_or(usize::MAX),
                    });
                }
            }
        },
    );
}

/// The first multiple of a tile's tokens from `tokens` on.
pub(super) fn whole_tiles(heads: Heads, max_lanes: usize, tokens: usize) -> usize {
    tokens.next_multiple_of(max_lanes / (heads.num_heads / heads.num_kv_heads).min(max_lanes))
}
