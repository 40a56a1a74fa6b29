//! Training on a device: on the emulator, which runs the kernels on the CPU, and on the first GPU where there is one.

use findap_tensor::EmulatorOptions;

use super::*;

/// The golden rows, cut short: the emulator is slow.
fn rows() -> Vec<Value> {
    let short = |row: &Value| {
        let document = |document: &Value| {
            let ids: Vec<&Value> = document["ids"].as_array().unwrap().iter().take(12).collect();
            let mask: Vec<u8> = (0..ids.len()).map(|t| u8::from(t > 2)).collect();
            serde_json::json!({"ids": ids, "mask": mask})
        };
        let documents: Vec<Value> = row["docs"].as_array().unwrap().iter().take(2).map(document).collect();
        serde_json::json!({"docs": documents})
    };
    packed_rows().iter().take(12).map(short).collect()
}

/// The golden pairs, cut short.
fn short_pairs() -> Vec<Value> {
    let short = |pair: &Value| {
        let ids = |key: &str, count: usize| pair[key].as_array().unwrap()[..count].to_vec();
        let (chosen, rejected) = (ids("chosen_ids", 4), ids("rejected_ids", 3));
        serde_json::json!({"prompt_ids": ids("prompt_ids", 5), "chosen_ids": chosen, "rejected_ids": rejected})
    };
    pairs().iter().map(short).collect()
}

fn emulated() -> Device {
    Device::emulated(EmulatorOptions::PLAIN)
}

fn devices() -> Vec<Device> {
    [emulated()].into_iter().chain(Device::gpu(0)).collect()
}

/// Three steps of two micro-batches each, with an evaluation in between.
fn three_steps(folder: &Path, device: &Device, dtype: Dtype, stop_after: Option<u64>) -> (Llama, Vec<Value>) {
    let keys = Optimization {
        evaluate_every_steps: Some(2),
        dev_tokens: 20,
        save_every_steps: Some(2),
        warmup_steps: None,
        ..keys(3)
    };
    let mut model = Llama::load_to(device, &golden("models/tiny"), dtype).unwrap();
    let stop = AtomicBool::new(false);
    let mut observer = |event: Event| {
        let done = matches!(event, Event::Step { step, .. } if stop_after == Some(step));
        stop.fetch_or(done, Ordering::Relaxed);
    };
    let mut steps = loader(&rows(), Kind::Packed, 4, 2, keys.length().unwrap());
    let dev = loader(&rows()[..2], Kind::Packed, 2, 2, Length::Epochs(1.0));
    let job = job(folder, &keys, Objective::CrossEntropy);
    train(&mut model, &mut steps, Some(&dev), &job, &stop, &mut observer).unwrap();
    (model, metrics(folder))
}

fn parameters(model: &Llama) -> Vec<f64> {
    model.params.tensor().to_host().unwrap().slice().to_f64_vec()
}

