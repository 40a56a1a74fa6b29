//! A whole run on the emulator of a device.

use findap_model::TextModel;
use findap_tensor::EmulatorOptions;

use super::*;

const RUN: &str = r#"schema = 1
[run]
name = "emulated""#;

const STAGES: &str = r#"[[stage]]
name = "group1"
kind = "train"
text = ["news"]
steps = 1
batch_tokens = 24
context_tokens = 24
learning_rate = 1e-3
[[stage]]
name = "align"
kind = "align"
pairs = ["pairs"]
steps = 1
batch_rows = 1
context_tokens = 24
learning_rate = 1e-3
[eval]
tasks = ["scores"]
stages = ["base", "align"]
"#;

/// Trains and measures on one device, and checks that the model measured there is the one that the CPU finds in the folder.
#[test]
fn a_run_trains_and_measures_on_its_device() {
    let folder = data();
    let text = recipe_text(RUN, STAGES, folder.path());
    let recipe = crate::recipe::parse(&text, Path::new("emulated.toml"), &[]).unwrap();
    let config = base_config(&recipe).unwrap();
    let recipe = recipe.resolve(Some(&folder.path().join("run")), &config).unwrap();
    let device = Device::emulated(EmulatorOptions::PLAIN);
    let pairs = [(vec![2037, 5, 6], vec![7, 8, 9]), (vec![300], vec![12, 2000])];
    let mut measured = Vec::new();
    let mut evaluate = |asked: &Evaluation<'_>| {
        assert!(*asked.device == device && asked.dtype == Dtype::F32);
        let score = |device: &Device| {
            let model = TextModel::load_to(device, asked.model, asked.dtype).unwrap();
            model.score(&pairs).unwrap().iter().map(|score| score.logp).collect::<Vec<f64>>()
        };
        let (got, want) = (score(asked.device), score(&Device::Cpu));
        for (got, want) in got.iter().zip(&want) {
            // f32: one rounding of 2^-24 in each of a few dozen ops in a row
            assert!((got - want).abs() <= 2e-6 * want.abs(), "{}: {got}, {want} on the CPU", asked.stage);
        }
        measured.push((asked.stage.to_owned(), want[0]));
        Ok(true)
    };
    let mut notes = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Step { loss, .. } = event {
            notes.push(loss);
        }
    };
    let stop = AtomicBool::new(false);
    let mut hooks = Hooks {
        observer: &mut observer,
        stop: &stop,
        check_tasks: &mut |_| Ok(Identity::new()),
        evaluate: &mut evaluate,
        provenance: Map::new(),
    };
    let ended = run_on(Some(device.clone()), &recipe, &text, None, &mut hooks).unwrap();
    assert_eq!(ended, Ended::Finished(folder.path().join("run/align/model")));
    let [(base, before), (aligned, after)] = &measured[..] else { panic!("two models are measured, not {measured:?}") };
    assert_eq!((base.as_str(), aligned.as_str()), ("base", "align"));
    assert!(after > before, "the chosen answer became likelier: {before}, {after}");
    assert!(notes.len() == 2 && notes.iter().all(|loss| loss.is_finite()), "{notes:?}");
    let provenance = fs::read_to_string(folder.path().join("run/provenance.json")).unwrap();
    assert!(provenance.contains("the emulator"), "{provenance}");
}
