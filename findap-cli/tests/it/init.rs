//! `findap init`: what it finds, what it writes, and that this can be planned.

use std::fs;
use std::path::Path;

use crate::tool::{Said, findap};

/// A folder with the small model, and files of each kind under other column names than ours.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-instruct");
    let model = fs::canonicalize(assets).expect("the small model");
    std::os::unix::fs::symlink(model, folder.path().join("model")).expect("a link to the model");
    let files = [
        ("news-1.jsonl", r#"{"content": "Rates rose by a point, and bonds fell."}"#),
        ("news-2.jsonl", r#"{"content": "Rates fell again."}"#),
        ("talk.csv", "question,answer\nWhat rose?,Rates.\n"),
        ("pairs.json", r#"[{"question": "What fell?", "preferred": "Bonds.", "dispreferred": "Rain."}]"#),
        ("exercises.jsonl", r#"{"id": "1", "question": "What is 2 and 2?", "answer": "4"}"#),
        ("figures.jsonl", r#"{"figure": 3}"#),
    ];
    for (name, text) in files {
        fs::write(folder.path().join(name), text).expect("the data are written");
    }
    folder
}

fn findap_in(folder: &Path, arguments: &[&str]) -> Said {
    findap().args(arguments).current_dir(folder).output().expect("the binary starts").into()
}

#[test]
fn a_recipe_for_own_files_is_written_with_their_columns_and_can_be_planned() {
    let folder = workplace();
    let all = [
        "init",
        "--model",
        "model",
        "--texts",
        "news-*.jsonl",
        "--chats",
        "talk.csv",
        "--pairs",
        "pairs.json",
        "--exercises",
        "exercises.jsonl",
        "--judge-url",
        "http://localhost:1/v1",
        "--judge-model",
        "judge",
        "--tasks",
        "gsm8k,fpb",
        "--output",
        "own.toml",
    ];
    let said = findap_in(folder.path(), &all).success().stdout;
    for word in [
        "llama",
        "`content` is taken as `text`",
        "`preferred` is taken as `chosen`",
        "exercises.jsonl: 1",
        "findap plan own.toml",
    ] {
        assert!(said.contains(word), "{word}\n{said}");
    }
    // The tasks' data are not there yet, which is a fault in either form.
    let plan = findap_in(folder.path(), &["plan", "own.toml", "--json"]);
    assert_eq!(plan.code, Some(1), "{}", plan.stderr);
    let plan: serde_json::Value = serde_json::from_str(&plan.stdout).expect("one JSON object");
    assert!(plan["problems"][0].as_str().is_some_and(|problem| problem.contains("data/eval")), "{plan}");
    assert_eq!(plan["model"]["base"], "model");
    assert_eq!(plan["data"][1]["columns"], serde_json::json!({ "instruction": "question", "output": "answer" }));
    assert_eq!(plan["eval"]["tasks"], serde_json::json!(["gsm8k", "fpb"]));
    let planned: Vec<&str> =
        plan["plan"].as_array().expect("plans").iter().filter_map(|it| it["stage"].as_str()).collect();
    assert_eq!(planned, ["group1", "align-given", "align"], "{plan}");
}

#[test]
fn columns_of_exercises_are_proposed_and_others_can_be_said() {
    let folder = workplace();
    for (name, text) in
        [("odd.csv", "Problem,final_answer\nWhat is 2 and 2?,4\n"), ("frage.csv", "Frage,Antwort\nWhat rose?,Rates.\n")]
    {
        fs::write(folder.path().join(name), text).expect("written");
    }
    let written = |arguments: &[&str]| -> toml::Table {
        let output = ["init", "--force", "--output", "own.toml"];
        findap_in(folder.path(), &[&output, arguments].concat()).success();
        fs::read_to_string(folder.path().join("own.toml")).expect("the recipe").parse().expect("TOML")
    };
    let recipe = written(&["--model", "model", "--exercises", "odd.csv"]);
    let stage = recipe["stage"].as_array().expect("stages")[0].clone();
    assert_eq!(stage["exercise_columns"].to_string(), r#"{ answer = "final_answer", question = "Problem" }"#);
    let columns = "--columns=prompt=Frage,completion=Antwort";
    let recipe = written(&["--chats", "frage.csv", columns, "--domain", "general"]);
    let source = recipe["data"].as_array().expect("sources")[0].clone();
    assert_eq!(source["columns"].to_string(), r#"{ completion = "Antwort", prompt = "Frage" }"#);
    assert_eq!(source["domain"].as_str(), Some("general"));
    for (arguments, word) in [
        (vec!["init", "--force", "--chats", "talk.csv", "--columns", "prompt=Nope"], "`Nope`"),
        (vec!["init", "--force", "--chats", "frage.csv", "--columns", "frage=Frage"], "no field"),
        (vec!["init", "--force", "--domain", "sports"], "finance or general"),
    ] {
        let said = findap_in(folder.path(), &arguments);
        assert!(said.code != Some(0) && said.stderr.contains(word), "{arguments:?}: {}", said.stderr);
    }
}

#[test]
fn without_arguments_placeholders_are_written_and_no_file_is_replaced() {
    let folder = workplace();
    let said = findap_in(folder.path(), &["init"]).success().stdout;
    assert!(said.contains("edit the lines of recipe.toml"), "{said}");
    let plan = findap_in(folder.path(), &["plan", "recipe.toml"]).success().stdout;
    assert!(plan.contains("models/YOUR-MODEL") && plan.contains("group1"), "{plan}");
    let written = fs::read(folder.path().join("recipe.toml")).expect("the recipe");
    findap_in(folder.path(), &["init", "--model", "model"]).refusal(&["recipe.toml", "--force"]);
    assert_eq!(fs::read(folder.path().join("recipe.toml")).expect("the recipe"), written);
    findap_in(folder.path(), &["init", "--model", "model", "--force"]).success();
    assert_ne!(fs::read(folder.path().join("recipe.toml")).expect("the recipe"), written);
}

#[test]
fn rows_longer_than_any_context_of_the_model_are_told() {
    let folder = workplace();
    let long = "rates ".repeat(3000);
    let rows = format!("question,answer\nWhat rose?,Rates.\nWhat fell?,{long}\n");
    fs::write(folder.path().join("long.csv"), rows).expect("written");
    let said = findap_in(folder.path(), &["init", "--model", "model", "--chats", "long.csv"]).success().stdout;
    assert!(said.contains("long: 1 of 2 rows are longer than the context"), "{said}");
}

#[test]
fn what_cannot_be_read_is_refused_and_nothing_is_written() {
    let folder = workplace();
    let cases: [(&[&str], &str); 6] = [
        (&["--texts", "figures.jsonl"], "figure"),
        (&["--chats", "news-1.jsonl"], "content"),
        (&["--texts", "none-*.jsonl"], "none-*.jsonl"),
        (&["--model", "no-model"], "no-model"),
        (&["--exercises", "news-1.jsonl"], "news-1.jsonl"),
        (&["--tasks", "finance_concept"], "closed world"),
    ];
    for (arguments, word) in cases {
        findap_in(folder.path(), &[&["init"], arguments].concat()).refusal(&[word]);
        assert!(!folder.path().join("recipe.toml").exists(), "{arguments:?}");
    }
}
