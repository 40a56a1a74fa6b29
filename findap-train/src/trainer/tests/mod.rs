mod adapter;
#[cfg(feature = "emulator")]
mod device;
mod frozen;
mod preference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use findap_data::encode::RecordEncoder;
use findap_data::loader::all_rows;
use findap_data::{Capability, Domain, Fill, Format, Kind, Length, LoaderOptions, Source, TokenStore, Tokenizer};
use findap_model::{Dtype, Recompute, Trainable};
use findap_tensor::Slice;
use serde_json::Value;

use super::*;
use crate::metrics::reading::shown_steps;
use crate::objective::{Loss, NllMean, PairLoss, Preference};
use crate::optimizer::AdamWOptions;
use crate::schedule::{ScheduleKind, ScheduleOptions, Warmup, WarmupLength};

fn golden(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden")).join(path)
}

fn json(path: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(path)).unwrap()).unwrap()
}

/// The packed rows of `train.json`, in order, as lines of a file.
fn packed_rows() -> Vec<Value> {
    let data = json("data/train.json");
    let steps = data["steps"].as_array().unwrap().iter();
    let rows = steps.flat_map(|step| step.as_array().unwrap()).flat_map(|micro| micro["rows"].as_array().unwrap());
    rows.cloned().collect()
}

fn pairs() -> Vec<Value> {
    json("data/pairs.json").as_array().unwrap().clone()
}

/// A loader of `rows` in order, each a context of its own.
fn loader(rows: &[Value], kind: Kind, batch: usize, micro: usize, length: Length) -> Loader {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let tokenizer = Tokenizer::load(&golden("models/tiny")).unwrap();
    let source = Source {
        name: "golden".to_owned(),
        paths: vec![path],
        max_bad_rows: 0,
        kind,
        format: Format::Jsonl,
        columns: BTreeMap::new(),
        domain: Domain::General,
        capability: Capability::Concept,
        share: None,
    };
    let encoder = RecordEncoder { tokenizer: &tokenizer, template: None, context_tokens: 256 };
    let stores = vec![Arc::new(TokenStore::build(&folder.path().join("store"), &source, &encoder).unwrap())];
    let rows = all_rows(&stores);
    let options = LoaderOptions {
        context_tokens: 256,
        batch: Fill::Contexts(batch),
        micro_batch: Fill::Contexts(micro),
        packing: None,
        seed: 1,
        is_shuffled: false,
        length,
    };
    Loader::new(stores, &[rows], options).unwrap()
}

fn train_loader(steps: u64) -> Loader {
    loader(&packed_rows(), Kind::Packed, 4, 2, Length::Steps(steps))
}

fn first_step(rows: &[Value], kind: Kind, batch: usize, micro: usize) -> Loader {
    loader(rows, kind, batch, micro, Length::Steps(1))
}

fn options() -> TrainOptions {
    TrainOptions {
        trainable: Trainable::All,
        schedule: ScheduleOptions { warmup: WarmupLength::Steps(3), ..without_warmup(1e-3) },
        adamw: AdamWOptions::default(),
        state: StateFormat::Full,
        recompute: Recompute::None,
        evaluate_every_steps: None,
        dev_tokens: 65536,
        early_stop_patience: None,
        save_every_steps: Some(4),
        keep_checkpoints: 20,
    }
}

/// A schedule that falls in a straight line from the first step on.
fn without_warmup(peak_learning_rate: f64) -> ScheduleOptions {
    let (kind, warmup, warmup_from) = (ScheduleKind::Linear, WarmupLength::Steps(0), Warmup::Zero);
    ScheduleOptions { kind, peak_learning_rate, warmup, warmup_from }
}

fn job(folder: &Path, options: TrainOptions, objective: Objective) -> Job<'_> {
    Job { stage: "s", folder, options, identity: BTreeMap::new(), objective, sources: &SOURCES }
}

static SOURCES: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| vec!["golden".to_owned()]);

fn tiny() -> Decoder {
    Decoder::load(&golden("models/tiny"), Dtype::F32).unwrap()
}

fn run(
    folder: &Path,
    steps: u64,
    options: &TrainOptions,
    stop_after: Option<u64>,
) -> Result<(Decoder, Outcome, Vec<Event>), TrainError> {
    run_model(tiny(), folder, steps, options, stop_after)
}

