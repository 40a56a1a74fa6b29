//! The gated unit over 2048 tokens of 2048.

use criterion::Criterion;
use findap_kernels::swiglu::{Backward, Forward, backward, forward};

use crate::support::{assert_near, bytes, group, measure, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let n = 2048 * 2048;
    let (gate, up, dout) = (numbers(1, n), numbers(2, n), numbers(3, n));
    let (mut out, mut dgate, mut dup) = (vec![0.0f32; n], vec![0.0f32; n], vec![0.0f32; n]);
    let mut fwd = group(c, "swiglu_fwd", bytes(3 * n));
    measure(&mut fwd, "4M", || {
        forward(Forward { out: (&mut out[..]).into(), gate: (&gate[..]).into(), up: (&up[..]).into() }).unwrap();
    });
    fwd.bench_function("plain loop", |bench| {
        bench.iter(|| {
            for i in 0..n {
                dup[i] = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
            }
        });
    });
    fwd.finish();
    let truth = gate.iter().zip(&up).map(|(g, u)| f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u));
    assert_near(&out, truth, 1e-6);
    let mut bwd = group(c, "swiglu_bwd", bytes(5 * n));
    bwd.bench_function("4M", |bench| {
        bench.iter(|| {
            backward(Backward {
                dgate: (&mut dgate[..]).into(),
                dup: (&mut dup[..]).into(),
                dout: (&dout[..]).into(),
                gate: (&gate[..]).into(),
                up: (&up[..]).into(),
            })
            .unwrap();
        });
    });
    bwd.finish();
}
