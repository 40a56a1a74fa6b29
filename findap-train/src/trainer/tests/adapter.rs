//! Training an adapter.

use findap_model::{Lora, Targets};

use super::*;

const LORA: Lora = Lora { rank: 4, alpha: 8.0, targets: Targets::ALL, is_rank_stabilized: false };

fn adapted(lora: Lora, dtype: Dtype) -> Decoder {
    let mut model = Decoder::load(&golden("models/tiny"), dtype).unwrap();
    model.add_adapter(lora, 5).unwrap();
    model
}

fn options_of(lora: Lora) -> TrainOptions {
    let schedule = ScheduleOptions { kind: ScheduleKind::Constant, ..without_warmup(1e-3) };
    TrainOptions { trainable: Trainable::Adapter(lora), schedule, ..options() }
}

/// PEFT's adapters of all layers, and of queries and values with rsLoRA, trained for four steps.
#[test]
fn four_steps_of_an_adapter_are_those_of_peft() {
    for name in ["lora_tiny", "lora_tiny_rs_qv"] {
        let adapter = |at: &str| {
            let mut model = tiny();
            model.load_adapter(&golden("out").join(name).join(at)).unwrap();
            model
        };
        let mut model = adapter("adapter0");
        let adamw = AdamWOptions { weight_decay: 0.0, ..AdamWOptions::default() };
        let options = TrainOptions { adamw, ..options_of(model.lora().unwrap()) };
        let folder = tempfile::tempdir().unwrap();
        let job = job(folder.path(), options, Loss::CrossEntropy.into());
        let (mut loader, stop) = (train_loader(4), AtomicBool::new(false));
        train(&mut model, &mut loader, None, &job, &stop, &mut |_: Event| {}).unwrap();
        let report = json(&format!("out/{name}/report.json"));
        let lines = metrics(folder.path());
        assert_eq!(lines.len(), 4);
        for (got, want) in lines.iter().zip(report["steps"].as_array().unwrap()) {
            let number = |value: &Value| value.as_f64().unwrap();
            assert!((number(&got["loss"]) - number(&want["loss"])).abs() < 1e-6, "{name}: {got} against {want}");
            assert_relative(number(&got["grad_norm"]), number(&want["grad_norm"]), 1e-5, "norm");
            assert_eq!(got["loss_tokens"], want["targets"]);
        }
        let [got, want] = [&model, &adapter("adapter_final")].map(|m| m.trained_params().flat().to_f64_vec());
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // as for all weights: AdamW makes a whole step of a gradient that is almost 0, whatever its sign
        assert!(worst < 2e-5, "{name}: {worst}");
        assert_eq!(model.params.flat().to_f64_vec(), tiny().params.flat().to_f64_vec(), "the model is frozen");
    }
}

#[test]
fn a_stopped_run_of_an_adapter_goes_on_bit_for_bit_from_checkpoints_of_the_adapter_alone() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let options = TrainOptions { evaluate_every_steps: Some(2), dev_tokens: 2000, ..options_of(LORA) };
        let run =
            |folder: &Path, stop_after| run_model(adapted(LORA, dtype), folder, 5, &options, stop_after).unwrap().0;
        let (whole_folder, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let whole = run(whole_folder.path(), None);
        run(folder.path(), Some(3));
        let resumed = run(folder.path(), None);
        let numbers = |model: &Decoder| model.trained_params().flat().to_f64_vec();
        assert_eq!(numbers(&resumed), numbers(&whole), "{dtype}");
        assert_ne!(numbers(&whole), numbers(&adapted(LORA, dtype)), "{dtype}");
        assert_eq!(metrics(folder.path()), metrics(whole_folder.path()), "{dtype}");
        // beside weights in bf16, too, an adapter on the CPU is f32
        assert_eq!(whole.trained_params().dtype(), Dtype::F32);
        let base = Decoder::load(&golden("models/tiny"), dtype).unwrap();
        assert_eq!(whole.params.flat().to_f64_vec(), base.params.flat().to_f64_vec(), "{dtype}: the model is frozen");
        for array in ["params", "first_moment", "second_moment"] {
            let file = std::fs::metadata(folder.path().join(format!("checkpoint-5/{array}.bin"))).unwrap();
            assert_eq!(file.len(), 4 * whole.trained_params().spec().len() as u64, "{array} of {dtype}");
        }
    }
}

#[test]
fn an_adapter_that_the_model_does_not_have_is_not_trained() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), 1, &options_of(LORA), None).unwrap_err().to_string();
    assert!(error.contains("add it first"), "{error}");
}
