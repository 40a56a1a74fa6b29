use super::*;

/// Two pairs; what has no target has no log-probability.
struct Case {
    logp: Vec<f64>,
    targets: Vec<u32>,
    cu_seqlens: Vec<u32>,
}

fn case() -> Case {
    let targets = vec![IGNORE, 5, 6, IGNORE, IGNORE, 7, IGNORE, 8, 9, IGNORE, 4, IGNORE];
    let logp = (0..12).map(|t| if targets[t] == IGNORE { 0.0 } else { -0.3 - 0.1 * t as f64 }).collect();
    Case { logp, targets, cu_seqlens: vec![0, 4, 7, 10, 12] }
}

const PAIRS: [Pair; 2] = [
    Pair { reference_chosen: -1.5, reference_rejected: -0.2, likelihood_scale: 0.25 },
    Pair { reference_chosen: -2.0, reference_rejected: -1.9, likelihood_scale: 0.125 },
];
const RULE: PreferenceLoss = PreferenceLoss { beta: 0.4, likelihood_weight: 0.7, num_pairs: 3 };

fn run(case: &Case, pairs: &[Pair], rule: PreferenceLoss) -> (PreferenceStats, Vec<f64>) {
    let mut weights = vec![f64::NAN; case.logp.len()];
    let Case { logp, targets, cu_seqlens } = case;
    let terms = token_weights(TokenWeights { weights: &mut weights, logp, targets, cu_seqlens, pairs, rule }).unwrap();
    (terms, weights)
}

#[test]
fn a_policy_that_is_its_reference_loses_ln_2_and_is_pulled_by_half_of_beta() {
    let case = case();
    let sum = |tokens: std::ops::Range<usize>| case.logp[tokens].iter().sum::<f64>();
    let pair = |from: usize, between: usize, to: usize| Pair {
        reference_chosen: sum(from..between),
        reference_rejected: sum(between..to),
        likelihood_scale: 0.0,
    };
    let rule = PreferenceLoss { num_pairs: 2, ..RULE };
    let (terms, weights) = run(&case, &[pair(0, 4, 7), pair(7, 10, 12)], rule);
    assert_eq!((terms.dpo_loss, terms.reward_margin, terms.reward_accuracy), (std::f64::consts::LN_2, 0.0, 0.0));
    assert_eq!((weights[1], weights[5]), (-0.1, 0.1));
}

#[test]
fn weights_are_the_derivative_of_the_loss() {
    let (_, weights) = run(&case(), &PAIRS, RULE);
    for (t, weight) in weights.into_iter().enumerate() {
        let loss = |delta: f64| {
            let mut moved = case();
            moved.logp[t] += delta;
            run(&moved, &PAIRS, RULE).0.loss(RULE.likelihood_weight)
        };
        let slope = (loss(1e-6) - loss(-1e-6)) / 2e-6;
        assert!((weight - slope).abs() < 1e-9, "token {t}: {weight} against {slope}");
    }
}

#[test]
fn pairs_add_up_over_calls() {
    let Case { logp, targets, .. } = case();
    let (whole, weights) = run(&case(), &PAIRS, RULE);
    let first = Case { logp: logp[..7].to_vec(), targets: targets[..7].to_vec(), cu_seqlens: vec![0, 4, 7] };
    let second = Case { logp: logp[7..].to_vec(), targets: targets[7..].to_vec(), cu_seqlens: vec![0, 3, 5] };
    let (mut sum, first_weights) = run(&first, &PAIRS[..1], RULE);
    let (other, second_weights) = run(&second, &PAIRS[1..], RULE);
    sum.add(&other);
    assert_eq!(sum, whole);
    assert_eq!([first_weights, second_weights].concat(), weights);
}

#[test]
fn extreme_margins_stay_finite() {
    assert_eq!((softplus(-1e4), softplus(1e4), softplus(0.0)), (0.0, 1e4, std::f64::consts::LN_2));
    assert!(sigmoid(1e4) == 1.0 && sigmoid(-1e4) == 0.0);
}

#[test]
fn documents_that_are_no_pairs_are_refused() {
    let Case { logp, targets, cu_seqlens } = case();
    let refusal = |targets: &[u32], cu_seqlens: &[u32], pairs: &[Pair]| {
        let weights = &mut [0.0; 12];
        token_weights(TokenWeights { weights, logp: &logp, targets, cu_seqlens, pairs, rule: RULE }).unwrap_err()
    };
    let (op, want) = ("preference::token_weights", 3);
    assert_eq!(
        refusal(&targets, &cu_seqlens, &PAIRS[..1]),
        KernelError::ShapeMismatch { op, arg: "cu_seqlens", want, got: 5 }
    );
    assert!(matches!(refusal(&targets, &[0, 4, 7, 10, 11], &PAIRS), KernelError::BadOffsets { index: 4, .. }));
    assert!(matches!(refusal(&targets[1..], &cu_seqlens, &PAIRS), KernelError::ShapeMismatch { arg: "targets", .. }));
}
