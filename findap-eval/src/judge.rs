//! Replies that a language model judges, where no right answer can be compared with.
//!
//! The judge is any [`ChatModel`]: a server, a local model, a recording. What it says of each turn is kept with the sample. A verdict that
//! cannot be read is none: such a row has no value of the judge's metric, and is counted.

use std::collections::BTreeMap;

use findap_data::files::sha256;
use findap_data::reward_model::{
    Correctness, FapVerdict, GradeVerdict, HIGHEST_GRADE, fap_prompt, grade_prompt, verdict_or_problem,
};
use findap_data::{ChatModel, ChatRequest, Message, Sampling};

use crate::error::EvalError;
use crate::extract::answer_to;
use crate::prompt::Judged;
use crate::sample::{Answer, Judgement, Sample};
use crate::task::Asks;

/// Requests given to the judge at once; between them a run can be stopped.
const AT_ONCE: usize = 16;

/// A judge with how it is asked.
#[derive(Clone)]
pub struct Judge<'a> {
    /// Who judges.
    pub model: &'a dyn ChatModel,
    /// How its replies are drawn.
    pub sampling: Sampling,
}

/// A reply to be judged.
pub(crate) struct Case<'a> {
    pub(crate) task: &'a str,
    pub(crate) asks: Asks,
    pub(crate) judged: &'a Judged,
    pub(crate) sample: &'a mut Sample,
}

/// Asks the judge about all cases and leaves what it says in their samples. `progress` is told of each sample that is done and answers
/// whether to go on.
///
/// # Errors
/// [`EvalError::Judge`] where the judge as a whole fails, or none of its replies can be read; [`EvalError::Stopped`].
pub(crate) fn judge(
    judge: &Judge<'_>,
    mut cases: Vec<Case<'_>>,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<(), EvalError> {
    let failed = |problem: String| EvalError::Judge { judge: judge.model.name(), problem };
    let mut read_of: BTreeMap<String, (usize, Option<String>)> = BTreeMap::new();
    for group in cases.chunks_mut(AT_ONCE) {
        let prompts: Vec<Vec<String>> = group.iter().map(prompts).collect();
        let request = |prompt: &String| ChatRequest {
            messages: vec![Message::user(prompt.clone())],
            sampling: judge.sampling.clone(),
        };
        let requests: Vec<ChatRequest> = prompts.iter().flatten().map(request).collect();
        let replies = judge.model.chat(&requests);
        if let Some(error) =
            replies.iter().filter_map(|reply| reply.as_ref().err()).find(|error| !error.is_of_request())
        {
            return Err(failed(error.to_string()));
        }
        let mut answered = requests.iter().zip(replies);
        for (case, prompts) in group.iter_mut().zip(&prompts) {
            let judgements = answered.by_ref().take(prompts.len()).zip(prompts).map(|((request, reply), prompt)| {
                let said = match case.asks {
                    Asks::Agreement => verdict_or_problem(request, &reply).map(of_agreement),
                    Asks::Grade => verdict_or_problem(request, &reply).map(of_grade),
                };
                let (value, why) = said.map_or_else(|why| (None, why), |(value, why)| (Some(value), why));
                Judgement { value, why, prompt_hash: sha256(prompt.as_bytes()) }
            });
            case.sample.judgements = judgements.collect();
            case.sample.count_judgements(case.asks.metric());
            let (num_read, problem) = read_of.entry(case.task.to_owned()).or_default();
            *num_read += usize::from(case.sample.outcome.values.contains_key(&case.asks.metric()));
            let unread = case.sample.judgements.iter().find(|judgement| judgement.value.is_none());
            *problem = problem.take().or_else(|| unread.map(|judgement| judgement.why.clone()));
        }
        if !progress(group.len()) {
            return Err(EvalError::Stopped);
        }
    }
    match read_of.into_iter().find(|(_, (num_read, _))| *num_read == 0) {
        Some((task, (_, problem))) => {
            let problem = problem.unwrap_or_default();
            Err(failed(format!("no row of task {task} has its verdicts; the first reply without one: {problem}")))
        }
        None => Ok(()),
    }
}

fn of_agreement(verdict: FapVerdict) -> (f64, String) {
    (f64::from(u8::from(verdict.correctness == Correctness::Correct)), verdict.justification)
}

fn of_grade(verdict: GradeVerdict) -> (f64, String) {
    (verdict.grade / HIGHEST_GRADE, verdict.justification)
}

/// Whether the verdicts that a sample was given before are replies to what the judge would be asked about it.
pub(crate) fn are_verdicts_of(judgements: &[Judgement], case: &Case<'_>) -> bool {
    let hashes = prompts(case).into_iter().map(|prompt| sha256(prompt.as_bytes()));
    judgements.iter().map(|judgement| judgement.prompt_hash.clone()).eq(hashes)
}

/// What the judge is asked about each turn, with the turns before it.
fn prompts(case: &Case<'_>) -> Vec<String> {
    let Answer::Reply(reply) = &case.sample.answer else { return Vec::new() };
    let first = (&case.sample.prompt, &reply.text);
    let turns = std::iter::once(first).chain(reply.further.iter().map(|turn| (&turn.prompt, &turn.text)));
    // What a model thinks is not what it says.
    let replies: Vec<String> = turns.map(|(prompt, text)| answer_to(prompt, text).trim().to_owned()).collect();
    let turns: Vec<(&str, &str)> =
        case.judged.questions.iter().map(String::as_str).zip(replies.iter().map(String::as_str)).collect();
    let of_turn = |end: usize| {
        let reference = case.judged.references[end - 1].as_deref();
        match case.asks {
            Asks::Grade => grade_prompt(&turns[..end], reference),
            Asks::Agreement => fap_prompt(turns[end - 1].0, reference.unwrap_or_default(), turns[end - 1].1),
        }
    };
    (1..=turns.len()).map(of_turn).collect()
}
