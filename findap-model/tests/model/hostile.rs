//! Hostile and odd model folders: each gives a typed error that names the file or the tensor, or loads; none panics,
//! hangs, allocates beyond the file, or opens anything outside the folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use findap_model::Decoder;
use findap_tensor::Dtype;
use serde_json::{Value, json};

use crate::support::{
    copy_of, edit_config, edit_json, golden, read_tensors, safetensors_bytes, small_header, split_safetensors,
};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const EMBEDDING: &str = "model.embed_tokens.weight";
const QUERY: &str = "model.layers.0.self_attn.q_proj.weight";

/// Loads a folder that must be refused; the message must name `culprit`.
fn refused(case: &str, folder: &Path, culprit: &str) {
    let Err(error) = Decoder::load(folder, Dtype::F32) else { panic!("{case}: loaded") };
    let message = error.to_string();
    assert!(message.contains(culprit), "{case}: the message does not name {culprit:?}: {message}");
    assert!(message.len() < 2000, "{case}: the message is {} bytes long", message.len());
}

/// A tiny model whose weights file is replaced.
fn weights_refused(case: &str, bytes: &[u8], culprit: &str) {
    let folder = copy_of("tiny");
    fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    refused(case, folder.path(), culprit);
}

#[test]
fn broken_containers_are_refused_by_file_name() {
    let small = small_header().to_string();
    let entry = |shape: Value, offsets: Value| {
        json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).to_string()
    };
    let two = |first: Value, second: Value| {
        json!({
            "a": {"dtype": "F32", "shape": [2], "data_offsets": first},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": second},
        })
        .to_string()
    };
    let deep = "[".repeat(100_000);
    let with_length = |len: u64| [len.to_le_bytes().as_slice(), small.as_bytes(), &[0; 8]].concat();
    let bytes = |header: &str, data: usize| safetensors_bytes(header.as_bytes(), &vec![0; data]);
    let overflow = entry(json!([4194305, 4194305, 211106198978564_u64]), json!([0, 16]));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an empty file", vec![]),
        ("seven bytes", vec![0; 7]),
        ("a length and nothing else", 8u64.to_le_bytes().to_vec()),
        ("header length 2^64 - 1", with_length(u64::MAX)),
        ("header length 2^63", with_length(1 << 63)),
        ("header length 100 MB + 1", with_length(100_000_001)),
        ("header length past the end", with_length(small.len() as u64 + 9)),
        ("header length zero", with_length(0)),
        ("header that is not UTF-8", safetensors_bytes(b"{\"\xff\xfe\": 1}", &[])),
        ("header that is not JSON", bytes("{nonsense", 0)),
        ("header that is a list", bytes("[]", 0)),
        ("header 100 000 levels deep", bytes(&deep, 0)),
        ("overlapping tensors", bytes(&two(json!([0, 8]), json!([4, 12])), 12)),
        ("a hole between tensors", bytes(&two(json!([0, 8]), json!([12, 20])), 20)),
        ("a hole before the first tensor", bytes(&entry(json!([2]), json!([4, 12])), 12)),
        ("reversed offsets", bytes(&entry(json!([2]), json!([8, 0])), 8)),
        ("negative offsets", bytes(&entry(json!([2]), json!([-8, 0])), 8)),
        ("offsets 2^64 - 1", bytes(&entry(json!([2]), json!([0, u64::MAX])), 8)),
        ("shape whose product overflows", bytes(&overflow, 16)),
        ("shape larger than its bytes", bytes(&entry(json!([4]), json!([0, 8])), 8)),
        ("shape smaller than its bytes", bytes(&entry(json!([1]), json!([0, 8])), 8)),
        ("negative shape", bytes(&entry(json!([-2]), json!([0, 8])), 8)),
        ("fractional shape", bytes(&entry(json!([0.5]), json!([0, 8])), 8)),
        ("unknown dtype", bytes(&small.replace("F32", "F31"), 8)),
        ("one offset", bytes(&entry(json!([2]), json!([8])), 8)),
        ("data cut short", bytes(&small, 7)),
        ("trailing bytes", bytes(&small, 9)),
        ("metadata that is not text", bytes(&small.replacen('{', r#"{"__metadata__":{"a":1},"#, 1), 8)),
    ];
    for (case, bytes) in cases {
        weights_refused(case, &bytes, WEIGHTS);
    }
}

#[test]
fn a_hundred_thousand_empty_tensors_are_refused_quickly() {
    let tensors: serde_json::Map<String, Value> = (0..100_000)
        .map(|i| (format!("t{i}"), json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})))
        .collect();
    let start = std::time::Instant::now();
    weights_refused("many tensors", &safetensors_bytes(Value::Object(tensors).to_string().as_bytes(), &[]), EMBEDDING);
    assert!(start.elapsed().as_secs() < 10, "took {:?}", start.elapsed());
}

