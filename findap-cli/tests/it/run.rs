//! Whole runs through the binary: to their end, stopped, killed, continued, refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::tool::{Said, findap, golden, run};

/// A folder with a recipe of three stages over small data: texts and conversations, then conversations alone, then pairs.
struct Workplace {
    folder: tempfile::TempDir,
    recipe: PathBuf,
}

impl Workplace {
    fn new(steps: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, rows: Vec<Value>| {
            let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            fs::write(folder.path().join(name), lines).expect("the data are written");
        };
        let text = |n: usize| serde_json::json!({"text": format!("The price of bond {n} rose by {} points.", n % 7)});
        let chat = |n: usize| {
            serde_json::json!({"messages": [
                {"role": "user", "content": format!("What is {n} and {}?", n % 5)},
                {"role": "assistant", "content": format!("It is {}.", n + n % 5)},
            ]})
        };
        let pair = |n: usize| {
            serde_json::json!({
                "prompt": format!("What is {n} and {n}?"), "chosen": format!("It is {}.", 2 * n), "rejected": format!("It is {n}."),
            })
        };
        write("text.jsonl", (0..60).map(text).collect());
        write("chat.jsonl", (0..40).map(chat).collect());
        write("dev.jsonl", (100..108).map(chat).collect());
        write("pairs.jsonl", (1..13).map(pair).collect());
        let data = |name: &str, kind: &str| {
            let path = folder.path().join(format!("{name}.jsonl"));
            format!("[[data]]\nname = \"{name}\"\npath = {path:?}\nkind = \"{kind}\"\n")
        };
        let recipe = folder.path().join("recipe.toml");
        let text = format!(
            "schema = 1\n[run]\nname = \"small\"\nseed = 3\nfolder = {:?}\n[model]\nbase = {:?}\nsave_dtype = \"f32\"\n{}{}{}{}\
             [[stage]]\nname = \"group1\"\nkind = \"train\"\ntext = [\"text\"]\nchat = [\"chat\"]\ndev = [\"dev\"]\nsteps = {steps}\n\
             batch_tokens = 256\nmicro_batch_tokens = 128\ncontext_tokens = 128\nlearning_rate = 1e-3\nwarmup_ratio = 0.1\n\
             evaluate_every_steps = 7\nsave_every_steps = 5\n\
             [[stage]]\nname = \"group2\"\nkind = \"train\"\nchat = [\"chat\"]\nsteps = {steps}\nbatch_tokens = 256\n\
             context_tokens = 128\nlearning_rate = 5e-4\nschedule = \"cosine\"\nsave_every_steps = 4\n\
             [[stage]]\nname = \"align\"\nkind = \"align\"\npairs = [\"pairs\"]\nepochs = 2.0\nbatch_rows = 4\nmicro_batch_rows = 2\n\
             context_tokens = 128\nlearning_rate = 1e-4\n",
            folder.path().join("run"),
            fs::canonicalize(golden("models/tiny")).expect("the golden model is there"),
            data("text", "text"),
            data("chat", "chat"),
            data("dev", "chat"),
            data("pairs", "preference"),
        );
        fs::write(&recipe, text).expect("the recipe is written");
        Self { folder, recipe }
    }

    fn command(&self, run_folder: &Path) -> std::process::Command {
        let mut command = findap();
        command.arg("run").arg(&self.recipe).arg("--run-dir").arg(run_folder);
        command
    }

    fn start(&self, run_folder: &Path) -> Child {
        let mut command = self.command(run_folder);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
    }

