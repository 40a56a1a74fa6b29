//! The softmax of attention and its gradient, a vector of queries at a time, and the way out of a tile.
//!
//! Tiles are `[key, query]`: maximum, exponentials, their sum and the rescaling work lane by lane, without a sum across lanes.

use std::ops::Range;

use super::Heads;
use super::tasks::{Rows, Tile};
use crate::lanes::{Lanes, WIDTH};

impl Tile {
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
    #[inline(always)]
    pub(super) fn vector<L: Lanes>(&self, v: usize, keys: &Range<usize>, tokens: L) -> Vector<L> {
        Vector {
            seen: self.seen(v, keys),
            seen_by_all: (self.token(v * WIDTH) + 1).saturating_sub(keys.start).min(keys.len()),
            hidden: self.hidden(v, keys),
            first_key: (keys.start - self.start) as f32,
            window: self.window as f32,
            tokens,
        }
    }
}

/// One vector of queries over a tile of keys, whose numbers lie in a column: `stride` numbers from one key to the next.
#[derive(Clone, Copy)]
pub(super) struct Vector<L> {
    /// Keys that some query sees.
    pub(super) seen: usize,
    /// Keys that are not after any query.
    seen_by_all: usize,
    /// The first of these, which are too long ago for some query.
    hidden: usize,
    /// The first key, from the first token of the document.
    first_key: f32,
    /// Tokens that a query sees (exact where it hides any: below 2^24).
    window: f32,
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
    /// The state before any key: a largest score that is finite, so that it stays one where a window hides the first keys.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    pub(super) unsafe fn new() -> Softmax<L> {
        // SAFETY: the caller's promise.
        unsafe { Softmax { best: L::splat(f32::MIN), total: L::splat(0.0) } }
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
            for j in self.hidden..self.seen_by_all {
                largest[j % 2] = largest[j % 2].max(L::load(column.add(j * stride)));
            }
            for j in (0..self.hidden.min(self.seen)).chain(self.seen_by_all.max(self.hidden)..self.seen) {
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
                if j >= self.seen_by_all || j < self.hidden {
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
        unsafe {
            let (key, other) = (L::splat(self.first_key + j as f32), L::splat(other));
            let x = x.where_at_least(self.tokens, key, other);
            match j < self.hidden {
                // a key is seen by the queries before it leaves the window
                true => x.where_at_least(L::splat(self.first_key + j as f32 + self.window - 1.0), self.tokens, other),
                false => x,
            }
        }
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
