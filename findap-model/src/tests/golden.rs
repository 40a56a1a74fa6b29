//! The numbers of transformers on tiny models.

use findap_data::Batch;
use findap_tensor::ops::sample::Sampling;
use findap_tensor::{Arena, Dtype};
use safetensors::SafeTensors;
use serde_json::Value;

use super::{FAMILIES, golden};
use crate::checkpoint::SaveOptions;
use crate::decoder::Decoder;
use crate::generate::{GenerateRequest, Generator, StopReason};
use crate::session::{Recompute, Session, SessionOptions};

pub(super) fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

pub(super) fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let tensor = tensors.tensor(name).unwrap();
    match tensor.dtype() {
        safetensors::Dtype::F32 => {
            tensor.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b).into()).collect()
        }
        _ => tensor.data().as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
    }
}

fn session(model: &Decoder, dtype: Dtype, max_tokens: usize, gradients: Option<Dtype>) -> Session {
    let (recompute, frozen_blocks) = (Recompute::None, 0);
    let lora = model.lora();
    let options = SessionOptions { dtype, max_tokens, max_positions: 512, recompute, gradients, frozen_blocks, lora };
    Session::new(&model.config, options)
}

/// Log-probability of every token of packed documents given the earlier ones, 0 at each document's first.
pub(super) fn token_logps(model: &Decoder, dtype: Dtype, documents: &[Vec<u32>]) -> Vec<f64> {
    let mut batch = Batch::new();
    documents.iter().for_each(|document| batch.push_unmasked(document));
    let mut session = session(model, dtype, batch.num_tokens(), None);
    let logp = session.forward(model, (&batch).into()).unwrap().score(&batch.targets).unwrap().into_logp().unwrap();
    [&[0.0], &logp[..logp.len() - 1]].concat()
}

pub(super) fn packed_rows() -> Vec<Vec<Vec<u32>>> {
    let tokens = json("data/tokens.json");
    let rows = tokens["packed"].as_array().unwrap().iter();
    rows.map(|row| row["docs"].as_array().unwrap().iter().map(ids).collect()).collect()
}

pub(super) fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    for (name, file, dtype, tolerance) in [
        ("tiny", "out/logits_tiny.safetensors", Dtype::F32, 1e-5),
        ("tiny_tied_bf16_sharded", "out/logits_tiny_tied_bf16_sharded.safetensors", Dtype::F32, 1e-5),
        ("tiny", "out/logits_tiny_rope64.safetensors", Dtype::F64, 1e-9),
    ] {
        let model = Decoder::load(&golden("models").join(name), dtype).unwrap();
        let bytes = std::fs::read(golden(file)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tag = dtype.name();
        for (i, documents) in packed_rows().iter().enumerate() {
            let Ok(_) = tensors.tensor(&format!("packed{i}.loss.{tag}")) else { continue };
            let want = numbers(&tensors, &format!("packed{i}.loss.{tag}"));
            let got: Vec<f64> = token_logps(&model, dtype, documents).iter().map(|l| -l).collect();
            let difference = largest_difference(&got, &want);
            assert!(difference < tolerance, "{name} {tag} packed{i}: {difference:e}");
        }
    }
}

#[test]
fn packed_documents_are_separate_documents_to_the_bit() {
    let model = Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap();
    for documents in packed_rows() {
        let packed = token_logps(&model, Dtype::F32, &documents);
        let mut changed = documents.clone();
        changed[0].iter_mut().for_each(|id| *id = (*id + 1) % 2048);
        let after = token_logps(&model, Dtype::F32, &changed);
        assert_eq!(packed[documents[0].len()..], after[documents[0].len()..], "another document changed bits");
        let separate = documents.iter().flat_map(|d| token_logps(&model, Dtype::F32, std::slice::from_ref(d)));
        assert!(largest_difference(&packed, &separate.collect::<Vec<_>>()) < 1e-5);
    }
}

