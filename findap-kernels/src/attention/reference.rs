//! The definition: one row of probabilities at a time, in f64.

use super::Heads;

/// `(out, lse)`.
pub(super) fn forward(q: &[f64], k: &[f64], v: &[f64], cu_seqlens: &[u32], heads: Heads) -> (Vec<f64>, Vec<f64>) {
    let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = heads;
    let n = q.len() / (num_heads * e);
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; n * num_heads]);
    for document in cu_seqlens.windows(2) {
        let (start, end) = (document[0] as usize, document[1] as usize);
        for i in start..end {
            for h in 0..num_heads {
                let g = h / (num_heads / num_kv_heads);
                let q = &q[(i * num_heads + h) * e..][..e];
                let score = |j: usize| scale * dot(q, &k[(j * num_kv_heads + g) * e..][..e]);
                let seen = heads.first_seen(start, i)..=i;
                let total: f64 = seen.clone().map(|j| score(j).exp()).sum();
                lse[i * num_heads + h] = total.ln();
                for j in seen {
                    for x in 0..e {
                        out[(i * num_heads + h) * e + x] += score(j).exp() / total * v[(j * num_kv_heads + g) * e + x];
                    }
                }
            }
        }
    }
    (out, lse)
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}
