//! Everything that can be wrong with text, tokenizers, templates and stored tokens.
//!
//! Each error names the file, the line or row where there is one, the field, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The error of this crate's readers, tokenizers, templates and stores.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted: "read", "write", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A source file is unusable as a whole.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: FileProblem,
    },
    /// One record of a source file is unusable.
    #[error("{}: {location}: {problem}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        location: Location,
        /// What is wrong with it.
        problem: RecordProblem,
    },
    /// A tokenizer cannot be loaded, or failed on a text.
    #[error("tokenizer {}: {problem}", path.display())]
    Tokenizer {
        /// `tokenizer.json` or its folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: TokenizerProblem,
    },
    /// A chat template cannot be compiled or rendered.
    #[error("chat template {}: {problem}", path.display())]
    Template {
        /// Where the template was read.
        path: PathBuf,
        /// What is wrong with it.
        problem: TemplateProblem,
    },
    /// A token store on disk is not usable.
    #[error("token store {}: {problem}; delete the folder and run again to rebuild it", path.display())]
    Store {
        /// The store's file.
        path: PathBuf,
        /// What is wrong with it.
        problem: StoreProblem,
    },
    /// Training rows without a single token to learn from.
    #[error(
        "data set '{dataset}': none of its {rows} rows has a token that carries loss{}; check its kind (text, chat, ...) and, \
         for conversations, that assistant turns are present and not empty",
        in_parentheses(left_out)
    )]
    NoLossTokens {
        /// The name in the recipe.
        dataset: String,
        /// How many rows were looked at.
        rows: usize,
        /// Which rows were left out and why.
        left_out: Vec<String>,
    },
    /// No row fits in the context.
    #[error(
        "data set '{dataset}': no row that can be learnt fits in the context of {context_tokens} tokens{}; set context_tokens higher, or \
         shorten the rows",
        in_parentheses(left_out)
    )]
    AllTooLong {
        /// The name in the recipe.
        dataset: String,
        /// The context.
        context_tokens: usize,
        /// Which rows were left out and why.
        left_out: Vec<String>,
    },
    /// More rows that cannot be read than are allowed.
    #[error("data set '{dataset}': more than max_bad_rows = {max_bad_rows} rows cannot be read; the next is {next}")]
    TooManyBadRows {
        /// The name in the recipe.
        dataset: String,
        /// How many are allowed.
        max_bad_rows: u64,
        /// The first beyond them.
        next: Box<DataError>,
    },
    /// An option has a value that cannot work.
    #[error("{option} = {got}: must be {want}")]
    BadOption {
        /// The option's name in the recipe.
        option: &'static str,
        /// The value given.
        got: String,
        /// What would work.
        want: String,
    },
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> DataError {
        DataError::Io { action, path: path.to_path_buf(), source }
    }

    /// Whether nothing is there: not the file, or none that the pattern matches.
    pub fn is_absent(&self) -> bool {
        match self {
            DataError::File { problem: FileProblem::NoMatch, .. } => true,
            DataError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

fn in_parentheses(left_out: &[String]) -> String {
    if left_out.is_empty() { String::new() } else { format!(" ({})", left_out.join("; ")) }
}

/// Where a record stands in its file; counted from one, as editors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// Line of a text file.
    Line(u64),
    /// Row of a table.
    Row(u64),
    /// Element of a JSON array.
    Element(u64),
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Line(n) => write!(f, "line {n}"),
            Location::Row(n) => write!(f, "row {n}"),
            Location::Element(n) => write!(f, "element {n}"),
        }
    }
}

