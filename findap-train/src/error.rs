//! What can go wrong in a run.

use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::recipe::error::RecipeError;

/// Why a run stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Texts, tokens, templates or journals failed.
    #[error(transparent)]
    Data(#[from] findap_data::DataError),
    /// The model or its arithmetic failed.
    #[error(transparent)]
    Model(#[from] findap_model::ModelError),
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A source gives no rows, or no row that fits.
    #[error("stage `{stage}`: {problem}")]
    NothingToTrain {
        /// The stage.
        stage: String,
        /// What is missing and what to change.
        problem: String,
    },
    /// A loss or gradient is not a finite number; the weights are those before this step.
    #[error(
        "stage `{stage}`, step {step}: {what} is not finite; nothing was updated and the last checkpoint is intact. Rows of this step: {rows}. \
         Look at these rows with `findap data inspect`, or lower `learning_rate` and take the stage back with `findap reset`"
    )]
    NonFinite {
        /// The stage.
        stage: String,
        /// The step, from 1.
        step: u64,
        /// `loss` or `gradient`.
        what: &'static str,
        /// The rows of the step, as `source:row`.
        rows: String,
    },
    /// Another process works in the run folder.
    #[error("{}: another run works here ({owner}); wait for it, or name another folder with --run-dir", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// `process N on HOST`, as it wrote itself down.
        owner: String,
    },
    /// A stage was begun with other settings or data, with which it cannot be continued.
    #[error(
        "{}: stage `{stage}` was begun with other settings:\n{}\nput them back, or take the stage and what was made from it back with `findap reset`",
        folder.display(), show_changes(changes)
    )]
    Changed {
        /// The stage's folder.
        folder: PathBuf,
        /// The stage.
        stage: String,
        /// What differs.
        changes: Vec<Change>,
    },
    /// The disk would not hold the checkpoints.
    #[error("{}: {} MiB are needed for checkpoints and the model, {} MiB are free; make room or set run.keep_checkpoints = 1", folder.display(), need_bytes >> 20, free_bytes >> 20)]
    DiskSpace {
        /// Where.
        folder: PathBuf,
        /// Bytes needed.
        need_bytes: u64,
        /// There is.
        free_bytes: u64,
    },
    /// The memory would not hold the training.
    #[error(
        "stage `{stage}` needs {} MiB of memory ({}), {} MiB are free; lower `micro_batch_tokens` or `context_tokens`, set \
         model.recompute = \"block\", on a GPU model.compute and model.state = \"bf16\", train a part of the model (`trainable`), or take a \
         smaller model",
        need_bytes >> 20, show_memory(memory), free_bytes >> 20
    )]
    Memory {
        /// The stage.
        stage: String,
        /// Bytes by purpose.
        memory: Vec<(&'static str, usize)>,
        /// Bytes needed in all.
        need_bytes: usize,
        /// There is.
        free_bytes: u64,
    },
    /// The recipe wants a state in bf16, which only a GPU has, and the CPU computes.
    #[error(
        "model.state = \"bf16\" needs a GPU, and this computes on the CPU{}; set run.device = \"cuda:0\" on a machine that has \
         one, or model.state = \"f32\"",
        why_not_gpu.as_ref().map_or_else(String::new, |why| format!(", because {why}"))
    )]
    StateNeedsGpu {
        /// Why the GPU that is there cannot be used; `None` without one.
        why_not_gpu: Option<String>,
    },
    /// A finished stage's model is not the one that the stage made.
    #[error("{}: its files are not those that the stage made; put them back, or take the stage back with `findap reset`", model.display())]
    ModelReplaced {
        /// The folder.
        model: PathBuf,
    },
    /// The closed world could not be written.
    #[error(transparent)]
    World(#[from] findap_data::world::WorldError),
    /// A judge or policy did not answer.
    #[error(transparent)]
    Language(#[from] findap_data::LlmError),
    /// The judge of a distillation cannot be asked.
    #[error(
        "stage `{stage}`: its judge cannot be asked: {source}; repair it, or run the stages before it one by one with `findap train`"
    )]
    Judge {
        /// The stage.
        stage: String,
        /// The client's words.
        source: findap_data::LlmError,
    },
    /// The tasks of `[eval]` cannot be asked.
    #[error("eval: {source}")]
    Tasks {
        /// The evaluator's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The evaluation after a stage failed.
    #[error("evaluation after `{stage}`: {source}")]
    Evaluation {
        /// The stage.
        stage: String,
        /// The evaluator's words.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One setting that differs from what a stage was begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub key: String,
    /// Its value at the beginning; `None` if it was not there.
    pub was: Option<String>,
    /// Its value now; `None` if it is not there.
    pub now: Option<String>,
}

fn show_memory(memory: &[(&'static str, usize)]) -> String {
    let parts: Vec<String> = memory.iter().map(|(purpose, bytes)| format!("{purpose} {}", bytes >> 20)).collect();
    parts.join(", ")
}

fn show_changes(changes: &[Change]) -> String {
    let lines: Vec<String> = changes.iter().map(|change| format!("  {}", show_change(change))).collect();
    lines.join("\n")
}

/// A line on a change. The fingerprints of files and models tell a reader nothing, and are left out.
fn show_change(Change { key, was, now }: &Change) -> String {
    let is_of_files = key == "exercises" || key.starts_with("data.");
    match (was, now) {
        (Some(_), Some(_)) if is_of_files => format!("{key}: its files, or what turns them into tokens, have changed"),
        (Some(_), Some(_)) if key == "model" => "model: it began with another one".to_owned(),
        _ => {
            let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
            format!("{key}: was {}, now {}", show(was), show(now))
        }
    }
}

impl From<findap_tensor::TensorError> for TrainError {
    fn from(error: findap_tensor::TensorError) -> Self {
        Self::Model(error.into())
    }
}

pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TrainError {
    move |source| TrainError::Io { action, path: path.into(), source }
}
