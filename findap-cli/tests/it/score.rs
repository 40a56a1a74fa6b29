//! `findap score` against the numbers of transformers, and against itself.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::tool::{Said, findap, golden, run};

/// Scores rows with the binary and returns its output lines.
fn score(model: &Path, rows: &[Value], dtype: &str) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (folder.path().join("rows.jsonl"), folder.path().join("scores.jsonl"));
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(&input, lines.join("\n")).expect("the input is written");
    let arguments: [&Path; 8] = [
        "score".as_ref(),
        model,
        "--input".as_ref(),
        &input,
        "--output".as_ref(),
        &output,
        "--dtype".as_ref(),
        dtype.as_ref(),
    ];
    run(arguments).success();
    let text = fs::read_to_string(&output).expect("the output is there");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

fn logprobs(scored: &Value) -> Vec<Option<f64>> {
    scored["logprobs"].as_array().expect("logprobs").iter().map(Value::as_f64).collect()
}

fn packed_rows() -> Vec<Value> {
    let text = fs::read_to_string(golden("data/tokens.json")).expect("golden rows");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    value["packed"].as_array().expect("rows").iter().map(|row| json!({"docs": row["docs"]})).collect()
}

/// The golden loss of each token of a packed row; 0 at the first token of a document.
fn golden_losses(file: &str, name: &str) -> Vec<f64> {
    let bytes = fs::read(golden(file)).expect("golden losses");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let tensor = tensors.tensor(name).expect("the tensor is there");
    match tensor.dtype() {
        Dtype::F32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect()
        }
        Dtype::F64 => tensor.data().as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        other => panic!("losses are f32 or f64, not {other:?}"),
    }
}

/// Scores the golden packed rows and returns the largest difference to the golden losses.
fn largest_error(model: &str, losses: &str, dtype: &str, suffix: &str) -> f64 {
    let mut largest: f64 = 0.0;
    for (index, scored) in score(&golden(model), &packed_rows(), dtype).iter().enumerate() {
        let expected = golden_losses(losses, &format!("packed{index}.loss.{suffix}"));
        let actual = logprobs(scored);
        assert_eq!(actual.len(), expected.len());
        for (actual, loss) in actual.iter().zip(&expected) {
            match actual {
                Some(logp) => largest = largest.max((logp + loss).abs()),
                None => assert_eq!(*loss, 0.0, "null stands at the first token of a document only"),
            }
        }
        let sum: f64 = actual.iter().flatten().sum();
        assert!((scored["sum"].as_f64().expect("sum") - sum).abs() < 1e-9);
        assert_eq!(scored["n"].as_u64(), Some(actual.iter().flatten().count() as u64));
    }
    largest
}

