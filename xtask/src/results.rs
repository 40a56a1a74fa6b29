//! Results of evaluations, as `findap` writes them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The newest results in a folder.
pub(crate) fn newest_results(folder: &Path) -> Result<Value> {
    let entries = fs::read_dir(folder).with_context(|| format!("{} is missing", folder.display()))?;
    let names = entries.flatten().map(|entry| entry.path());
    let newest =
        names.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("results_"))).max();
    let path = newest.with_context(|| format!("{} holds no results", folder.display()))?;
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
