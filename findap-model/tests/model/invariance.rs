//! Results do not depend on other documents, later tokens, or the format that keeps the weights; and preferences agree with an
//! independent implementation.

use findap_data::Batch;
use findap_model::session::{SessionOptions, memory_bytes};
use findap_model::{Arena, Decoder, DeviceKind, Lora, Recompute, Scored, Session, Targets};
use findap_tensor::Dtype;
use serde_json::Value;

use crate::support::{golden, golden_json, golden_tensors, ids, max_difference};

/// A model and a session in one activation dtype.
struct Scorer {
    model: Decoder,
    session: Session,
}

impl Scorer {
    fn new(model: Decoder, dtype: Dtype) -> Scorer {
        let session = Session::new(
            &model.config,
            SessionOptions {
                dtype,
                max_tokens: 512,
                max_positions: 512,
                recompute: Recompute::None,
                gradients: Some(if dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }),
                frozen_blocks: 0,
                lora: None,
            },
        );
        Scorer { model, session }
    }

    fn load(name: &str, dtype: Dtype) -> Scorer {
        let model =
            Decoder::load(&golden(&format!("models/{name}")), dtype).unwrap_or_else(|error| panic!("{name}: {error}"));
        Scorer::new(model, dtype)
    }

    /// Log-probability of the next token at each position; 0 at the last of a document.
    fn logp(&mut self, documents: &[Vec<u32>]) -> Vec<f64> {
        let mut batch = Batch::new();
        documents.iter().for_each(|document| batch.push_unmasked(document));
        let pass = self.session.forward(&self.model, (&batch).into()).expect("forward");
        pass.score(&batch.targets).and_then(Scored::into_logp).expect("logp").to_vec()
    }
}

/// The packed rows of the golden file.
fn packed_rows() -> Vec<Vec<Vec<u32>>> {
    let rows = golden_json("data/tokens.json")["packed"].take();
    let documents = |row: &Value| row["docs"].as_array().unwrap().iter().map(ids).collect();
    rows.as_array().unwrap().iter().map(documents).collect()
}

/// `loss[t]` of the golden files is the loss of token t given its document; ours is that of token t + 1.
fn losses_by_token(logp: &[f64]) -> Vec<f64> {
    std::iter::once(0.0).chain(logp[..logp.len() - 1].iter().map(|logp| -logp)).collect()
}

fn check_losses(scorer: &mut Scorer, file: &str, dtype: &str, tolerance: f64) {
    let expected = golden_tensors(&format!("out/{file}.safetensors"));
    for (i, row) in packed_rows().iter().enumerate() {
        let losses = losses_by_token(&scorer.logp(row));
        let difference = max_difference(&losses, &expected[&format!("packed{i}.loss.{dtype}")]);
        assert!(difference < tolerance, "{file} packed{i} {dtype}: off by {difference:e}");
    }
}

// Two f32 implementations that sum in different orders: the peers' own two differ by 2.4e-6 in a logit.
const F32_TOLERANCE: f64 = 1e-5;

#[test]
fn weights_kept_in_bf16_give_the_same_numbers_as_widened_ones() {
    let model = Decoder::load(&golden("models/tiny_tied_bf16_sharded"), Dtype::Bf16).unwrap();
    let mut scorer = Scorer::new(model, Dtype::F32);
    check_losses(&mut scorer, "logits_tiny_tied_bf16_sharded", "f32", F32_TOLERANCE);
}

#[test]
fn another_document_does_not_change_a_bit() {
    let mut scorer = Scorer::load("tiny", Dtype::F32);
    let row = packed_rows().swap_remove(2);
    let before = scorer.logp(&row);
    let mut changed = row.clone();
    changed[1].iter_mut().for_each(|id| *id = (*id + 7) % 2000);
    let after = scorer.logp(&changed);
    let (start, end) = (row[0].len(), row[0].len() + row[1].len());
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&before[..start]), bits(&after[..start]));
    assert_eq!(bits(&before[end..]), bits(&after[end..]));
    assert_ne!(bits(&before[start..end]), bits(&after[start..end]));
}

#[test]
fn future_tokens_do_not_change_the_past() {
    let mut scorer = Scorer::load("tiny", Dtype::F32);
    let mut document = packed_rows().swap_remove(2).swap_remove(0);
    let before = scorer.logp(std::slice::from_ref(&document));
    *document.last_mut().unwrap() ^= 1;
    let after = scorer.logp(&[document]);
    // The changed token is also the target of the position before it.
    let unchanged = before.len() - 2;
    assert_eq!(before[..unchanged], after[..unchanged]);
}

