use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn norm(x: &[f64], weight: &[f64], rows: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut out, mut rstd) = (vec![f64::NAN; x.len()], vec![f64::NAN; rows]);
    forward(Forward {
        out: (&mut out[..]).into(),
        rstd: (&mut rstd[..]).into(),
        x: x.into(),
        weight: weight.into(),
        rows,
        dim: weight.len(),
        eps: 1e-5,
    })
    .unwrap();
    (out, rstd)
}

#[test]
fn the_formula_holds_and_the_sum_is_normed_alike() {
    // the last: one row for each of 4 heads of 65 tokens
    for (rows, dim) in [(1, 1), (3, 7), (65, 16), (130, 33), (260, 16), (260, 64), (260, 128)] {
        let (x, w, r) = (numbers(rows * dim, 1), numbers(dim, 2), numbers(rows * dim, 3));
        let (out, rstd) = norm(&x, &w, rows);
        for n in 0..rows {
            let row = &x[n * dim..][..dim];
            let want = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / dim as f64 + 1e-5).sqrt();
            assert!((rstd[n] / want - 1.0).abs() < 1e-14);
            for i in 0..dim {
                assert!((out[n * dim + i] - row[i] * want * w[i]).abs() < 1e-13);
            }
        }
        let total: Vec<f64> = x.iter().zip(&r).map(|(x, r)| x + r).collect();
        let (mut out, mut sum, mut rstd) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; rows]);
        forward_add(ForwardAdd {
            out: (&mut out[..]).into(),
            sum: (&mut sum[..]).into(),
            rstd: (&mut rstd[..]).into(),
            x: (&x[..]).into(),
            residual: (&r[..]).into(),
            weight: (&w[..]).into(),
            rows,
            dim,
            eps: 1e-5,
        })
        .unwrap();
        assert_eq!((sum, (out, rstd)), (total.clone(), norm(&total, &w, rows)));
    }
}

#[test]
fn the_gradients_are_those_of_the_formula() {
    for (rows, dim) in [(67, 9), (260, 16), (260, 64)] {
        check_gradients(rows, dim);
    }
}

fn check_gradients(rows: usize, dim: usize) {
    let (x, w, dy) = (numbers(rows * dim, 4), numbers(dim, 5), numbers(rows * dim, 6));
    let loss = |x: &[f64], w: &[f64]| norm(x, w, rows).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
    let rstd = norm(&x, &w, rows).1;
    let (mut dx, mut dw) = (vec![1.0; x.len()], vec![2.0; dim]);
    backward(Backward {
        dx: (&mut dx[..]).into(),
        write_dx: Write::Accumulate,
        dweight: Some((&mut dw[..]).into()),
        dy: (&dy[..]).into(),
        x: (&x[..]).into(),
        weight: (&w[..]).into(),
        rstd: (&rstd[..]).into(),
        rows,
        dim,
    })
    .unwrap();
    let step = 1e-5;
    for i in (0..x.len()).step_by(x.len() / 46) {
        let (mut up, mut down) = (x.clone(), x.clone());
        up[i] += step;
        down[i] -= step;
        let numeric = (loss(&up, &w) - loss(&down, &w)) / (2.0 * step);
        assert!((dx[i] - 1.0 - numeric).abs() < 1e-7, "dx[{i}]");
    }
    for i in 0..dim {
        let (mut up, mut down) = (w.clone(), w.clone());
        up[i] += step;
        down[i] -= step;
        let numeric = (loss(&x, &up) - loss(&x, &down)) / (2.0 * step);
        assert!((dw[i] - 2.0 - numeric).abs() < 1e-7, "dw[{i}]");
    }
}

