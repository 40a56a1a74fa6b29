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
const DPO: PairLoss = PairLoss::Dpo { label_smoothing: 0.0 };
const RULE: PreferenceLoss = PreferenceLoss { pair_loss: DPO, beta: 0.4, likelihood_weight: 0.7, num_pairs: 3 };

/// Every form, with and without the numbers that it may have.
const FORMS: [PairLoss; 9] = [
    DPO,
    PairLoss::Dpo { label_smoothing: 0.1 },
    PairLoss::Dpo { label_smoothing: 0.5 },
    PairLoss::Robust { label_smoothing: 0.2 },
    PairLoss::Hinge,
    PairLoss::Ipo,
    PairLoss::Simpo { gamma: 0.3, label_smoothing: 0.0 },
    PairLoss::Simpo { gamma: 0.3, label_smoothing: 0.2 },
    PairLoss::Orpo,
];

fn answer(logp: f64, tokens: usize) -> Answer {
    Answer { logp, tokens: tokens as f64 }
}

/// The terms and derivatives of one pair without a likelihood term.
fn one(pair_loss: PairLoss, beta: f64, chosen: Answer, rejected: Answer) -> (PreferenceStats, [f64; 2]) {
    let rule = PreferenceLoss { pair_loss, beta, likelihood_weight: 0.0, num_pairs: 1 };
    rule.pair(&Pair { reference_chosen: 0.0, reference_rejected: 0.0, likelihood_scale: 0.0 }, chosen, rejected)
}

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
    assert_eq!((terms.pair_loss, terms.reward_margin, terms.reward_accuracy), (std::f64::consts::LN_2, 0.0, 0.0));
    assert_eq!((weights[1], weights[5]), (-0.1, 0.1));
}

#[test]
fn weights_are_the_derivative_of_every_loss() {
    for pair_loss in FORMS {
        let rule = PreferenceLoss { pair_loss, ..RULE };
        let no_reference = PAIRS.map(|pair| Pair { reference_chosen: 0.0, reference_rejected: 0.0, ..pair });
        let pairs = if pair_loss.has_reference() { PAIRS } else { no_reference };
        let (_, weights) = run(&case(), &pairs, rule);
        for (t, weight) in weights.into_iter().enumerate() {
            let loss = |delta: f64| {
                let mut moved = case();
                moved.logp[t] += delta;
                run(&moved, &pairs, rule).0.loss(rule.likelihood_weight)
            };
            let slope = (loss(1e-6) - loss(-1e-6)) / 2e-6;
            assert!((weight - slope).abs() < 1e-9, "{pair_loss:?}, token {t}: {weight} against {slope}");
        }
    }
}

/// By hand: sums of -3 over 2 tokens and -4 over 4, so means of -1.5 and -1.
#[test]
fn every_loss_is_the_formula_of_its_paper() {
    let (chosen, rejected) = (answer(-3.0, 2), answer(-4.0, 4));
    let log_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
    let log_odds = |mean: f64| mean - (1.0 - mean.exp()).ln();
    let of = |pair_loss, beta| one(pair_loss, beta, chosen, rejected).0.pair_loss;
    let (kept, right, wrong) = (0.9, -log_sigmoid(0.2), -log_sigmoid(-0.2));
    let cases = [
        ("DPO", of(DPO, 0.2), right),
        ("conservative DPO", of(PairLoss::Dpo { label_smoothing: 0.1 }, 0.2), kept * right + 0.1 * wrong),
        ("robust", of(PairLoss::Robust { label_smoothing: 0.1 }, 0.2), (kept * right - 0.1 * wrong) / 0.8),
        ("hinge", of(PairLoss::Hinge, 0.2), 0.8),
        ("hinge behind its margin", of(PairLoss::Hinge, 1.5), 0.0),
        ("IPO", of(PairLoss::Ipo, 0.2), (-0.5_f64 - 2.5).powi(2)),
        ("SimPO", of(PairLoss::Simpo { gamma: 1.0, label_smoothing: 0.0 }, 2.0), -log_sigmoid(2.0 * -0.5 - 1.0)),
        ("ORPO", of(PairLoss::Orpo, 0.2), -0.2 * log_sigmoid(log_odds(-1.5) - log_odds(-1.0))),
    ];
    for (name, got, want) in cases {
        assert!((got - want).abs() < 1e-14, "{name}: {got} against {want}");
    }
}

