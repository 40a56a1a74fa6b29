//! What is asked of a run besides making it: faults found before its first step, a rehearsal, a verification.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::tool::{Said, findap, golden, run};

/// A recipe of three stages, a training on texts, a distillation and an alignment, with exercises of its own.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(judge: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let lines =
            |line: &dyn Fn(usize) -> serde_json::Value| (0..24).map(|n| format!("{}\n", line(n))).collect::<String>();
        let write = |name: &str, text: String| fs::write(folder.path().join(name), text).expect("it is written");
        write("text.jsonl", lines(&|n| json!({"text": format!("The price of bond {n} rose by {} points.", n % 7)})));
        write(
            "exercises.jsonl",
            lines(
                &|n| json!({"id": format!("e{n}"), "question": format!("What is {n} + 1?"), "answer": (n + 1).to_string()}),
            ),
        );
        let recipe = format!(
            "schema = 1\n[run]\nname = \"small\"\nseed = 3\n[model]\nbase = {:?}\nsave_dtype = \"f32\"\n\
             [[data]]\nname = \"text\"\npath = {:?}\nkind = \"text\"\n\
             [[stage]]\nname = \"group1\"\nkind = \"train\"\ntext = [\"text\"]\nsteps = 3\nbatch_tokens = 128\n\
             context_tokens = 64\nlearning_rate = 1e-3\n\
             [[stage]]\nname = \"distill\"\nkind = \"distill\"\nexercises = {:?}\nsamples_per_exercise = 4\n\
             max_new_tokens = 12\njudge = {judge}\n\
             [[stage]]\nname = \"align\"\nkind = \"align\"\nepochs = 1.0\nbatch_rows = 2\ncontext_tokens = 64\nlearning_rate = 1e-4\n",
            fs::canonicalize(golden("models/tiny")).expect("the golden model is there"),
            folder.path().join("text.jsonl"),
            folder.path().join("exercises.jsonl"),
        );
        write("recipe.toml", recipe);
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a command on the recipe in the run folder `run`.
    fn on_recipe(&self, command: &str, settings: &[&str]) -> Said {
        let mut findap = findap();
        findap.arg(command).arg(self.path("recipe.toml")).arg("--run-dir").arg(self.path("run"));
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        findap.args(settings).output().expect("the binary starts").into()
    }

    /// A task of three questions of its own, asked after the alignment; the recipe's keys for it.
    fn task(&self) -> String {
        let task = "schema = 1\nname = \"own\"\nversion = 1\ncapability = \"reasoning\"\ndomain = \"finance\"\n\
                    similarity = \"novel\"\nlicense = \"Apache-2.0\"\nsource = \"made up\"\nchance = 0.0\n\
                    metrics = [\"exact_match\"]\nchat = true\nprompt = \"{q}\"\n[dataset]\npath = \"own:rows.jsonl\"\n\
                    [generate]\ngold = \"yes\"\nmax_new_tokens = 4\n";
        let rows: String = (0..3).map(|n| format!("{}\n", json!({"q": format!("Is {n} a number?")}))).collect();
        fs::create_dir(self.path("tasks")).expect("a folder");
        fs::write(self.path("tasks/own.toml"), task).expect("it is written");
        fs::write(self.path("rows.jsonl"), rows).expect("it is written");
        let folder = self.folder.path();
        format!(
            "eval={{ tasks = [\"own\"], stages = [\"align\"], task_folder = {:?}, data = {{ own = {folder:?} }} }}",
            self.path("tasks")
        )
    }

    /// The one file of a folder of the run whose name begins so.
    fn named(&self, folder: &str, beginning: &str) -> PathBuf {
        let entries = fs::read_dir(self.path(folder)).expect("a folder").map(|entry| entry.expect("an entry").path());
        let is_named =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(beginning));
        entries.into_iter().find(is_named).expect("such a file")
    }

    fn verify(&self, arguments: &[&str]) -> Said {
        let run_folder = self.path("run");
        let words = ["verify".as_ref(), run_folder.as_os_str()].into_iter().chain(arguments.iter().map(AsRef::as_ref));
        run(words)
    }
}

