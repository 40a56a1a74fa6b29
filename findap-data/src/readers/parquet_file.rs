//! Parquet rows as JSON objects.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use super::cell::{self, Place};
use super::{Row, Rows, UntilError};
use crate::error::{DataError, FileProblem, Location};

/// A dictionary-coded column can name one large value many times, so a batch is bounded as if every value in it were as large
/// as its whole column chunk.
const MAX_BATCH_BYTES: u64 = 256 << 20;
const MAX_BATCH_ROWS: u64 = 1024;

pub(super) fn rows(path: &Path) -> Result<Rows, DataError> {
    let fail = {
        let path = path.to_path_buf();
        move |detail: String| DataError::File { path: path.clone(), problem: FileProblem::Parquet { detail } }
    };
    let file = File::open(path).map_err(|error| DataError::io("read", path, error))?;
    let mut reader = guarded(|| open(file)).map_err(&fail)?;
    let mut row = 0;
    let mut batch: Option<(RecordBatch, usize)> = None;
    let items = std::iter::from_fn(move || {
        loop {
            if let Some((rows, next)) = &mut batch
                && *next < rows.num_rows()
            {
                row += 1;
                let value = guarded(|| Ok(row_to_json(rows, *next)));
                *next += 1;
                return Some(value.map(|value| (Location::Row(row), value)).map_err(&fail));
            }
            let next = guarded(|| reader.next().transpose().map_err(|error| error.to_string()));
            match next {
                Ok(Some(rows)) => batch = Some((rows, 0)),
                Ok(None) => return None,
                Err(detail) => return Some(Err(fail(detail))),
            }
        }
    });
    Ok(Box::new(UntilError::new(path, items)))
}

fn open(file: File) -> Result<ParquetRecordBatchReader, String> {
    // The Arrow schema stored beside the Parquet schema is optional, and a damaged one makes the library fail.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder =
        ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|error| error.to_string())?;
    let largest_chunk = builder
        .metadata()
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
        .map(|column| column.uncompressed_size().max(1) as u64)
        .max()
        .unwrap_or(1);
    let batch_rows = (MAX_BATCH_BYTES / largest_chunk).clamp(1, MAX_BATCH_ROWS);
    builder.with_batch_size(batch_rows as usize).build().map_err(|error| error.to_string())
}

/// The library still panics on some damaged files.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("the Parquet library failed on damaged bytes".into()))
}

fn row_to_json(rows: &RecordBatch, row: usize) -> Row {
    let (mut fields, mut unreadable) = (Map::new(), Vec::new());
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        let place = Place { column: field.name(), member: None };
        if let Some(value) = cell::to_json(column.as_ref(), row, place, &mut unreadable) {
            fields.insert(field.name().clone(), value);
        }
    }
    Row { value: Value::Object(fields), unreadable }
}