#[test]
fn log_probabilities_are_those_of_transformers_in_f32() {
    // f32 with sums in another order; the golden file's own two attention paths differ by 2.4e-6.
    let error = largest_error("models/tiny", "out/logits_tiny.safetensors", "f32", "f32");
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn log_probabilities_are_those_of_transformers_in_f64() {
    let error = largest_error("models/tiny", "out/logits_tiny_rope64.safetensors", "f64", "f64");
    assert!(error < 1e-9, "{error:e}");
}

#[test]
fn a_tied_sharded_bf16_model_scores_as_in_transformers() {
    let name = "tiny_tied_bf16_sharded";
    let error = largest_error(&format!("models/{name}"), &format!("out/logits_{name}.safetensors"), "f32", "f32");
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn packed_documents_score_as_they_do_alone() {
    for row in packed_rows() {
        let docs = row["docs"].as_array().expect("docs");
        let alone: Vec<Value> = docs.iter().map(|ids| json!({"tokens": ids})).collect();
        let alone = score(&golden("models/tiny"), &alone, "f64");
        let packed = score(&golden("models/tiny"), &[row], "f64");
        let apart: Vec<Option<f64>> = alone.iter().flat_map(logprobs).collect();
        for (packed, alone) in logprobs(&packed[0]).iter().zip(&apart) {
            match (packed, alone) {
                // The same sums in blocks of other sizes.
                (Some(packed), Some(alone)) => assert!((packed - alone).abs() < 1e-12, "{packed} {alone}"),
                (packed, alone) => assert_eq!(packed, alone),
            }
        }
    }
}

#[test]
fn a_changed_document_leaves_the_bits_of_the_others() {
    let row = packed_rows().swap_remove(2);
    let mut changed = row.clone();
    let first = changed["docs"][1][3].as_u64().expect("an id");
    changed["docs"][1][3] = json!((first + 1) % 2000);
    let scored = score(&golden("models/tiny"), &[row.clone(), changed], "f32");
    let (before, after) = (logprobs(&scored[0]), logprobs(&scored[1]));
    let lengths: Vec<usize> =
        row["docs"].as_array().expect("docs").iter().map(|ids| ids.as_array().expect("ids").len()).collect();
    let mut start = 0;
    for (index, length) in lengths.iter().enumerate() {
        let range = start..start + length;
        if index == 1 {
            assert_ne!(before[range.clone()], after[range], "the changed document must score otherwise");
        } else {
            assert_eq!(before[range.clone()], after[range], "document {index}");
        }
        start += length;
    }
}

#[test]
fn text_and_messages_are_tokenised_with_the_models_own_files() {
    let rows = [
        json!({"text": "Revenue rose."}),
        json!({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}),
    ];
    let scored = score(&golden("models/tiny"), &rows, "f32");
    for scored in &scored {
        assert!(scored["tokens"].as_array().is_some_and(|tokens| tokens.len() > 3), "{scored}");
        assert_eq!(scored["logprobs"][0], Value::Null);
    }
}

#[test]
fn a_file_that_is_no_jsonl_by_its_name_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for name in ["rows.csv", "rows.parquet", "rows.jsonl.gz"] {
        let (input, output) = (folder.path().join(name), folder.path().join("scores.jsonl"));
        fs::write(&input, "text\na\n").expect("the input is written");
        let model = golden("models/tiny");
        let arguments: [&Path; 6] =
            ["score".as_ref(), &model, "--input".as_ref(), &input, "--output".as_ref(), &output];
        run(arguments).refusal(&[name, "JSONL"]);
    }
}

#[test]
fn bad_rows_are_named_by_file_and_line_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cases: [(&str, &str); 10] = [
        ("{\"text\": \"cut", "line 2"),
        ("[1, 2]", "line 2"),
        ("{}", "exactly one of"),
        ("{\"text\": \"a\", \"tokens\": [1]}", "exactly one of"),
        ("{\"txt\": \"a\"}", "txt"),
        ("{\"id\": 1, \"text\": \"a\"}", "and no other key"),
        ("{\"tokens\": [1, -2]}", "line 2"),
        ("{\"tokens\": [1, 2048]}", "vocabulary"),
        ("{\"docs\": [1]}", "line 2"),
        ("{\"messages\": [{\"role\": \"nobody\", \"content\": \"a\"}]}", "line 2"),
    ];
    for (line, word) in cases {
        let (input, output) = (folder.path().join("rows.jsonl"), folder.path().join("scores.jsonl"));
        fs::write(&input, format!("{{\"tokens\": [1, 2]}}\n{line}\n")).expect("the input is written");
        let model = golden("models/tiny");
        let arguments: [&Path; 6] =
            ["score".as_ref(), &model, "--input".as_ref(), &input, "--output".as_ref(), &output];
        run(arguments).refusal(&["rows.jsonl", "line 2", word]);
        let left: Vec<PathBuf> =
            fs::read_dir(&folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(left, [input], "nothing is left behind");
    }
}

#[test]
fn a_model_folder_that_is_none_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let input = folder.path().join("rows.jsonl");
    fs::write(&input, "{\"tokens\": [1, 2]}\n").expect("the input is written");
    let output = folder.path().join("scores.jsonl");
    let arguments: [&Path; 6] =
        ["score".as_ref(), "no/such/model".as_ref(), "--input".as_ref(), &input, "--output".as_ref(), &output];
    run(arguments).refusal(&["no/such/model"]);
    assert!(!output.exists());
}

/// The adapter merged in memory, exported from its own folder, and exported into its base are one model.
#[test]
fn the_folder_of_an_adapter_is_scored_and_exported_as_the_model_that_it_makes() {
    let (base, folder) = (golden("models/tiny"), tempfile::tempdir().expect("a temporary folder"));
    let adapter = folder.path().join("adapter");
    fs::create_dir(&adapter).expect("a folder");
    let source = golden("out/lora_tiny/adapter0");
    fs::copy(source.join("adapter_model.safetensors"), adapter.join("adapter_model.safetensors")).expect("a copy");
    let config = fs::read_to_string(source.join("adapter_config.json")).expect("a configuration");
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["base_model_name_or_path"] = json!(base);
    fs::write(adapter.join("adapter_config.json"), config.to_string()).expect("a configuration");

    let (own, into_base) = (folder.path().join("own"), folder.path().join("into_base"));
    let export = |arguments: &[&Path]| {
        run(["export".as_ref()].iter().chain(arguments).chain(&["--dtype".as_ref(), "f32".as_ref()])).success();
    };
    export(&[&adapter, "--output".as_ref(), &own]);
    export(&[&base, "--adapter".as_ref(), &adapter, "--output".as_ref(), &into_base]);
    let rows = &packed_rows()[..1];
    let scored = [&adapter, &own, &into_base].map(|model| score(model, rows, "f32"));
    assert_eq!(scored[0], scored[1]);
    assert_eq!(scored[0], scored[2]);
    assert_ne!(scored[0], score(&base, rows, "f32"), "the adapter matters");

    config["use_dora"] = json!(true);
    fs::write(adapter.join("adapter_config.json"), config.to_string()).expect("a configuration");
    let reply = ["generate".as_ref(), adapter.as_os_str(), "--prompt".as_ref(), "a".as_ref()];
    run(reply).refusal(&["adapter_config.json", "use_dora", "not supported"]);
}

/// A limit of file sizes ends a program without a word unless it asks for an error.
#[test]
fn a_file_beyond_the_limit_of_sizes_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 1000; exec \"$0\" export \"$1\" --output \"$2\" --dtype f32"]);
    limited.arg(findap().get_program()).arg(golden("models/tiny")).arg(folder.path().join("out"));
    Said::from(limited.output().expect("a shell")).refusal(&["model.safetensors", "too large"]);
}

#[test]
fn a_format_that_is_not_offered_is_refused_with_those_that_are() {
    for name in ["fp16", "float16"] {
        let said = run(["export", "model", "--output", "out", "--dtype", name]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        let words = said.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("not offered") && words.contains("`bf16`") && words.contains("`f32`"), "{words}");
    }
}
