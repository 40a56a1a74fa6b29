//! Files of questions in every format.

use super::*;

fn on_file(body: &str, dataset: &str) -> String {
    body.replace("ROWS", &format!("[dataset]\n{dataset}"))
}

#[test]
fn files_of_questions_are_read_as_training_data_are() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let packed = |text: &str| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, text.as_bytes()).expect("packs");
        packed.finish().expect("packs")
    };
    let row = r#"{"q": "x", "a": "yes"}"#;
    let (lines, array, table) =
        (format!("{row}\n\n{row}\n"), format!("[{row}, {row}]"), "x,yes\n\"x, \"\"y\"\"\",yes\n");
    let names = "columns = [\"q\", \"a\"]";
    for (name, bytes, keys) in [
        ("rows.jsonl.gz", packed(&lines), "format = \"jsonl\""),
        ("rows.json", array.clone().into_bytes(), "format = \"json\""),
        ("rows.json.gz", packed(&array), "format = \"json\""),
        ("rows.csv", format!("q,a\n{table}").into_bytes(), "format = \"csv\""),
        ("bare.csv", table.into(), &format!("format = \"csv\"\n{names}")),
        ("bare.csv.gz", packed(table), &format!("format = \"csv\"\n{names}")),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("writes");
        let body = on_file(REPLY, &format!("path = \"data:{name}\"\n{keys}\n"));
        let task = task_on(folder.path(), "", &body);
        let results = evaluate(&fixed("Answer: yes"), &[task], &options(folder.path())).expect(name);
        assert_eq!((results.tasks[0].summary.num_rows, value(&results, "t", Metric::ExactMatch)), (2, 1.0), "{name}");
    }
    for (text, keys, want) in [
        ("x,yes\nx\n", names, "bad.csv: line 2"),
        ("x\nx,yes\n", names, "bad.csv: line 1"),
        ("q,a,a\nx,yes,no\n", "", "'a'"),
        ("q,a\n\"x,yes\nx,yes\n", "", "line 2"),
    ] {
        std::fs::write(folder.path().join("bad.csv"), text).expect("writes");
        let body = on_file(REPLY, &format!("path = \"data:bad.csv\"\nformat = \"csv\"\n{keys}\n"));
        let task = task_on(folder.path(), "", &body);
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(want).to_string();
        assert!(error.contains(want), "{text:?}: {error}");
    }
}

