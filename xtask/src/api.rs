//! `cargo xtask api`: the public names of each library crate, compared with those that were agreed on.
//!
//! Public names are read from the index of the crate's documentation (`all.html`), where rustdoc has followed every export. A name that
//! is added or removed is a change that users see: `--accept` writes it down, and the commit shows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

const LIBRARIES: [&str; 6] =
    ["findap-kernels", "findap-tensor", "findap-data", "findap-model", "findap-train", "findap-eval"];

/// Compare the public names of the library crates with their api.txt
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {
    /// Write the names as they are now into api.txt of each crate
    #[arg(long)]
    accept: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let status = super::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").status();
    ensure!(status.context("cannot start cargo")?.success(), "the documentation does not build");
    let mut differs = false;
    for library in LIBRARIES {
        let names = public_names(library)?;
        let path = super::workspace_root().join(library).join("api.txt");
        if arguments.accept {
            let text: String = names.iter().map(|name| format!("{name}\n")).collect();
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let agreed: BTreeSet<String> = text.lines().map(str::to_owned).collect();
        let come = names.difference(&agreed).map(|name| format!("  {library}: {name} is new"));
        let gone = agreed.difference(&names).map(|name| format!("  {library}: {name} is gone"));
        for line in come.chain(gone) {
            println!("{line}");
            differs = true;
        }
    }
    ensure!(!differs, "public names have changed; is it on purpose? then `cargo xtask api --accept`");
    println!("public names are those of api.txt");
    Ok(ExitCode::SUCCESS)
}

/// Kind and path of every public item, such as `struct session::Session`.
fn public_names(library: &str) -> Result<BTreeSet<String>> {
    let folder: PathBuf = super::target_folder().join("doc").join(library.replace('-', "_"));
    let index = folder.join("all.html");
    let html = fs::read_to_string(&index).with_context(|| format!("cannot read {}", index.display()))?;
    let names: BTreeSet<String> = html.split("<a href=\"").skip(1).filter_map(item).collect();
    ensure!(!names.is_empty(), "{} names nothing: has rustdoc changed its pages?", index.display());
    Ok(names)
}

/// The item that a link of the index names: `session/struct.Session.html">..` is `struct session::Session`.
fn item(link: &str) -> Option<String> {
    let page = link.split('"').next()?.strip_suffix(".html")?;
    let (module, file) = page.rsplit_once('/').map_or(("", page), |(module, file)| (module, file));
    let (kind, name) = file.split_once('.')?;
    let is_item = ["struct", "enum", "union", "trait", "fn", "constant", "static", "type", "macro"].contains(&kind);
    let path = if module.is_empty() { name.to_owned() } else { format!("{}::{name}", module.replace('/', "::")) };
    is_item.then(|| format!("{kind} {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_index_are_items() {
        let found = |link| item(link);
        assert_eq!(found("session/struct.Session.html\">x"), Some("struct session::Session".to_owned()));
        assert_eq!(found("fn.pack.html\">x"), Some("fn pack".to_owned()));
        assert_eq!(found("../help.html\">x"), None);
        assert_eq!(found("#structs\">x"), None);
    }
}
