//! The crates may know each other along these edges and no others.

use std::collections::BTreeSet;

use cargo_metadata::MetadataCommand;

/// (crate, what it may depend on). ARCHITECTURE.md has the reasons.
const EDGES: [(&str, &[&str]); 8] = [
    ("findap-kernels", &[]),
    ("findap-tensor", &["findap-kernels"]),
    ("findap-data", &[]),
    ("findap-model", &["findap-tensor", "findap-data"]),
    ("findap-train", &["findap-model", "findap-data", "findap-tensor"]),
    ("findap-eval", &["findap-model", "findap-data"]),
    ("findap-cli", &["findap-model", "findap-data", "findap-train", "findap-eval", "findap-tensor"]),
    ("xtask", &[]),
];

#[test]
fn crates_depend_on_each_other_along_the_stated_edges_only() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata runs");
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(members, known, "a crate was added or removed: give it its row in EDGES and in ARCHITECTURE.md");

    for package in &metadata.packages {
        let allowed: BTreeSet<&str> = EDGES
            .iter()
            .find(|(name, _)| *name == package.name.as_str())
            .map(|(_, allowed)| allowed.iter().copied().collect())
            .expect("every member is known");
        // Dev and build dependencies count too: a test that needs a forbidden crate belongs elsewhere.
        let actual: BTreeSet<&str> = package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.as_str())
            .filter(|name| members.contains(name))
            .collect();
        let forbidden: Vec<_> = actual.difference(&allowed).collect();
        assert!(forbidden.is_empty(), "{} may not depend on {forbidden:?}", package.name);
    }
}

#[test]
fn folder_names_are_crate_names() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .expect("cargo metadata runs");
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().and_then(|parent| parent.file_name());
        assert_eq!(folder, Some(package.name.as_str()));
        assert_eq!(
            package.manifest_path.parent().and_then(|parent| parent.parent()),
            Some(metadata.workspace_root.as_path()),
            "{} must lie at the top level",
            package.name
        );
    }
}
