//! Tiled attention with factors rounded to bf16 and sums in f32: every product runs on the kernels of [`crate::matmul::bf16`].
//!
//! Tiles are held transposed, `[key, query]`, as in [`super::tiles`]. What differs is that factors are packed: keys and values once
//! per task, queries once per tile, probabilities and their gradients once per pair of tiles. Softmax and its gradient are in f32, and
//! sums of probabilities are those before rounding.
//!
//! Forward: one task per (document, key head, span of queries). Backward: one task per (document, key head), which owns its rows of dk
//! and dv and visits query tiles and key tiles in order, so every sum has one order.

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::ops::Range;

use super::Heads;
use super::cpu::Saved;
use super::softmax::{Softmax, finish, rescale, unpack_transposed};
use super::tasks::{
    Rows, Tile, first_key_tile, for_each_document, for_each_span, for_each_tile, key_tiles, whole_tiles,
};
use super::tiles::dot;
use crate::dtype::bf16_bits;
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};
use crate::lanes::{Compiled, Lanes, Portable, WIDTH};
use crate::matmul::bf16::{COLUMNS, Kernel, Line, STEP, Strip, a_panel, b_panels};
use crate::scratch::with_scratch;
use crate::slice::Slice;

/// Panels of queries in a tile.
const PANELS: usize = 2;
/// Queries in a tile.
const QUERIES: usize = PANELS * COLUMNS;
/// Vectors of queries in a tile.
const VECTORS: usize = QUERIES / WIDTH;
/// Keys in a tile: whole panels of every kernel, whose rows are 32, 12 or 4, and whole steps.
const KEYS: usize = 96;
const KEY_STEPS: usize = KEYS / STEP;
/// Tokens of one forward task, or a few more. A task packs all keys that its queries see: the more queries, the less of that.
const SPAN: usize = 8 * QUERIES;

const _: () = assert!(COLUMNS == STEP && KEYS.is_multiple_of(STEP));

pub(super) fn forward(
    kernel: &Kernel,
    out: &mut [f32],
    lse: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    cu_seqlens: &[u32],
    heads: Heads,
) {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => forward_with::<Avx512>(kernel, out, lse, [q, k, v], cu_seqlens, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => forward_with::<Avx2>(kernel, out, lse, [q, k, v], cu_seqlens, heads),
        _ => forward_with::<Portable>(kernel, out, lse, [q, k, v], cu_seqlens, heads),
    }
}

fn forward_with<L: Compiled>(
    kernel: &Kernel,
    out: &mut [f32],
    lse: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let (out, lse) = (Rows(out.as_mut_ptr()), Rows(lse.as_mut_ptr()));
    let x = Layer::new(kernel, heads);
    for_each_span(cu_seqlens, heads.num_kv_heads, whole_tiles(heads, QUERIES, SPAN), |document, queries, group| {
        let window = heads.window.unwrap_or(usize::MAX);
        let seen = first_key_tile(document.start, queries.start, window, KEYS)..queries.end;
        let tiles = seen.len().div_ceil(KEYS);
        let sizes = [tiles * x.by_key(), tiles * x.across(), x.right(), PANELS * KEY_STEPS * STEP];
        let sizes_of_numbers = [QUERIES * heads.head_dim, x.rows * QUERIES, KEYS * QUERIES];
        with_memory(sizes, sizes_of_numbers, |[keys, values, queries_right, p_right], [rows, sums, scores]| {
            x.pack_by_key(keys, k, seen.clone(), group);
            x.pack_across(values, v, seen.clone(), group);
            let first_key = seen.start;
            let mut memory =
                Forward { first_key, keys, values, queries: queries_right, p: p_right, rows, sums, scores };
            // SAFETY: whoever chose the kernel found its instructions; a task enters none besides.
            let _entered = unsafe { kernel.enter() };
            for_each_tile::<L>(
                heads,
                QUERIES,
                group,
                document.start,
                queries.clone(),
                #[inline(always)]
                |tile| {
                    // SAFETY: lengths and offsets were checked; the tile's rows of the outputs belong to this task.
                    unsafe { forward_tile::<L>(&x, &out, &lse, q, tile, &mut memory) };
                },
            );
        });
    });
}

