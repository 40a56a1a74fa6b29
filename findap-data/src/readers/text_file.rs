//! JSON lines, JSON arrays and CSV.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{UntilError, Values};
use crate::error::{DataError, FileProblem, Location, RecordProblem};

/// A JSON array is held whole; beyond this size it must be JSON lines.
const MAX_ARRAY_BYTES: u64 = 1 << 30;
const BUFFER_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) fn json_lines(path: &Path, max_record_bytes: usize) -> Result<Values, DataError> {
    let file = File::open(path).map_err(|error| DataError::io("read", path, error))?;
    let lines = JsonLines {
        path: path.to_path_buf(),
        input: BufReader::with_capacity(BUFFER_BYTES, file),
        line: Vec::new(),
        number: 0,
        max_record_bytes,
    };
    Ok(Box::new(UntilError::new(path, lines)))
}

struct JsonLines {
    path: PathBuf,
    input: BufReader<File>,
    line: Vec<u8>,
    number: u64,
    max_record_bytes: usize,
}

impl JsonLines {
    fn fail(&self, problem: RecordProblem) -> DataError {
        DataError::Record { path: self.path.clone(), location: Location::Line(self.number), problem }
    }

    /// Reads on to the end of the line without keeping it.
    fn skip_line(&mut self) -> Result<(), DataError> {
        loop {
            let buffer = self.input.fill_buf().map_err(|error| DataError::io("read", &self.path, error))?;
            let end = buffer.iter().position(|&byte| byte == b'\n');
            let used = end.map_or(buffer.len(), |end| end + 1);
            let is_done = end.is_some() || buffer.is_empty();
            self.input.consume(used);
            if is_done {
                return Ok(());
            }
        }
    }
}

impl Iterator for JsonLines {
    type Item = Result<(Location, Value), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line.clear();
            self.number += 1;
            let limit = self.max_record_bytes as u64 + 2;
            let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.line);
            match read {
                Err(error) => return Some(Err(DataError::io("read", &self.path, error))),
                Ok(0) => return None,
                Ok(_) => {}
            }
            let mut line = self.line.as_slice();
            if self.number == 1 {
                line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
            }
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > self.max_record_bytes {
                let limit_bytes = self.max_record_bytes;
                if self.line.last() != Some(&b'\n')
                    && let Err(error) = self.skip_line()
                {
                    return Some(Err(error));
                }
                return Some(Err(self.fail(RecordProblem::TooLong { limit_bytes })));
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let parsed = parse_object(line);
            return Some(match parsed {
                Ok(value) => Ok((Location::Line(self.number), value)),
                Err(problem) => Err(self.fail(problem)),
            });
        }
    }
}

fn parse_object(line: &[u8]) -> Result<Value, RecordProblem> {
    let text = std::str::from_utf8(line).map_err(|error| RecordProblem::NotUtf8 { byte: error.valid_up_to() + 1 })?;
    // The parser's own depth limit of 128 stands: a record nested deeper is an error, not a stack overflow.
    serde_json::from_str(text).map_err(|error| RecordProblem::NotJson { detail: error.to_string() })
}

pub(super) fn json_array(path: &Path, num_bytes: u64) -> Result<Values, DataError> {
    let fail = |problem| DataError::File { path: path.to_path_buf(), problem };
    if num_bytes > MAX_ARRAY_BYTES {
        return Err(fail(FileProblem::TooLarge { bytes: num_bytes, limit_bytes: MAX_ARRAY_BYTES }));
    }
    let bytes = std::fs::read(path).map_err(|error| DataError::io("read", path, error))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let values: Vec<Value> =
        serde_json::from_slice(bytes).map_err(|error| fail(FileProblem::NotAnArray { detail: error.to_string() }))?;
    let items = (1..).map(Location::Element).zip(values).map(Ok);
    Ok(Box::new(UntilError::new(path, items)))
}

pub(super) fn csv(path: &Path) -> Result<Values, DataError> {
    let as_error = {
        let path = path.to_path_buf();
        move |error: csv::Error| DataError::Record {
            location: Location::Line(error.position().map_or(0, csv::Position::line)),
            path: path.clone(),
            problem: RecordProblem::NotJson { detail: error.to_string() },
        }
    };
    let mut reader = csv::Reader::from_path(path).map_err(&as_error)?;
    let header = reader.headers().map_err(&as_error)?.clone();
    let mut records = reader.into_records();
    let items = std::iter::from_fn(move || {
        let record = match records.next()? {
            Ok(record) => record,
            Err(error) => return Some(Err(as_error(error))),
        };
        let line = record.position().map_or(0, csv::Position::line);
        let fields: Map<String, Value> = header
            .iter()
            .zip(record.iter())
            .map(|(name, field)| (name.trim_start_matches('\u{feff}').to_string(), field.into()))
            .collect();
        Some(Ok((Location::Line(line), Value::Object(fields))))
    });
    Ok(Box::new(UntilError::new(path, items)))
}
