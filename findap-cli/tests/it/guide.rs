//! The user guide and the README: links, recipes, commands and what they print, the generated chapters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use findap_train::recipe;

use crate::tool::run;

/// Chapters that `cargo xtask guide` writes, with the topic that `findap help` prints for each.
const GENERATED: [(&str, &str); 2] = [("recipe-keys.md", "recipe"), ("task-keys.md", "task")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn source() -> PathBuf {
    root().join("docs/guide/src")
}

/// Path and text of every page: the chapters of the guide, and the README.
fn pages() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(source()).expect("the guide").flatten().map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = entries.chain([root().join("README.md")]).collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a page is text");
            (path, text)
        })
        .collect()
}

/// A fenced block of a page.
struct Block<'a> {
    language: &'a str,
    /// The file that the line before it names: "`data/rows.jsonl`:".
    file: Option<&'a str>,
    body: String,
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut before = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let body = lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            let file = before.strip_prefix('`').and_then(|rest| rest.strip_suffix("`:"));
            blocks.push(Block { language, file, body });
            before = "";
        } else if !line.trim().is_empty() {
            before = line;
        }
    }
    blocks
}

fn is_whole_recipe(block: &Block<'_>) -> bool {
    block.language == "toml" && block.body.starts_with("schema = 1") && block.body.contains("[run]")
}

#[test]
fn links_lead_to_files_and_every_chapter_is_in_the_summary() {
    let summary = fs::read_to_string(source().join("SUMMARY.md")).expect("SUMMARY.md");
    let mut num_links = 0;
    for (path, text) in pages() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if target.is_empty() || target.contains("://") {
                continue;
            }
            num_links += 1;
            let linked = path.parent().expect("a folder").join(target);
            assert!(linked.exists(), "{}: the link {target} leads nowhere", path.display());
        }
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let is_chapter = path.starts_with(source()) && name != "SUMMARY.md";
        assert!(!is_chapter || summary.contains(&format!("]({name})")), "{name} is not in SUMMARY.md");
        let is_generated = GENERATED.iter().any(|(generated, _)| *generated == name);
        let is_short = !is_chapter || is_generated || text.lines().count() <= 150;
        assert!(is_short, "{name} is too long for a chapter");
    }
    assert!(num_links > 20, "{num_links} links");
}

#[test]
fn whole_recipes_in_readme_and_guide_are_recipes_as_they_stand() {
    let mut count = 0;
    for (path, text) in pages() {
        for block in blocks(&text).iter().filter(|block| is_whole_recipe(block)) {
            count += 1;
            let parsed = recipe::parse(&block.body, &path, &[]);
            assert!(parsed.is_ok(), "{}: {}\n{}", path.display(), parsed.unwrap_err(), block.body);
        }
    }
    assert!(count >= 6, "{count} recipes");
}

/// Runs each chapter's commands in a folder of its own, with the chapter's files and the project's assets.
#[test]
fn the_commands_of_the_guide_print_what_it_says() {
    let binary = Path::new(env!("CARGO_BIN_EXE_findap")).parent().expect("a folder");
    let path_variable = std::env::var_os("PATH").unwrap_or_default();
    let search = std::env::join_paths([binary.to_path_buf()].into_iter().chain(std::env::split_paths(&path_variable)));
    let search = search.expect("a search path");
    let mut num_commands = 0;
    for (page, text) in pages() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let assets = fs::canonicalize(root().join("assets")).expect("the assets");
        std::os::unix::fs::symlink(assets, folder.path().join("assets")).expect("a link to the assets");
        for block in blocks(&text) {
            if let Some(file) = block.file {
                let file = folder.path().join(file);
                fs::create_dir_all(file.parent().expect("a folder")).expect("the file's folder is made");
                fs::write(file, &block.body).expect("the file is written");
            }
            if block.language != "console" {
                continue;
            }
            for part in format!("\n{}", block.body).split("\n$ ").skip(1) {
                let (command, wanted) = part.split_once('\n').unwrap_or((part, ""));
                num_commands += 1;
                let output = Command::new("sh")
                    .args(["-c", command])
                    .current_dir(folder.path())
                    .env("PATH", &search)
                    .stdin(Stdio::null())
                    .output()
                    .expect("a shell");
                let printed =
                    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                let place = format!("{}: {command}\n{printed}", page.display());
                assert!(output.status.success(), "{place}");
                for line in wanted.lines() {
                    assert!(printed.contains(line), "it does not print {line:?}: {place}");
                }
            }
        }
    }
    assert!(num_commands > 25, "{num_commands} commands");
}

#[test]
fn generated_chapters_are_what_help_prints() {
    for (chapter, topic) in GENERATED {
        let text = fs::read_to_string(source().join(chapter)).unwrap_or_default();
        let keys = run(["help", topic, "--markdown"]).success().stdout;
        let is_fresh = text.ends_with(&keys) && text.starts_with("# ") && text.len() - keys.len() < 600;
        assert!(is_fresh, "docs/guide/src/{chapter} is stale; `cargo xtask guide` writes it anew");
    }
}

/// The recipe of the README for one's own model and data, as it stands, over files of the kinds that it names.
#[test]
fn the_recipe_of_the_readme_is_planned_as_it_stands() {
    let text = fs::read_to_string(root().join("README.md")).expect("the README");
    let recipes: Vec<Block<'_>> = blocks(&text).into_iter().filter(is_whole_recipe).collect();
    let [block] = &recipes[..] else { panic!("the README has one whole recipe, not {}", recipes.len()) };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |path: &str| folder.path().join(path);
    fs::create_dir_all(at("data")).and_then(|()| fs::create_dir_all(at("models"))).expect("folders");
    let model = fs::canonicalize(root().join("assets/tiny-instruct")).expect("the small model");
    std::os::unix::fs::symlink(model, at("models/Llama-3.2-1B-Instruct")).expect("a link to the model");
    let questions = fs::canonicalize(root().join("findap-eval/testdata")).expect("data sets of tasks");
    std::os::unix::fs::symlink(questions, at("data/eval")).expect("a link to the data sets");
    let files = [
        ("data/filings-2025.jsonl", r#"{"body": "Revenue of the fund rose in the second quarter, and costs fell."}"#),
        ("data/filings-2026.jsonl", r#"{"body": "The fund pays twice a year."}"#),
        (
            "data/questions.jsonl",
            r#"{"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "In May."}]}"#,
        ),
        ("data/pairs.jsonl", r#"{"prompt": "When?", "chosen": "In May.", "rejected": "Never."}"#),
        ("data/exercises.jsonl", r#"{"id": "1", "question": "What is 2 and 2?", "answer": "4"}"#),
    ];
    for (path, row) in files {
        fs::write(at(path), format!("{row}\n")).expect("the data are written");
    }
    fs::write(at("mine.toml"), &block.body).expect("the recipe is written");
    let mut command = crate::tool::findap();
    command.args(["plan", "mine.toml"]).current_dir(folder.path()).env("JUDGE_KEY", "a key");
    let output = command.output().expect("the binary starts");
    let plan = crate::tool::Said::from(output).success().stdout;
    for word in ["group1", "distill", "align", "TFLOP"] {
        assert!(plan.contains(word), "{word}\n{plan}");
    }
}
