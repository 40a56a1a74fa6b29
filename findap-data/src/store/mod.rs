//! Tokenised documents on disk, memory-mapped.
//!
//! A store is a folder with `tokens.bin` and `meta.json`. It is built once per (source bytes, tokenizer, template, options), in
//! parallel and in bounded memory, becomes visible by one rename, and is used again as long as its fingerprint is the same. On
//! opening, sizes, tables and a SHA-256 over the content are checked.
//!
//! `tokens.bin`, little-endian: header of 128 bytes (magic `FINDAPTS`, version u32, 0u32, documents u64, tokens u64, rows u64,
//! SHA-256 of what follows), ids u32 (padded to 8 bytes), document ends u64, row ends u64 (in documents; none unless the source
//! says which stay together), mask bits (padded to 8 bytes).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use memmap2::Mmap;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::TokenizedRow;
use crate::capability::{Capability, Domain};
use crate::encode::{Outcome, RecordEncoder};
use crate::error::{DataError, Location, StoreProblem};
use crate::files::{hash_file, hex, write_whole};
use crate::readers::{self, Format, Kind, ReadOptions, Record};

const MAGIC: &[u8; 8] = b"FINDAPTS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
/// Records are tokenised in parallel in groups of about this much text.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_RECORDS: usize = 4096;

/// One data set of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name in the recipe and in reports.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What its records are for.
    pub kind: Kind,
    /// The file format.
    pub format: Format,
    /// Our field names to the file's.
    pub columns: BTreeMap<String, String>,
    /// The field it belongs to.
    pub domain: Domain,
    /// What it teaches.
    pub capability: Capability,
    /// Wanted share of rows among the data sets of its group (texts, conversations), in (0, 1).
    pub share: Option<f64>,
}

impl Source {
    /// How its file is read.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions {
            format: self.format,
            kind: Some(self.kind),
            columns: self.columns.clone(),
            ..ReadOptions::default()
        }
    }
}

/// What was built from a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Records read.
    pub records: u64,
    /// Documents kept.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their tokens that carry loss.
    pub loss_tokens: u64,
    /// Records dropped because they are longer than the context.
    pub dropped_too_long: u64,
    /// Records dropped because there is nothing to learn.
    pub dropped_empty: u64,
    /// Bytes of text or ids read.
    pub source_bytes: u64,
    /// Time of building in seconds; of the first build when it is used again.
    pub seconds: f64,
}

#[derive(Serialize, Deserialize)]
struct Meta {
    fingerprint: String,
    report: StoreReport,
}

/// An open token store.
#[derive(Debug)]
pub struct TokenStore {
    map: Mmap,
    num_documents: usize,
    num_tokens: usize,
    num_rows: usize,
    fingerprint: String,
    report: StoreReport,
    was_reused: bool,
}

