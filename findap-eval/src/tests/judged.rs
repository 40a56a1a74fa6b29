//! Tasks whose replies a judge reads.

use std::sync::Mutex;

use findap_data::llm::{ChatReply, LlmError};
use findap_data::{ChatModel, ChatRequest, Sampling};

use super::{builtin, builtin_judged, evaluate, fixed, fixtures, options, task_on, value};
use crate::engine::run;
use crate::judge::Judge;
use crate::rescore::rescore;
use crate::sample::Answer;
use crate::scripted::ScriptedModel;
use crate::task::Metric;
use crate::{EvalError, Results, Task};

/// A judge by rule that remembers what it was asked.
struct Rule<F> {
    reply: F,
    asked: Mutex<Vec<String>>,
}

impl<F: Fn(&str) -> Result<String, LlmError> + Sync> ChatModel for Rule<F> {
    fn name(&self) -> String {
        "rule".to_owned()
    }

    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let mut asked = self.asked.lock().expect("no panic holds it");
        let mut answer = |request: &ChatRequest| {
            let prompt = &request.messages[0].content;
            asked.push(prompt.clone());
            (self.reply)(prompt).map(ChatReply::of_text)
        };
        requests.iter().map(&mut answer).collect()
    }
}

fn judged_by(
    reply: impl Fn(&str) -> Result<String, LlmError> + Sync,
    tasks: &[Task],
    model: &ScriptedModel,
    options: &crate::Options,
) -> (Result<Results, EvalError>, Vec<String>) {
    let judge = Rule { reply, asked: Mutex::default() };
    let results =
        run(model, Some(&Judge { model: &judge, sampling: Sampling::default() }), tasks, options, &mut |_| true);
    (results, judge.asked.into_inner().expect("no panic holds it"))
}

/// A prompt of a judge without the mark that its parts have.
fn without_marks(prompt: &str) -> String {
    let mark = prompt.lines().find_map(|line| line.strip_prefix("### ")?.strip_suffix(" User")).expect("a mark");
    prompt.replace(&format!("### {mark} "), "### ")
}

fn read_again(results: &Results) -> Results {
    let folder = tempfile::tempdir().expect("a temporary folder");
    results.write(folder.path()).expect("writes");
    Results::load(folder.path()).expect("loads")
}

#[test]
fn conversations_go_on_with_the_reply_and_each_turn_is_graded() {
    let task = builtin_judged("mt_bench");
    let model = ScriptedModel::new(
        |_, _| 0.0,
        |prompt| match prompt {
            prompt if prompt.contains("half of that") => "<think>42/2</think>21".to_owned(),
            prompt if prompt.contains("6 times 7") => "It is 42".to_owned(),
            _ => "Waves.\nBoats.".to_owned(),
        },
    );
    let grade = |prompt: &str| -> Result<String, LlmError> {
        let grade = if prompt.contains("half of that") { 6 } else { 9 };
        Ok(format!("{{\"Justification\": \"so it is\", \"Grade\": {grade}}}"))
    };
    for overruled in [
        crate::Options { chat: Some(false), ..options(&fixtures()) },
        crate::Options { num_fewshot: Some(1), ..options(&fixtures()) },
    ] {
        let outcome = judged_by(grade, std::slice::from_ref(&task), &model, &overruled).0;
        let is_refused = matches!(outcome, Err(EvalError::TaskInvalid { field: "generate.follow_ups", .. }));
        assert!(is_refused, "{outcome:?}");
    }
    let (results, asked) = judged_by(grade, std::slice::from_ref(&task), &model, &options(&fixtures()));
    let results = results.expect("runs");
    let of_math = results.tasks[0].samples.iter().find(|sample| sample.row_id == 1).expect("the second row");
    let Answer::Reply(reply) = &of_math.answer else { panic!("a reply") };
    assert!(
        reply.further[0].prompt.ends_with("It is 42</assistant><user>And half of that?</user><assistant>"),
        "{}",
        reply.further[0].prompt
    );
    assert_eq!(of_math.outcome.values[&Metric::Grade], 0.75);
    assert_eq!(value(&results, "mt_bench", Metric::Grade), (0.9 + 0.75) / 2.0);
    assert_eq!(results.info.judge.as_deref(), Some("rule"));
    assert_eq!(asked.len(), 4, "two turns of two rows");
    let asked: Vec<String> = asked.iter().map(|prompt| without_marks(prompt)).collect();
    assert!(
        asked[3].contains("### User\nWhat is 6 times 7?\n\n### Assistant\nIt is 42\n\n### User\nAnd half of that?")
    );
    assert!(asked[3].contains("### Assistant\n21\n\n### Reference answer\n21\n"), "{}", asked[3]);
    assert!(asked[2].contains("### Reference answer\n42\n"), "{}", asked[2]);
    assert!(!asked[2].contains("half of that") && !asked[0].contains("Reference answer"));
    assert_eq!(read_again(&results).tasks[0].samples, results.tasks[0].samples);
    let folder = options(&fixtures()).data_roots;
    let again = |task: Task| rescore(&read_again(&results), "before", &[task], &folder);
    let mut changed = task.clone();
    changed.judge.as_mut().expect("a judge").reference = None;
    let scored = again(task).expect("scores");
    assert_eq!(value(&scored, "mt_bench", Metric::Grade), value(&results, "mt_bench", Metric::Grade));
    let error = again(changed).expect_err("other verdicts").to_string();
    assert!(error.contains("asks the judge something else about row 1 by now"), "{error}");
}

