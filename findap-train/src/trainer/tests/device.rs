//! Training on a device: on the emulator, which runs the kernels on the CPU, and on the first GPU where there is one.

use findap_model::{Lora, Targets};
use findap_tensor::EmulatorOptions;

use super::preference::{dpo, objective_of};
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

/// The format of weights and arithmetic, and the format of gradients and moments.
type Formats = (Dtype, StateFormat);

const F32: Formats = (Dtype::F32, StateFormat::Full);
const BF16: Formats = (Dtype::Bf16, StateFormat::Full);
const ALL_IN_BF16: Formats = (Dtype::Bf16, StateFormat::Bf16 { seed: 3 });

/// Three steps of two micro-batches each, with an evaluation in between.
fn three_steps(folder: &Path, device: &Device, formats: Formats, stop_after: Option<u64>) -> (Decoder, Vec<Value>) {
    three_steps_of(&Trainable::All, folder, device, formats, stop_after)
}

fn three_steps_of(
    trainable: &Trainable,
    folder: &Path,
    device: &Device,
    (dtype, state): Formats,
    stop_after: Option<u64>,
) -> (Decoder, Vec<Value>) {
    let options = TrainOptions {
        trainable: trainable.clone(),
        schedule: without_warmup(1e-3),
        state,
        evaluate_every_steps: Some(2),
        dev_tokens: 20,
        save_every_steps: Some(2),
        ..options()
    };
    let mut model = Decoder::load_to(device, &golden("models/tiny"), dtype).unwrap();
    if let Some(lora) = trainable.lora() {
        model.add_adapter(*lora, 5).unwrap();
    }
    let stop = AtomicBool::new(false);
    let mut observer = |event: Event| {
        let done = matches!(event, Event::Step { step, .. } if stop_after == Some(step));
        stop.fetch_or(done, Ordering::Relaxed);
    };
    let mut steps = loader(&rows(), Kind::Packed, 4, 2, Length::Steps(3));
    let dev = loader(&rows()[..2], Kind::Packed, 2, 2, Length::Epochs(1.0));
    let job = job(folder, options, Loss::CrossEntropy.into());
    train(&mut model, &mut steps, Some(&dev), &job, &stop, &mut observer).unwrap();
    (model, metrics(folder))
}

fn parameters(model: &Decoder) -> Vec<f64> {
    model.params.tensor().to_host().unwrap().slice().to_f64_vec()
}

fn root_mean_square(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}