/// The tiny model's weights with the header edited and the data kept.
fn with_header(edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let (mut header, data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
    edit(header.as_object_mut().unwrap());
    safetensors_bytes(header.to_string().as_bytes(), &data)
}

/// The tiny model's weights and a vector more, in f32.
fn with_tensor(name: &str, numbers: &[f32]) -> Vec<u8> {
    let (mut header, mut data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
    let offsets = [data.len(), data.len() + 4 * numbers.len()];
    header[name] = json!({"dtype": "F32", "shape": [numbers.len()], "data_offsets": offsets});
    data.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
    safetensors_bytes(header.to_string().as_bytes(), &data)
}

#[test]
fn tensors_that_the_model_has_no_place_for_are_refused_by_name() {
    for (name, why) in [
        ("model.layers.0.self_attn.q_proj.bias", "attention_bias"),
        ("model.layers.0.self_attn.q_norm.weight", "Qwen 3"),
        ("model.layers.9.input_layernorm.weight", "asks for no such tensor"),
        ("score.weight", "asks for no such tensor"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "experts"),
        ("model.layers.0.mlp.up_proj.qweight", "quantised"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "merge_and_unload"),
    ] {
        let bytes = with_tensor(name, &[1.0]);
        weights_refused(name, &bytes, name);
        weights_refused(name, &bytes, why);
    }
    let (header, data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
    let without_prefix = header.to_string().replace("\"model.", "\"");
    weights_refused(
        "names without prefix",
        &safetensors_bytes(without_prefix.as_bytes(), &data),
        "`embed_tokens.weight`",
    );
}

#[test]
fn a_stored_head_is_the_embedding_it_is_tied_to_or_refused() {
    let tied = |edit: fn(&mut [u8])| {
        let folder = copy_of("tiny");
        edit_config(folder.path(), |config| config["tie_word_embeddings"] = json!(true));
        let (header, mut data) = split_safetensors(&fs::read(folder.path().join(WEIGHTS)).unwrap());
        let range = |name: &str| {
            let offset = |i: usize| header[name]["data_offsets"][i].as_u64().unwrap() as usize;
            offset(0)..offset(1)
        };
        data.copy_within(range(EMBEDDING), range("lm_head.weight").start);
        edit(&mut data[range("lm_head.weight")]);
        fs::write(folder.path().join(WEIGHTS), safetensors_bytes(header.to_string().as_bytes(), &data)).unwrap();
        folder
    };
    let equal = tied(|_| {});
    Decoder::load(equal.path(), Dtype::F32).expect("the head is the embedding");
    let other = tied(|head| *head.last_mut().unwrap() ^= 1);
    refused("another head", other.path(), "lm_head.weight");
    refused("another head", other.path(), "tie_word_embeddings");
}

#[test]
fn folders_that_hold_something_else_are_called_by_its_name() {
    let holding = |files: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "{}").unwrap();
        }
        folder
    };
    for (files, name) in [
        (&["adapter_config.json", "adapter_model.safetensors"][..], "`peft_type` is missing"),
        (&["model-Q4_K_M.gguf"], "GGUF"),
        (&["pytorch_model.bin"], "PyTorch"),
        (&["consolidated.00.pth", "params.json"], "Meta"),
        (&["snapshots/0a1b/config.json"], "snapshots/0a1b"),
        (&["export/config.json"], "did you mean"),
        (&["tf_model.h5"], "another framework"),
    ] {
        refused(name, holding(files).path(), name);
    }
    // with a configuration, but without weights that are read
    for (file, name) in
        [("pytorch_model.bin", "PyTorch"), ("adapter_config.json", "`peft_type`"), ("model.gguf", "GGUF")]
    {
        let folder = copy_of("tiny");
        fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
        fs::write(folder.path().join(file), "{}").unwrap();
        refused(name, folder.path(), name);
    }
    let folder = copy_of("tiny");
    fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    refused("a model beside an adapter", folder.path(), "LoRA");
    refused("a file", &golden("models/tiny").join(WEIGHTS), "give its folder");
    refused("a name of the hub", Path::new("some-one/some-model"), "hf download some-one/some-model");
}

