//! From the rows of a task to the exact texts that a model is given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use findap_data::files::{seed_of, sha256};
use findap_data::plain_words::plain_words;
use findap_data::{Message, Role};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::check::Check;
use crate::dataset::{self, DataRoots, Loaded, Row};
use crate::error::EvalError;
use crate::extract::{as_answer, extract};
use crate::model::LanguageModel;
use crate::task::{FewshotRule, GoldIs, Kind, MultipleChoice, Task};
use crate::template::{Fields, Template, letter, lookup, scalar};

/// Between one solved example and the next, in plain text.
const FEWSHOT_DELIMITER: &str = "\n\n";

/// One question, ready to be asked.
#[derive(Debug, Clone)]
pub struct Item {
    /// Number of the row in the benchmark.
    pub row_id: usize,
    /// The subset it belongs to.
    pub subset: Option<String>,
    /// The row's fields.
    pub fields: Fields,
    /// The text before the answer.
    pub prompt: String,
    /// Whether the prompt was written by a chat template.
    pub is_rendered: bool,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Ask {
    /// Which of these follows best?
    Choices {
        /// The choices, without what stands before them.
        texts: Vec<String>,
        /// What stands between prompt and choice.
        prefix: String,
        /// Index of the right one.
        gold: usize,
    },
    /// Write a reply.
    Reply {
        /// The right answer after its own extraction steps; empty where only rules are checked.
        gold: String,
        /// Rules that the reply must keep.
        checks: Vec<Check>,
    },
}

impl Item {
    /// What identifies question and answers; equal keys may share an answer of one model.
    pub fn key(&self, task: &Task) -> String {
        let choices = match &self.ask {
            Ask::Choices { texts, prefix, .. } => format!("{prefix}\u{1}{}", texts.join("\u{1}")),
            Ask::Reply { .. } => String::new(),
        };
        sha256(format!("{}\u{1}{}\u{1}{}\u{1}{choices}", task.hash, self.is_rendered, self.prompt).as_bytes())
    }
}

/// How a run departs from what its tasks say.
#[derive(Debug, Clone, Copy, Default)]
pub struct PromptOptions {
    /// Chat template or plain text for all tasks.
    pub chat: Option<bool>,
    /// Number of solved examples for all tasks.
    pub num_fewshot: Option<usize>,
    /// Seed of the drawn examples.
    pub seed: u64,
}

/// Finds out whether the rows of tasks can be read, and questions and right answers be made of them. It asks no model. Returns the
/// files that were read for each task, by its name.
///
/// # Errors
/// As [`dataset::load`] and [`prepare`].
pub fn check(tasks: &[Task], roots: &DataRoots) -> Result<BTreeMap<String, BTreeSet<PathBuf>>, EvalError> {
    let mut files: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    for task in tasks {
        let loaded = dataset::load(task, roots, None, task.fewshot.num)?;
        let rows = loaded.rows.iter().chain(loaded.fewshot.values().flatten());
        files.insert(task.name.clone(), rows.map(|row| row.path.clone()).collect());
        for row in &loaded.rows {
            render(row, &task.prompt)?;
            task.system.as_ref().map(|system| render(row, system)).transpose()?;
            ask(task, row, task.chat)?;
        }
        for example in loaded.fewshot.values().flatten() {
            solution(task, example)?;
        }
    }
    Ok(files)
}

/// Renders the questions of a task.
///
/// # Errors
/// [`EvalError::Row`] where a row lacks a field or its right answer makes no sense; [`EvalError::Model`] where the model
/// cannot render the conversation.
pub fn prepare(
    task: &Task,
    loaded: &Loaded,
    model: &dyn LanguageModel,
    options: PromptOptions,
) -> Result<Vec<Item>, EvalError> {
    loaded
        .rows
        .iter()
        .map(|row| {
            let examples = choose_examples(task, loaded, row, options)?;
            prepare_row(task, row, &examples, model, options)
        })
        .collect()
}

/// Renders one question after the given solved examples.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_row(
    task: &Task,
    row: &Row,
    examples: &[&Row],
    model: &dyn LanguageModel,
    options: PromptOptions,
) -> Result<Item, EvalError> {
    let is_chat = options.chat.unwrap_or(task.chat);
    let question = render(row, &task.prompt)?;
    let solved = examples
        .iter()
        .map(|example| Ok((render(example, &task.prompt)?, solution(task, example)?)))
        .collect::<Result<Vec<_>, EvalError>>()?;
    let delimiter = match &task.kind {
        Kind::MultipleChoice(choice) => &choice.answer_prefix,
        Kind::Generate(generate) => &generate.answer_prefix,
    };
    let system = match &task.system {
        Some(template) if is_chat => render(row, template)?,
        _ => String::new(),
    };
    let prompt = if is_chat {
        let mut messages = Vec::new();
        if !system.is_empty() {
            messages.push(message(Role::System, system));
        }
        if task.fewshot.as_multiturn {
            for (question, answer) in solved {
                messages.push(message(Role::User, question));
                messages.push(message(Role::Assistant, answer));
            }
            messages.push(message(Role::User, question));
        } else {
            messages.push(message(Role::User, plain_prompt(&solved, delimiter, &question)));
        }
        model.render_chat(&messages)?
    } else {
        plain_prompt(&solved, delimiter, &question)
    };
    Ok(Item {
        row_id: row.id,
        subset: row.subset.clone(),
        fields: row.fields.clone(),
        prompt,
        is_rendered: is_chat,
        ask: ask(task, row, is_chat)?,
    })
}