#[test]
fn a_judge_says_whether_a_final_answer_is_the_right_one() {
    let task = builtin_judged("financebench");
    let model = ScriptedModel::new(|_, _| 0.0, |_| "It rose.\nAnswer: Lamps".to_owned());
    let agreement = |prompt: &str| {
        let is_right = prompt.contains("### Reference answer\nLamps.") && prompt.contains("Answer: Lamps");
        let word = if is_right { "correct" } else { "wrong" };
        Ok(format!("{{\"Justification\": \"compared\", \"Correctness\": \"{word}\"}}"))
    };
    let (results, asked) = judged_by(agreement, &[task], &model, &options(&fixtures()));
    let results = results.expect("runs");
    assert_eq!(value(&results, "financebench", Metric::JudgedRight), 0.25);
    assert!(asked.iter().all(|prompt| !prompt.contains("Cash flows")), "the judge needs no pages");
    assert_eq!(results.tasks[0].summary.num_unjudged, Some(0));
}

#[test]
fn rows_that_a_task_leaves_out_are_counted_and_told() {
    let task = builtin(&["financebench_numbers"]);
    let results = evaluate(&fixed("Answer: 0.87"), &task, &options(&fixtures())).expect("runs");
    let summary = &results.tasks[0].summary;
    assert_eq!((summary.num_rows, summary.num_left_out), (2, Some(2)));
    let told = crate::table::notes([summary].into_iter(), 10).join("\n");
    assert!(told.contains("rows that the task leaves out: financebench_numbers 2 of 4"), "{told}");
}

const JUDGED: &str = r#"
    metrics = ["judged_right"]
    chat = true
    prompt = "{q}"
    ROWS
    [generate]
    max_new_tokens = 4
    [judge]
    asks = "agreement"
    reference = "{a}"
"#;

#[test]
fn replies_without_a_verdict_count_neither_as_right_nor_as_wrong() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows: String = (0..20).map(|row| format!("{{\"q\": \"q{row}.\", \"a\": \"x\"}}\n")).collect();
    let task = task_on(folder.path(), &rows, JUDGED);
    let model = ScriptedModel::new(|_, _| 0.0, |_| "x".to_owned());
    let evaluate = |reply: fn(&str) -> Result<String, LlmError>| {
        judged_by(reply, std::slice::from_ref(&task), &model, &options(folder.path())).0
    };
    let results = evaluate(|prompt| match prompt {
        prompt if prompt.contains("q0.") => Ok("{\"Correctness\": \"wrong\"}".to_owned()),
        prompt if prompt.contains("q1.") => Ok("I cannot tell.".to_owned()),
        prompt if prompt.contains("q2.") => Err(LlmError::BadRequest { problem: "too long" }),
        _ => Ok("{\"Correctness\": \"correct\"}".to_owned()),
    })
    .expect("runs");
    assert_eq!(value(&results, "t", Metric::JudgedRight), 17.0 / 18.0);
    assert_eq!(results.tasks[0].summary.num_unjudged, Some(2));
    let told = crate::table::notes([&results.tasks[0].summary].into_iter(), 10).join("\n");
    assert!(told.contains("without a verdict of the judge, which are left out of its metric: t 2 of 20"), "{told}");
    let judgements = |row: usize| results.tasks[0].samples[row].judgements[0].clone();
    assert!(judgements(1).why.contains("I cannot tell.") && judgements(2).why.contains("too long"));
    assert_eq!(read_again(&results).tasks[0].samples, results.tasks[0].samples);

    let error = evaluate(|_| Ok("Well.".to_owned())).expect_err("no verdict").to_string();
    assert!(
        error.starts_with("judge rule: no row of task t has its verdicts; the first reply without one: "),
        "{error}"
    );
    let absent = |_: &str| Err(LlmError::NotRecorded { path: "judge.jsonl".to_owned(), key: "k".to_owned() });
    let outcome = evaluate(absent);
    assert!(matches!(outcome, Err(EvalError::Judge { .. })), "{outcome:?}");
    let alone = run(&model, None, &[task], &options(folder.path()), &mut |_| true);
    assert!(matches!(alone, Err(EvalError::NoJudge { .. })));
}

#[test]
fn rules_of_a_judge_that_cannot_work_are_refused() {
    let parse = |text: &str| {
        let head = "schema = 1\nname = \"t\"\nversion = 1\ncapability = \"chat\"\ndomain = \"general\"\nsimilarity = \"novel\"\n\
                    license = \"Apache-2.0\"\nsource = \"made up\"\nchance = 0.0\n";
        let text = format!("{head}{text}").replace("ROWS", "[dataset]\npath = \"data:rows.jsonl\"\n");
        Task::parse("t.toml", &text).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(parse(JUDGED), Ok(()));
    for (from, to, told) in [
        (
            "    [judge]\n    asks = \"agreement\"\n    reference = \"{a}\"\n",
            "",
            "the metric `judged_right` needs a [judge] table",
        ),
        ("\"agreement\"", "\"grade\"", "the judge gives `grade`, which is not among them"),
        ("    reference = \"{a}\"\n", "", "needs a right answer to agree with"),
        ("max_new_tokens = 4", "max_new_tokens = 4\n    follow_ups = [\"more\"]", "stands in one reply"),
        ("chat = true", "chat = false", ""),
    ] {
        let outcome = parse(&JUDGED.replace(from, to));
        match told {
            "" => assert_eq!(outcome, Ok(()), "{to}"),
            told => assert!(outcome.clone().is_err_and(|error| error.contains(told)), "{outcome:?}"),
        }
    }
}
