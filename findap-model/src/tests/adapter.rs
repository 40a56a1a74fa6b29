//! Adapters against the numbers of PEFT, and their directories.

use std::path::{Path, PathBuf};

use findap_tensor::Dtype;
use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::golden;
use super::golden::{first_step, json, largest_difference, numbers, packed_rows, same_gradients_as, token_logps};
use crate::checkpoint::SaveOptions;
use crate::decoder::Decoder;
use crate::lora::{Lora, Targets};

/// Adapters made by PEFT: of all layers, and of queries and values with a scale by the root of the rank.
const ADAPTERS: [&str; 2] = ["lora_tiny", "lora_tiny_rs_qv"];

fn folder(name: &str) -> PathBuf {
    golden("out").join(name).join("adapter0")
}

fn tiny() -> Decoder {
    Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap()
}

fn adapted(name: &str) -> Decoder {
    let mut model = tiny();
    model.load_adapter(&folder(name)).unwrap();
    model
}

#[test]
fn the_loss_and_the_gradients_of_an_adapter_are_those_of_peft() {
    for name in ADAPTERS {
        let report = json(&format!("out/{name}/report.json"));
        let model = adapted(name);
        assert_eq!(model.trained_params().spec().len() as u64, report["trainable"].as_u64().unwrap());
        let (loss, grads) = first_step(&model, &json("data/train.json"));
        let want = report["steps"][0]["loss"].as_f64().unwrap();
        // as for all weights: f32 sums in other orders
        assert!((loss - want).abs() < 1e-6, "{name}: {loss} {want}");
        same_gradients_as(&grads, &format!("out/{name}/grads0.safetensors"), |name| {
            name.replace(".weight", ".default.weight")
        });
    }
}

#[test]
fn a_merged_adapter_computes_what_it_did_beside_the_weights() {
    for name in ADAPTERS {
        let (mut model, base) = (adapted(name), tiny());
        for documents in packed_rows() {
            let beside = token_logps(&model, Dtype::F32, &documents);
            let mut merged = model.clone();
            merged.merge_adapter().unwrap();
            assert!(merged.lora().is_none() && merged.trained_params().spec() == base.params.spec());
            let merged = token_logps(&merged, Dtype::F32, &documents);
            // PEFT's own logits differ by 2.5e-6 between the two
            assert!(largest_difference(&beside, &merged) < 1e-5);
            assert!(
                largest_difference(&beside, &token_logps(&base, Dtype::F32, &documents)) > 0.1,
                "the adapter matters"
            );
        }
        let frozen = model.params.flat().to_f64_vec();
        assert_eq!(frozen, base.params.flat().to_f64_vec(), "loading an adapter changes no weight");
        model.merge_adapter().unwrap();
        let names = model.params.spec().entries().iter().filter(|entry| {
            model.params.flat().sub(entry.range()).to_f64_vec() != base.params.flat().sub(entry.range()).to_f64_vec()
        });
        let expected = if name == "lora_tiny" { 2 * 7 } else { 2 * 2 };
        assert_eq!(names.count(), expected, "only the layers with an adapter change");
    }
}

