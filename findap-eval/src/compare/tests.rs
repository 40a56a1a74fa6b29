//! Tests of comparisons on scripted runs.

use super::*;
use crate::dataset::DataRoots;
use crate::engine::run;
use crate::options::Options;
use crate::require::{self, Verdict};
use crate::scripted::ScriptedModel;
use crate::task::Task;

const TASK: &str = r#"
    schema = 1
    name = "t"
    version = 1
    capability = "reasoning"
    domain = "finance"
    similarity = "novel"
    license = "Apache-2.0"
    source = "made up"
    chance = 0.0
    metrics = ["exact_match"]
    chat = true
    prompt = "{q}"
    [dataset]
    path = "data:rows.jsonl"
    [generate]
    gold = "yes"
    max_new_tokens = 1
"#;

/// A run on 200 rows that is right where `is_right` says so.
fn results(is_right: fn(usize) -> bool, task: &str) -> Results {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows: String = (0..200).map(|row| format!("{{\"q\": \"{row}\"}}\n")).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).expect("writes");
    let model = ScriptedModel::new(
        |_, _| 0.0,
        move |prompt| {
            let digits: String = prompt.chars().filter(char::is_ascii_digit).collect();
            if is_right(digits.parse().expect("a row number")) { "yes" } else { "no" }.to_owned()
        },
    );
    let task = Task::parse("t.toml", task).expect("parses");
    let data_roots = DataRoots::from([("data".to_owned(), folder.path().to_owned())]);
    run(&model, None, &[task], &Options { data_roots, ..Options::default() }, &mut |_| true).expect("runs")
}

#[test]
fn intervals_hold_the_difference_and_pairing_narrows_them() {
    let before = results(|row| row % 2 == 0, TASK);
    let after = results(|row| row % 2 == 0 || row % 10 == 1, TASK);
    let found = compare(&before, &after, CompareOptions::default()).expect("compares");
    let delta = found.tasks[0].delta;
    assert_eq!((delta.before, delta.after, delta.num_rows), (0.5, 0.6, 200));
    assert!(delta.low < delta.difference() && delta.difference() < delta.high);
    // Closed form of the paired standard error: sqrt(0.1 * 0.9 / 200) = 0.0212; unpaired it would be 0.0497.
    assert!((delta.high - delta.low - 2.0 * 1.96 * 0.0212).abs() < 0.01, "{delta:?}");
    assert!(delta.is_clear());
    let cell = found.cells[0];
    assert_eq!((cell.capability, cell.num_tasks, cell.delta), (Capability::Reasoning, 1, delta));
    assert_eq!(found, compare(&before, &after, CompareOptions::default()).expect("compares"));
}

#[test]
fn equal_runs_differ_by_nothing_that_their_rows_could_show() {
    let run = results(|row| row < 50, TASK);
    let delta = compare(&run, &run, CompareOptions::default()).expect("compares").tasks[0].delta;
    // z^2 / (200 + z^2): what Tango's interval is without a row that changed
    assert_eq!((delta.difference(), delta.is_clear()), (0.0, false));
    assert!((delta.low + 0.0188).abs() < 1e-4 && (delta.high - 0.0188).abs() < 1e-4, "{delta:?}");
}

#[test]
fn different_tasks_or_data_are_not_compared() {
    let before = results(|_| true, TASK);
    let other = results(|_| true, &TASK.replace("name = \"t\"", "name = \"u\""));
    let unpaired = compare(&before, &other, CompareOptions::default()).expect("compares").unpaired;
    assert_eq!(unpaired.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["t", "u"]);
    let newer = results(|_| true, &TASK.replace("version = 1", "version = 2"));
    assert!(matches!(compare(&before, &newer, CompareOptions::default()), Err(EvalError::Results { .. })));
    let mut changed = before.clone();
    changed.tasks[0].samples[3].fields.clear();
    let error = compare(&before, &changed, CompareOptions::default()).expect_err("other data").to_string();
    assert!(error.contains("row 3"), "{error}");
    changed.tasks[0].samples.clear();
    assert!(compare(&before, &changed, CompareOptions::default()).is_err());
}

#[test]
fn a_requirement_is_supported_open_or_refuted_by_the_interval() {
    let options = CompareOptions::default();
    let before = results(|row| row % 2 == 0, TASK);
    let after = results(|row| row % 2 == 0 || row % 10 == 1, TASK);
    let found = compare(&before, &after, options).expect("compares");
    let verdicts = |text: &str| {
        let requirements = require::parse(text).expect("reads");
        let checked = requirements.iter().map(|requirement| requirement.check(&found).map(|it| it.verdict));
        checked.collect::<Result<Vec<_>, _>>()
    };
    // The change is +10 points, give or take 4.2.
    let wanted = [Verdict::Supported, Verdict::Open, Verdict::Refuted];
    assert_eq!(verdicts("finance >= +3, finance >= 10, finance >= 20").expect("checks"), wanted);
    assert_eq!(verdicts("t >= 3, all >= 3, finance reasoning >= 3").expect("checks"), [Verdict::Supported; 3]);
    for unanswered in ["general >= -1", "finance concept >= 0", "u >= 0"] {
        let error = verdicts(unanswered).expect_err("no such task").to_string();
        assert!(error.contains("no task") && error.contains(unanswered), "{error}");
    }
    let mut shorter = after.clone();
    shorter.tasks[0].samples.truncate(150);
    let partial = compare(&before, &shorter, options).expect("compares");
    let error = require::parse("finance >= 0").expect("reads")[0].check(&partial).expect_err("fewer rows");
    assert!(error.to_string().contains("50 rows"), "{error}");
    let other = results(|_| true, &TASK.replace("name = \"t\"", "name = \"u\""));
    let unpaired = compare(&before, &other, options).expect("compares");
    let error = require::parse("finance >= 0").expect("reads")[0].check(&unpaired).expect_err("one run only");
    assert!(error.to_string().contains("task t"), "{error}");
}

