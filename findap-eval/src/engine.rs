//! Runs tasks on a model: all questions of all tasks in shared batches, answers kept on disk as they come.
//!
//! An answer depends on its own question alone, so grouping, resuming and the order of tasks change nothing. With a
//! journal, each finished question is one line of a file; a run that was stopped asks only what is not there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::dataset::{self, DataRoots};
use crate::error::EvalError;
use crate::model::{GenerateRequest, LanguageModel, ScoreRequest};
use crate::prompt::{Ask, Item, PromptOptions, prepare};
use crate::results::{Results, RunInfo, TaskResult};
use crate::sample::{Answer, judge};
use crate::task::{Kind, Task};

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where dataset paths lead.
    pub data_roots: DataRoots,
    /// Only the first rows of each task, or of each subset.
    pub limit: Option<usize>,
    /// Seed of drawn examples and of bootstrap errors.
    pub seed: u64,
    /// Chat template or plain text for all tasks, whatever they say.
    pub chat: Option<bool>,
    /// Number of solved examples for all tasks, whatever they say.
    pub num_fewshot: Option<usize>,
    /// Requests given to the model at once; does not change answers.
    pub requests_per_call: usize,
    /// A file that keeps answers, so that a stopped run goes on; removed by the caller once results are written.
    pub journal: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_roots: DataRoots::new(),
            limit: None,
            seed: 0,
            chat: None,
            num_fewshot: None,
            requests_per_call: 256,
            journal: None,
        }
    }
}

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
}

/// Runs the tasks and scores the answers. Nothing is written but the journal; see [`Results::write`].
///
/// `progress` is told after each call of the model and answers whether to go on.
///
/// # Errors
/// Bad data is found before the model is asked anything; then the model's own errors; [`EvalError::Stopped`] when `progress` says
/// so, with every answer in the journal.
pub fn run(
    model: &dyn LanguageModel,
    tasks: &[Task],
    options: &Options,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Results, EvalError> {
    let started = SystemTime::now();
    let clock = Instant::now();
    let prompt_options = PromptOptions { chat: options.chat, num_fewshot: options.num_fewshot, seed: options.seed };
    let fingerprint = model.fingerprint();

    let mut questions = Vec::new();
    let mut num_original = Vec::new();
    for (task_index, task) in tasks.iter().enumerate() {
        let num_fewshot = options.num_fewshot.unwrap_or(task.fewshot.num);
        let loaded = dataset::load(task, &options.data_roots, options.limit, num_fewshot)?;
        num_original.push(loaded.num_original);
        for item in prepare(task, &loaded, model, prompt_options)? {
            let key = findap_data::files::sha256(format!("{fingerprint}\u{1}{}", item.key(task)).as_bytes());
            questions.push(Question { task_index, task, item, key });
        }
    }

    let mut journal = Journal::open(options.journal.as_deref())?;
    let mut answers: Vec<Option<Answer>> =
        questions.iter().map(|question| journal.answers.remove(&question.key)).collect();
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
            for (index, answer) in group.iter().zip(replies) {
                journal.append(&questions[*index].key, &answer)?;
                answers[*index] = Some(answer);
            }
            journal.flush()?;
            num_done += group.len();
            let task = group.last().map_or("", |index| questions[*index].task.name.as_str());
            if !progress(Progress { num_done, num_total: questions.len(), task }) {
                return Err(EvalError::Stopped);
            }
        }
    }

    let mut samples: Vec<Vec<_>> = tasks.iter().map(|_| Vec::new()).collect();
    for (question, answer) in questions.iter().zip(answers) {
        let answer = answer.expect("invariant: every open question was asked");
        samples[question.task_index].push(judge(question.task, &question.item, answer));
    }
    let results = tasks.iter().zip(samples).zip(num_original);
    Ok(Results {
        info: RunInfo {
            model_name: model.name(),
            model_fingerprint: fingerprint,
            max_tokens: model.max_tokens(),
            limit: options.limit,
            seed: options.seed,
            chat: options.chat,
            num_fewshot: options.num_fewshot,
            started_unix: started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            seconds: clock.elapsed().as_secs_f64(),
        },
        tasks: results.map(|((task, samples), original)| TaskResult::new(task, samples, original, options)).collect(),
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

fn ask_scores(model: &dyn LanguageModel, questions: &[Question], group: &[usize]) -> Result<Vec<Answer>, EvalError> {
    let mut requests = Vec::new();
    let mut counts = Vec::new();
    for index in group {
        let item = &questions[*index].item;
        let Ask::Choices { texts, prefix, .. } = &item.ask else { continue };
        counts.push(texts.len());
        requests.extend(texts.iter().map(|text| ScoreRequest {
            context: item.prompt.clone(),
            continuation: format!("{prefix}{text}"),
            is_rendered: item.is_rendered,
        }));
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
    let requests: Vec<GenerateRequest> = group
        .iter()
        .filter_map(|index| {
            let question = &questions[*index];
            let Kind::Generate(generate) = &question.task.kind else { return None };
            Some(GenerateRequest {
                prompt: question.item.prompt.clone(),
                is_rendered: question.item.is_rendered,
                stop: generate.stop.clone(),
                max_new_tokens: generate.max_new_tokens,
            })
        })
        .collect();
    let replies = model.generate(&requests)?;
    if replies.len() != requests.len() {
        let reason = format!("{} replies for {} prompts", replies.len(), requests.len());
        return Err(EvalError::Model { model: model.name(), operation: "generate replies", reason });
    }
    Ok(replies.into_iter().map(Answer::Reply).collect())
}

/// Answers on disk, one JSON object per line.
struct Journal {
    file: Option<(PathBuf, File)>,
    answers: HashMap<String, Answer>,
}

#[derive(Serialize, Deserialize)]
struct JournalLine {
    key: String,
    answer: Answer,
}

impl Journal {
    /// Reads what is there. A last line without its end was cut by a crash: it is dropped and asked again.
    fn open(path: Option<&Path>) -> Result<Self, EvalError> {
        let Some(path) = path else { return Ok(Self { file: None, answers: HashMap::new() }) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(EvalError::io(folder))?;
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(EvalError::io(path)(error)),
        };
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut answers = HashMap::new();
        for (index, line) in
            bytes[..complete].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
        {
            let line: JournalLine = serde_json::from_slice(line).map_err(|error| EvalError::Results {
                path: path.to_owned(),
                problem: format!(
                    "line {} is not an answer ({error}); remove the file to ask everything again",
                    index + 1
                ),
            })?;
            answers.insert(line.key, line.answer);
        }
        let file = File::options().create(true).append(true).open(path).map_err(EvalError::io(path))?;
        file.set_len(complete as u64).map_err(EvalError::io(path))?;
        Ok(Self { file: Some((path.to_owned(), file)), answers })
    }

    fn append(&mut self, key: &str, answer: &Answer) -> Result<(), EvalError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let line = JournalLine { key: key.to_owned(), answer: answer.clone() };
        let mut text = serde_json::to_string(&line).expect("invariant: finite numbers and text are JSON");
        text.push('\n');
        file.write_all(text.as_bytes()).map_err(EvalError::io(path.as_path()))
    }

    fn flush(&mut self) -> Result<(), EvalError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.flush().map_err(EvalError::io(path.as_path()))
    }
}
