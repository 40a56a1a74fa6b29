//! What is wrong with a recipe, and where.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use findap_data::spelling::nearest;
use findap_model::ModelError;
use thiserror::Error;

/// What is wrong with a recipe. Each variant names the file and the key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file cannot be read.
    #[error("{path}: cannot read the recipe: {source}")]
    Read {
        /// The recipe.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It is not TOML.
    #[error("{path}:{line}: not valid TOML: {message}")]
    Syntax {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A key that no recipe has.
    #[error("{path}{}: unknown key `{key}`{}", at(.line), suggest(.nearest, .known))]
    UnknownKey {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1; `None` for a key that came by `--set`.
        line: Option<usize>,
        /// The full key, array members by their name: `stage.group1.learning_rat`.
        key: String,
        /// The nearest known key of that table.
        nearest: Option<String>,
        /// All known keys of that table.
        known: Vec<String>,
    },
    /// A key that must be there is not.
    #[error("{path}{}: `{key}` is missing: {hint}", at(.line))]
    Missing {
        /// The recipe.
        path: PathBuf,
        /// Line of the table, from 1.
        line: Option<usize>,
        /// The full key.
        key: String,
        /// What to write.
        hint: String,
    },
    /// A value of the wrong type, out of range, or at odds with another.
    #[error("{path}{}: `{key}`: {problem}", at(.line))]
    Invalid {
        /// The recipe.
        path: PathBuf,
        /// Line, from 1; `None` for a key that came by `--set` or by default.
        line: Option<usize>,
        /// The full key.
        key: String,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// Rows longer than the model's positions.
    #[error(
        "stage `{stage}`: context_tokens = {context_tokens}, but the model has {max_positions} positions; set it to at most that many"
    )]
    Context {
        /// The stage.
        stage: String,
        /// What the recipe wants.
        context_tokens: usize,
        /// `max_position_embeddings` of the model.
        max_positions: usize,
    },
    /// The rule of the closed world as the judge of other exercises, whose answers it would compare letter by letter.
    #[error(
        "stage `{stage}`: judge = \"world\" is the rule for exercises of the closed world, of which this recipe has none; name a \
         server: judge = {{ url = \"http://localhost:8000/v1\", model = \"NAME\" }}"
    )]
    JudgeOfNoWorld {
        /// The stage.
        stage: String,
    },
    /// A selection of parameters or an adapter that the model cannot obey.
    #[error("stage `{stage}`: `{}`: {source}", selecting_key(source))]
    Trainable {
        /// The stage.
        stage: String,
        /// The model's words.
        source: Box<ModelError>,
    },
    /// A run folder whose name no recipe can hold.
    #[error("{}: the name of a run folder must be UTF-8", folder.display())]
    FolderName {
        /// The folder.
        folder: PathBuf,
    },
    /// An override that cannot be applied.
    #[error("{flag} {key}: {problem}")]
    Override {
        /// `--set` or `--unset`.
        flag: &'static str,
        /// The key as given.
        key: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a value is, in words of people who write recipes.
pub(super) fn kind_of(value: &toml::Value) -> &'static str {
    match value {
        toml::Value::String(_) => "text",
        toml::Value::Integer(_) | toml::Value::Float(_) => "a number",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    }
}

fn at(line: &Option<usize>) -> String {
    line.map_or_else(String::new, |line| format!(":{line}"))
}

/// The key of a stage whose value a model could not obey.
fn selecting_key(source: &ModelError) -> &'static str {
    if matches!(source, ModelError::Adapter { .. }) { "lora" } else { "trainable" }
}

fn suggest(nearest: &Option<String>, known: &[String]) -> String {
    match nearest {
        Some(nearest) => format!("; did you mean `{nearest}`?"),
        None => format!("; known keys here: {}", known.join(", ")),
    }
}

/// Where the keys of a recipe stand: makes errors that name file and line.
pub(super) struct Origin<'a> {
    pub(super) path: &'a Path,
    /// Full key to line, members of arrays of tables by name.
    pub(super) lines: BTreeMap<String, usize>,
}

impl Origin<'_> {
    pub(super) fn unknown(&self, table: &str, key: &str, known: &[&str]) -> RecipeError {
        let full = join(table, key);
        RecipeError::UnknownKey {
            path: self.path.into(),
            line: self.line(&full),
            nearest: nearest(key, known.iter().copied()),
            known: known.iter().map(|name| (*name).to_owned()).collect(),
            key: full,
        }
    }

    pub(super) fn missing(&self, key: &str, hint: &str) -> RecipeError {
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        RecipeError::Missing {
            path: self.path.into(),
            line: self.line(table),
            key: key.to_owned(),
            hint: hint.to_owned(),
        }
    }

    pub(super) fn invalid(&self, key: &str, problem: String) -> RecipeError {
        RecipeError::Invalid { path: self.path.into(), line: self.line(key), key: key.to_owned(), problem }
    }

    fn line(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied()
    }

    pub(super) fn require(&self, holds: bool, key: &str, problem: &str) -> Result<(), RecipeError> {
        if holds { Ok(()) } else { Err(self.invalid(key, problem.to_owned())) }
    }
}

/// The full key of `key` in a table.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}
