use super::super::{Target, Tiles};
use super::*;
use crate::attention::cases::{Case, NAMES, on_cpu};
use crate::cuda::tests::cases::{Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run, wide};
use crate::tolerance::floor;

fn check(cu_seqlens: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize, dtype: Dtype) {
    // a window of 1 makes p exactly 1, and the yardstick free of error
    for window in [None, Some(2), Some(6), Some(20)] {
        check_window_of(window, cu_seqlens, num_heads, num_kv_heads, head_dim, dtype);
    }
}

fn check_window_of(
    window: Option<usize>,
    cu_seqlens: &[u32],
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    dtype: Dtype,
) {
    let heads = Heads { num_heads, num_kv_heads, head_dim, scale: (head_dim as f64).powf(-0.5), window };
    let n = cu_seqlens[cu_seqlens.len() - 1] as usize;
    let [queries, keys] = [num_heads, num_kv_heads].map(|heads| n * heads * head_dim);
    let [q, dout] = [1, 4].map(|seed| rounded(&numbers(queries, seed), dtype));
    let [k, v] = [2, 3].map(|seed| rounded(&numbers(keys, seed), dtype));
    let c = Case { q, k, v, dout, cu_seqlens: cu_seqlens.to_vec(), heads };
    let truth = on_cpu::<f64>(&c, Dtype::F64);
    let naive = on_cpu::<f32>(&c, Dtype::F32).map(|x| wide(&x));
    let tiles = Tiles::new(cu_seqlens).unwrap();
    on_every_executor(SOURCE.needs, |executor| {
        let array = |x: &[f64]| Array::new(executor, x, dtype);
        let poisoned = |len| Array::poisoned(executor, len, dtype);
        let (q, k, v, dout) = (array(&c.q), array(&c.k), array(&c.v), array(&c.dout));
        let (out, dq, dk, dv) = (poisoned(queries), poisoned(queries), poisoned(keys), poisoned(keys));
        let [lse, statistics] = [(); 2].map(|()| Array::poisoned(executor, n * num_heads, Dtype::F32));
        let words = IndexArray::new(executor, tiles.words());
        let tiles = tiles.placed_at(words.indices()).unwrap();
        let target = Target::Ampere;
        let (q, k, v) = (q.operand(), k.operand(), v.operand());
        let args = Forward { out: out.operand(), out_f32: None, lse: lse.operand(), q, k, v, tiles, heads, target };
        run(executor, &forward(&args).unwrap());
        let args = Backward {
            dq: dq.operand(),
            dk: dk.operand(),
            dv: dv.operand(),
            dout: dout.operand(),
            out: out.operand(),
            lse: lse.operand(),
            q,
            k,
            v,
            statistics: statistics.operand(),
            tiles,
            heads,
            target,
        };
        run(executor, &backward(&args).unwrap());
        let family = if dtype == Dtype::Bf16 { "attention plain bf16" } else { "attention plain f32" };
        for (i, array) in [&out, &lse, &dq, &dk, &dv].into_iter().enumerate() {
            // numbers below 1 in sums over a document and a group; delta comes from `out` as it is stored, so its rounding reaches
            // every gradient of a score: sums of head_dim products, each off by a rounding
            let terms = n * num_heads / num_kv_heads + head_dim;
            let rounding = if dtype == Dtype::Bf16 && i >= 2 { 65536.0 } else { 1.0 };
            let stored = if i == 1 { Dtype::F32 } else { dtype };
            // of few keys each probability is large, and off by the error of its score, a product of at most sqrt(head_dim)
            let scores = if window.is_some() { 1.0 + (head_dim as f64).sqrt() } else { 1.0 };
            assert_follows(
                family,
                NAMES[i],
                stored,
                &array.read(),
                &naive[i],
                &truth[i],
                scores * rounding * floor(1.0, terms) / 8.0,
            );
        }
    });
}

#[test]
fn documents_groups_and_head_dims_follow_the_truth() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        check(&[0, 1], 1, 1, 1, dtype);
        check(&[0, 5, 5, 12], 4, 2, 16, dtype);
        check(&[0, 33, 40], 3, 1, 40, dtype);
    }
    check(&[0, 140], 1, 1, 128, Dtype::F32);
}
