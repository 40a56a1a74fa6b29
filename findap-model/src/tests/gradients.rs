//! The whole model against central differences in f64.

use findap_data::Batch;
use findap_tensor::{Arena, Dtype};
use serde_json::{Value, json};

use super::WeightedBatch;
use crate::config::Config;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::lora::{Lora, Targets};
use crate::session::{Recompute, Session, SessionOptions};
use crate::trainable::Trainable;

/// The configurations to test: tied tables, and every option of every family.
fn variants() -> Vec<Value> {
    vec![
        json!({}),
        json!({"tie_word_embeddings": true}),
        json!({"attention_bias": true, "mlp_bias": true}),
        json!({"model_type": "mistral", "sliding_window": 3}),
        json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 2, "max_window_layers": 1}),
        json!({"model_type": "qwen3", "tie_word_embeddings": true}),
        json!({"model_type": "qwen3", "attention_bias": true, "use_sliding_window": true, "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"]}),
    ]
}

/// A small model. Its vectors are random like its matrices, so that no norm or bias is neutral.
fn model(variant: &Value) -> Decoder {
    let mut config = json!({
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 37, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
        "initializer_range": 0.4, "tie_word_embeddings": false,
    });
    let config = config.as_object_mut().unwrap();
    config.extend(variant.as_object().unwrap().clone());
    let mut model = Decoder::init(Config::from_json(config.clone()).unwrap(), 5, Dtype::F64);
    let mut params = model.params.flat().to_f64_vec();
    for entry in model.params.spec().entries().iter().filter(|entry| entry.is_vector) {
        params[entry.range()].iter_mut().enumerate().for_each(|(i, x)| *x += 0.2 * (i as f64 * 1.7).sin());
    }
    model.params.flat_mut().copy_from_f64(&params);
    model
}

/// Three packed documents, one of them a single token; two tokens bear no loss.
fn batch() -> WeightedBatch {
    let ids: Vec<u32> = (0..13).map(|t| t * 11 % 37).collect();
    let mut documents = Batch::new();
    documents.push_document(&ids[..7], &[false, true, true, false, true, true, true]);
    documents.push_unmasked(&ids[7..8]);
    documents.push_unmasked(&ids[8..]);
    WeightedBatch { documents, weights: (0..13).map(|t| f64::from(t) * 0.1 - 0.55).collect() }
}

fn session(model: &Decoder, recompute: Recompute) -> Session {
    let options = SessionOptions {
        dtype: Dtype::F64,
        max_tokens: 16,
        max_positions: 16,
        recompute,
        gradients: Some(Dtype::F64),
        frozen_blocks: model.frozen_blocks(),
        lora: model.lora(),
    };
    Session::new(&model.config, options)
}

fn loss(model: &Decoder, session: &mut Session, batch: &WeightedBatch) -> f64 {
    let scored = session.forward(model, batch.tokens()).unwrap().score(&batch.documents.targets).unwrap();
    scored.into_logp().unwrap().iter().zip(&batch.weights).map(|(l, w)| l * w).sum()
}

fn gradients(model: &Decoder, recompute: Recompute, fused: bool) -> Arena {
    let (batch, mut session, mut grads) = (batch(), session(model, recompute), model.zero_gradients().unwrap());
    let pass = session.forward(model, batch.tokens()).unwrap();
    if fused {
        pass.backward(&batch.documents.targets, &batch.weights, &mut grads).unwrap();
    } else {
        pass.score(&batch.documents.targets).unwrap().backward(Some(&batch.weights), &mut grads).unwrap();
    }
    grads
}

