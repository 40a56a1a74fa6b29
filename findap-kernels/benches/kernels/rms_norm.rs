//! Normalisation with the residual addition, and its backward pass: 4096 rows of 768.

use criterion::Criterion;
use findap_kernels::Write;
use findap_kernels::rms_norm::{Backward, ForwardAdd, backward, forward_add};

use crate::support::{assert_near, bytes, group, measure, numbers};

pub(crate) fn benches(c: &mut Criterion) {
    let (rows, dim) = (4096, 768);
    let (x, residual, weight) = (numbers(1, rows * dim), numbers(2, rows * dim), numbers(3, dim));
    let (mut out, mut sum, mut rstd) = (vec![0.0f32; rows * dim], vec![0.0f32; rows * dim], vec![0.0f32; rows]);
    let mut group_fwd = group(c, "rms_norm_fwd", bytes(4 * rows * dim));
    measure(&mut group_fwd, "add, 4096 x 768", || {
        forward_add(ForwardAdd {
            out: (&mut out[..]).into(),
            sum: (&mut sum[..]).into(),
            rstd: (&mut rstd[..]).into(),
            x: (&x[..]).into(),
            residual: (&residual[..]).into(),
            weight: (&weight[..]).into(),
            rows,
            dim,
            eps: 1e-5,
        })
        .unwrap();
    });
    let (mut plain, mut plain_sum, mut plain_rstd) =
        (vec![0.0f32; rows * dim], vec![0.0f32; rows * dim], vec![0.0f32; rows]);
    group_fwd.bench_function("plain loops", |bench| {
        bench.iter(|| {
            for (t, rstd) in plain_rstd.iter_mut().enumerate() {
                let row = t * dim..(t + 1) * dim;
                for i in row.clone() {
                    plain_sum[i] = x[i] + residual[i];
                }
                let mean: f32 = plain_sum[row.clone()].iter().map(|x| x * x).sum::<f32>() / dim as f32;
                *rstd = 1.0 / (mean + 1e-5).sqrt();
                for i in row.clone() {
                    plain[i] = plain_sum[i] * *rstd * weight[i - row.start];
                }
            }
        });
    });
    group_fwd.finish();
    let wide: Vec<f64> = x.iter().zip(&residual).map(|(x, r)| f64::from(*x) + f64::from(*r)).collect();
    let truth = wide.chunks(dim).flat_map(|row| {
        let rstd = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / dim as f64 + 1e-5).sqrt();
        row.iter().zip(&weight).map(move |(x, w)| x * rstd * f64::from(*w))
    });
    assert_near(&out, truth, 1e-5);

    let dy = numbers(4, rows * dim);
    let (mut dx, mut dweight) = (vec![0.0f32; rows * dim], vec![0.0f32; dim]);
    let mut group_bwd = group(c, "rms_norm_bwd", bytes(4 * rows * dim));
    group_bwd.bench_function("accumulate, 4096 x 768", |bench| {
        bench.iter(|| {
            backward(Backward {
                dx: (&mut dx[..]).into(),
                write_dx: Write::Accumulate,
                dweight: Some((&mut dweight[..]).into()),
                dy: (&dy[..]).into(),
                x: (&sum[..]).into(),
                weight: (&weight[..]).into(),
                rstd: (&rstd[..]).into(),
                rows,
                dim,
            })
            .unwrap();
        });
    });
    group_bwd.finish();
}