/// What is wrong with a whole source file.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileProblem {
    /// A column that the recipe maps stands in no row.
    #[error(
        "no row has the column `{theirs}`, which the recipe takes as `{ours}` (found: {found}); correct its `columns`"
    )]
    NoSuchColumn {
        /// The field.
        ours: String,
        /// The column.
        theirs: String,
        /// The columns of the first row.
        found: String,
    },
    /// No bytes, or no records.
    #[error("the file holds no records; give a file with at least one row, or take the data set out of the recipe")]
    Empty,
    /// Compressed bytes under a name that promises text.
    #[error(
        "the bytes are {kind}-compressed; unpack the file first (text may stay packed by gzip or zstd; Parquet packs itself)"
    )]
    Compressed {
        /// "gzip", "zstd", ...
        kind: &'static str,
    },
    /// Neither the name nor the first bytes tell the format.
    #[error(
        "cannot tell the format from the name; use .jsonl, .json, .csv, .parquet or .txt, or set format = \"jsonl\" | \"parquet\" | ..."
    )]
    UnknownFormat,
    /// Not a plain file.
    #[error(
        "not a regular file; give a file, a folder of data files, a pattern such as \"train-*.parquet\", or a list of them"
    )]
    NotAFile,
    /// The Parquet library could not read it.
    #[error("not readable as Parquet ({detail}); write the file again or download it again")]
    Parquet {
        /// What the library said.
        detail: String,
    },
    /// A CSV file whose quotes or columns are broken.
    #[error("not readable as CSV: {detail}")]
    Csv {
        /// The line, what is wrong and what to do.
        detail: String,
    },
    /// A pattern that names no files, or not plainly which.
    #[error("the pattern cannot be used: {why}; check it, or name the files in a list")]
    Pattern {
        /// What is wrong.
        why: String,
    },
    /// A pattern that names no file.
    #[error("the pattern cannot be used: no file matches it; check it, or name the files in a list")]
    NoMatch,
    /// A folder of which it is not plain which files are meant.
    #[error("the folder {why}; name the files in a list, or by a pattern such as \"train-*.parquet\", or set `format`")]
    Folder {
        /// What is wrong.
        why: String,
    },
    /// A file that a source names twice.
    #[error("the same file is named twice (also as {}); each file is read once", other.display())]
    SameFile {
        /// How else it is named.
        other: PathBuf,
    },
    /// The JSON array around the records is broken.
    #[error("not a JSON array of records ({detail}); for one record per line use the name .jsonl")]
    NotAnArray {
        /// What the parser said.
        detail: String,
    },
}