/// A judge on this machine that calls every other solution right; the recipe's key for it. It lives as long as the test.
fn judge() -> String {
    judge_by(|body| body.iter().map(|byte| usize::from(*byte)).sum::<usize>() % 2 == 0)
}

/// A judge that decides by the body of a request.
fn judge_by(is_right: fn(&[u8]) -> bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a length");
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("the request");
            let verdict =
                json!({"Justification": "", "Correctness": if is_right(&body) { "correct" } else { "wrong" }});
            let message = json!({"choices": [{"message": {"content": verdict.to_string()}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10}});
            let body = message.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).expect("the reply");
        }
    });
    format!("{{ url = \"{url}\", model = \"judge\" }}")
}

#[test]
fn what_a_run_needs_is_missed_before_its_first_step() {
    let place = Place::new(&judge());
    let task_folder = format!("eval={{ tasks = [\"flare_finqa\"], data = {{ flare = {:?} }} }}", place.path("nowhere"));
    fs::write(place.path("bad.jsonl"), "{\"id\": \"a\", \"question\": \"q\"}\n").expect("it is written");
    let bad = format!("stage.distill.exercises={}", place.path("bad.jsonl").display());
    for (settings, words) in [
        (
            &["stage.distill.judge={ url = \"http://127.0.0.1:9/v1\", model = \"judge\" }"][..],
            &["judge", "127.0.0.1:9"][..],
        ),
        (
            &["stage.distill.judge={ url = \"http://127.0.0.1:9/v1\", model = \"j\", key_env = \"NO_SUCH_KEY\" }"],
            &["NO_SUCH_KEY"],
        ),
        (&["stage.distill.exercises=nowhere.jsonl"], &["nowhere.jsonl"]),
        (&[&bad], &["bad.jsonl", "answer"]),
        (&["data.text.path=nowhere.jsonl"], &["nowhere.jsonl"]),
        (&[&task_folder], &["flare"]),
    ] {
        place.on_recipe("run", settings).refusal(words);
        for trace in ["group1", "eval", "provenance.json"] {
            assert!(!place.path("run").join(trace).exists(), "{settings:?} was found after {trace} was made");
        }
    }
    place.on_recipe("plan", &[&bad]).refusal(&["bad.jsonl", "1 fault"]);
    place.on_recipe("run", &[]).success();
}

#[test]
fn a_rehearsal_says_that_a_run_is_safe_to_start_and_leaves_no_trace_in_it() {
    let place = Place::new(&judge());
    let said = place.on_recipe("rehearse", &["eval={ tasks = [\"flare_finqa\"] }"]);
    said.refusal(&["eval"]);
    let said = place.on_recipe("rehearse", &[]).success();
    for word in [
        "safe to start",
        "3 steps",
        "24 exercises",
        "judge: about 96 requests, about 9.60 k tokens in",
        "disk",
        "memory",
    ] {
        assert!(said.stdout.contains(word), "{word:?} is not in\n{}", said.stdout);
    }
    assert!(!place.path("run").join("rehearsal").exists() && !place.path("run").join("group1").exists());
    place.on_recipe("run", &[]).success();
    place.verify(&[]).success();
    let silent = "stage.distill.judge={ url = \"http://127.0.0.1:9/v1\", model = \"judge\" }";
    place.on_recipe("rehearse", &[silent]).refusal(&["judge"]);
}