/// The memory of a forward task.
struct Forward<'a> {
    /// The first of the keys.
    first_key: usize,
    /// All keys and values that the task's queries see, packed by key and across keys.
    keys: &'a [Line],
    values: &'a [Line],
    /// A tile of queries and one of probabilities, as right factors.
    queries: &'a mut [Line],
    p: &'a mut [Line],
    /// `[QUERIES, head_dim]`.
    rows: &'a mut [f32],
    /// `[rows, QUERIES]`.
    sums: &'a mut [f32],
    /// `[KEYS, QUERIES]`.
    scores: &'a mut [f32],
}

/// # Safety
/// The queries have the length of `heads`; no other task writes the tile's outputs; the processor has the instructions of `L`, and the
/// thread has entered the kernel; the memory is that of the layer and of the keys that the tile sees.
#[inline(always)]
unsafe fn forward_tile<L: Lanes>(
    x: &Layer<'_>,
    out: &Rows<f32>,
    lse: &Rows<f32>,
    q: &[f32],
    tile: Tile,
    memory: &mut Forward<'_>,
) {
    let Forward { first_key, keys: all_keys, values, queries, p, rows, sums, scores } = memory;
    let e = x.heads.head_dim;
    // SAFETY: every vector below is one of the tile's panels. Rows of scores behind the last key are those of later keys or of old
    // memory, for panels are whole; nothing reads them.
    unsafe {
        gather(rows, q, tile, x.heads, x.heads.scale as f32);
        b_panels(Slice::F32(rows), true, [e, tile.lanes()], 0..tile.lanes(), 0..e, queries);
        sums.fill(0.0);
        let tokens = tile.tokens_of_lanes::<L, VECTORS>();
        let mut softmax = [Softmax::<L>::new(); VECTORS];
        for keys in tile.key_tiles(KEYS) {
            let i = (keys.start - *first_key) / KEYS;
            x.multiply_keys(scores, &all_keys[i * x.by_key()..], queries, tile, &keys);
            for v in 0..vectors(tile) {
                let vector = tile.vector(v, &keys, tokens[v]);
                let column = scores.as_mut_ptr().add(v * WIDTH);
                let shrink = vector.exponentiate(column, QUERIES, &mut softmax[v]);
                if keys.start > tile.start && vector.seen > 0 {
                    rescale(sums.as_mut_ptr().add(v * WIDTH), QUERIES, e, shrink);
                }
                clear::<L>(column, vector.seen..keys.len());
            }
            x.add_by_lane(sums, &values[i * x.across()..], p, scores, tile, &keys);
        }
        finish::<L, QUERIES>(out, Some(lse), sums, &softmax, tile, x.heads);
    }
}

pub(super) fn backward(
    kernel: &Kernel,
    dqkv: [&mut [f32]; 3],
    saved: Saved<'_, f32>,
    cu_seqlens: &[u32],
    heads: Heads,
) {
    match Isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => backward_with::<Avx512>(kernel, dqkv, saved, cu_seqlens, heads),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => backward_with::<Avx2>(kernel, dqkv, saved, cu_seqlens, heads),
        _ => backward_with::<Portable>(kernel, dqkv, saved, cu_seqlens, heads),
    }
}

