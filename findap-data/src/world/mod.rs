//! A closed world for a demonstration whose answers are known to the generator and not to the model.
//!
//! The general half (towns, people, animals, tools, word problems, everyday requests) is what the base model knows. The
//! finance half (companies, funds, terms, tasks on news and filings, exam exercises) is to be learnt. Facts are told in
//! texts in many wordings; conversations ask for the facts of some entities, the evaluation for those of others, so a
//! right answer means that text was read and asking was learnt. Everything follows from one seed.
//!
//! | file | holds |
//! |---|---|
//! | `general_text.jsonl`, `finance_text.jsonl` | `{"text"}`: texts for continued pre-training |
//! | `general_chat.jsonl`, `finance_chat.jsonl` | `{"messages"}`: conversations |
//! | `finance_books.jsonl`, `finance_exercises.jsonl` | what the second curriculum group adds: texts, solved exercises |
//! | `*_dev.jsonl` | the same for the development loss |
//! | `exercises.jsonl` | [`Exercise`]s for preference distillation |
//! | `finance_cases.jsonl`, `cases.jsonl` | where the sizes ask for them: harder exercises, solved and for preference distillation |
//! | `eval/*.jsonl` | one file per evaluation task |
//!
//! Design: Allen-Zhu and Li, "Physics of language models" part 3.1 (knowledge must be told in several wordings, and asking
//! must be learnt on other facts of the same kind, before it can be asked for).

mod case;
mod chat;
mod document;
mod draw;
mod evaluation;
mod exercise;
mod facts;
pub mod judge;
mod names;
mod task;
mod tokenizer;

#[cfg(test)]
mod tests;

pub use exercise::Sum;
pub use facts::{Attribute, Entity, FRAMES, KINDS, Kind, Population, Split};
pub use tokenizer::{SPECIAL_TOKENS, train_tokenizer};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use case::{Scope, case_exercise};
use chat::{Talk, conversation, solved};
use draw::Draw;
use evaluation::Exam;
use exercise::{Level, Topic, exam_exercise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::Domain;
use crate::files::write_whole;
use crate::reward_model::Exercise;

/// Goes up whenever the same sizes give other files.
pub const VERSION: u32 = 2;

/// Sizes of a world. The same seed and entities per kind give the same entities and facts, whatever the other sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorldConfig {
    /// Everything follows from it.
    pub seed: u64,
    /// Invented entities of each kind of the general half; 3/8 of them are for evaluation, 1/8 for development.
    pub entities_per_kind: usize,
    /// Invented entities of each kind of the finance half, divided in the same way.
    pub finance_entities_per_kind: usize,
    /// Texts of the general half.
    pub general_texts: usize,
    /// Texts of the finance half.
    pub finance_texts: usize,
    /// Conversations of the general half.
    pub general_chats: usize,
    /// Conversations of the finance half.
    pub finance_chats: usize,
    /// Pages of finance books.
    pub finance_books: usize,
    /// Finance exercises with solutions.
    pub finance_exercises: usize,
    /// Exercises for preference distillation.
    pub distill_exercises: usize,
    /// Case exercises with solutions: harder ones, with four to seven steps, larger numbers, tables, and numbers that are beside the
    /// point. With any cases there are two more evaluation files, of cases as in training and of harder ones. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub finance_cases: usize,
    /// Case exercises for preference distillation. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub distill_cases: usize,
    /// Rows of each development file.
    pub dev_rows: usize,
    /// Most questions per evaluation file.
    pub eval_items: usize,
}

/// A size that is not asked for is not written down, so that a world made before there was this key is the same world.
fn is_zero(size: &usize) -> bool {
    *size == 0
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            entities_per_kind: 40,
            finance_entities_per_kind: 40,
            general_texts: 3000,
            finance_texts: 5000,
            general_chats: 3500,
            finance_chats: 2000,
            finance_books: 600,
            finance_exercises: 2000,
            distill_exercises: 150,
            finance_cases: 0,
            distill_cases: 0,
            dev_rows: 60,
            eval_items: 100,
        }
    }
}