/// What a stage reads beside what the distillation has yet to write is looked at before anything is trained.
#[test]
fn right_solutions_are_rehearsed_with_stand_ins_trained_on_and_verified() {
    let place = Place::new(&judge());
    let recipe = fs::read_to_string(place.path("recipe.toml")).expect("the recipe");
    let again = "[[stage]]\nname = \"again\"\nkind = \"train\"\nchat = [\"right-solutions\", \"own\"]\nepochs = 1.0\nbatch_rows = 2\n\
                 context_tokens = 64\nlearning_rate = 1e-4\n";
    let own = format!("[[data]]\nname = \"own\"\npath = {:?}\nkind = \"chat\"\n", place.path("own.jsonl"));
    let (before, _) = recipe.split_once("[[stage]]\nname = \"align\"").expect("an align stage");
    let recipe = before.replacen("[[stage]]", &format!("{own}[[stage]]"), 1) + again;
    fs::write(place.path("recipe.toml"), recipe).expect("it is written");
    place.on_recipe("run", &[]).refusal(&["own.jsonl"]);
    assert!(!place.path("run/group1").exists());
    fs::write(place.path("own.jsonl"), "{\"prompt\": \"What is 1 + 1?\", \"completion\": \"2\"}\n")
        .expect("it is written");
    let said = place.on_recipe("rehearse", &[]).success();
    assert!(said.stdout.contains("safe to start") && said.stdout.contains("again"), "{}", said.stdout);
    place.on_recipe("run", &[]).success();
    let metrics = fs::read_to_string(place.path("run/again/mixture.json")).expect("the rows of the stage");
    assert!(metrics.contains("right-solutions"), "{metrics}");
    let said = place.verify(&[]).success();
    assert!(said.stdout.contains("right solutions"), "{}", said.stdout);
    let solutions = place.path("run/right-solutions.jsonl");
    let text = fs::read_to_string(&solutions).expect("right solutions");
    fs::write(&solutions, text.replacen("What is", "What was", 1)).expect("it is written");
    let said = place.verify(&["--stage", "distill"]);
    assert!(said.code == Some(1) && said.stdout.contains("distill right solutions"), "{}", said.stdout);
}

#[test]
fn a_run_is_made_again_to_the_bit_and_what_was_changed_is_named() {
    let place = Place::new(&judge());
    place.on_recipe("run", &[&place.task()]).success();
    let said = place.verify(&[]).success();
    assert!(
        said.stdout.contains("every bit is equal") && said.stdout.contains("3 answers in 1 task"),
        "{}",
        said.stdout
    );
    assert!(!place.path("run").join("verification").exists());
    let [results, samples] = ["results_", "samples_own_"].map(|name| place.named("run/eval/align", name));
    let of_results = "results_"; // and the time
    for (path, stage, was, now, named) in [
        (place.path("run/group1/metrics.jsonl"), "group1", "\"step\":3", "\"step\":4", "`step` is 4, made again 3"),
        (
            place.path("run/group1/mixture.json"),
            "group1",
            "\"steps\": 3",
            "\"steps\": 4",
            "group1 counts: group1/mixture.json: `steps`",
        ),
        (
            place.path("run/group1/done.json"),
            "group1",
            "\"steps\": 3",
            "\"steps\": 4",
            "group1 counts: group1/done.json: `steps`",
        ),
        (
            place.path("run/distill/samples.jsonl"),
            "distill",
            "\"is_finished\":false",
            "\"is_finished\":true",
            "].is_finished` is true, made",
        ),
        (
            place.path("run/distill/statistics.json"),
            "distill",
            "\"solutions\": 96",
            "\"solutions\": 95",
            "`solutions` is 95, made again 96",
        ),
        (
            place.path("run/preferences.jsonl"),
            "distill",
            "What is",
            "What was",
            "distill pairs: preferences.jsonl, line 1",
        ),
        (
            place.path("run/align/model/config.json"),
            "align",
            "{",
            "{ ",
            "align model: other bytes in model/config.json",
        ),
        (place.path("text.jsonl"), "group1", "bond 3", "bond 4", "group1 files: data.text ("),
        (results, "align", "\"exact_match,none\": 0.0", "\"exact_match,none\": 0.7", of_results),
        (samples, "align", "Is 2", "Is 3", "samples_own_"),
        (place.path("rows.jsonl"), "align", "Is 2", "Is 3", "task.own"),
    ] {
        let text = fs::read_to_string(&path).expect("a text");
        assert!(text.contains(was), "{} has no {was}: {text}", path.display());
        fs::write(&path, text.replacen(was, now, 1)).expect("it is written");
        let said = place.verify(&["--stage", stage]);
        assert_eq!(said.code, Some(1), "{}: {}{}", path.display(), said.stdout, said.stderr);
        assert!(said.stdout.contains(named) && said.stdout.contains("DIFFERS"), "{}: {}", path.display(), said.stdout);
        fs::write(&path, text).expect("it is written");
    }
    place.verify(&["--stage", "align"]).success();
    place.verify(&["--stage", "align2"]).refusal(&["align2", "group1, distill, align"]);
    run(["verify".as_ref(), Path::new("/nowhere").as_os_str()]).refusal(&["nowhere"]);
}

