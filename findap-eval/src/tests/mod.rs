//! The engine end to end, with scripted models in place of weights.

mod answers;
mod files;
mod judged;
mod paper;
mod replies;

use std::path::{Path, PathBuf};

use findap_data::{DataError, Location};

use crate::dataset::DataRoots;
use crate::engine::{Progress, run};
use crate::options::Options;
use crate::scripted::ScriptedModel;
use crate::task::Metric;
use crate::{EvalError, Registry, Results, Task};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn options(root: &Path) -> Options {
    Options { data_roots: DataRoots::from([("data".to_owned(), root.to_owned())]), ..Options::default() }
}

/// Built-in tasks, but for those that need a judge.
fn builtin(names: &[&str]) -> Vec<Task> {
    let selected = Registry::builtin().and_then(|registry| registry.select_runnable(names.iter().copied(), false));
    selected.expect("built-in tasks").0
}

fn builtin_judged(name: &str) -> Task {
    let selected = Registry::builtin().and_then(|registry| registry.select_runnable([name], true));
    selected.expect("a built-in task").0.remove(0)
}

fn evaluate(model: &ScriptedModel, tasks: &[Task], options: &Options) -> Result<Results, EvalError> {
    run(model, None, tasks, options, &mut |_| true)
}

fn value(results: &Results, task: &str, metric: Metric) -> f64 {
    let found = results.tasks.iter().find(|result| result.summary.name == task).expect("the task was run");
    found.summary.metrics.iter().find(|value| value.metric == metric).expect("the metric was asked for").value
}

/// Likes `B` best and answers everything else with the same words.
fn fixed(reply: &'static str) -> ScriptedModel {
    ScriptedModel::new(
        |_, continuation| if continuation.trim() == "B" { -1.0 } else { -2.0 },
        move |_| reply.to_owned(),
    )
}

