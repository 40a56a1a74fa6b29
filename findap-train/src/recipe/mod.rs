//! A recipe: the complete description of one run, as TOML.
//!
//! One file is one run: no includes, no inheritance, no environment variables. Every key is listed in the struct docs of this
//! module with its unit and default; an unknown key is an error that names the nearest known one. [`load`] reads a file and
//! applies the `--set` and `--unset` overrides; what they resolve to is what then runs.
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

mod align_loss;
mod check;
mod distillation;
pub mod draft;
pub(crate) mod error;
mod lora;
mod overrides;
mod parse;
mod schema;
mod stage;
#[cfg(test)]
mod tests;
mod trainable;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use findap_data::world::WorldConfig;
use findap_data::{Capability, Domain, Format, Kind};
use findap_model::{Config, DeviceKind, Dtype, Recompute, Trained};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::device::DeviceChoice;
use crate::optimizer::StateFormat;
use crate::trainer::TrainOptions;
pub use align_loss::AlignLoss;
pub use distillation::{DistillStage, Judge, JudgeTemperature, PairKind, RemoteJudge, ScpForm};
pub use error::RecipeError;
pub use lora::LoraTable;
pub use overrides::Override;
pub use parse::{load, parse};
pub use schema::schema;
pub use stage::{AlignStage, Optimization, Stage, TrainStage};
pub(crate) use stage::{DISTILLED, RIGHT_SOLUTIONS};

/// The version of the recipe format that this program reads.
pub const SCHEMA: u32 = 1;

/// What was written, after overrides.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Recipe {
    /// The version of the format: 1. Required.
    pub schema: u32,
    /// `[run]`: who the run is. Required.
    pub run: RunTable,
    /// `[model]`: the model the run starts from. Required.
    pub model: ModelTable,
    /// `[world]`: generate the closed world before the first stage: texts, conversations and questions whose answers are known.
    /// Default: no world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<WorldConfig>,
    /// `[[data]]`: the sources that stages name.
    #[schemars(default)]
    pub data: Vec<DataTable>,
    /// `[[stage]]`: what is done, in order; the `kind` of each says which keys it has. Required.
    pub stage: Vec<Stage>,
    /// `[eval]`: what is measured and after which stages. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval: Option<EvalTable>,
}

/// `[run]`: who the run is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Where models are trained, sampled and measured: `"cpu"`, `"cuda:N"` for the GPU of that number, or `"auto"`: the first GPU if
    /// it can be used and computes in `model.compute`, else the CPU. Default `auto`.
    #[serde(default)]
    pub device: DeviceChoice,
    /// The day that chat templates tell, as `"2026-11-28"`, for templates that tell one (Llama 3.1 and later). Default: the day on which
    /// the run was begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// How many committed checkpoints a stage keeps (the newest ones). At least 1. Default 2.
    #[serde(default = "default_keep_checkpoints")]
    pub keep_checkpoints: usize,
}

fn default_keep_checkpoints() -> usize {
    2
}

/// `[model]`: the model the run starts from. Exactly one of `base` and `init`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelTable {
    /// A Hugging Face folder of a Llama, Mistral, Qwen 2, 2.5 or 3 (dense) model, or the folder of a LoRA adapter in PEFT's layout, which is
    /// merged into the model that it names. Exactly one of `base`, `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Start from random weights: the keys of a `config.json` (`hidden_size`, `num_hidden_layers`, ...). Exactly one of `base`, `init`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>", default)]
    pub init: Option<toml::Table>,
    /// A folder with `tokenizer.json`, `tokenizer_config.json` and the chat template. Required with `init`, and only there: a `base`
    /// folder brings its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// The format of weights, gradients and activations while training; on a GPU, of weights and activations of a model that is
    /// sampled or measured, too, which the CPU does in f32. Default `f32`.
    #[serde(default)]
    pub compute: Compute,
    /// The format of what training keeps beside the weights: gradients and AdamW's moments. Default `f32`.
    #[serde(default)]
    pub state: StateKind,
    /// The format of `model/` folders. Default `bf16`.
    #[serde(default)]
    pub save_dtype: SaveDtype,
    /// What the backward pass recomputes instead of keeping. Default `none`.
    #[serde(default)]
    pub recompute: RecomputeKind,
}

