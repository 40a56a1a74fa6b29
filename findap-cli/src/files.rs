//! Output files that are whole or absent.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file that appears under its name only when [`OutputFile::commit`] is called; dropped before that, it leaves nothing.
pub(crate) struct OutputFile {
    path: PathBuf,
    partial: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl OutputFile {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        anyhow::ensure!(!path.is_dir(), "{} is a folder: name a file to write", path.display());
        let mut partial_name = name.to_owned();
        partial_name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(partial_name);
        let file = File::create(&partial)
            .with_context(|| format!("cannot write {}: does its folder exist and is it writable?", path.display()))?;
        Ok(Self { path: path.to_owned(), partial, writer: Some(BufWriter::new(file)) })
    }

    pub(crate) fn write_line(&mut self, line: &str) -> Result<()> {
        let writer = self.writer.as_mut().context("invariant: the file is open until it is committed")?;
        writeln!(writer, "{line}").with_context(|| format!("cannot write {}: is the disk full?", self.path.display()))
    }

    /// Makes the file visible under its name.
    pub(crate) fn commit(mut self) -> Result<()> {
        let says = || format!("cannot write {}: is the disk full?", self.path.display());
        if let Some(writer) = self.writer.take() {
            let file = writer.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(says)?;
            file.sync_all().with_context(says)?;
        }
        std::fs::rename(&self.partial, &self.path).with_context(says)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // After a commit there is nothing under this name.
        std::fs::remove_file(&self.partial).ok();
    }
}
