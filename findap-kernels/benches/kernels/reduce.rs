//! The norm of a 14M gradient.

use criterion::Criterion;
use findap_kernels::reduce::sum_squares;

use crate::support::{bytes, group, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let x = numbers(1, 14_000_000);
    let truth: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
    // A sum of n numbers in order is off by n units of rounding at most: 14e6 * 2^-53.
    assert!((sum_squares((&x[..]).into()) / truth - 1.0).abs() < 2e-9);
    let mut group = group(c, "reduce", bytes(x.len()));
    group.bench_function("sum_squares, 14M", |bench| bench.iter(|| sum_squares((&x[..]).into())));
    group.bench_function("plain loop", |bench| bench.iter(|| x.iter().map(|x| x * x).sum::<f32>()));
    group.finish();
}
