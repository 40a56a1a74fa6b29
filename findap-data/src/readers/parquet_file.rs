//! Parquet rows as JSON objects.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use super::{UntilError, Values};
use crate::error::{DataError, FileProblem, Location};

/// A dictionary-coded column can name one large value many times, so a batch is bounded as if every value in it were as large
/// as its whole column chunk.
const MAX_BATCH_BYTES: u64 = 256 << 20;
const MAX_BATCH_ROWS: u64 = 1024;

pub(super) fn rows(path: &Path) -> Result<Values, DataError> {
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
                let value = guarded(|| row_to_json(rows, *next));
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

fn row_to_json(rows: &RecordBatch, row: usize) -> Result<Value, String> {
    let mut fields = Map::new();
    for (field, column) in rows.schema_ref().fields().iter().zip(rows.columns()) {
        fields.insert(field.name().clone(), cell_to_json(column.as_ref(), row)?);
    }
    Ok(Value::Object(fields))
}

fn cell_to_json(column: &dyn Array, row: usize) -> Result<Value, String> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let list = |items: &dyn Array| -> Result<Value, String> {
        (0..items.len()).map(|item| cell_to_json(items, item)).collect::<Result<Vec<_>, _>>().map(Value::Array)
    };
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::List(_) => list(column.as_list::<i32>().value(row).as_ref())?,
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row).as_ref())?,
        DataType::Struct(fields) => {
            let parts = column.as_struct();
            let mut object = Map::new();
            for (field, part) in fields.iter().zip(parts.columns()) {
                object.insert(field.name().clone(), cell_to_json(part.as_ref(), row)?);
            }
            Value::Object(object)
        }
        // Dates, decimals and binary columns are not text; they pass by name so that other columns can be read.
        other => format!("<{other}>").into(),
    })
}
