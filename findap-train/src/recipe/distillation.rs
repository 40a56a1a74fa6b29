//! The keys of a `distill` stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use findap_data::Format;
use findap_data::llm::MaxTokensField;
use findap_data::plain_words::plain_words;
use findap_data::reward_model::ExerciseFiles;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Paths, locate};

/// The keys of a `distill` stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DistillStage {
    /// The stage's name, unique. Required.
    pub name: String,
    /// The exercises: a file, a folder, a pattern, or a list of them, as `path` of `[[data]]`. A row has `question`, `answer` (a text or
    /// a number) and, where there are any, `id`, `choices` (written behind a question that does not name them) and `steps` (the reference solution: a list, or a text of lines). Where there
    /// are no steps and the answer's last line begins with `####`, as in GSM8K, that is the answer and the lines before it are the
    /// steps. Required.
    pub exercises: Paths,
    /// Column names of the exercises where they differ: `{ question = "q", answer = "solution" }`. Default none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exercise_columns: BTreeMap<String, String>,
    /// The format of the exercises, as `format` of `[[data]]`. Default `auto`: by the file's ending, and JSONL where that tells none.
    #[serde(default, skip_serializing_if = "is_auto")]
    pub exercise_format: Format,
    /// Solutions sampled per exercise, at least 1. Default 4.
    #[serde(default = "default_samples")]
    pub samples_per_exercise: usize,
    /// Sampling temperature, > 0. Default 0.8.
    #[serde(default = "default_temperature")]
    pub temperature: f64,
    /// Keep the smallest set of tokens with this probability, 0 < top_p <= 1. Default 1.
    #[serde(default = "every_token")]
    pub top_p: f64,
    /// Tokens per solution at most. Default 256.
    #[serde(default = "default_max_new_tokens")]
    pub max_new_tokens: usize,
    /// Which pairs to make. Default `["fap", "scp"]`.
    #[serde(default = "both_kinds")]
    pub kinds: Vec<PairKind>,
    /// How a stepwise pair asks for the step. Default `continue`.
    #[serde(default)]
    pub scp_form: ScpForm,
    /// Final-answer pairs per exercise at most, and naive ones. Default 1.
    #[serde(default = "one_pair")]
    pub pairs_per_exercise: usize,
    /// Corrective pairs per exercise at most. Default 1.
    #[serde(default = "one_pair")]
    pub corrections_per_exercise: usize,
    /// Right solutions per exercise at most, finished and different from each other, in `right-solutions.jsonl`: what a `train` stage
    /// learns by `chat = ["right-solutions"]`. Default 4.
    #[serde(default = "four_solutions")]
    pub right_solutions_per_exercise: usize,
    /// Only the first so many exercises. Default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Who judges; `"world"` is the rule-based judge that knows the closed world's solutions. Default `"world"`.
    #[serde(default)]
    pub judge: Judge,
}

fn is_auto(format: &Format) -> bool {
    *format == Format::Auto
}

impl DistillStage {
    /// Where its exercises are read from, in a run of this folder.
    pub fn exercise_files(&self, run_folder: &Path) -> ExerciseFiles {
        ExerciseFiles {
            paths: self.exercises.as_slice().iter().map(|path| locate(run_folder, path)).collect(),
            format: self.exercise_format,
            columns: self.exercise_columns.clone(),
        }
    }
}

/// `judge`: `"world"` or a table naming an OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, try_from = "toml::Value")]
#[schemars(!try_from)]
pub enum Judge {
    /// The string `"world"`.
    #[schemars(extend("const" = "world"))]
    Named(String),
    /// A table that names an OpenAI-compatible server.
    Remote(RemoteJudge),
}

/// By hand, so that a mistake in the table is named.
impl TryFrom<toml::Value> for Judge {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(name) if name == "world" => Ok(Self::Named(name)),
            toml::Value::Table(table) => {
                table.try_into().map(Self::Remote).map_err(|error: toml::de::Error| plain_words(error.message()))
            }
            _ => Err("write \"world\" or { url = \"http://host/v1\", model = \"name\" }".to_owned()),
        }
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self::Named("world".to_owned())
    }
}

