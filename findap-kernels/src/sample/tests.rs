use super::*;

fn of(x: &[f64], sampling: Sampling, uniform: f64) -> u32 {
    sample(x.into(), sampling, uniform).unwrap().0
}

#[test]
fn ties_go_to_the_lower_id() {
    assert_eq!(argmax((&[1.0f32, 3.0, 3.0][..]).into()), Ok(1));
    assert_eq!(of(&[1.0, 3.0, 3.0], Sampling::GREEDY, 0.99), 1);
    let one = Sampling { temperature: 1.0, top_k: 1, top_p: 1.0 };
    assert_eq!(of(&[1.0, 3.0, 3.0], one, 0.99), 1);
}

#[test]
fn frequencies_are_the_probabilities() {
    let p = [0.5f64, 0.125, 0.25, 0.125];
    let logits = p.map(f64::ln);
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    let mut counts = [0; 4];
    (0..1000).for_each(|i| counts[of(&logits, sampling, f64::from(i) / 1000.0) as usize] += 1);
    // the grid of uniform numbers may fall on either side of a border
    let near = |counts: [i32; 4], want: [i32; 4]| counts.iter().zip(want).all(|(a, b)| (a - b).abs() <= 1);
    assert!(near(counts, [500, 125, 250, 125]), "{counts:?}");
    let half = Sampling { temperature: 0.5, ..sampling };
    let mut counts = [0; 4];
    (0..1100).for_each(|i| counts[of(&logits, half, f64::from(i) / 1100.0) as usize] += 1);
    assert!(near(counts, [800, 50, 200, 50]), "temperature 1/2 squares the probabilities: {counts:?}");
}

#[test]
fn top_k_and_top_p_keep_exactly_what_they_say() {
    let logits = [0.5f64, 0.125, 0.25, 0.125].map(f64::ln);
    let reached = |sampling| {
        let mut seen: Vec<u32> = (0..1000).map(|i| of(&logits, sampling, f64::from(i) / 1000.0)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    assert_eq!(reached(Sampling { top_k: 3, ..all }), [0, 1, 2]);
    assert_eq!(reached(Sampling { top_p: 0.5, ..all }), [0]);
    assert_eq!(reached(Sampling { top_p: 0.6, ..all }), [0, 2]);
    assert_eq!(reached(Sampling { top_p: 1e-9, ..all }), [0]);
}

#[test]
fn the_log_probability_is_that_of_the_whole_vocabulary() {
    let logits = [0.5f64, 0.125, 0.25, 0.125].map(|p| p.ln() + 40.0);
    let (id, logp) = sample((&logits[..]).into(), Sampling { temperature: 9.0, top_k: 1, top_p: 0.1 }, 0.3).unwrap();
    assert_eq!(id, 0);
    assert!((logp - 0.5f64.ln()).abs() < 1e-13);
}

#[test]
fn impossible_settings_are_refused() {
    let x = [0.0f32];
    let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 };
    for bad in [Sampling { temperature: -1.0, ..all }, Sampling { top_p: 0.0, ..all }, Sampling { top_p: 1.5, ..all }] {
        assert!(matches!(sample((&x[..]).into(), bad, 0.5), Err(KernelError::BadArgument { .. })));
    }
    assert!(matches!(argmax((&x[..0]).into()), Err(KernelError::ShapeMismatch { .. })));
}

#[test]
fn a_rating_names_the_best_token_and_weighs_the_given_one() {
    let logits = [0.5f64, 0.125, 0.25, 0.125].map(|p| p.ln() + 40.0);
    let (logp, best) = score_tokens((&logits[..]).into(), 2).unwrap();
    assert_eq!(best, 0);
    assert!((logp - 0.25f64.ln()).abs() < 1e-13);
    assert!(matches!(score_tokens((&logits[..]).into(), 4), Err(KernelError::IdOutOfRange { .. })));
}

/// The definition: the whole order, and one sum along it.
fn choose_by_sorting(logits: &[f64], sampling: Sampling, uniform: f64) -> u32 {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap().then(a.cmp(&b)));
    let best = logits[ids[0] as usize];
    let weight = |id: &u32| ((logits[*id as usize] - best) / sampling.temperature).exp();
    if sampling.top_k > 0 {
        ids.truncate(sampling.top_k);
    }
    let enough = sampling.top_p * ids.iter().map(weight).sum::<f64>();
    let mut before = 0.0;
    let kept = ids.iter().take_while(|id| (before < enough, before += weight(id)).0).count();
    ids.truncate(if sampling.top_p < 1.0 { kept } else { ids.len() });
    let mut left = uniform * ids.iter().map(weight).sum::<f64>();
    *ids.iter().find(|id| (left -= weight(id), left < 0.0).1).unwrap_or(&ids[ids.len() - 1])
}