impl TokenStore {
    /// Opens the store of `source` in `folder`, or builds it there if it is absent, damaged or out of date.
    ///
    /// # Errors
    /// Those of reading and tokenising the source; [`DataError::NoLossTokens`] if nothing can be learned from it;
    /// [`DataError::Io`] if the folder cannot be written.
    pub fn build(folder: &Path, source: &Source, encoder: &RecordEncoder<'_>) -> Result<TokenStore, DataError> {
        const MIN_CONTEXT_TOKENS: usize = 4;
        if encoder.context_tokens < MIN_CONTEXT_TOKENS {
            return Err(DataError::BadOption {
                option: "context_tokens",
                got: encoder.context_tokens.to_string(),
                want: format!("at least {MIN_CONTEXT_TOKENS}"),
            });
        }
        let fingerprint = fingerprint(source, encoder)?;
        if let Ok(store) = TokenStore::open(folder)
            && store.fingerprint == fingerprint
        {
            return Ok(TokenStore { was_reused: true, ..store });
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| DataError::io("create", parent, error))?;
        // Where two processes build the same store, each has its own folder; whoever is first or last, the store is whole.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        remove_leftovers(parent, &format!("{name}.tmp-"));
        let temporary = parent.join(format!("{name}.tmp-{}", std::process::id()));
        let built = write_store(&temporary, source, encoder, &fingerprint).and_then(|()| {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(|error| DataError::io("replace", folder, error))?;
            }
            fs::rename(&temporary, folder).map_err(|error| DataError::io("rename", folder, error))?;
            TokenStore::open(folder)
        });
        if built.is_err() {
            let _ = fs::remove_dir_all(&temporary);
        }
        built
    }

    /// Opens and verifies a store.
    ///
    /// # Errors
    /// [`DataError::Store`] if a size, a table or the checksum is wrong; [`DataError::Io`].
    pub fn open(folder: &Path) -> Result<TokenStore, DataError> {
        let path = folder.join("tokens.bin");
        let meta_path = folder.join("meta.json");
        let meta = fs::read(&meta_path).map_err(|error| DataError::io("read", &meta_path, error))?;
        let fail = |problem| DataError::Store { path: path.clone(), problem };
        let meta: Meta =
            serde_json::from_slice(&meta).map_err(|_| fail(StoreProblem::BadTable { table: "meta.json" }))?;
        let file = File::open(&path).map_err(|error| DataError::io("read", &path, error))?;
        // SAFETY: the file became visible by a rename after it was complete, and no code of this crate writes to it again.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| DataError::io("map", &path, error))?;
        if map.len() < HEADER_BYTES || &map[..8] != MAGIC {
            return Err(fail(StoreProblem::BadMagic));
        }
        let number = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().expect("invariant: eight bytes"));
        let version = number(8) as u32;
        if version != VERSION {
            return Err(fail(StoreProblem::BadVersion { got: version, want: VERSION }));
        }
        let (documents, tokens, rows) = (number(16), number(24), number(32));
        let want = Layout::checked_len(documents, tokens, rows).unwrap_or(u64::MAX);
        if want != map.len() as u64 {
            return Err(fail(StoreProblem::BadSize { got: map.len() as u64, want }));
        }
        if Sha256::digest(&map[HEADER_BYTES..])[..] != map[40..72] {
            return Err(fail(StoreProblem::BadChecksum));
        }
        let store = TokenStore {
            num_documents: documents as usize,
            num_tokens: tokens as usize,
            num_rows: rows as usize,
            fingerprint: meta.fingerprint,
            report: meta.report,
            was_reused: false,
            map,
        };
        let is_ascending = |ends: &[u64], last: u64| ends.is_sorted() && ends.last().copied().unwrap_or(0) == last;
        if !is_ascending(store.document_ends(), tokens) {
            return Err(fail(StoreProblem::BadTable { table: "table of documents" }));
        }
        if rows > 0 && !is_ascending(store.row_ends(), documents) {
            return Err(fail(StoreProblem::BadTable { table: "table of rows" }));
        }
        Ok(store)
    }

    /// Number of documents.
    pub fn num_documents(&self) -> usize {
        self.num_documents
    }

    /// Number of tokens.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Number of tokens of a document.
    pub fn document_len(&self, document: usize) -> usize {
        let (start, end) = self.bounds(document);
        end - start
    }

    /// Ids of a document.
    pub fn ids(&self, document: usize) -> &[u32] {
        let (start, end) = self.bounds(document);
        let bytes = &self.map[HEADER_BYTES..HEADER_BYTES + self.num_tokens * 4];
        &bytemuck::cast_slice(bytes)[start..end]
    }

    /// Loss mask of a document, written over `mask`.
    pub fn mask(&self, document: usize, mask: &mut Vec<bool>) {
        let (start, end) = self.bounds(document);
        let bits = &self.map[self.layout().mask..];
        mask.clear();
        mask.extend((start..end).map(|token| bits[token / 8] >> (token % 8) & 1 == 1));
    }

    /// A document with its mask.
    pub fn document(&self, document: usize) -> TokenizedRow {
        let mut mask = Vec::new();
        self.mask(document, &mut mask);
        TokenizedRow { ids: self.ids(document).to_vec(), mask }
    }

    /// Number of loss-bearing tokens of a document.
    pub fn num_loss_tokens(&self, document: usize) -> usize {
        let (start, end) = self.bounds(document);
        let bits = &self.map[self.layout().mask..];
        (start + 1..end).filter(|&token| bits[token / 8] >> (token % 8) & 1 == 1).count()
    }

    /// Whether the source says which documents stay together: packed rows and preference pairs.
    pub fn has_given_rows(&self) -> bool {
        self.num_rows > 0
    }

    /// Number of rows: of what stays together. A document is a row of its own unless the source gave rows.
    pub fn num_rows(&self) -> usize {
        if self.has_given_rows() { self.num_rows } else { self.num_documents }
    }

    /// The documents of a row.
    pub fn row(&self, row: usize) -> std::ops::Range<usize> {
        if !self.has_given_rows() {
            return row..row + 1;
        }
        let ends = self.row_ends();
        let start = if row == 0 { 0 } else { ends[row - 1] as usize };
        start..ends[row] as usize
    }

    /// Tokens of a row.
    pub fn row_tokens(&self, row: usize) -> usize {
        self.row(row).map(|document| self.document_len(document)).sum()
    }

    /// Loss-bearing tokens of a row.
    pub fn row_loss_tokens(&self, row: usize) -> usize {
        self.row(row).map(|document| self.num_loss_tokens(document)).sum()
    }

    /// What was built.
    pub fn report(&self) -> &StoreReport {
        &self.report
    }

    /// SHA-256 over source, tokenizer, template and options, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether [`TokenStore::build`] found it finished.
    pub fn was_reused(&self) -> bool {
        self.was_reused
    }

    fn layout(&self) -> Layout {
        Layout::new(self.num_documents, self.num_tokens, self.num_rows)
    }

    fn bounds(&self, document: usize) -> (usize, usize) {
        let ends = self.document_ends();
        let start = if document == 0 { 0 } else { ends[document - 1] as usize };
        (start, ends[document] as usize)
    }

    fn document_ends(&self) -> &[u64] {
        let start = self.layout().document_ends;
        bytemuck::cast_slice(&self.map[start..start + 8 * self.num_documents])
    }

    fn row_ends(&self) -> &[u64] {
        let start = self.layout().row_ends;
        bytemuck::cast_slice(&self.map[start..start + 8 * self.num_rows])
    }
}