impl WorldConfig {
    /// Whether a world can be made of it.
    ///
    /// # Errors
    /// [`WorldError::TooSmall`].
    pub fn check(&self) -> Result<(), WorldError> {
        let least = [
            ("entities_per_kind", 8, self.entities_per_kind),
            ("finance_entities_per_kind", 8, self.finance_entities_per_kind),
            ("eval_items", 1, self.eval_items),
            ("dev_rows", 1, self.dev_rows),
        ];
        match least.into_iter().find(|(_, least, got)| got < least) {
            Some((field, least, got)) => Err(WorldError::TooSmall { field, least, got }),
            None => Ok(()),
        }
    }
}

/// What went wrong while a world was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// A size leaves a part of the world empty.
    #[error("world: {field} must be at least {least}, but is {got}")]
    TooSmall {
        /// The key.
        field: &'static str,
        /// What it must be at least.
        least: usize,
        /// What it is.
        got: usize,
    },
    /// A file could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row could not be read.
    #[error("{path}, line {line}: {source}")]
    Row {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What does not fit.
        source: serde_json::Error,
    },
    /// The tokenizer could not be trained or written.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What the tokenizers crate said.
        reason: String,
    },
}

/// One file of a world.
#[derive(Debug, Clone, PartialEq)]
pub struct WorldFile {
    /// Path below the world's folder, with `/`.
    pub name: String,
    /// One JSON object per line.
    pub rows: Vec<Value>,
}

/// Makes a world and writes its files into `folder`, which is made where it is missing. Each file appears whole or not at
/// all. Returns their paths.
///
/// # Errors
/// [`WorldError::TooSmall`], [`WorldError::Io`].
pub fn generate(config: &WorldConfig, folder: &Path) -> Result<Vec<PathBuf>, WorldError> {
    let mut paths = Vec::new();
    for file in files(config)? {
        let path = folder.join(&file.name);
        let mut text = String::new();
        for row in &file.rows {
            text.push_str(&row.to_string());
            text.push('\n');
        }
        write_whole(&path, text.as_bytes()).map_err(|source| WorldError::Io { path: path.clone(), source })?;
        paths.push(path);
    }
    Ok(paths)
}

