//! One token from the logits of a vocabulary of 128,000.

use criterion::Criterion;
use findap_kernels::sample::{Sampling, argmax, sample};

use crate::support::{bytes, group, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let logits = numbers(1, 128_000);
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut group = group(c, "sample", bytes(logits.len()));
    group.bench_function("argmax", |bench| {
        bench.iter(|| {
            let token = argmax((&logits[..]).into()).unwrap();
            assert_eq!(logits[token as usize], largest);
        });
    });
    let drawn = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95 };
    group.bench_function("temperature, top-k 40, top-p 0.95", |bench| {
        bench.iter(|| {
            let (token, logp) = sample((&logits[..]).into(), drawn, 0.5).unwrap();
            let larger = logits.iter().filter(|logit| **logit > logits[token as usize]).count();
            assert!(larger < 40 && logp < 0.0, "one of the forty likeliest");
        });
    });
    group.finish();
}