#[test]
fn rewards_are_of_sums_with_a_reference_and_of_means_without() {
    for pair_loss in FORMS {
        let (terms, _) = one(pair_loss, 0.5, answer(-3.0, 2), answer(-8.0, 4));
        let logp = if pair_loss.has_reference() { (-3.0, -8.0) } else { (-1.5, -2.0) };
        assert_eq!((terms.logp_chosen, terms.logp_rejected), logp, "{pair_loss:?}");
        let rewards = (terms.reward_chosen, terms.reward_rejected, terms.reward_margin, terms.reward_accuracy);
        assert_eq!(rewards, (0.5 * logp.0, 0.5 * logp.1, 0.5 * (logp.0 - logp.1), 1.0), "{pair_loss:?}");
    }
}

#[test]
fn smoothing_of_0_is_none_and_of_one_half_has_no_side() {
    let (chosen, rejected) = (answer(-2.0, 3), answer(-7.0, 5));
    let none = one(DPO, 0.3, chosen, rejected);
    assert_eq!(one(PairLoss::Robust { label_smoothing: 0.0 }, 0.3, chosen, rejected), none);
    let half = PairLoss::Dpo { label_smoothing: 0.5 };
    let loss = |chosen, rejected| one(half, 0.3, chosen, rejected).0.pair_loss;
    assert_eq!(loss(chosen, rejected), loss(rejected, chosen));
    assert_eq!(
        one(half, 0.3, chosen, chosen),
        (PreferenceStats { pair_loss: std::f64::consts::LN_2, ..one(half, 0.3, chosen, chosen).0 }, [-0.0, 0.0])
    );
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
fn extreme_answers_stay_finite() {
    assert_eq!((softplus(-1e4), softplus(1e4), softplus(0.0)), (0.0, 1e4, std::f64::consts::LN_2));
    assert!(sigmoid(1e4) == 1.0 && sigmoid(-1e4) == 0.0);
    // impossible, of one token that is certain, and what f32 makes of one that is nearly so
    let answers = [answer(-1e4, 1), answer(-1e4, 700), answer(0.0, 1), answer(-1e-45, 1), answer(-0.7, 1)];
    for pair_loss in FORMS {
        for (chosen, rejected) in answers.iter().flat_map(|chosen| answers.map(|rejected| (*chosen, rejected))) {
            let (terms, weights) = one(pair_loss, 1.0, chosen, rejected);
            let mut numbers = terms.to_array().into_iter().chain(weights);
            assert!(
                numbers.all(f64::is_finite),
                "{pair_loss:?} of {chosen:?} and {rejected:?}: {terms:?}, {weights:?}"
            );
        }
    }
}

/// At a probability of 1 the odds have no bound, but one token's derivative by its logits is 1 - p: their product is what counts.
#[test]
fn the_odds_of_an_answer_that_is_certain_are_those_of_the_next_smaller_number_of_f32() {
    let certain = one(PairLoss::Orpo, 1.0, answer(0.0, 1), answer(-0.7, 1));
    let almost = one(PairLoss::Orpo, 1.0, answer(-(0.5_f64.powi(24)), 1), answer(-0.7, 1));
    assert_eq!((certain.0.pair_loss, certain.1), (almost.0.pair_loss, almost.1));
    let [_, push] = one(PairLoss::Orpo, 1.0, answer(-0.7, 1), answer(0.0, 1)).1;
    assert!((push * 0.5_f64.powi(24) - 1.0).abs() < 1e-6, "{push}");
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