/// Byte offsets of the sections.
struct Layout {
    document_ends: usize,
    row_ends: usize,
    mask: usize,
}

impl Layout {
    fn new(documents: usize, tokens: usize, rows: usize) -> Layout {
        let document_ends = HEADER_BYTES + (tokens * 4).next_multiple_of(8);
        let row_ends = document_ends + documents * 8;
        Layout { document_ends, row_ends, mask: row_ends + rows * 8 }
    }

    /// File size that the header promises, or `None` if it does not fit in 64 bits.
    fn checked_len(documents: u64, tokens: u64, rows: u64) -> Option<u64> {
        let ids = tokens.checked_mul(4)?.checked_next_multiple_of(8)?;
        let tables = documents.checked_add(rows)?.checked_mul(8)?;
        let mask = tokens.div_ceil(8).checked_next_multiple_of(8)?;
        (HEADER_BYTES as u64).checked_add(ids)?.checked_add(tables)?.checked_add(mask)
    }
}

fn fingerprint(source: &Source, encoder: &RecordEncoder<'_>) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    hash_file(&mut hasher, &source.path).map_err(|error| DataError::io("read", &source.path, error))?;
    hasher.update(format!(
        "\0version {VERSION} kind {:?} format {:?} columns {:?} context {} tokenizer {} template {:?}",
        source.kind,
        source.format,
        source.columns,
        encoder.context_tokens,
        encoder.tokenizer.fingerprint(),
        encoder.template.map(|template| template.fingerprint()),
    ));
    Ok(hex(&hasher.finalize()))
}

/// Removes what processes that no longer run have left behind.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(process) = name.strip_prefix(prefix) else { continue };
        if !Path::new("/proc").join(process).exists() {
            // A leftover that cannot be removed only costs space.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn write_store(
    folder: &Path,
    source: &Source,
    encoder: &RecordEncoder<'_>,
    fingerprint: &str,
) -> Result<(), DataError> {
    let started = Instant::now();
    fs::create_dir_all(folder).map_err(|error| DataError::io("create", folder, error))?;
    let path = folder.join("tokens.bin");
    let mut writer = Writer::create(&path)?;
    let mut report = StoreReport::default();
    let mut records = readers::read(&source.path, &source.read_options())?;
    loop {
        let group = next_group(&mut records)?;
        if group.is_empty() {
            break;
        }
        // Tokenised in parallel, written in order: the store does not depend on the number of threads.
        let outcomes: Vec<Result<Outcome, DataError>> = group
            .par_iter()
            .map(|(location, record)| {
                encoder.documents(record, source.kind).map_err(|error| error.at(&source.path, *location))
            })
            .collect();
        for ((_, record), outcome) in group.iter().zip(outcomes) {
            report.records += 1;
            report.source_bytes += record.num_bytes() as u64;
            match outcome? {
                Outcome::TooLong => report.dropped_too_long += 1,
                Outcome::Empty => report.dropped_empty += 1,
                Outcome::Documents(documents) => {
                    for document in &documents {
                        writer.push(document, &mut report)?;
                    }
                }
                Outcome::PackedRow(documents) => {
                    for document in &documents {
                        writer.push(document, &mut report)?;
                    }
                    writer.end_row();
                }
            }
        }
    }
    if report.loss_tokens == 0 {
        return Err(DataError::NoLossTokens { dataset: source.name.clone(), rows: report.records as usize });
    }
    writer.finish()?;
    report.seconds = started.elapsed().as_secs_f64();
    let meta_path = folder.join("meta.json");
    let meta = Meta { fingerprint: fingerprint.to_string(), report };
    let text = serde_json::to_vec_pretty(&meta).expect("invariant: numbers and strings serialise");
    write_whole(&meta_path, &text).map_err(|error| DataError::io("write", &meta_path, error))
}