fn task_on(folder: &Path, rows: &str, body: &str) -> Task {
    std::fs::write(folder.join("rows.jsonl"), rows).expect("writes");
    let head = r#"
        schema = 1
        name = "t"
        version = 1
        capability = "concept"
        domain = "finance"
        similarity = "similar"
        license = "Apache-2.0"
        source = "made up"
        chance = 0.25
    "#;
    let text = format!("{head}\n{body}").replace("ROWS", "[dataset]\npath = \"data:rows.jsonl\"\n");
    Task::parse("t.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

const CHOICE: &str = r#"
    metrics = ["acc", "acc_norm", "acc_bytes"]
    chat = false
    prompt = "{q}"
    ROWS
    [multiple_choice]
    choices_from = "c"
    gold = "a"
"#;

const REPLY: &str = r#"
    metrics = ["exact_match", "missing"]
    chat = true
    prompt = "{q}"
    ROWS
    [generate]
    gold = "{a}"
    extract = [{ after = "Answer:" }, "strip"]
    stop = ["END"]
    max_new_tokens = 4
"#;

#[test]
fn built_in_tasks_score_what_the_script_answers() {
    let model = ScriptedModel::new(
        |_, continuation| if continuation == " B" { -1.0 } else { -2.0 },
        |prompt| match prompt {
            prompt if prompt.contains("Halvern") || prompt.contains("Brenno") => "Positive.".to_owned(),
            prompt if prompt.contains("sentiment") => "It is neutral".to_owned(),
            prompt if prompt.contains("Orrin") => "Orrin Bank, ORG\nLia Marsh, ORG\n\nmore".to_owned(),
            prompt if prompt.contains("change in sales of lamps from") => {
                "1,250.5 - 1,000 = 250.5\nAnswer: $250.50".to_owned()
            }
            prompt if prompt.contains("percentage") => "Answer: 25.06 percent".to_owned(),
            prompt if prompt.contains("jars") => "48 - 6 = 42\nAnswer: 42".to_owned(),
            prompt if prompt.contains("hens") => "#### 2100".to_owned(),
            _ => "no idea".to_owned(),
        },
    );
    let results = evaluate(&model, &builtin(&["@real"]), &options(&fixtures())).expect("runs");
    // fpb: two positives right, two neutrals right, two negatives called neutral.
    assert!((value(&results, "fpb", Metric::Acc) - 4.0 / 6.0).abs() < 1e-12);
    assert!((value(&results, "fpb", Metric::MacroF1) - (1.0 + 0.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
    assert_eq!(value(&results, "fpb", Metric::Missing), 0.0);
    // ner: one prompt per text; 4 gold entities, 2 answered, 1 right.
    for task in ["ner", "ner_conll"] {
        let found = results.tasks.iter().find(|result| result.summary.name == task).expect(task);
        assert_eq!(found.summary.num_rows, 2, "{task}");
        assert!((value(&results, task, Metric::EntityF1) - 2.0 / 6.0).abs() < 1e-12, "{task}");
    }
    // tatqa: spans are left out; one exact, one within a thousandth, one without an answer.
    assert!((value(&results, "tatqa", Metric::ExactMatch) - 2.0 / 3.0).abs() < 1e-12);
    assert!((value(&results, "tatqa", Metric::Missing) - 1.0 / 3.0).abs() < 1e-12);
    let tatqa = results.tasks.iter().find(|result| result.summary.name == "tatqa").expect("tatqa");
    assert!(tatqa.samples[0].prompt.contains("Scale of the answer (blank for none): thousand"));
    assert!((value(&results, "gsm8k", Metric::ExactMatch) - 2.0 / 3.0).abs() < 1e-12);
    let mmlu = results.tasks.iter().find(|result| result.summary.name == "mmlu_finance").expect("mmlu_finance");
    assert_eq!((mmlu.summary.num_rows, mmlu.summary.subsets.len()), (14, 7));
    assert!((mmlu.summary.headline().value - 6.0 / 14.0).abs() < 1e-12, "{:?}", mmlu.summary.subsets);
}

#[test]
#[allow(clippy::print_stderr)] // the notice of a skipped test
fn built_in_tasks_read_the_real_data() {
    let Some(root) = std::env::var_os("FINDAP_REAL_DATA") else {
        eprintln!("skipped: FINDAP_REAL_DATA is not set, so the built-in tasks were tried on fixtures only");
        return;
    };
    let mut tasks = builtin(&["ner", "ner_conll", "tatqa", "mmlu", "mmlu_finance", "gsm8k"]);
    // The sample has 13 of the 57 subjects.
    tasks[3].dataset.subsets.retain(|subject| Path::new(&root).join(format!("mmlu/test/{subject}_test.csv")).exists());
    let results = evaluate(&fixed("Answer: 18"), &tasks, &options(Path::new(&root))).expect("runs");
    let rows: Vec<usize> = results.tasks.iter().map(|task| task.summary.num_rows).collect();
    assert_eq!(rows[0], 20, "200 rows are 20 texts under ten prompts");
    assert!(rows[2..].iter().all(|rows| *rows >= 100), "{rows:?}");
    let first = &results.tasks[5].samples[0];
    assert_eq!((first.outcome.gold.as_str(), first.outcome.values[&Metric::ExactMatch]), ("18", 1.0));
    assert!(results.tasks[2].samples[0].prompt.contains("| Fixed Price | $  1,452.4 |"));
    // A model that always likes B is right about as often as B is gold.
    assert!((0.2..0.3).contains(&results.tasks[4].summary.headline().value));
    assert!(
        results.tasks[1].samples.iter().any(|sample| sample.outcome.gold.contains("Silicium de Provence SAS, ORG"))
    );
}

#[test]
fn solved_examples_stand_before_the_question() {
    let mut options = options(&fixtures());
    options.num_fewshot = Some(1);
    options.limit = Some(1);
    let results = evaluate(&fixed("x"), &builtin(&["mmlu_finance", "gsm8k"]), &options).expect("runs");
    let prompt = &results.tasks[0].samples[0].prompt;
    let (opening, examples) = prompt.split_once("\n\n").expect("a description");
    assert_eq!(opening, "The following are multiple choice questions (with answers) about business ethics.");
    let (example, question) = examples.split_once("\n\n").expect("two blocks");
    assert!(example.contains("(example)") && example.ends_with("Answer: B"), "{prompt}");
    assert!(question.ends_with("Answer:"), "{prompt}");
    assert!(results.tasks[1].samples[0].prompt.contains("Answer: 14"));

    options.num_fewshot = Some(9);
    let error = evaluate(&fixed("x"), &builtin(&["gsm8k"]), &options).expect_err("too few");
    assert!(error.to_string().contains("asks for 9 solved examples, there are 1"), "{error}");
}

#[test]
fn drawn_examples_follow_the_seed_and_never_hold_the_question() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows: String = (0..20).map(|i| format!("{{\"q\": \"q{i}.\", \"a\": \"a{i}\"}}\n")).collect();
    let body = REPLY.replace(
        "chat = true",
        "chat = true\nnum_fewshot = 3\nfewshot_rule = \"sampled\"\nfewshot_as_multiturn = true",
    );
    let task = task_on(folder.path(), &rows, &body);
    let prompts = |seed| {
        let options = Options { seed, ..options(folder.path()) };
        let results = evaluate(&fixed("x"), std::slice::from_ref(&task), &options).expect("runs");
        results.tasks[0].samples.iter().map(|sample| sample.prompt.clone()).collect::<Vec<_>>()
    };
    let first = prompts(1);
    assert_eq!(first, prompts(1));
    assert_ne!(first, prompts(2));
    for (index, prompt) in first.iter().enumerate() {
        assert_eq!(prompt.matches("<user>").count(), 4);
        assert_eq!(prompt.matches(&format!("<user>q{index}.")).count(), 1, "{prompt}");
        assert!(prompt.ends_with(&format!("<user>q{index}.</user><assistant>")));
    }
}

#[test]
fn grouping_and_limits_do_not_change_answers() {
    let tasks = builtin(&["@real"]);
    let model = || {
        ScriptedModel::new(
            |context, text| -((context.len() * 7 + text.len() * 13) as f64 % 5.0),
            |prompt| prompt.len().to_string(),
        )
    };
    let all = |requests_per_call| {
        let options = Options { requests_per_call, ..options(&fixtures()) };
        let mut results = evaluate(&model(), &tasks, &options).expect("runs");
        results.info.seconds = 0.0;
        results.info.started_unix = 0.0;
        results.to_json()
    };
    assert_eq!(all(1), all(256));
    let limited = evaluate(&model(), &tasks, &Options { limit: Some(1), ..options(&fixtures()) }).expect("runs");
    let fpb = &limited.tasks[0].summary;
    assert_eq!((fpb.num_rows, fpb.num_original), (1, 6));
    assert_eq!(fpb.headline().stderr, None);
}

#[test]
fn a_stopped_run_asks_only_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let journal = folder.path().join("eval/answers.jsonl");
    let tasks = builtin(&["fpb", "gsm8k", "mmlu_finance"]);
    let options = Options { journal: Some(journal.clone()), requests_per_call: 4, ..options(&fixtures()) };
    let whole = evaluate(&fixed("positive"), &tasks, &Options { journal: None, ..options.clone() }).expect("runs");

    let mut model = fixed("positive");
    model.fail_after = Some(20);
    assert!(matches!(evaluate(&model, &tasks, &options), Err(EvalError::Model { .. })));
    // A crash in the middle of a line.
    let mut text = std::fs::read_to_string(&journal).expect("the journal");
    let kept = text.lines().count();
    text.push_str("{\"key\": \"12");
    std::fs::write(&journal, text).expect("writes");

    let model = fixed("positive");
    let mut seen = Vec::new();
    let resumed = run(&model, None, &tasks, &options, &mut |progress: Progress| {
        seen.push(progress.num_done);
        true
    })
    .expect("resumes");
    assert_eq!(kept, 5, "five calls of one four-way question each");
    assert_eq!(model.num_requests.get(), 6 + 3 + 4 * (14 - kept));
    assert_eq!(*seen.last().expect("progress"), 6 + 3 + 14);
    let samples = |results: &Results| results.tasks.iter().map(|task| task.samples.clone()).collect::<Vec<_>>();
    assert_eq!(samples(&resumed), samples(&whole));
    // Nothing is left to ask.
    let model = fixed("other words");
    evaluate(&model, &tasks, &options).expect("runs");
    assert_eq!(model.num_requests.get(), 0);
    // Not a journal.
    std::fs::write(&journal, "hello\n").expect("writes");
    let refused = evaluate(&model, &tasks, &options);
    assert!(matches!(refused, Err(EvalError::Journal(DataError::Record { location: Location::Line(1), .. }))));
}

#[test]
fn characters_and_bytes_normalise_differently() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Two characters in four bytes against three characters in three bytes.
    let task = task_on(folder.path(), "{\"q\": \"x\", \"c\": [\"\u{e9}\u{e9}\", \"abc\"], \"a\": 1}", CHOICE);
    let model = ScriptedModel::new(|_, text| if text.contains('a') { -6.0 } else { -5.0 }, |_| String::new());
    let results = evaluate(&model, &[task], &options(folder.path())).expect("runs");
    // Sums: -5 > -6. By character: -2.5 < -2. By byte: -1.25 > -2.
    assert_eq!(value(&results, "t", Metric::Acc), 0.0);
    assert_eq!(value(&results, "t", Metric::AccNorm), 1.0);
    assert_eq!(value(&results, "t", Metric::AccBytes), 0.0);
}

#[test]
fn the_first_of_equals_is_picked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows =
        "{\"q\": \"x\", \"c\": [\"aa\", \"bb\"], \"a\": 0}\n{\"q\": \"y\", \"c\": [\"aa\", \"bb\"], \"a\": \"1\"}\n";
    let task = task_on(folder.path(), rows, CHOICE);
    let results =
        evaluate(&ScriptedModel::new(|_, _| -1.0, |_| String::new()), &[task], &options(folder.path())).expect("runs");
    assert_eq!(value(&results, "t", Metric::Acc), 0.5);
    assert!((results.tasks[0].summary.headline().stderr.expect("two rows") - 0.5).abs() < 1e-12);
}

#[test]
fn plain_text_puts_the_prefix_before_choices_and_chat_does_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = task_on(folder.path(), "{\"q\": \"x\", \"c\": [\"a\", \"ab\"], \"a\": 1}", CHOICE);
    for (chat, want) in [(false, [" a", " ab"]), (true, ["a", "ab"])] {
        let options = Options { chat: Some(chat), ..options(folder.path()) };
        let results = evaluate(&fixed(""), std::slice::from_ref(&task), &options).expect("runs");
        assert_eq!(results.tasks[0].samples[0].continuations, want);
        assert_eq!(results.tasks[0].samples[0].prompt, if chat { "<user>x</user><assistant>" } else { "x" });
    }
}

