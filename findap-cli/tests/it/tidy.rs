//! House rules that a compiler does not check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{MetadataCommand, Package};

const LIBRARIES: [&str; 6] =
    ["findap-kernels", "findap-tensor", "findap-data", "findap-model", "findap-train", "findap-eval"];

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

pub(crate) fn packages() -> Vec<Package> {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata runs")
        .packages
}

/// Every Rust source below `folder`, with its text, in one order.
pub(crate) fn rust_sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn every_source() -> Vec<(PathBuf, String)> {
    packages()
        .iter()
        .flat_map(|package| {
            rust_sources(package.manifest_path.parent().expect("a manifest has a folder").as_std_path())
        })
        .collect()
}

pub(crate) fn complain_unless_empty(rule: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{rule}:\n{}", complaints.join("\n"));
}

#[test]
fn every_dependency_of_the_workspace_has_a_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let dependencies = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let mut complaints = Vec::new();
    let mut count = 0;
    for line in dependencies {
        let Some((name, value)) = line.split_once(" = ") else {
            continue;
        };
        if line.starts_with('#') || name.starts_with("findap-") {
            continue;
        }
        count += 1;
        let reason = value.split_once('#').map_or("", |(_, reason)| reason.trim());
        if reason.len() < 10 {
            complaints.push(format!("  {name}"));
        }
    }
    assert!(count > 20, "the dependency table was not found");
    complain_unless_empty("say beside each dependency in the root Cargo.toml why it is there", &complaints);
}

#[test]
fn every_dependency_is_used_by_the_crate_that_names_it() {
    let packages = packages();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest");
    let shared: BTreeSet<&str> = manifest
        .lines()
        .skip_while(|line| *line != "[workspace.dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('#'))
        .collect();

    let mut complaints = Vec::new();
    let mut named = BTreeSet::new();
    for package in &packages {
        let sources = rust_sources(package.manifest_path.parent().expect("a manifest has a folder").as_std_path());
        for dependency in &package.dependencies {
            named.insert(dependency.name.as_str());
            let identifier = dependency.name.replace('-', "_");
            if !sources.iter().any(|(_, text)| mentions(text, &identifier)) {
                complaints.push(format!("  {} names {}", package.name, dependency.name));
            }
        }
    }
    for name in shared {
        if !named.contains(name) {
            complaints.push(format!("  the root manifest names {name}, no crate does"));
        }
    }
    complain_unless_empty("dependencies that no source mentions", &complaints);
}

/// Whether `identifier` stands in `text` as a word of its own, followed by a path or closing an import.
fn mentions(text: &str, identifier: &str) -> bool {
    let is_word = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(identifier).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + identifier.len()..]);
        !is_word(before.chars().next_back()) && !is_word(after.chars().next())
    })
}

#[test]
fn libraries_do_not_print() {
    let mut complaints = Vec::new();
    for library in LIBRARIES {
        for (path, text) in rust_sources(&root().join(library).join("src")) {
            let is_test = path.file_name().is_some_and(|name| name == "tests.rs")
                || path.components().any(|part| part.as_os_str() == "tests");
            if is_test {
                continue;
            }
            // Unit tests stand at the end of their file: what follows the first `#[cfg(test)]` of a module is theirs.
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let line = line.trim_start();
                let prints = ["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("];
                if !line.starts_with("//") && prints.iter().any(|print| line.contains(print)) {
                    complaints.push(format!("  {}:{}", path.display(), number + 1));
                }
            }
        }
    }
    complain_unless_empty("a library hands values back, it does not print", &complaints);
}

#[test]
fn comments_are_ascii() {
    let mut complaints = Vec::new();
    for (path, text) in every_source() {
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") && !line.is_ascii() {
                complaints.push(format!("  {}:{}", path.display(), number + 1));
            }
        }
    }
    complain_unless_empty("comments are written in ASCII", &complaints);
}