fn backward_with<L: Compiled>(
    kernel: &Kernel,
    dqkv: [&mut [f32]; 3],
    saved: Saved<'_, f32>,
    cu_seqlens: &[u32],
    heads: Heads,
) {
    let [dq, dk, dv] = dqkv.map(|x| Rows(x.as_mut_ptr()));
    let e = heads.head_dim;
    let x = Layer::new(kernel, heads);
    for_each_document(cu_seqlens, heads.num_kv_heads, |document, group| {
        let tiles = document.len().div_ceil(KEYS);
        let sums = tiles * KEYS * x.columns;
        let (key_lines, across, lane_lines) = (tiles * x.by_key(), tiles * x.across(), x.columns * PANELS);
        let sizes = [
            key_lines,
            key_lines,
            across,
            x.right(),
            x.right(),
            lane_lines,
            lane_lines,
            PANELS * kernel.rows,
            PANELS * KEY_STEPS * STEP,
        ];
        let sizes_of_numbers = [QUERIES * e, QUERIES * e, x.rows * QUERIES, KEYS * QUERIES, KEYS * QUERIES, sums, sums];
        with_memory(sizes, sizes_of_numbers, |lines, numbers| {
            let [keys, values, keys_across, queries, gradients, query_lanes, gradient_lanes, left, right] = lines;
            let [query_rows, gradient_rows, dqueries, p, ds, dk_sums, dv_sums] = numbers;
            x.pack_by_key(keys, saved.k, document.clone(), group);
            x.pack_by_key(values, saved.v, document.clone(), group);
            x.pack_across(keys_across, saved.k, document.clone(), group);
            dk_sums.fill(0.0);
            dv_sums.fill(0.0);
            let mut memory = Backward {
                keys,
                values,
                keys_across,
                queries: Queries { rows: query_rows, right: queries, by_lane: query_lanes },
                gradients: Queries { rows: gradient_rows, right: gradients, by_lane: gradient_lanes },
                dqueries,
                p,
                ds,
                dk: dk_sums,
                dv: dv_sums,
                left,
                right,
            };
            // SAFETY: whoever chose the kernel found its instructions; a task enters none besides.
            let _entered = unsafe { kernel.enter() };
            for_each_tile::<L>(
                heads,
                QUERIES,
                group,
                document.start,
                document.clone(),
                #[inline(always)]
                |tile| {
                    // SAFETY: lengths and offsets were checked; the rows of this document and group belong to this task.
                    unsafe { backward_tile::<L>(&x, &dq, saved, tile, &mut memory) };
                },
            );
            for (i, token) in document.clone().enumerate() {
                let place = (token * heads.num_kv_heads + group) * e;
                for (to, sums) in [(&dk, &*memory.dk), (&dv, &*memory.dv)] {
                    // SAFETY: as above.
                    unsafe { to.get(place, e) }.copy_from_slice(&sums[i * x.columns..][..e]);
                }
            }
        });
    });
}

/// A tile of queries, or of gradients of outputs.
struct Queries<'a> {
    /// `[QUERIES, head_dim]`.
    rows: &'a mut [f32],
    /// As a right factor of sums over the head.
    right: &'a mut [Line],
    /// As a right factor of sums over lanes.
    by_lane: &'a mut [Line],
}

impl Queries<'_> {
    #[inline(always)]
    fn pack(&mut self, source: &[f32], tile: Tile, heads: Heads, factor: f32) {
        let (e, lanes) = (heads.head_dim, tile.lanes());
        gather(self.rows, source, tile, heads, factor);
        b_panels(Slice::F32(self.rows), true, [e, lanes], 0..lanes, 0..e, self.right);
        b_panels(Slice::F32(self.rows), false, [lanes, e], 0..e, 0..lanes, self.by_lane);
    }
}

/// The memory of a backward task.
struct Backward<'a> {
    /// All keys and values, packed by key, and all keys, packed across them.
    keys: &'a [Line],
    values: &'a [Line],
    keys_across: &'a [Line],
    queries: Queries<'a>,
    gradients: Queries<'a>,
    /// `[rows, QUERIES]`.
    dqueries: &'a mut [f32],
    /// `[KEYS, QUERIES]`, as `ds`.
    p: &'a mut [f32],
    ds: &'a mut [f32],
    /// `[keys, columns]` with whole tiles of keys, as `dv`.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    /// `p` or `ds` as a factor.
    left: &'a mut [Line],
    right: &'a mut [Line],
}