#[test]
fn a_saved_adapter_has_the_keys_shapes_and_values_of_pefts() {
    for name in ADAPTERS {
        let (model, target) = (adapted(name), tempfile::tempdir().unwrap());
        let target = target.path().join("adapter");
        model.save_adapter(&target, Path::new("models/tiny")).unwrap();
        let files =
            [target.clone(), folder(name)].map(|at| std::fs::read(at.join("adapter_model.safetensors")).unwrap());
        let [got, want] = files.each_ref().map(|bytes| SafeTensors::deserialize(bytes).unwrap());
        let sorted = |tensors: &SafeTensors<'_>| {
            let mut names: Vec<String> = tensors.names().into_iter().map(String::from).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(&got), sorted(&want));
        for name in want.names() {
            assert_eq!(got.tensor(name).unwrap().shape(), want.tensor(name).unwrap().shape(), "{name}");
            assert_eq!(numbers(&got, name), numbers(&want, name), "{name}");
        }
        let config = |at: &Path| -> Value {
            let mut config: Value =
                serde_json::from_slice(&std::fs::read(at.join("adapter_config.json")).unwrap()).unwrap();
            let targets = config["target_modules"].as_array_mut().unwrap();
            targets.sort_by_key(Value::to_string);
            config
        };
        let (got, want) = (config(&target), config(&folder(name)));
        for (key, value) in got.as_object().unwrap() {
            assert_eq!(value, &want[key], "{key}");
        }
        let mut again = tiny();
        again.load_adapter(&target).unwrap();
        assert_eq!(again.lora(), model.lora());
        assert_eq!(again.trained_params().flat().to_f64_vec(), model.trained_params().flat().to_f64_vec());
    }
    let refused = tiny().save_adapter(Path::new("nowhere"), Path::new("base")).unwrap_err().to_string();
    assert!(refused.contains("none to be saved"), "{refused}");
}

#[test]
fn what_an_adapter_asks_for_and_is_not_supported_is_refused_by_its_key() {
    let read = |key: &str, value: Value| {
        let copy = tempfile::tempdir().unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(folder("lora_tiny").join(file), copy.path().join(file)).unwrap();
        }
        let path = copy.path().join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        let mut model = tiny();
        model.load_adapter(copy.path()).map(|()| model.lora().unwrap())
    };
    for (key, value) in [
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("layers_to_transform", json!([0])),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("fan_in_fan_out", json!(true)),
        ("target_parameters", json!(["experts.weight"])),
        ("trainable_token_indices", json!([1])),
        ("layer_replication", json!([[0, 1]])),
        ("init_lora_weights", json!("pissa")),
        ("use_qalora", json!(true)),
        ("task_type", json!("SEQ_CLS")),
        ("a_key_of_tomorrow", json!({"on": true})),
        ("peft_type", json!("IA3")),
        ("r", json!(0)),
        ("r", json!("8")),
        ("lora_alpha", json!(-1.0)),
        ("lora_alpha", json!(null)),
        ("target_modules", json!(".*_proj")),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("target_modules", json!([])),
        ("use_rslora", json!("yes")),
    ] {
        let error = read(key, value.clone()).unwrap_err().to_string();
        let names_it = error.contains(key) || (key == "lora_alpha" && error.contains("alpha"));
        assert!(names_it && error.contains("adapter_config.json"), "{key} = {value}: {error}");
    }
    for (key, value) in [
        ("lora_dropout", json!(0.1)),
        ("init_lora_weights", json!("gaussian")),
        ("revision", json!("main")),
        ("a_key_of_tomorrow", json!(null)),
        ("use_dora", json!(null)),
        ("target_modules", json!("all-linear")),
        ("lora_alpha", json!(16.0)),
    ] {
        let read = read(key, value.clone()).unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
        assert_eq!(read, Lora { rank: 8, alpha: 16.0, targets: Targets::ALL, is_rank_stabilized: false });
    }
    // the tensors no longer fit what the configuration says
    for (key, value, reason) in
        [("r", json!(4), "has shape [8,"), ("target_modules", json!(["q_proj"]), "ask for no such tensor")]
    {
        let error = read(key, value).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let error = {
        let mut model = tiny();
        model.load_adapter(&golden("models/tiny"))
    }
    .unwrap_err()
    .to_string();
    assert!(error.contains("adapter_config.json"), "{error}");
}

/// A copy of a golden adapter's directory that names this base.
fn adapter_of(name: &str, base: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder(name).join(file), copy.path().join(file)).unwrap();
    }
    set(copy.path(), "base_model_name_or_path", json!(base));
    copy
}

