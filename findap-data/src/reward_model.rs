//! What a generative reward model is asked about a solution, and what it replies: the two prompts of preference
//! distillation (FinDAP paper, appendix H) in our own words, with the paper's JSON keys.
//!
//! Final-answer preference (FAP) compares final answers; stepwise corrective preference (SCP) names the first wrong step and
//! its correction. Any [`ChatModel`](crate::ChatModel) can be asked; the closed world has one that works by rule
//! ([`crate::world::judge`]).

use serde::{Deserialize, Serialize, de::DeserializeOwned};

const QUESTION: &str = "### Question";
const REFERENCE: &str = "### Reference answer";
const PROPOSED: &str = "### Proposed answer";
const INCORRECT: &str = "### Incorrect answer";
const END: &str = "### End";

/// Whether a final answer agrees with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correctness {
    /// The same final answer.
    Correct,
    /// Another one, none, or more than one.
    Wrong,
}

/// The reply to [`fap_prompt`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FapVerdict {
    /// Why, in up to 100 words.
    #[serde(rename = "Justification")]
    pub justification: String,
    /// The verdict.
    #[serde(rename = "Correctness")]
    pub correctness: Correctness,
}

/// The reply to [`scp_prompt`]. Where no intermediate step is wrong, the last three fields are empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScpVerdict {
    /// Why, in up to 100 words.
    #[serde(rename = "Justification")]
    pub justification: String,
    /// The step, word for word.
    #[serde(rename = "First incorrect step")]
    pub first_incorrect_step: String,
    /// All that stands before it, word for word.
    #[serde(rename = "Reasoning up to incorrect")]
    pub reasoning_up_to_incorrect: String,
    /// One step in its place.
    #[serde(rename = "Step correction")]
    pub step_correction: String,
}

/// Asks whether the final answer of `proposed` is that of `reference`.
pub fn fap_prompt(question: &str, reference: &str, proposed: &str) -> String {
    format!(
        "Take the final answer (for example A, B or C) from the reference answer and from the proposed answer below, and \
         compare only these two. Do not solve the question yourself. The proposed answer is wrong when it gives no final \
         answer or more than one.\nReply with one JSON object with the keys \"Justification\" (up to 100 words) and \
         \"Correctness\" (\"correct\" or \"wrong\").\n\n\
         {QUESTION}\n{question}\n\n{REFERENCE}\n{reference}\n\n{PROPOSED}\n{proposed}\n\n{END}"
    )
}

/// Asks for the first wrong step of `incorrect` and for its correction.
pub fn scp_prompt(question: &str, reference: &str, incorrect: &str) -> String {
    format!(
        "The incorrect answer below does not reach the reference answer. Find its first wrong step: an intermediate step, \
         not the final answer. Correct that step only.\nReply with one JSON object with the keys \"Justification\" (up to \
         100 words: why the step is wrong and all before it is right), \"First incorrect step\" (word for word), \
         \"Reasoning up to incorrect\" (all text before it, word for word) and \"Step correction\" (one step that says what \
         comes next).\n\n{QUESTION}\n{question}\n\n{REFERENCE}\n{reference}\n\n{INCORRECT}\n{incorrect}\n\n{END}"
    )
}

/// Reads a verdict from a reply: the first JSON object in it; other text around it is ignored.
///
/// # Errors
/// What does not fit, where there is no object or a key is missing.
pub fn parse_verdict<V: DeserializeOwned>(reply: &str) -> Result<V, serde_json::Error> {
    let start = reply.find('{').unwrap_or(0);
    match serde_json::Deserializer::from_str(&reply[start..]).into_iter::<V>().next() {
        Some(verdict) => verdict,
        None => serde_json::from_str(""),
    }
}

/// One of the two prompts, taken apart again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) question: &'a str,
    pub(crate) reference: &'a str,
    pub(crate) solution: &'a str,
    /// Asked for the first wrong step instead of the final answer.
    pub(crate) is_stepwise: bool,
}

impl<'a> Asked<'a> {
    /// The parts of a prompt made by [`fap_prompt`] or [`scp_prompt`]; `None` for any other text.
    pub(crate) fn parse(prompt: &'a str) -> Option<Self> {
        let after = |text: &'a str, mark: &str| text.split_once(&format!("{mark}\n"));
        let (_, rest) = after(prompt, QUESTION)?;
        let (question, rest) = after(rest, REFERENCE)?;
        let is_stepwise = !rest.contains(PROPOSED);
        let (reference, rest) = after(rest, if is_stepwise { INCORRECT } else { PROPOSED })?;
        let solution = &rest[..rest.rfind(END)?];
        let bare = |text: &'a str| text.strip_suffix("\n\n").unwrap_or(text);
        Some(Self { question: bare(question), reference: bare(reference), solution: bare(solution), is_stepwise })
    }
}