#[test]
fn bad_rows_name_file_line_and_field() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let good = "{\"q\": \"x\", \"c\": [\"a\", \"b\"], \"a\": 0}\n";
    let cases = [
        ("{\"q\": \"x\", \"c\": [], \"a\": 0}", "rows.jsonl:2: c: has no choices"),
        ("{\"q\": \"x\", \"c\": [\"a\", \"\"], \"a\": 0}", "rows.jsonl:2: c: choice B is empty"),
        ("{\"q\": \"x\", \"c\": \"ab\", \"a\": 0}", "rows.jsonl:2: c: is not a list of choices"),
        ("{\"q\": \"x\", \"c\": [\"a\"]}", "rows.jsonl:2: a: the right answer is missing"),
        ("{\"q\": \"x\", \"c\": [\"a\"], \"a\": null}", "rows.jsonl:2: a: the right answer is missing"),
        ("{\"q\": \"x\", \"c\": [\"a\"], \"a\": 1}", "rows.jsonl:2: a: \"1\" is not an index of the 1 choices"),
        ("{\"q\": \"x\", \"c\": [\"a\"], \"a\": -1}", "is not an index"),
        ("{\"c\": [\"a\"], \"a\": 0}", "rows.jsonl:2: {q}: the row has no field \"q\""),
        ("[1]", "rows.jsonl:2: row: is not a JSON object"),
        ("{\"q\": ", "rows.jsonl: line 2: "),
        ("{\"q\": \"x\", \"a\": 0, \"a\": 1}", "\"a\" stands twice"),
    ];
    for (row, want) in cases {
        let task = task_on(folder.path(), &format!("{good}{row}\n"), CHOICE);
        let model = fixed("");
        let error = evaluate(&model, &[task], &options(folder.path())).expect_err(row).to_string();
        assert!(error.contains(want), "{row}: {error}");
        assert_eq!(model.num_requests.get(), 0, "data is checked before the model is asked");
    }
    for (bytes, want) in
        [(&b""[..], "no records"), (b"\xef\xbb\xbf", "no records"), (b"{\"q\": \"x\"}\n\xff", "line 2")]
    {
        let task = task_on(folder.path(), "", CHOICE);
        std::fs::write(folder.path().join("rows.jsonl"), bytes).expect("writes");
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(want).to_string();
        assert!(error.contains(want), "{error}");
    }
    let task = task_on(folder.path(), good, CHOICE);
    let error = evaluate(&fixed(""), std::slice::from_ref(&task), &Options::default()).expect_err("no root");
    assert!(matches!(error, EvalError::MissingData { .. }), "{error}");
    let error = evaluate(&fixed(""), &[task], &options(&folder.path().join("none"))).expect_err("no file");
    assert!(matches!(error, EvalError::MissingData { .. }), "{error}");
}

