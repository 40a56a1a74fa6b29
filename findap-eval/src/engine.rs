//! Runs tasks on a model: all questions of all tasks in shared batches, answers kept on disk as they come.
//!
//! An answer depends on its own question alone, so grouping, resuming and the order of tasks change nothing. With a
//! journal, each finished question is one line of a file; a run that was stopped asks only what is not there.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Instant, SystemTime};

use findap_data::Message;
use findap_data::journal::Journal;
use serde::{Deserialize, Serialize};

use crate::dataset;
use crate::error::EvalError;
use crate::extract::answer_to;
use crate::judge::{Case, Judge, judge as ask_judge};
use crate::model::{GenerateRequest, LanguageModel, Reply, ScoreRequest, Turn};
use crate::options::Options;
use crate::prompt::{Ask, Item, PromptOptions, prepare};
use crate::results::{Results, RunInfo, SCORING_VERSION, TaskResult};
use crate::sample::{Answer, Sample, grade};
use crate::task::{Kind, MultipleChoice, Task};

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Questions answered, those from the journal included.
    pub num_done: usize,
    /// All questions.
    pub num_total: usize,
    /// The task of the question answered last.
    pub task: &'a str,
}

struct Question<'a> {
    task_index: usize,
    task: &'a Task,
    item: Item,
    key: String,
    /// Tokens that its prompt loses at the beginning: of a choice, with its longest continuation.
    num_cut_tokens: usize,
}