fn next_group(records: &mut readers::Records) -> Result<Vec<(Location, Record)>, DataError> {
    let mut group = Vec::new();
    let mut num_bytes = 0;
    while num_bytes < GROUP_BYTES && group.len() < GROUP_RECORDS {
        match records.next() {
            None => break,
            Some(item) => {
                let (location, record) = item?;
                num_bytes += record.num_bytes();
                group.push((location, record));
            }
        }
    }
    Ok(group)
}

/// Writes ids as they come and keeps ends (8 bytes a document) and mask bits until the end.
struct Writer<'a> {
    path: &'a Path,
    output: BufWriter<File>,
    hasher: Sha256,
    num_tokens: u64,
    document_ends: Vec<u64>,
    row_ends: Vec<u64>,
    mask: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn create(path: &'a Path) -> Result<Writer<'a>, DataError> {
        let as_error = |error| DataError::io("write", path, error);
        let mut output = BufWriter::with_capacity(1 << 20, File::create(path).map_err(as_error)?);
        output.write_all(&[0; HEADER_BYTES]).map_err(as_error)?;
        Ok(Writer {
            path,
            output,
            hasher: Sha256::new(),
            num_tokens: 0,
            document_ends: Vec::new(),
            row_ends: Vec::new(),
            mask: Vec::new(),
        })
    }

    fn push(&mut self, document: &TokenizedRow, report: &mut StoreReport) -> Result<(), DataError> {
        self.write(bytemuck::cast_slice(&document.ids))?;
        for &is_target in &document.mask {
            let token = self.num_tokens as usize;
            if token.is_multiple_of(8) {
                self.mask.push(0);
            }
            self.mask[token / 8] |= u8::from(is_target) << (token % 8);
            self.num_tokens += 1;
        }
        self.document_ends.push(self.num_tokens);
        report.documents += 1;
        report.tokens += document.len() as u64;
        report.loss_tokens += document.num_loss_tokens() as u64;
        Ok(())
    }

    fn end_row(&mut self) {
        self.row_ends.push(self.document_ends.len() as u64);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.output.write_all(bytes).map_err(|error| DataError::io("write", self.path, error))
    }

    fn finish(mut self) -> Result<(), DataError> {
        if self.num_tokens % 2 == 1 {
            self.write(&[0; 4])?;
        }
        let document_ends = std::mem::take(&mut self.document_ends);
        let row_ends = std::mem::take(&mut self.row_ends);
        let mut mask = std::mem::take(&mut self.mask);
        mask.resize(mask.len().next_multiple_of(8), 0);
        self.write(bytemuck::cast_slice(&document_ends))?;
        self.write(bytemuck::cast_slice(&row_ends))?;
        self.write(&mask)?;
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(document_ends.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&self.num_tokens.to_le_bytes());
        header[32..40].copy_from_slice(&(row_ends.len() as u64).to_le_bytes());
        header[40..72].copy_from_slice(&self.hasher.finalize());
        let mut write_header = || -> std::io::Result<()> {
            self.output.seek(SeekFrom::Start(0))?;
            self.output.write_all(&header)?;
            self.output.flush()?;
            self.output.get_ref().sync_all()
        };
        write_header().map_err(|error| DataError::io("write", self.path, error))
    }
}

#[cfg(test)]
mod tests;