    fn run(&self, run_folder: &Path) -> Said {
        self.command(run_folder).output().expect("the binary starts").into()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Weights, metrics and cached log-probabilities of every stage, without wall times.
fn made(run_folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut made = BTreeMap::new();
    for stage in ["group1", "group2", "align"] {
        let folder = run_folder.join(stage);
        for name in ["model/model.safetensors", "model/tokenizer.json", "mixture.json"] {
            made.insert(format!("{stage}/{name}"), fs::read(folder.join(name)).expect(name));
        }
        let without_times = |line: &str| {
            let mut value: Value = serde_json::from_str(line).expect("a line of metrics is JSON");
            value.as_object_mut().expect("an object").remove("tokens_per_s");
            format!("{value}\n")
        };
        let metrics = fs::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
        made.insert(format!("{stage}/metrics"), metrics.lines().map(without_times).collect::<String>().into_bytes());
    }
    made.insert("references".to_owned(), fs::read(run_folder.join("align/references.json")).expect("references"));
    made
}

#[test]
fn a_run_makes_everything_and_a_second_run_does_nothing_again() {
    let workplace = Workplace::new(12);
    let folder = workplace.path("run");
    let said = workplace.run(&folder).success();
    for word in ["model", "align/model", "report.html", "chat"] {
        assert!(said.stdout.contains(word), "{}", said.stdout);
    }
    for name in [
        "recipe.toml",
        "resolved.toml",
        "provenance.json",
        "report.html",
        "group1/metrics.jsonl",
        "group1/mixture.json",
        "group1/done.json",
        "group2/model/config.json",
        "align/model/chat_template.jinja",
    ] {
        assert!(folder.join(name).is_file(), "{name} is missing");
    }
    let events = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("events.out.tfevents");
    assert!(fs::read_dir(folder.join("group1")).expect("the stage").flatten().any(|entry| events(&entry)));
    let first = made(&folder);
    let lines = String::from_utf8_lossy(&first["group1/metrics"]).lines().count();
    assert_eq!(lines, 12 + 2, "12 steps and the dev loss after 7 and 12");

    let again = workplace.run(&folder).success();
    for stage in ["group1", "group2", "align"] {
        assert!(again.stderr.contains(&format!("{stage}: done before, skipped")), "{}", again.stderr);
    }
    assert_eq!(made(&folder), first);

    // The resolved recipe is a recipe, and makes the same.
    let copy = workplace.path("copy");
    let resolved = folder.join("resolved.toml");
    run(["run".as_ref(), resolved.as_os_str(), "--run-dir".as_ref(), copy.as_os_str()]).success();
    assert_eq!(made(&copy), first);
}

#[test]
fn a_loss_without_a_reference_asks_none() {
    let workplace = Workplace::new(4);
    let flops = |loss: &str| {
        let folder = workplace.path(loss);
        let set = format!("stage.align.loss={loss}");
        let changes = ["--unset", "stage.group1", "--unset", "stage.group2", "--set", &set, "--run-dir"];
        let asked = |command: &str, last: &[&str]| {
            let mut tool = findap();
            tool.arg(command).arg(&workplace.recipe).args(changes).arg(&folder).args(last);
            Said::from(tool.output().expect("the binary starts")).success()
        };
        assert!(asked("plan", &[]).stdout.contains(&format!("align ({loss})")));
        let plan: Value = serde_json::from_str(&asked("plan", &["--json"]).stdout).expect("a plan is JSON");
        assert_eq!(plan["plan"][0]["loss"], loss);
        asked("run", &[]);
        let metrics = fs::read_to_string(folder.join("align/metrics.jsonl")).expect("metrics");
        assert!(metrics.contains(&format!("\"{loss}_loss\"")) && metrics.contains("\"reward_margin\""), "{metrics}");
        let report = fs::read_to_string(folder.join("report.html")).expect("a report");
        assert!(report.contains(&format!("<td>{loss}</td>")));
        let has_reference = folder.join("align/references.json").exists();
        (has_reference, plan["plan"][0]["flops"].as_f64().expect("operations"))
    };
    let (dpo, simpo, orpo) = (flops("dpo"), flops("simpo"), flops("orpo"));
    assert_eq!([dpo.0, simpo.0, orpo.0], [true, false, false]);
    assert!((dpo.1 / simpo.1 - 4.0 / 3.0).abs() < 1e-12 && simpo.1 == orpo.1, "{dpo:?}, {simpo:?}, {orpo:?}");
}

#[test]
fn other_settings_or_data_on_a_begun_run_are_refused_by_name() {
    let workplace = Workplace::new(4);
    let folder = workplace.path("run");
    workplace.run(&folder).success();
    let before = everything(&folder);
    let set_all = |settings: &[&str]| -> Said {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        workplace.command(&folder).args(settings).output().expect("the binary starts").into()
    };
    let set = |setting: &str| set_all(&[setting]);
    set("stage.group2.learning_rate=1e-2").refusal(&["group2", "learning_rate", "was 0.0005, now 0.01"]);
    set("run.seed=4").refusal(&["run.seed", "was 3, now 4"]);
    set_all(&["model.compute=bf16", "model.state=bf16"])
        .refusal(&["model.compute", "model.state: was (none), now Bf16"]);
    assert_eq!(everything(&folder), before, "a recipe that does not fit changes nothing");
    let text = fs::read_to_string(workplace.path("chat.jsonl")).expect("the data");
    fs::write(workplace.path("chat.jsonl"), text.replacen("It is 0.", "It is 9.", 1)).expect("the data change");
    workplace.run(&folder).refusal(&["group1", "data.chat"]);
    for name in ["recipe.toml", "resolved.toml", "provenance.json", "group1/done.json", "align/model/model.safetensors"]
    {
        assert_eq!(everything(&folder).get(name), before.get(name), "{name}");
    }
}

#[test]
fn a_stage_that_is_reset_is_made_again_with_all_that_follows() {
    let workplace = Workplace::new(4);
    let folder = workplace.path("run");
    workplace.run(&folder).success();
    let first = made(&folder);
    let path = folder.display().to_string();
    run(["reset", &path, "group3"]).refusal(&["group1, group2, align"]);
    run(["reset", &path, "group2"]).refusal(&["--yes"]);
    assert_eq!(made(&folder), first, "without a yes nothing is removed");
    let said = run(["reset", &path, "group2", "--yes"]).success();
    assert!(said.stdout.contains("group2") && said.stdout.contains("align"), "{}", said.stdout);
    assert!(!folder.join("group2").exists() && !folder.join("align").exists());
    let again = workplace.run(&folder).success();
    assert!(again.stderr.contains("group1: done before, skipped"), "{}", again.stderr);
    assert_eq!(made(&folder), first);
}

#[test]
fn a_finished_model_that_was_changed_is_not_trained_on() {
    let workplace = Workplace::new(4);
    let folder = workplace.path("run");
    workplace.run(&folder).success();
    let config = folder.join("group1/model/config.json");
    let text = fs::read_to_string(&config).expect("a config");
    fs::write(&config, text.replacen('{', "{ ", 1)).expect("the config changes");
    workplace.run(&folder).refusal(&["group1/model", "not those that the stage made"]);
    fs::write(&config, text).expect("the config is put back");
    workplace.run(&folder).success();
}

#[test]
fn a_plan_tells_tokens_steps_memory_and_time() {
    let workplace = Workplace::new(4);
    let folder = workplace.path("run");
    let plan = |flag: &[&str]| {
        let mut command = findap();
        command.arg("plan").arg(&workplace.recipe).args(flag).arg("--run-dir").arg(&folder);
        Said::from(command.output().expect("the binary starts")).success().stdout
    };
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = words(plan(&[]));
    for word in ["tokens", "memory", "TFLOP", "optimizer moments", "GFLOP/s"] {
        assert!(text.contains(word), "{word}\n{text}");
    }
    let for_gpus = ["model.compute=bf16", "model.state=bf16"].into_iter().flat_map(|setting| ["--set", setting]);
    let text = words(plan(&for_gpus.collect::<Vec<&str>>()));
    assert!(text.contains("on a GPU: weights") && !text.contains("weights in f32"), "{text}");
    let value: Value = serde_json::from_str(&plan(&["--json"])).expect("one JSON object");
    let group1 = &value["plan"][0];
    assert_eq!((group1["stage"].as_str(), group1["steps"].as_u64()), (Some("group1"), Some(4)));
    assert!(group1["flops"].as_f64().is_some_and(|flops| flops > 1e6), "{group1}");
    assert!(!folder.join("group1").exists(), "nothing was trained");
}

#[test]
fn one_stage_needs_those_before_it() {
    let workplace = Workplace::new(4);
    let folder = workplace.path("run");
    let stage = |name: &str| -> Said {
        let mut command = findap();
        command.arg("train").arg(&workplace.recipe).args(["--stage", name, "--run-dir"]).arg(&folder);
        command.output().expect("the binary starts").into()
    };
    stage("group2").refusal(&["group1", "not done"]);
    stage("group3").refusal(&["group3", "group1, group2, align"]);
    stage("group1").success();
    stage("group2").success();
    assert!(folder.join("group2/model/model.safetensors").is_file() && !folder.join("align").exists());
    findap_distill(&workplace).refusal(&["distill"]);
}

/// Every file of a run folder by its path, except the lock, which names its last owner.
fn everything(run_folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![run_folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let name = entry.strip_prefix(run_folder).expect("below it").to_string_lossy().into_owned();
            files.insert(name, fs::read(&entry).expect("a file"));
        }
    }
    files.remove("run.lock");
    files
}

fn findap_distill(workplace: &Workplace) -> Said {
    run(["distill".as_ref(), workplace.recipe.as_os_str()])
}

#[test]
fn a_second_run_on_one_folder_is_refused() {
    let workplace = Workplace::new(2000);
    let folder = workplace.path("run");
    let mut first = workplace.start(&folder);
    wait_for(&folder.join("group1/metrics.jsonl"));
    workplace.run(&folder).refusal(&["another run works here", &format!("process {}", first.id())]);
    first.kill().expect("the run is stopped");
    first.wait().expect("it ends");
}

#[test]
fn a_signal_ends_a_run_with_a_checkpoint() {
    let whole = Workplace::new(60);
    whole.run(&whole.path("whole")).success();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let folder = whole.path(&format!("stopped{signal}"));
        let mut child = whole.start(&folder);
        wait_for(&folder.join("group1/metrics.jsonl"));
        // SAFETY: the process is our child and has not been waited for.
        unsafe {
            libc::kill(child.id().cast_signed(), signal);
        }
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(130), "it was stopped in the first stage");
        assert!(!folder.join("group1/done.json").exists());
        whole.run(&folder).success();
        assert_eq!(made(&folder), made(&whole.path("whole")));
    }
}

