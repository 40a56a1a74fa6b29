//! The judge's verdicts on solutions.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use findap_data::llm::{HttpChatModel, LlmError};
use findap_data::reward_model::{
    ANSWER_MARK, Correctness, Exercise, FapVerdict, ScpVerdict, Verdict, fap_prompt, scp_prompt, verdict_or_problem,
};
use findap_data::world::judge::WorldJudge;
use findap_data::{ChatModel, ChatRequest, Message, Sampling};

use super::record::{Sampled, Solution};
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::recipe::{DistillStage, Judge, PairKind, RemoteJudge};

/// Whether the judge has not been asked about these solutions before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    First,
    Again,
}

/// A judge with what it is asked for a stage.
pub(super) struct Bench<'a> {
    stage: &'a DistillStage,
    judge: Box<dyn ChatModel>,
    sampling: Sampling,
    stop: &'a AtomicBool,
    /// One reply that could not be read has been shown.
    has_shown_unread: bool,
}

/// Whether the judge has yet to say something about a solution that the stage needs.
pub(super) fn is_open(stage: &DistillStage, solution: &Solution) -> bool {
    solution.verdict.is_none() || lacks_correction(stage, solution)
}

/// A solution that was cut off makes no stepwise pair: its last line is no step.
fn lacks_correction(stage: &DistillStage, solution: &Solution) -> bool {
    stage.kinds.contains(&PairKind::Scp)
        && stage.corrections_per_exercise > 0
        && solution.is_finished
        && solution.is_judged(Correctness::Wrong)
        && solution.correction.is_none()
        && solution.uncorrected.is_none()
}

impl<'a> Bench<'a> {
    /// The judge of a stage; replies of a server are kept in the stage's folder.
    ///
    /// # Errors
    /// [`TrainError::Language`] if the address, the key or the recorded replies are unusable.
    pub(super) fn new(stage: &'a DistillStage, folder: &Path, stop: &'a AtomicBool) -> Result<Bench<'a>, TrainError> {
        let (judge, sampling): (Box<dyn ChatModel>, _) = match &stage.judge {
            Judge::Named(_) => (Box::new(WorldJudge), Sampling::default()),
            Judge::Remote(remote) => (remote.kept_in(&folder.join("judge.jsonl"))?, remote.sampling()),
        };
        Ok(Bench { stage, judge, sampling, stop, has_shown_unread: false })
    }

    #[cfg(test)]
    pub(super) fn of(stage: &'a DistillStage, judge: Box<dyn ChatModel>, stop: &'a AtomicBool) -> Bench<'a> {
        Bench { stage, judge, sampling: Sampling::default(), stop, has_shown_unread: false }
    }

    /// Adds the verdicts that are not there: on final answers, then on the first wrong step of wrong solutions. `false` when it was
    /// stopped before the end.
    ///
    /// # Errors
    /// [`TrainError::Language`] if the judge as a whole failed, or refused all that it was asked first.
    pub(super) fn judge(
        &mut self,
        round: Round,
        exercises: &[Exercise],
        sampled: &mut [Sampled],
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let mut solutions: Vec<(&Exercise, &mut Solution)> = exercises
            .iter()
            .zip(sampled)
            .flat_map(|(exercise, sampled)| sampled.solutions.iter_mut().map(move |solution| (exercise, solution)))
            .collect();
        let unjudged = solutions.iter_mut().filter(|(_, solution)| solution.verdict.is_none());
        let unjudged = unjudged.map(|(exercise, solution)| (*exercise, &mut **solution)).collect();
        let mut take = |solution: &mut Solution, verdict: FapVerdict| solution.verdict = Some(verdict);
        if !self.ask(round, fap_prompt, unjudged, &mut take, observer)? {
            return Ok(false);
        }
        solutions.retain(|(_, solution)| lacks_correction(self.stage, solution));
        let mut take = |solution: &mut Solution, verdict: ScpVerdict| match correction_of(verdict, &solution.text) {
            Ok(correction) => solution.correction = Some(correction),
            Err(reason) => solution.uncorrected = Some(reason),
        };
        // Where it judges final answers, it is no judge that refuses all.
        self.ask(Round::Again, scp_prompt, solutions, &mut take, observer)
    }

    /// Asks about solutions and gives each verdict to `take`. A reply that did not come or cannot be read never becomes a label.
    fn ask<V: Verdict>(
        &mut self,
        round: Round,
        prompt: fn(&str, &str, &str) -> String,
        mut solutions: Vec<(&Exercise, &mut Solution)>,
        take: &mut dyn FnMut(&mut Solution, V),
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        /// Between so many a run can be stopped.
        const AT_ONCE: usize = 16;
        let mut refused: Vec<LlmError> = Vec::new();
        let num_asked = solutions.len();
        for group in solutions.chunks_mut(AT_ONCE) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let request = |(exercise, solution): &(&Exercise, &mut Solution)| ChatRequest {
                messages: vec![Message::user(prompt(&exercise.question, &exercise.solution(), &solution.text))],
                sampling: self.sampling.clone(),
            };
            let requests: Vec<ChatRequest> = group.iter().map(request).collect();
            let replies = self.judge.chat(&requests);
            for note in self.judge.take_notes() {
                observer.event(Event::Note(format!("{}: {note}", self.stage.name)));
            }
            if let Some(error) =
                replies.iter().filter_map(|reply| reply.as_ref().err()).find(|error| !error.is_of_request())
            {
                return Err(error.clone().into());
            }
            for (((_, solution), request), reply) in group.iter_mut().zip(&requests).zip(replies) {
                solution.unread = None;
                match verdict_or_problem(request, &reply) {
                    Ok(verdict) => take(solution, verdict),
                    Err(problem) => {
                        self.show_unread(&problem, observer);
                        solution.unread = Some(problem);
                    }
                }
                refused.extend(reply.err());
            }
        }
        let is_all = refused.len() == num_asked;
        match refused.into_iter().next() {
            Some(error) if round == Round::First && is_all => Err(error.into()),
            _ => Ok(true),
        }
    }

    fn show_unread(&mut self, problem: &str, observer: &mut dyn Observer) {
        if !self.has_shown_unread {
            self.has_shown_unread = true;
            let name = &self.stage.name;
            observer.event(Event::Note(format!(
                "{name}: a reply of the judge could not be read and makes no label: {problem}"
            )));
        }
    }
}

