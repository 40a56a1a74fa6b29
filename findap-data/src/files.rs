//! Files that are whole or not there, and what identifies their contents.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// A file that appears under its name, durable, only when [`WholeFile::commit`] is called; dropped before that, it leaves nothing and
/// what stood there before stays. Its folder must exist.
#[derive(Debug)]
pub struct WholeFile {
    path: PathBuf,
    partial: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl WholeFile {
    /// Begins a file.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it names no file"))?;
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(partial);
        let writer = Some(BufWriter::new(File::create(&partial)?));
        Ok(Self { path: path.to_owned(), partial, writer })
    }

    /// Makes the file visible under its name.
    ///
    /// # Errors
    /// The system's; then nothing has changed.
    pub fn commit(mut self) -> io::Result<()> {
        let writer = self.writer.take().expect("invariant: the writer is there until the file is committed");
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&self.partial, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().expect("invariant: the writer is there until the file is committed").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().expect("invariant: the writer is there until the file is committed").flush()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        // After a commit there is nothing under this name.
        fs::remove_file(&self.partial).ok();
    }
}

/// Removes what killed processes have left of whole files in a folder into which nobody else writes now.
///
/// # Errors
/// The system's.
pub fn remove_partial_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_partial = name.to_str().and_then(|name| name.strip_prefix('.')?.rsplit_once(".partial-"));
        if is_partial.is_some_and(|(_, process)| process.parse::<u32>().is_ok()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a whole file at once and makes its folder where it is missing.
///
/// # Errors
/// The system's; then what stood there before still stands.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.commit()
}

/// SHA-256 in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The first 64 bits of the SHA-256 of a text: a seed for what is drawn for the thing that the text names.
pub fn seed_of(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    u64::from_be_bytes(*digest.first_chunk().expect("invariant: a SHA-256 has 32 bytes"))
}

/// SHA-256 of a file's contents, in hex.
///
/// # Errors
/// The system's.
pub fn file_sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    hash_file(&mut hasher, path)?;
    Ok(hex(&hasher.finalize()))
}

/// Adds a file's contents to a hash.
///
/// # Errors
/// The system's.
pub fn hash_file(hasher: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/a");
        write_whole(&path, b"abc").unwrap();
        let mut dropped = WholeFile::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&path).unwrap(), b"abc");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
        assert_eq!(file_sha256(&path).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(file_sha256(&path).unwrap(), sha256(b"abc"));
    }

    #[test]
    fn what_killed_processes_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in
            [".results.json.partial-4242", "results.json", ".partial-12", ".hidden", "a.partial-1", ".a.partial-x"]
        {
            fs::write(folder.path().join(name), b"").unwrap();
        }
        remove_partial_files(folder.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".a.partial-x", ".hidden", ".partial-12", "a.partial-1", "results.json"]);
    }
}