/// `model.compute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// bfloat16 weights and products with sums in 32 bits, and gradients and the optimizer by `model.state`. On a GPU activations are
    /// bfloat16, too; on the CPU it pays where the processor multiplies bfloat16 itself (AMX, AVX-512 BF16).
    Bf16,
    /// 32-bit floating point.
    #[default]
    F32,
    /// 64-bit floating point: the definition's arithmetic, for checks.
    F64,
}

impl From<Compute> for Dtype {
    fn from(compute: Compute) -> Dtype {
        match compute {
            Compute::Bf16 => Dtype::Bf16,
            Compute::F32 => Dtype::F32,
            Compute::F64 => Dtype::F64,
        }
    }
}

/// `model.state`: 18 bytes a weight or 8, where `compute` is `bf16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// 32-bit floating point, with a copy of bfloat16 weights in 32 bits; 64-bit beside `compute = "f64"`.
    #[default]
    F32,
    /// bfloat16, on a GPU and beside `compute = "bf16"`: no copy of the weights, which are rounded stochastically. All of Llama 3 8B
    /// is planned at 67 GiB, for one GPU of 80 GB. A micro-batch's part of a gradient that is smaller than 1/512 of the sum so far is
    /// lost: below some 100 micro-batches in a step that is less than the noise of their data; with more, make micro-batches larger.
    Bf16,
}

/// `model.save_dtype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SaveDtype {
    /// bfloat16: half the size; every weight is rounded once.
    #[default]
    Bf16,
    /// 32-bit floating point: exactly the trained weights.
    F32,
}

impl SaveDtype {
    /// The numbers of the files.
    pub fn dtype(self) -> Dtype {
        match self {
            SaveDtype::Bf16 => Dtype::Bf16,
            SaveDtype::F32 => Dtype::F32,
        }
    }
}

/// `model.recompute`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecomputeKind {
    /// Keep every activation but those that one pass over the others gives.
    #[default]
    None,
    /// Compute the gate and up projections again: half of what a block keeps, for two products of seven.
    Mlp,
    /// Keep the input of each block and run its forward again.
    Block,
}

impl From<RecomputeKind> for Recompute {
    fn from(kind: RecomputeKind) -> Recompute {
        match kind {
            RecomputeKind::None => Recompute::None,
            RecomputeKind::Mlp => Recompute::Mlp,
            RecomputeKind::Block => Recompute::Block,
        }
    }
}

/// One `[[data]]` table: a named source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataTable {
    /// The name that stages use, unique. Required.
    pub name: String,
    /// A file, a folder (all files of one format in it, sorted by name), a pattern (`train-*.parquet`), or a list of them. Text files
    /// may be packed (`.gz`, `.zst`). Required.
    pub path: Paths,
    /// What its rows are: `text`, `chat`, `preference`, `tokenized` or `packed`. Required.
    pub kind: Kind,
    /// The file format. Default `auto`.
    #[serde(default)]
    pub format: Format,
    /// Column names where they differ from the usual ones: `text = "body"`. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// How many rows that cannot be read may be skipped; they are counted and the first ten are said with file and line. One more ends
    /// the run. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_bad_rows: u64,
    /// Domain, for reports. Default `general`.
    #[serde(default = "general")]
    pub domain: Domain,
    /// Capability, for reports. Default `concept` for texts, `chat` for everything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Capability>,
    /// The share of this source among the rows of its side (text or chat) of a mixture, 0 < share <= 1. Sources without a share
    /// fill the rest in proportion to their sizes. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// `path` of a source: one path or pattern, or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a path, or a list of paths")]
pub enum Paths {
    /// A string.
    One(PathBuf),
    /// A list of strings.
    Several(Vec<PathBuf>),
}

