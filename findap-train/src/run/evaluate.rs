//! The evaluation of models: the request to the evaluator, and the identity of a result.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use findap_data::files::{hash_file, hex};
use findap_model::{Device, Dtype};
use sha2::{Digest, Sha256};

use super::settings::world_identity;
use crate::error::{TrainError, io};
use crate::identity::{Identity, flatten};
use crate::recipe::{EvalTable, Recipe};

/// A model to be measured.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// `base` or the stage that made it.
    pub stage: &'a str,
    /// Its folder.
    pub model: &'a Path,
    /// The resolved recipe: what to measure, and the seed.
    pub recipe: &'a Recipe,
    /// The folder for the results.
    pub output: &'a Path,
    /// The device on which to compute.
    pub device: &'a Device,
    /// The format of its weights there.
    pub dtype: Dtype,
    /// When the run was begun, in seconds since 1970: the time that chat templates tell.
    pub time_seconds: u64,
}

/// A function that measures a model; `false` when it was stopped before the end. The caller of a run gives it, for findap-train does
/// not know findap-eval.
pub type Evaluate<'a> = dyn FnMut(&Evaluation<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> + 'a;

/// The identity of the results of a model with this fingerprint.
pub(super) fn identity(recipe: &Recipe, eval: &EvalTable, model: &str) -> Result<Identity, TrainError> {
    let mut identity = Identity::from([("model".to_owned(), model.to_owned())]);
    flatten("eval", &serde_json::to_value(eval).expect("invariant: a table is JSON"), &mut identity);
    identity.remove("eval.stages");
    if let Some(world) = world_identity(recipe) {
        flatten("world", &world, &mut identity);
    }
    for folder in eval.task_folder.iter().chain(eval.data.values()) {
        identity.insert(format!("files.{}", folder.display()), file_sizes(folder)?);
    }
    identity.insert("run.seed".to_owned(), recipe.run.seed.to_string());
    identity.extend(recipe.run.date.iter().map(|date| ("run.date".to_owned(), date.clone())));
    Ok(identity)
}

/// SHA-256 over the names and sizes of the files below a folder and the contents of its task files. It changes when questions may
/// have changed.
fn file_sizes(folder: &Path) -> Result<String, TrainError> {
    let mut entries = files_below(folder)?;
    entries.sort();
    let mut hash = Sha256::new();
    for (path, bytes) in entries {
        hash.update(format!("{} {bytes}\n", path.strip_prefix(folder).unwrap_or(&path).display()));
        if path.extension().is_some_and(|ending| ending == "toml") {
            hash_file(&mut hash, &path).map_err(io("read", &path))?;
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The files below a folder with their sizes. A link to a folder is not followed.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>, TrainError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io("list", &folder))? {
            let entry = entry.map_err(io("list", &folder))?;
            let path = entry.path();
            let metadata = entry.metadata().map_err(io("look at", &path))?;
            if metadata.is_dir() { folders.push(path) } else { files.push((path, metadata.len())) }
        }
    }
    Ok(files)
}
