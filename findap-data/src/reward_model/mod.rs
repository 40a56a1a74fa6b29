//! What a generative reward model is asked about a solution, and what it replies: the two prompts of preference
//! distillation (FinDAP paper, appendix H) in our own words, with the paper's JSON keys.
//!
//! Final-answer preference (FAP) compares final answers; stepwise corrective preference (SCP) names the first wrong step and
//! its correction. A third prompt asks for a grade, which evaluation needs where no right answer can be compared with. Any [`ChatModel`](crate::ChatModel) can be asked; the closed world has one that works by rule
//! ([`crate::world::judge`]).

mod claim;
mod exercises;
mod grade;
mod json;
mod reasoning;
#[cfg(test)]
mod tests;
mod verdict;

use serde::{Deserialize, Serialize};

pub use self::exercises::{EXERCISE_FIELDS, ExerciseFiles, read_exercises};
pub use self::grade::{GradeVerdict, HIGHEST_GRADE, grade_prompt};
pub use self::verdict::{Verdict, VerdictError, has_verdict, parse_verdict, read_verdict, verdict_or_problem};

const QUESTION: &str = "### Question";
const REFERENCE: &str = "### Reference answer";
const PROPOSED: &str = "### Proposed answer";
const INCORRECT: &str = "### Incorrect answer";
const END: &str = "### End";
const FAP_TASK: &str = "Take the final answer";
const SCP_TASK: &str = "The incorrect answer below";

/// What stands before the final answer of a solution.
pub const ANSWER_MARK: &str = "Answer:";

/// An exercise with its reference solution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exercise {
    /// Unique in its file.
    pub id: String,
    /// What is asked, with the options where there are any.
    pub question: String,
    /// The options' texts in the order of their letters; empty where the answer is a number.
    #[serde(default)]
    pub choices: Vec<String>,
    /// The right letter, or the number.
    pub answer: String,
    /// The lines of the reference solution before the answer, e.g. `revenue: 6*9=54`; empty where only the answer is known.
    #[serde(default)]
    pub steps: Vec<String>,
}

impl Exercise {
    /// The whole solution: a line per step, then the answer.
    pub fn solution(&self) -> String {
        let steps: String = self.steps.iter().map(|step| format!("{step}\n")).collect();
        format!("{steps}{ANSWER_MARK} {}", self.answer)
    }
}

/// Whether a final answer agrees with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correctness {
    /// Its final answer is that of the reference.
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
        "{FAP_TASK} (for example A, B or C) from the reference answer and from the proposed answer below, and \
         compare only these two. Do not solve the question yourself. The proposed answer is wrong when it gives no final \
         answer or more than one.\nReply with one JSON object with the keys \"Justification\" (up to 100 words) and \
         \"Correctness\" (\"correct\" or \"wrong\").\n\n\
         {QUESTION}\n{question}\n\n{REFERENCE}\n{reference}\n\n{PROPOSED}\n{proposed}\n\n{END}"
    )
}

/// Asks for the first wrong step of `incorrect` and for its correction.
pub fn scp_prompt(question: &str, reference: &str, incorrect: &str) -> String {
    format!(
        "{SCP_TASK} does not reach the reference answer. Find its first wrong step: an intermediate step, \
         not the final answer. Correct that step only.\nReply with one JSON object with the keys \"Justification\" (up to \
         100 words: why the step is wrong and all before it is right), \"First incorrect step\" (word for word), \
         \"Reasoning up to incorrect\" (all text before it, word for word) and \"Step correction\" (one step that says what \
         comes next).\n\n{QUESTION}\n{question}\n\n{REFERENCE}\n{reference}\n\n{INCORRECT}\n{incorrect}\n\n{END}"
    )
}

/// What a prompt of this module asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    FinalAnswer,
    FirstWrongStep,
    Grade,
}

/// What a prompt asks for; `None` for any other text. All begin with words of ours: what the exercise and the solution say comes after.
fn wanted(prompt: &str) -> Option<Wanted> {
    match prompt {
        _ if prompt.starts_with(FAP_TASK) => Some(Wanted::FinalAnswer),
        _ if prompt.starts_with(SCP_TASK) => Some(Wanted::FirstWrongStep),
        _ if prompt.starts_with(grade::GRADE_TASK) => Some(Wanted::Grade),
        _ => None,
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
        let is_stepwise = match wanted(prompt)? {
            Wanted::FinalAnswer => false,
            Wanted::FirstWrongStep => true,
            Wanted::Grade => return None,
        };
        let (reference, rest) = after(rest, if is_stepwise { INCORRECT } else { PROPOSED })?;
        let solution = &rest[..rest.rfind(END)?];
        let bare = |text: &'a str| text.strip_suffix("\n\n").unwrap_or(text);
        Some(Self { question: bare(question), reference: bare(reference), solution: bare(solution), is_stepwise })
    }
}