impl Paths {
    /// The paths, in order.
    pub fn as_slice(&self) -> &[PathBuf] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Several(paths) => paths,
        }
    }
}

impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<String> = self.as_slice().iter().map(|path| path.display().to_string()).collect();
        f.write_str(&paths.join(", "))
    }
}

/// The default is not written down, so that a stage begun before there was this key can be resumed.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The sources that stand for its pairs and its right solutions before they are there. No source of a recipe can have these names.
pub(crate) const STAND_INS: [&str; 2] = ["stand-ins for pairs", "stand-ins for solutions"];

/// The pairs of a distillation in the run folder.
pub(crate) const PREFERENCES_FILE: &str = "preferences.jsonl";

/// The policy's right solutions in the run folder.
pub(crate) const RIGHT_SOLUTIONS_FILE: &str = "right-solutions.jsonl";

/// All that a distillation writes into the run folder.
pub(crate) const DISTILLED_FILES: [&str; 2] = [PREFERENCES_FILE, RIGHT_SOLUTIONS_FILE];

/// Where a path of a recipe leads: `world:NAME` and `run:NAME` lie in the run folder.
pub fn locate(folder: &Path, path: &Path) -> PathBuf {
    match path.to_str().and_then(|text| text.split_once(':')) {
        Some(("world", name)) => folder.join("data").join("world").join(name),
        Some(("run", name)) => folder.join(name),
        _ => path.to_path_buf(),
    }
}

/// `[eval]`: what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Who judges the replies of tasks that need a judge: a table as `judge` of a `distill` stage. Default none: such tasks are not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<RemoteJudge>,
    /// Where the tasks' data sets lie: the first part of their paths to a folder. Default: `world` to the generated world, where
    /// there is one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, PathBuf>,
}

fn general() -> Domain {
    Domain::General
}

impl Recipe {
    /// What runs: this recipe with every open choice made, those that depend on the model by its configuration.
    ///
    /// # Errors
    /// [`RecipeError::Context`], [`RecipeError::Trainable`], [`RecipeError::FolderName`], [`RecipeError::JudgeOfNoWorld`].
    pub fn resolve(mut self, folder: Option<&Path>, config: &Config) -> Result<Recipe, RecipeError> {
        let default_folder = || Path::new("runs").join(&self.run.name);
        let folder = folder.map(Path::to_path_buf).or_else(|| self.run.folder.clone()).unwrap_or_else(default_folder);
        if folder.to_str().is_none() {
            return Err(RecipeError::FolderName { folder });
        }
        if let Some(eval) = &mut self.eval {
            let models = self.stage.iter().filter(|stage| stage.makes_model());
            let every = || std::iter::once("base").chain(models.map(Stage::name)).map(str::to_owned).collect();
            eval.stages.get_or_insert_with(every);
            if self.world.is_some() {
                eval.data.entry("world".to_owned()).or_insert_with(|| folder.join("data").join("world"));
            }
        }
        for source in &mut self.data {
            let capability = if source.kind == Kind::Text { Capability::Concept } else { Capability::Chat };
            source.capability.get_or_insert(capability);
        }
        let (kind, dtype) = (self.device_kind(), Dtype::from(self.model.compute));
        for stage in &mut self.stage {
            let (name, keys) = match stage {
                Stage::Train(stage) => (&stage.name, &mut stage.optimization),
                Stage::Align(stage) => (&stage.name, &mut stage.optimization),
                Stage::Distill(stage) if matches!(stage.judge, Judge::Named(_)) && self.world.is_none() => {
                    return Err(RecipeError::JudgeOfNoWorld { stage: stage.name.clone() });
                }
                Stage::Distill(_) => continue,
            };
            let max_positions = config.max_positions;
            keys.resolve(max_positions);
            let context_tokens = keys.context_tokens.unwrap_or(0);
            if context_tokens > max_positions {
                return Err(RecipeError::Context { stage: name.clone(), context_tokens, max_positions });
            }
            let trained = keys.trained();
            Trained::of(config, &trained)
                .and_then(|_| trained.lora().map_or(Ok(()), |lora| lora.check_on(kind, dtype)))
                .map_err(|source| RecipeError::Trainable { stage: name.clone(), source: Box::new(source) })?;
        }
        self.run.folder = Some(folder);
        Ok(self)
    }

