//! Source files to records, one at a time.
//!
//! Formats: JSON lines, a JSON array, CSV with a header, plain text, each also packed by gzip or zstd, and Parquet. Schemas are
//! recognised by their fields: `text`; `messages` (role, content); ShareGPT `conversations` (from, value); alpaca (`instruction`,
//! `input`, `output`, `history`); `prompt` + `completion`; preferences (`prompt`, `chosen`, `rejected`, as texts or message lists; the prompt may be repeated in the
//! answers, be implicit, or be `instruction` and `input`; texts of turns of `Human:` and `Assistant:` are conversations); tokenised rows (`ids`, `mask`); packed rows (`docs`); tokenised pairs
//! (`prompt_ids`, `chosen_ids`, `rejected_ids`). Other names are mapped with [`ReadOptions::columns`].
//!
//! A row's `system` is its system turn. A turn may be left out of the loss (`weight` 0, `train` false, `masked` true, ...). What a
//! row says beyond that and would change what is learnt, such as `tools` or `reasoning_content`, is refused by name where it is not
//! empty. A row whose text, answer or turn is null is [`Record::Empty`].
//!
//! Memory: one record, one CSV row, one element of a JSON array or one Parquet batch.

#[cfg(feature = "parquet")]
mod cell;
mod csv_file;
mod fields;
mod input;
mod json;
mod json_array;
#[cfg(feature = "parquet")]
mod parquet_file;
pub mod paths;
mod preference;
mod record;
mod refused;
mod request;
mod text_file;
mod transcript;
mod turn;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::fields::FIELDS;
use self::input::{Input, Packing};
use self::paths::format_of_name;
use crate::batch::TokenizedRow;
use crate::error::{DataError, FileProblem, Location, RecordProblem};
use crate::message::{Message, Role};

/// What a data set is used for; the `kind` of a recipe's `[[data]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Running text for continued pre-training; loss on all tokens.
    Text,
    /// Conversations and prompt/completion rows; loss on answers.
    Chat,
    /// Pairs of a better and a worse answer.
    Preference,
    /// Documents given as ids and mask.
    Tokenized,
    /// Rows of documents given as ids and mask, kept as they are.
    Packed,
}

impl Kind {
    /// The spelling in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Chat => "chat",
            Kind::Preference => "preference",
            Kind::Tokenized => "tokenized",
            Kind::Packed => "packed",
        }
    }
}

/// The file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's name: .jsonl, .ndjson, .json (lines or an array), .csv, .parquet, .txt; behind it may stand .gz or .zst.
    #[default]
    Auto,
    /// One JSON object per line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Plain text, one document per file.
    Txt,
    /// Plain text, one document per line; blank lines are passed over.
    Lines,
}

/// How to read a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// The file format.
    pub format: Format,
    /// What the records are for; decides between schemas where a record fits several. `None` takes the richest.
    pub kind: Option<Kind>,
    /// Our field name to the file's field name, such as `text` to `body`.
    pub columns: BTreeMap<String, String>,
    /// The columns of a CSV file without a header line; `None` where its first line names them.
    pub header: Option<Vec<String>>,
    /// Longest record, in bytes.
    pub max_record_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions {
            format: Format::Auto,
            kind: None,
            columns: BTreeMap::new(),
            header: None,
            max_record_bytes: 64 << 20,
        }
    }
}

/// Plain text, or turns of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turns {
    /// Plain text.
    Text(String),
    /// Turns of a conversation.
    Messages(Vec<Message>),
}

impl Turns {
    /// The last turn; none of plain text.
    pub(crate) fn last_message(&self) -> Option<&Message> {
        match self {
            Turns::Text(_) => None,
            Turns::Messages(messages) => messages.last(),
        }
    }

    /// Whether the last turn is the assistant's.
    pub(crate) fn ends_with_answer(&self) -> bool {
        self.last_message().is_some_and(|last| last.role == Role::Assistant)
    }
}

/// Turns, and which answers of them are not learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// Indices of the assistant turns without loss, ascending.
    pub unlearnt: Vec<usize>,
    /// Whether they were cut out of one text, by the words `Human:` and `Assistant:`.
    pub is_transcript: bool,
}

impl From<Vec<Message>> for Conversation {
    /// A conversation of which every answer is learnt.
    fn from(messages: Vec<Message>) -> Conversation {
        Conversation { messages, unlearnt: Vec::new(), is_transcript: false }
    }
}

