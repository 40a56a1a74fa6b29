//! What is known of a benchmark beside its rows: where it is published, and what the FinDAP paper says of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the rows are published, and what is known of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// The names of the data set on the Hugging Face hub, each with its configuration; or the address of a release. Required.
    pub at: Vec<String>,
    /// How many rows the split has that this task asks, as it is published. Required.
    pub num_rows: u64,
    /// The columns of the published files. Required.
    pub columns: Vec<String>,
    /// Whether this task has read rows of the published files, or was written from a description of them. Required.
    pub rows: RowsRead,
    /// What is to be known before the score is compared with another.
    pub note: Option<String>,
}

/// Whether rows of the published files were read by a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowsRead {
    /// Some of them were.
    Verified,
    /// None were: columns and labels are those of a description.
    Unverified,
}

/// What the FinDAP paper (arXiv 2501.04961, tables 2 to 5) says of a benchmark.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// How many rows it says that it asked. Required.
    pub num_rows: u64,
    /// How its models were to answer. Required.
    pub answers: PaperAnswers,
    /// Its metric. Required.
    pub metric: String,
    /// Its scores by model, in the units of its tables: percent, and 1 to 10 for MT-bench. Its prompts are not published, so that
    /// they are of another set-up than ours. Required.
    pub scores: BTreeMap<String, f64>,
    /// What is implausible about its numbers.
    pub doubt: Option<String>,
}

/// How the models of the paper were to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaperAnswers {
    /// With the answer alone.
    Direct,
    /// With reasoning before the answer.
    ChainOfThought,
}
