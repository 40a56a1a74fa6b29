//! Files to which records are appended as they come, one JSON value a line, so that a run that was killed repeats nothing that is there.
//!
//! A record is whole or absent: a last line without its end was cut by a kill, and is removed when the journal is opened. Any other line
//! that is no record is an error, for nothing here could have written it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system refuses.
    #[error("cannot {operation} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is no record.
    #[error("{path}:{line}: {reason}; remove the file to begin anew", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// A journal that is open for appending.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of whole records.
    len: u64,
    /// Whether a write that failed may have left a part of a line behind them.
    has_rest: bool,
}

impl Journal {
    /// Opens a journal, which need not exist, and reads its records. What a kill has cut is removed.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Journal, Vec<T>), JournalError> {
        let (records, len) = match std::fs::read(path) {
            Ok(bytes) => parse(path, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (Vec::new(), 0),
            Err(source) => return Err(JournalError::Io { operation: "read", path: path.to_owned(), source }),
        };
        let io = |operation| move |source| JournalError::Io { operation, path: path.to_owned(), source };
        let file = File::options().create(true).append(true).open(path).map_err(io("open"))?;
        file.set_len(len).map_err(io("shorten"))?;
        Ok((Journal { path: path.to_owned(), file, len, has_rest: false }, records))
    }

    /// Appends records, which are on the disk when this returns: call it for as many as may be lost together.
    ///
    /// # Errors
    /// [`JournalError::Io`]; the journal then holds what it held before, once it is opened or appended to again.
    pub fn append<T: Serialize>(&mut self, records: &[T]) -> Result<(), JournalError> {
        let mut text = String::new();
        for record in records {
            text.push_str(&serde_json::to_string(record).expect("invariant: records are finite numbers and text"));
            text.push('\n');
        }
        let rest_is_cut = if self.has_rest { self.file.set_len(self.len) } else { Ok(()) };
        let written = rest_is_cut.and_then(|()| {
            self.has_rest = true;
            self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data())
        });
        if let Err(source) = written {
            return Err(JournalError::Io { operation: "write", path: self.path.clone(), source });
        }
        self.has_rest = false;
        self.len += text.len() as u64;
        Ok(())
    }
}

/// The records of a journal that is there and stays as it is.
///
/// # Errors
/// [`JournalError`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, JournalError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse(path, &bytes)?.0),
        Err(source) => Err(JournalError::Io { operation: "read", path: path.to_owned(), source }),
    }
}

/// The records, and the bytes of whole lines.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<(Vec<T>, u64), JournalError> {
    // Cut first: the end may lie inside of a character.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    let records = lines.map(|(index, line)| {
        serde_json::from_slice(line).map_err(|error| JournalError::Line {
            path: path.to_owned(),
            line: index + 1,
            reason: error.to_string(),
        })
    });
    Ok((records.collect::<Result<_, _>>()?, whole as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_a_kill_has_cut_anywhere_is_gone_and_the_others_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let records = ["one", "zwei, mit \u{fc}", "three"];
        Journal::open::<String>(&path).unwrap().0.append(&records).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..=bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let num_whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(read::<String>(&path).unwrap(), records[..num_whole], "cut at {cut}");
            let (mut journal, kept) = Journal::open::<String>(&path).unwrap();
            assert_eq!(kept, records[..num_whole], "cut at {cut}");
            journal.append(&["more"]).unwrap();
            assert_eq!(read::<String>(&path).unwrap(), [&records[..num_whole], &["more"]].concat(), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::fs::write(&path, "\"one\"\n\n{\"torn\n\"two\"\n").unwrap();
        let error = Journal::open::<String>(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:3: "), "{error}");
        let error = read::<String>(&folder.path().join("absent")).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
        assert!(matches!(Journal::open::<String>(folder.path()), Err(JournalError::Io { .. })));
    }
}
