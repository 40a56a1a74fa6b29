//! Right answers, and what replies are held to be.

use super::*;

fn replying(reply: &str) -> ScriptedModel {
    let reply = reply.to_owned();
    ScriptedModel::new(|_, _| -1.0, move |_| reply.clone())
}

#[test]
fn a_sample_shows_the_model_s_number_and_not_the_right_one_it_equals() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = REPLY
        .replace(r#"{ after = "Answer:" }, "strip""#, r#""answer", "stated_number", "normalize_number""#)
        .replace("[generate]", "[generate]\n    tolerance = 0.01");
    let task = task_on(folder.path(), "{\"q\": \"1\", \"a\": \"12.35\"}\n", &task);
    let results = evaluate(&fixed("Answer: 12.4"), &[task], &options(folder.path())).expect("runs");
    let sample = &results.tasks[0].samples[0];
    let line = sample.to_json(&[Metric::ExactMatch], &serde_json::Value::Null);
    assert_eq!(
        (&line["filtered_resps"][0], &line["target"], &line["exact_match"]),
        (&"12.4".into(), &"12.35".into(), &1.0.into())
    );
    assert_eq!(sample.outcome.label(), Some("12.35"), "it counts as the right label");
}

#[test]
fn right_answers_with_scale_words_are_read_with_them_or_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = |gold_extract: &str, extract: &str| {
        REPLY.replace(
            r#"[{ after = "Answer:" }, "strip"]"#,
            &format!("[{extract}]\n    gold_extract = [{gold_extract}]"),
        )
    };
    let stated = r#""answer", "stated_number", "normalize_number""#;
    let scaled = r#""answer", { number = { scale = true } }"#;
    let outcome = |body: &str, gold: &str, reply: &str| {
        let task = task_on(folder.path(), &format!("{{\"q\": \"1\", \"a\": \"{gold}\"}}\n"), body);
        let results =
            evaluate(&replying(reply), &[task], &options(folder.path())).map_err(|error| error.to_string())?;
        Ok::<_, String>(value(&results, "t", Metric::ExactMatch))
    };
    for (gold_extract, extract) in
        [("", stated), (r#""normalize_number""#, stated), (r#""stated_number""#, stated), (r#""last_number""#, scaled)]
    {
        let error =
            outcome(&task(gold_extract, extract), "1.2 million", "Answer: 1.2 billion").expect_err(gold_extract);
        assert!(error.contains("rows.jsonl:1") && error.contains("scale word"), "{error}");
    }
    for (gold, reply, want) in [
        ("1.2 million", "Answer: $1,200,000", 1.0),
        ("1.2 million", "Answer: 1.2 billion", 0.0),
        ("3 b", "Answer: 3 billion", 1.0),
        ("24", "Answer: 2 dozen", 0.0),
        ("2", "Answer: 2 dozen", 0.0),
    ] {
        assert_eq!(outcome(&task("", scaled), gold, reply), Ok(want), "{gold} {reply}");
    }
    for gold in ["2 dozen", "18\u{b2}", "2^5"] {
        let error = outcome(&task("", stated), gold, "Answer: 2").expect_err(gold);
        assert!(error.contains("is no number"), "{error}");
    }
}

#[test]
fn solved_examples_of_gsm8k_end_as_its_prompt_asks() {
    let options = Options { num_fewshot: Some(1), ..options(&fixtures()) };
    let results = evaluate(&fixed("x"), &builtin(&["gsm8k"]), &options).expect("runs");
    let prompt = &results.tasks[0].samples[0].prompt;
    assert!(prompt.contains("\nAnswer: ") && !prompt.contains("####"), "{prompt}");
}

#[test]
fn numbers_that_round_to_a_right_answer_with_decimals_are_right_where_a_task_says_so() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let task = REPLY
        .replace(r#"{ after = "Answer:" }, "strip""#, r#""answer", "stated_number", "normalize_number""#)
        .replace("[generate]", "[generate]\n    tolerance_rounding = true");
    for (gold, reply, want) in [
        ("\"12.35\"", "Answer: 12.349", 1.0),
        ("12.35", "Answer: 12.345", 1.0),
        ("12.35", "Answer: 12.36", 0.0),
        ("12.0", "Answer: 12", 1.0),
        ("12.0", "Answer: 12.4", 0.0),
        ("\"8.70\"", "Answer: 8.74", 0.0),
        ("\"8.70\"", "Answer: 8.704", 1.0),
        ("\"$1,234.50\"", "Answer: 1234.497", 1.0),
        ("\"$1,234.50\"", "Answer: 1234.46", 0.0),
        ("\"0.50\"", "Answer: 0.46", 0.0),
        ("\"0.00\"", "Answer: 0.004", 1.0),
        ("\"$1,234\"", "Answer: 1234", 1.0),
        ("3", "Answer: 3.4", 0.0),
    ] {
        let task = task_on(folder.path(), &format!("{{\"q\": \"1\", \"a\": {gold}}}\n"), &task);
        let results = evaluate(&fixed(reply), &[task], &options(folder.path())).expect("runs");
        assert_eq!(value(&results, "t", Metric::ExactMatch), want, "{gold} {reply}");
    }
    let task = task_on(folder.path(), "{\"q\": \"1\", \"a\": \"1\"}\n{\"q\": \"1\", \"a\": \"twelve\"}\n", &task);
    let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err("no number").to_string();
    assert!(error.contains("rows.jsonl:2: generate.gold: \"twelve\" is no number"), "{error}");
}