/// A judge may move and be allowed longer replies; the labels that it gave stay, and are made again from what it said then.
#[test]
fn a_judge_that_moved_is_verified_by_what_it_said_before() {
    let place = Place::new(&judge());
    place.on_recipe("run", &[]).success();
    let moved = "stage.distill.judge={ url = \"http://127.0.0.1:9/v1\", model = \"judge\", max_tokens = 99 }";
    place.on_recipe("run", &[moved]).success();
    place.verify(&["--stage", "distill"]).success();
    let exercises = fs::read_to_string(place.path("exercises.jsonl")).expect("exercises");
    fs::write(place.path("exercises.jsonl"), exercises.replace("What is", "What was")).expect("they are written");
    place.verify(&["--stage", "distill"]).refusal(&["exercises.jsonl) is not what it was"]);
}

#[test]
fn a_distillation_of_right_solutions_without_a_pair_is_verified_alone() {
    let place = Place::new(&judge_by(|_| true));
    let recipe = fs::read_to_string(place.path("recipe.toml")).expect("the recipe");
    let (before, _) = recipe.split_once("[[stage]]\nname = \"align\"").expect("an align stage");
    let again = "[[stage]]\nname = \"again\"\nkind = \"train\"\nchat = [\"right-solutions\"]\nepochs = 1.0\nbatch_rows = 2\n\
                 context_tokens = 64\nlearning_rate = 1e-4\n";
    fs::write(place.path("recipe.toml"), format!("{before}{again}")).expect("it is written");
    place.on_recipe("run", &[]).success();
    let said = place.verify(&["--stage", "distill"]).success();
    assert!(said.stdout.contains("0 pairs"), "{}", said.stdout);
}

/// Four solutions of each of 24 exercises give one final-answer pair and one correction at most.
#[test]
fn a_plan_bounds_what_is_yet_to_be_distilled_and_leaves_nothing_behind() {
    let place = Place::new("{ url = \"http://127.0.0.1:9/v1\", model = \"judge\" }");
    let said = place.on_recipe("plan", &[]).success();
    let words = said.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("| align | <=48 |") && words.contains("yet to be distilled"), "{}", said.stdout);
    assert!(!words.contains("free: unknown") && !words.contains("does not train on the pairs"), "{}", said.stdout);
    assert!(said.stdout.lines().all(|line| line.chars().count() <= 80 || line.contains('/')), "{}", said.stdout);
    let own = format!("data.own={{ path = {:?}, kind = \"preference\" }}", place.path("own.jsonl"));
    let row = json!({"prompt": "Is it?", "chosen": "Yes.", "rejected": "No."});
    fs::write(place.path("own.jsonl"), format!("{row}\n")).expect("it is written");
    let recipe = fs::read_to_string(place.path("recipe.toml")).expect("the recipe");
    let table =
        own.replacen("data.own={ ", "[[data]]\nname = \"own\"\n", 1).replace(", kind", "\nkind").replace(" }", "\n");
    let (data, stages) = recipe.split_at(recipe.find("[[stage]]").expect("a stage"));
    let stages = stages.replace("kind = \"align\"", "kind = \"align\"\npairs = [\"own\", \"preferences\"]");
    fs::write(place.path("recipe.toml"), format!("{data}{table}{stages}")).expect("it is written");
    let said = place.on_recipe("plan", &[]).success();
    assert!(said.stdout.contains("<=49"), "own pairs count, too: {}", said.stdout);
    assert!(!place.path("run").exists(), "a plan begins no run");
    let nowhere = format!("model.base={}", place.path("nowhere").display());
    place.on_recipe("plan", &[&nowhere]).refusal(&["nowhere"]);
}

#[test]
fn a_stage_that_would_train_nothing_is_not_safe_to_start() {
    let place = Place::new(&judge());
    let said = place.on_recipe("rehearse", &["stage.group1.steps=1", "stage.group1.warmup_ratio=0.1"]);
    let said = said.refusal(&["group1", "it trains nothing"]);
    assert!(said.stdout.contains("not safe to start"), "{}", said.stdout);
}
