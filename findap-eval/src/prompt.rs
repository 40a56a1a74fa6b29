//! From the rows of a task to the exact texts that a model is given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use findap_data::files::{seed_of, sha256};
use findap_data::plain_words::plain_words;
use findap_data::{Message, Role};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use regex::Regex;
use serde_json::{Value, json};

use crate::check::Check;
use crate::dataset::{self, DataRoots, Loaded, Row};
use crate::error::EvalError;
use crate::extract::{as_answer, empty_label, extract_gold, normalize_number, with_labels};
use crate::model::LanguageModel;
use crate::task::{Asks, FewshotRule, Generate, GoldIs, JudgeRule, Kind, MultipleChoice, Task};
use crate::template::{Fields, Template, gather, letter, lookup, scalar};

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
    /// The conversation that the prompt shows, where it goes on behind the reply; else empty.
    pub messages: Vec<Message>,
    /// What is asked.
    pub ask: Ask,
    /// Tells what the row asks from all else that it could ask, before templates and solved examples: SHA-256, hex.
    pub asked_hash: String,
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
        /// Where the choices are put into the prompt, the texts around them.
        blank: Option<FilledBlank>,
    },
    /// Write a reply.
    Reply {
        /// The right answers after their own extraction steps; none where only rules are checked.
        golds: Vec<String>,
        /// How far from each of them a number may lie that rounds to it as the row writes it; empty where that makes no difference.
        roundings: Vec<f64>,
        /// Rules that the reply must keep.
        checks: Vec<Check>,
        /// The labels of this row; none where the task has them.
        labels: Vec<String>,
        /// The lines that a reply of 0s and 1s picks from; none where the task has no such replies.
        lines: Vec<String>,
        /// What the user says after the reply, and after that to it.
        follow_ups: Vec<String>,
        /// What a judge sees beside the reply; none where no judge is asked.
        judged: Option<Judged>,
    },
}

/// What the judge of a row sees beside the replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The question of each turn.
    pub questions: Vec<String>,
    /// The right answer to each, where there is one.
    pub references: Vec<Option<String>>,
}

/// A prompt with a blank, for each choice.
#[derive(Debug, Clone)]
pub struct FilledBlank {
    /// The prompt up to the end of the choice, for each choice.
    pub contexts: Vec<String>,
    /// What follows the blank, the same for each.
    pub rest: String,
}

impl Item {
    /// What identifies what a model is asked: equal keys may share an answer. How the answer is scored is no part of it.
    pub fn key(&self, task: &Task) -> String {
        let asked = match &task.kind {
            Kind::Generate(generate) => json!([self.prompt, generate.stop, generate.max_new_tokens, self.follow_ups()]),
            Kind::MultipleChoice(choice) => json!([self.scored(), choice.token_border]),
        };
        sha256(json!([self.is_rendered, asked]).to_string().as_bytes())
    }

    /// What the user says after the reply, and after that to it.
    pub(crate) fn follow_ups(&self) -> &[String] {
        match &self.ask {
            Ask::Reply { follow_ups, .. } => follow_ups,
            Ask::Choices { .. } => &[],
        }
    }

