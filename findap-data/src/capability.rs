//! What a text teaches or a task measures: the two axes of FinCap (FinDAP paper, section 3).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of ability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Knowing terms, facts and their relations.
    Concept,
    /// Doing a defined piece of work on a text: classify, extract, summarise.
    Task,
    /// Reaching an answer over several steps.
    Reasoning,
    /// Following instructions and holding a conversation.
    Chat,
}

/// The field it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// Anything.
    General,
    /// Finance.
    Finance,
}

impl Capability {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Concept, Self::Task, Self::Reasoning, Self::Chat];

    /// The name in recipes, tasks and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Concept => "concept",
            Self::Task => "task",
            Self::Reasoning => "reasoning",
            Self::Chat => "chat",
        }
    }
}

impl Domain {
    /// Both, in the order of reports.
    pub const ALL: [Self; 2] = [Self::General, Self::Finance];

    /// The name in recipes, tasks and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Finance => "finance",
        }
    }
}
