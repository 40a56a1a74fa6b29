//! Tiled attention on the CPU in f64, and in f32 as the yardstick of tests.
//!
//! Forward: one task per (document, query head, tile of queries). Keys are transposed tile by tile, so that the scores of
//! one query against a tile are computed as vectors over the keys; the output is a vector over the head dimension.
//! Backward: one task per (document, key head). It visits the query heads of its group, the query tiles and the key tiles
//! in order and owns its rows of dk and dv, so the sums have one order.

use std::ops::Range;

use rayon::prelude::*;

use super::Heads;
use super::tasks::{Rows, for_each_document};
use crate::dtype::Real;
use crate::isa::vectorised;
use crate::scratch::with_scratch;

/// Queries of one tile.
const QUERIES: usize = 64;
/// Keys of one tile.
const KEYS: usize = 64;

/// The inputs of the backward pass.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a, T> {
    pub(super) dout: &'a [T],
    pub(super) out: &'a [T],
    pub(super) lse: &'a [T],
    pub(super) q: &'a [T],
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
}

pub(super) fn forward<T: Real>(
    out: &mut [T],
    lse: &mut [T],
    q: &[T],
    k: &[T],
    v: &[T],
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let (out, lse) = (Rows(out.as_mut_ptr()), Rows(lse.as_mut_ptr()));
    for_each_document(cu_seqlens, heads.num_heads, |document, head| {
        vectorised(
            #[inline(always)]
            || forward_head(&out, &lse, q, k, v, document, head, heads),
        )
    });
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one task: its outputs, inputs and place")]
fn forward_head<T: Real>(
    out: &Rows<T>,
    lse: &Rows<T>,
    q: &[T],
    k: &[T],
    v: &[T],
    Range { start, end }: Range<usize>,
    head: usize,
    heads: Heads,
) {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = heads;
    let group = head / (num_heads / num_kv_heads);
    let scale = T::from_f64(scale);
    with_scratch((KEYS + QUERIES) * e, |scratch: &mut [T]| {
        let (transposed, rows) = scratch.split_at_mut(KEYS * e);
        for query_start in (start..end).step_by(QUERIES) {
            let queries = QUERIES.min(end - query_start);
            let mut best = [T::NEG_INFINITY; QUERIES];
            let mut total = [T::ZERO; QUERIES];
            rows.fill(T::ZERO);
            let first_seen = heads.first_seen(start, query_start);
            for key_start in (first_seen..query_start + queries).step_by(KEYS) {
                let keys = KEYS.min(query_start + queries - key_start);
                transpose(transposed, k, key_start, keys, num_kv_heads, group, e);
                for row in 0..queries {
                    let i = query_start + row;
                    let seen = seen_keys(heads, start, i, key_start, keys);
                    if seen.is_empty() {
                        continue;
                    }
                    let query = &q[(i * num_heads + head) * e..][..e];
                    let mut p = scores(query, transposed);
                    let mut largest = best[row];
                    for score in &mut p[seen.clone()] {
                        *score *= scale;
                        largest = largest.max(*score);
                    }
                    let shrink = (best[row] - largest).exp_vector();
                    best[row] = largest;
                    let mut lanes = [T::ZERO; 16];
                    for (j, p) in p.iter_mut().enumerate() {
                        *p = if seen.contains(&j) { (*p - largest).exp_vector() } else { T::ZERO };
                        lanes[j % 16] += *p;
                    }
                    total[row] = total[row] * shrink + sum(&lanes);
                    let target = &mut rows[row * e..][..e];
                    target.iter_mut().for_each(|x| *x *= shrink);
                    for (j, &p) in p.iter().enumerate().take(seen.end).skip(seen.start) {
                        let value = &v[((key_start + j) * num_kv_heads + group) * e..][..e];
                        target.iter_mut().zip(value).for_each(|(x, &v)| *x += p * v);
                    }
                }
            }
            for row in 0..queries {
                let place = (query_start + row) * num_heads + head;
                // SAFETY: this task alone writes the rows of its document and head, which lie inside the outputs.
                let (out, lse) = unsafe { (out.get(place * e, e), lse.get(place, 1)) };
                let inverse = T::ONE / total[row];
                out.iter_mut().zip(&rows[row * e..]).for_each(|(y, &x)| *y = x * inverse);
                lse[0] = best[row] + total[row].ln();
            }
        }
    });
}

/// Which of `keys` keys from `key_start` on a query sees.
#[inline(always)]
fn seen_keys(heads: Heads, start: usize, query: usize, key_start: usize, keys: usize) -> Range<usize> {
    let end = keys.min((query + 1).saturating_sub(key_start));
    heads.first_seen(start, query).saturating_sub(key_start).min(end)..end
}

/// `transposed[x, j]` = `source[start + j, head, x]`, 0 past the last key.
#[inline(always)]
fn transpose<T: Real>(
    transposed: &mut [T],
    source: &[T],
    start: usize,
    keys: usize,
    heads: usize,
    head: usize,
    e: usize,
) {
    transposed.fill(T::ZERO);
    for j in 0..keys {
        let row = &source[((start + j) * heads + head) * e..][..e];
        for (x, &value) in row.iter().enumerate() {
            transposed[x * KEYS + j] = value;
        }
    }
}

/// The products of one vector with the columns of a transposed tile.
#[inline(always)]
fn scores<T: Real>(x: &[T], transposed: &[T]) -> [T; KEYS] {
    let mut sums = [T::ZERO; KEYS];
    let (rows, _) = transposed.as_chunks::<KEYS>();
    for (&x, row) in x.iter().zip(rows) {
        for j in 0..KEYS {
            sums[j] += x * row[j];
        }
    }
    sums
}

#[inline(always)]
fn sum<T: Real>(lanes: &[T; 16]) -> T {
    lanes.iter().fold(T::ZERO, |sum, &x| sum + x)
}

pub(super) fn backward<T: Real>(
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    saved: Saved<'_, T>,
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let (dq, dk, dv) = (Rows(dq.as_mut_ptr()), Rows(dk.as_mut_ptr()), Rows(dv.as_mut_ptr()));
    for_each_document(cu_seqlens, heads.num_kv_heads, |document, group| {
        vectorised(
            #[inline(always)]
            || backward_group(&dq, &dk, &dv, saved, document, group, heads),
        )
    });
}

#[inline(always)]
fn backward_group<T: Real>(
    dq: &Rows<T>,
    dk: &Rows<T>,
    dv: &Rows<T>,
    saved: Saved<'_, T>,
    Range { start, end }: Range<usize>,
    group: usize,
    heads: Heads,
) {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = heads;
    let Saved { dout, out, lse, q, k, v } = saved;
    let per_group = num_heads / num_kv_heads;
    let scale = T::from_f64(scale);
    let tokens = end - start;
    with_scratch(2 * (KEYS + tokens) * e, |scratch: &mut [T]| {
        let (transposed, sums) = scratch.split_at_mut(2 * KEYS * e);
        let (keys_transposed, values_transposed) = transposed.split_at_mut(KEYS * e);
        sums.fill(T::ZERO);
        let (dk_sums, dv_sums) = sums.split_at_mut(tokens * e);
        for head in group * per_group..(group + 1) * per_group {
            for i in start..end {
                // SAFETY: this task alone writes the query heads of its group in its document.
                unsafe { dq.get((i * num_heads + head) * e, e) }.fill(T::ZERO);
            }
            for key_start in (start..end).step_by(KEYS) {
                let keys = KEYS.min(end - key_start);
                transpose(keys_transposed, k, key_start, keys, num_kv_heads, group, e);
                transpose(values_transposed, v, key_start, keys, num_kv_heads, group, e);
                let last_seeing =
                    heads.window.map_or(end, |window| (key_start + keys - 1).saturating_add(window).min(end));
                for i in key_start..last_seeing {
                    let seen = seen_keys(heads, start, i, key_start, keys);
                    let place = i * num_heads + head;
                    let (query, gradient) = (&q[place * e..][..e], &dout[place * e..][..e]);
                    let delta = dot(gradient, &out[place * e..][..e]);
                    let mut p = scores(query, keys_transposed);
                    let mut ds = scores(gradient, values_transposed);
                    for j in 0..KEYS {
                        p[j] = (p[j] * scale - lse[place]).exp_vector();
                        ds[j] = p[j] * (ds[j] - delta) * scale;
                    }
                    // SAFETY: as above.
                    let dq = unsafe { dq.get(place * e, e) };
                    for j in seen {
                        let token = key_start + j - start;
                        let dv = &mut dv_sums[token * e..][..e];
                        dv.iter_mut().zip(gradient).for_each(|(y, &x)| *y += p[j] * x);
                        let dk = &mut dk_sums[token * e..][..e];
                        dk.iter_mut().zip(query).for_each(|(y, &x)| *y += ds[j] * x);
                        let key = &k[((key_start + j) * num_kv_heads + group) * e..][..e];
                        dq.iter_mut().zip(key).for_each(|(y, &x)| *y += ds[j] * x);
                    }
                }
            }
        }
        for i in start..end {
            let place = (i * num_kv_heads + group) * e;
            // SAFETY: this task alone writes its key head in its document.
            let (dk, dv) = unsafe { (dk.get(place, e), dv.get(place, e)) };
            dk.copy_from_slice(&dk_sums[(i - start) * e..][..e]);
            dv.copy_from_slice(&dv_sums[(i - start) * e..][..e]);
        }
    });
}

#[inline(always)]
fn dot<T: Real>(x: &[T], y: &[T]) -> T {
    let mut lanes = [T::ZERO; 16];
    let ((xs, x), (ys, y)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..16 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (&x, &y)) in x.iter().zip(y).enumerate() {
        lanes[lane] += x * y;
    }
    sum(&lanes)
}

#[expect(clippy::too_many_arguments, reason = "the fields of one argument structure, after dispatch on the format")]
pub(super) fn decode<T: Real>(
    out: &mut [T],
    q: &[T],
    k_cache: &[T],
    v_cache: &[T],
    slots: &[u32],
    seq_lens: &[u32],
    slot_len: usize,
    heads: Heads,
) {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = heads;
    let scale = T::from_f64(scale);
    out.par_chunks_mut(e).zip(q.par_chunks(e)).enumerate().with_min_len(num_heads).for_each(|(index, (out, query))| {
        let (sequence, head) = (index / num_heads, index % num_heads);
        let group = head / (num_heads / num_kv_heads);
        let base = slots[sequence] as usize * slot_len;
        let place = |token: usize| base + (token * num_kv_heads + group) * e;
        vectorised(
            #[inline(always)]
            || {
                let (mut best, mut total) = (T::NEG_INFINITY, T::ZERO);
                out.fill(T::ZERO);
                let len = seq_lens[sequence] as usize;
                for token in heads.first_seen(0, len - 1)..len {
                    let score = scale * dot(query, &k_cache[place(token)..][..e]);
                    let value = &v_cache[place(token)..][..e];
                    if score > best {
                        let shrink = (best - score).exp_vector();
                        total *= shrink;
                        out.iter_mut().for_each(|x| *x *= shrink);
                        best = score;
                    }
                    let p = (score - best).exp_vector();
                    total += p;
                    out.iter_mut().zip(value).for_each(|(x, &v)| *x += p * v);
                }
                out.iter_mut().for_each(|x| *x /= total);
            },
        );
    });
}