/// Makes the files of a world in memory.
///
/// # Errors
/// [`WorldError::TooSmall`].
pub fn files(config: &WorldConfig) -> Result<Vec<WorldFile>, WorldError> {
    config.check()?;
    let general = general_half(config);
    let finance = finance_half(config);
    let train_companies = companies(&finance, Split::Train);
    let test_companies = companies(&finance, Split::Test);
    let draw = |purpose: &str| Draw::new(config.seed, purpose);

    let text_file = |name: &str, texts: Vec<String>| WorldFile {
        name: name.to_owned(),
        rows: texts.into_iter().map(|text| json!({"text": text})).collect(),
    };
    let texts = |name: &str, domain, populations, num| {
        text_file(name, document::texts(&mut draw(name), domain, populations, num))
    };
    let chats = |name: &str, domain, populations, split, num| {
        let talk = Talk { domain, populations, companies: &train_companies, split };
        let mut draw = draw(name);
        let rows = (0..num).map(|_| json!({"messages": conversation(&mut draw, &talk)})).collect();
        WorldFile { name: name.to_owned(), rows }
    };
    let exercises = |name: &str, num: usize| -> Vec<Exercise> {
        let mut draw = draw(name);
        let mut make = |count: usize| {
            let company = draw.pick(&train_companies).clone();
            let topic = Topic::ALL[count % Topic::ALL.len()];
            exam_exercise(&mut draw, format!("{name}-{count}"), &company, topic, Level::Exam)
        };
        (0..num).map(&mut make).collect()
    };
    let solutions = |name: &str, num| WorldFile {
        name: name.to_owned(),
        rows: exercises(name, num).iter().map(|exercise| json!({"messages": solved(exercise)})).collect(),
    };
    let cases = |name: &str, num: usize| -> Vec<Exercise> {
        let mut draw = draw(name);
        let mut make = |count: usize| {
            let company = draw.pick(&train_companies).clone();
            case_exercise(&mut draw, format!("{name}-{count}"), &company, count, Scope::Usual)
        };
        (0..num).map(&mut make).collect()
    };
    let books = |name: &str, num: usize| {
        let mut draw = draw(name);
        text_file(name, (0..num).map(|_| document::book_page(&mut draw, &train_companies)).collect())
    };

    let (general, finance) = (&general[..], &finance[..]);
    let mut files = vec![
        texts("general_text.jsonl", Domain::General, general, config.general_texts),
        texts("finance_text.jsonl", Domain::Finance, finance, config.finance_texts),
        chats("general_chat.jsonl", Domain::General, general, Split::Train, config.general_chats),
        chats("finance_chat.jsonl", Domain::Finance, finance, Split::Train, config.finance_chats),
        books("finance_books.jsonl", config.finance_books),
        solutions("finance_exercises.jsonl", config.finance_exercises),
        WorldFile {
            name: "exercises.jsonl".to_owned(),
            rows: exercises("exercises.jsonl", config.distill_exercises)
                .iter()
                .map(|exercise| json!(exercise))
                .collect(),
        },
        texts("general_text_dev.jsonl", Domain::General, general, config.dev_rows),
        texts("finance_text_dev.jsonl", Domain::Finance, finance, config.dev_rows),
        chats("general_chat_dev.jsonl", Domain::General, general, Split::Dev, config.dev_rows),
        chats("finance_chat_dev.jsonl", Domain::Finance, finance, Split::Dev, config.dev_rows),
        solutions("finance_exercises_dev.jsonl", config.dev_rows),
    ];
    if config.finance_cases > 0 {
        let rows = cases("finance_cases.jsonl", config.finance_cases);
        let rows = rows.iter().map(|exercise| json!({"messages": solved(exercise)})).collect();
        files.push(WorldFile { name: "finance_cases.jsonl".to_owned(), rows });
    }
    if config.distill_cases > 0 {
        let rows = cases("cases.jsonl", config.distill_cases).iter().map(|exercise| json!(exercise)).collect();
        files.push(WorldFile { name: "cases.jsonl".to_owned(), rows });
    }
    let seen = user_turns(&files);
    let exam = Exam {
        seed: config.seed,
        general,
        finance,
        companies: &test_companies,
        seen: &seen,
        num_items: config.eval_items,
        has_cases: config.finance_cases + config.distill_cases > 0,
    };
    files.extend(exam.files().into_iter().map(|(name, rows)| WorldFile { name: format!("eval/{name}.jsonl"), rows }));
    Ok(files)
}

/// Entities and facts of the general half.
pub fn general_half(config: &WorldConfig) -> Vec<Population> {
    facts::populate(config.seed, Domain::General, config.entities_per_kind, &mut BTreeSet::new())
}

/// Entities and facts of the finance half. Names of the general half are not used again.
pub fn finance_half(config: &WorldConfig) -> Vec<Population> {
    let mut taken = BTreeSet::new();
    facts::populate(config.seed, Domain::General, config.entities_per_kind, &mut taken);
    facts::populate(config.seed, Domain::Finance, config.finance_entities_per_kind, &mut taken)
}

fn companies(finance: &[Population], split: Split) -> Vec<String> {
    let population = finance.iter().find(|population| population.kind.noun == "company");
    population.into_iter().flat_map(|population| population.of(split)).map(|company| company.name.clone()).collect()
}

fn user_turns(files: &[WorldFile]) -> BTreeSet<String> {
    let chats = files.iter().flat_map(|file| &file.rows).filter_map(|row| row.get("messages")?.as_array());
    let user = chats.flatten().filter(|message| message["role"] == "user");
    let questions = user.filter_map(|message| message["content"].as_str());
    let exercises = files.iter().flat_map(|file| &file.rows).filter_map(|row| row.get("question")?.as_str());
    questions.chain(exercises).map(str::to_owned).collect()
}
