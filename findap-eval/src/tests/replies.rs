//! Where replies end, and saved ones scored anew.

use super::{REPLY, evaluate, fixed, options, task_on, value};
use crate::rescore::rescore;
use crate::sample::Answer;
use crate::task::Metric;
use crate::{EvalError, Results};

const ROWS: &str = "{\"q\": \"one\", \"a\": \"x\"}\n{\"q\": \"two\", \"a\": \"y\"}\n";

#[test]
fn replies_that_reach_the_limit_are_counted_and_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = task_on(folder.path(), ROWS, REPLY);
    for (reply, num_cut) in [("a b c d", 0), ("a b c d e", 2), ("a b END c d e f", 0), ("a b c dEND e", 0)] {
        let found = evaluate(&fixed(reply), std::slice::from_ref(&task), &options(folder.path())).expect("runs");
        assert_eq!(found.tasks[0].summary.num_cut_replies, Some(num_cut), "{reply}");
        let told = crate::table::notes([&found.tasks[0].summary].into_iter(), 10).join("\n");
        assert_eq!(told.contains("cut off at the task's `max_new_tokens`: t 2 of 2"), num_cut == 2, "{told}");
        assert!(told.contains("no answer is found, which count as wrong: t 100.0 %"), "{told}");
        let target = tempfile::tempdir().expect("a temporary folder");
        found.write(target.path()).expect("writes");
        assert_eq!(Results::load(target.path()).expect("loads").tasks[0].samples, found.tasks[0].samples);
    }
}

#[test]
fn answers_kept_by_earlier_versions_are_read() {
    let read = |text: &str| serde_json::from_str::<Answer>(text).expect("an answer");
    let Answer::Reply(reply) = read("{\"reply\": \"yes\"}") else { panic!("a reply") };
    assert_eq!((reply.text.as_str(), reply.is_cut_off), ("yes", None));
    let now = serde_json::to_string(&Answer::Reply(reply)).expect("JSON");
    assert!(matches!(read(&now), Answer::Reply(reply) if reply.text == "yes"));
}

#[test]
fn saved_answers_are_scored_as_the_task_would_today_and_no_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let roots = options(folder.path()).data_roots;
    let task = |rows: &str, body: &str| task_on(folder.path(), rows, body);
    let before = task(ROWS, REPLY);
    let asked = evaluate(&fixed("Reply: x"), &[before], &options(folder.path())).expect("runs");
    assert_eq!(value(&asked, "t", Metric::ExactMatch), 0.0);
    let scores = tempfile::tempdir().expect("a temporary folder");
    asked.write(scores.path()).expect("writes");
    let saved = Results::load(scores.path()).expect("loads");

    let after = task(ROWS, &REPLY.replace("Answer:", "Reply:").replace("\"missing\"]", "\"missing\", \"token_f1\"]"));
    let scored = rescore(&saved, "scores/own", &[after], &roots).expect("scores");
    assert_eq!(value(&scored, "t", Metric::ExactMatch), 0.5);
    assert_eq!(value(&scored, "t", Metric::TokenF1), 0.5);
    assert_eq!(scored.info.rescored_from.as_deref(), Some("scores/own"));
    assert_eq!(scored.tasks[0].samples[0].answer, asked.tasks[0].samples[0].answer);

    for (rows, body, told) in [
        (ROWS, REPLY.replace("\"{q}\"", "\"Say {q}\""), "asks row 0 something else by now"),
        (ROWS, REPLY.replace("prompt = \"{q}\"", "prompt = \"on\""), "asks row 0 something else by now"),
        (ROWS, format!("system = \"Be brief.\"\n{REPLY}"), "asks row 0 something else by now"),
        (ROWS, REPLY.replace("[\"END\"]", "[]"), "has another `stop` or `max_new_tokens` by now"),
        (ROWS, REPLY.replace("new_tokens = 4", "new_tokens = 5"), "has another `stop` or `max_new_tokens` by now"),
        ("{\"q\": \"one\", \"a\": \"x\"}\n", REPLY.to_owned(), "has 1 rows where 2 were asked"),
        ("{\"q\": \"one\", \"a\": \"x\"}\n{\"q\": \"two\", \"a\": \"x\"}\n", REPLY.to_owned(), "has another row 1"),
    ] {
        let error = rescore(&saved, "", &[task(rows, &body)], &roots).expect_err(told);
        assert!(matches!(error, EvalError::Rescore { .. }) && error.to_string().contains(told), "{error}");
    }
}
