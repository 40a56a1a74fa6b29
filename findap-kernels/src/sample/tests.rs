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
    let (logp, best) = rate((&logits[..]).into(), 2).unwrap();
    assert_eq!(best, 0);
    assert!((logp - 0.25f64.ln()).abs() < 1e-13);
    assert!(matches!(rate((&logits[..]).into(), 4), Err(KernelError::IdOutOfRange { .. })));
}
