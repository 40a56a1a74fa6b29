//! The head of a 14M model (256 x 32,000) and of a tiny one (64 x 2,048), forward and backward in one pass. Six operations
//! per weight and loss-bearing token; 60% of the tokens bear loss.

use criterion::{Criterion, Throughput};
use findap_kernels::cross_entropy::{Backward, Forward, IGNORE, Sizes, forward_backward};

use crate::support::{group, measure, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    for (n, dim, vocab) in [(512, 256, 32_000), (2048, 64, 2048)] {
        let sizes = Sizes { dim, vocab, chunk_rows: 256 };
        let targets: Vec<u32> = (0..n).map(|t| if t % 5 < 2 { IGNORE } else { (t * 31 % vocab) as u32 }).collect();
        let bearing = targets.iter().filter(|&&t| t != IGNORE).count();
        let (hidden, weight) = (numbers(1, n * dim), numbers(2, vocab * dim));
        let weights = vec![-1.0 / bearing as f64; n];
        let (mut logp, mut lse) = (vec![0.0; n], vec![0.0; n]);
        let (mut dhidden, mut dweight) = (vec![0.0f32; n * dim], vec![0.0f32; vocab * dim]);
        let mut scratch = vec![0.0f32; sizes.scratch_len()];
        let mut group = group(c, "cross_entropy", Throughput::Elements((6 * bearing * dim * vocab) as u64));
        measure(&mut group, format!("{n} tokens, {dim} x {vocab}"), || {
            forward_backward(Backward {
                token_weights: &weights,
                dhidden: (&mut dhidden[..]).into(),
                dweight: Some((&mut dweight[..]).into()),
                forward: Forward {
                    logp: &mut logp,
                    lse: &mut lse,
                    hidden: (&hidden[..]).into(),
                    weight: (&weight[..]).into(),
                    targets: &targets,
                    sizes,
                    scratch: (&mut scratch[..]).into(),
                },
            })
            .unwrap();
        });
        group.finish();
        let t = targets.iter().position(|&t| t != IGNORE).unwrap_or(0);
        let logit =
            |j: usize| (0..dim).map(|i| f64::from(hidden[t * dim + i]) * f64::from(weight[j * dim + i])).sum::<f64>();
        let want = logit(targets[t] as usize) - (0..vocab).map(|j| logit(j).exp()).sum::<f64>().ln();
        assert!((logp[t] - want).abs() < 1e-4, "{} {want}", logp[t]);
    }
}
