//! A recipe: the complete description of one run, as TOML.
//!
//! One file is one run: no includes, no inheritance, no environment variables. Every key is listed in the struct docs of this
//! module with its unit and default; an unknown key is an error that names the nearest known one. [`load`] reads a file and
//! applies the `--set` overrides; what they resolve to is what then runs.
//!
//! ```toml
//! schema = 1
//! [run]
//! name = "demo"
//! [model]
//! base = "assets/tiny-instruct"
//! [[data]]
//! name = "news"
//! path = "data/news.jsonl"
//! kind = "text"
//! [[stage]]
//! name = "group1"
//! kind = "train"
//! text = ["news"]
//! epochs = 1.0
//! batch_tokens = 4096
//! learning_rate = 1e-3
//! ```
//!
//! Paths are relative to the folder the program is started in; `world:NAME` means a file of the generated world
//! (`<run folder>/data/world/NAME`) and `run:NAME` a file of the run folder.

mod parse;
mod stage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use findap_data::{Capability, Domain};
use serde::{Deserialize, Serialize};

pub use parse::{RecipeError, load, parse};
pub use stage::{
    AlignStage, DistillStage, Fill, Join, Judge, Length, NllMean, Optimization, Packing, PairKind, RemoteJudge,
    ScheduleKind, Stage, TrainStage, Warmup,
};

/// The version of the recipe format that this program reads.
pub const SCHEMA: u32 = 1;

/// What was written, after overrides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// `schema`: format version, [`SCHEMA`]. Required.
    pub schema: u32,
    /// `[run]`. Required.
    pub run: RunTable,
    /// `[model]`. Required.
    pub model: ModelTable,
    /// `[world]`: generate the closed world before the first stage; its keys are those of `findap_data::world::WorldConfig`.
    /// Default: no world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<toml::Table>,
    /// `[[data]]`: the sources that stages name.
    pub data: Vec<DataTable>,
    /// `[[stage]]`: what is done, in order.
    pub stage: Vec<Stage>,
    /// `[eval]`: what is measured and after which stages. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalTable>,
}

/// `[run]`: who the run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunTable {
    /// A short name: letters, digits, `-`, `_`, `.`. Required.
    pub name: String,
    /// The seed of everything random in the run. Default 0.
    #[serde(default)]
    pub seed: u64,
    /// The run folder. Default `runs/<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// How many committed checkpoints a stage keeps (the newest ones). At least 1. Default 2.
    #[serde(default = "default_keep_checkpoints")]
    pub keep_checkpoints: usize,
}

fn default_keep_checkpoints() -> usize {
    2
}

/// `[model]`: the model the run starts from. Exactly one of `base` and `init`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// A Hugging Face Llama folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Start from random weights: the keys of a `config.json` (`hidden_size`, `num_hidden_layers`, ...).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<toml::Table>,
    /// A folder with `tokenizer.json`, `tokenizer_config.json` and the chat template. Default: `base`. Required with `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The format of weights, gradients and activations while training. Default `f32`.
    #[serde(default)]
    pub compute: Compute,
    /// The format of `model/` folders. Default `bf16`.
    #[serde(default)]
    pub save_dtype: SaveDtype,
    /// What the backward pass recomputes instead of keeping. Default `none`.
    #[serde(default)]
    pub recompute: RecomputeKind,
}

/// `model.compute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 64-bit floating point: the definition's arithmetic, for checks.
    F64,
}

/// `model.save_dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveDtype {
    /// bfloat16: half the size; every weight is rounded once.
    #[default]
    Bf16,
    /// 32-bit floating point: exactly the trained weights.
    F32,
}

/// `model.recompute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeKind {
    /// Keep every activation.
    #[default]
    None,
    /// Keep the input of each block and run its forward again.
    Block,
}

/// One `[[data]]` table: a named source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataTable {
    /// The name that stages use. Required, unique.
    pub name: String,
    /// The file. Required.
    pub path: PathBuf,
    /// What its rows are. Required.
    pub kind: DataKind,
    /// The file format. Default `auto`: by the file's ending.
    #[serde(default)]
    pub format: DataFormat,
    /// Column names where they differ from the usual ones: `text = "body"`. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// Domain, for reports. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// Capability, for reports. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Capability>,
    /// The share of this source among the rows of its side (text or chat) of a mixture, 0 < share <= 1. Sources without a share
    /// fill the rest in proportion to their sizes. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// `data.kind`: what a row of a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataKind {
    /// `{"text"}`: plain text, cut into chunks; loss on every token.
    Text,
    /// `{"messages"}` and its relatives: conversations; loss on the assistant's turns.
    Chat,
    /// `{"prompt","chosen","rejected"}`: for `align` stages.
    Preference,
    /// `{"ids","mask"}`: one document of tokens per row.
    Tokenized,
    /// `{"docs":[{"ids","mask"},...]}`: one packed row of the batch per row, kept as given.
    Packed,
}

/// `data.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// By the ending: `.jsonl`, `.json`, `.parquet`.
    #[default]
    Auto,
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

/// `[eval]`: what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalTable {
    /// Task names and `@group`s. Required.
    pub tasks: Vec<String>,
    /// After which stages: `base` is the model before the first stage. Default: `base` and every `train` and `align` stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<String>>,
    /// At most so many items per task. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// A folder of further task files. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_folder: Option<PathBuf>,
    /// The folder that the tasks' data paths start from. Default: the world's `eval` folder when there is a world.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_folder: Option<PathBuf>,
}
