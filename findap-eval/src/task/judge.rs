//! How a judge is asked.

use schemars::JsonSchema;
use serde::Deserialize;

use super::metric::Metric;
use crate::template::Template;

/// How a judge is asked about the replies of a task.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JudgeRule {
    /// What the judge says of a reply. Required.
    pub asks: Asks,
    /// The question that the judge sees: a template as `prompt`. Default: the prompt.
    pub question: Option<Template>,
    /// A right answer for the judge to compare with: a template as `prompt`. Required for `agreement`; default none.
    pub reference: Option<Template>,
    /// The same for each of `generate.follow_ups`. Default `[]`.
    #[serde(default)]
    pub follow_up_references: Vec<Template>,
}

/// What a judge says of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Asks {
    /// Whether its final answer is that of the reference: the metric `judged_right`.
    Agreement,
    /// A grade from 1 to 10 for each turn: the metric `grade`.
    Grade,
}

impl Asks {
    /// The metric that it gives.
    pub fn metric(self) -> Metric {
        match self {
            Self::Agreement => Metric::JudgedRight,
            Self::Grade => Metric::Grade,
        }
    }
}