/// Two tasks of which one is better on even rows and the other on odd ones: with the same draws their mean would not vary.
#[test]
fn tasks_are_resampled_each_on_its_own() {
    let other = TASK.replace("name = \"t\"", "name = \"u\"");
    let join = |mut first: Results, second: Results| {
        first.tasks.extend(second.tasks);
        first
    };
    let before = join(results(|_| false, TASK), results(|_| false, &other));
    let after = join(results(|row| row % 2 == 0, TASK), results(|row| row % 2 == 1, &other));
    let cell = compare(&before, &after, CompareOptions::default()).expect("compares").cells[0].delta;
    // The standard error of each is sqrt(0.25 / 200), that of their mean smaller by sqrt(2): 0.025.
    assert!((cell.high - cell.low - 2.0 * 1.96 * 0.025).abs() < 0.012, "{cell:?}");
}

#[test]
fn other_settings_are_named_and_no_requirement_is_held_against_them() {
    let run = results(|row| row < 50, TASK);
    let edited = |edit: fn(&mut Results)| {
        let mut edited = run.clone();
        edit(&mut edited);
        compare(&run, &edited, CompareOptions::default()).expect("compares")
    };
    for (edit, said) in [
        ((|run| run.info.precision = "bf16 on cuda".to_owned()) as fn(&mut Results), "precision text and bf16 on cuda"),
        (
            |run| run.info.template_date = Some("2026-11-28".to_owned()),
            "date told by the chat template none and 2026-11-28",
        ),
        (|run| run.info.scoring_version = 1, "version of the scoring 3 and 1"),
        (|run| run.info.judge = Some("m".to_owned()), "judge none and m"),
        (
            |run| run.tasks[0].summary.num_unjudged = Some(2),
            "t: replies without a verdict of the judge not counted and 2",
        ),
        (|run| run.tasks[0].summary.num_fewshot = 5, "t: solved examples 0 and 5"),
        (|run| run.tasks[0].summary.chat = false, "t: chat template true and false"),
        (|run| run.tasks[0].summary.num_cut_prompts = Some(9), "t: prompts that lost their beginning 0 and 9"),
    ] {
        let comparison = edited(edit);
        assert_eq!(comparison.settings.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
        let error = require::parse("finance >= -50").expect("reads")[0].check(&comparison).expect_err(said);
        assert!(error.to_string().contains(said), "{error}");
    }
    let same = edited(|_| {});
    assert!(same.settings.is_empty() && same.prompts.is_empty());
}

#[test]
fn questions_with_other_prompts_are_counted_and_the_first_is_shown() {
    let run = results(|row| row < 50, TASK);
    let mut other = run.clone();
    for sample in &mut other.tasks[0].samples[7..9] {
        sample.prompt = format!("It is the 28th of November. {}", sample.prompt);
    }
    let found = compare(&run, &other, CompareOptions::default()).expect("compares").prompts;
    let [difference] = &found[..] else { panic!("one task differs: {found:?}") };
    let said = difference.to_string();
    let num_rows = run.tasks[0].samples.len();
    assert!(said.starts_with(&format!("t: 2 of {num_rows} questions have other prompts; the first ")), "{said}");
    assert!(said.contains("and \"It is the 28th"), "{said}");
}

#[test]
fn few_rows_support_nothing() {
    let cut = |mut run: Results, rows: usize| {
        run.tasks[0].samples.truncate(rows);
        run
    };
    let (wrong, right) = (results(|_| false, TASK), results(|_| true, TASK));
    let verdict = |before: &Results, after: &Results, rows: usize, text: &str| {
        let [before, after] = [before, after].map(|run| cut(run.clone(), rows));
        let found = compare(&before, &after, CompareOptions::default()).expect("compares");
        require::parse(text).expect("reads")[0].check(&found).expect("checks").verdict
    };
    assert_eq!(verdict(&wrong, &right, 2, "finance >= +3"), Verdict::Open);
    assert_eq!(verdict(&wrong, &right, 200, "finance >= +3"), Verdict::Supported);
    assert_eq!(verdict(&right, &right, 50, "finance >= -1"), Verdict::Open);
    assert_eq!(verdict(&right, &right, 200, "finance >= -2"), Verdict::Supported);
    let mut twice = right.clone();
    twice.tasks[0].samples[1].row_id = 0;
    assert!(compare(&twice, &right, CompareOptions::default()).is_err(), "a row that stands twice");
}
