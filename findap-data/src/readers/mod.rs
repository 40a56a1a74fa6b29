//! Source files to records, one at a time.
//!
//! Formats: JSON lines, a JSON array, CSV with a header, Parquet. Schemas are recognised by their fields: `text`; `messages`
//! (role, content); ShareGPT `conversations` (from, value); alpaca (`instruction`, `input`, `output`, `system`, `history`);
//! `prompt` + `completion`; preferences (`prompt`, `chosen`, `rejected`, as texts or message lists, the prompt may be implicit);
//! tokenised rows (`ids`, `mask`); packed rows (`docs`); tokenised pairs (`prompt_ids`, `chosen_ids`, `rejected_ids`).
//! Other names are mapped with [`ReadOptions::columns`].
//!
//! Memory: one record, one CSV row or one Parquet batch; a JSON array file is read whole, up to a limit.

#[cfg(feature = "parquet")]
mod parquet_file;
mod record;
mod text_file;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::TokenizedRow;
use crate::error::{DataError, FileProblem, Location};
use crate::message::Message;

/// What a data set is used for; the `kind` of a recipe's `[[data]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the file's name: .jsonl, .ndjson, .json (lines or an array), .csv, .parquet.
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
    /// Longest record, in bytes.
    pub max_record_bytes: usize,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { format: Format::Auto, kind: None, columns: BTreeMap::new(), max_record_bytes: 64 << 20 }
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

/// One record of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Running text.
    Text(String),
    /// A conversation.
    Conversation(Vec<Message>),
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
            Record::PromptCompletion { .. } => "prompt/completion",
            Record::Preference { .. } | Record::TokenizedPair { .. } => "preference",
            Record::Tokenized(_) => "tokenized",
            Record::Packed(_) => "packed",
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
            Record::Conversation(messages) => messages.iter().map(|message| message.content.len()).sum(),
            Record::PromptCompletion { prompt, completion } => prompt.len() + completion.len(),
            Record::Preference { prompt, chosen, rejected } => of_turns(prompt) + of_turns(chosen) + of_turns(rejected),
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
    let values = read_values(path, options)?;
    let path = path.to_path_buf();
    let options = options.clone();
    Ok(Box::new(values.map(move |item| {
        let (location, value) = item?;
        let record = record::parse(value, &options).map_err(|problem| DataError::Record {
            path: path.clone(),
            location,
            problem,
        })?;
        Ok((location, record))
    })))
}

/// A stream of JSON objects with their places.
pub type Values = Box<dyn Iterator<Item = Result<(Location, Value), DataError>> + Send>;

/// Streams the records of a file as JSON objects, before any schema is looked for. Evaluation sets are read so.
///
/// # Errors
/// As [`read`].
pub fn read_values(path: &Path, options: &ReadOptions) -> Result<Values, DataError> {
    let fail = |problem| DataError::File { path: path.to_path_buf(), problem };
    let metadata = std::fs::metadata(path).map_err(|error| DataError::io("read", path, error))?;
    if !metadata.is_file() {
        return Err(fail(FileProblem::NotAFile));
    }
    if metadata.len() == 0 {
        return Err(fail(FileProblem::Empty));
    }
    let mut file = File::open(path).map_err(|error| DataError::io("read", path, error))?;
    let mut first = [0u8; 512];
    let num_first = file.read(&mut first).map_err(|error| DataError::io("read", path, error))?;
    let first = &first[..num_first];
    if let Some(kind) = compression(first) {
        return Err(fail(FileProblem::Compressed { kind }));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let format = match (options.format, extension.as_str()) {
        (Format::Auto, "jsonl" | "ndjson") => Format::Jsonl,
        (Format::Auto, "json") => {
            let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
            match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
                Some(b'[') => Format::Json,
                _ => Format::Jsonl,
            }
        }
        (Format::Auto, "csv") => Format::Csv,
        (Format::Auto, "parquet") => Format::Parquet,
        (Format::Auto, _) => return Err(fail(FileProblem::UnknownFormat)),
        (format, _) => format,
    };
    match format {
        Format::Jsonl => text_file::json_lines(path, options.max_record_bytes),
        Format::Json => text_file::json_array(path, metadata.len()),
        Format::Csv => text_file::csv(path),
        #[cfg(feature = "parquet")]
        Format::Parquet => parquet_file::rows(path),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            let detail = "this program was built without the feature `parquet`".to_owned();
            Err(fail(FileProblem::Parquet { detail }))
        }
        Format::Auto => unreachable!("resolved above"),
    }
}

fn compression(first: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "zip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ", "xz"),
    ];
    MAGIC.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, kind)| *kind)
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
