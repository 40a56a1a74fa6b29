use super::super::IGNORE;
use super::*;
use crate::cuda::tests::cases::{Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run};
use crate::dtype::Real;
use crate::tolerance::{floor, scale};

#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    vocab: usize,
    pitch: usize,
    dtype: Dtype,
    size: f64,
}

/// logp, lse and gradients by the formula, in plain loops of one format. Behind the vocabulary gradients are 0.
fn plain<T: Real>(case: &Case, logits: &[f64], targets: &[u32], weights: &[f64]) -> [Vec<f64>; 3] {
    let (mut logp, mut lse, mut gradient) = (vec![], vec![], vec![0.0; logits.len()]);
    for (t, (&target, &weight)) in targets.iter().zip(weights).enumerate() {
        if target == IGNORE {
            logp.push(0.0);
            lse.push(0.0);
            continue;
        }
        let row: Vec<T> = logits[t * case.pitch..][..case.vocab].iter().map(|&x| T::from_f64(x)).collect();
        let largest = row.iter().fold(T::NEG_INFINITY, |m, &x| m.max(x));
        let total = largest + row.iter().fold(T::ZERO, |sum, &x| sum + (x - largest).exp()).ln();
        logp.push((row[target as usize] - total).to_f64());
        lse.push(total.to_f64());
        for (j, &x) in row.iter().enumerate() {
            let is_target = if j == target as usize { T::ONE } else { T::ZERO };
            gradient[t * case.pitch + j] = (T::from_f64(weight) * (is_target - (x - total).exp())).to_f64();
        }
    }
    [logp, lse, gradient]
}

fn check(case: Case) {
    let Case { rows, vocab, pitch, dtype, size } = case;
    let targets: Vec<u32> = (0..rows).map(|t| if t % 4 == 2 { IGNORE } else { (t * 31 % vocab) as u32 }).collect();
    let weights = rounded(&(0..rows).map(|t| 0.3 - 0.2 * (t % 3) as f64).collect::<Vec<f64>>(), Dtype::F32);
    let mut logits = rounded(&numbers(rows * pitch, 1).iter().map(|x| x * size).collect::<Vec<f64>>(), dtype);
    // what has no loss is not read
    for t in 0..rows {
        let unread = if targets[t] == IGNORE { 0 } else { vocab };
        logits[t * pitch + unread..][..pitch - unread].fill(f64::NAN);
    }
    let truth = plain::<f64>(&case, &logits, &targets, &weights);
    let naive = plain::<f32>(&case, &logits, &targets, &weights);
    on_every_executor(SOURCE.needs, |executor| {
        let targets = IndexArray::new(executor, &targets);
        let weights = Array::new(executor, &weights, Dtype::F32);
        let family = if dtype == Dtype::Bf16 { "cross_entropy bf16" } else { "cross_entropy f32" };
        let run_passes = |logits: &[f64], tokens: Option<&[u32]>, passes: &[Pass]| {
            let array = Array::new(executor, logits, dtype);
            let tokens = tokens.map(|tokens| IndexArray::new(executor, tokens));
            let (logp, lse) =
                (Array::poisoned(executor, rows, Dtype::F32), Array::poisoned(executor, rows, Dtype::F32));
            for &pass in passes {
                let args = SoftmaxGradient {
                    logits: array.operand(),
                    logp: logp.operand(),
                    lse: lse.operand(),
                    targets: targets.indices(),
                    weights: (pass != Pass::Forward).then(|| weights.operand()),
                    tokens: tokens.as_ref().map(IndexArray::indices),
                    vocab,
                    pitch,
                    pass,
                };
                run(executor, &[softmax_gradient(&args).unwrap()]);
            }
            [logp.read(), lse.read(), array.read()]
        };
        let together = run_passes(&logits, None, &[Pass::ForwardBackward]);
        let in_two = run_passes(&logits, None, &[Pass::Forward, Pass::Backward]);
        assert_eq!(together, in_two, "one pass or two: the same bits");
        // the rows with loss alone, in another order
        let chosen: Vec<u32> = (0..rows as u32).rev().filter(|t| t % 4 != 2).collect();
        let rows_of = |x: &[f64]| -> Vec<f64> {
            chosen.iter().flat_map(|&t| x[t as usize * pitch..][..pitch].to_vec()).collect()
        };
        let [logp, lse, gradient] = run_passes(&rows_of(&logits), Some(&chosen), &[Pass::ForwardBackward]);
        for &t in &chosen {
            let t = t as usize;
            assert_eq!([logp[t], lse[t]], [together[0][t], together[1][t]]);
        }
        assert!((0..rows).filter(|t| t % 4 == 2).all(|t| logp[t].is_nan()), "other tokens are left alone");
        assert_eq!(gradient, rows_of(&together[2]), "by token: the same bits");
        // lse is a sum of `vocab` terms relative to the largest, and its own rounding; logp and the exponents inherit it
        let sums = floor(1.0 + scale(&truth[1]), 1) + floor(1.0, vocab);
        for (i, (what, dtype)) in
            [("logp", Dtype::F32), ("lse", Dtype::F32), ("gradient", dtype)].into_iter().enumerate()
        {
            let what = format!("{what} of {case:?}");
            assert_follows(family, &what, dtype, &together[i], &naive[i], &truth[i], sums);
        }
    });
}

#[test]
fn every_size_and_format_follows_the_truth() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        for (rows, vocab, pitch, size) in
            [(1, 1, 8, 1.0), (5, 19, 24, 3.0), (9, 301, 304, 10.0), (4, 4099, 4104, 30.0), (3, 9000, 9000, 1.0)]
        {
            check(Case { rows, vocab, pitch, dtype, size });
        }
    }
}

#[test]
fn a_sure_token_has_an_exact_small_gradient() {
    // 1 - p is 1e-9 or so: less than f32 can tell from 1 - p computed as such
    let case = Case { rows: 1, vocab: 2, pitch: 8, dtype: Dtype::F32, size: 0.0 };
    let mut logits = vec![f64::NAN; 8];
    (logits[0], logits[1]) = (0.0, -20.0);
    let truth = plain::<f64>(&case, &logits, &[0], &[1.0]);
    on_every_executor(SOURCE.needs, |executor| {
        let array = Array::new(executor, &logits, Dtype::F32);
        let (logp, lse) = (Array::poisoned(executor, 1, Dtype::F32), Array::poisoned(executor, 1, Dtype::F32));
        let (targets, weights) = (IndexArray::new(executor, &[0]), Array::new(executor, &[1.0], Dtype::F32));
        let args = SoftmaxGradient {
            logits: array.operand(),
            logp: logp.operand(),
            lse: lse.operand(),
            targets: targets.indices(),
            weights: Some(weights.operand()),
            tokens: None,
            vocab: 2,
            pitch: 8,
            pass: Pass::ForwardBackward,
        };
        run(executor, &[softmax_gradient(&args).unwrap()]);
        let got = array.read()[1];
        assert!((got / truth[2][1] - 1.0).abs() < 1e-6, "{got} {}", truth[2][1]);
    });
}
