//! Recipes through the command line: what `findap plan` shows, and how mistakes are named.

use std::fs;

use crate::tool::run;

const RECIPE: &str = r#"schema = 1
[run]
name = "small"
[model]
base = "some/model"
[[data]]
name = "news"
path = "news.jsonl"
kind = "text"
[[stage]]
name = "group1"
kind = "train"
text = ["news"]
steps = 10
batch_tokens = 4096
learning_rate = 1e-3
"#;

#[test]
fn a_plan_shows_stages_and_overrides_and_runs_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("small.toml");
    fs::write(&path, RECIPE).expect("the recipe is written");
    let path = path.to_str().expect("a UTF-8 path");
    let plan = run(["plan", path]).success().stdout;
    for word in ["group1", "10 steps", "1e-3", "some/model", "runs/small"] {
        assert!(plan.contains(word), "{word}\n{plan}");
    }
    let plan = run(["plan", path, "--set", "stage.group1.learning_rate=2e-5"]).success().stdout;
    assert!(plan.contains("2e-5"), "{plan}");
    let json = run(["plan", path, "--json"]).success().stdout;
    let value: serde_json::Value = serde_json::from_str(&json).expect("one JSON object");
    assert_eq!(value["run"]["name"], "small");
    assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 1, "only the recipe is there");
}

#[test]
fn mistakes_are_named_by_file_line_and_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("small.toml");
    let cases: [(&str, &str, &[&str]); 6] = [
        ("learning_rate = 1e-3", "lerning_rate = 1e-3", &["small.toml:16", "lerning_rate", "learning_rate"]),
        ("kind = \"train\"", "kind = \"trian\"", &["small.toml:12", "kind"]),
        ("steps = 10", "steps = \"ten\"", &["small.toml:14", "steps"]),
        ("schema = 1", "schema = 7", &["small.toml", "schema"]),
        ("text = [\"news\"]", "text = [\"newz\"]", &["small.toml", "newz"]),
        ("[model]", "[model", &["small.toml:4"]),
    ];
    for (right, wrong, words) in cases {
        fs::write(&path, RECIPE.replacen(right, wrong, 1)).expect("the recipe is written");
        run(["plan".as_ref(), path.as_os_str()]).refusal(words);
    }
    run(["plan", "no/such/recipe.toml"]).refusal(&["no/such/recipe.toml"]);
    fs::write(&path, RECIPE).expect("the recipe is written");
    let path = path.to_str().expect("a UTF-8 path");
    run(["plan", path, "--set", "stage.group1.lerning_rate=1"]).refusal(&["lerning_rate", "learning_rate"]);
    assert_eq!(run(["plan", path, "--set", "nothing"]).code, Some(2));
}

#[test]
fn every_recipe_of_the_project_is_one() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes");
    let runs = tempfile::tempdir().expect("a temporary folder");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("the recipes").flatten() {
        let run_folder = runs.path().join(entry.file_name());
        let said =
            run(["plan".as_ref(), entry.path().as_os_str(), "--run-dir".as_ref(), run_folder.as_os_str()]).success();
        let name = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(said.stdout.contains(&format!("run {name} ")), "{name} is named otherwise:\n{}", said.stdout);
        names.push(name);
    }
    assert!(names.len() >= 5, "{names:?}");
}

#[test]
fn the_report_of_no_run_is_refused() {
    run(["report", "no/such/run"]).refusal(&["no/such/run"]);
}