/// What is wrong with one record.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordProblem {
    /// Bytes that are not UTF-8.
    #[error("byte {byte} of the record is not valid UTF-8; convert the file to UTF-8")]
    NotUtf8 {
        /// Offset inside the record.
        byte: usize,
    },
    /// A zero byte, which no text has.
    #[error("byte {byte} of the record is zero, which no text has; is the file UTF-16? convert it to UTF-8")]
    Nul {
        /// Offset inside the record, from 1.
        byte: usize,
    },
    /// The chat template does not take the conversation.
    #[error("{detail}")]
    Refused {
        /// Which template, and what it said.
        detail: String,
    },
    /// Not an exercise of a distillation.
    #[error("not an exercise ({detail}); it needs `question` and `answer`, or `exercise_columns` that name them")]
    NotAnExercise {
        /// What is wrong.
        detail: String,
    },
    /// Not an entry of a journal.
    #[error(
        "not an entry of this journal ({detail}); a kill cuts the last line only, so something else changed the file: remove the \
         line, or the file to begin again"
    )]
    NotAnEntry {
        /// What the parser said.
        detail: String,
    },
    /// Not a JSON value.
    #[error("not valid JSON ({detail}); write one whole JSON object per line (NaN and Infinity are not JSON)")]
    NotJson {
        /// What the parser said.
        detail: String,
    },
    /// A key that stands twice in one object.
    #[error("{detail}; keep one of the two values")]
    KeyTwice {
        /// Which key, and where.
        detail: String,
    },
    /// A line above the limit.
    #[error("longer than the limit of {limit_bytes} bytes; split the text into several records")]
    TooLong {
        /// Size allowed.
        limit_bytes: usize,
    },
    /// A JSON value, but not an object.
    #[error("is {got}, not an object with named fields")]
    NotAnObject {
        /// What it is.
        got: &'static str,
    },
    /// A field that must be there is not.
    #[error("field '{field}' is missing (found: {found}); map it with columns = {{ {field} = \"...\" }}")]
    MissingField {
        /// The field.
        field: String,
        /// The fields that are there.
        found: String,
    },
    /// A field of the wrong type.
    #[error("field '{field}' is {got}, expected {want}")]
    WrongType {
        /// The field.
        field: String,
        /// What is expected.
        want: &'static str,
        /// What it is.
        got: &'static str,
    },
    /// A speaker nobody knows.
    #[error(
        "field '{field}': unknown role '{role}'; known are system, developer, user, human, assistant, gpt, model, bot, agent, tool, function, observation"
    )]
    UnknownRole {
        /// The field.
        field: String,
        /// The role found.
        role: String,
    },
    /// No field by which the schema can be recognised.
    #[error(
        "cannot tell the schema from the fields {found}; expected text, messages, conversations, instruction + output, \
         prompt + completion, chosen + rejected, ids + mask, or docs; map other names with columns = {{ {columns} }}"
    )]
    UnknownSchema {
        /// The fields that are there.
        found: String,
        /// How to map others, as the rows are meant.
        columns: &'static str,
    },
    /// A field is mapped to a column that is not there.
    #[error("`{theirs}`, which `columns` names for `{ours}`, is no column here; there are {found}")]
    NoSuchColumn {
        /// The field.
        ours: String,
        /// The column.
        theirs: String,
        /// The columns that are there.
        found: String,
    },
    /// Ids and mask of different length.
    #[error("field '{field}': {ids} ids but {mask} mask flags; give one flag per id")]
    LengthMismatch {
        /// The field.
        field: String,
        /// Number of ids.
        ids: usize,
        /// Number of flags.
        mask: usize,
    },
    /// A token id that the tokenizer does not have.
    #[error("token id {id} is not below the vocabulary size {vocab_size}; the rows were made with another tokenizer")]
    IdOutOfRange {
        /// The id.
        id: u32,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A record of another kind than the recipe says.
    #[error("is a {got} record, but the data set's kind is {want}")]
    WrongKind {
        /// The recipe's kind.
        want: &'static str,
        /// The record's kind.
        got: &'static str,
    },
    /// A field that changes what is learnt, with a value that is not followed.
    #[error("field '{field}' {why}")]
    NotHonoured {
        /// The field.
        field: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A cell of a table that is neither text nor a number.
    #[error(
        "column '{column}' is of type {data_type}, which is not read as text; write it as text, or drop the column"
    )]
    Unreadable {
        /// The column.
        column: String,
        /// Its type in Arrow's words.
        data_type: String,
    },
    /// A row of a table with more or fewer fields than its header.
    #[error(
        "has {got} fields where the header has {want}; quote fields that hold commas, quotes or line breaks, and write a comma for \
         each empty field"
    )]
    Ragged {
        /// Fields of the header.
        want: u64,
        /// Fields of the row.
        got: u64,
    },
}

/// What is wrong with a tokenizer.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerProblem {
    /// A file of the folder is missing.
    #[error("{file} is missing; copy it from the model's own folder")]
    MissingFile {
        /// Its name.
        file: &'static str,
    },
    /// A file is larger than any real one.
    #[error("{file} has {bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// Its name.
        file: String,
        /// Its size.
        bytes: u64,
        /// Size allowed.
        limit_bytes: u64,
    },
    /// A file cannot be parsed.
    #[error("{file} is not valid: {detail}")]
    Invalid {
        /// Its name.
        file: String,
        /// What the parser said.
        detail: String,
    },
    /// The tokenizers library panicked instead of returning an error.
    #[error("the tokenizers library failed while it was asked to {action}; the file is damaged or not supported")]
    LibraryPanic {
        /// "load", "encode", "decode".
        action: &'static str,
    },
    /// The library refused a text.
    #[error("cannot {action}: {detail}")]
    Refused {
        /// "encode", "decode".
        action: &'static str,
        /// What the library said.
        detail: String,
    },
    /// A named special token is not in the vocabulary.
    #[error("{field} names '{token}', which is not in the vocabulary")]
    UnknownSpecialToken {
        /// The key, such as `bos_token`.
        field: &'static str,
        /// The token.
        token: String,
    },
    /// A token that the model has no embedding for.
    #[error(
        "its token '{token}' has id {id}, but vocab_size of the model's config.json is {vocab_size}; use the tokenizer that belongs \
to this model"
    )]
    BeyondModel {
        /// The id.
        id: u32,
        /// Its text.
        token: String,
        /// Number of tokens that the model has.
        vocab_size: usize,
    },
    /// Ordinary text became a control token.
    #[error(
        "the text spells the control token '{token}', and this tokenizer reads it as that token; take it out of the text"
    )]
    ControlTokenInText {
        /// The token.
        token: String,
    },
}

