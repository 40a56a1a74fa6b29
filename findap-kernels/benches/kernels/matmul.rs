//! Dense products of a small and a larger layer: 1024 tokens, 768 -> 2048 and 256 -> 704.

use criterion::{Criterion, Throughput};
use findap_kernels::Write;
use findap_kernels::matmul::{Gemm, gemm};

use crate::support::{assert_near, group, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    for (m, n, k) in [(1024, 704, 256), (1024, 2048, 768)] {
        let (a, b, mut out) = (numbers(1, m * k), numbers(2, n * k), vec![0.0f32; m * n]);
        let mut run = || {
            gemm(Gemm {
                m,
                n,
                k,
                a: (&a[..]).into(),
                transpose_a: false,
                b: (&b[..]).into(),
                transpose_b: true,
                c: (&mut out[..]).into(),
                write: Write::Overwrite,
            })
            .unwrap();
        };
        run();
        let wide = |j: usize| (0..k).map(|p| f64::from(a[p]) * f64::from(b[j * k + p])).sum::<f64>();
        let mut group = group(c, "matmul", Throughput::Elements((2 * m * n * k) as u64));
        group.bench_function(format!("{m}x{n}x{k}"), |bench| bench.iter(&mut run));
        group.finish();
        assert_near(&out[..n], (0..n).map(wide), 1e-4);
    }
}