#[test]
fn tokens_in_groups_are_those_of_the_whole_order() {
    let settings = [
        (1.0, 0, 1.0),
        (0.7, 0, 1.0),
        (1e-4, 0, 1.0),
        (1e6, 0, 1.0),
        (0.7, 40, 1.0),
        (1.3, 0, 0.9),
        (0.8, 100, 0.5),
        (1.0, 3000, 1.0),
    ];
    for spread in [0.0, 0.5, 8.0, 60.0] {
        // some of them equal, and some at minus infinity
        let logits: Vec<f64> = (0..2000usize)
            .map(|i| match i * 7919 % 1000 {
                0 => f64::NEG_INFINITY,
                x => spread * (x as f64 / 1000.0).ln(),
            })
            .collect();
        for (temperature, top_k, top_p) in settings {
            let sampling = Sampling { temperature, top_k, top_p };
            for i in 0..50 {
                let uniform = (f64::from(i) + 0.37) / 50.0;
                // sums in another order move the borders between tokens by some units of 2^-53
                let near = [uniform - 1e-12, uniform, uniform + 1e-12].map(|u| choose_by_sorting(&logits, sampling, u));
                let got = of(&logits, sampling, uniform);
                assert!(near.contains(&got), "{got} instead of {near:?} at {uniform} with {sampling:?} over {spread}");
            }
        }
    }
}

#[test]
fn rows_are_answered_as_they_are_alone() {
    let logits: Vec<f32> = (0..5 * 100usize).map(|i| (i * 7919 % 1000) as f32 / 100.0).collect();
    let samplings = [
        Sampling::GREEDY,
        Sampling { temperature: 1.0, top_k: 0, top_p: 1.0 },
        Sampling { temperature: 0.5, top_k: 7, top_p: 1.0 },
        Sampling { temperature: 2.0, top_k: 0, top_p: 0.5 },
        Sampling::GREEDY,
    ];
    let uniform = [0.1, 0.9, 0.5, 0.3, 0.7];
    let (mut tokens, mut logp) = ([0; 5], [0.0; 5]);
    let rows = Rows { tokens: &mut tokens, logp: &mut logp, logits: (&logits[..]).into() };
    sample_rows(rows, &samplings, &uniform).unwrap();
    for row in 0..5 {
        let alone = sample((&logits[row * 100..][..100]).into(), samplings[row], uniform[row]).unwrap();
        assert_eq!((tokens[row], logp[row]), alone);
    }
    let targets = [3, 1, 4, 1, 5];
    let rows = Rows { tokens: &mut tokens, logp: &mut logp, logits: (&logits[..]).into() };
    score_rows(rows, &targets).unwrap();
    for row in 0..5 {
        let alone = score_tokens((&logits[row * 100..][..100]).into(), targets[row]).unwrap();
        assert_eq!((logp[row], tokens[row]), alone);
    }
    let rows = Rows { tokens: &mut tokens, logp: &mut logp, logits: (&logits[..499]).into() };
    assert!(matches!(score_rows(rows, &targets), Err(KernelError::ShapeMismatch { arg: "logits", .. })));
    let rows = Rows { tokens: &mut tokens, logp: &mut logp, logits: (&logits[..]).into() };
    assert!(matches!(score_rows(rows, &[100; 5]), Err(KernelError::IdOutOfRange { .. })));
}

#[test]
fn rows_of_nan_have_a_token_of_the_vocabulary() {
    for x in [[f64::NAN; 3], [f64::NAN, 1.0, 2.0], [f64::INFINITY, 1.0, f64::NAN]] {
        for temperature in [0.0, 1.0] {
            let (token, logp) = sample((&x[..]).into(), Sampling { temperature, top_k: 0, top_p: 1.0 }, 0.5).unwrap();
            assert!(token < 3 && logp.is_nan());
        }
    }
}
