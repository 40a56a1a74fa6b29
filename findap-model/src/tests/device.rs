//! The same model on a device: on the emulator, which runs the kernels on the CPU, and on the first GPU where there is one.
//!
//! The rule of errors. The truth is the CPU in f64. In f32, each tensor's error may be three times that of the CPU in f32, in the mean
//! square, plus four roundings of its numbers: the sums have other orders. In bf16, it may be twice that of the plain run, which rounds
//! every stored number to bf16 and makes every sum in f32.

use std::path::PathBuf;

use findap_data::{Batch, IGNORE};
#[cfg(feature = "emulator")]
use findap_tensor::EmulatorOptions;
use findap_tensor::{Arena, Device, Dtype, StepStats};

use super::{FAMILIES, WeightedBatch, plain};
use crate::checkpoint::SaveOptions;
use crate::config::Config;
use crate::decoder::Decoder;
use crate::lora::{Lora, Targets};
use crate::session::{Recompute, Session, SessionOptions, Tokens, memory_bytes};

/// Three documents and an empty one; some tokens bear no loss.
fn batch(vocab: u32) -> WeightedBatch {
    let ids: Vec<u32> = (0..40).map(|t| (7 + t * 31) % vocab).collect();
    let mask: Vec<bool> = (0..40).map(|t| t % 5 != 3).collect();
    let mut documents = Batch::new();
    for range in [0..19, 19..26, 26..40] {
        documents.push_document(&ids[range.clone()], &mask[range]);
    }
    documents.cu_seqlens.insert(1, 19);
    let weight = |(t, target): (usize, &u32)| if *target == IGNORE { 0.0 } else { -0.03 - 0.001 * t as f64 };
    let weights = documents.targets.iter().enumerate().map(weight).collect();
    WeightedBatch { documents, weights }
}

pub(super) fn golden(model: &str) -> PathBuf {
    super::golden("models").join(model)
}

/// The devices to test: the emulator, if compiled in, with threads in random order and copies as late as possible; and the first GPU,
/// if there is one.
#[expect(clippy::print_stdout, reason = "a test that does nothing says so")]
pub(super) fn devices() -> Vec<Device> {
    #[cfg(feature = "emulator")]
    let emulated = [Device::emulated(EmulatorOptions::ALL[2])];
    #[cfg(not(feature = "emulator"))]
    let emulated = [];
    let devices: Vec<Device> = emulated.into_iter().chain(Device::gpu(0)).collect();
    if devices.is_empty() {
        println!("skipped: neither the emulator (feature `emulator`) nor a GPU runs this case");
    }
    devices
}

fn session(model: &Decoder, recompute: Recompute, gradients: Dtype) -> Session {
    let (dtype, gradients) = (model.params.dtype(), Some(gradients));
    let frozen_blocks = model.frozen_blocks();
    let lora = model.lora();
    let options =
        SessionOptions { dtype, max_tokens: 48, max_positions: 32, recompute, gradients, frozen_blocks, lora };
    Session::on(&model.params.device(), &model.config, options).unwrap()
}

/// What a pass computes: log-probabilities, then each tensor's gradient, by name.
pub(super) type Results = Vec<(String, Vec<f64>)>;

pub(super) fn results(logp: &[f64], grads: &Arena) -> Results {
    let flat = grads.tensor().to_host().unwrap().slice().to_f64_vec();
    let gradients = grads.spec().entries().iter().map(|entry| (entry.name.clone(), flat[entry.range()].to_vec()));
    [("logp".to_owned(), logp.to_vec())].into_iter().chain(gradients).collect()
}