/// One record of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Running text.
    Text(String),
    /// A conversation.
    Conversation(Conversation),
    /// A row whose fields are there and hold nothing.
    Empty,
    /// A prompt and the answer to learn.
    PromptCompletion {
        /// Not trained on.
        prompt: String,
        /// Trained on.
        completion: String,
    },
    /// A better and a worse answer to one prompt.
    Preference {
        /// What both answer.
        prompt: Turns,
        /// The better answer.
        chosen: Turns,
        /// The worse answer.
        rejected: Turns,
        /// Whether both answers go on with the prompt's last turn, which is the assistant's, and do not end it.
        is_continued: bool,
        /// Whether turns were cut out of a text, by the words `Human:` and `Assistant:`.
        is_transcript: bool,
    },
    /// A document given as ids.
    Tokenized(TokenizedRow),
    /// A row of documents given as ids.
    Packed(Vec<TokenizedRow>),
    /// A preference given as ids.
    TokenizedPair {
        /// What both answer.
        prompt: Vec<u32>,
        /// The better answer.
        chosen: Vec<u32>,
        /// The worse answer.
        rejected: Vec<u32>,
    },
}

impl Record {
    /// A word for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Record::Text(_) => "text",
            Record::Conversation(_) => "conversation",
            Record::Empty => "empty",
            Record::PromptCompletion { .. } => "prompt/completion",
            Record::Preference { .. } | Record::TokenizedPair { .. } => "preference",
            Record::Tokenized(_) => "tokenized",
            Record::Packed(_) => "packed",
        }
    }

    /// Whether it is a pair whose answers follow a turn of the assistant, and are turns of their own.
    pub(crate) fn ends_a_prompt_uncontinued(&self) -> bool {
        matches!(self, Record::Preference { prompt, is_continued: false, .. } if prompt.ends_with_answer())
    }

    /// Whether a text of it was read as turns.
    pub(crate) fn is_transcript(&self) -> bool {
        match self {
            Record::Conversation(conversation) => conversation.is_transcript,
            Record::Preference { is_transcript, .. } => *is_transcript,
            _ => false,
        }
    }

    /// Bytes of text or ids, for limits and rates.
    pub fn num_bytes(&self) -> usize {
        let of_turns = |turns: &Turns| match turns {
            Turns::Text(text) => text.len(),
            Turns::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
        };
        match self {
            Record::Text(text) => text.len(),
            Record::Conversation(of) => of.messages.iter().map(|message| message.content.len()).sum(),
            Record::Empty => 0,
            Record::PromptCompletion { prompt, completion } => prompt.len() + completion.len(),
            Record::Preference { prompt, chosen, rejected, .. } => {
                of_turns(prompt) + of_turns(chosen) + of_turns(rejected)
            }
            Record::Tokenized(row) => row.len() * 4,
            Record::Packed(rows) => rows.iter().map(|row| row.len() * 4).sum(),
            Record::TokenizedPair { prompt, chosen, rejected } => 4 * (prompt.len() + chosen.len() + rejected.len()),
        }
    }
}

/// A stream of records with their places; ends after the first error of the file itself.
pub type Records = Box<dyn Iterator<Item = Result<(Location, Record), DataError>> + Send>;

/// Streams the records of a file.
///
/// # Errors
/// [`DataError::Io`], or [`DataError::File`] if the file is empty, compressed, not a plain file or of unknown format. The stream
/// then yields [`DataError::Record`] for each unusable record, with its line, row or element.
pub fn read(path: &Path, options: &ReadOptions) -> Result<Records, DataError> {
    Ok(Box::new(Parsed {
        rows: read_rows(path, options)?,
        path: path.to_path_buf(),
        unseen: options.columns.clone(),
        found: None,
        options: options.clone(),
    }))
}

/// Rows to records. At the end of the file it names a column that was mapped and stands in no row.
struct Parsed {
    rows: Rows,
    path: PathBuf,
    options: ReadOptions,
    /// The columns that no row had so far.
    unseen: BTreeMap<String, String>,
    /// The columns of a row.
    found: Option<String>,
}

impl Parsed {
    fn note_columns(&mut self, row: &Row) {
        let is_in = |column: &String| {
            row.value.get(column).is_some() || row.unreadable.iter().any(|cell| cell.column == *column)
        };
        self.unseen.retain(|_, theirs| !is_in(theirs));
        if let (None, Value::Object(object)) = (&self.found, &row.value) {
            self.found = Some(fields::names(object));
        }
    }

    /// Where a field is not found, and no row so far had the column that it is mapped to, that column is to blame.
    fn named_column(&self, problem: RecordProblem) -> RecordProblem {
        match (problem, self.unseen.first_key_value()) {
            (
                RecordProblem::UnknownSchema { found, .. } | RecordProblem::MissingField { found, .. },
                Some((ours, theirs)),
            ) => RecordProblem::NoSuchColumn { ours: ours.clone(), theirs: theirs.clone(), found },
            (problem, _) => problem,
        }
    }
}

impl Iterator for Parsed {
    type Item = Result<(Location, Record), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rows.next() {
            Some(Ok((location, row))) => {
                self.note_columns(&row);
                let record = record::parse(&row, &self.options).map_err(|problem| self.named_column(problem));
                let at_row = |problem| DataError::Record { path: self.path.clone(), location, problem };
                Some(record.map(|record| (location, record)).map_err(at_row))
            }
            Some(Err(error)) => Some(Err(error)),
            None => {
                let found = self.found.take()?;
                let (ours, theirs) = self.unseen.pop_first()?;
                let problem = FileProblem::NoSuchColumn { ours, theirs, found };
                Some(Err(DataError::File { path: self.path.clone(), problem }))
            }
        }
    }
}

