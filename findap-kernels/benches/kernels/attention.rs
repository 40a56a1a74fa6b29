//! Attention of a tiny model over short documents, and of one long document. Counted as causal: 4 operations per score and
//! number of the head forward, 10 backward. With a window only what it shows is counted.
//! Products are in f32 and in bf16; `FINDAP_ISA` chooses the instructions.

use criterion::{Criterion, Throughput};
use findap_kernels::attention::{Backward, Forward, Heads, backward, forward};
use findap_kernels::{Bf16Isa, Dtype};

use crate::support::{assert_near, group, measure, numbers};

struct Case {
    name: &'static str,
    documents: usize,
    len: usize,
    heads: Heads,
}

pub(crate) fn benches(c: &mut Criterion) {
    let heads = |num_heads, num_kv_heads, head_dim: usize| Heads {
        num_heads,
        num_kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        window: None,
    };
    let windowed = |window| Heads { window: Some(window), ..heads(4, 2, 64) };
    for case in [
        Case { name: "32 documents of 60, 4/2 heads of 16", documents: 32, len: 60, heads: heads(4, 2, 16) },
        Case { name: "16 documents of 128, 4/2 heads of 64", documents: 16, len: 128, heads: heads(4, 2, 64) },
        Case { name: "1 document of 2048, 4/2 heads of 64", documents: 1, len: 2048, heads: heads(4, 2, 64) },
        Case { name: "1 document of 2048, 4/2 heads of 64, window 512", documents: 1, len: 2048, heads: windowed(512) },
        Case { name: "1 document of 2048, 4/2 heads of 64, window 128", documents: 1, len: 2048, heads: windowed(128) },
    ] {
        bench(c, &case);
    }
}

fn bench(c: &mut Criterion, case: &Case) {
    let Heads { num_heads, num_kv_heads, head_dim, .. } = case.heads;
    let n = case.documents * case.len;
    let cu_seqlens: Vec<u32> = (0..=case.documents).map(|d| (d * case.len) as u32).collect();
    let (row, kv_row) = (num_heads * head_dim, num_kv_heads * head_dim);
    let (q, k, v, dout) = (numbers(1, n * row), numbers(2, n * kv_row), numbers(3, n * kv_row), numbers(4, n * row));
    let (mut out, mut lse) = (vec![0.0f32; n * row], vec![0.0f32; n * num_heads]);
    let window = case.heads.window.unwrap_or(case.len);
    let scores = case.documents * (1..=case.len).map(|seen| seen.min(window)).sum::<usize>() * num_heads;
    // a weighted mean of numbers below 1, with weights and numbers rounded by 2^-9 and scores that add up head_dim roundings
    let isa = Bf16Isa::current().unwrap();
    let formats = [(String::new(), Dtype::F32, 1e-4), (format!(" bf16 {}", isa.name()), Dtype::Bf16, 4.0 / 512.0)];

    let mut fwd = group(c, "attention_fwd", Throughput::Elements((4 * head_dim * scores) as u64));
    let mut plain = vec![0.0f32; n * row];
    measure(&mut fwd, format!("{} (plain loops)", case.name), || plain_forward(&mut plain, &q, &k, &v, case));
    for (name, products, limit) in formats.clone() {
        measure(&mut fwd, format!("{}{name}", case.name), || {
            forward(Forward {
                out: (&mut out[..]).into(),
                lse: (&mut lse[..]).into(),
                q: (&q[..]).into(),
                k: (&k[..]).into(),
                v: (&v[..]).into(),
                cu_seqlens: &cu_seqlens,
                heads: case.heads,
                products,
            })
            .unwrap();
        });
        assert_near(&out, plain.iter().map(|x| f64::from(*x)), limit);
    }
    fwd.finish();

    let (mut dq, mut dk, mut dv) = (vec![0.0f32; n * row], vec![0.0f32; n * kv_row], vec![0.0f32; n * kv_row]);
    let mut bwd = group(c, "attention_bwd", Throughput::Elements((10 * head_dim * scores) as u64));
    for (name, products, _) in formats {
        measure(&mut bwd, format!("{}{name}", case.name), || {
            backward(Backward {
                dq: (&mut dq[..]).into(),
                dk: (&mut dk[..]).into(),
                dv: (&mut dv[..]).into(),
                dout: (&dout[..]).into(),
                out: (&out[..]).into(),
                lse: (&lse[..]).into(),
                q: (&q[..]).into(),
                k: (&k[..]).into(),
                v: (&v[..]).into(),
                cu_seqlens: &cu_seqlens,
                heads: case.heads,
                products,
            })
            .unwrap();
        });
        // dv summed over all tokens is p^T dout summed over keys, whose rows of p sum to 1: the sum of dout
        let total = |x: &[f32]| x.iter().map(|x| f64::from(*x)).sum::<f64>();
        // of n * row numbers, each off by a rounding: a random walk, times 8
        let limit = if products == Dtype::F32 { 0.1 } else { 8.0 / 512.0 * (dout.len() as f64).sqrt() };
        assert!((total(&dv) - total(&dout)).abs() < limit, "{} {}", total(&dv), total(&dout));
    }
    bwd.finish();
}

fn plain_forward(out: &mut [f32], q: &[f32], k: &[f32], v: &[f32], case: &Case) {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, window } = case.heads;
    let mut p = vec![0.0f32; case.len];
    for document in 0..case.documents {
        let start = document * case.len;
        for (i, h) in (start..start + case.len).flat_map(|i| (0..num_heads).map(move |h| (i, h))) {
            let g = h * num_kv_heads / num_heads;
            let place = (i * num_heads + h) * e;
            let first = window.map_or(start, |window| (i + 1).saturating_sub(window).max(start));
            let mut best = f32::NEG_INFINITY;
            for j in first..=i {
                let key = &k[(j * num_kv_heads + g) * e..][..e];
                let dot: f32 = q[place..place + e].iter().zip(key).map(|(x, y)| x * y).sum();
                p[j - first] = dot * scale as f32;
                best = best.max(p[j - first]);
            }
            let mut total = 0.0;
            for p in &mut p[..=i - first] {
                *p = (*p - best).exp();
                total += *p;
            }
            out[place..place + e].fill(0.0);
            for j in first..=i {
                let value = &v[(j * num_kv_heads + g) * e..][..e];
                let p = p[j - first] / total;
                out[place..place + e].iter_mut().zip(value).for_each(|(y, x)| *y += p * x);
            }
        }
    }
}
