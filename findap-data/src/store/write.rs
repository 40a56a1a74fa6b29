//! A source's rows to a store's file.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::rows::{Amount, SourceRows};
use super::{HEADER_BYTES, MAGIC, Meta, Source, StoreReport, VERSION};
use crate::batch::TokenizedRow;
use crate::encode::{Outcome, RecordEncoder};
use crate::error::{DataError, Location};
use crate::files::write_whole;
use crate::readers::{self, Record, Records};

/// Records are tokenised in parallel in groups of about this much text.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_RECORDS: usize = 4096;
/// So many bad rows are said one by one.
const MAX_SAID: usize = 10;

pub(super) fn write_store(
    folder: &Path,
    source: &Source,
    files: &[PathBuf],
    encoder: &RecordEncoder<'_>,
    fingerprint: &str,
) -> Result<(), DataError> {
    let started = Instant::now();
    fs::create_dir_all(folder).map_err(|error| DataError::io("create", folder, error))?;
    let path = folder.join("tokens.bin");
    let mut writer = Writer::create(&path)?;
    let mut report = StoreReport::default();
    let mut rows = RowsOfFiles { source, files: files.iter(), current: None };
    let mut longest_tokens = Vec::new();
    loop {
        let group = rows.next_group(&mut report)?;
        if group.is_empty() {
            break;
        }
        // Tokenised in parallel, written in order: the store does not depend on the number of threads.
        let outcomes: Vec<Result<Outcome, DataError>> = group
            .par_iter()
            .map(|row| encoder.documents(&row.record, source.kind).map_err(|error| error.at(&row.file, row.location)))
            .collect();
        for (row, outcome) in group.iter().zip(outcomes) {
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    skip_bad_row(source, &mut report, error)?;
                    continue;
                }
            };
            report.records += 1;
            report.transcripts += u64::from(row.record.is_transcript());
            report.source_bytes += row.record.num_bytes() as u64;
            match outcome {
                Outcome::TooLong { num_tokens, longest } => {
                    report.dropped_too_long += 1;
                    report.too_long_tokens += num_tokens as u64;
                    longest_tokens.push(longest as u64);
                }
                Outcome::Empty => report.dropped_empty += 1,
                Outcome::EqualAnswers => report.dropped_equal += 1,
                Outcome::Documents(documents) => {
                    for document in &documents {
                        writer.push(document, &mut report)?;
                    }
                }
                Outcome::Conversation { document, num_unended_replies } => {
                    writer.push(&document, &mut report)?;
                    report.unended_replies += num_unended_replies as u64;
                }
                Outcome::PackedRow(documents) => {
                    report.uncontinued_prompts += u64::from(row.record.ends_a_prompt_uncontinued());
                    for document in &documents {
                        writer.push(document, &mut report)?;
                    }
                    writer.end_row();
                }
            }
        }
    }
    report.advise(longest_tokens);
    if report.loss_tokens == 0 {
        return Err(nothing_to_learn(source, &report, encoder.context_tokens));
    }
    writer.finish()?;
    report.seconds = started.elapsed().as_secs_f64();
    let meta_path = folder.join("meta.json");
    let meta = Meta { fingerprint: fingerprint.to_string(), report };
    let text = serde_json::to_vec_pretty(&meta).expect("invariant: numbers and strings serialise");
    write_whole(&meta_path, &text).map_err(|error| DataError::io("write", &meta_path, error))
}

fn nothing_to_learn(source: &Source, report: &StoreReport, context_tokens: usize) -> DataError {
    let kept = Amount { rows: report.num_kept(), tokens: report.tokens };
    let mut left_out = SourceRows::new(&source.name, report, kept).left_out();
    left_out.extend(report.notes());
    let dataset = source.name.clone();
    match report.dropped_too_long {
        0 => DataError::NoLossTokens { dataset, rows: (report.records + report.bad_rows) as usize, left_out },
        _ => DataError::AllTooLong { dataset, context_tokens, left_out },
    }
}

/// Counts a row that cannot be used, as long as the source allows it.
fn skip_bad_row(source: &Source, report: &mut StoreReport, error: DataError) -> Result<(), DataError> {
    let max_bad_rows = source.max_bad_rows;
    if !matches!(error, DataError::Record { .. }) || max_bad_rows == 0 {
        return Err(error);
    }
    if report.bad_rows >= max_bad_rows {
        return Err(DataError::TooManyBadRows { dataset: source.name.clone(), max_bad_rows, next: Box::new(error) });
    }
    report.bad_rows += 1;
    if report.first_bad_rows.len() < MAX_SAID {
        report.first_bad_rows.push(error.to_string());
    }
    Ok(())
}

struct SourceRow {
    file: Arc<Path>,
    location: Location,
    record: Record,
}

/// The rows of a source's files, one file after the other.
struct RowsOfFiles<'a> {
    source: &'a Source,
    files: std::slice::Iter<'a, PathBuf>,
    current: Option<(Arc<Path>, Records)>,
}

impl RowsOfFiles<'_> {
    fn next_group(&mut self, report: &mut StoreReport) -> Result<Vec<SourceRow>, DataError> {
        let mut group = Vec::new();
        let mut num_bytes = 0;
        while num_bytes < GROUP_BYTES && group.len() < GROUP_RECORDS {
            let Some((file, records)) = &mut self.current else {
                let Some(path) = self.files.next() else { break };
                self.current = Some((path.as_path().into(), readers::read(path, &self.source.read_options())?));
                continue;
            };
            match records.next() {
                None => self.current = None,
                Some(Ok((location, record))) => {
                    num_bytes += record.num_bytes();
                    group.push(SourceRow { file: file.clone(), location, record });
                }
                Some(Err(error)) => skip_bad_row(self.source, report, error)?,
            }
        }
        Ok(group)
    }
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