#[test]
fn replies_are_cut_compared_and_counted_when_missing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = "{\"q\": \"1\", \"a\": \"yes\"}\n\n{\"q\": \"2\", \"a\": \"yes\"}\r\n{\"q\": \"3\", \"a\": \"yes\"}\n{\"q\": \"4\", \"a\": \"yes\"}";
    let model = || {
        ScriptedModel::new(
            |_, _| 0.0,
            |prompt| {
                let replies =
                    [("1<", "Answer: yes END no"), ("2<", "Answer: Yes!"), ("3<", "END Answer: yes"), ("4<", "")];
                replies
                    .iter()
                    .find(|(key, _)| prompt.contains(key))
                    .map(|(_, reply)| (*reply).to_owned())
                    .unwrap_or_default()
            },
        )
    };
    let strict = task_on(folder.path(), rows, REPLY);
    let results = evaluate(&model(), &[strict], &options(folder.path())).expect("runs");
    assert_eq!(value(&results, "t", Metric::ExactMatch), 0.25);
    assert_eq!(value(&results, "t", Metric::Missing), 0.5);
    let lenient = task_on(folder.path(), rows, &format!("{REPLY}\nignore_case = true\nignore_punctuation = true"));
    let results = evaluate(&model(), &[lenient], &options(folder.path())).expect("runs");
    assert_eq!(value(&results, "t", Metric::ExactMatch), 0.5);
}

