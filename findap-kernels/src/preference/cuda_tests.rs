use super::super as cpu;
use super::*;
use crate::cross_entropy::IGNORE;
use crate::cuda::tests::cases::{Array, IndexArray, assert_follows, numbers, on_every_executor, rounded, run};

const FORMS: [PairLoss; 6] = [
    PairLoss::Dpo { label_smoothing: 0.1 },
    PairLoss::Robust { label_smoothing: 0.2 },
    PairLoss::Hinge,
    PairLoss::Ipo,
    PairLoss::Simpo { gamma: 0.4, label_smoothing: 0.05 },
    PairLoss::Orpo,
];

/// Pairs of documents of these lengths, each behind a prompt of a third of it.
fn check(pair_loss: PairLoss, lengths: &[[usize; 2]]) {
    let mut cu_seqlens = vec![0u32];
    let mut targets = Vec::new();
    for &length in lengths.as_flattened() {
        targets.extend((0..length).map(|t| if t < length / 3 || t + 1 == length { IGNORE } else { t as u32 }));
        cu_seqlens.push(targets.len() as u32);
    }
    let n = targets.len();
    let logp = rounded(&numbers(n, 1).iter().map(|x| x - 1.0).collect::<Vec<f64>>(), Dtype::F32);
    let draws = numbers(3 * lengths.len(), 2);
    let pairs: Vec<Pair> = draws
        .as_chunks::<3>()
        .0
        .iter()
        .zip(lengths)
        .map(|(draw, [chosen, rejected])| Pair {
            // near the policy's, so that margins are of either sign
            reference_chosen: if pair_loss.has_reference() { -(*chosen as f64) * 0.7 + draw[0] } else { 0.0 },
            reference_rejected: if pair_loss.has_reference() { -(*rejected as f64) * 0.7 + draw[1] } else { 0.0 },
            likelihood_scale: draw[2].abs() / *chosen as f64,
        })
        .collect();
    let rule = PreferenceLoss { pair_loss, beta: 0.3, likelihood_weight: 0.8, num_pairs: lengths.len() + 2 };
    let mut truth = vec![f64::NAN; n];
    let args = cpu::TokenWeights {
        weights: &mut truth,
        logp: &logp,
        targets: &targets,
        cu_seqlens: &cu_seqlens,
        pairs: &pairs,
        rule,
    };
    let truth_terms = cpu::token_weights(args).unwrap();
    on_every_executor(SOURCE.needs, |executor| {
        let (loss, terms) =
            (Array::new(executor, &[2.0], Dtype::F64), Array::new(executor, &[1.0; PreferenceStats::LEN], Dtype::F64));
        let weights = Array::poisoned(executor, n, Dtype::F32);
        let logp = Array::new(executor, &logp, Dtype::F32);
        let (targets, cu_seqlens) = (IndexArray::new(executor, &targets), IndexArray::new(executor, &cu_seqlens));
        let pairs = Array::new(executor, pairs.iter().map(pair_numbers).collect::<Vec<_>>().as_flattened(), Dtype::F64);
        let args = TokenWeights {
            loss: loss.operand(),
            terms: terms.operand(),
            weights: weights.operand(),
            logp: logp.operand(),
            targets: targets.indices(),
            cu_seqlens: cu_seqlens.indices(),
            pairs: pairs.operand(),
            rule,
        };
        run(executor, &[token_weights(&args).unwrap()]);
        assert_follows("preference f32", "weights", Dtype::F32, &weights.read(), &truth, &truth, 0.0);
        let want = truth_terms.to_array().map(|term| term + 1.0);
        let sums = terms.read().into_iter().zip(want);
        for (got, want) in sums.chain([(loss.read()[0], 2.0 + truth_terms.loss(rule.likelihood_weight))]) {
            // sums of n numbers in f64, in another order
            assert!((got - want).abs() <= 1e-15 * (n + 8) as f64 * want.abs().max(1.0), "{got} against {want}");
        }
    });
}

#[test]
fn pairs_of_every_length_follow_the_truth() {
    for pair_loss in FORMS {
        check(pair_loss, &[[3, 4]]);
        check(pair_loss, &[[1, 1], [2, 90]]);
        // more pairs than warps, and documents longer than a warp
        let many = [[40, 33], [5, 64], [100, 7], [32, 31], [3, 3], [6, 200], [65, 2], [9, 9], [70, 70], [12, 13]];
        check(pair_loss, &many);
    }
}

#[test]
fn a_launch_over_other_numbers_is_refused() {
    let of = |len: usize, dtype: Dtype| Operand { address: 0, len, dtype };
    let (targets, cu_seqlens) = (Indices { address: 0, len: 4 }, Indices { address: 0, len: 3 });
    let pair_loss = PairLoss::Dpo { label_smoothing: 0.0 };
    let rule = PreferenceLoss { pair_loss, beta: 0.1, likelihood_weight: 0.0, num_pairs: 1 };
    let right = TokenWeights {
        loss: of(1, Dtype::F64),
        terms: of(PreferenceStats::LEN, Dtype::F64),
        weights: of(4, Dtype::F32),
        logp: of(4, Dtype::F32),
        targets,
        cu_seqlens,
        pairs: of(3, Dtype::F64),
        rule,
    };
    assert!(token_weights(&right).is_ok());
    assert!(token_weights(&TokenWeights { pairs: of(6, Dtype::F64), ..right }).is_err());
    assert!(token_weights(&TokenWeights { weights: of(4, Dtype::Bf16), ..right }).is_err());
    assert!(token_weights(&TokenWeights { logp: of(3, Dtype::F32), ..right }).is_err());
}
