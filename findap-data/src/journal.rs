//! Files of JSON lines that survive a kill: what is appended is on disk, and a line is whole or absent.
//!
//! A kill in the middle of a write cuts the last line short. Opening the file removes that line and says so ([`Torn`]); whoever
//! reads the journal does that piece of work again. Nothing else can be cut, so an unreadable line that has its end is an error.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{DataError, Location, RecordProblem};
use crate::plain_words::plain_words;

/// Appends entries to a file, one JSON object per line. A file has one journal at a time.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are whole and on disk.
    synced: u64,
    /// Whether there may be more behind them, left by an append that failed.
    is_dirty: bool,
}

/// What a journal held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries<T> {
    /// The whole lines, in their order.
    pub entries: Vec<T>,
    /// The line that was cut short.
    pub torn: Option<Torn>,
}

/// A last line that a kill cut short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Torn {
    /// Its number, from 1.
    pub line: u64,
    /// Bytes that were there of it.
    pub bytes: u64,
}

impl Journal {
    /// Opens a journal, or begins one where there is no file, and reads what it holds. A torn last line is removed from the file.
    ///
    /// # Errors
    /// [`DataError::Io`]; [`DataError::Record`] with the line that is whole but no entry.
    pub fn open<T: DeserializeOwned>(path: &Path) -> Result<(Journal, Entries<T>), DataError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(|error| DataError::io("make the folder", folder, error))?;
        let is_new = !path.exists();
        let file = File::options().create(true).append(true).open(path);
        let file = file.map_err(|error| DataError::io("open", path, error))?;
        if is_new {
            // The name, too, is on disk before the first entry is.
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| DataError::io("sync the folder of", path, error))?;
        }
        let bytes = fs::read(path).map_err(|error| DataError::io("read", path, error))?;
        let synced = whole_lines(&bytes).len() as u64;
        let entries = parse(path, &bytes)?;
        let mut journal = Journal { path: path.to_owned(), file, synced, is_dirty: entries.torn.is_some() };
        journal.cut()?;
        Ok((journal, entries))
    }

    /// Reads a journal without changing the file; a torn last line is left out.
    ///
    /// # Errors
    /// As [`Journal::open`], and [`DataError::Io`] where there is no file.
    pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Entries<T>, DataError> {
        let bytes = fs::read(path).map_err(|error| DataError::io("read", path, error))?;
        parse(path, &bytes)
    }

    /// Appends entries in one write and one sync: on return all are on disk. A kill before that leaves a first part of them,
    /// each whole. A sync takes 0.1 to 20 ms on a disk, so give together what was computed together.
    ///
    /// # Errors
    /// [`DataError::Io`]; then none of the entries counts, and the next append removes what was written of them.
    ///
    /// # Panics
    /// If an entry has no form in JSON, such as a map whose keys are not text.
    pub fn append<T: Serialize>(&mut self, entries: &[T]) -> Result<(), DataError> {
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, entry).expect("invariant: an entry has a form in JSON");
            text.push(b'\n');
        }
        self.cut()?;
        self.is_dirty = true;
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|error| DataError::io("append to", &self.path, error))?;
        self.is_dirty = false;
        self.synced += text.len() as u64;
        Ok(())
    }

    /// Removes what stands behind the last whole line.
    fn cut(&mut self) -> Result<(), DataError> {
        if self.is_dirty {
            let cut = self.file.set_len(self.synced).and_then(|()| self.file.sync_data());
            cut.map_err(|error| DataError::io("cut", &self.path, error))?;
            self.is_dirty = false;
        }
        Ok(())
    }
}

fn whole_lines(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)]
}