#[test]
fn rules_come_from_the_task_and_from_rows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let body = r#"
        metrics = ["checks"]
        chat = true
        system = "{s?}"
        prompt = "{q}"
        ROWS
        [generate]
        checks = [{ rule = "max_words", n = 3 }]
        checks_from = "rules"
        max_new_tokens = 8
    "#;
    let rows = r#"{"q": "a", "s": "Be brief.", "rules": {"rule": "one_word"}}
{"q": "b", "rules": [{"rule": "contains", "text": "yes"}, {"rule": "starts_with", "text": "No"}]}
"#;
    let task = task_on(folder.path(), rows, body);
    let results = evaluate(&fixed("Yes."), &[task], &options(folder.path())).expect("runs");
    let samples = &results.tasks[0].samples;
    assert_eq!(samples[0].prompt, "<system>Be brief.</system><user>a</user><assistant>");
    assert_eq!(samples[1].prompt, "<user>b</user><assistant>");
    assert_eq!(samples.iter().map(|sample| sample.outcome.values[&Metric::Checks]).collect::<Vec<_>>(), [1.0, 0.0]);

    let task = task_on(folder.path(), r#"{"q": "a", "rules": {"rule": "one_wrd"}}"#, body);
    let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err("unknown rule").to_string();
    assert!(error.contains("rows.jsonl:1: rules: must be ") && error.contains("not \"one_wrd\""), "{error}");
}

