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
    for (rows, dim) in [(1, 1), (3, 7), (65, 16), (130, 33)] {
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
    let (rows, dim) = (67, 9);
    let (x, w, dy) = (numbers(rows * dim, 4), numbers(dim, 5), numbers(rows * dim, 6));
    let loss = |x: &[f64], w: &[f64]| norm(x, w, rows).0.iter().zip(&dy).map(|(y, dy)| y * dy).sum::<f64>();
    let rstd = norm(&x, &w, rows).1;
    let (mut dx, mut dw) = (vec![1.0; x.len()], vec![2.0; dim]);
    backward(Backward {
        dx: (&mut dx[..]).into(),
        write_dx: Write::Accumulate,
        dweight: (&mut dw[..]).into(),
        dy: (&dy[..]).into(),
        x: (&x[..]).into(),
        weight: (&w[..]).into(),
        rstd: (&rstd[..]).into(),
        rows,
        dim,
    })
    .unwrap();
    let step = 1e-5;
    for i in (0..x.len()).step_by(13) {
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