/// A judge behind an OpenAI-compatible server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoteJudge {
    /// The server's base URL, up to and including `/v1`. Required.
    pub url: String,
    /// The model's name on that server. Required.
    pub model: String,
    /// The environment variable that holds the key. Default none: no key is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// Tokens per reply at most, at least 1; a reply that is cut off makes no label. The thoughts of a reasoning model count. Default
    /// 1024.
    #[serde(default = "default_reply_tokens")]
    pub max_tokens: usize,
    /// The parameter in which the server wants that limit: `max_tokens` or `max_completion_tokens`. Default: `max_tokens`, and the
    /// other once the server refuses that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_field: Option<MaxTokensField>,
    /// Sampling temperature, >= 0, or `"default"`: none is sent, and the server takes its own. Default: 0, and none once the server
    /// refuses that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "judge_temperature")]
    pub temperature: Option<JudgeTemperature>,
    /// Replay the replies in this file, the `judge.jsonl` of another run with this `model`, at whatever `url` and with whatever
    /// `max_tokens` it was asked, and ask nobody: what is not recorded makes no label. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<PathBuf>,
}

fn default_reply_tokens() -> usize {
    1024
}

/// `temperature` of a judge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "toml::Value", try_from = "toml::Value")]
pub enum JudgeTemperature {
    /// A number.
    Number(f64),
    /// The string `"default"`.
    Default,
}

impl From<JudgeTemperature> for toml::Value {
    fn from(temperature: JudgeTemperature) -> Self {
        match temperature {
            JudgeTemperature::Number(number) => Self::Float(number),
            JudgeTemperature::Default => Self::String("default".to_owned()),
        }
    }
}

fn judge_temperature(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": "number", "minimum": 0 }, { "const": "default" }] })
}

/// By hand, so that a mistake is named.
impl TryFrom<toml::Value> for JudgeTemperature {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Float(number) if number.is_finite() && number >= 0.0 => Ok(Self::Number(number)),
            toml::Value::Integer(number) if number >= 0 => Ok(Self::Number(number as f64)),
            toml::Value::String(name) if name == "default" => Ok(Self::Default),
            _ => Err("`temperature` of a judge is a number, at least 0, or \"default\"".to_owned()),
        }
    }
}

/// The kinds of preference pairs (FinDAP, section 3.3), and a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// Final-answer preference: a right solution over a wrong one.
    Fap,
    /// Stepwise corrective preference: the correction of the first wrong step over that step.
    Scp,
    /// The reference solution over a solution of the model's own, whatever the judge says of it.
    Naive,
}

/// How a stepwise pair asks for the step, `scp_form`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScpForm {
    /// The right beginning of the solution opens the assistant's turn, and the answers are the step that goes on, with its line break and
    /// without an end of turn. Any model that writes its solutions step by step knows this form.
    #[default]
    Continue,
    /// The paper's form: question, right beginning and "What is the next step?" are one question of the user, and the step is the whole
    /// answer. A model that was never taught to answer so with a single step learns to stop after one.
    Ask,
}

impl PairKind {
    /// `fap`, `scp` or `naive`: the `kind` of a line of `preferences.jsonl`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fap => "fap",
            Self::Scp => "scp",
            Self::Naive => "naive",
        }
    }
}

fn every_token() -> f64 {
    1.0
}
fn four_solutions() -> usize {
    4
}
fn one_pair() -> usize {
    1
}
fn default_samples() -> usize {
    4
}
fn default_temperature() -> f64 {
    0.8
}
fn default_max_new_tokens() -> usize {
    256
}
fn both_kinds() -> Vec<PairKind> {
    vec![PairKind::Fap, PairKind::Scp]
}
