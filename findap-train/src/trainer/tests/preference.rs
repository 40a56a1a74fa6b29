//! Losses of pairs against torch and TRL, on the golden pairs.

use super::*;
use crate::run::references::reference_logprobs;

/// The objective with the references of these rows, where it has any.
pub(super) fn objective_of(preference: Preference, rows: &[Value], reference: &Decoder) -> Objective {
    let loss = Loss::Preference(preference);
    if !loss.has_reference() {
        return loss.into();
    }
    let loader = first_step(rows, Kind::Preference, 6, 6);
    let references = reference_logprobs(reference, &loader, "s", &AtomicBool::new(false), &mut |_: Event| {});
    Objective { references: references.unwrap().expect("nobody stops it"), ..loss.into() }
}

pub(super) fn dpo(nll_mean: NllMean, nll_weight: f64) -> Preference {
    Preference { pair_loss: PairLoss::Dpo { label_smoothing: 0.0 }, beta: 0.1, nll_weight, nll_mean }
}

fn policy() -> Decoder {
    Decoder::load(&golden("out/dpo_tiny/policy"), Dtype::F32).unwrap()
}

#[test]
fn alignment_is_the_references() {
    let report = json("out/dpo_tiny/report.json");
    let policy = policy();
    for (nll_mean, nll, total) in
        [(NllMean::Token, "nll_token_mean", "total_token"), (NllMean::Pair, "nll_pair_mean", "total_pair")]
    {
        for micro in [6, 2] {
            let objective = objective_of(dpo(nll_mean, 1.0), &pairs(), &tiny());
            let (grads, sums) = first_gradients((pairs(), Kind::Preference), 6, micro, &policy, objective);
            assert_relative(sums.terms.pair_loss, report["dpo_loss"].as_f64().unwrap(), 1e-5, "dpo loss");
            assert_relative(sums.terms.nll_loss, report[nll].as_f64().unwrap(), 1e-5, nll);
            assert_relative(sums.loss, report[total].as_f64().unwrap(), 1e-5, total);
            assert_relative(sums.terms.reward_accuracy, report["reward_accuracy"].as_f64().unwrap(), 1e-12, "accuracy");
            if nll_mean == NllMean::Token {
                assert_relative(sums.norm(), report["grad_norm"].as_f64().unwrap(), 1e-5, "norm");
                assert_gradients(&grads, &reference_tensors("out/dpo_tiny/grads.safetensors").params, 1e-5);
            }
        }
    }
}

/// The loss of a golden case.
fn preference_of(case: &Value) -> Preference {
    let number = |key: &str| case.get(key).map_or(0.0, |value| value.as_f64().unwrap());
    let label_smoothing = number("label_smoothing");
    let pair_loss = match case["loss"].as_str().unwrap() {
        "dpo" => PairLoss::Dpo { label_smoothing },
        "robust" => PairLoss::Robust { label_smoothing },
        "hinge" => PairLoss::Hinge,
        "ipo" => PairLoss::Ipo,
        "simpo" => PairLoss::Simpo { gamma: number("gamma"), label_smoothing },
        "orpo" => PairLoss::Orpo,
        other => panic!("unknown loss {other}"),
    };
    Preference { pair_loss, beta: number("beta"), nll_weight: number("nll_weight"), nll_mean: NllMean::Token }
}

#[test]
fn every_loss_of_pairs_has_the_numbers_of_torch_and_trl() {
    let report = json("out/preference_tiny.json");
    let policy = policy();
    for case in report["cases"].as_array().unwrap() {
        let number = |key: &str| case[key].as_f64().unwrap();
        let preference = preference_of(case);
        assert_eq!(Loss::Preference(preference).name(), case["loss"]);
        let objective = objective_of(preference, &pairs(), &tiny());
        let (grads, sums) = first_gradients((pairs(), Kind::Preference), 6, 3, &policy, objective);
        let terms = sums.terms;
        let (beta, what) = (preference.beta, format!("{preference:?}"));
        // a margin is beta times a difference of sums of some 40 log-probabilities near -8, each rounded to f32 by both sides
        assert_relative(sums.loss, number("total"), 5e-5, &format!("loss of {what}"));
        assert_relative(terms.nll_loss, number("nll_loss"), 1e-5, &format!("likelihood of {what}"));
        assert_relative(terms.logp_chosen, number("logp_chosen"), 1e-5, &format!("log-probability of {what}"));
        assert_relative(terms.logp_rejected, number("logp_rejected"), 1e-5, &format!("log-probability of {what}"));
        assert_relative(terms.reward_accuracy, number("reward_accuracy"), 1e-8, &format!("accuracy of {what}"));
        let rewards = [
            ("reward_chosen", terms.reward_chosen),
            ("reward_rejected", terms.reward_rejected),
            ("reward_margin", terms.reward_margin),
        ];
        for (key, reward) in rewards {
            assert!((reward - number(key)).abs() < 2e-4 * beta, "{key} of {what}: {reward} against {}", number(key));
        }
        assert_relative(sums.norm(), number("grad_norm"), 2e-5, &format!("norm of {what}"));
        for entry in grads.spec().entries() {
            let gradient = grads.flat().sub(entry.range()).to_f64_vec();
            let norm = gradient.iter().map(|x| x * x).sum::<f64>().sqrt();
            let projection: f64 = gradient.iter().enumerate().map(|(i, x)| x * (i as f64).cos()).sum();
            let want = &case["grads"][&entry.name];
            for (got, want) in [(norm, &want[0]), (projection, &want[1])] {
                let want = want.as_f64().unwrap();
                assert!((got - want).abs() < 5e-5 * norm, "{} of {what}: {got} against {want}", entry.name);
            }
        }
    }
}

#[test]
fn a_policy_that_is_its_reference_has_loss_ln_2() {
    let objective = objective_of(dpo(NllMean::Pair, 0.0), &pairs(), &tiny());
    let (.., sums) = first_gradients((pairs(), Kind::Preference), 6, 1, &tiny(), objective);
    assert!((sums.loss - std::f64::consts::LN_2).abs() < 1e-15, "{}", sums.loss);
}