/// The largest difference of any gradient, over the largest gradient.
fn relative_difference(gradients: &Arena, expected: &std::collections::BTreeMap<String, Vec<f64>>) -> f64 {
    let flat = gradients.flat().to_f64_vec();
    let (mut difference, mut largest) = (0.0_f64, 0.0_f64);
    for entry in gradients.spec().entries() {
        let expected = &expected[&entry.name];
        difference = difference.max(max_difference(&flat[entry.range()], expected));
        largest = expected.iter().fold(largest, |largest, value| largest.max(value.abs()));
    }
    difference / largest
}

#[test]
fn preference_log_probabilities_and_gradients_agree() {
    let report = golden_json("out/dpo_tiny/report.json");
    let pairs = golden_json("data/pairs.json");
    let policy = Decoder::load(&golden("out/dpo_tiny/policy"), Dtype::F32).unwrap();
    let mut policy = Scorer::new(policy, Dtype::F32);
    let mut reference = Scorer::load("tiny", Dtype::F32);
    let beta = report["beta"].as_f64().unwrap();
    let mut gradients = policy.model.zero_gradients().unwrap();
    let num_pairs = pairs.as_array().unwrap().len() as f64;
    let chosen_tokens: f64 =
        report["pairs"].as_array().unwrap().iter().map(|pair| pair["chosen_tokens"].as_f64().unwrap()).sum();
    for (pair, expected) in pairs.as_array().unwrap().iter().zip(report["pairs"].as_array().unwrap()) {
        let prompt = ids(&pair["prompt_ids"]);
        let mut batch = Batch::new();
        for key in ["chosen_ids", "rejected_ids"] {
            let document = [prompt.clone(), ids(&pair[key])].concat();
            let is_answer: Vec<bool> = (0..document.len()).map(|t| t >= prompt.len()).collect();
            batch.push_document(&document, &is_answer);
        }
        let border = batch.document(0).end;
        let sums = |scorer: &mut Scorer| {
            let pass = scorer.session.forward(&scorer.model, (&batch).into()).unwrap();
            let logp = pass.score(&batch.targets).unwrap().into_logp().unwrap();
            [logp[..border].iter().sum::<f64>(), logp[border..].iter().sum::<f64>()]
        };
        let (by_reference, by_policy) = (sums(&mut reference), sums(&mut policy));
        for (got, key) in by_policy.iter().chain(&by_reference).zip([
            "chosen_logp",
            "rejected_logp",
            "ref_chosen_logp",
            "ref_rejected_logp",
        ]) {
            let want = expected[key].as_f64().unwrap();
            // Sums of some 30 terms in f32 near 300, where one unit in the last place is 3e-5.
            assert!((got - want).abs() < 3e-4, "{key}: {got} {want}");
        }
        let margin = beta * (by_policy[0] - by_reference[0] - by_policy[1] + by_reference[1]);
        let pull = -beta / (1.0 + margin.exp()) / num_pairs;
        let weights: Vec<f64> =
            (0..batch.num_tokens()).map(|t| if t < border { pull - 1.0 / chosen_tokens } else { -pull }).collect();
        let pass = policy.session.forward(&policy.model, (&batch).into()).unwrap();
        pass.score(&batch.targets).unwrap().backward(Some(&weights), &mut gradients).unwrap();
    }
    let difference = relative_difference(&gradients, &golden_tensors("out/dpo_tiny/grads.safetensors"));
    assert!(difference < 1e-5, "{difference:e}");
}

#[test]
fn memory_is_known_before_a_session_is_built() {
    let cases = [
        ("tiny", Recompute::None, true),
        ("tiny", Recompute::Mlp, true),
        ("tiny_v4", Recompute::Block, true),
        ("tiny_v4", Recompute::None, false),
    ];
    let cases = cases.into_iter().flat_map(|case| [(case, Dtype::F32), (case, Dtype::Bf16)]);
    for ((name, recompute, needs_backward), dtype) in cases {
        let config = findap_model::Config::load(&golden(&format!("models/{name}"))).expect("config");
        let lora = Lora { rank: 4, alpha: 8.0, targets: Targets::ALL, is_rank_stabilized: false };
        let gradients = needs_backward.then_some(Dtype::F32);
        let options = SessionOptions {
            dtype,
            max_tokens: 96,
            max_positions: 64,
            recompute,
            gradients,
            frozen_blocks: 0,
            lora: (recompute == Recompute::Mlp).then_some(lora),
        };
        assert_eq!(memory_bytes(DeviceKind::Cpu, &config, options), Session::new(&config, options).memory(), "{name}");
    }
}