#[test]
fn both_spellings_of_the_configuration_mean_the_same() {
    let new = crate::Config::load(&golden("models/tiny")).unwrap();
    let old = crate::Config::load(&golden("models/tiny_v4")).unwrap();
    assert_eq!(new.rope_scaling, old.rope_scaling);
    assert_eq!(new.inverse_frequencies(), old.inverse_frequencies());
    let written = crate::Config::from_json(new.to_json("float32")).unwrap();
    assert_eq!((written.rope_scaling, written.rope_theta, written.head_dim), (new.rope_scaling, new.rope_theta, 16));
    assert_eq!(written.to_json("float32")["pretraining_tp"], 1, "unknown keys are kept");
}

#[test]
fn gradients_of_a_training_step_are_those_of_torch() {
    let model = Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap();
    let (loss, grads) = first_step(&model, &json("data/train.json"));
    let report = json("out/train_tiny/report.json");
    assert!((loss - report["steps"][0]["loss"].as_f64().unwrap()).abs() < 1e-6);
    same_gradients(&grads, "out/train_tiny/grads0.safetensors");
}

/// The loss of the first step, and its gradients.
pub(super) fn first_step(model: &Decoder, train: &Value) -> (f64, Arena) {
    let micro = train["steps"][0].as_array().unwrap();
    let rows: Vec<&Value> = micro.iter().flat_map(|m| m["rows"].as_array().unwrap()).collect();
    let mask = |d: &Value| ids(&d["mask"]);
    let documents = |row: &Value| row["docs"].as_array().unwrap().clone();
    let total: u32 = rows.iter().flat_map(|r| documents(r)).map(|d| mask(&d)[1..].iter().sum::<u32>()).sum();
    let mut grads = model.zero_gradients().unwrap();
    let mut session = session(model, Dtype::F32, 512, Some(Dtype::F32));
    let mut loss = 0.0;
    for row in rows {
        let mut batch = Batch::new();
        for d in documents(row) {
            let is_target: Vec<bool> = mask(&d).into_iter().map(|flag| flag == 1).collect();
            batch.push_document(&ids(&d["ids"]), &is_target);
        }
        let weights = vec![-1.0 / f64::from(total); batch.num_tokens()];
        let pass = session.forward(model, (&batch).into()).unwrap();
        let logp = pass.backward(&batch.targets, &weights, &mut grads).unwrap().read().unwrap();
        loss -= logp.iter().sum::<f64>() / f64::from(total);
    }
    (loss, grads)
}

#[test]
fn other_families_are_those_of_transformers() {
    let train = json("data/train.json");
    for name in FAMILIES {
        let bytes = std::fs::read(golden(&format!("out/logits_{name}.safetensors"))).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        // as for Llama: f32 sums in other orders; f64 with the same frequencies, which are f32
        for (dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::F64, 1e-9)] {
            let model = Decoder::load(&golden("models").join(name), dtype).unwrap();
            for (i, documents) in packed_rows().iter().enumerate() {
                let want = numbers(&tensors, &format!("packed{i}.loss.{}", dtype.name()));
                let got: Vec<f64> = token_logps(&model, dtype, documents).iter().map(|l| -l).collect();
                let difference = largest_difference(&got, &want);
                assert!(difference < tolerance, "{name} {} packed{i}: {difference:e}", dtype.name());
            }
        }
        let model = Decoder::load(&golden("models").join(name), Dtype::F32).unwrap();
        let golden = json(&format!("out/family_{name}.json"));
        let (loss, grads) = first_step(&model, &train);
        let want = golden["loss"].as_f64().unwrap();
        assert!((loss - want).abs() < 1e-6 * want, "{name}: {loss} {want}");
        same_gradients(&grads, &format!("out/grads_{name}.safetensors"));
        same_continuations(&model, golden["generated"].as_array().unwrap());
    }
}

fn same_gradients(grads: &Arena, file: &str) {
    same_gradients_as(grads, file, |name| name.to_owned());
}