/// # Safety
/// As [`forward_tile`].
#[inline(always)]
unsafe fn backward_tile<L: Lanes>(
    x: &Layer<'_>,
    dq: &Rows<f32>,
    saved: Saved<'_, f32>,
    tile: Tile,
    memory: &mut Backward<'_>,
) {
    let Backward { keys: all_keys, values, keys_across, queries, gradients, dqueries, p, ds, dk, dv, left, right } =
        memory;
    let (e, scale) = (x.heads.head_dim, x.heads.scale as f32);
    queries.pack(saved.q, tile, x.heads, scale);
    gradients.pack(saved.dout, tile, x.heads, 1.0);
    dqueries.fill(0.0);
    let (mut lse, mut delta) = ([0.0; QUERIES], [0.0; QUERIES]);
    // Lanes past the last change nothing: their queries and gradients are 0, their p is 1, their ds 0.
    // SAFETY: as in `forward_tile`; here rows behind the last key are cleared before they are read.
    unsafe {
        for lane in 0..tile.lanes() {
            let place = tile.place(lane, x.heads);
            lse[lane] = saved.lse[place];
            // of rounded gradients, as the products from which it is subtracted: so the slopes of a query still sum to 0
            delta[lane] = dot::<L>(&gradients.rows[lane * e..][..e], &saved.out[place * e..][..e]);
        }
        let tokens = tile.tokens_of_lanes::<L, VECTORS>();
        for keys in tile.key_tiles(KEYS) {
            let i = (keys.start - tile.start) / KEYS;
            x.multiply_keys(p, &all_keys[i * x.by_key()..], queries.right, tile, &keys);
            x.multiply_keys(ds, &values[i * x.by_key()..], gradients.right, tile, &keys);
            for (v, &tokens) in tokens.iter().enumerate().take(vectors(tile)) {
                let (first, vector) = (v * WIDTH, tile.vector(v, &keys, tokens));
                let (lse, delta) = (L::load(lse.as_ptr().add(first)), L::load(delta.as_ptr().add(first)));
                let (p, ds) = (p.as_mut_ptr().add(first), ds.as_mut_ptr().add(first));
                vector.differentiate(p, ds, QUERIES, lse, delta);
                // whole panels, whose rows behind the last may be those of later keys
                let rest = vector.seen..keys.len().next_multiple_of(x.kernel.rows);
                clear::<L>(p, rest.clone());
                clear::<L>(ds, rest);
            }
            let first_row = i * KEYS * x.columns;
            x.add_by_key(&mut dv[first_row..], p, left, gradients.by_lane, tile, &keys);
            x.add_by_key(&mut dk[first_row..], ds, left, queries.by_lane, tile, &keys);
            x.add_by_lane(dqueries, &keys_across[i * x.across()..], right, ds, tile, &keys);
        }
        unpack_transposed::<L, QUERIES>(dq, dqueries, tile, x.heads, &[scale; QUERIES]);
    }
}

/// The sizes of a layer's tiles for a kernel.
struct Layer<'a> {
    kernel: &'a Kernel,
    heads: Heads,
    /// Steps of a head.
    steps: usize,
    /// Numbers of a head as rows: whole panels of left factors.
    rows: usize,
    /// Numbers of a head as columns: whole panels of right factors.
    columns: usize,
}

