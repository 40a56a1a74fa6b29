//! What is known of an exercise: a line of `samples.jsonl`.

use findap_data::reward_model::{Correctness, FapVerdict, ScpVerdict};
use serde::{Deserialize, Serialize};

/// One exercise with what was made of it: a line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The exercise.
    pub exercise: String,
    /// Its solutions.
    pub solutions: Vec<Solution>,
    /// Why the policy could not be asked; then there are no solutions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// A solution with its verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Solution {
    /// What the policy wrote.
    pub text: String,
    /// Whether it ended its turn; otherwise it was cut off.
    pub is_finished: bool,
    /// The verdict on its final answer; `None` where the judge's reply could not be read.
    pub verdict: Option<FapVerdict>,
    /// The first wrong step of a wrong solution, where the judge named one that stands in the text.
    pub correction: Option<ScpVerdict>,
    /// Why the last reply of the judge is no verdict; it is asked again when the run goes on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unread: Option<String>,
    /// Why the first wrong step that the judge named is no correction of this solution; it is not asked again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub uncorrected: Option<String>,
}

impl Solution {
    /// Whether it can be learnt from: judged right, and not cut off, which would teach to stop there.
    pub(super) fn is_right_and_whole(&self) -> bool {
        self.is_finished && self.is_judged(Correctness::Correct)
    }

    /// Whether the judge said so.
    pub(super) fn is_judged(&self, correctness: Correctness) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.correctness == correctness)
    }
}