#[test]
fn rows_come_from_parquet_files() {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
    use parquet::arrow::ArrowWriter;

    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut choices = ListBuilder::new(StringBuilder::new());
    for texts in [["A", "B"], ["B", "A"]] {
        choices.append_value(texts.map(Some));
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("q", Arc::new(StringArray::from(vec![Some("first"), Some("second")]))),
        ("c", Arc::new(choices.finish())),
        ("a", Arc::new(Int64Array::from(vec![Some(1), None]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let write = |batch: &RecordBatch| {
        let file = std::fs::File::create(folder.path().join("rows.parquet")).expect("creates");
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("opens");
        writer.write(batch).expect("writes");
        writer.close().expect("closes");
    };
    let body = CHOICE.replace("ROWS", "[dataset]\npath = \"data:rows.parquet\"\nformat = \"parquet\"\n");
    let task = task_on(folder.path(), "", &body);
    write(&batch.slice(0, 1));
    let results = evaluate(&fixed(""), std::slice::from_ref(&task), &options(folder.path())).expect("runs");
    assert_eq!((results.tasks[0].summary.num_rows, value(&results, "t", Metric::Acc)), (1, 1.0));
    write(&batch);
    let error =
        evaluate(&fixed(""), std::slice::from_ref(&task), &options(folder.path())).expect_err("null").to_string();
    assert!(error.contains("rows.parquet:2: a: the right answer is missing"), "{error}");
    std::fs::write(folder.path().join("rows.parquet"), "{}").expect("writes");
    let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err("no Parquet");
    assert!(matches!(&error, EvalError::Data(_)) && error.to_string().contains("rows.parquet"), "{error}");
}

#[test]
fn rows_that_a_key_of_the_task_cannot_use_are_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keyed = |keys: &str| CHOICE.replace("gold = \"a\"", &format!("gold = \"a\"\n{keys}"));
    for (keys, row, want) in [
        ("gold_is = \"number\"", r#"{"q": "x", "c": ["a"], "a": 0}"#, "\"0\" is not a number from 1 of the 1 choices"),
        ("gold_is = \"number\"", r#"{"q": "x", "c": ["a"], "a": "2"}"#, "\"2\" is not a number from 1"),
        (
            "gold_is = \"label\"\nlabels_from = \"l\"",
            r#"{"q": "x", "c": ["a"], "l": ["1"], "a": 2}"#,
            "\"2\" is not a label",
        ),
        ("gold_is = \"label\"\nlabels_from = \"l\"", r#"{"q": "x", "c": ["a"], "l": [], "a": 2}"#, "l: has no labels"),
        (
            "gold_is = \"label\"\nlabels = [\"no\", \"yes\"]",
            r#"{"q": "x", "c": ["a"], "a": "no"}"#,
            "has 2 labels for 1",
        ),
    ] {
        let task = task_on(folder.path(), row, &keyed(keys));
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(row).to_string();
        assert!(error.contains(want), "{keys}: {error}");
    }
    let blank = keyed("blank = \"_\"").replace(", \"acc_norm\", \"acc_bytes\"", "");
    for (question, want) in
        [("x", "has no blank"), ("_ and _ sat", "more than one blank"), ("It is _ ", "nothing to be scored")]
    {
        let task = task_on(folder.path(), &format!(r#"{{"q": "{question}", "c": ["a"], "a": 0}}"#), &blank);
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(question).to_string();
        assert!(error.contains(want), "{question}: {error}");
    }
    for (dataset, row, want) in [
        (
            "lists.c = { from = \"o\", separator = \"[ab]: \" }",
            r#"{"q": "x", "o": "one, two", "a": 0}"#,
            "no element of the list `c`",
        ),
        ("lists.c = { from = \"o\", separator = \"[ab]: \" }", r#"{"q": "x", "a": 0}"#, "o: is absent"),
        (
            "lists.c = { from = \"o\", separator = \"[ab]: \" }",
            r#"{"q": "x", "o": "a: b: two", "a": 0}"#,
            "choice A is empty",
        ),
        ("keep_numbers = [\"n\"]", r#"{"q": "x", "c": ["a"], "n": "few", "a": 0}"#, "no rows"),
        ("keep_numbers = [\"n\"]", r#"{"q": "x", "c": ["a"], "a": 0}"#, "n: is absent"),
    ] {
        let body = CHOICE.replace("ROWS", &format!("ROWS\n{dataset}\n"));
        let task = task_on(folder.path(), row, &body);
        let error = evaluate(&fixed(""), &[task], &options(folder.path())).expect_err(row).to_string();
        assert!(error.contains(want), "{dataset}: {error}");
    }
}

#[test]
fn solved_examples_are_looked_at_before_anything_is_asked() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let rows = "{\"q\": \"x\", \"a\": \"yes\", \"why\": \"so\"}\n{\"q\": \"y\", \"a\": \"no\"}\n";
    let check = |keys: &str| {
        let body = REPLY.replace("ROWS", keys).replace("gold = \"{a}\"", "gold = \"{a}\"\nfewshot_answer = \"{why}\"");
        let task = task_on(folder.path(), rows, &body);
        crate::prompt::check(&[task], &options(folder.path()).data_roots).map_err(|error| error.to_string())
    };
    check("[dataset]\npath = \"data:rows.jsonl\"\n").expect("without examples");
    let [few, many] = [1, 2].map(|count| {
        check(&format!("num_fewshot = {count}\n[dataset]\npath = \"data:rows.jsonl\"\n")).expect_err("examples")
    });
    assert!(few.contains("rows.jsonl:2") && few.contains("why"), "{few}");
    assert!(many.contains("asks for 2 solved examples, there are 1"), "{many}");
}

#[test]
fn all_missing_sets_are_named_at_once_with_their_tasks_and_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for roots in [DataRoots::new(), options(folder.path()).data_roots] {
        let error =
            crate::prompt::check(&builtin(&["gsm8k", "fpb"]), &roots).expect_err("nothing is there").to_string();
        for want in ["gsm8k", "fpb", "2 of the tasks", "eval.data", "--data"] {
            assert!(error.contains(want), "{error}");
        }
    }
}

#[test]
fn rows_are_read_by_the_name_of_their_file_where_a_task_names_no_format() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let row = r#"{"q": "x", "c": ["a", "b"], "a": 1}"#;
    let files = [
        ("r.jsonl", row.to_owned()),
        ("r.json", format!("[{row}]")),
        ("r.txt", row.to_owned()),
        ("r", row.to_owned()),
        ("r.csv", "q,a,b\nx,1,2\n".to_owned()),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("writes");
        let mut task = task_on(folder.path(), "", if name == "r.csv" { REPLY } else { CHOICE });
        task.dataset.path = format!("data:{name}");
        let results = evaluate(&fixed(""), &[task], &options(folder.path())).expect(name);
        assert_eq!(results.tasks[0].summary.num_rows, 1, "{name}");
    }
}