fn set(directory: &Path, key: &str, value: Value) {
    let path = directory.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn the_folder_of_an_adapter_is_its_base_with_the_adapter_merged() {
    let base = golden("models/tiny");
    let adapter = adapter_of("lora_tiny", &base);
    let mut want = adapted("lora_tiny");
    want.merge_adapter().unwrap();
    let model = Decoder::load(adapter.path(), Dtype::F32).unwrap();
    assert_eq!(model.params.flat().to_f64_vec(), want.params.flat().to_f64_vec());
    assert!(model.lora().is_none());
    assert_eq!(crate::text_directory(adapter.path()).unwrap(), base);
    let text = crate::TextModel::load(adapter.path(), Dtype::F32).unwrap();
    assert!(text.template().is_some(), "the chat template is the base's");

    // saved from there, it is a plain model with the base's tokenizer
    let saved = tempfile::tempdir().unwrap();
    let saved = saved.path().join("model");
    let options =
        SaveOptions { dtype: Dtype::F32, max_shard_bytes: usize::MAX, carry_from: Some(adapter.path().to_owned()) };
    model.save(&saved, &options).unwrap();
    assert!(saved.join("tokenizer.json").is_file() && !saved.join("adapter_config.json").exists());
    let again = Decoder::load(&saved, Dtype::F32).unwrap();
    assert_eq!(again.params.flat().to_f64_vec(), model.params.flat().to_f64_vec());

    let fingerprint = |path: &Path| crate::fingerprint(path).unwrap();
    let before = fingerprint(adapter.path());
    assert_ne!(before, fingerprint(&base));
    set(adapter.path(), "lora_alpha", json!(17));
    assert_ne!(before, fingerprint(adapter.path()));
}

#[test]
fn an_adapter_that_leads_to_no_model_or_to_another_text_is_refused() {
    let base = golden("models/tiny");
    let refused = |name: &str, adapter: &Path, reason: &str| {
        let messages = [
            Decoder::load(adapter, Dtype::F32).unwrap_err(),
            crate::Config::load(adapter).unwrap_err(),
            crate::fingerprint(adapter).unwrap_err(),
        ];
        for message in messages.map(|error| error.to_string()) {
            assert!(message.contains(reason), "{name}: {message}");
        }
    };
    for (name, reason) in [("meta-llama/Llama-3.2-1B", "no folder here"), ("", "names no `base_model_name_or_path`")] {
        refused(name, adapter_of("lora_tiny", Path::new(name)).path(), reason);
    }
    let of_adapter = adapter_of("lora_tiny_rs_qv", adapter_of("lora_tiny", &base).path());
    refused("a base that is gone", of_adapter.path(), "no folder here");
    let first = adapter_of("lora_tiny", &base);
    refused("an adapter of an adapter", adapter_of("lora_tiny", first.path()).path(), "an adapter itself");

    let with_model = adapter_of("lora_tiny", &base);
    std::fs::copy(base.join("model.safetensors"), with_model.path().join("model.safetensors")).unwrap();
    refused("a model beside it", with_model.path(), "both a model and a LoRA");

    let with_text = adapter_of("lora_tiny", &base);
    let tokenizer = std::fs::read(base.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    tokenizer["padding"] = json!({"strategy": "BatchLongest"});
    let write = |file: &str, text: &str| std::fs::write(with_text.path().join(file), text).unwrap();
    write("tokenizer.json", &tokenizer.to_string());
    write("chat_template.jinja", &std::fs::read_to_string(base.join("chat_template.jinja")).unwrap());
    Decoder::load(with_text.path(), Dtype::F32).expect("the same tokenizer and template");
    write("chat_template.jinja", "{{ messages }}");
    refused("another template", with_text.path(), "another chat template than its base");
    std::fs::remove_file(with_text.path().join("chat_template.jinja")).unwrap();
    tokenizer["added_tokens"] = json!([]);
    write("tokenizer.json", &tokenizer.to_string());
    refused("another tokenizer", with_text.path(), "another tokenizer.json than its base");

    let pickled = adapter_of("lora_tiny", &base);
    std::fs::rename(pickled.path().join("adapter_model.safetensors"), pickled.path().join("adapter_model.bin"))
        .unwrap();
    let message = Decoder::load(pickled.path(), Dtype::F32).unwrap_err().to_string();
    assert!(message.contains("adapter_model.bin"), "{message}");
}
