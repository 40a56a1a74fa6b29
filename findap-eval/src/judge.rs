//! Replies that a language model judges, where no right answer can be compared with.
//!
//! The judge is any [`ChatModel`]: a server, a local model, a recording. What it says of each turn is kept with the sample. A verdict that
//! cannot be read is none: such a row has no value of the judge's metric, and is counted.

use findap_data::llm::one_line;
use findap_data::reward_model::{
    Correctness, FapVerdict, GradeVerdict, HIGHEST_GRADE, fap_prompt, grade_prompt, read_verdict,
};
use findap_data::{ChatModel, ChatRequest, Message, Sampling};

use crate::error::EvalError;
use crate::extract::without_reasoning;
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
    let (mut num_read, mut first_problem) = (0, None);
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
            let judgements = answered.by_ref().take(prompts.len()).map(|(request, reply)| {
                let said = reply.map_err(|error| error.to_string()).and_then(|reply| {
                    let read = match case.asks {
                        Asks::Agreement => read_verdict::<FapVerdict>(request, &reply).map(of_agreement),
                        Asks::Grade => read_verdict::<GradeVerdict>(request, &reply).map(of_grade),
                    };
                    read.map_err(|error| format!("{error}: \"{}\"", one_line(reply.text())))
                });
                said.unwrap_or_else(|why| Judgement { value: None, why: one_line(&why) })
            });
            case.sample.judgements = judgements.collect();
            case.sample.count_judgements(case.asks.metric());
            num_read += case.sample.judgements.iter().filter(|judgement| judgement.value.is_some()).count();
            let unread = case.sample.judgements.iter().find(|judgement| judgement.value.is_none());
            first_problem = first_problem.or_else(|| unread.map(|judgement| judgement.why.clone()));
        }
        if !progress(group.len()) {
            return Err(EvalError::Stopped);
        }
    }
    match first_problem {
        Some(problem) if num_read == 0 => {
            Err(failed(format!("none of its replies has a verdict; the first: {problem}")))
        }
        _ => Ok(()),
    }
}

fn of_agreement(verdict: FapVerdict) -> Judgement {
    let is_right = verdict.correctness == Correctness::Correct;
    Judgement { value: Some(f64::from(u8::from(is_right))), why: verdict.justification }
}

fn of_grade(verdict: GradeVerdict) -> Judgement {
    Judgement { value: Some(verdict.grade / HIGHEST_GRADE), why: verdict.justification }
}

/// What the judge is asked about each turn, with the turns before it.
fn prompts(case: &Case<'_>) -> Vec<String> {
    let Answer::Reply(reply) = &case.sample.answer else { return Vec::new() };
    let replies = std::iter::once(&reply.text).chain(reply.further.iter().map(|turn| &turn.text));
    // What a model thinks is not what it says.
    let replies: Vec<String> = replies.map(|text| without_reasoning(text).trim().to_owned()).collect();
    let turns: Vec<(&str, &str)> =
        case.judged.questions.iter().map(String::as_str).zip(replies.iter().map(String::as_str)).collect();
    let reference = case.judged.reference.as_deref();
    let of_turn = |end: usize| match case.asks {
        Asks::Grade => grade_prompt(&turns[..end], reference),
        Asks::Agreement => fap_prompt(turns[end - 1].0, reference.unwrap_or_default(), turns[end - 1].1),
    };
    (1..=turns.len()).map(of_turn).collect()
}
