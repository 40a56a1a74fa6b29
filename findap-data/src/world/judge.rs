//! A reward model by rule: it knows the closed world's solutions and answers the two prompts of [`crate::reward_model`] as
//! a large model is asked to.

use super::exercise::Sum;
use crate::llm::{ChatModel, ChatReply, ChatRequest, LlmError};
use crate::reward_model::{ANSWER_MARK, Asked, Correctness, FapVerdict, ScpVerdict};

/// Compares a solution with the reference solution that stands in the prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorldJudge;

/// What is said when a prompt is not one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{UNKNOWN_PROMPT}")]
pub struct UnknownPrompt;

const UNKNOWN_PROMPT: &str =
    "the judge of the closed world answers only the prompts of final-answer and stepwise preference";

impl WorldJudge {
    /// The reply to a prompt, as JSON.
    ///
    /// # Errors
    /// [`UnknownPrompt`] if it is neither prompt.
    pub fn reply(&self, prompt: &str) -> Result<String, UnknownPrompt> {
        let asked = Asked::parse(prompt).ok_or(UnknownPrompt)?;
        let json = if asked.is_stepwise {
            serde_json::to_string(&stepwise(asked.reference, asked.solution))
        } else {
            serde_json::to_string(&final_answer(asked.reference, asked.solution))
        };
        Ok(json.expect("invariant: strings serialise"))
    }
}

impl ChatModel for WorldJudge {
    fn name(&self) -> String {
        "world-judge".to_owned()
    }

    /// Answers the last message of each request; sampling settings change nothing.
    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let reply = |request: &ChatRequest| {
            let prompt = request.messages.last().map_or("", |message| message.content.as_str());
            let reply = self.reply(prompt).map(ChatReply::of_text);
            reply.map_err(|UnknownPrompt| LlmError::BadRequest { problem: UNKNOWN_PROMPT })
        };
        requests.iter().map(reply).collect()
    }
}

/// The one final answer of a solution: what follows the mark, without a full stop. `None` where there is none or where
/// there are several that differ from each other or repeat.
fn answer_of(solution: &str) -> Option<&str> {
    let mut answers = solution.lines().filter_map(|line| line.trim().strip_prefix(ANSWER_MARK));
    let answer = answers.next()?.trim().trim_end_matches('.').trim();
    let is_single = answers.next().is_none() && !answer.is_empty() && !answer.contains(char::is_whitespace);
    is_single.then_some(answer)
}

fn final_answer(reference: &str, proposed: &str) -> FapVerdict {
    let (want, got) = (answer_of(reference), answer_of(proposed));
    let is_correct = got.is_some() && got == want;
    let justification = match (want, got) {
        (_, None) => "There is not exactly one final answer.".to_owned(),
        (Some(want), Some(got)) => format!("The reference says {want}, the proposed answer says {got}."),
        (None, Some(_)) => "The reference gives no final answer.".to_owned(),
    };
    FapVerdict { justification, correctness: if is_correct { Correctness::Correct } else { Correctness::Wrong } }
}

/// The first line that does not do what the reference does there: another result, or a sum that does not hold. A step may
/// be worded differently as long as its sum holds and gives the same result.
fn stepwise(reference: &str, incorrect: &str) -> ScpVerdict {
    let wanted: Vec<&str> = steps_of(reference).map(|(_, line)| line.trim()).collect();
    let found = steps_of(incorrect).zip(&wanted).find(|((_, line), want)| !is_same_step(line, want));
    match found {
        Some(((start, line), want)) => ScpVerdict {
            justification: format!("All before it agrees with the reference, which goes on with: {want}"),
            first_incorrect_step: line.to_owned(),
            reasoning_up_to_incorrect: incorrect[..start].to_owned(),
            step_correction: (*want).to_owned(),
        },
        None => ScpVerdict {
            justification: "No intermediate step differs from the reference.".to_owned(),
            first_incorrect_step: String::new(),
            reasoning_up_to_incorrect: String::new(),
            step_correction: String::new(),
        },
    }
}

fn is_same_step(line: &str, want: &str) -> bool {
    match (Sum::parse(line), Sum::parse(want)) {
        (Some(sum), Some(wanted)) => sum.holds() && sum.result == wanted.result,
        _ => line.trim() == want,
    }
}

/// The lines before the final answer that are not blank, with their byte offsets.
fn steps_of(solution: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut start = 0;
    solution
        .split('\n')
        .map(move |line| {
            let at = start;
            start += line.len() + 1;
            (at, line)
        })
        .take_while(|(_, line)| !line.trim().starts_with(ANSWER_MARK))
        .filter(|(_, line)| !line.trim().is_empty())
}