#[test]
#[expect(clippy::print_stdout, reason = "the errors are worth reading")]
fn three_steps_on_a_device_are_those_of_the_cpu() {
    let run = |device: &Device, formats| {
        let folder = tempfile::tempdir().unwrap();
        let (model, lines) = three_steps(folder.path(), device, formats, None);
        (parameters(&model), lines)
    };
    let (truth, exact) = run(&Device::Cpu, (Dtype::F64, StateFormat::Full));
    let (on_cpu, _) = run(&Device::Cpu, F32);
    for device in devices().into_iter().chain([Device::Cpu]) {
        let (on_device, lines) = run(&device, F32);
        let (error, allowed) = (root_mean_square(&on_device, &truth), root_mean_square(&on_cpu, &truth));
        println!("f32, three steps: weights off by {error:e} on {}, {allowed:e} on the CPU", device.name());
        // the first steps of Adam divide gradients by their own size, and so their errors by small numbers
        assert!(error <= 3.0 * allowed, "{error:e}, {allowed:e} on the CPU");
        let (with_master, rounded) = run(&device, BF16);
        let mut all_rounded = vec![rounded];
        if device != Device::Cpu {
            let (weights, lines) = run(&device, ALL_IN_BF16);
            // bf16 products cost what they cost with a master copy. Beside that, each of three roundings up or down has a variance of at
            // most a quarter of a unit squared, and a unit is at most 2^-7 of a weight
            let size = root_mean_square(&truth, &vec![0.0; truth.len()]);
            let (error, of_products) = (root_mean_square(&weights, &truth), root_mean_square(&with_master, &truth));
            println!("all in bf16: weights off by {error:e}, {of_products:e} with a master copy, of {size:e}");
            assert!(error <= of_products + 3.0f64.sqrt() / 2.0 / 128.0 * size, "{error:e}, {of_products:e}");
            all_rounded.push(lines);
        }
        for rounded in all_rounded {
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
}

#[test]
fn a_run_stopped_on_a_device_goes_on_bit_for_bit() {
    let formats = [(F32, 4), (BF16, 4), (ALL_IN_BF16, 2)];
    let cases = devices().into_iter().flat_map(|device| formats.map(|formats| (device.clone(), formats)));
    for (device, (formats, bytes)) in cases.chain([(Device::Cpu, (BF16, 4))]) {
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (whole, lines) = three_steps(whole_folder.path(), &device, formats, None);
        three_steps(folder.path(), &device, formats, Some(1));
        let (resumed, resumed_lines) = three_steps(folder.path(), &device, formats, None);
        assert_eq!(parameters(&resumed), parameters(&whole), "{formats:?}");
        assert_eq!(resumed_lines, lines, "{formats:?}");
        for array in ["params", "first_moment", "second_moment"] {
            let file = std::fs::metadata(folder.path().join(format!("checkpoint-3/{array}.bin"))).unwrap();
            assert_eq!(file.len(), bytes * whole.params.spec().len() as u64, "{array} of {formats:?}");
        }
    }
}

#[test]
fn a_part_is_trained_on_a_device_and_goes_on_bit_for_bit() {
    let part = Trainable::LastBlocks(1);
    let formats = [F32, BF16, ALL_IN_BF16];
    for (device, formats) in devices().into_iter().flat_map(|device| formats.map(|formats| (device.clone(), formats))) {
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (whole, lines) = three_steps_of(&part, whole_folder.path(), &device, formats, None);
        three_steps_of(&part, folder.path(), &device, formats, Some(1));
        let (resumed, resumed_lines) = three_steps_of(&part, folder.path(), &device, formats, None);
        assert_eq!(parameters(&resumed), parameters(&whole), "{formats:?}");
        assert_eq!(resumed_lines, lines, "{formats:?}");
        let base = Decoder::load(&golden("models/tiny"), formats.0).unwrap();
        let on_cpu = whole.copy_to(&Device::Cpu).unwrap();
        assert_eq!(frozen::changed(&on_cpu, &base), frozen::expected(&part, &base), "{formats:?}");
        if formats == F32 {
            let cpu_folder = tempfile::tempdir().unwrap();
            let (_, want) = three_steps_of(&part, cpu_folder.path(), &Device::Cpu, formats, None);
            for (got, want) in lines.iter().zip(&want) {
                for key in ["loss", "dev_loss", "grad_norm"] {
                    let Some(want) = want[key].as_f64() else { continue };
                    // as for all parameters: a rounding of 2^-24 in each of a few dozen ops in a row
                    assert_relative(got[key].as_f64().unwrap(), want, 2e-6, key);
                }
            }
        }
    }
}

#[test]
fn an_adapter_is_trained_on_a_device_as_on_the_cpu_and_goes_on_bit_for_bit() {
    let adapter = Trainable::Adapter(Lora { rank: 8, alpha: 8.0, targets: Targets::ALL, is_rank_stabilized: false });
    let numbers = |model: &Decoder| model.trained_params().tensor().to_host().unwrap().slice().to_f64_vec();
    let cpu_folder = tempfile::tempdir().unwrap();
    let (_, want) = three_steps_of(&adapter, cpu_folder.path(), &Device::Cpu, F32, None);
    let formats = [(F32, 2e-6), (BF16, 0.01), (ALL_IN_BF16, 0.01)];
    for (device, (formats, bound)) in
        devices().into_iter().flat_map(|device| formats.map(|formats| (device.clone(), formats)))
    {
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (whole, lines) = three_steps_of(&adapter, whole_folder.path(), &device, formats, None);
        three_steps_of(&adapter, folder.path(), &device, formats, Some(1));
        let (resumed, resumed_lines) = three_steps_of(&adapter, folder.path(), &device, formats, None);
        assert_eq!(numbers(&resumed), numbers(&whole), "{formats:?}");
        assert_eq!(resumed_lines, lines, "{formats:?}");
        let base = Decoder::load(&golden("models/tiny"), formats.0).unwrap();
        assert_eq!(parameters(&whole), base.params.flat().to_f64_vec(), "{formats:?}: the model is frozen");
        for (got, want) in lines.iter().zip(&want) {
            for key in ["loss", "dev_loss", "grad_norm"] {
                let Some(want) = want[key].as_f64() else { continue };
                // as for all parameters: a rounding of 2^-24 or 2^-9 in each of a few dozen ops in a row
                assert_relative(got[key].as_f64().unwrap(), want, bound, key);
            }
        }
    }
}

/// The weights before and after some steps on one batch at a small learning rate, and the loss of each step.
fn small_steps(device: &Device, (dtype, state): Formats, rounds_stochastically: bool) -> ([Vec<f64>; 2], Vec<f64>) {
    let options = TrainOptions {
        schedule: ScheduleOptions { kind: ScheduleKind::Constant, ..without_warmup(3e-5) },
        adamw: AdamWOptions { weight_decay: 0.0, ..AdamWOptions::default() },
        state,
        ..options()
    };
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), options, Loss::CrossEntropy.into());
    let mut model = Decoder::load_to(device, &golden("models/tiny"), dtype).unwrap();
    let before = parameters(&model);
    let mut batches = loader(&rows()[..2], Kind::Packed, 2, 2, Length::Steps(SMALL_STEPS));
    let mut losses = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Step { loss, .. } = event {
            losses.push(loss);
        }
    };
    let mut trainer = Trainer::new(&model, &batches, None, &job, &mut observer).unwrap();
    if !rounds_stochastically {
        trainer.optimizer.stochastic_seed = None;
    }
    trainer.open_metrics().unwrap();
    for _ in 0..SMALL_STEPS {
        trainer.step(&mut model, &mut batches, &mut observer).unwrap();
    }
    trainer.settle(&mut observer).unwrap();
    ([before, parameters(&model)], losses)
}