    /// The recipe for a run in the folder `place`. What this run reads from its own folder, which lies at `now`, is read from there still,
    /// but for what such a run makes itself: the world, and what the distillation writes.
    #[must_use]
    pub(crate) fn moved_to(mut self, place: &Path, now: &Path) -> Self {
        let folder = self.folder().to_path_buf();
        let world = |folder: &Path| folder.join("data").join("world");
        let tables = self.eval.iter_mut().flat_map(|eval| eval.data.values_mut());
        tables.filter(|data| **data == world(&folder)).for_each(|data| *data = world(place));
        let point = |path: &mut PathBuf| {
            let name = path.to_str().and_then(|path| path.strip_prefix("run:"));
            if let Some(name) = name.filter(|name| !DISTILLED_FILES.contains(name)) {
                *path = now.join(name);
            }
        };
        let of_data = self.data.iter_mut().map(|source| &mut source.path);
        let of_stages = self.stage.iter_mut().filter_map(|stage| match stage {
            Stage::Distill(stage) => Some(&mut stage.exercises),
            Stage::Train(_) | Stage::Align(_) => None,
        });
        for paths in of_data.chain(of_stages) {
            match paths {
                Paths::One(path) => point(path),
                Paths::Several(paths) => paths.iter_mut().for_each(point),
            }
        }
        self.run.folder = Some(place.to_owned());
        self
    }

    /// The name of the distillation before a stage.
    pub fn distillation_before(&self, stage: &str) -> Option<&str> {
        let mut before = self.stage.iter().take_while(|other| other.name() != stage);
        before.find(|other| matches!(other, Stage::Distill(_))).map(Stage::name)
    }

    /// Which of the files that a distillation writes are trained on: its pairs, its right solutions.
    pub fn trained_of_distillation(&self) -> [bool; 2] {
        let of_solutions = |stage: &Stage| matches!(stage, Stage::Train(stage) if stage.uses_right_solutions());
        let of_pairs = |stage: &Stage| matches!(stage, Stage::Align(stage) if stage.uses_distilled());
        [self.stage.iter().any(of_pairs), self.stage.iter().any(of_solutions)]
    }

    /// How the stages keep gradients, moments and weights.
    pub fn state_format(&self) -> StateFormat {
        match self.model.state {
            StateKind::F32 => StateFormat::Full,
            StateKind::Bf16 => StateFormat::Bf16 { seed: self.run.seed },
        }
    }

    /// How a stage with these keys is trained.
    pub fn train_options(&self, keys: &Optimization) -> TrainOptions {
        TrainOptions {
            trainable: keys.trained(),
            schedule: keys.schedule_options(),
            adamw: keys.adamw_options(),
            state: self.state_format(),
            recompute: self.model.recompute.into(),
            evaluate_every_steps: keys.evaluate_every_steps,
            dev_tokens: keys.dev_tokens,
            early_stop_patience: keys.early_stop_patience,
            save_every_steps: keys.save_every_steps,
            keep_checkpoints: self.run.keep_checkpoints,
        }
    }

    /// Where the run will compute, as far as can be told without taking a GPU into use.
    pub fn device_kind(&self) -> DeviceKind {
        // with its state in bf16, a run that finds no GPU is refused
        let is_for_gpus = self.model.state == StateKind::Bf16;
        if is_for_gpus { DeviceKind::Cuda } else { self.run.device.kind(self.model.compute.into()) }
    }

    /// The run folder of a resolved recipe.
    pub fn folder(&self) -> &Path {
        self.run.folder.as_deref().expect("invariant: a resolved recipe has a folder")
    }
}