pub(super) fn in_one(model: &Decoder, recompute: Recompute, batch: &WeightedBatch) -> Results {
    let mut grads = model.zero_gradients().unwrap();
    let mut session = session(model, recompute, grads.dtype());
    let pass = session.forward(model, batch.tokens()).unwrap();
    let log_probs = pass.backward(&batch.documents.targets, &batch.weights, &mut grads).unwrap();
    let mut stats = StepStats::new(&model.params.device()).unwrap();
    stats.begin().unwrap();
    log_probs.add_loss(&mut stats, 0.5).unwrap();
    log_probs.add_loss(&mut stats, 1.0).unwrap();
    stats.close().unwrap();
    let logp = log_probs.read().unwrap();
    assert!((stats.read().unwrap().loss + 3.0 * logp.iter().sum::<f64>()).abs() < 1e-9);
    results(logp, &grads)
}

/// Runs a pass as an objective does whose weights depend on the log-probabilities: score, then backward.
fn in_two(model: &Decoder, recompute: Recompute, batch: &WeightedBatch) -> Results {
    let mut grads = model.zero_gradients().unwrap();
    let mut session = session(model, recompute, grads.dtype());
    let mut scored = session.forward(model, batch.tokens()).unwrap().score(&batch.documents.targets).unwrap();
    let logp = scored.log_probs().read().unwrap().to_vec();
    scored.backward(Some(&batch.weights), &mut grads).unwrap();
    results(&logp, &grads)
}

fn mean_square(x: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = x.fold((0.0, 0usize), |(sum, count), x| (sum + x * x, count + 1));
    (sum / count.max(1) as f64).sqrt()
}

/// What chance alone may make of the ratio of the root mean squares of `count` errors and of `count` others from the same distribution:
/// the logarithm of it scatters by 1 / sqrt(count), half of what that of an F-distributed number does. Four times as much comes once in
/// 10,000 draws, and is more than the rule's factors for a bias or a norm of 16 numbers alone.
fn scatter(count: usize) -> f64 {
    (4.0 / (count as f64).sqrt()).exp()
}

/// Asserts that each of `got` is within `factor` times the error of `yardstick` plus `floor` times its own size.
#[expect(clippy::print_stdout, reason = "the errors are worth reading")]
pub(super) fn assert_follows(what: &str, got: &Results, yardstick: &Results, truth: &Results, factor: f64, floor: f64) {
    let mut worst = (0.0f64, "");
    for (((name, got), (_, yardstick)), (_, truth)) in got.iter().zip(yardstick).zip(truth) {
        let error_of = |x: &[f64]| mean_square(x.iter().zip(truth).map(|(x, truth)| x - truth));
        let (error, allowed) = (error_of(got), error_of(yardstick));
        let size = mean_square(truth.iter().copied());
        let factor = factor.max(scatter(truth.len()));
        // written so that NaN fails
        let holds = error <= factor * allowed + floor * size;
        assert!(holds, "{what}: {name}: off by {error:e}, the yardstick by {allowed:e}, of {size:e}");
        if allowed > 0.0 && error / allowed > worst.0 {
            worst = (error / allowed, name);
        }
    }
    println!("{what}: at most {:.2} of the yardstick's error ({})", worst.0, worst.1);
}

#[test]
fn f32_passes_follow_the_cpu() {
    for name in ["tiny", "tiny_tied_bf16_sharded"].into_iter().chain(FAMILIES) {
        let on_cpu = Decoder::load(&golden(name), Dtype::F32).unwrap();
        let batch = batch(2048);
        let truth = in_one(&Decoder::load(&golden(name), Dtype::F64).unwrap(), Recompute::None, &batch);
        let yardstick = in_one(&on_cpu, Recompute::None, &batch);
        for device in devices() {
            let model = Decoder::load_to(&device, &golden(name), Dtype::F32).unwrap();
            assert_eq!(numbers(&model), on_cpu.params.flat().to_f64_vec());
            let got = in_one(&model, Recompute::None, &batch);
            let what = format!("{name} f32 on {}", device.name());
            assert_follows(&what, &got, &yardstick, &truth, 3.0, 4.0 / f64::from(1 << 24));
            assert_eq!(got, in_one(&model, Recompute::Block, &batch), "recomputed to the same bits");
            assert_eq!(got, in_two(&model, Recompute::None, &batch), "the head in two passes");
        }
    }
}