/// Runs the tasks and scores the answers, those of tasks with a judge by what it says. Nothing is written but the journal; see
/// [`Results::write`].
///
/// `progress` is told after each call of the model or the judge and answers whether to go on.
///
/// # Errors
/// Bad data is found before the model is asked anything; then the errors of the model and the judge; [`EvalError::Stopped`] when
/// `progress` says so, with every answer in the journal.
pub fn run(
    model: &dyn LanguageModel,
    judge: Option<&Judge<'_>>,
    tasks: &[Task],
    options: &Options,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Results, EvalError> {
    let started = SystemTime::now();
    let clock = Instant::now();
    let prompt_options = PromptOptions { chat: options.chat, num_fewshot: options.num_fewshot, seed: options.seed };
    let (fingerprint, precision) = (model.fingerprint()?, model.precision());

    let mut questions = Vec::new();
    let mut counts = Vec::new();
    tasks.iter().try_for_each(|task| task.refuse(judge.is_some()))?;
    dataset::require(tasks, &options.data_roots, options.num_fewshot)?;
    for (task_index, task) in tasks.iter().enumerate() {
        let num_fewshot = options.num_fewshot.unwrap_or(task.fewshot.num);
        task.check_turns(options.chat, num_fewshot)?;
        let loaded = dataset::load(task, &options.data_roots, options.limit, num_fewshot)?;
        counts.push((loaded.num_original, loaded.num_left_out));
        for item in prepare(task, &loaded, model, prompt_options)? {
            let key =
                findap_data::files::sha256(format!("{fingerprint}\u{1}{precision}\u{1}{}", item.key(task)).as_bytes());
            let num_cut_tokens = num_cut_tokens(model, task, &item)?;
            questions.push(Question { task_index, task, item, key, num_cut_tokens });
        }
    }

    let (mut journal, known) = open_journal(options.journal.as_deref())?;
    let mut answers: Vec<Option<Answer>> = questions.iter().map(|question| known.get(&question.key).cloned()).collect();
    let is_judged = |question: &Question<'_>| judge.is_some() && question.task.judge.is_some();
    let num_total = questions.len() + questions.iter().filter(|question| is_judged(question)).count();
    let mut num_done = answers.iter().flatten().count();
    let open: Vec<usize> = (0..questions.len()).filter(|index| answers[*index].is_none()).collect();
    // Both kinds in turn: a call holds requests of one kind.
    for wants_reply in [false, true] {
        let of_kind =
            open.iter().copied().filter(|index| matches!(questions[*index].item.ask, Ask::Reply { .. }) == wants_reply);
        for group in group_requests(of_kind, &questions, options.requests_per_call) {
            let replies = if wants_reply {
                ask_replies(model, &questions, &group)?
            } else {
                ask_scores(model, &questions, &group)?
            };
            if let Some(journal) = &mut journal {
                let line = |(index, answer): (&usize, &Answer)| JournalLine {
                    key: questions[*index].key.clone(),
                    answer: answer.clone(),
                };
                journal.append(&group.iter().zip(&replies).map(line).collect::<Vec<_>>())?;
            }
            for (index, answer) in group.iter().zip(replies) {
                answers[*index] = Some(answer);
            }
            num_done += group.len();
            let task = group.last().map_or("", |index| questions[*index].task.name.as_str());
            if !progress(Progress { num_done, num_total, task }) {
                return Err(EvalError::Stopped);
            }
        }
    }

    let graded = questions.iter().zip(answers).map(|(question, answer)| {
        let answer = answer.expect("invariant: every open question was asked");
        let num_cut_tokens = question.num_cut_tokens.max(answer.num_cut_tokens());
        Sample { num_cut_tokens: Some(num_cut_tokens), ..grade(question.task, &question.item, answer) }
    });
    let mut graded: Vec<Sample> = graded.collect();
    if let Some(judge) = judge {
        let cases = questions.iter().zip(&mut graded).filter_map(|(question, sample)| match &question.item.ask {
            Ask::Reply { judged: Some(judged), .. } => {
                let asks = question.task.judge.as_ref()?.asks;
                Some(Case { task: &question.task.name, asks, judged, sample })
            }
            _ => None,
        });
        ask_judge(judge, cases.collect(), &mut |more| {
            num_done += more;
            progress(Progress { num_done, num_total, task: "judged" })
        })?;
    }
    let mut samples: Vec<Vec<_>> = tasks.iter().map(|_| Vec::new()).collect();
    for (question, sample) in questions.iter().zip(graded) {
        samples[question.task_index].push(sample);
    }
    let results = tasks.iter().zip(samples).zip(counts);
    Ok(Results {
        info: RunInfo {
            model_name: model.name(),
            model_fingerprint: fingerprint,
            precision,
            template_date: model.template_date(),
            scoring_version: SCORING_VERSION,
            max_tokens: model.max_tokens(),
            limit: options.limit,
            seed: options.seed,
            chat: options.chat,
            num_fewshot: options.num_fewshot,
            judge: judge.filter(|_| tasks.iter().any(|task| task.judge.is_some())).map(|judge| judge.model.name()),
            rescored_from: None,
            started_unix: started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            seconds: clock.elapsed().as_secs_f64(),
        },
        tasks: results.map(|((task, samples), counts)| TaskResult::new(task, samples, counts, options)).collect(),
    })
}

/// Cuts questions into calls of at most `limit` requests, but at least one question.
fn group_requests(indices: impl Iterator<Item = usize>, questions: &[Question], limit: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut num_requests = 0;
    for index in indices {
        let more = match &questions[index].item.ask {
            Ask::Choices { texts, .. } => texts.len(),
            Ask::Reply { .. } => 1,
        };
        match groups.last_mut().filter(|_| num_requests + more <= limit) {
            Some(group) => {
                group.push(index);
                num_requests += more;
            }
            None => {
                groups.push(vec![index]);
                num_requests = more;
            }
        }
    }
    groups
}

/// One request per choice; none for a question that asks for a reply.
fn score_requests(task: &Task, item: &Item) -> Vec<ScoreRequest> {
    let Kind::MultipleChoice(MultipleChoice { token_border: border, .. }) = task.kind else { return Vec::new() };
    let request = |(context, continuation): (&str, String)| ScoreRequest {
        context: context.to_owned(),
        continuation,
        is_rendered: item.is_rendered,
        border,
    };
    item.scored().into_iter().map(request).collect()
}

fn generate_request(task: &Task, item: &Item) -> Option<GenerateRequest> {
    let Kind::Generate(generate) = &task.kind else { return None };
    Some(GenerateRequest {
        prompt: item.prompt.clone(),
        is_rendered: item.is_rendered,
        stop: generate.stop.clone(),
        max_new_tokens: generate.max_new_tokens,
    })
}

fn num_cut_tokens(model: &dyn LanguageModel, task: &Task, item: &Item) -> Result<usize, EvalError> {
    let counted = match generate_request(task, item) {
        Some(request) => model.num_cut_to_generate(&request),
        None => score_requests(task, item)
            .iter()
            .try_fold(0, |most, request| Ok(most.max(model.num_cut_to_score(request)?))),
    };
    // A model knows no task.
    counted.map_err(|error| match error {
        EvalError::NoRoomForPrompt { max_new_tokens, max_tokens, .. } => {
            EvalError::NoRoomForPrompt { task: task.name.clone(), max_new_tokens, max_tokens }
        }
        EvalError::NoContinuationToken { continuation, .. } => {
            let place = format!("task {}, row {}: ", task.name, item.row_id);
            EvalError::NoContinuationToken { place, continuation }
        }
        error => error,
    })
}

fn ask_scores(model: &dyn LanguageModel, questions: &[Question], group: &[usize]) -> Result<Vec<Answer>, EvalError> {
    let mut requests = Vec::new();
    let mut counts = Vec::new();
    for index in group {
        let of_question = score_requests(questions[*index].task, &questions[*index].item);
        counts.push(of_question.len());
        requests.extend(of_question);
    }
    let scores = model.score(&requests)?;
    let failed = |reason: String| EvalError::Model { model: model.name(), operation: "score continuations", reason };
    if scores.len() != requests.len() {
        return Err(failed(format!("{} scores for {} requests", scores.len(), requests.len())));
    }
    if let Some(at) = scores.iter().position(|score| !score.logp.is_finite()) {
        return Err(failed(format!("the log-likelihood of {:?} is {}", requests[at].continuation, scores[at].logp)));
    }
    let mut scores = scores.into_iter();
    Ok(counts.into_iter().map(|count| Answer::Scores(scores.by_ref().take(count).collect())).collect())
}

fn ask_replies(model: &dyn LanguageModel, questions: &[Question], group: &[usize]) -> Result<Vec<Answer>, EvalError> {
    let requests: Vec<GenerateRequest> =
        group.iter().filter_map(|index| generate_request(questions[*index].task, &questions[*index].item)).collect();
    let mut replies = generate(model, &requests)?;
    ask_further(model, questions, group, &mut replies)?;
    Ok(replies.into_iter().map(Answer::Reply).collect())
}

/// Goes on with the conversations of the questions that have follow-ups, turn by turn.
fn ask_further(
    model: &dyn LanguageModel,
    questions: &[Question],
    group: &[usize],
    replies: &mut [Reply],
) -> Result<(), EvalError> {
    let mut conversations: Vec<Vec<Message>> =
        group.iter().map(|index| questions[*index].item.messages.clone()).collect();
    for turn in 0.. {
        let mut requests = Vec::new();
        let mut asked = Vec::new();
        for (place, index) in group.iter().enumerate() {
            let Question { task, item, .. } = &questions[*index];
            let Some(follow_up) = item.follow_ups().get(turn) else { continue };
            let (prompt, said) = match turn {
                0 => (&item.prompt, &replies[place].text),
                _ => (&replies[place].further[turn - 1].prompt, &replies[place].further[turn - 1].text),
            };
            // As a program that talks does, which shows no reasoning to the model again.
            let said = answer_to(prompt, said).trim().to_owned();
            conversations[place].extend([Message::assistant(said), Message::user(follow_up.clone())]);
            let prompt = model.render_chat(&conversations[place])?;
            requests.extend(generate_request(task, &Item { prompt, ..item.clone() }));
            asked.push(place);
        }
        if asked.is_empty() {
            return Ok(());
        }
        let answered = generate(model, &requests)?;
        for ((place, request), Reply { text, is_cut_off, .. }) in asked.into_iter().zip(requests).zip(answered) {
            let num_cut_tokens = model.num_cut_to_generate(&request)?;
            replies[place].further.push(Turn { prompt: request.prompt, num_cut_tokens, text, is_cut_off });
        }
    }
    Ok(())
}

/// One reply for each request.
fn generate(model: &dyn LanguageModel, requests: &[GenerateRequest]) -> Result<Vec<Reply>, EvalError> {
    let replies = model.generate(requests)?;
    if replies.len() != requests.len() {
        let reason = format!("{} replies for {} prompts", replies.len(), requests.len());
        return Err(EvalError::Model { model: model.name(), operation: "generate replies", reason });
    }
    Ok(replies)
}

/// An answer on disk.
#[derive(Serialize, Deserialize)]
struct JournalLine {
    key: String,
    answer: Answer,
}

/// The journal, where one is wanted, and what it holds.
fn open_journal(path: Option<&Path>) -> Result<(Option<Journal>, HashMap<String, Answer>), EvalError> {
    let Some(path) = path else { return Ok((None, HashMap::new())) };
    // A question whose line was cut short is asked again.
    let (journal, read) = Journal::open::<JournalLine>(path)?;
    Ok((Some(journal), read.entries.into_iter().map(|line| (line.key, line.answer)).collect()))
}