fn message(role: Role, content: String) -> Message {
    Message { role, content }
}

fn plain_prompt(solved: &[(String, String)], delimiter: &str, question: &str) -> String {
    let mut prompt = String::new();
    for (question, answer) in solved {
        prompt.push_str(&format!("{question}{delimiter}{answer}{FEWSHOT_DELIMITER}"));
    }
    prompt.push_str(question);
    prompt
}

/// The reply up to the question that a model may make up and go on with: the words that the task's prompts open with, after
/// the delimiter of solved examples. A prompt that opens with less than a sign or three words is not looked for.
pub(crate) fn before_next_question<'a>(task: &Task, reply: &'a str) -> &'a str {
    let opening = task.prompt.source().split(['{', '\n']).next().unwrap_or_default().trim();
    let is_distinct = opening.ends_with(':') || opening.split_whitespace().count() >= 3;
    let next = reply.find(&format!("{FEWSHOT_DELIMITER}{opening}")).filter(|_| is_distinct);
    &reply[..next.unwrap_or(reply.len())]
}

fn render(row: &Row, template: &Template) -> Result<String, EvalError> {
    template.render(&row.fields).map_err(|error| row.error(template.source(), error.to_string()))
}

fn choose_examples<'a>(
    task: &Task,
    loaded: &'a Loaded,
    row: &Row,
    options: PromptOptions,
) -> Result<Vec<&'a Row>, EvalError> {
    let count = options.num_fewshot.unwrap_or(task.fewshot.num);
    if count == 0 {
        return Ok(Vec::new());
    }
    let key = row.subset.as_deref().unwrap_or_default();
    let source = loaded.fewshot.get(key).or_else(|| loaded.pool.get(key));
    let others: Vec<&Row> = source
        .into_iter()
        .flatten()
        .filter(|other| (&other.path, other.line, other.id) != (&row.path, row.line, row.id))
        .collect();
    if others.len() < count {
        return Err(row.error("num_fewshot", format!("asks for {count} solved examples, there are {}", others.len())));
    }
    match task.fewshot.rule {
        FewshotRule::First => Ok(others[..count].to_vec()),
        FewshotRule::Sampled => {
            let seed = seed_of(&format!("{}\u{1}{}\u{1}{}", options.seed, task.name, row.id));
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            Ok(others.sample(&mut generator, count).copied().collect())
        }
    }
}