fn root_mean_square(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
#[expect(clippy::print_stdout, reason = "the errors are worth reading")]
fn three_steps_on_a_device_are_those_of_the_cpu() {
    let run = |device: &Device, dtype| {
        let folder = tempfile::tempdir().unwrap();
        let (model, lines) = three_steps(folder.path(), device, dtype, None);
        (parameters(&model), lines)
    };
    let (truth, exact) = run(&Device::Cpu, Dtype::F64);
    let (on_cpu, _) = run(&Device::Cpu, Dtype::F32);
    for device in devices().into_iter().chain([Device::Cpu]) {
        let (on_device, lines) = run(&device, Dtype::F32);
        let (error, allowed) = (root_mean_square(&on_device, &truth), root_mean_square(&on_cpu, &truth));
        println!("f32, three steps: weights off by {error:e} on {}, {allowed:e} on the CPU", device.name());
        // the first steps of Adam divide gradients by their own size, and so their errors by small numbers
        assert!(error <= 3.0 * allowed, "{error:e}, {allowed:e} on the CPU");
        let (_, rounded) = run(&device, Dtype::Bf16);
        assert_eq!((lines.len(), rounded.len()), (exact.len(), exact.len()));
        for (want, (got, rounded)) in exact.iter().zip(lines.iter().zip(&rounded)) {
            for key in ["loss", "dev_loss", "grad_norm"] {
                let Some(want) = want[key].as_f64() else { continue };
                // one rounding of 2^-24 or 2^-9 in each of a few dozen ops in a row; a mean over tokens has less
                assert_relative(got[key].as_f64().unwrap(), want, 1e-6, key);
                assert_relative(rounded[key].as_f64().unwrap(), want, 0.01, key);
            }
            assert_eq!((&got["lr"], &got["tokens"]), (&want["lr"], &want["tokens"]));
        }
    }
}

#[test]
fn a_run_stopped_on_a_device_goes_on_bit_for_bit() {
    let cases = devices().into_iter().flat_map(|device| [(device.clone(), Dtype::F32), (device, Dtype::Bf16)]);
    for (device, dtype) in cases.chain([(Device::Cpu, Dtype::Bf16)]) {
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (whole, lines) = three_steps(whole_folder.path(), &device, dtype, None);
        three_steps(folder.path(), &device, dtype, Some(1));
        let (resumed, resumed_lines) = three_steps(folder.path(), &device, dtype, None);
        assert_eq!(parameters(&resumed), parameters(&whole), "{dtype}");
        assert_eq!(resumed_lines, lines, "{dtype}");
        let bytes = std::fs::metadata(folder.path().join("checkpoint-3/params.bin")).unwrap().len();
        assert_eq!(bytes, 4 * whole.params.spec().len() as u64, "{dtype}: weights in f32");
    }
}

#[test]
fn pairs_are_aligned_on_a_device_as_on_the_cpu() {
    let objective = || dpo_objective(&pairs(), NllMean::Token, 1.0, &tiny());
    let (rows, objective) = (pairs()[..1].to_vec(), objective());
    let gradients = |model: &Llama| first_gradients((rows.clone(), Kind::Preference), 1, 1, model, objective.clone());
    let policy = Llama::load(&golden("out/dpo_tiny/policy"), Dtype::F32).unwrap();
    let (grads, sums) = gradients(&policy);
    for device in devices() {
        let (on_device, sums_on_device) = gradients(&policy.copy_to(&device).unwrap());
        assert_relative(sums_on_device.loss, sums.loss, 1e-6, "loss");
        let terms = sums_on_device.terms.to_array().into_iter().zip(sums.terms.to_array());
        // a margin is a difference of sums of log-probabilities, each of which f32 rounds
        terms.for_each(|(got, want)| assert!((got - want).abs() < 1e-5, "{got} against {want}"));
        assert_gradients(&on_device.copy_to(&Device::Cpu, "a test").unwrap(), &grads, 1e-5);
    }
}

#[test]
fn a_step_on_a_device_waits_once_at_most() {
    let keys = Optimization { warmup_steps: None, save_every_steps: Some(100), ..keys(5) };
    let objectives = [
        (rows(), Kind::Packed, Objective::CrossEntropy),
        (short_pairs(), Kind::Preference, dpo_objective(&short_pairs(), NllMean::Pair, 1.0, &tiny())),
    ];
    let cases = devices().into_iter().flat_map(|device| objectives.iter().map(move |of| (device.clone(), of)));
    for (device, (rows, kind, objective)) in cases {
        let is_emulator = device.name().starts_with("the emulator");
        let folder = tempfile::tempdir().unwrap();
        let mut model = Llama::load_to(&device, &golden("models/tiny"), Dtype::F32).unwrap();
        let mut waits = Vec::new();
        let mut observer = |event: Event| {
            if let Event::Step { step, .. } = event {
                waits.push((step, device.waits()));
            }
        };
        // two micro-batches a step
        let mut steps = loader(rows, *kind, 2, 1, keys.length().unwrap());
        let job = job(folder.path(), &keys, objective.clone());
        train(&mut model, &mut steps, None, &job, &AtomicBool::new(false), &mut observer).unwrap();
        assert_eq!(waits.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        // the first step makes room; the last one is read when it is the only one left
        for pair in waits[..4].windows(2) {
            let count = pair[1].1 - pair[0].1;
            assert!(if is_emulator { count == 1 } else { count <= 1 }, "step {}: {count} waits", pair[1].0);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_ends_the_stage_on_a_device_and_changes_nothing() {
    // the first step makes the second one's loss infinite, and the third is queued when that is read
    let run = |device: &Device, dtype, save_every_steps| {
        let folder = tempfile::tempdir().unwrap();
        let keys = Optimization { learning_rate: 1e30, warmup_steps: None, save_every_steps, ..keys(12) };
        let mut model = Llama::load_to(device, &golden("models/tiny"), dtype).unwrap();
        let mut steps = loader(&rows(), Kind::Packed, 1, 1, keys.length().unwrap());
        let job = job(folder.path(), &keys, Objective::CrossEntropy);
        let stop = AtomicBool::new(false);
        let error = train(&mut model, &mut steps, None, &job, &stop, &mut |_: Event| {}).unwrap_err();
        assert!(matches!(error, TrainError::NonFinite { step: 2, .. }), "{error}");
        (folder, parameters(&model), error.to_string())
    };
    let (_, _, on_cpu) = run(&Device::Cpu, Dtype::F32, Some(100));
    for device in devices() {
        let (saved, after_the_first, message) = run(&device, Dtype::F32, Some(1));
        assert_eq!(message, on_cpu);
        assert_eq!(checkpoint::list(saved.path(), "checkpoint").len(), 1);
        let (unsaved, weights, message) = run(&device, Dtype::F32, Some(100));
        assert_eq!(message, on_cpu);
        assert!(weights == after_the_first, "weights of the first step, whatever was queued behind the second");
        assert!(weights.iter().all(|x| x.is_finite()));
        assert_eq!(checkpoint::list(unsaved.path(), "checkpoint").len(), 0);
        assert_eq!(metrics(unsaved.path()), metrics(saved.path()));
        assert_eq!(metrics(unsaved.path()).len(), 1);
    }
}
