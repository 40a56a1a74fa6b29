//! `cargo xtask guide`: the chapters of the user guide that `findap help` prints.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

/// File, title and topic of each chapter.
const CHAPTERS: [(&str, &str, &str); 2] =
    [("recipe-keys.md", "Every key of a recipe", "recipe"), ("task-keys.md", "Every key of a task file", "task")];

pub(crate) fn write() -> Result<ExitCode> {
    for (file, title, topic) in CHAPTERS {
        let mut findap = super::cargo();
        findap.args(["run", "--quiet", "-p", "findap-cli", "--", "help", topic, "--markdown"]);
        let keys = super::said(&mut findap)?;
        let text = format!(
            "# {title}\n\nThis page is what `findap help {topic} --markdown` prints; `cargo xtask guide` writes it. `[[data]]`, `[[stage]]` and \
             other tables that may stand several times are named without their brackets.\n\n{keys}\n"
        );
        let path = super::workspace_root().join("docs/guide/src").join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}
