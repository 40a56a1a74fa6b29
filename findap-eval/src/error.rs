//! The one error type of this crate.

use std::path::PathBuf;

/// What can go wrong between a task file and a report.
///
/// Every variant names the place (file and line, task and document) and what was expected there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason the system gave.
        source: std::io::Error,
    },
    /// The journal of answers cannot be read or written.
    #[error(transparent)]
    Journal(#[from] findap_data::DataError),
    /// A file of rows cannot be read.
    #[error(transparent)]
    Data(findap_data::DataError),
    /// The caller did not want to go on.
    #[error("the evaluation was stopped; the same command goes on from its journal")]
    Stopped,
    /// A task file is not the TOML that the schema asks for.
    #[error("{file}:{line}: {problem}{}", hint(nearest))]
    TaskSyntax {
        /// File name, or the name of a built-in task.
        file: String,
        /// 1-based line; 0 where the parser could not tell.
        line: usize,
        /// What is wrong, naming the key.
        problem: String,
        /// The known key or value that is spelt most like the unknown one.
        nearest: Option<String>,
    },
    /// A task file parses but asks for something impossible.
    #[error("{file}: task {task}: {field}: {problem}")]
    TaskInvalid {
        /// File name, or the name of a built-in task.
        file: String,
        /// Name of the task.
        task: String,
        /// The key at fault.
        field: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// No task or group has the name that was asked for.
    #[error("no task or group is called {name:?}{}", hint(nearest))]
    UnknownTask {
        /// What was asked for: a name, a glob or an `@group`.
        name: String,
        /// The known name that is spelt most like it.
        nearest: Option<String>,
    },
    /// A task is described, but no score of it can be given.
    #[error("task {task} is not run: {reason}")]
    TaskRefused {
        /// Name of the task.
        task: String,
        /// Why, as its file says.
        reason: String,
    },
    /// A dataset path starts with a root that was not given.
    #[error("task {task}: dataset {path:?} needs the data root {root:?}, which was not given (known roots: {known})")]
    UnknownDataRoot {
        /// Name of the task.
        task: String,
        /// The path as the task writes it.
        path: String,
        /// The part before the colon.
        root: String,
        /// The roots that were given, comma separated.
        known: String,
    },
    /// Files of some tasks are not there.
    #[error(
        "the data of {} of the tasks are missing: {}. Say where they lie: `NAME = \"FOLDER\"` in the table `eval.data` of a recipe, or \
`--data NAME=FOLDER`, for a path `NAME:FILE` of a task; `findap tasks TASK` shows its path",
        missing.len(),
        missing.join("; ")
    )]
    MissingData {
        /// Task and file, one for each task.
        missing: Vec<String>,
    },
    /// A row of a dataset cannot be used.
    #[error("{}:{line}: {field}: {problem}", path.display())]
    Row {
        /// The dataset file.
        path: PathBuf,
        /// 1-based line, 1-based element of a JSON array, or 1-based row of a Parquet file.
        line: usize,
        /// The field at fault; `row` for the row as a whole.
        field: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A choice does not fit the model's context even with nothing before it.
    #[error("a continuation has {tokens} tokens but the model's context holds {max_tokens}: {text:?}")]
    ContinuationTooLong {
        /// Tokens of the continuation.
        tokens: usize,
        /// Tokens that the model can read.
        max_tokens: usize,
        /// Its first characters.
        text: String,
    },
    /// A choice has no token of its own behind its context: its score would be 0, that of what is certain.
    #[error(
        "{place}the choice {continuation:?} is part of the last token before it, so that nothing of it is left to score; separate \
         the two, by `answer_prefix` or in the prompt"
    )]
    NoContinuationToken {
        /// Task and row, `task t, row 3: `; empty where a request was made without one.
        place: String,
        /// The choice.
        continuation: String,
    },
    /// A task asks for as many new tokens as the context holds, leaving none for the prompt.
    #[error(
        "task {task}: generate.max_new_tokens: {max_new_tokens} new tokens leave no room for a prompt in the model's context of \
         {max_tokens}"
    )]
    NoRoomForPrompt {
        /// Name of the task; empty where a request was made without one.
        task: String,
        /// New tokens asked for.
        max_new_tokens: usize,
        /// Tokens that the model can read.
        max_tokens: usize,
    },
    /// The model failed.
    #[error("model {model}: {operation}: {reason}")]
    Model {
        /// Name of the model.
        model: String,
        /// What it was asked to do.
        operation: &'static str,
        /// Its own message.
        reason: String,
    },
    /// The replies of a task are judged, and there is no judge.
    #[error("task {task} is not run: {}", crate::task::NEEDS_JUDGE)]
    NoJudge {
        /// Name of the task.
        task: String,
    },
    /// The judge failed.
    #[error("judge {judge}: {problem}")]
    Judge {
        /// Name of the judge.
        judge: String,
        /// What went wrong.
        problem: String,
    },
    /// Saved answers cannot be scored by a task.
    #[error("task {task} {problem}: its saved answers cannot be scored anew; ask the model")]
    Rescore {
        /// Name of the task.
        task: String,
        /// What differs.
        problem: String,
    },
    /// A results folder, samples file or run folder does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Results {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

impl EvalError {
    /// Wraps a system error with the path it happened on.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