#[test]
fn a_run_killed_at_random_moments_goes_on_bit_for_bit() {
    let workplace = Workplace::new(50);
    let begun = Instant::now();
    workplace.run(&workplace.path("whole")).success();
    let whole_run = begun.elapsed();
    let want = made(&workplace.path("whole"));
    let mut moment = 1u64;
    for trial in 0..20 {
        let folder = workplace.path(&format!("killed{trial}"));
        let mut child = workplace.start(&folder);
        // A linear congruence is random enough to hit every part of a run, and the same in every test.
        moment = moment.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(whole_run.mul_f64((moment >> 33) as f64 / f64::from(1u32 << 31)));
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
        workplace.run(&folder).success();
        assert!(made(&folder) == want, "trial {trial}: killed and continued, something differs");
        fs::remove_dir_all(&folder).expect("the folder is removed");
    }
}

/// Waits until a file has something in it.
fn wait_for(path: &Path) {
    let begun = Instant::now();
    while fs::metadata(path).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Repeats the reference's twelve steps by an ordinary recipe over pre-packed rows.
#[test]
fn twelve_steps_by_a_recipe_are_the_references() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let read = |path: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(golden(path)).expect(path)).expect("golden JSON")
    };
    let data = read("data/train.json");
    let micro_batches =
        data["steps"].as_array().into_iter().flatten().flat_map(|step| step.as_array().into_iter().flatten());
    let rows: Vec<String> = micro_batches
        .flat_map(|micro| micro["rows"].as_array().into_iter().flatten())
        .map(|row| format!("{row}\n"))
        .collect();
    let path = folder.path().join("rows.jsonl");
    fs::write(&path, rows.concat()).expect("the rows are written");
    let recipe = folder.path().join("recipe.toml");
    let run_folder = folder.path().join("run");
    let text = format!(
        "schema = 1\n[run]\nname = \"golden\"\n[model]\nbase = {:?}\nsave_dtype = \"f32\"\n\
         [[data]]\nname = \"rows\"\npath = {path:?}\nkind = \"packed\"\n\
         [[stage]]\nname = \"train\"\nkind = \"train\"\nrows = [\"rows\"]\nshuffle = false\nsteps = 12\nbatch_rows = 4\n\
         micro_batch_rows = 2\ncontext_tokens = 256\nlearning_rate = 1e-3\nwarmup_steps = 3\nweight_decay = 0.1\n\
         betas = [0.9, 0.95]\nepsilon = 1e-8\nclip_norm = 1.0\n",
        golden("models/tiny"),
    );
    fs::write(&recipe, text).expect("the recipe is written");
    run(["run".as_ref(), recipe.as_os_str(), "--run-dir".as_ref(), run_folder.as_os_str()]).success();

    let metrics = fs::read_to_string(run_folder.join("train/metrics.jsonl")).expect("metrics");
    let report = read("out/train_tiny/report.json");
    let number = |value: &Value| value.as_f64().expect("a number");
    let want = report["steps"].as_array().expect("steps");
    assert_eq!(metrics.lines().count(), want.len());
    for (line, want) in metrics.lines().zip(want) {
        let got: Value = serde_json::from_str(line).expect("JSON");
        assert!((number(&got["loss"]) - number(&want["loss"])).abs() < 1e-6, "{got} against {want}");
        assert!((number(&got["grad_norm"]) / number(&want["grad_norm"]) - 1.0).abs() < 1e-5, "{got} against {want}");
        assert!((number(&got["lr"]) - number(&want["lr"])).abs() < 1e-15);
    }
    let bytes = |path: PathBuf| fs::read(path).expect("weights");
    let (got, want) = (
        bytes(run_folder.join("train/model/model.safetensors")),
        bytes(golden("out/train_tiny/final/model.safetensors")),
    );
    let got = safetensors::SafeTensors::deserialize(&got).expect("weights");
    let want = safetensors::SafeTensors::deserialize(&want).expect("weights");
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    for (name, tensor) in want.tensors() {
        let got = values(got.tensor(&name).expect("the same tensors").data());
        let worst = got.iter().zip(values(tensor.data())).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{name}: {worst}");
    }
}
