//! Rotation of 4096 tokens of 12 heads of 64 in place.

use criterion::Criterion;
use findap_kernels::rope::{Apply, backward, forward};

use crate::support::{assert_near, bytes, group, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let (n, heads, head_dim) = (4096, 12, 64);
    let angles = || (0..n).flat_map(|t| (0..head_dim / 2).map(move |i| t as f64 / 10_000f64.powf(i as f64 / 32.0)));
    let cos: Vec<f32> = angles().map(|a| a.cos() as f32).collect();
    let sin: Vec<f32> = angles().map(|a| a.sin() as f32).collect();
    let positions: Vec<u32> = (0..n as u32).collect();
    let source = numbers(1, n * heads * head_dim);
    let mut x = source.clone();
    fn apply<'a>(x: &'a mut [f32], cos: &'a [f32], sin: &'a [f32], positions: &'a [u32]) -> Apply<'a> {
        Apply { x: x.into(), cos: cos.into(), sin: sin.into(), positions, heads: 12, head_dim: 64 }
    }
    forward(apply(&mut x, &cos, &sin, &positions)).unwrap();
    backward(apply(&mut x, &cos, &sin, &positions)).unwrap();
    assert_near(&x, source.iter().map(|x| f64::from(*x)), 1e-6);
    let mut group = group(c, "rope", bytes(2 * x.len()));
    group.bench_function("4096 x 12 x 64", |bench| {
        bench.iter(|| forward(apply(&mut x, &cos, &sin, &positions)).unwrap());
    });
    group.finish();
}
