//! The elements of a JSON array, one at a time.

use std::path::{Path, PathBuf};

use super::input::Input;
use super::text_file::parse_object;
use super::{Row, Rows, UntilError};
use crate::error::{DataError, FileProblem, Location, RecordProblem};

/// One JSON array of objects. An element ends where its brackets do, so that only one is held at a time.
pub(super) fn json_array(path: &Path, input: Input, max_record_bytes: usize) -> Rows {
    let elements = Elements { path: path.to_path_buf(), input, number: 0, max_record_bytes };
    Box::new(UntilError::new(path, elements))
}

struct Elements {
    path: PathBuf,
    input: Input,
    number: u64,
    max_record_bytes: usize,
}

impl Elements {
    fn broken(&self, detail: String) -> DataError {
        DataError::File { path: self.path.clone(), problem: FileProblem::NotAnArray { detail } }
    }

    /// The next byte, which stays; `None` at the end of the file.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        let buffer = self.input.fill_buf().map_err(|error| DataError::io("read", &self.path, error))?;
        Ok(buffer.first().copied())
    }

    /// The next byte that is no white space, which stays.
    fn peek_mark(&mut self) -> Result<Option<u8>, DataError> {
        while let Some(byte) = self.peek()? {
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.input.consume(1);
        }
        Ok(None)
    }

    /// Goes to the beginning of the next element; `false` behind the last.
    fn advance(&mut self) -> Result<bool, DataError> {
        let is_first = self.number == 0;
        let want = if is_first { b'[' } else { b',' };
        match self.peek_mark()? {
            Some(b']') if !is_first => return self.end(),
            Some(byte) if byte == want => self.input.consume(1),
            found => {
                let place =
                    if is_first { "at its beginning".to_owned() } else { format!("behind element {}", self.number) };
                return Err(self.broken(format!("{} {place}", shown(found))));
            }
        }
        match self.peek_mark()? {
            Some(b']') if is_first => self.end(),
            Some(b']' | b',' | b'}') | None => Err(self.broken(format!("element {} is missing", self.number + 1))),
            Some(_) => Ok(true),
        }
    }

    /// Passes the closing bracket, behind which nothing may stand.
    fn end(&mut self) -> Result<bool, DataError> {
        self.input.consume(1);
        match self.peek_mark()? {
            None => Ok(false),
            found => Err(self.broken(format!("{} behind its end", shown(found)))),
        }
    }

    /// The bytes of an element, or `None` if there are more than allowed, which are passed over.
    fn element(&mut self) -> Result<Option<Vec<u8>>, DataError> {
        let (mut bytes, mut depth, mut is_in_text, mut is_escaped) = (Vec::new(), 0u64, false, false);
        let mut num_bytes = 0usize;
        loop {
            let buffer = self.input.fill_buf().map_err(|error| DataError::io("read", &self.path, error))?;
            if buffer.is_empty() {
                return Err(self.broken(format!("the file ends inside element {}", self.number)));
            }
            let end = buffer.iter().position(|&byte| {
                let is_end = !is_in_text && depth == 0 && matches!(byte, b',' | b']' | b'}');
                match byte {
                    _ if is_end => {}
                    _ if is_escaped => is_escaped = false,
                    b'\\' if is_in_text => is_escaped = true,
                    b'"' => is_in_text = !is_in_text,
                    b'{' | b'[' if !is_in_text => depth += 1,
                    b'}' | b']' if !is_in_text => depth -= 1,
                    _ => {}
                }
                is_end
            });
            let taken = end.unwrap_or(buffer.len());
            num_bytes = num_bytes.saturating_add(taken);
            if num_bytes <= self.max_record_bytes {
                bytes.extend_from_slice(&buffer[..taken]);
            }
            self.input.consume(taken);
            if end.is_some() {
                return Ok(Some(bytes).filter(|_| num_bytes <= self.max_record_bytes));
            }
        }
    }
}

fn shown(byte: Option<u8>) -> String {
    byte.map_or_else(|| "the file ends".to_owned(), |byte| format!("there is '{}'", byte.escape_ascii()))
}

impl Iterator for Elements {
    type Item = Result<(Location, Row), DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error)),
        }
        self.number += 1;
        let location = Location::Element(self.number);
        let parsed = match self.element() {
            Err(error) => return Some(Err(error)),
            Ok(None) => Err(RecordProblem::TooLong { limit_bytes: self.max_record_bytes }),
            Ok(Some(bytes)) => parse_object(&bytes),
        };
        Some(match parsed {
            Ok(value) => Ok((location, value.into())),
            Err(problem) => Err(DataError::Record { path: self.path.clone(), location, problem }),
        })
    }
}