#[test]
fn scores_that_are_not_numbers_stop_the_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = task_on(folder.path(), "{\"q\": \"x\", \"c\": [\"a\"], \"a\": 0}", CHOICE);
    let error = evaluate(&ScriptedModel::new(|_, _| f64::NAN, |_| String::new()), &[task], &options(folder.path()));
    assert!(matches!(error, Err(EvalError::Model { operation: "score continuations", .. })));
}

#[test]
fn results_come_back_from_their_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tasks = builtin(&["fpb", "ner", "mmlu"]);
    let results = evaluate(&fixed("Orrin Bank, ORG. Positive"), &tasks, &options(&fixtures())).expect("runs");
    let path = results.write(folder.path()).expect("writes");
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
    // The keys that lm-eval's own readers use.
    for key in [
        "results",
        "groups",
        "group_subtasks",
        "configs",
        "versions",
        "n-shot",
        "higher_is_better",
        "n-samples",
        "config",
        "date",
        "task_hashes",
        "model_name",
        "total_evaluation_time_seconds",
    ] {
        assert!(!file[key].is_null(), "{key}");
    }
    assert_eq!(file["results"]["fpb"]["acc,none"], serde_json::json!(2.0 / 6.0));
    assert_eq!(file["results"]["mmlu:astronomy"]["acc,none"], serde_json::json!(1.0));
    assert_eq!(file["n-samples"]["mmlu"], serde_json::json!({ "original": 70, "effective": 70 }));
    assert_eq!(file["groups"]["finance_task"]["num_tasks"], serde_json::json!(2));

    let loaded = Results::load(folder.path()).expect("loads");
    assert_eq!(loaded.info, results.info);
    for (loaded, written) in loaded.tasks.iter().zip(&results.tasks) {
        assert_eq!(loaded.summary, written.summary);
        assert_eq!(loaded.samples, written.samples);
    }

    assert!(matches!(Results::load(&folder.path().join("none")), Err(EvalError::Io { .. })));
    std::fs::write(folder.path().join("results_9.json"), "{}").expect("writes");
    assert!(matches!(Results::load(folder.path()), Err(EvalError::Results { .. })));
    let empty = tempfile::tempdir().expect("a temporary folder");
    assert!(matches!(Results::load(empty.path()), Err(EvalError::Results { .. })));
}

#[test]
fn white_space_around_answers_and_the_case_of_labels_do_not_count() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = "{\"q\": \"1\", \"a\": \" Up\\n\"}\n{\"q\": \"2\", \"a\": \"up \"}\n";
    let label = REPLY
        .replace(r#"{ after = "Answer:" }, "strip""#, r#"{ label = { labels = ["UP", "down"], how = "first_word" } }"#)
        .replace(r#""exact_match", "missing""#, r#""acc", "macro_f1""#);
    let results = evaluate(&fixed("It went up."), &[task_on(folder.path(), rows, &label)], &options(folder.path()))
        .expect("runs");
    assert_eq!((value(&results, "t", Metric::Acc), value(&results, "t", Metric::MacroF1)), (1.0, 1.0));
    assert_eq!(results.tasks[0].samples[0].outcome.gold, "UP");
    // As text, case counts unless the task says otherwise.
    let results =
        evaluate(&fixed("Answer: up"), &[task_on(folder.path(), rows, REPLY)], &options(folder.path())).expect("runs");
    assert_eq!(value(&results, "t", Metric::ExactMatch), 0.5);

    let rows = "{\"q\": \"1\", \"a\": \"up\"}\n{\"q\": \"2\", \"a\": \"sideways\"}\n";
    let task = task_on(folder.path(), rows, &label);
    let error = evaluate(&fixed("up"), &[task], &options(folder.path())).expect_err("no label").to_string();
    assert!(
        error.contains("rows.jsonl:2: generate.gold: \"sideways\" is none of the task's labels (UP, down)"),
        "{error}"
    );
}

#[test]
fn a_field_that_is_null_is_named_with_its_row() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (row, want) in [
        ("{\"q\": null, \"a\": \"x\"}", "rows.jsonl:2: {q}: field \"q\" is null"),
        ("{\"q\": \"x\", \"a\": null}", "rows.jsonl:2: {a}: field \"a\" is null"),
        ("{\"q\": \"x\"}", "rows.jsonl:2: {a}: the row has no field \"a\""),
    ] {
        let rows = format!("{{\"q\": \"x\", \"a\": \"x\"}}\n{row}\n");
        let task = task_on(folder.path(), &rows, REPLY);
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(row).to_string();
        assert!(error.contains(want), "{row}: {error}");
    }
}

