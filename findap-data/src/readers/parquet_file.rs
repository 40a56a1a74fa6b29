//! Parquet rows as JSON objects.

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use serde_json::{Map, Value};

use super::cell::{self, Place};
use super::{Row, Rows, UntilError};
use crate::error::{DataError, FileProblem, Location};
use crate::guard::{Panicked, guard};

/// A dictionary-coded column can name one large value many times, so a batch is bounded as if every value in it were as large
/// as its whole column chunk.
const MAX_BATCH_BYTES: u64 = 256 << 20;
const MAX_BATCH_ROWS: u64 = 1024;
/// Values of a batch in one column, and so of a row: more than the longest context has tokens.
const MAX_ROW_VALUES: u64 = 16 << 20;

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
    let fields = builder.schema().fields();
    if let Some((index, twice)) = fields
        .iter()
        .enumerate()
        .find(|(index, field)| fields[..*index].iter().any(|earlier| earlier.name() == field.name()))
    {
        return Err(format!("column {} has the name `{}` of an earlier one; rename it", index + 1, twice.name()));
    }
    let groups = builder.metadata().row_groups();
    let chunks = || groups.iter().flat_map(|group| group.columns().iter().map(move |column| (group, column)));
    if let Some((_, column)) =
        chunks().find(|(_, column)| matches!(column.compression(), Compression::BROTLI(_) | Compression::LZO))
    {
        let (name, codec) = (column.column_path().string(), format!("{:?}", column.compression()));
        let codec = codec.split('(').next().unwrap_or_default().to_lowercase();
        return Err(format!("column {name} is packed by {codec}, and only zstd, snappy, gzip and lz4 are unpacked"));
    }
    let largest_chunk = chunks().map(|(_, column)| column.uncompressed_size().max(1) as u64).max().unwrap_or(1);
    // Lists have many values a row, which can be packed into next to nothing.
    let values_of_row = |(group, column): (&RowGroupMetaData, &ColumnChunkMetaData)| {
        (column.num_values().max(0) as u64).div_ceil(group.num_rows().max(1) as u64)
    };
    let row_values = chunks().map(values_of_row).max().unwrap_or(1).max(1);
    if row_values > MAX_ROW_VALUES {
        return Err(format!("a row holds {row_values} values in one column; at most {MAX_ROW_VALUES} are read"));
    }
    let batch_rows = (MAX_BATCH_BYTES / largest_chunk).min(MAX_ROW_VALUES / row_values).clamp(1, MAX_BATCH_ROWS);
    builder.with_batch_size(batch_rows as usize).build().map_err(|error| error.to_string())
}

/// The library still panics on some damaged files.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    guard(work).unwrap_or_else(|Panicked| Err("the Parquet library failed on damaged bytes".into()))
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
