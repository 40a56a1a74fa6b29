//! Tokenised documents on disk, memory-mapped.
//!
//! A store is a folder with `tokens.bin` and `meta.json`. It is built once per (source bytes, tokenizer, template, options), in
//! parallel and in bounded memory, becomes visible by one rename, and is used again as long as its fingerprint is the same. On
//! opening, sizes, tables and a SHA-256 over the content are checked.
//!
//! `tokens.bin`, little-endian: header of 128 bytes (magic `FINDAPTS`, version u32, 0u32, documents u64, tokens u64, rows u64,
//! SHA-256 of what follows), ids u32 (padded to 8 bytes), document ends u64, row ends u64 (in documents; none unless the source
//! says which stay together), mask bits (padded to 8 bytes).

mod report;
pub mod rows;
mod write;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::report::{StoreReport, WiderContext};
use self::write::write_store;
use crate::batch::TokenizedRow;
use crate::capability::{Capability, Domain};
use crate::encode::RecordEncoder;
use crate::error::{DataError, StoreProblem};
use crate::files::{hash_file, hex};
use crate::readers::{self, Format, Kind, ReadOptions};

const MAGIC: &[u8; 8] = b"FINDAPTS";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 128;
/// Goes up when the same files give other records than before, so that no store of an older program is taken for theirs.
const READERS_VERSION: u32 = 5;

/// One data set of a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name in the recipe and in reports.
    pub name: String,
    /// Files, folders and patterns, in order; see [`readers::paths::expand`].
    pub paths: Vec<PathBuf>,
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
    /// How many rows that cannot be read may be skipped, counted and said; one more ends the building.
    pub max_bad_rows: u64,
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
        let files = readers::paths::expand(&source.paths, source.format)?;
        let fingerprint = fingerprint(source, &files, encoder)?;
        if let Ok(store) = TokenStore::open(folder)
            && store.fingerprint == fingerprint
            && store.report.bad_rows <= source.max_bad_rows
        {
            return Ok(TokenStore { was_reused: true, ..store });
        }
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|error| DataError::io("create", parent, error))?;
        // Where two processes build the same store, each has its own folder; whoever is first or last, the store is whole.
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        remove_leftovers(parent, &format!("{name}.tmp-"));
        let temporary = parent.join(format!("{name}.tmp-{}", std::process::id()));
        let built = write_store(&temporary, source, &files, encoder, &fingerprint).and_then(|()| {
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

fn fingerprint(source: &Source, files: &[PathBuf], encoder: &RecordEncoder<'_>) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    for file in files {
        hash_file(&mut hasher, file).map_err(|error| DataError::io("read", file, error))?;
        // What a name says of the format, and where one file ends and the next begins.
        hasher.update(format!("\0file {:?}\0", readers::paths::format_of_name(file)));
    }
    hasher.update(format!(
        "\0version {VERSION} readers {READERS_VERSION} kind {:?} format {:?} columns {:?} context {} tokenizer {} template {:?}",
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

#[cfg(test)]
mod tests;
