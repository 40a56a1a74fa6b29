//! Dense products: squares, layers of a model of 14 and of 100 million parameters over 512 and 1024 tokens, and a head over 1 and 32.
//!
//! Each in f32 and in bf16 from f32 numbers (both factors rounded while they are packed), and in both with the weight packed before.
//! `FINDAP_ISA` chooses the instructions.

use criterion::{Criterion, Throughput};
use findap_kernels::matmul::{Factor, Gemm, Packed, PackedFormat, gemm};
use findap_kernels::{Bf16Isa, Write};

use crate::support::{assert_near, group, measure, numbers};

const SHAPES: [(usize, usize, usize); 8] = [
    (1024, 1024, 1024),
    (2048, 2048, 512),
    (512, 704, 256),
    (512, 256, 704),
    (1024, 2048, 768),
    (512, 768, 2048),
    (1, 32000, 768),
    (32, 32000, 768),
];

pub(crate) fn benches(c: &mut Criterion) {
    let isa = Bf16Isa::current().unwrap().name();
    for (m, n, k) in SHAPES {
        let (a, b, mut out) = (numbers(1, m * k), numbers(2, n * k), vec![0.0f32; m * n]);
        let [packed, packed_in_bf16] = [PackedFormat::F32, PackedFormat::Bf16].map(|format| {
            let mut packed = Packed::zeros(format, k, n);
            packed.pack((&b[..]).into(), true).unwrap();
            packed
        });
        let cases = [
            ("f32".to_owned(), Factor::Plain((&b[..]).into()), 1e-4),
            ("f32 packed".to_owned(), Factor::Packed(&packed), 1e-4),
            // each product is off by two roundings of 2^-9: a random walk of k steps of about 2^-9 / 3, times 6
            (format!("bf16 {isa}"), Factor::Rounded((&b[..]).into()), (k as f64).sqrt() * 2.0 / 512.0),
            (format!("bf16 packed {isa}"), Factor::Packed(&packed_in_bf16), (k as f64).sqrt() * 2.0 / 512.0),
        ];
        let wide = |j: usize| (0..k).map(|p| f64::from(a[p]) * f64::from(b[j * k + p])).sum::<f64>();
        let truth: Vec<f64> = (0..n).map(wide).collect();
        let mut group = group(c, "matmul", Throughput::Elements((2 * m * n * k) as u64));
        for (name, b, limit) in cases {
            let run = || {
                gemm(Gemm {
                    m,
                    n,
                    k,
                    a: (&a[..]).into(),
                    transpose_a: false,
                    b,
                    transpose_b: true,
                    c: (&mut out[..]).into(),
                    write: Write::Overwrite,
                })
                .unwrap();
            };
            measure(&mut group, format!("{m}x{n}x{k} {name}"), run);
            assert_near(&out[..n], truth.iter().copied(), limit);
        }
        group.finish();
    }
}