    /// Context and continuation of each choice; none of a question that asks for a reply.
    pub fn scored(&self) -> Vec<(&str, String)> {
        match &self.ask {
            Ask::Reply { .. } => Vec::new(),
            Ask::Choices { texts, prefix, blank: None, .. } => {
                texts.iter().map(|text| (self.prompt.as_str(), format!("{prefix}{text}"))).collect()
            }
            Ask::Choices { prefix, blank: Some(blank), .. } => {
                blank.contexts.iter().map(|context| (context.as_str(), format!("{prefix}{}", blank.rest))).collect()
            }
        }
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
/// [`EvalError::TaskRefused`], [`EvalError::MissingData`]; as [`dataset::load`] and [`prepare`].
pub fn check(tasks: &[Task], roots: &DataRoots) -> Result<BTreeMap<String, BTreeSet<PathBuf>>, EvalError> {
    let mut files: BTreeMap<String, BTreeSet<PathBuf>> = BTreeMap::new();
    tasks.iter().try_for_each(|task| task.refuse(true))?;
    dataset::require(tasks, roots, None)?;
    for task in tasks {
        let loaded = dataset::load(task, roots, None, task.fewshot.num)?;
        let rows = loaded.rows.iter().chain(loaded.fewshot.values().flatten());
        files.insert(task.name.clone(), rows.map(|row| row.path.clone()).collect());
        let mut subsets = BTreeSet::new();
        for row in &loaded.rows {
            question(task, row)?;
            opening(task, row)?;
            ask(task, row, task.chat)?;
            if subsets.insert(&row.subset) {
                choose_examples(task, &loaded, row, PromptOptions::default())?;
            }
        }
        for example in loaded.fewshot.values().chain(loaded.pool.values()).flatten() {
            solved(task, example)?;
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
    let question = question(task, row)?;
    let solved = examples.iter().map(|example| solved(task, example)).collect::<Result<Vec<_>, _>>()?;
    let opening = opening(task, row)?;
    let ask = ask(task, row, is_chat)?;
    let asked_hash = asked_hash(task, &opening, &question, &ask);
    let whole = |question: &str| match is_chat {
        true => {
            let prompt = model.render_chat(&conversation(task, &opening, &solved, question))?;
            let last_line = question.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
            match prompt.contains(last_line) {
                true => Ok(prompt),
                false => Err(row.error(
                    "chat template",
                    format!("does not print the question: {last_line:?} is not in {prompt:?}"),
                )),
            }
        }
        false => Ok(opening.description.clone() + &plain_prompt(task, &solved, question)),
    };
    let ask = match ask {
        Ask::Choices { texts, prefix, gold, blank: Some(blank) } => {
            let contexts = blank.contexts.iter().map(|context| whole(context)).collect::<Result<_, _>>()?;
            Ask::Choices { texts, prefix, gold, blank: Some(FilledBlank { contexts, ..blank }) }
        }
        ask => ask,
    };
    Ok(Item {
        row_id: row.id,
        subset: row.subset.clone(),
        fields: row.fields.clone(),
        prompt: whole(&question)?,
        is_rendered: is_chat,
        messages: match &ask {
            Ask::Reply { follow_ups, .. } if !follow_ups.is_empty() => conversation(task, &opening, &solved, &question),
            _ => Vec::new(),
        },
        asked_hash,
        ask,
    })
}

/// What a row asks, for a prompt that was written before, and its hash.
pub(crate) fn asked_again(task: &Task, row: &Row, is_chat: bool) -> Result<(Ask, String), EvalError> {
    let ask = ask(task, row, is_chat)?;
    let hash = asked_hash(task, &opening(task, row)?, &question(task, row)?, &ask);
    Ok((ask, hash))
}

fn asked_hash(task: &Task, opening: &Opening, question: &str, ask: &Ask) -> String {
    let asked = match (ask, &task.kind) {
        (Ask::Choices { texts, prefix, blank, .. }, Kind::MultipleChoice(choice)) => {
            json!([texts, prefix, blank.is_some(), choice.token_border])
        }
        (Ask::Reply { follow_ups, .. }, Kind::Generate(generate)) => {
            json!([follow_ups, generate.stop, generate.max_new_tokens])
        }
        _ => unreachable!("invariant: a task asks what its kind says"),
    };
    sha256(json!([opening.system, opening.description, question, asked]).to_string().as_bytes())
}

/// What stands before the first question.
struct Opening {
    system: String,
    description: String,
}

fn opening(task: &Task, row: &Row) -> Result<Opening, EvalError> {
    let text = |template: &Option<Template>| template.as_ref().map_or(Ok(String::new()), |text| render(row, text));
    Ok(Opening { system: text(&task.system)?, description: text(&task.description)? })
}

/// A question as a solved example: what is asked, and what is answered.
fn solved(task: &Task, row: &Row) -> Result<(String, String), EvalError> {
    if let Kind::MultipleChoice(choice) = &task.kind
        && let Some(blank) = &choice.blank
    {
        let texts = choice_texts(task, choice, row)?;
        let filled = fill(task, row, blank, &texts)?;
        return Ok((filled.contexts[gold_index(choice, row, &texts)?].clone(), filled.rest));
    }
    Ok((question(task, row)?, solution(task, row)?))
}

/// What the chat template is given.
fn conversation(task: &Task, opening: &Opening, solved: &[(String, String)], question: &str) -> Vec<Message> {
    let mut messages = Vec::new();
    let system = [opening.system.as_str(), opening.description.trim_end()];
    let system: Vec<&str> = system.into_iter().filter(|text| !text.is_empty()).collect();
    if !system.is_empty() {
        messages.push(message(Role::System, system.join("\n\n")));
    }
    if task.fewshot.as_multiturn {
        for (question, answer) in solved {
            messages.push(message(Role::User, question.clone()));
            messages.push(message(Role::Assistant, answer.clone()));
        }
        messages.push(message(Role::User, question.to_owned()));
    } else {
        messages.push(message(Role::User, plain_prompt(task, solved, question)));
    }
    messages
}

fn message(role: Role, content: String) -> Message {
    Message { role, content }
}

/// Solved examples and the question, without a chat template.
fn plain_prompt(task: &Task, solved: &[(String, String)], question: &str) -> String {
    let delimiter = match &task.kind {
        Kind::MultipleChoice(choice) => &choice.answer_prefix,
        Kind::Generate(generate) => &generate.answer_prefix,
    };
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

/// The prompt of a row, cleaned as the task says.
fn question(task: &Task, row: &Row) -> Result<String, EvalError> {
    Ok(cleaned(task, render(row, &task.prompt)?))
}

fn cleaned(task: &Task, text: String) -> String {
    task.replace.iter().fold(text, |text, part| part.pattern.replace_all(&text, &part.with).into_owned())
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
            let texts = choice_texts(task, choice, row)?;
            let gold = gold_index(choice, row, &texts)?;
            Ok(texts[gold].clone())
        }
        Kind::Generate(generate) => match generate.fewshot_answer.as_ref().or(generate.gold.as_ref()) {
            Some(template) => Ok(cleaned(task, render(row, template)?)),
            None => match written_golds(generate, row)?.into_iter().next() {
                Some(gold) => Ok(gold),
                None => Err(row.error("generate.gold", "solved examples need an answer to show")),
            },
        },
    }
}

fn ask(task: &Task, row: &Row, is_chat: bool) -> Result<Ask, EvalError> {
    match &task.kind {
        Kind::MultipleChoice(choice) => {
            let texts = choice_texts(task, choice, row)?;
            let gold = gold_index(choice, row, &texts)?;
            let prefix = if is_chat { String::new() } else { choice.answer_prefix.clone() };
            let blank = choice.blank.as_ref().map(|blank| fill(task, row, blank, &texts)).transpose()?;
            Ok(Ask::Choices { texts, prefix, gold, blank })
        }
        Kind::Generate(generate) => {
            let labels = match &generate.labels_from {
                Some(field) => texts_of(field, row, "labels")?,
                None => Vec::new(),
            };
            if let Some(problem) = empty_label(&labels) {
                return Err(row.error(generate.labels_from.as_deref().unwrap_or("labels"), problem));
            }
            let steps = with_labels(&generate.extract, &labels);
            let written = written_golds(generate, row)?;
            let golds = written.iter().map(|written| {
                let gold = extract_gold(&generate.gold_extract, written)
                    .map_err(|problem| row.error("generate.gold_extract", problem))?;
                as_answer(&steps, &gold).map_err(|problem| row.error("generate.gold", format!("{gold:?} {problem}")))
            });
            let golds = golds.collect::<Result<Vec<_>, EvalError>>()?;
            let roundings = match generate.tolerance_rounding {
                true => written.iter().zip(&golds).map(|(written, gold)| half_last_decimal(written, gold)).collect(),
                false => Vec::new(),
            };
            let lines = match &generate.lines_from {
                Some(field) => lines_of(field, row)?,
                None => Vec::new(),
            };
            let mut checks = generate.checks.clone();
            if let Some(field) = &generate.checks_from {
                checks.extend(row_checks(field, row)?);
            }
            let follow_ups = generate.follow_ups.iter().map(|text| render(row, text)).collect::<Result<Vec<_>, _>>()?;
            let judged = task.judge.as_ref().map(|rule| judged(task, rule, row, &follow_ups)).transpose()?;
            Ok(Ask::Reply { golds, roundings, checks, labels, lines, follow_ups, judged })
        }
    }
}

/// Half of the last decimal of the figure in a written right answer that `gold` was read from, in the unit of `gold`; 0 for a whole
/// number, which need not have been rounded.
fn half_last_decimal(written: &str, gold: &str) -> f64 {
    static DECIMALS: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\d[\d,]*\.(\d+)").expect("invariant: a valid constant pattern"));
    let Ok(gold) = normalize_number(gold).parse::<f64>() else { return 0.0 };
    let of_figure = |found: regex::Captures<'_>| {
        let value: f64 = found[0].replace(',', "").parse().ok()?;
        // A scale word or a percent sign moves the point.
        let unit = if value == 0.0 { 1.0 } else { gold.abs() / value };
        let is_unit = (unit.log10() - unit.log10().round()).abs() < 1e-9;
        // A little more: halves are seldom exact in binary.
        is_unit.then(|| 0.5 * unit * 0.1_f64.powf(found[1].len() as f64) * (1.0 + 1e-9))
    };
    DECIMALS.captures_iter(written).filter_map(of_figure).last().unwrap_or(0.0)
}

/// What the judge sees of a row.
fn judged(task: &Task, rule: &JudgeRule, row: &Row, follow_ups: &[String]) -> Result<Judged, EvalError> {
    let first = match &rule.question {
        Some(template) => render(row, template)?,
        None => question(task, row)?,
    };
    let written = |template: Option<&Template>| -> Result<Option<String>, EvalError> {
        let text = template.map(|template| render(row, template)).transpose()?;
        Ok(text.filter(|text| !text.trim().is_empty()))
    };
    let mut references = vec![written(rule.reference.as_ref())?];
    if rule.asks == Asks::Agreement && references[0].is_none() {
        return Err(row.error("judge.reference", "is empty, so that there is nothing to agree with"));
    }
    for turn in 0..follow_ups.len() {
        references.push(written(rule.follow_up_references.get(turn))?);
    }
    Ok(Judged { questions: std::iter::once(first).chain(follow_ups.iter().cloned()).collect(), references })
}

/// The right answers as the row has them.
fn written_golds(generate: &Generate, row: &Row) -> Result<Vec<String>, EvalError> {
    match (&generate.gold, &generate.gold_from) {
        (Some(template), _) => Ok(vec![render(row, template)?]),
        (None, Some(field)) => texts_of(field, row, "right answers"),
        (None, None) => Ok(Vec::new()),
    }
}

/// The prompt cut at its blank, with each choice in its place.
fn fill(task: &Task, row: &Row, blank: &str, texts: &[String]) -> Result<FilledBlank, EvalError> {
    let question = question(task, row)?;
    let problem = |problem: &str| row.error(task.prompt.source(), format!("{problem} {blank:?}: {question:?}"));
    let Some((before, rest)) = question.split_once(blank) else { return Err(problem("has no blank")) };
    if rest.contains(blank) {
        return Err(problem("has more than one blank"));
    }
    match rest.trim() {
        "" => Err(problem("has nothing to be scored after the blank")),
        rest => Ok(FilledBlank {
            contexts: texts.iter().map(|text| format!("{before}{text}")).collect(),
            rest: rest.to_owned(),
        }),
    }
}

fn lines_of(field: &str, row: &Row) -> Result<Vec<String>, EvalError> {
    let value = lookup(&row.fields, field).ok_or_else(|| row.error(field, "is absent; a text of lines is needed"))?;
    let text = scalar(field, value).map_err(|error| row.error(field, error.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// A field that is a list of texts, and not an empty one.
fn texts_of(field: &str, row: &Row, what: &str) -> Result<Vec<String>, EvalError> {
    let value = gather(&row.fields, field);
    let items = value
        .as_deref()
        .and_then(Value::as_array)
        .ok_or_else(|| row.error(field, format!("is not a list of {what}")))?;
    if items.is_empty() {
        return Err(row.error(field, format!("has no {what}")));
    }
    let text = |item| scalar(field, item).map_err(|error| row.error(field, plain_words(&error.to_string())));
    items.iter().map(text).collect()
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

fn choice_texts(task: &Task, choice: &MultipleChoice, row: &Row) -> Result<Vec<String>, EvalError> {
    let (field, texts) = match (&choice.choices, &choice.choices_from) {
        (Some(templates), _) => {
            ("choices", templates.iter().map(|template| render(row, template)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, from) => {
            let field = from.as_deref().unwrap_or("choices");
            (field, texts_of(field, row, "choices")?)
        }
    };
    let texts: Vec<String> = texts.into_iter().map(|text| cleaned(task, text)).collect();
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
    let written = written.trim();
    let number = || written.parse::<usize>().ok();
    let (found, kind) = match choice.gold_is {
        GoldIs::Index => (number(), "an index"),
        GoldIs::Number => (number().and_then(|number| number.checked_sub(1)), "a number from 1"),
        GoldIs::Letter => ((0..texts.len()).find(|index| letter(*index).eq_ignore_ascii_case(written)), "a letter"),
        GoldIs::Text => (texts.iter().position(|text| text.trim() == written), "the text of one"),
        GoldIs::Label => {
            (choice_labels(choice, row, texts)?.iter().position(|label| label.trim() == written), "a label")
        }
    };
    let problem = || row.error(field, format!("{written:?} is not {kind} of the {} choices", texts.len()));
    found.filter(|index| *index < texts.len()).ok_or_else(problem)
}

fn choice_labels(choice: &MultipleChoice, row: &Row, texts: &[String]) -> Result<Vec<String>, EvalError> {
    let (field, labels) = match (&choice.labels, &choice.labels_from) {
        (Some(labels), _) => ("multiple_choice.labels", labels.clone()),
        (None, from) => {
            let field = from.as_deref().unwrap_or("labels");
            (field, texts_of(field, row, "labels")?)
        }
    };
    match labels.len() == texts.len() {
        true => Ok(labels),
        false => Err(row.error(field, format!("has {} labels for {} choices", labels.len(), texts.len()))),
    }
}