/// What a solved example shows as its answer.
fn solution(task: &Task, row: &Row) -> Result<String, EvalError> {
    match &task.kind {
        Kind::MultipleChoice(choice) => {
            let texts = choice_texts(choice, row)?;
            let gold = gold_index(choice, row, &texts)?;
            Ok(texts[gold].clone())
        }
        Kind::Generate(generate) => match generate.fewshot_answer.as_ref().or(generate.gold.as_ref()) {
            Some(template) => render(row, template),
            None => Err(row.error("generate.gold", "solved examples need an answer to show")),
        },
    }
}

fn ask(task: &Task, row: &Row, is_chat: bool) -> Result<Ask, EvalError> {
    match &task.kind {
        Kind::MultipleChoice(choice) => {
            let texts = choice_texts(choice, row)?;
            let gold = gold_index(choice, row, &texts)?;
            let prefix = if is_chat { String::new() } else { choice.answer_prefix.clone() };
            Ok(Ask::Choices { texts, prefix, gold })
        }
        Kind::Generate(generate) => {
            let gold = match &generate.gold {
                None => String::new(),
                Some(template) => {
                    let written = render(row, template)?;
                    let gold = extract(&generate.gold_extract, &written)
                        .ok_or_else(|| row.error("generate.gold_extract", format!("finds nothing in {written:?}")))?;
                    as_answer(&generate.extract, &gold)
                        .map_err(|problem| row.error("generate.gold", format!("{gold:?} {problem}")))?
                }
            };
            let mut checks = generate.checks.clone();
            if let Some(field) = &generate.checks_from {
                checks.extend(row_checks(field, row)?);
            }
            Ok(Ask::Reply { gold, checks })
        }
    }
}

fn row_checks(field: &str, row: &Row) -> Result<Vec<Check>, EvalError> {
    let value =
        lookup(&row.fields, field).ok_or_else(|| row.error(field, "is absent; a rule or a list of rules is needed"))?;
    let rules = match value {
        Value::Array(rules) => rules.clone(),
        rule => vec![rule.clone()],
    };
    let parse =
        |rule: Value| serde_json::from_value(rule).map_err(|error| row.error(field, plain_words(&error.to_string())));
    rules.into_iter().map(parse).collect()
}

fn choice_texts(choice: &MultipleChoice, row: &Row) -> Result<Vec<String>, EvalError> {
    let (field, texts) = match (&choice.choices, &choice.choices_from) {
        (Some(templates), _) => {
            ("choices", templates.iter().map(|template| render(row, template)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, from) => {
            let field = from.as_deref().unwrap_or("choices");
            let items = lookup(&row.fields, field)
                .and_then(Value::as_array)
                .ok_or_else(|| row.error(field, "is not a list of choices"))?;
            let text = |item| scalar(field, item).map_err(|error| row.error(field, plain_words(&error.to_string())));
            (field, items.iter().map(text).collect::<Result<Vec<_>, _>>()?)
        }
    };
    if texts.is_empty() {
        return Err(row.error(field, "has no choices"));
    }
    match texts.iter().position(String::is_empty) {
        Some(index) => Err(row.error(field, format!("choice {} is empty", letter(index)))),
        None => Ok(texts),
    }
}

fn gold_index(choice: &MultipleChoice, row: &Row, texts: &[String]) -> Result<usize, EvalError> {
    let field = choice.gold.as_str();
    let value = lookup(&row.fields, field).filter(|value| !value.is_null());
    let value = value.ok_or_else(|| row.error(field, "the right answer is missing"))?;
    let written = scalar(field, value).map_err(|error| row.error(field, plain_words(&error.to_string())))?;
    let found = match choice.gold_is {
        GoldIs::Index => written.trim().parse::<usize>().ok().filter(|index| *index < texts.len()),
        GoldIs::Letter => (0..texts.len()).find(|index| letter(*index).eq_ignore_ascii_case(written.trim())),
        GoldIs::Text => texts.iter().position(|text| text.trim() == written.trim()),
    };
    found.ok_or_else(|| {
        let kind = match choice.gold_is {
            GoldIs::Index => "an index",
            GoldIs::Letter => "a letter",
            GoldIs::Text => "the text of one",
        };
        row.error(field, format!("{written:?} is not {kind} of the {} choices", texts.len()))
    })
}