#[test]
fn every_gradient_is_that_of_the_loss() {
    for variant in variants() {
        let mut model = model(&variant);
        let grads = gradients(&model, Recompute::None, false).flat().to_f64_vec();
        let (batch, mut session) = (batch(), session(&model, Recompute::None));
        let params = model.params.flat().to_f64_vec();
        let scale = grads.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let step = 1e-5;
        let params_spec = model.params.spec().clone();
        for i in (0..params.len()).step_by(7) {
            let mut at = |delta: f64| {
                let mut moved = params.clone();
                moved[i] += delta;
                model.params.flat_mut().copy_from_f64(&moved);
                loss(&model, &mut session, &batch)
            };
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            let name = &params_spec.entries().iter().find(|entry| entry.range().contains(&i)).unwrap().name;
            assert!((grads[i] - numeric).abs() < 1e-6 * scale, "{variant}: {name}, {i}: {} {numeric}", grads[i]);
        }
    }
}

#[test]
fn recomputing_and_fusing_change_no_bit() {
    for variant in variants() {
        let model = model(&variant);
        let kept = gradients(&model, Recompute::None, false).flat().to_f64_vec();
        for recompute in Recompute::ALL {
            for fused in [false, true] {
                let got = gradients(&model, recompute, fused).flat().to_f64_vec();
                assert_eq!(kept, got, "{variant}, {recompute:?}, fused {fused}");
            }
        }
    }
}

#[test]
fn gradients_add_up_over_calls() {
    let model = model(&json!({}));
    let (batch, mut session, mut grads) = (batch(), session(&model, Recompute::None), model.zero_gradients().unwrap());
    for _ in 0..2 {
        let pass = session.forward(&model, batch.tokens()).unwrap();
        pass.backward(&batch.documents.targets, &batch.weights, &mut grads).unwrap();
    }
    let once = gradients(&model, Recompute::None, true).flat().to_f64_vec();
    let twice = grads.flat().to_f64_vec();
    assert!(once.iter().zip(&twice).all(|(a, b)| (2.0 * a - b).abs() <= 1e-12 * (1.0 + a.abs())));
}

#[test]
fn what_is_frozen_has_no_gradient_and_the_rest_the_same() {
    let by_name = |patterns: &[&str]| Trainable::Names(patterns.iter().map(|&pattern| pattern.into()).collect());
    let selections = [
        (Trainable::LastBlocks(1), 1),
        (Trainable::LastBlocks(2), 0),
        (by_name(&["*.mlp.*"]), 0),
        (by_name(&["*layers.1.self_attn.v_proj.*", "*layers.1.input_layernorm.weight"]), 1),
        (by_name(&["model.norm.weight"]), 2),
        (by_name(&["model.embed_tokens.weight"]), 0),
    ];
    for variant in variants() {
        let mut model = model(&variant);
        let whole = gradients(&model, Recompute::None, false);
        for (selection, frozen_blocks) in &selections {
            model.train_only(selection).unwrap();
            // a tied table is part of no last block
            let what = format!("{variant}, {selection:?}");
            assert_eq!(model.frozen_blocks(), *frozen_blocks, "{what}");
            for recompute in Recompute::ALL {
                let few = gradients(&model, recompute, recompute == Recompute::Mlp);
                assert!(few.spec().len() < whole.spec().len());
                for entry in few.spec().entries() {
                    let want = whole.flat().sub(whole.spec().find(&entry.name).unwrap().range()).to_f64_vec();
                    assert_eq!(few.flat().sub(entry.range()).to_f64_vec(), want, "{what}: {}", entry.name);
                }
            }
        }
        let refused = model.train_only(&by_name(&["*.lora_a.*"])).unwrap_err().to_string();
        assert!(refused.contains("lora_a"), "{refused}");
    }
}

#[test]
fn gradients_of_other_parameters_are_refused() {
    let mut model = model(&json!({}));
    let mut all = model.zero_gradients().unwrap();
    model.train_only(&Trainable::LastBlocks(1)).unwrap();
    let (batch, mut session) = (batch(), session(&model, Recompute::None));
    let pass = session.forward(&model, batch.tokens()).unwrap();
    let refused = pass.backward(&batch.documents.targets, &batch.weights, &mut all).unwrap_err();
    assert!(matches!(refused, ModelError::Gradients { .. }), "{refused}");
}