/// Empty lines are no entries: earlier versions of this program wrote them between groups.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<Entries<T>, DataError> {
    let whole = whole_lines(bytes);
    let mut entries = Vec::new();
    let mut num_lines = 0;
    for line in whole.split_inclusive(|byte| *byte == b'\n') {
        num_lines += 1;
        if line == b"\n" {
            continue;
        }
        let entry = serde_json::from_slice(line).map_err(|error| DataError::Record {
            path: path.to_owned(),
            location: Location::Line(num_lines),
            problem: RecordProblem::NotAnEntry { detail: plain_words(&error.to_string()) },
        })?;
        entries.push(entry);
    }
    let num_torn = (bytes.len() - whole.len()) as u64;
    let torn = (num_torn > 0).then_some(Torn { line: num_lines + 1, bytes: num_torn });
    Ok(Entries { entries, torn })
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufRead};
    use std::process::{Command, Stdio};

    use super::*;

    type Entry = (u64, String);

    fn entry(n: u64) -> Entry {
        (n, format!("\u{20ac} \"{n}\"\n"))
    }

    #[test]
    fn a_file_cut_at_any_byte_holds_its_whole_lines_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/journal.jsonl");
        let (mut journal, read) = Journal::open::<Entry>(&path).unwrap();
        assert_eq!(read, Entries { entries: Vec::new(), torn: None });
        journal.append(&[entry(0), entry(1)]).unwrap();
        journal.append(&[entry(2)]).unwrap();
        let bytes = fs::read(&path).unwrap();
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let whole = bytes[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
            let end = whole_lines(&bytes[..length]).len();
            let entries: Vec<Entry> = (0..whole).map(entry).collect();
            let torn = (end < length).then_some(Torn { line: whole + 1, bytes: (length - end) as u64 });
            let expected = Entries { entries, torn };
            assert_eq!(Journal::read(&path).unwrap(), expected);
            assert_eq!(fs::metadata(&path).unwrap().len(), length as u64, "reading changes nothing");
            let (mut journal, read) = Journal::open::<Entry>(&path).unwrap();
            assert_eq!(read, expected);
            assert_eq!(fs::metadata(&path).unwrap().len(), end as u64);
            journal.append(&(whole..3).map(entry).collect::<Vec<_>>()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn an_unreadable_line_that_has_its_end_is_an_error_with_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        for (text, line) in [("hello\n", 1), ("\n[0,\"a\"]\n[1,\"half\n[2,\"b\"]\n", 3), ("[0,\"a\"]\n\u{20ac}\n[1", 2)]
        {
            fs::write(&path, text).unwrap();
            let is_named = |error: DataError| {
                let message = error.to_string();
                assert!(message.contains("journal.jsonl") && message.contains(&format!("line {line}:")), "{message}");
                matches!(error, DataError::Record { problem: RecordProblem::NotAnEntry { .. }, .. })
            };
            assert!(is_named(Journal::open::<Entry>(&path).unwrap_err()));
            assert!(is_named(Journal::read::<Entry>(&path).unwrap_err()));
            assert_eq!(fs::read_to_string(&path).unwrap(), text, "a refusal changes nothing");
        }
        let missing = Journal::read::<Entry>(&folder.path().join("missing")).unwrap_err();
        assert!(matches!(missing, DataError::Io { action: "read", .. }));
    }

    #[test]
    fn what_a_failed_append_left_is_removed_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let (mut journal, _) = Journal::open::<Entry>(&path).unwrap();
        journal.append(&[entry(0)]).unwrap();
        let writable = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
        assert!(matches!(journal.append(&[entry(1)]), Err(DataError::Io { action: "append to", .. })));
        journal.file = writable;
        journal.file.write_all(b"[1,\"ha").unwrap();
        journal.append(&[entry(2)]).unwrap();
        assert_eq!(Journal::read::<Entry>(&path).unwrap().entries, [entry(0), entry(2)]);
    }

    const WRITER: &str = "FINDAP_TEST_JOURNAL";

    /// The process that is killed: numbers go on from what is there, and each is told once it is on disk.
    fn write_without_end(path: &Path) -> ! {
        let (mut journal, read) = Journal::open::<Entry>(path).unwrap();
        let mut next = read.entries.len() as u64;
        loop {
            let group: Vec<Entry> = (next..next + 3).map(|n| (n, "x".repeat(200_000))).collect();
            journal.append(&group).unwrap();
            next += 3;
            writeln!(io::stdout(), "acknowledged {next}").unwrap();
        }
    }

    #[test]
    fn a_writer_killed_at_any_moment_leaves_whole_lines_and_all_it_acknowledged() {
        if let Some(path) = std::env::var_os(WRITER) {
            write_without_end(Path::new(&path));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        for round in 0..12 {
            let test = "journal::tests::a_writer_killed_at_any_moment_leaves_whole_lines_and_all_it_acknowledged";
            let mut writer = Command::new(std::env::current_exe().unwrap());
            writer.args(["--exact", test, "--nocapture"]).env(WRITER, &path).stdout(Stdio::piped());
            let mut writer = writer.spawn().unwrap();
            let lines = io::BufReader::new(writer.stdout.take().unwrap()).lines().map(Result::unwrap);
            let mut numbers = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
            let acknowledged = numbers.by_ref().take(1 + round % 4).last().expect("the writer writes");
            // A different moment of the next write in each round.
            std::thread::sleep(std::time::Duration::from_micros(211 * round as u64));
            writer.kill().unwrap();
            writer.wait().unwrap();
            let entries = Journal::read::<Entry>(&path).unwrap().entries;
            assert!(entries.len() as u64 >= acknowledged, "{} of {acknowledged}", entries.len());
            assert!(entries.iter().zip(0..).all(|((n, _), at)| *n == at), "round {round}");
        }
    }
}