#[test]
fn an_adapter_on_a_device_follows_the_cpu_and_is_merged_as_there() {
    let some = Targets::from_names(["k_proj", "o_proj", "down_proj"]).unwrap();
    let loras = [
        Lora { rank: 8, alpha: 16.0, targets: Targets::ALL, is_rank_stabilized: false },
        Lora { rank: 3, alpha: 4.0, targets: some, is_rank_stabilized: true },
    ];
    for lora in loras {
        let adapted = |dtype| {
            let mut model = Decoder::load(&golden("tiny"), dtype).unwrap();
            model.add_adapter(lora, 3).unwrap();
            let numbers = model.trained_params().flat().to_f64_vec();
            let moved = numbers.iter().enumerate().map(|(i, x)| x + 0.02 * (i as f64 * 1.3).sin());
            model.trained_params_mut().flat_mut().copy_from_f64(&moved.collect::<Vec<_>>());
            model
        };
        let (on_cpu, batch) = (adapted(Dtype::F32), batch(2048));
        let truth = in_one(&adapted(Dtype::F64), Recompute::None, &batch);
        let yardstick = in_one(&on_cpu, Recompute::None, &batch);
        for device in devices() {
            let mut model = on_cpu.copy_to(&device).unwrap();
            let got = in_one(&model, Recompute::None, &batch);
            let what = format!("adapter of rank {} on {}", lora.rank, device.name());
            assert_follows(&what, &got, &yardstick, &truth, 3.0, 4.0 / f64::from(1 << 24));
            assert_eq!(got, in_one(&model, Recompute::Block, &batch), "recomputed to the same bits");
            assert_eq!(got, in_two(&model, Recompute::None, &batch), "the head in two passes");
            model.merge_adapter().unwrap();
            let mut merged = on_cpu.clone();
            merged.merge_adapter().unwrap();
            assert_eq!(numbers(&model), merged.params.flat().to_f64_vec());
        }
    }
}

/// All gradients after `passes` passes over one batch, in f32 or bf16.
fn gradients_after(passes: u32, model: &Decoder, dtype: Dtype) -> Vec<f64> {
    let batch = batch(model.config.vocab_size as u32);
    let mut grads = model.zero_gradients_in(dtype).unwrap();
    let mut session = session(model, Recompute::Block, dtype);
    for _ in 0..passes {
        let pass = session.forward(model, batch.tokens()).unwrap();
        pass.backward(&batch.documents.targets, &batch.weights, &mut grads).unwrap();
    }
    grads.tensor().to_host().unwrap().slice().to_f64_vec()
}

#[test]
fn gradients_in_bf16_are_those_in_f32_rounded_once_a_pass() {
    for weights in [Decoder::load(&golden("tiny"), Dtype::Bf16).unwrap(), wide_heads(64)] {
        for device in devices() {
            let model = weights.copy_to(&device).unwrap();
            let exact = gradients_after(1, &model, Dtype::F32);
            let largest = exact.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
            for passes in [1, 4] {
                let rounded = gradients_after(passes, &model, Dtype::Bf16);
                let passes = f64::from(passes);
                // a rounding of 2^-8 of the sum so far in each pass; a library may add in another order where it rounds to bf16
                let holds = |exact: f64, rounded: f64| {
                    (rounded - passes * exact).abs() <= passes * (passes * exact.abs() / 256.0 + 1e-6 * largest)
                };
                let bad = exact.iter().zip(&rounded).position(|(&exact, &rounded)| !holds(exact, rounded));
                assert_eq!(bad, None, "{passes} passes on {}", device.name());
                assert!(rounded.iter().zip(&exact).any(|(a, b)| *a != passes * b), "it is not f32");
            }
        }
    }
}