/// What is wrong with a chat template.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TemplateProblem {
    /// No template in the folder.
    #[error(
        "none found; put chat_template.jinja or a tokenizer_config.json with \"chat_template\" beside tokenizer.json"
    )]
    Missing,
    /// Longer than any real one.
    #[error("has {bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Size allowed.
        limit_bytes: usize,
    },
    /// Not a template.
    #[error("does not compile, line {line}: {detail}")]
    Syntax {
        /// Line of the template.
        line: usize,
        /// What the engine said.
        detail: String,
    },
    /// Failed on a conversation.
    #[error("cannot render this conversation, line {line}: {detail}")]
    Render {
        /// Line of the template.
        line: usize,
        /// What the engine or the template itself said.
        detail: String,
    },
    /// A system turn would be lost.
    #[error(
        "does not print the system turn of this conversation; put its text into the first user turn, or take another template"
    )]
    SystemNotPrinted,
    /// Used more steps, depth or output than any real template.
    #[error("stopped: {limit} exceeded while rendering")]
    LimitExceeded {
        /// Which limit.
        limit: &'static str,
    },
    /// A content spells a control token that the template reads or writes by itself, so that both cannot be told apart.
    #[error(
        "message {message} spells the control token '{token}', which the template acts on, so that it would become more than \
text; take it out of the message"
    )]
    ControlTextRead {
        /// Index of the message, from zero.
        message: usize,
        /// The token.
        token: String,
    },
    /// An assistant turn's text is not found in the rendered text.
    #[error(
        "the reply in message {message} is not found in the rendered conversation, or stands there more than once, so its loss \
mask is unknown; use a template that prints each turn once"
    )]
    TurnNotFound {
        /// Index of the message, from zero.
        message: usize,
    },
    /// What the template marks with `{% generation %}` is not found in the rendered text.
    #[error(
        "what it marks with {{% generation %}} is looked into or cut before it is printed, so that the loss mask is unknown; mark \
what is printed as it stands"
    )]
    SpansUnknown,
    /// A span that the template marks belongs to no reply.
    #[error(
        "it marks {span:?} with {{% generation %}}, which stands beside no reply, so that it is unknown whether a conversation in \
which some replies are not learnt learns it; mark replies only, or train on all replies"
    )]
    SpanOfNoReply {
        /// Its text.
        span: String,
    },
}

/// What is wrong with a token store.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreProblem {
    /// The first bytes are not those of a store.
    #[error("is not a token store (wrong first bytes)")]
    BadMagic,
    /// Written by another version.
    #[error("has format version {got}, this program reads {want}")]
    BadVersion {
        /// Version found.
        got: u32,
        /// Version read.
        want: u32,
    },
    /// Size and header disagree.
    #[error("has {got} bytes where its header promises {want}")]
    BadSize {
        /// Size found.
        got: u64,
        /// Size promised.
        want: u64,
    },
    /// The content changed after it was written.
    #[error("fails its checksum")]
    BadChecksum,
    /// A table inside points outside of it.
    #[error("has an inconsistent {table}")]
    BadTable {
        /// Which table.
        table: &'static str,
    },
}
