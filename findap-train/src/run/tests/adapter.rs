//! A run whose stages train adapters.

use super::*;
use crate::recipe::Override;

const RUN: &str = r#"schema = 1
[run]
name = "adapters"
seed = 3
device = "cpu""#;

const STAGES: &str = r#"[[stage]]
name = "group1"
kind = "train"
text = ["news"]
dev = ["news"]
steps = 4
batch_tokens = 24
context_tokens = 24
learning_rate = 1e-2
save_every_steps = 1
lora = { rank = 4 }
[[stage]]
name = "align"
kind = "align"
pairs = ["pairs"]
steps = 3
batch_rows = 1
context_tokens = 24
learning_rate = 1e-2
save_every_steps = 1
lora = { rank = 2, targets = ["q_proj", "v_proj"], rslora = true }
"#;

/// Runs the recipe in `folder`/`name` with some keys set, and stops after this many steps of all stages.
fn run_in(folder: &Path, name: &str, set: &[Override], stop_after: usize) -> (Ended, PathBuf) {
    let text = recipe_text(RUN, STAGES, folder);
    let recipe = crate::recipe::parse(&text, Path::new("adapters.toml"), set).unwrap();
    let run_folder = folder.join(name);
    let recipe = recipe.clone().resolve(Some(&run_folder), &base_config(&recipe).unwrap()).unwrap();
    let (stop, mut steps) = (AtomicBool::new(false), 0);
    let mut observer = |event: Event| {
        steps += usize::from(matches!(event, Event::Step { .. }));
        stop.store(steps >= stop_after, Ordering::Relaxed);
    };
    let mut hooks = Hooks {
        observer: &mut observer,
        stop: &stop,
        check_tasks: &mut |_| Ok(crate::identity::Identity::new()),
        evaluate: &mut |_| Ok(true),
        provenance: Map::new(),
    };
    (super::run(&recipe, &text, None, &mut hooks).unwrap(), run_folder)
}

fn parameters(folder: &Path) -> Vec<f64> {
    Decoder::load(folder, Dtype::F32).unwrap().params.flat().to_f64_vec()
}

#[test]
fn a_stage_leaves_its_adapter_and_the_model_with_it_merged() {
    let folder = data();
    let (ended, run) = run_in(folder.path(), "run", &[], usize::MAX);
    assert_eq!(ended, Ended::Finished(run.join("align/model")));
    let base = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    for (base, stage, rank) in [(base.to_owned(), "group1", 4), (run.join("group1/model"), "align", 2)] {
        let mut model = Decoder::load(&base, Dtype::F32).unwrap();
        model.load_adapter(&run.join(stage).join("adapter")).unwrap();
        assert_eq!(model.lora().unwrap().rank, rank);
        assert!(model.trained_params().flat().to_f64_vec().iter().all(|x| *x != 0.0), "{stage}: B was trained");
        model.merge_adapter().unwrap();
        let merged = parameters(&run.join(stage).join("model"));
        assert_eq!(model.params.flat().to_f64_vec(), merged, "{stage}");
        assert_ne!(merged, parameters(&base), "{stage}");
    }
}

#[test]
fn a_run_of_adapters_stopped_anywhere_goes_on_bit_for_bit() {
    let folder = data();
    let (_, whole) = run_in(folder.path(), "whole", &[], usize::MAX);
    let mut ended = Ended::Interrupted;
    for _ in 0..10 {
        if ended != Ended::Interrupted {
            break;
        }
        ended = run_in(folder.path(), "stopped", &[], 1).0;
    }
    let stopped = folder.path().join("stopped");
    assert_eq!(ended, Ended::Finished(stopped.join("align/model")));
    for file in ["model/model.safetensors", "adapter/adapter_model.safetensors"] {
        for stage in ["group1", "align"] {
            let [got, want] = [&stopped, &whole].map(|run| fs::read(run.join(stage).join(file)).unwrap());
            assert!(got == want, "{stage}/{file}");
        }
    }
}

/// The weights under the adapter are the reference: no second model is loaded, and no bit differs from a stage that trains them all.
/// The first stage changes nothing here, so that the second begins with the same model.
#[test]
fn the_reference_of_an_adapter_is_the_model_without_it() {
    let folder = data();
    let still = |mut set: Vec<Override>| {
        set.extend([Override::set("stage.group1.learning_rate", "0")]);
        set
    };
    let unset = |key: &str| Override::Unset { key: key.to_owned() };
    let align = |name: &str, set: Vec<Override>| {
        let (_, run) = run_in(folder.path(), name, &still(set), usize::MAX);
        let references: Value = read_json(&run.join("align/references.json")).unwrap().unwrap();
        let metrics = fs::read_to_string(run.join("align/metrics.jsonl")).unwrap();
        let first: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        (references["pairs"].clone(), first["reward_margin"].clone(), first["loss"].clone())
    };
    let of_adapter = align("adapter", Vec::new());
    let of_all = align("all", vec![unset("stage.group1.lora"), unset("stage.align.lora")]);
    assert_eq!(of_adapter, of_all);
    assert_eq!(of_adapter.1, 0.0, "the policy begins as its reference, to the bit");
}

/// PEFT loads an adapter of an adapter without a word as another model, so none is made.
#[test]
fn a_run_from_an_adapter_begins_with_it_merged_into_a_model_of_the_runs_own() {
    let folder = data();
    let (_, first) = run_in(folder.path(), "first", &[], usize::MAX);
    let set = |base: &Path| Override::set("model.base", &format!("{:?}", base.to_str().unwrap()));
    let (_, of_adapter) = run_in(folder.path(), "of_adapter", &[set(&first.join("group1/adapter"))], usize::MAX);
    let (_, of_merged) = run_in(folder.path(), "of_merged", &[set(&first.join("group1/model"))], usize::MAX);
    assert_eq!(parameters(&of_adapter.join("base/model")), parameters(&first.join("group1/model")));
    for stage in ["group1", "align"] {
        let [got, want] = [&of_adapter, &of_merged].map(|run| parameters(&run.join(stage).join("model")));
        assert_eq!(got, want, "{stage}");
    }
    let config: Value = read_json(&of_adapter.join("group1/adapter/adapter_config.json")).unwrap().unwrap();
    assert_eq!(Path::new(config["base_model_name_or_path"].as_str().unwrap()), of_adapter.join("base/model"));
    // the adapter is the model of its stage, too
    assert_eq!(parameters(&of_adapter.join("group1/adapter")), parameters(&of_adapter.join("group1/model")));
}
