//! Cases of attention, the kernels of the CPU over them, and the definition in low precision.
//!
//! A result in low precision is right if every number follows the common rule (`cuda::tests::cases`), with a floor of 8 u s: it is a sum
//! of terms that are rounded to bf16 (u = 2^-9), whose errors add up like a random walk to less than u s times the constant 8 of
//! `tolerance.rs`, s being the largest number of the result. That floor is wide for small numbers, so the root of the mean square of the
//! errors may be at most twice that of [`plain`], too.

use super::{Backward, Forward, Heads, backward, forward};
use crate::cuda::tests::cases::{assert_follows, numbers, rounded, to_f32};
use crate::tolerance::{floor, scale};
use crate::{Dtype, Real, Slice, SliceMut};

#[derive(Clone)]
pub(super) struct Case {
    pub(super) q: Vec<f64>,
    pub(super) k: Vec<f64>,
    pub(super) v: Vec<f64>,
    pub(super) dout: Vec<f64>,
    pub(super) cu_seqlens: Vec<u32>,
    pub(super) heads: Heads,
}

/// Twice uniform numbers that bf16 has, so that some probabilities are large.
pub(super) fn spread(len: usize, seed: u64) -> Vec<f64> {
    rounded(&numbers(len, seed).iter().map(|x| 2.0 * x).collect::<Vec<f64>>(), Dtype::Bf16)
}

pub(super) fn case(documents: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Case {
    let mut cu_seqlens = vec![0];
    documents.iter().for_each(|len| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len));
    let n = cu_seqlens[documents.len()] as usize;
    let [queries, keys] = [num_heads, num_kv_heads].map(|heads| n * heads * head_dim);
    Case {
        q: spread(queries, 1),
        k: spread(keys, 2),
        v: spread(keys, 3),
        dout: spread(queries, 4),
        cu_seqlens,
        heads: Heads { num_heads, num_kv_heads, head_dim, scale: (head_dim as f64).powf(-0.5), window: None },
    }
}

/// `[out, lse, dq, dk, dv]`.
pub(super) type Outputs<T = f64> = [Vec<T>; 5];
pub(super) const NAMES: [&str; 5] = ["out", "lse", "dq", "dk", "dv"];

/// Forward and backward on the CPU, in the format of `T` with products in `products`.
pub(super) fn on_cpu<T: Real>(c: &Case, products: Dtype) -> Outputs<T>
where
    for<'a> Slice<'a>: From<&'a [T]>,
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
{
    let [q, k, v, dout] = [&c.q, &c.k, &c.v, &c.dout].map(|x| x.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>());
    // old contents must not reach a result
    let poisoned = |len| vec![T::from_f64(f64::NAN); len];
    let (mut out, mut lse) = (poisoned(q.len()), poisoned(q.len() / c.heads.head_dim));
    let (mut dq, mut dk, mut dv) = (poisoned(q.len()), poisoned(k.len()), poisoned(v.len()));
    forward(Forward {
        out: out.as_mut_slice().into(),
        lse: lse.as_mut_slice().into(),
        q: q.as_slice().into(),
        k: k.as_slice().into(),
        v: v.as_slice().into(),
        cu_seqlens: &c.cu_seqlens,
        heads: c.heads,
        products,
    })
    .unwrap();
    backward(Backward {
        dq: dq.as_mut_slice().into(),
        dk: dk.as_mut_slice().into(),
        dv: dv.as_mut_slice().into(),
        dout: dout.as_slice().into(),
        out: out.as_slice().into(),
        lse: lse.as_slice().into(),
        q: q.as_slice().into(),
        k: k.as_slice().into(),
        v: v.as_slice().into(),
        cu_seqlens: &c.cu_seqlens,
        heads: c.heads,
        products,
    })
    .unwrap();
    [out, lse, dq, dk, dv]
}

/// The f64 kernels of the CPU.
pub(super) fn truth(c: &Case) -> Outputs {
    on_cpu(c, Dtype::F64)
}

fn round(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}

/// The definition row by row in f32, with inputs, probabilities, gradients of scores and results rounded to bf16.
pub(super) fn plain(c: &Case) -> Outputs {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = c.heads;
    let scale = scale as f32;
    let [q, k, v, dout] = [&c.q, &c.k, &c.v, &c.dout].map(|x| to_f32(&rounded(x, Dtype::Bf16)));
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let (mut out, mut lse) = (vec![0.0f32; q.len()], vec![0.0f32; q.len() / e]);
    let (mut dq, mut dk, mut dv) = (vec![0.0f32; q.len()], vec![0.0f32; k.len()], vec![0.0f32; v.len()]);
    let add = |sum: &mut [f32], factor: f32, x: &[f32]| sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
    for document in c.cu_seqlens.windows(2) {
        for i in document[0] as usize..document[1] as usize {
            for h in 0..num_heads {
                let row = i * num_heads + h;
                let at = |j: usize| (j * num_kv_heads + h / (num_heads / num_kv_heads)) * e;
                let (query, gradient) = (&q[row * e..][..e], &dout[row * e..][..e]);
                let keys = c.heads.first_seen(document[0] as usize, i)..i + 1;
                let scores: Vec<f32> = keys.clone().map(|j| dot(query, &k[at(j)..][..e]) * scale).collect();
                let best = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f32 = scores.iter().map(|s| (s - best).exp()).sum();
                lse[row] = best + total.ln();
                let out = &mut out[row * e..][..e];
                keys.clone().zip(&scores).for_each(|(j, s)| add(out, round((s - best).exp()), &v[at(j)..][..e]));
                out.iter_mut().for_each(|x| *x = round(*x / total));
                let delta = dot(gradient, out);
                for (j, s) in keys.zip(&scores) {
                    let p = (s - lse[row]).exp();
                    let ds = round(p * (dot(gradient, &v[at(j)..][..e]) - delta));
                    add(&mut dv[at(j)..][..e], round(p), gradient);
                    add(&mut dk[at(j)..][..e], ds, query);
                    add(&mut dq[row * e..][..e], ds, &k[at(j)..][..e]);
                }
            }
        }
    }
    let rounded = |x: &[f32], scale: f32| x.iter().map(|x| f64::from(round(x * scale))).collect();
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
    [wide(&out), wide(&lse), rounded(&dq, scale), rounded(&dk, scale), rounded(&dv, 1.0)]
}

pub(super) fn root_mean_square(x: &[f64], truth: &[f64]) -> f64 {
    (x.iter().zip(truth).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / x.len().max(1) as f64).sqrt()
}

/// The rule at the head of this file.
pub(super) fn assert_right(family: &'static str, what: &str, dtype: Dtype, got: &[f64], plain: &[f64], truth: &[f64]) {
    // sums of f32 terms for lse, which has no others
    let sums = if dtype == Dtype::F32 { floor(1.0 + scale(truth), 512) } else { 8.0 / 512.0 * scale(truth) };
    assert_follows(family, what, dtype, got, plain, truth, sums);
    let [error, yardstick] = [got, &rounded(plain, dtype)].map(|x| root_mean_square(x, truth));
    let holds = error <= 2.0 * yardstick + floor(scale(truth), 1);
    assert!(holds, "{what}: off by {error:e} in the mean, the plain version by {yardstick:e}");
}
