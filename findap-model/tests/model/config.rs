//! `config.json`: both spellings, and values that no model can have.

use std::fs;

use findap_model::{Config, Decoder};
use findap_tensor::Dtype;
use serde_json::{Value, json};

use crate::support::{copy_of, edit_config, golden, golden_json};

/// A folder with an edited config must be refused, naming `culprit`.
fn refused(case: &str, culprit: &str, edit: impl FnOnce(&mut Value)) {
    let folder = copy_of("tiny_v4");
    edit_config(folder.path(), edit);
    let Err(error) = Decoder::load(folder.path(), Dtype::F32) else { panic!("{case}: loaded") };
    let message = error.to_string();
    assert!(message.contains(culprit), "{case}: the message does not name {culprit:?}: {message}");
}

#[test]
fn impossible_values_are_refused_by_key() {
    let cases: &[(&str, Value)] = &[
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!(64.5)),
        ("hidden_size", json!("64")),
        ("hidden_size", json!(u64::MAX)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(1_u64 << 40)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("intermediate_size", json!(0)),
        ("intermediate_size", json!(1_u64 << 62)),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(1_u64 << 40)),
        ("max_position_embeddings", json!(0)),
        ("max_position_embeddings", json!(u64::MAX)),
        ("head_dim", json!(0)),
        ("head_dim", json!(15)),
        ("head_dim", json!(1_u64 << 40)),
        ("rms_norm_eps", json!(-1e-5)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(0.0)),
        ("rope_theta", json!(-1.0)),
        ("rope_theta", json!("NaN")),
        ("hidden_act", json!("gelu")),
        ("model_type", json!("mamba")),
        ("attention_bias", json!("yes")),
        ("mlp_bias", json!(1)),
        ("model_type", json!("mixtral")),
        ("model_type", json!("gemma2")),
        ("model_type", json!(["llama"])),
        ("num_local_experts", json!(8)),
        ("vision_config", json!({})),
        ("final_logit_softcapping", json!(30.0)),
        ("quantization_config", json!({"bits": 4})),
        ("partial_rotary_factor", json!(0.5)),
        ("tie_word_embeddings", json!("no")),
        ("eos_token_id", json!("stop")),
        ("eos_token_id", json!([1_u64 << 40])),
        ("eos_token_id", json!(4096)),
        ("bos_token_id", json!(4096)),
    ];
    for (key, value) in cases {
        refused(&format!("{key} = {value}"), key, |config| config[*key] = value.clone());
    }
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"] {
        refused(&format!("no {key}"), key, |config| drop(config.as_object_mut().unwrap().remove(key)));
    }
}

#[test]
fn two_spellings_of_rope_agree_or_are_refused() {
    let with_both = |edit: fn(&mut Value)| {
        move |config: &mut Value| {
            let mut parameters = config["rope_scaling"].clone();
            parameters["rope_theta"] = config["rope_theta"].clone();
            edit(&mut parameters);
            config["rope_parameters"] = parameters;
        }
    };
    refused("another scaling", "rope_parameters", with_both(|rope| rope["factor"] = json!(9.0)));
    refused("no scaling", "rope_parameters", with_both(|rope| *rope = json!({"rope_type": "default"})));
    refused("another base", "rope_parameters", with_both(|rope| rope["rope_theta"] = json!(1.0)));
    let folder = copy_of("tiny_v4");
    edit_config(folder.path(), with_both(|_| {}));
    Config::load(folder.path()).expect("both say the same");
    let by_block = json!({"full_attention": {"rope_type": "default", "rope_theta": 1e4}});
    refused("one for each kind of block", "full_attention", |config| {
        config["rope_scaling"] = Value::Null;
        config["rope_parameters"] = by_block;
    });
}

#[test]
fn models_that_do_not_predict_tokens_are_refused() {
    for classes in [json!(["LlamaForSequenceClassification"]), json!(["LlamaModel"]), json!([3])] {
        refused("another head", "architectures", |config| config["architectures"] = classes);
    }
}

#[test]
fn impossible_rope_scalings_are_refused() {
    refused("unknown type", "yarn", |config| config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 8.0}));
    refused("no type", "rope_type", |config| config["rope_scaling"] = json!({"factor": 8.0}));
    refused("a number", "rope_scaling", |config| config["rope_scaling"] = json!(8));
    for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        refused(key, key, |config| drop(config["rope_scaling"].as_object_mut().unwrap().remove(key)));
    }
    refused("factor 0", "factor", |config| config["rope_scaling"]["factor"] = json!(0));
    refused("equal factors", "high_freq_factor", |config| config["rope_scaling"]["high_freq_factor"] = json!(1.0));
}

#[test]
fn files_that_are_no_config_are_refused_by_name() {
    for (case, text) in [
        ("empty", String::new()),
        ("cut", "{\"hidden_size\": ".into()),
        ("list", "[]".into()),
        ("deep", "[".repeat(100_000)),
    ] {
        let folder = copy_of("tiny");
        fs::write(folder.path().join("config.json"), text).unwrap();
        let Err(error) = Decoder::load(folder.path(), Dtype::F32) else { panic!("{case}: loaded") };
        assert!(error.to_string().contains("config.json"), "{case}: {error}");
    }
    let folder = copy_of("tiny");
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let Err(error) = Decoder::load(folder.path(), Dtype::F32) else { panic!("loaded") };
    assert!(error.to_string().contains("config.json"), "{error}");
}

#[test]
fn both_spellings_give_the_same_model() {
    let folder = copy_of("tiny_v4");
    fs::copy(golden("models/tiny/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let old = Decoder::load(folder.path(), Dtype::F32).unwrap();
    let new = Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap();
    assert_eq!(old.config.inverse_frequencies(), new.config.inverse_frequencies());
    assert_eq!(old.params.flat().to_f64_vec(), new.params.flat().to_f64_vec());

    edit_config(folder.path(), |config| {
        let scaling = config["rope_scaling"].as_object_mut().unwrap();
        let name = scaling.remove("rope_type").unwrap();
        scaling.insert("type".into(), name);
    });
    let oldest = Decoder::load(folder.path(), Dtype::F32).unwrap();
    assert_eq!(oldest.config.inverse_frequencies(), new.config.inverse_frequencies());
}

#[test]
fn unknown_keys_survive_a_round_trip() {
    let mut written = golden_json("models/tiny/config.json");
    written["a_key_of_tomorrow"] = json!({"kept": [1, 2.5, "three"]});
    let read = Value::Object(Config::from_json(written.as_object().unwrap().clone()).unwrap().to_json("float32"));
    assert_eq!(read["a_key_of_tomorrow"], written["a_key_of_tomorrow"]);
    assert_eq!(read["rope_theta"], json!(500000.0), "the old spelling is written");
    assert_eq!(read["rope_scaling"]["rope_type"], json!("llama3"));
    assert!(read.get("rope_parameters").is_none() && read.get("dtype").is_none());
}