/// An adapter where there is a backward pass, so that half of the cases have one.
fn adapter(gradients: Option<Dtype>) -> Option<Lora> {
    let lora = Lora { rank: 4, alpha: 8.0, targets: Targets::ALL, is_rank_stabilized: false };
    gradients.filter(|dtype| *dtype == Dtype::F32).map(|_| lora)
}

#[test]
fn memory_on_a_device_is_known_before_a_session_is_built() {
    let config = wide_heads(64).config;
    let cases = [(Dtype::F32, Some(Dtype::F32)), (Dtype::Bf16, Some(Dtype::F32)), (Dtype::Bf16, Some(Dtype::Bf16))];
    for (dtype, gradients) in cases.into_iter().chain([(Dtype::Bf16, None)]) {
        for recompute in [Recompute::None, Recompute::Block] {
            let options = SessionOptions {
                dtype,
                max_tokens: 96,
                max_positions: 64,
                recompute,
                gradients,
                frozen_blocks: 0,
                lora: adapter(gradients),
            };
            for device in devices() {
                let built = Session::on(&device, &config, options).unwrap().memory();
                assert_eq!(memory_bytes(device.kind(), &config, options), built, "{options:?}");
            }
        }
    }
}

#[test]
fn a_model_is_saved_from_a_device_as_from_the_cpu() {
    let name = "tiny_tied_bf16_sharded";
    let on_cpu = Decoder::load(&golden(name), Dtype::Bf16).unwrap();
    for device in devices() {
        let folder = tempfile::tempdir().unwrap();
        let model = Decoder::load_to(&device, &golden(name), Dtype::Bf16).unwrap();
        for (place, model) in [("device", &model), ("cpu", &on_cpu)] {
            let options = SaveOptions { dtype: Dtype::Bf16, max_shard_bytes: 100_000, carry_from: None };
            model.save(&folder.path().join(place), &options).unwrap();
        }
        for entry in std::fs::read_dir(folder.path().join("cpu")).unwrap() {
            let file = entry.unwrap().file_name();
            let bytes = |place: &str| std::fs::read(folder.path().join(place).join(&file)).unwrap();
            assert_eq!(bytes("cpu"), bytes("device"), "{file:?}");
        }
        let copy = on_cpu.copy_to(&device).unwrap();
        assert_eq!(numbers(&copy), numbers(&model));
    }
}

fn numbers(model: &Decoder) -> Vec<f64> {
    model.params.tensor().to_host().unwrap().slice().to_f64_vec()
}

#[test]
fn random_weights_are_the_same_on_a_device() {
    let config = wide_heads(64).config;
    for device in devices() {
        let model = Decoder::init_on(&device, config.clone(), 5, Dtype::Bf16).unwrap();
        assert_eq!(numbers(&model), wide_heads(64).params.flat().to_f64_vec());
    }
}

#[test]
fn a_session_refuses_what_a_device_could_not() {
    for device in devices() {
        let model = Decoder::load_to(&device, &golden("tiny"), Dtype::F32).unwrap();
        let mut session = session(&model, Recompute::None, Dtype::F32);
        let batch = batch(2048);
        let refused =
            |tokens: Tokens<'_>, session: &mut Session| session.forward(&model, tokens).unwrap_err().to_string();
        let ids: Vec<u32> = batch.documents.tokens.iter().map(|id| id + 2040).collect();
        assert!(refused(Tokens { ids: &ids, ..batch.tokens() }, &mut session).contains("ids["));
        assert!(
            refused(Tokens { cu_seqlens: &[0, 30, 20, 40], ..batch.tokens() }, &mut session).contains("cu_seqlens[2]")
        );
        assert!(refused(Tokens { cu_seqlens: &[0, 39], ..batch.tokens() }, &mut session).contains("ids"));
        let pass = session.forward(&model, batch.tokens()).unwrap();
        let error = pass.score(&[3000; 40]).unwrap_err().to_string();
        assert!(error.contains("targets[0]"), "{error}");
        let on_cpu = Decoder::load(&golden("tiny"), Dtype::F32).unwrap();
        let error = session.forward(&on_cpu, batch.tokens()).unwrap_err().to_string();
        assert!(error.contains("the CPU"), "{error}");
    }
}

