//! The whole model against central differences in f64.

use findap_tensor::{Arena, Dtype};

use crate::config::Config;
use crate::llama::Llama;
use crate::session::{Recompute, Session, SessionOptions, Tokens};

const IGNORE: u32 = u32::MAX;

fn model(tied: bool) -> Llama {
    let config = serde_json::json!({
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 37, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
        "initializer_range": 0.4, "tie_word_embeddings": tied,
    });
    let serde_json::Value::Object(config) = config else { unreachable!("an object was written") };
    Llama::init(Config::from_json(config).unwrap(), 5, Dtype::F64)
}

struct Batch {
    ids: Vec<u32>,
    positions: Vec<u32>,
    cu_seqlens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f64>,
}

/// Three packed documents, one of them a single token.
fn batch() -> Batch {
    let cu_seqlens = vec![0, 7, 8, 13];
    let ids: Vec<u32> = (0..13).map(|t| t * 11 % 37).collect();
    let positions = (0..7).chain(0..1).chain(0..5).collect();
    let targets = (0..13).map(|t| if [2, 6, 7, 12].contains(&t) { IGNORE } else { (t * 5 + 3) % 37 }).collect();
    let weights = (0..13).map(|t| f64::from(t) * 0.1 - 0.55).collect();
    Batch { ids, positions, cu_seqlens, targets, weights }
}

impl Batch {
    fn tokens(&self) -> Tokens<'_> {
        Tokens { ids: &self.ids, positions: &self.positions, cu_seqlens: &self.cu_seqlens }
    }
}

fn session(model: &Llama, recompute: Recompute) -> Session {
    let options =
        SessionOptions { dtype: Dtype::F64, max_tokens: 16, max_positions: 16, recompute, gradients: Some(Dtype::F64) };
    Session::new(&model.config, options)
}

fn loss(model: &Llama, session: &mut Session, batch: &Batch) -> f64 {
    session.forward(model, batch.tokens()).unwrap();
    session.logp(model, &batch.targets).unwrap().iter().zip(&batch.weights).map(|(l, w)| l * w).sum()
}

fn gradients(model: &Llama, recompute: Recompute, fused: bool) -> Arena {
    let (batch, mut session, mut grads) = (batch(), session(model, recompute), model.zero_gradients().unwrap());
    if fused {
        session.forward_backward(model, batch.tokens(), &batch.targets, &batch.weights, &mut grads).unwrap();
    } else {
        loss(model, &mut session, &batch);
        session.backward(model, batch.tokens(), &batch.targets, Some(&batch.weights), &mut grads).unwrap();
    }
    grads
}

#[test]
fn every_gradient_is_that_of_the_loss() {
    for tied in [false, true] {
        let mut model = model(tied);
        let grads = gradients(&model, Recompute::None, false).flat().to_f64_vec();
        let (batch, mut session) = (batch(), session(&model, Recompute::None));
        let params = model.params.flat().to_f64_vec();
        let scale = grads.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let step = 1e-5;
        for i in (0..params.len()).step_by(7) {
            let mut at = |delta: f64| {
                let mut moved = params.clone();
                moved[i] += delta;
                model.params.flat_mut().copy_from_f64(&moved);
                loss(&model, &mut session, &batch)
            };
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            assert!((grads[i] - numeric).abs() < 1e-6 * scale, "tied {tied}, parameter {i}: {} {numeric}", grads[i]);
        }
    }
}

#[test]
fn recomputing_and_fusing_change_no_bit() {
    let model = model(true);
    let kept = gradients(&model, Recompute::None, false).flat().to_f64_vec();
    assert_eq!(kept, gradients(&model, Recompute::Mlp, false).flat().to_f64_vec());
    assert_eq!(kept, gradients(&model, Recompute::Block, false).flat().to_f64_vec());
    assert_eq!(kept, gradients(&model, Recompute::Block, true).flat().to_f64_vec());
    assert_eq!(kept, gradients(&model, Recompute::None, true).flat().to_f64_vec());
}

#[test]
fn gradients_add_up_over_calls() {
    let model = model(false);
    let (batch, mut session, mut grads) = (batch(), session(&model, Recompute::None), model.zero_gradients().unwrap());
    for _ in 0..2 {
        session.forward_backward(&model, batch.tokens(), &batch.targets, &batch.weights, &mut grads).unwrap();
    }
    let once = gradients(&model, Recompute::None, true).flat().to_f64_vec();
    let twice = grads.flat().to_f64_vec();
    assert!(once.iter().zip(&twice).all(|(a, b)| (2.0 * a - b).abs() <= 1e-12 * (1.0 + a.abs())));
}