#[test]
fn a_single_file_beside_an_index_of_others_is_refused_naming_both() {
    let folder = copy_of("tiny_tied_bf16_sharded");
    fs::copy(golden("models/tiny").join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
    refused("two models", folder.path(), WEIGHTS);
    refused("two models", folder.path(), INDEX);
    let folder = copy_of("tiny");
    let tensors = read_tensors(&folder.path().join(WEIGHTS)).into_keys().map(|name| (name, json!(WEIGHTS)));
    let index = json!({"weight_map": tensors.collect::<serde_json::Map<_, _>>()});
    fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
    Decoder::load(folder.path(), Dtype::F32).expect("the index names the single file");
}

/// The tiny model's weights with the last norm stored in f64 and its numbers replaced.
fn with_norm_in_f64(number: f64) -> Vec<u8> {
    const NORM: &str = "model.norm.weight";
    let (mut header, mut data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
    let rows = header[NORM]["shape"][0].as_u64().unwrap() as usize;
    // the numbers go to the end; a tensor of bytes keeps the place that they leave
    let left = header[NORM]["data_offsets"].clone();
    header[NORM] = json!({"dtype": "F64", "shape": [rows], "data_offsets": [data.len(), data.len() + 8 * rows]});
    header["model.layers.0.self_attn.rotary_emb.inv_freq"] =
        json!({"dtype": "U8", "shape": [4 * rows], "data_offsets": left});
    data.extend((0..rows).flat_map(|_| number.to_le_bytes()));
    safetensors_bytes(header.to_string().as_bytes(), &data)
}

#[test]
fn wrong_tensors_are_refused_by_name() {
    let renamed = with_header(|header| {
        let entry = header.remove(QUERY).unwrap();
        header.insert("model.layers.7.self_attn.q_proj.weight".into(), entry);
    });
    weights_refused("a tensor is missing", &renamed, QUERY);

    let renamed = with_header(|header| {
        let entry = header.remove("lm_head.weight").unwrap();
        header.insert("somewhere.else".into(), entry);
    });
    weights_refused("an untied model without a head", &renamed, "lm_head.weight");

    let transposed = with_header(|header| header["model.layers.0.self_attn.k_proj.weight"]["shape"] = json!([64, 32]));
    weights_refused("a transposed weight", &transposed, "model.layers.0.self_attn.k_proj.weight");

    let flat = with_header(|header| header[QUERY]["shape"] = json!([4096]));
    weights_refused("a flattened weight", &flat, QUERY);

    for dtype in ["I32", "U32"] {
        let typed = with_header(|header| header[QUERY]["dtype"] = json!(dtype));
        weights_refused("integer weights", &typed, QUERY);
    }
    let bytes = with_header(|header| {
        header[QUERY]["dtype"] = json!("F8_E4M3");
        header[QUERY]["shape"] = json!([256, 64]);
    });
    weights_refused("eight-bit floats", &bytes, QUERY);

    let (header, mut data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
    let f64_stored = with_norm_in_f64(1e300);
    weights_refused("beyond f32", &f64_stored, "model.norm.weight");
    for (case, value) in [("NaN", f32::NAN), ("infinity", f32::INFINITY)] {
        let start = header[QUERY]["data_offsets"][0].as_u64().unwrap() as usize + 400;
        data[start..start + 4].copy_from_slice(&value.to_le_bytes());
        weights_refused(case, &safetensors_bytes(header.to_string().as_bytes(), &data), QUERY);
    }
}

#[test]
fn odd_but_legal_files_load() {
    let expected = read_tensors(&golden("models/tiny").join(WEIGHTS));
    let padded = {
        let (header, data) = split_safetensors(&fs::read(golden("models/tiny").join(WEIGHTS)).unwrap());
        safetensors_bytes(format!("{header}{}", " ".repeat(123)).as_bytes(), &data)
    };
    let without_metadata = with_header(|header| drop(header.remove("__metadata__")));
    let reversed = with_header(|header| {
        let entries: Vec<_> = std::mem::take(header).into_iter().rev().collect();
        header.extend(entries);
    });
    let rotary_tables = with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", &[0.5; 8]);
    for (case, bytes) in [
        ("space padding", padded),
        ("no metadata", without_metadata),
        ("any order", reversed),
        ("rotary tables", rotary_tables),
    ] {
        let folder = copy_of("tiny");
        fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        let model = Decoder::load(folder.path(), Dtype::F32).unwrap_or_else(|error| panic!("{case}: {error}"));
        let entry = model.params.spec().find(QUERY).expect("the query projection");
        assert_eq!(model.params.flat().to_f64_vec()[entry.range()], expected[QUERY], "{case}");
    }
}

/// The sharded model with its index edited.
fn with_index(edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = copy_of("tiny_tied_bf16_sharded");
    edit_json(&folder.path().join(INDEX), edit);
    folder
}

#[test]
fn indexes_that_leave_the_folder_are_refused_unopened() {
    let outside = tempfile::tempdir().unwrap();
    let shard = golden("models/tiny_tied_bf16_sharded/model-00001-of-00002.safetensors");
    fs::copy(&shard, outside.path().join("shard.safetensors")).unwrap();
    let absolute = outside.path().join("shard.safetensors").display().to_string();
    let relative = format!("../{}/shard.safetensors", outside.path().file_name().unwrap().to_str().unwrap());
    for name in [absolute.as_str(), &relative, "./../x", "a\\..\\..\\x", "", ".", "..", "a\0b", "sub/x", "/etc/passwd"]
    {
        let folder = with_index(|index| index["weight_map"][EMBEDDING] = json!(name));
        refused(&format!("shard {name:?}"), folder.path(), INDEX);
    }

    for target in [outside.path().join("shard.safetensors"), Path::new("/dev/zero").to_path_buf()] {
        let folder = copy_of("tiny_tied_bf16_sharded");
        let shard = folder.path().join("model-00001-of-00002.safetensors");
        fs::remove_file(&shard).unwrap();
        symlink(target, shard).unwrap();
        refused("a shard that is a link out of the folder", folder.path(), "model-00001-of-00002.safetensors");
    }

    let folder = copy_of("tiny");
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    symlink(golden("models/tiny").join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
    refused("weights that are a link out of the folder", folder.path(), WEIGHTS);

    let folder = copy_of("tiny");
    fs::remove_file(folder.path().join(WEIGHTS)).unwrap();
    fs::create_dir(folder.path().join(WEIGHTS)).unwrap();
    refused("weights that are a folder", folder.path(), WEIGHTS);
}

#[test]
fn a_pipe_as_weights_is_refused_without_waiting() {
    let folder = copy_of("tiny");
    let path = folder.path().join(WEIGHTS);
    fs::remove_file(&path).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
    assert!(made.success());
    refused("a pipe", folder.path(), WEIGHTS);
}

#[test]
fn broken_indexes_are_refused() {
    let missing = with_index(|index| index["weight_map"][EMBEDDING] = json!("model-00009-of-00002.safetensors"));
    refused("a missing shard", missing.path(), "model-00009-of-00002.safetensors");

    let moved = with_index(|index| index["weight_map"][EMBEDDING] = json!("model-00002-of-00002.safetensors"));
    refused("a tensor listed in the wrong shard", moved.path(), EMBEDDING);

    for (case, text) in [
        ("not JSON", "{"),
        ("a list", "[]"),
        ("no map", "{}"),
        ("a map of numbers", r#"{"weight_map":{"a":1}}"#),
        ("a map that is a list", r#"{"weight_map":["a"]}"#),
    ] {
        let folder = copy_of("tiny_tied_bf16_sharded");
        fs::write(folder.path().join(INDEX), text).unwrap();
        refused(case, folder.path(), INDEX);
    }

    let folder = copy_of("tiny_tied_bf16_sharded");
    fs::write(folder.path().join(INDEX), "[".repeat(100_000)).unwrap();
    refused("an index 100 000 levels deep", folder.path(), INDEX);

    let empty = copy_of("tiny");
    fs::remove_file(empty.path().join(WEIGHTS)).unwrap();
    refused("a folder without weights", empty.path(), WEIGHTS);
}

#[test]
fn wrong_totals_do_not_stop_a_load() {
    let total = with_index(|index| index["metadata"]["total_size"] = json!(7));
    Decoder::load(total.path(), Dtype::F32).expect("scripts in the wild get total_size wrong");
    let unlisted = with_index(|index| drop(index["weight_map"].as_object_mut().unwrap().remove(QUERY)));
    Decoder::load(unlisted.path(), Dtype::F32).expect("the tensor is there, in a shard that other tensors name");
    let bare = with_index(|index| drop(index.as_object_mut().unwrap().remove("metadata")));
    Decoder::load(bare.path(), Dtype::F32).expect("metadata is optional");
}

#[test]
fn sizes_that_disagree_with_the_weights_are_refused_before_memory_is_taken() {
    for (key, value) in [
        ("vocab_size", json!(1_000_000)),
        ("intermediate_size", json!(1_000_000)),
        ("num_hidden_layers", json!(3)),
        ("num_key_value_heads", json!(4)),
        ("head_dim", json!(32)),
    ] {
        let folder = copy_of("tiny");
        edit_config(folder.path(), |config| config[key] = value);
        refused(key, folder.path(), "model.");
    }
}
