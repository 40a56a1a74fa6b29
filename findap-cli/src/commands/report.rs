//! `findap report`: the run folder as one page.

use std::path::PathBuf;

use anyhow::{Context, Result};
use findap_train::folder::FolderLock;

/// Writes RUN/report.html: one offline page with scores, curves and examples; also of a run that is going on
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run folder
    run: PathBuf,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let path = findap_eval::report::write(&arguments.run, FolderLock::is_held(&arguments.run))
        .with_context(|| format!("cannot make the report of {}", arguments.run.display()))?;
    println!("{}", path.display());
    Ok(())
}