/// The model with an adapter whose B is not zero.
fn adapted(variant: &Value, lora: Lora) -> Decoder {
    let mut model = model(variant);
    model.add_adapter(lora, 3).unwrap();
    let mut params = model.trained_params().flat().to_f64_vec();
    params.iter_mut().enumerate().for_each(|(i, x)| *x += 0.1 * (i as f64 * 1.3).sin());
    model.trained_params_mut().flat_mut().copy_from_f64(&params);
    model
}

fn loras() -> [Lora; 2] {
    let some = Targets::from_names(["v_proj", "down_proj"]).unwrap();
    [
        Lora { rank: 3, alpha: 5.0, targets: Targets::ALL, is_rank_stabilized: false },
        Lora { rank: 2, alpha: 3.0, targets: some, is_rank_stabilized: true },
    ]
}

#[test]
fn every_gradient_of_an_adapter_is_that_of_the_loss() {
    for (variant, lora) in variants().iter().zip(loras().into_iter().cycle()) {
        let mut model = adapted(variant, lora);
        let grads = gradients(&model, Recompute::None, false);
        assert_eq!(grads.spec(), model.trained_params().spec(), "the base has no gradient");
        let grads = grads.flat().to_f64_vec();
        let (batch, mut session) = (batch(), session(&model, Recompute::None));
        let params = model.trained_params().flat().to_f64_vec();
        let scale = grads.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let step = 1e-5;
        for i in 0..params.len() {
            let mut at = |delta: f64| {
                let mut moved = params.clone();
                moved[i] += delta;
                model.trained_params_mut().flat_mut().copy_from_f64(&moved);
                loss(&model, &mut session, &batch)
            };
            let numeric = (at(step) - at(-step)) / (2.0 * step);
            assert!((grads[i] - numeric).abs() < 1e-6 * scale, "{variant}, {lora:?}, {i}: {} {numeric}", grads[i]);
        }
    }
}

#[test]
fn recomputing_and_fusing_change_no_bit_of_an_adapter() {
    for variant in [json!({}), json!({"model_type": "qwen3", "attention_bias": true})] {
        for lora in loras() {
            let model = adapted(&variant, lora);
            let kept = gradients(&model, Recompute::None, false).flat().to_f64_vec();
            assert!(kept.iter().all(|g| *g != 0.0));
            for recompute in Recompute::ALL {
                for fused in [false, true] {
                    let got = gradients(&model, recompute, fused).flat().to_f64_vec();
                    assert_eq!(kept, got, "{variant}, {lora:?}, {recompute:?}, fused {fused}");
                }
            }
        }
    }
}

/// What it adds is u B^T = 0, and x + 0 = x in every format.
#[test]
fn an_adapter_that_was_not_trained_changes_no_bit() {
    for variant in variants() {
        let mut model = model(&variant);
        let batch = batch();
        let of = |model: &Decoder| loss(model, &mut session(model, Recompute::None), &batch).to_bits();
        let before = of(&model);
        model.add_adapter(loras()[0], 3).unwrap();
        assert_eq!(of(&model), before, "{variant}");
        let a = model.trained_params().flat().to_f64_vec();
        assert!(a.iter().any(|a| *a != 0.0), "A is drawn");
        assert_ne!(of(&adapted(&variant, loras()[0])), before, "a trained one does change it");
    }
}

#[test]
fn an_adapter_that_is_not_the_models_is_refused() {
    let [lora, other] = loras();
    let mut model = adapted(&json!({}), lora);
    let refused = |result: Result<(), ModelError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, ModelError::Adapter { .. }), "{error}");
    };
    refused(model.train_only(&Trainable::Adapter(other)));
    refused(model.train_only(&Trainable::All));
    refused(model.add_adapter(Lora { rank: 0, ..lora }, 1));
    model.train_only(&Trainable::Adapter(lora)).unwrap();
    let batch = batch();
    let mut without = session(&super::gradients::model(&json!({})), Recompute::None);
    refused(without.forward(&model, batch.tokens()).map(drop));
}