const SMALL_STEPS: u64 = 16;

/// Takes steps that are small beside the distance of bf16 numbers, as in a fine-tune: rounded to nearest they are lost.
#[test]
#[expect(clippy::print_stdout, reason = "the errors are worth reading")]
fn a_state_in_bf16_learns_as_one_in_f32_does_and_would_not_if_rounded_to_nearest() {
    let fall = |losses: &[f64]| losses[0] - losses[losses.len() - 1];
    for device in devices() {
        let (_, in_f32) = small_steps(&device, F32, true);
        let (_, in_bf16) = small_steps(&device, ALL_IN_BF16, true);
        let ([before, after], to_nearest) = small_steps(&device, ALL_IN_BF16, false);
        let falls = [&in_f32, &in_bf16, &to_nearest].map(|losses| fall(losses));
        let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64;
        println!("loss falls by {falls:?} on {}; to nearest {moved} of the weights move", device.name());
        // the steps are the same on average, and what roundings add at random averages out over the weights. Products in bf16 make
        // each of the losses, of about 8, wrong by 1e-3 or so
        assert!((falls[1] - falls[0]).abs() <= 0.03 * falls[0], "{falls:?}");
        // only weights below 2^-7 or so, of which there are few, have neighbours that are near enough
        assert!(falls[2] <= 0.2 * falls[0] && moved < 0.1, "{falls:?}, {moved}");
    }
}

#[test]
fn a_state_in_bf16_is_refused_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { state: ALL_IN_BF16.1, ..options() };
    let job = job(folder.path(), options, Loss::CrossEntropy.into());
    let mut model = Decoder::load(&golden("models/tiny"), Dtype::Bf16).unwrap();
    let stop = AtomicBool::new(false);
    let error = train(&mut model, &mut train_loader(1), None, &job, &stop, &mut |_: Event| {}).unwrap_err();
    assert!(matches!(error, TrainError::StateNeedsGpu { .. }) && error.to_string().contains("model.state"), "{error}");
}

