//! CSV with a header, or with names of columns that are given.

use std::fmt;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::input::Input;
use super::{Rows, UntilError};
use crate::error::{DataError, FileProblem, Location, RecordProblem};

pub(super) fn rows(
    path: &Path,
    input: Input,
    max_record_bytes: usize,
    header: Option<&[String]>,
) -> Result<Rows, DataError> {
    let as_error = {
        let path = path.to_path_buf();
        move |error: csv::Error| explain(&path, error)
    };
    let record_bytes = Arc::new(AtomicU64::new(0));
    let has_crlf = Arc::new(AtomicBool::new(false));
    let watched = Watched {
        input,
        place: Place::FieldStart,
        line: 1,
        quote_line: 1,
        record_bytes: record_bytes.clone(),
        limit_bytes: max_record_bytes as u64,
        last_byte: 0,
        has_crlf: has_crlf.clone(),
    };
    let mut reader = csv::ReaderBuilder::new().has_headers(header.is_none()).flexible(true).from_reader(watched);
    let header = match header {
        Some(names) => csv::StringRecord::from(names),
        None => reader.headers().map_err(&as_error)?.clone(),
    };
    if let Some(separator) =
        header.get(0).filter(|_| header.len() == 1).and_then(|name| name.matches([';', '\t']).next())
    {
        let separator = if separator == "\t" { "a tab" } else { "a semicolon" };
        let detail =
            format!("line 1: its columns are separated by {separator}, and only commas are read; write it with commas");
        return Err(DataError::File { path: path.to_path_buf(), problem: FileProblem::Csv { detail } });
    }
    if let Some(name) = repeated(&header) {
        let problem =
            FileProblem::Csv { detail: format!("line 1: two columns are named '{name}'; rename one of them") };
        return Err(DataError::File { path: path.to_path_buf(), problem });
    }
    let mut records = reader.into_records();
    let path_of_rows = path.to_path_buf();
    let items = std::iter::from_fn(move || {
        record_bytes.store(0, Ordering::Relaxed);
        let record = match records.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(as_error(error))),
        };
        // The library takes a line as ended at CR, and counts lines at LF: behind both a record begins one line further.
        let is_behind_crlf = |position: &csv::Position| position.byte() > 0 && has_crlf.load(Ordering::Relaxed);
        let line = record.position().map_or(0, |position| position.line() + u64::from(is_behind_crlf(position)));
        if record.len() != header.len() {
            let problem = RecordProblem::Ragged { want: header.len() as u64, got: record.len() as u64 };
            let path = path_of_rows.clone();
            return Some(Err(DataError::Record { path, location: Location::Line(line), problem }));
        }
        let fields = header.iter().zip(record.iter()).map(|(name, field)| (name.to_owned(), field.into()));
        Some(Ok((Location::Line(line), Value::Object(fields.collect::<Map<_, _>>()).into())))
    });
    Ok(Box::new(UntilError::new(path, items)))
}

fn repeated(header: &csv::StringRecord) -> Option<&str> {
    header
        .iter()
        .enumerate()
        .find(|(at, name)| !name.is_empty() && header.iter().take(*at).any(|other| other == *name))
        .map(|(_, name)| name)
}

fn explain(path: &Path, error: csv::Error) -> DataError {
    let line = error.position().map_or(0, csv::Position::line);
    let of_record = |problem| DataError::Record { path: path.to_path_buf(), location: Location::Line(line), problem };
    let of_file = |detail: String| DataError::File { path: path.to_path_buf(), problem: FileProblem::Csv { detail } };
    match error.into_kind() {
        csv::ErrorKind::Utf8 { err, .. } => of_record(RecordProblem::NotUtf8 { byte: err.valid_up_to() + 1 }),
        csv::ErrorKind::Io(error) => match error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>()) {
            Some(fault) => of_file(fault.to_string()),
            None => DataError::io("read", path, error),
        },
        other => of_file(format!("{other:?}")),
    }
}

/// What the CSV library takes without a word.
#[derive(Debug)]
enum Fault {
    OpenQuote {
        line: u64,
    },
    /// A quoted field that goes on behind its closing quote: an earlier quote is missing, and rows run together.
    StrayQuote {
        line: u64,
    },
    TooLong {
        line: u64,
        limit_bytes: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::OpenQuote { line } => {
                write!(
                    f,
                    "line {line}: a quoted field begins here and never ends; close its quote, and double quotes inside it"
                )
            }
            Fault::StrayQuote { line } => write!(
                f,
                "line {line}: a quoted field goes on behind its closing quote; double quotes inside a field, and look above for one \
                 that is not closed"
            ),
            Fault::TooLong { line, limit_bytes } => write!(
                f,
                "line {line}: a record is longer than the limit of {limit_bytes} bytes; look for a quote that is not closed"
            ),
        }
    }
}

impl std::error::Error for Fault {}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote inside a quoted field: its end, or the first half of a doubled quote.
    BehindQuote,
}

/// Follows the quotes of the bytes that the CSV library reads, and how long the record has become.
struct Watched {
    input: Input,
    place: Place,
    line: u64,
    quote_line: u64,
    record_bytes: Arc<AtomicU64>,
    limit_bytes: u64,
    last_byte: u8,
    /// Whether lines end with CR and LF.
    has_crlf: Arc<AtomicBool>,
}

impl Watched {
    fn follow(&mut self, byte: u8) -> Result<(), Fault> {
        self.place = match (self.place, byte) {
            (Place::FieldStart, b'"') => {
                self.quote_line = self.line;
                Place::Quoted
            }
            (Place::Quoted, b'"') => Place::BehindQuote,
            (Place::BehindQuote, b'"') | (Place::Quoted, _) => Place::Quoted,
            (_, b',' | b'\n' | b'\r') => Place::FieldStart,
            (Place::BehindQuote, _) => return Err(Fault::StrayQuote { line: self.line }),
            _ => Place::Unquoted,
        };
        if byte == b'\n' {
            self.line += 1;
            if self.place != Place::Quoted {
                self.has_crlf.store(self.last_byte == b'\r', Ordering::Relaxed);
            }
        }
        self.last_byte = byte;
        Ok(())
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        for &byte in &buffer[..count] {
            self.follow(byte).map_err(io::Error::other)?;
        }
        if count == 0 && self.place == Place::Quoted {
            return Err(io::Error::other(Fault::OpenQuote { line: self.quote_line }));
        }
        // The library reads ahead by no more than its buffer.
        let record_bytes = self.record_bytes.fetch_add(count as u64, Ordering::Relaxed);
        if record_bytes > self.limit_bytes {
            let line = if self.place == Place::Quoted { self.quote_line } else { self.line };
            return Err(io::Error::other(Fault::TooLong { line, limit_bytes: self.limit_bytes }));
        }
        Ok(count)
    }
}
