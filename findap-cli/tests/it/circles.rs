//! No circles of files inside a crate.
//!
//! A file knows another where one of its `use` lines names it. The rule: these arrows form no circle, but for those between a module
//! and the files below it. A folder is one room: its `mod.rs` holds what the files share (arguments of an op, a context) and calls
//! them, and each of them reads it. Tests are no part of the rooms: they may look anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::tidy::{complain_unless_empty, packages, rust_sources};

/// The files of a crate by the path of their module, such as `session::plan`; the root is empty.
fn modules(src: &Path) -> BTreeMap<String, String> {
    let path_of = |file: &Path| {
        let below = file.strip_prefix(src).expect("a source of the crate").with_extension("");
        let mut parts: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
            parts.pop();
        }
        parts.join("::")
    };
    let is_test =
        |path: &str| path.split("::").any(|part| part == "tests" || part.ends_with("_tests") || part == "cases");
    let sources = rust_sources(src).into_iter().map(|(file, text)| (path_of(&file), text));
    sources.filter(|(path, _)| !is_test(path)).collect()
}

/// The text without comments and without what stands behind its first test module.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The paths that the `use` lines of a file name, groups taken apart.
fn imports(text: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let begins = code[..at].chars().next_back().is_none_or(|before| before.is_whitespace());
        if let Some(end) = code[at..].find(';').filter(|_| begins) {
            expand("", &code[at + 4..at + end], &mut found);
        }
    }
    found
}

/// `a::{b, c::d}` behind `prefix`.
fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        found.push(format!("{prefix}{}", tree.split(" as ").next().unwrap_or_default().trim()));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let prefix = format!("{prefix}{}", head.trim());
    for (at, character) in inner.char_indices().chain([(inner.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&prefix, &inner[start..at], found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The module that a path names from module `from`, or holds what it names.
fn resolve(from: &str, path: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut place: Vec<&str> = if from.is_empty() { Vec::new() } else { from.split("::").collect() };
    let mut parts = path.split("::").peekable();
    match *parts.peek()? {
        "crate" => {
            parts.next();
            place.clear();
        }
        "self" => {
            parts.next();
        }
        "super" => {
            while parts.next_if_eq(&"super").is_some() {
                place.pop();
            }
        }
        // a child of this module; other crates have no such module
        first if modules.contains_key(&[&place[..], &[first]].concat().join("::")) => {}
        _ => return None,
    }
    place.extend(parts);
    while !modules.contains_key(&place.join("::")) {
        place.pop()?;
    }
    Some(place.join("::"))
}

fn is_below(inner: &str, outer: &str) -> bool {
    outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// A way from a file back to itself, if there is one.
fn circle(arrows: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        at: &str,
        arrows: &BTreeMap<String, BTreeSet<String>>,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = way.iter().position(|seen| seen == at) {
            return Some(way[start..].to_vec());
        }
        if !done.insert(at.to_owned()) {
            return None;
        }
        way.push(at.to_owned());
        let found = arrows.get(at).into_iter().flatten().find_map(|next| walk(next, arrows, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    arrows.keys().find_map(|start| walk(start, arrows, &mut Vec::new(), &mut done))
}

/// Who knows whom in a crate.
fn arrows(modules: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, text) in modules {
        for to in imports(text).iter().filter_map(|path| resolve(from, path, modules)) {
            if to != *from && !is_below(&to, from) && !is_below(from, &to) {
                arrows.entry(from.clone()).or_default().insert(to);
            }
        }
    }
    arrows
}

#[test]
fn files_inside_a_crate_form_no_circles() {
    let (mut complaints, mut num_arrows) = (Vec::new(), 0);
    for package in packages() {
        let src: PathBuf = package.manifest_path.parent().expect("a manifest has a folder").join("src").into();
        let arrows = arrows(&modules(&src));
        num_arrows += arrows.values().map(BTreeSet::len).sum::<usize>();
        if let Some(way) = circle(&arrows) {
            complaints.push(format!("  {}: {} and back", package.name, way.join(" -> ")));
        }
    }
    assert!(num_arrows > 300, "{num_arrows} arrows: were the sources read?");
    complain_unless_empty("files that know each other in a circle", &complaints);
}

#[test]
fn a_circle_is_found() {
    let of = |files: &[(&str, &str)]| {
        let modules = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        circle(&arrows(&modules))
    };
    let names = |way: &[&str]| Some(way.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let a_to_b = ("a", "use std::fmt;\nuse crate::{c::{self, D}, b::B as X};\n");
    let found = of(&[("", ""), a_to_b, ("b", "use super::c::D;"), ("c", "\nuse crate::a;\n")]);
    assert_eq!(found, names(&["a", "b", "c"]));
    assert_eq!(of(&[("", "use a::A;"), a_to_b, ("b", "use super::c::D;"), ("c", "// use crate::a;")]), None);
    // a folder is one room
    assert_eq!(of(&[("m", "use self::x::X;"), ("m::x", "use super::M;\nuse crate::n;"), ("n", "")]), None);
    let found =
        of(&[("m", ""), ("m::x", "use super::y::Y;"), ("m::y", "use crate::n::N;"), ("n", "use crate::m::x::X;")]);
    assert_eq!(found, names(&["m::x", "m::y", "n"]));
}