/// A stream of JSON objects with their places.
pub type Values = Box<dyn Iterator<Item = Result<(Location, Value), DataError>> + Send>;

/// Streams the records of a file as JSON objects, before any schema is looked for. Parquet cells that are neither text nor numbers
/// are left out.
///
/// # Errors
/// As [`read`].
pub fn read_values(path: &Path, options: &ReadOptions) -> Result<Values, DataError> {
    Ok(Box::new(read_rows(path, options)?.map(|item| item.map(|(location, row)| (location, row.value)))))
}

/// An object before any schema is looked for.
struct Row {
    value: Value,
    /// Parquet cells that are neither text nor numbers; they are not in the object.
    unreadable: Vec<Unreadable>,
}

impl From<Value> for Row {
    fn from(value: Value) -> Row {
        Row { value, unreadable: Vec::new() }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Unreadable {
    column: String,
    /// The field of the innermost struct, where the cell is in one.
    member: Option<String>,
    data_type: String,
}

type Rows = Box<dyn Iterator<Item = Result<(Location, Row), DataError>> + Send>;

fn read_rows(path: &Path, options: &ReadOptions) -> Result<Rows, DataError> {
    let fail = |problem| DataError::File { path: path.to_path_buf(), problem };
    let metadata = std::fs::metadata(path).map_err(|error| DataError::io("read", path, error))?;
    if !metadata.is_file() {
        return Err(fail(FileProblem::NotAFile));
    }
    let packing = Packing::of(path)?;
    let format = match options.format {
        Format::Auto => format_of_name(path).ok_or_else(|| fail(FileProblem::UnknownFormat))?,
        format => format,
    };
    // An empty text file is a row that holds nothing, which is counted; of every other format it is damaged.
    if metadata.len() == 0 && format != Format::Txt {
        return Err(fail(FileProblem::Empty));
    }
    // What is packed inside has its place in the file, which must be reached without what is before it.
    let is_unpacked = matches!(packing, Packing::Gzip | Packing::Zstd) && format != Format::Parquet;
    if packing != Packing::Plain && !is_unpacked {
        return Err(fail(FileProblem::Compressed { kind: packing.name() }));
    }
    if format == Format::Parquet {
        #[cfg(feature = "parquet")]
        return parquet_file::rows(path);
        #[cfg(not(feature = "parquet"))]
        {
            let detail = "this program was built without the feature `parquet`".to_owned();
            return Err(fail(FileProblem::Parquet { detail }));
        }
    }
    let mut input = input::open(path, packing)?;
    let text_field = || options.columns.get("text").cloned().unwrap_or_else(|| "text".to_owned());
    let limit_bytes = options.max_record_bytes;
    match format {
        Format::Json if options.format == Format::Auto && !begins_an_array(path, &mut input)? => {
            Ok(text_file::json_lines(path, input, limit_bytes))
        }
        Format::Json => Ok(json_array::json_array(path, input, limit_bytes)),
        Format::Csv => csv_file::rows(path, input, limit_bytes, options.header.as_deref()),
        Format::Txt => text_file::text(path, input, limit_bytes, text_field()),
        Format::Lines => Ok(text_file::text_lines(path, input, limit_bytes, text_field())),
        Format::Jsonl | Format::Auto | Format::Parquet => Ok(text_file::json_lines(path, input, limit_bytes)),
    }
}

/// Whether a file named .json is one array rather than lines.
fn begins_an_array(path: &Path, input: &mut Input) -> Result<bool, DataError> {
    let first = input.fill_buf().map_err(|error| DataError::io("read", path, error))?;
    Ok(first.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['))
}

/// Ends a stream after its first error: behind a damaged place nothing can be trusted.
struct UntilError<I> {
    inner: I,
    path: PathBuf,
    is_done: bool,
    is_empty: bool,
}

impl<I> UntilError<I> {
    fn new(path: &Path, inner: I) -> UntilError<I> {
        UntilError { inner, path: path.to_path_buf(), is_done: false, is_empty: true }
    }
}

impl<T, I: Iterator<Item = Result<T, DataError>>> Iterator for UntilError<I> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let item = self.inner.next();
        let was_empty = std::mem::replace(&mut self.is_empty, false);
        match &item {
            None => {
                self.is_done = true;
                was_empty.then(|| Err(DataError::File { path: self.path.clone(), problem: FileProblem::Empty }))
            }
            Some(Err(DataError::Record { .. })) | Some(Ok(_)) => item,
            Some(Err(_)) => {
                self.is_done = true;
                item
            }
        }
    }
}

#[cfg(test)]
mod tests;