#[test]
fn pairs_are_aligned_on_a_device_as_on_the_cpu() {
    let (rows, policy) =
        (short_pairs()[..2].to_vec(), Decoder::load(&golden("out/dpo_tiny/policy"), Dtype::F32).unwrap());
    for pair_loss in [
        PairLoss::Dpo { label_smoothing: 0.0 },
        PairLoss::Robust { label_smoothing: 0.1 },
        PairLoss::Hinge,
        PairLoss::Ipo,
        PairLoss::Simpo { gamma: 0.5, label_smoothing: 0.1 },
        PairLoss::Orpo,
    ] {
        let objective = objective_of(Preference { pair_loss, ..dpo(NllMean::Token, 1.0) }, &rows, &tiny());
        let gradients =
            |model: &Decoder| first_gradients((rows.clone(), Kind::Preference), 2, 2, model, objective.clone());
        let (grads, sums) = gradients(&policy);
        for device in devices() {
            let (on_device, sums_on_device) = gradients(&policy.copy_to(&device).unwrap());
            assert_relative(sums_on_device.loss, sums.loss, 1e-6, "loss");
            let terms = sums_on_device.terms.to_array().into_iter().zip(sums.terms.to_array());
            // a margin is a difference of sums of log-probabilities, each of which f32 rounds
            terms.for_each(|(got, want)| {
                assert!((got - want).abs() < 1e-5 * want.abs().max(1.0), "{got} against {want}")
            });
            assert_gradients(&on_device.copy_to(&Device::Cpu, "a test").unwrap(), &grads, 1e-5);
        }
    }
}

#[test]
fn a_step_on_a_device_waits_once_at_most() {
    let options = TrainOptions { schedule: without_warmup(1e-3), save_every_steps: Some(100), ..options() };
    let objectives = [
        (rows(), Kind::Packed, Objective::from(Loss::CrossEntropy)),
        (short_pairs(), Kind::Preference, objective_of(dpo(NllMean::Pair, 1.0), &short_pairs(), &tiny())),
    ];
    let cases = devices().into_iter().flat_map(|device| objectives.iter().map(move |of| (device.clone(), of)));
    for (device, (rows, kind, objective)) in cases {
        let is_emulator = device.name().starts_with("the emulator");
        let folder = tempfile::tempdir().unwrap();
        let mut model = Decoder::load_to(&device, &golden("models/tiny"), Dtype::F32).unwrap();
        let mut waits = Vec::new();
        let mut observer = |event: Event| {
            if let Event::Step { step, .. } = event {
                waits.push((step, device.waits()));
            }
        };
        // two micro-batches a step
        let mut steps = loader(rows, *kind, 2, 1, Length::Steps(5));
        let job = job(folder.path(), options.clone(), objective.clone());
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
    let run = |device: &Device, (dtype, state): Formats, save_every_steps| {
        let folder = tempfile::tempdir().unwrap();
        let options = TrainOptions { schedule: without_warmup(1e30), state, save_every_steps, ..options() };
        let mut model = Decoder::load_to(device, &golden("models/tiny"), dtype).unwrap();
        let mut steps = loader(&rows(), Kind::Packed, 1, 1, Length::Steps(12));
        let job = job(folder.path(), options, Loss::CrossEntropy.into());
        let stop = AtomicBool::new(false);
        let error = train(&mut model, &mut steps, None, &job, &stop, &mut |_: Event| {}).unwrap_err();
        assert!(matches!(error, TrainError::NonFinite { step: 2, .. }), "{error}");
        (folder, parameters(&model), error.to_string())
    };
    let (_, _, on_cpu) = run(&Device::Cpu, F32, Some(100));
    for (device, formats) in devices().into_iter().flat_map(|device| [(device.clone(), F32), (device, ALL_IN_BF16)]) {
        let (saved, after_the_first, message) = run(&device, formats, Some(1));
        assert_eq!(message, on_cpu);
        assert_eq!(checkpoint::list(saved.path(), "checkpoint").len(), 1);
        let (unsaved, weights, message) = run(&device, formats, Some(100));
        assert_eq!(message, on_cpu);
        assert!(weights == after_the_first, "weights of the first step, whatever was queued behind the second");
        assert!(weights.iter().all(|x| x.is_finite()));
        assert_eq!(checkpoint::list(unsaved.path(), "checkpoint").len(), 0);
        assert_eq!(metrics(unsaved.path()), metrics(saved.path()));
        assert_eq!(metrics(unsaved.path()).len(), 1);
    }
}