/// f32 against f64, with one running sum per row as the yardstick.
fn check_precision(rows: usize, dim: usize) {
    use crate::tolerance::{BACKWARD, FORWARD, assert_follows, floor, scale};
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (x, w, dy) = (round(numbers(rows * dim, 4)), round(numbers(dim, 5)), round(numbers(rows * dim, 6)));
    let (out64, rstd64) = norm(&wide(&x), &wide(&w), rows);
    let (mut out, mut rstd) = (vec![f32::NAN; rows * dim], vec![f32::NAN; rows]);
    forward(Forward {
        out: (&mut out[..]).into(),
        rstd: (&mut rstd[..]).into(),
        x: (&x[..]).into(),
        weight: (&w[..]).into(),
        rows,
        dim,
        eps: 1e-5,
    })
    .unwrap();
    let (mut plain, mut dx_plain, mut dw_plain) = (vec![], vec![], vec![0.0f32; dim]);
    for (n, (x, dy)) in x.chunks(dim).zip(dy.chunks(dim)).enumerate() {
        let plain_rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f32>() / dim as f32 + 1e-5).sqrt();
        plain.extend(x.iter().zip(&w).map(|(x, w)| x * plain_rstd * w));
        let dot: f32 = (0..dim).map(|i| dy[i] * w[i] * x[i]).sum();
        let mean = dot * rstd[n] * rstd[n] / dim as f32;
        dx_plain.extend((0..dim).map(|i| rstd[n] * (dy[i] * w[i] - x[i] * mean)));
        (0..dim).for_each(|i| dw_plain[i] += dy[i] * x[i] * rstd[n]);
    }
    assert_follows("out", &out, &plain, &out64, FORWARD, floor(scale(&out64), dim));
    let (mut dx, mut dw) = (vec![f32::NAN; rows * dim], vec![0.0f32; dim]);
    backward(Backward {
        dx: (&mut dx[..]).into(),
        write_dx: Write::Overwrite,
        dweight: Some((&mut dw[..]).into()),
        dy: (&dy[..]).into(),
        x: (&x[..]).into(),
        weight: (&w[..]).into(),
        rstd: (&rstd[..]).into(),
        rows,
        dim,
    })
    .unwrap();
    let (mut dx64, mut dw64) = (vec![f64::NAN; rows * dim], vec![0.0; dim]);
    backward(Backward {
        dx: (&mut dx64[..]).into(),
        write_dx: Write::Overwrite,
        dweight: Some((&mut dw64[..]).into()),
        dy: (&wide(&dy)[..]).into(),
        x: (&wide(&x)[..]).into(),
        weight: (&wide(&w)[..]).into(),
        rstd: (&rstd64[..]).into(),
        rows,
        dim,
    })
    .unwrap();
    // a row of small x has a large rstd: the scale of the terms is that of the gradients times it
    let terms = 1.0 + scale(&rstd64);
    assert_follows("dx", &dx, &dx_plain, &dx64, BACKWARD, floor(terms * scale(&dx64), dim));
    assert_follows("dweight", &dw, &dw_plain, &dw64, BACKWARD, floor(terms, rows));
}

#[test]
fn rows_of_heads_are_as_precise_as_plain_loops() {
    for (rows, dim) in [(1000, 16), (260, 64), (260, 128)] {
        check_precision(rows, dim);
    }
}

#[test]
fn a_weight_in_bf16_is_its_widening_to_the_bit() {
    let (rows, dim) = (70, 37);
    let x: Vec<f32> = numbers(rows * dim, 7).into_iter().map(|x| x as f32).collect();
    let w: Vec<half::bf16> = numbers(dim, 8).into_iter().map(half::bf16::from_f64).collect();
    let widened: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
    let run = |weight: Slice<'_>| {
        let (mut dx, mut dweight) = (vec![f32::NAN; rows * dim], vec![0.0f32; dim]);
        backward(Backward {
            dx: (&mut dx[..]).into(),
            write_dx: Write::Overwrite,
            dweight: Some((&mut dweight[..]).into()),
            dy: (&x[..]).into(),
            x: (&x[..]).into(),
            weight,
            rstd: (&x[..rows]).into(),
            rows,
            dim,
        })
        .unwrap();
        (dx, dweight)
    };
    assert_eq!(run((&w[..]).into()), run((&widened[..]).into()));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn any_shape_is_as_precise_as_plain_loops(rows in 1usize..140, dim in 1usize..70) {
        check_precision(rows, dim);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (rows, dim) = (300, 24);
    let round = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let (x, w, dy) = (round(numbers(rows * dim, 7)), round(numbers(dim, 8)), round(numbers(rows * dim, 9)));
    let rstd = vec![1.5f32; rows];
    let on = |threads| {
        let (mut dx, mut dw) = (x.clone(), vec![1.0f32; dim]);
        let args = Backward {
            dx: (&mut dx[..]).into(),
            write_dx: Write::Accumulate,
            dweight: Some((&mut dw[..]).into()),
            dy: (&dy[..]).into(),
            x: (&x[..]).into(),
            weight: (&w[..]).into(),
            rstd: (&rstd[..]).into(),
            rows,
            dim,
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| backward(args)).unwrap();
        (dx, dw)
    };
    assert_eq!(on(1), on(2));
}