#[test]
fn format_rules_are_not_held_against_reasoning() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let body = "metrics = [\"checks\"]\nchat = true\nprompt = \"{q}\"\nROWS\n[generate]\nchecks = [{ rule = \"one_word\" }]\nmax_new_tokens = 8";
    let task = task_on(folder.path(), "{\"q\": \"a\"}", body);
    let results = evaluate(&fixed("<think>one word then</think>Yes"), &[task], &options(folder.path())).expect("runs");
    assert_eq!(value(&results, "t", Metric::Checks), 1.0);
}

#[test]
fn prompts_that_lose_their_beginning_are_counted_and_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = "{\"q\": \"1 2 3 4 5 6\", \"c\": [\"a\", \"b c\"], \"a\": 0}\n{\"q\": \"1 2\", \"c\": [\"a\", \"b\"], \"a\": 1}\n";
    for body in [CHOICE, REPLY] {
        let task = task_on(folder.path(), rows, body);
        let evaluate = |max_words| {
            let mut model = fixed("");
            model.max_words = max_words;
            evaluate(&model, std::slice::from_ref(&task), &options(folder.path())).expect("runs")
        };
        let (cut, whole) = (evaluate(6), evaluate(100));
        let num_cut = if body == CHOICE { 2 } else { 4 };
        let per_sample: Vec<_> = cut.tasks[0].samples.iter().map(|sample| sample.num_cut_tokens).collect();
        assert_eq!(per_sample, [Some(num_cut), Some(0)]);
        assert_eq!(cut.tasks[0].summary.num_cut_prompts, Some(1));
        assert_eq!(cut.to_json()["n-cut-prompts"]["t"], serde_json::json!(1));

        cut.write(folder.path()).expect("writes");
        let read = Results::load(folder.path()).expect("loads");
        assert_eq!(read.tasks[0].samples, cut.tasks[0].samples);

        let told =
            |results: &Results| crate::table::notes(results.tasks.iter().map(|task| &task.summary), 6).join("\n");
        assert!(told(&cut).contains("the 6 tokens of the model: t 1 of 2"), "{}", told(&cut));
        assert!(!told(&whole).contains("lost their beginning"), "{}", told(&whole));

        let between = |first, second| {
            let found = crate::compare::compare(first, second, crate::compare::CompareOptions::default());
            found.expect("compares").settings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(between(&whole, &cut), ["t: prompts that lost their beginning 0 and 1"]);
        assert_eq!(between(&cut, &read), Vec::<String>::new());
    }
}

#[test]
fn a_next_question_that_the_model_makes_up_is_no_part_of_its_reply() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = REPLY.replace("prompt = \"{q}\"", "prompt = \"Solve step by step.\\n{q}\"").replace("= 4", "= 40");
    let task = task_on(folder.path(), "{\"q\": \"1\", \"a\": \"5\"}\n", &task);
    for (reply, want) in [
        ("Answer: 5\n\nSolve step by step.\n2 and 2?\n\nAnswer: 4", 1.0),
        ("<think>\n\nSolve step by step.</think>Answer: 5", 1.0),
        ("Answer: 4\n\nAnswer: 5", 1.0),
        ("Answer: 5\n\nAnswer: 4", 0.0),
    ] {
        let results = evaluate(&fixed(reply), std::slice::from_ref(&task), &options(folder.path())).expect("runs");
        assert_eq!(value(&results, "t", Metric::ExactMatch), want, "{reply:?}");
    }
}
