//! One optimizer step over 14M parameters: reads four arrays, writes three.

use criterion::Criterion;
use findap_kernels::adamw::{AdamWStep, Segment, Step, step};

use crate::support::{assert_near, bytes, group, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let n = 14_000_000;
    let (grads, start) = (numbers(1, n), numbers(2, n));
    let (mut params, mut first, mut second) = (start.clone(), vec![0.0f32; n], vec![0.0f32; n]);
    let segments = [Segment { start: 0, state_start: 0, len: n, weight_decay: 0.1 }];
    let mut run = |number: u64| {
        step(Step {
            params: (&mut params[..]).into(),
            grads: (&grads[..]).into(),
            first_moment: (&mut first[..]).into(),
            second_moment: (&mut second[..]).into(),
            segments: &segments,
            rule: AdamWStep { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: number, grad_scale: 1.0 },
        })
        .unwrap();
    };
    run(1);
    let mut number = 1;
    let mut group = group(c, "adamw", bytes(7 * n));
    group.bench_function("14M", |bench| {
        bench.iter(|| {
            number += 1;
            run(number);
        });
    });
    group.finish();
    // the same gradient every step: both moments are it and its square, so each step moves by lr against its sign
    let truth = start.iter().zip(&grads).map(|(p, g)| {
        let mut p = f64::from(*p);
        (0..number).for_each(|_| p = p * (1.0 - 1e-4) - 1e-3 * f64::from(g.signum()));
        p
    });
    let limit = 1e-4 + number as f64 * 1e-6;
    let checked: Vec<f32> = params.iter().zip(&grads).take(1000).map(|(p, _)| *p).collect();
    assert_near(&checked, truth, limit);
}