impl Layer<'_> {
    fn new(kernel: &Kernel, heads: Heads) -> Layer<'_> {
        let e = heads.head_dim;
        assert!(KEYS.is_multiple_of(kernel.rows), "invariant: a tile of keys is whole panels");
        Layer {
            kernel,
            heads,
            steps: e.div_ceil(STEP),
            rows: e.next_multiple_of(kernel.rows),
            columns: e.next_multiple_of(COLUMNS),
        }
    }

    /// Lines of a tile of keys as a left factor of sums over the head.
    fn by_key(&self) -> usize {
        KEYS * self.steps
    }

    /// Lines of a tile of keys as a left factor of sums over keys.
    fn across(&self) -> usize {
        self.rows * KEY_STEPS
    }

    /// Lines of a tile of queries as a right factor of sums over the head.
    fn right(&self) -> usize {
        PANELS * self.steps * STEP
    }

    /// The head's columns in a row of all key heads.
    fn head(&self, group: usize) -> Range<usize> {
        group * self.heads.head_dim..(group + 1) * self.heads.head_dim
    }

    /// Packs `keys` of `x` `[n, key heads, head_dim]`, a panel of keys after the other.
    fn pack_by_key(&self, lines: &mut [Line], x: &[f32], keys: Range<usize>, group: usize) {
        let (height, width) = (self.kernel.rows, self.heads.num_kv_heads * self.heads.head_dim);
        let shape = [x.len() / width, width];
        for (lines, keys) in lines.chunks_exact_mut(self.by_key()).zip(key_tiles(keys, KEYS)) {
            for (panel, first) in lines.chunks_exact_mut(self.steps * height).zip(keys.clone().step_by(height)) {
                let rows = first..keys.end.min(first + height);
                a_panel(Slice::F32(x), false, shape, rows, self.head(group), height, panel);
            }
        }
    }

    /// Packs `keys` of `x` `[n, key heads, head_dim]`, a panel of the head's numbers after the other.
    fn pack_across(&self, lines: &mut [Line], x: &[f32], keys: Range<usize>, group: usize) {
        let (height, width) = (self.kernel.rows, self.heads.num_kv_heads * self.heads.head_dim);
        let shape = [width, x.len() / width];
        let numbers = self.head(group);
        for (lines, keys) in lines.chunks_exact_mut(self.across()).zip(key_tiles(keys, KEYS)) {
            for (panel, first) in lines.chunks_exact_mut(KEY_STEPS * height).zip(numbers.clone().step_by(height)) {
                let rows = first..numbers.end.min(first + height);
                a_panel(Slice::F32(x), true, shape, rows, keys.clone(), height, panel);
            }
        }
    }

    /// c\[key, lane] = `left`\[key] . `right`\[lane] for lanes that see the key, and for others of their panels.
    ///
    /// # Safety
    /// The thread has entered the kernel; `c` is `[KEYS, QUERIES]`; `left` holds the keys, `right` the tile's lanes.
    unsafe fn multiply_keys(&self, c: &mut [f32], left: &[Line], right: &[Line], tile: Tile, keys: &Range<usize>) {
        let (height, steps) = (self.kernel.rows, self.steps);
        for (left, key) in left.chunks_exact(steps * height).zip((0..keys.len()).step_by(height)) {
            let first = first_panel(tile, keys, key);
            let strip = Strip {
                steps,
                a: left.as_ptr(),
                b: right[first * steps * STEP..].as_ptr(),
                b_stride: steps * STEP,
                panels: panels(tile) - first,
                c: c[key * QUERIES + first * COLUMNS..].as_mut_ptr(),
                c_stride: QUERIES,
                accumulate: false,
            };
            // SAFETY: a panel of keys and those of the tile's lanes; tiles of scores have whole panels.
            unsafe { self.kernel.multiply(strip) };
        }
    }

    /// c\[number, lane] += sum of `left`\[number, key] x\[key, lane] over the keys; `right` is memory for x as a factor.
    ///
    /// # Safety
    /// The thread has entered the kernel; `c` is `[rows, QUERIES]`, `x` `[KEYS, QUERIES]` and 0 for keys that a lane does
    /// not see; `left` holds the keys.
    unsafe fn add_by_lane(
        &self,
        c: &mut [f32],
        left: &[Line],
        right: &mut [Line],
        x: &[f32],
        tile: Tile,
        keys: &Range<usize>,
    ) {
        let (height, panels) = (self.kernel.rows, panels(tile));
        let key_steps = keys.len().div_ceil(STEP);
        b_panels(Slice::F32(x), false, [KEYS, QUERIES], 0..panels * COLUMNS, 0..keys.len(), right);
        let mut first = 0;
        while first < panels {
            let steps = seen_by_panel(tile, keys, first).div_ceil(STEP);
            // panels to the right see as much
            let count = if steps == key_steps { panels - first } else { 1 };
            for (left, row) in left.chunks_exact(KEY_STEPS * height).zip((0..self.rows).step_by(height)) {
                let strip = Strip {
                    steps,
                    a: left.as_ptr(),
                    b: right[first * key_steps * STEP..].as_ptr(),
                    b_stride: key_steps * STEP,
                    panels: count,
                    c: c[row * QUERIES + first * COLUMNS..].as_mut_ptr(),
                    c_stride: QUERIES,
                    accumulate: true,
                };
                // SAFETY: a panel of the head's numbers and those of the tile's lanes; sums have whole panels.
                unsafe { self.kernel.multiply(strip) };
            }
            first += count;
        }
    }

    /// c\[key, number] += sum of x\[key, lane] `right`\[lane, number] over the lanes; `left` is memory for a panel of x.
    ///
    /// # Safety
    /// The thread has entered the kernel; `c` is `[.., columns]` with whole panels of the keys, `x` `[KEYS, QUERIES]` and 0
    /// where a lane does not see a key of these panels; `right` holds the tile's lanes.
    unsafe fn add_by_key(
        &self,
        c: &mut [f32],
        x: &[f32],
        left: &mut [Line],
        right: &[Line],
        tile: Tile,
        keys: &Range<usize>,
    ) {
        let (height, panels) = (self.kernel.rows, panels(tile));
        for key in (0..keys.len()).step_by(height) {
            let first = first_panel(tile, keys, key);
            let lanes = first * COLUMNS..panels * COLUMNS;
            a_panel(Slice::F32(x), false, [KEYS, QUERIES], key..key + height, lanes, height, left);
            let strip = Strip {
                // a step is a panel's lanes
                steps: panels - first,
                a: left.as_ptr(),
                b: right[first * STEP..].as_ptr(),
                b_stride: panels * STEP,
                panels: self.columns / COLUMNS,
                c: c[key * self.columns..].as_mut_ptr(),
                c_stride: self.columns,
                accumulate: true,
            };
            // SAFETY: a panel of keys and those of the head's numbers, of which sums have whole ones.
            unsafe { self.kernel.multiply(strip) };
        }
    }
}