#[test]
fn no_test_is_ignored() {
    let attribute = ["#[", "ignore"].concat();
    let complaints: Vec<String> = every_source()
        .iter()
        .filter(|(_, text)| text.contains(&attribute))
        .map(|(path, _)| format!("  {}", path.display()))
        .collect();
    complain_unless_empty("a test runs or says what it skips; none is ignored", &complaints);
}

#[test]
fn the_tests_that_guard_the_invariants_exist() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let invariants = page
        .lines()
        .skip_while(|line| *line != "| invariant | guarded by |")
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let sources = every_source();
    let mut complaints = Vec::new();
    let mut count = 0;
    for line in invariants {
        let guards = line.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        for test in guards.split('`').skip(1).step_by(2) {
            count += 1;
            let definition = format!("fn {test}(");
            if !sources.iter().any(|(_, text)| text.contains(&definition)) {
                complaints.push(format!("  {test}"));
            }
        }
    }
    assert!(count > 0, "the table of invariants was not found");
    complain_unless_empty("ARCHITECTURE.md names tests that do not exist", &complaints);
}

/// The groups of a file's imports: the standard library, other crates, this one.
fn import_group(line: &str) -> usize {
    let path = line.trim_start_matches("use ").trim_start_matches(':');
    match path.split([':', ';', ' ']).next().unwrap_or_default() {
        "std" | "core" | "alloc" => 0,
        "crate" | "super" | "self" => 2,
        _ => 1,
    }
}

#[test]
fn imports_stand_in_three_groups() {
    let mut complaints = Vec::new();
    for (path, text) in every_source() {
        let mut last: Option<(usize, usize)> = None; // group and line where it ended
        let mut open = None;
        for (number, line) in text.lines().enumerate() {
            if open.is_none() && line.starts_with("use ") && !line.starts_with("use {") {
                let group = import_group(line);
                if let Some((before, end)) = last {
                    // The block goes on while nothing but blank lines and attributes stand between.
                    let between: Vec<&str> = text.lines().skip(end + 1).take(number - end - 1).collect();
                    let is_same_block = between.iter().all(|line| line.is_empty() || line.starts_with("#["));
                    let has_blank = between.iter().any(|line| line.is_empty());
                    if is_same_block && (group < before || (group > before) != has_blank) {
                        complaints.push(format!("  {}:{}", path.display(), number + 1));
                    }
                }
                open = Some(group);
            }
            if let Some(group) = open.filter(|_| line.ends_with(';')) {
                last = Some((group, number));
                open = None;
            }
        }
    }
    complain_unless_empty(
        "imports stand as three groups, a blank line between: std, other crates, crate and super",
        &complaints,
    );
}

/// Files that time or compare many things one after the other, and read as lists.
const LONG_FILES: [&str; 1] = ["findap-kernels/examples/bench_cuda.rs"];

#[test]
fn files_are_shorter_than_600_lines() {
    let is_long = |(path, text): &(PathBuf, String)| {
        text.lines().count() > 600 && !LONG_FILES.iter().any(|long| path.ends_with(long))
    };
    let complaints: Vec<String> =
        every_source().iter().filter(|file| is_long(file)).map(|(path, _)| format!("  {}", path.display())).collect();
    complain_unless_empty("a file has at most 600 lines", &complaints);
}

#[test]
fn a_doc_comment_has_a_subject() {
    let mut complaints = Vec::new();
    for (path, text) in every_source() {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let Some(said) = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! ")) else { continue };
            let before = text.lines().nth(number.wrapping_sub(1)).unwrap_or_default().trim_start();
            let begins = !before.starts_with("///") && !before.starts_with("//!");
            if begins && ["Of ", "That of", "Those of", "As of"].iter().any(|opening| said.starts_with(opening)) {
                complaints.push(format!("  {}:{}: {said}", path.display(), number + 1));
            }
        }
    }
    complain_unless_empty("a comment begins with what it speaks of", &complaints);
}