/// Each tensor within 1e-5 of its own largest number; in the file it has another name.
pub(super) fn same_gradients_as(grads: &Arena, file: &str, name_in_file: impl Fn(&str) -> String) {
    let bytes = std::fs::read(golden(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for entry in grads.spec().entries() {
        let want = numbers(&tensors, &name_in_file(&entry.name));
        let got = grads.flat().sub(entry.range()).to_f64_vec();
        let scale = want.iter().fold(0.0f64, |m, g| m.max(g.abs()));
        let difference = largest_difference(&got, &want);
        assert!(difference <= 1e-5 * scale, "{}: {difference:e} of {scale:e}", entry.name);
    }
}

#[test]
fn greedy_generations_are_those_of_transformers() {
    let model = Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap();
    same_continuations(&model, json("out/generate_tiny.json").as_array().unwrap());
}

fn same_continuations(model: &Decoder, cases: &[Value]) {
    let requests: Vec<GenerateRequest> = cases
        .iter()
        .map(|case| GenerateRequest {
            prompt: ids(&case["prompt_ids"]),
            max_new: 48,
            sampling: Sampling::GREEDY,
            seed: 0,
            stop_ids: model.config.eos_token_ids.clone(),
        })
        .collect();
    for max_sequences in [1, 2, 8] {
        let made = Generator::new(model, max_sequences, 256).unwrap().generate(model, &requests).unwrap();
        for (made, case) in made.iter().zip(cases) {
            assert_eq!(made.ids, ids(&case["new_ids"]));
            assert_eq!(made.stop == StopReason::Stop, case["stopped"].as_bool().unwrap());
        }
    }
}

#[test]
fn every_file_of_a_tokenizer_goes_with_a_saved_model() {
    let model = Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap();
    let [source, target] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let carried = ["tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt", "USE_POLICY.md"];
    for name in carried.into_iter().chain(["optimizer.pt"]) {
        std::fs::write(source.path().join(name), name).unwrap();
    }
    let carry_from = Some(source.path().to_owned());
    model.save(target.path(), &SaveOptions { dtype: Dtype::F32, max_shard_bytes: usize::MAX, carry_from }).unwrap();
    for name in carried {
        assert_eq!(std::fs::read_to_string(target.path().join(name)).unwrap(), name);
    }
    assert!(!target.path().join("optimizer.pt").exists());
}

#[test]
fn a_saved_model_is_the_model() {
    let source = golden("models/tiny_tied_bf16_sharded");
    let model = Decoder::load(&source, Dtype::Bf16).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (max_shard_bytes, files) in [(usize::MAX, 1), (100_000, 3)] {
        let target = folder.path().join("model");
        let options = SaveOptions { dtype: Dtype::Bf16, max_shard_bytes, carry_from: Some(source.clone()) };
        model.save(&target, &options).unwrap();
        let written = std::fs::read_dir(&target).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap());
        let shards = written.filter(|f| f.ends_with(".safetensors")).count();
        assert!(shards >= files, "{shards} files");
        assert!(target.join("tokenizer.json").is_file() && target.join("chat_template.jinja").is_file());
        let again = Decoder::load(&target, Dtype::Bf16).unwrap();
        assert_eq!(model.params.flat().to_f64_vec(), again.params.flat().to_f64_vec());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside the model");

    // A kill between the two renames of a save leaves the old model under its other name, which the next save must not lose.
    let (target, other) = (folder.path().join("model"), folder.path().join(".model.replaced"));
    std::fs::rename(&target, &other).unwrap();
    let missing = SaveOptions { dtype: Dtype::Bf16, max_shard_bytes: usize::MAX, carry_from: Some(source.clone()) };
    std::fs::create_dir(folder.path().join(".model.incomplete")).unwrap();
    model.save(&target, &missing).unwrap();
    assert!(target.join("config.json").is_file() && !other.exists());
}