/// Panels that hold the lanes of a tile.
fn panels(tile: Tile) -> usize {
    tile.lanes().div_ceil(COLUMNS)
}

/// Vectors of the panels of a tile.
fn vectors(tile: Tile) -> usize {
    panels(tile) * (COLUMNS / WIDTH)
}

/// How many of the keys some query of a panel sees.
fn seen_by_panel(tile: Tile, keys: &Range<usize>, panel: usize) -> usize {
    tile.seen((panel + 1) * (COLUMNS / WIDTH) - 1, keys)
}

/// The first panel in which some query sees key `key` of `keys`.
fn first_panel(tile: Tile, keys: &Range<usize>, key: usize) -> usize {
    (0..panels(tile))
        .find(|&panel| seen_by_panel(tile, keys, panel) > key)
        .expect("invariant: the last lane sees every key")
}

/// rows\[lane] = factor * source\[lane], rounded.
#[inline(always)]
fn gather(rows: &mut [f32], source: &[f32], tile: Tile, heads: Heads, factor: f32) {
    let e = heads.head_dim;
    for (lane, row) in rows.chunks_exact_mut(e).enumerate().take(tile.lanes()) {
        row.iter_mut().zip(&source[tile.place(lane, heads) * e..][..e]).for_each(|(y, x)| {
            *y = f32::from_bits(u32::from(bf16_bits(x * factor)) << 16);
        });
    }
}

/// Zeros in `rows` of a column of a tile.
///
/// # Safety
/// The processor has the instructions of `L`; the column has the rows.
#[inline(always)]
unsafe fn clear<L: Lanes>(column: *mut f32, rows: Range<usize>) {
    for row in rows {
        // SAFETY: the caller's promise.
        unsafe { L::splat(0.0).store(column.add(row * QUERIES)) };
    }
}

/// Runs `body` with memory of a thread: lines and numbers of these sizes, with any contents.
fn with_memory<const N: usize, const M: usize>(
    lines: [usize; N],
    numbers: [usize; M],
    body: impl FnOnce([&mut [Line]; N], [&mut [f32]; M]),
) {
    let in_lines = |len: usize| len.div_ceil(Line::F32_LEN);
    let total = lines.iter().sum::<usize>() + numbers.iter().map(|&len| in_lines(len)).sum::<usize>();
    with_scratch(total * Line::F32_LEN, |scratch: &mut [f32]| {
        let mut rest = Line::of(scratch);
        let mut take = |len| rest.split_off_mut(..len).expect("invariant: `total` is the sum of all lengths");
        let lines = lines.map(&mut take);
        let numbers = numbers.map(|len| &mut Line::as_f32(take(in_lines(len)))[..len]);
        body(lines, numbers);
    });
}
