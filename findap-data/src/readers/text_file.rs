//! JSON lines and plain text.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::input::Input;
use super::{Row, Rows, UntilError, json};
use crate::error::{DataError, Location, RecordProblem};

/// One JSON object per line.
pub(super) fn json_lines(path: &Path, input: Input, max_record_bytes: usize) -> Rows {
    lines(path, input, max_record_bytes, parse_object)
}

/// One text per line, under the name of the field `text`.
pub(super) fn text_lines(path: &Path, input: Input, max_record_bytes: usize, field: String) -> Rows {
    lines(path, input, max_record_bytes, move |line| Ok(text_object(&field, utf8(line)?)))
}

/// The whole file as one text.
pub(super) fn text(path: &Path, input: Input, max_record_bytes: usize, field: String) -> Result<Rows, DataError> {
    let mut bytes = Vec::new();
    let limited = input.take(max_record_bytes as u64 + 1).read_to_end(&mut bytes);
    limited.map_err(|error| DataError::io("read", path, error))?;
    let row = match bytes.len() > max_record_bytes {
        true => Err(RecordProblem::TooLong { limit_bytes: max_record_bytes }),
        false => utf8(&bytes).map(|text| text_object(&field, text)),
    };
    let (path, location) = (path.to_path_buf(), Location::Line(1));
    let row = match row {
        Ok(value) => Ok((location, value.into())),
        Err(problem) => Err(DataError::Record { path, location, problem }),
    };
    Ok(Box::new(std::iter::once(row)))
}

fn text_object(field: &str, text: &str) -> Value {
    Value::Object(Map::from_iter([(field.to_owned(), text.into())]))
}

fn utf8(bytes: &[u8]) -> Result<&str, RecordProblem> {
    // A text of UTF-16 without its mark is valid UTF-8 with a NUL in every other byte.
    if let Some(byte) = bytes.iter().position(|&byte| byte == 0) {
        return Err(RecordProblem::Nul { byte: byte + 1 });
    }
    std::str::from_utf8(bytes).map_err(|error| RecordProblem::NotUtf8 { byte: error.valid_up_to() + 1 })
}

fn lines(
    path: &Path,
    input: Input,
    max_record_bytes: usize,
    parse: impl Fn(&[u8]) -> Result<Value, RecordProblem> + Send + 'static,
) -> Rows {
    let lines = Lines {
        path: path.to_path_buf(),
        input,
        line: Vec::new(),
        number: 0,
        max_record_bytes,
        parse: Box::new(parse),
    };
    Box::new(UntilError::new(path, lines))
}

type Parse = Box<dyn Fn(&[u8]) -> Result<Value, RecordProblem> + Send>;

struct Lines {
    path: PathBuf,
    input: Input,
    line: Vec<u8>,
    number: u64,
    max_record_bytes: usize,
    parse: Parse,
}

impl Lines {
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

impl Iterator for Lines {
    type Item = Result<(Location, Row), DataError>;

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
            let line = self.line.as_slice();
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
            let parsed = (self.parse)(line);
            return Some(match parsed {
                Ok(value) => Ok((Location::Line(self.number), value.into())),
                Err(problem) => Err(self.fail(problem)),
            });
        }
    }
}

pub(super) fn parse_object(bytes: &[u8]) -> Result<Value, RecordProblem> {
    json::parse(utf8(bytes)?)
}
