//! The bias of 2048 rows of 2048 numbers, and its gradient.

use criterion::Criterion;
use findap_kernels::bias::{Backward, Forward, backward, forward};

use crate::support::{assert_near, bytes, group, measure, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let (rows, columns) = (2048, 2048);
    let n = rows * columns;
    let (x, bias) = (numbers(1, n), numbers(2, columns));

    let mut y = x.clone();
    let add = |y: &mut [f32]| forward(Forward { y: y.into(), bias: (&bias[..]).into() }).unwrap();
    // before it is timed: every run adds the bias once more
    add(&mut y);
    let truth = x.iter().enumerate().map(|(i, x)| f64::from(*x) + f64::from(bias[i % columns]));
    assert_near(&y, truth, 1e-7);
    let mut fwd = group(c, "bias_fwd", bytes(2 * n));
    measure(&mut fwd, "2048 x 2048", || add(&mut y));
    fwd.bench_function("plain loop", |bench| {
        bench.iter(|| {
            for row in y.chunks_exact_mut(columns) {
                for (y, b) in row.iter_mut().zip(&bias) {
                    *y += b;
                }
            }
        });
    });
    fwd.finish();

    let dy = x;
    let mut dbias = vec![0.0f32; columns];
    let sum = |dbias: &mut [f32]| backward(Backward { dbias: dbias.into(), dy: (&dy[..]).into() }).unwrap();
    sum(&mut dbias);
    let truth = (0..columns).map(|column| dy.iter().skip(column).step_by(columns).map(|x| f64::from(*x)).sum());
    // a random walk of 2048 roundings of sums below 128, times 8
    assert_near(&dbias, truth, 8.0 * 2048f64.sqrt() * 128.0 / f64::from(1 << 24));
    let mut bwd = group(c, "bias_bwd", bytes(n));
    measure(&mut bwd, "2048 x 2048", || sum(&mut dbias));
    bwd.bench_function("plain loop", |bench| {
        bench.iter(|| {
            for row in dy.chunks_exact(columns) {
                for (sum, x) in dbias.iter_mut().zip(row) {
                    *sum += x;
                }
            }
        });
    });
    bwd.finish();
}