/// A client of the judge, which could be asked; none of a judge that is a rule or a recording. Nothing is sent.
///
/// # Errors
/// [`TrainError::Judge`] for an address or a key that cannot be used; [`TrainError::Io`] for a recording that is not there.
pub(super) fn client(stage: &DistillStage) -> Result<Option<(&RemoteJudge, HttpChatModel)>, TrainError> {
    let Judge::Remote(remote) = &stage.judge else { return Ok(None) };
    if let Some(path) = &remote.recorded {
        std::fs::metadata(path).map_err(io("read", path))?;
    }
    let client = remote.client().map_err(|source| TrainError::Judge { stage: stage.name.clone(), source })?;
    Ok(remote.recorded.is_none().then_some((remote, client)))
}

/// Asks a judge behind a server whether the reference solution of an exercise is right, and records nothing. A note where its reply
/// makes no label, or says that it is wrong.
///
/// # Errors
/// [`TrainError::Judge`] if the server cannot be asked.
pub(super) fn try_judge(stage: &DistillStage, exercise: &Exercise) -> Result<Option<String>, TrainError> {
    let Some((remote, client)) = client(stage)? else { return Ok(None) };
    let solution = exercise.solution();
    let messages = vec![Message::user(fap_prompt(&exercise.question, &solution, &solution))];
    let request = ChatRequest { messages, sampling: remote.sampling() };
    let replies = client.chat(std::slice::from_ref(&request));
    let reply = replies.into_iter().next().expect("invariant: one reply for each request");
    if let Err(source) = reply {
        return Err(TrainError::Judge { stage: stage.name.clone(), source });
    }
    Ok(match verdict_or_problem::<FapVerdict>(&request, &reply) {
        Ok(verdict) if verdict.correctness == Correctness::Correct => None,
        Ok(_) => {
            Some(format!("the judge says of the reference solution of exercise `{}` that it is wrong", exercise.id))
        }
        Err(problem) => Some(format!("a reply of the judge, asked for a trial, could not be read: {problem}")),
    })
}

/// The verdict, if it names a step that stands in the solution right after the reasoning that it quotes, and another step in its
/// place. A judge may give the step's number instead; then the step is put there.
///
/// # Errors
/// Why it is no correction.
pub(super) fn correction_of(verdict: ScpVerdict, solution: &str) -> Result<ScpVerdict, String> {
    let (named, right) = (verdict.first_incorrect_step.trim(), verdict.step_correction.trim());
    if named.is_empty() {
        return Err("it names no wrong step".to_owned());
    }
    if right.is_empty() {
        return Err("it corrects nothing".to_owned());
    }
    let Some(rest) = solution.trim_start().strip_prefix(verdict.reasoning_up_to_incorrect.trim()) else {
        return Err("the reasoning that it quotes is not the solution's beginning".to_owned());
    };
    let rest = rest.trim_start();
    let line = rest.lines().next().unwrap_or_default().trim();
    if is_final_answer(line) || named.lines().any(is_final_answer) {
        return Err("what it names is the final answer, and no step".to_owned());
    }
    let wrong = match step_number(named).filter(|_| line != named) {
        Some(number) => {
            let before = &solution[..solution.len() - rest.len()];
            let is_there = !line.is_empty() && number == num_steps(before) + 1;
            if !is_there {
                return Err(format!("step {number} does not follow the reasoning that it quotes"));
            }
            line
        }
        None if rest.starts_with(named) && !is_cut(named, &rest[named.len()..]) => named,
        None => return Err("the step that it quotes does not follow the reasoning that it quotes".to_owned()),
    };
    if wrong == right {
        return Err("its correction is the step itself".to_owned());
    }
    let first_incorrect_step = wrong.to_owned();
    Ok(ScpVerdict { first_incorrect_step, ..verdict })
}

/// Whether a line gives the final answer, in bold or another case, too.
fn is_final_answer(line: &str) -> bool {
    let line = line.trim().trim_start_matches(['*', '_', '#', ' ']).replace("**", "");
    line.get(..ANSWER_MARK.len()).is_some_and(|mark| mark.eq_ignore_ascii_case(ANSWER_MARK))
}

/// The number in `3`, `step 3`, `Line 3.`; `None` for any other text.
fn step_number(text: &str) -> Option<usize> {
    let text = text.to_lowercase();
    let text = text.strip_prefix("step").or_else(|| text.strip_prefix("line")).unwrap_or(&text);
    text.trim().trim_start_matches('#').trim_end_matches(['.', ':']).parse().ok()
}

fn num_steps(text: &str) -> usize {
    text.lines().filter(|line| !line.trim().is_empty()).count()
}

/// Whether a quote ends within a word or a number.
fn is_cut(quote: &str, rest: &str) -> bool {
    let mut next = rest.chars();
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let (last, first, second) = (quote.chars().last(), next.next(), next.next());
    is_word(last) && is_word(first) || is_digit(last) && matches!(first, Some('.' | ',')) && is_digit(second)
}