/// Trains a model, or stops after a step, and returns it.
fn run_model(
    mut model: Decoder,
    folder: &Path,
    steps: u64,
    options: &TrainOptions,
    stop_after: Option<u64>,
) -> Result<(Decoder, Outcome, Vec<Event>), TrainError> {
    let stop = AtomicBool::new(false);
    let mut events = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Step { step, .. } = &event
            && stop_after == Some(*step)
        {
            stop.store(true, Ordering::Relaxed);
        }
        events.push(event);
    };
    let dev = loader(&packed_rows(), Kind::Packed, 2, 2, Length::Epochs(1.0));
    let dev = options.evaluate_every_steps.map(|_| &dev);
    let outcome = train(
        &mut model,
        &mut train_loader(steps),
        dev,
        &job(folder, options.clone(), Loss::CrossEntropy.into()),
        &stop,
        &mut observer,
    )?;
    Ok((model, outcome, events))
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    let without_times = |line: &str| {
        let mut value: Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("tokens_per_s");
        value
    };
    text.lines().map(without_times).collect()
}

fn assert_relative(got: f64, want: f64, bound: f64, what: &str) {
    assert!((got - want).abs() <= bound * want.abs(), "{what}: {got} against {want}");
}

/// Weights or gradients stored as a safetensors file, read through a model folder made for it.
fn reference_tensors(path: &str) -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(golden("models/tiny/config.json"), folder.path().join("config.json")).unwrap();
    std::fs::copy(golden(path), folder.path().join("model.safetensors")).unwrap();
    Decoder::load(folder.path(), Dtype::F32).unwrap()
}

fn assert_gradients(got: &Arena, want: &Arena, bound: f64) {
    for entry in got.spec().entries() {
        let (got, want) = (got.flat().sub(entry.range()).to_f64_vec(), want.flat().sub(entry.range()).to_f64_vec());
        let largest = want.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= bound * largest, "{}: {worst} of {largest}", entry.name);
    }
}

#[test]
fn twelve_steps_are_the_references() {
    let folder = tempfile::tempdir().unwrap();
    let (model, outcome, _) = run(folder.path(), 12, &options(), None).unwrap();
    assert_eq!(outcome, Outcome::Finished { step: 12, best: None });
    let report = json("out/train_tiny/report.json");
    let lines = metrics(folder.path());
    assert_eq!(lines.len(), 12);
    for (got, want) in lines.iter().zip(report["steps"].as_array().unwrap()) {
        let number = |value: &Value| value.as_f64().unwrap();
        assert!((number(&got["loss"]) - number(&want["loss"])).abs() < 1e-6, "{got} against {want}");
        assert_relative(number(&got["grad_norm"]), number(&want["grad_norm"]), 1e-5, "norm");
        assert!((number(&got["lr"]) - number(&want["lr"])).abs() < 1e-15);
        assert_eq!(got["loss_tokens"], want["targets"]);
    }
    let want = reference_tensors("out/train_tiny/final/model.safetensors");
    let differences = model.params.flat().to_f64_vec().into_iter().zip(want.params.flat().to_f64_vec());
    let worst = differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst < 2e-5, "{worst}");
}

fn first_gradients(
    (rows, kind): (Vec<Value>, Kind),
    batch: usize,
    micro: usize,
    model: &Decoder,
    objective: Objective,
) -> (Arena, Sums) {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), options(), objective);
    let mut loader = first_step(&rows, kind, batch, micro);
    let mut trainer = Trainer::new(model, &loader, None, &job, &mut |_: Event| {}).unwrap();
    trainer.forward_backward(model, &loader.next_step().unwrap().micro_batches).unwrap();
    trainer.stats.add_squares(trainer.grads.tensor()).unwrap();
    trainer.stats.close().unwrap();
    let sums = trainer.stats.read().unwrap();
    (trainer.grads, sums)
}

#[test]
fn gradients_of_the_first_step_are_the_references() {
    let (grads, ..) = first_gradients((packed_rows(), Kind::Packed), 4, 2, &tiny(), Loss::CrossEntropy.into());
    assert_gradients(&grads, &reference_tensors("out/train_tiny/grads0.safetensors").params, 1e-5);
}

#[test]
fn threads_do_not_change_a_bit_of_a_step_in_bf16() {
    let model = Decoder::load(&golden("models/tiny"), Dtype::Bf16).unwrap();
    let step = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let rows = (packed_rows(), Kind::Packed);
            let (grads, sums) = first_gradients(rows, 4, 2, &model, Loss::CrossEntropy.into());
            (sums.loss, grads.flat().to_f64_vec())
        })
    };
    let one = step(1);
    assert_eq!(one, step(2));
    assert_eq!(one, step(1));
    assert!(one.0.is_finite() && one.1.iter().any(|&x| x != 0.0));
}