/// A copy of the weights in another format, on the CPU.
pub(super) fn converted(model: &Decoder, dtype: Dtype) -> Decoder {
    let mut converted = Decoder::zeros(model.config.clone(), dtype);
    converted.params.flat_mut().copy_from_f64(&model.params.flat().to_f64_vec());
    converted
}

fn assert_bf16_follows(what: &str, weights: &Decoder) {
    let batch = batch(weights.config.vocab_size as u32);
    let truth = in_one(&converted(weights, Dtype::F64), Recompute::None, &batch);
    let yardstick = plain::passes(&converted(weights, Dtype::F32), &batch);
    for device in devices().into_iter().chain([Device::Cpu]) {
        let model = weights.copy_to(&device).unwrap();
        let got = in_one(&model, Recompute::None, &batch);
        assert_follows(&format!("{what} on {}", device.name()), &got, &yardstick, &truth, 2.0, 0.0);
        assert_eq!(got, in_one(&model, Recompute::Block, &batch), "recomputed to the same bits");
        assert_eq!(got, in_two(&model, Recompute::None, &batch), "the head in two passes");
    }
}

#[test]
fn bf16_passes_follow_the_truth() {
    for name in ["tiny", "tiny_tied_bf16_sharded"].into_iter().chain(FAMILIES) {
        assert_bf16_follows(&format!("{name} bf16"), &Decoder::load(&golden(name), Dtype::Bf16).unwrap());
    }
}

/// Checks the bound to which `bench/bundle/run.sh` holds a GPU that has no plain run beside it. Activations in bf16 cost about what weights
/// in bf16 do, since both enter every product alike.
#[test]
fn bf16_log_probabilities_are_off_as_weights_in_bf16_make_them() {
    let batch = batch(2048);
    let logp = |model: &Decoder| in_one(model, Recompute::None, &batch)[..1].to_vec();
    let rounded = Decoder::load(&golden("tiny"), Dtype::Bf16).unwrap();
    let truth = logp(&Decoder::load(&golden("tiny"), Dtype::F64).unwrap());
    let yardstick = logp(&converted(&rounded, Dtype::F64));
    for device in devices() {
        let got = logp(&rounded.copy_to(&device).unwrap());
        assert_follows(&format!("bf16 beside its weights on {}", device.name()), &got, &yardstick, &truth, 3.0, 0.0);
    }
}

/// A model with a head dim that tensor cores take, and a vocabulary that is no multiple of 8.
pub(super) fn wide_heads(head_dim: usize) -> Decoder {
    let config = serde_json::json!({
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": head_dim, "vocab_size": 203, "rms_norm_eps": 1e-5, "rope_theta": 100.0,
        "initializer_range": 0.1, "tie_word_embeddings": false,
    });
    let serde_json::Value::Object(config) = config else { unreachable!("an object was written") };
    Decoder::init(Config::from_json(config).unwrap(), 5, Dtype::Bf16)
}

#[test]
fn bf16_passes_with_wide_heads_follow_the_truth() {
    assert_bf16_follows("wide heads bf16", &wide_heads(64));
}

/// A GeForce has less shared memory: the kernels of larger GPUs would not start there for this head dim.
#[cfg(feature = "emulator")]
#[test]
fn a_device_with_little_shared_memory_gives_the_same_numbers() {
    let weights = wide_heads(128);
    let batch = batch(203);
    let [small, large] = [99, 163].map(|kib| {
        let device = Device::emulated_with_shared_bytes(EmulatorOptions::ALL[2], kib * 1024);
        in_one(&weights.copy_to(&device).unwrap(), Recompute::None, &batch)
    });
    assert_eq!(small, large);
}