#[test]
fn one_batch_of_eight_is_eight_of_one() {
    let (one, one_sums) = first_gradients((packed_rows(), Kind::Packed), 8, 8, &tiny(), Loss::CrossEntropy.into());
    let (eight, eight_sums) = first_gradients((packed_rows(), Kind::Packed), 8, 1, &tiny(), Loss::CrossEntropy.into());
    assert_relative(one_sums.loss, eight_sums.loss, 1e-6, "loss");
    assert_gradients(&eight, &one, 1e-5);
}

fn same_bits(a: &Decoder, b: &Decoder) -> bool {
    match (a.params.flat(), b.params.flat()) {
        (Slice::F32(a), Slice::F32(b)) => a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()),
        _ => false,
    }
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    // 12 steps are one epoch: 14 reach into the second.
    let options = TrainOptions { evaluate_every_steps: Some(5), dev_tokens: 2000, ..options() };
    let run = |folder: &Path, stop_after| run(folder, 14, &options, stop_after);
    let whole_folder = tempfile::tempdir().unwrap();
    let (whole, _, _) = run(whole_folder.path(), None).unwrap();
    for stop_after in [1, 2, 5, 11, 12, 13] {
        let folder = tempfile::tempdir().unwrap();
        let (_, outcome, _) = run(folder.path(), Some(stop_after)).unwrap();
        assert_eq!(outcome, Outcome::Interrupted { step: stop_after });
        let (resumed, _, events) = run(folder.path(), None).unwrap();
        assert!(
            matches!(events.iter().find(|e| matches!(e, Event::StageStarted { .. })), Some(Event::StageStarted { done, .. }) if *done == stop_after)
        );
        assert!(same_bits(&resumed, &whole), "stopped after {stop_after}");
        assert_eq!(metrics(folder.path()), metrics(whole_folder.path()), "stopped after {stop_after}");
    }
    let (again, outcome, events) = run(whole_folder.path(), None).unwrap();
    assert!(same_bits(&again, &whole) && matches!(outcome, Outcome::Finished { step: 14, .. }));
    assert!(!events.iter().any(|event| matches!(event, Event::Step { .. })), "nothing is left to do");
}

#[test]
fn steps_after_the_last_good_checkpoint_are_done_again() {
    let run = |folder: &Path| run(folder, 10, &options(), None);
    let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (whole, _, _) = run(whole_folder.path()).unwrap();
    run(folder.path()).unwrap();
    for step in [8, 10] {
        std::fs::write(folder.path().join(format!("checkpoint-{step}/params.bin")), b"gone").unwrap();
    }
    let (resumed, _, events) = run(folder.path()).unwrap();
    let skipped =
        events.iter().filter(|event| matches!(event, Event::Note(note) if note.contains("does not verify"))).count();
    assert_eq!(skipped, 2);
    assert!(same_bits(&resumed, &whole));
    assert_eq!(metrics(folder.path()), metrics(whole_folder.path()));
    assert_eq!(shown_steps(folder.path()), (1..=10).collect::<Vec<_>>(), "TensorBoard shows each step once");
}

#[test]
fn other_settings_are_refused_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), 4, &options(), None).unwrap();
    let mut other = job(folder.path(), options(), Loss::CrossEntropy.into());
    other.identity.insert("data.golden".to_owned(), "abc".to_owned());
    let error = train(&mut tiny(), &mut train_loader(4), None, &other, &AtomicBool::new(false), &mut |_: Event| {})
        .unwrap_err();
    assert!(error.to_string().contains("data.golden: was (none), now abc"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_ends_the_stage_before_the_update() {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions { schedule: without_warmup(1e30), save_every_steps: Some(1), ..options() };
    let error = run(folder.path(), 12, &options, None).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TrainError::NonFinite { .. }) && message.contains("golden:"), "{message}");
    let mut notes = Vec::new();
    assert!(checkpoint::find_latest(folder.path(), "checkpoint", &mut notes).unwrap().is_some() && notes.is_empty());
}

#[test]
fn training_ends_when_the_dev_loss_no_longer_falls() {
    let folder = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        schedule: without_warmup(0.3),
        evaluate_every_steps: Some(1),
        early_stop_patience: Some(2),
        dev_tokens: 1000,
        ..options()
    };
    let (model, outcome, events) = run(folder.path(), 30, &options, None).unwrap();
    let Outcome::Finished { step, best: Some((best, _)) } = outcome else { panic!("{outcome:?}") };
    assert!(step < 30 && step == best + 2, "{outcome:?}");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::DevLoss { .. })).count() as u64, step);
    let mut kept = tiny();
    checkpoint::read_array(&folder.path().join(format!("best-{best}")), "params", kept.params.flat_mut()).unwrap();
    assert!(same_bits(&kept, &model));
}
