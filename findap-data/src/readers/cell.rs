//! Cells of Parquet columns as JSON values.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type,
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use chrono::{DateTime, NaiveTime, Utc};
use serde_json::{Map, Value};

use super::Unreadable;

const NANOSECONDS: i64 = 1_000_000_000;

/// Null is null, numbers and booleans are themselves; text, also where it is stored as bytes, dates, times and decimals are text.
/// A cell of any other kind gives `None` and is noted, so that only a row which needs it is refused.
pub(super) fn to_json(column: &dyn Array, row: usize, place: Place<'_>, noted: &mut Vec<Unreadable>) -> Option<Value> {
    // A column without any value has the type null and no table of nulls.
    if column.is_null(row) || *column.data_type() == DataType::Null {
        return Some(Value::Null);
    }
    let mut list = |items: &dyn Array| {
        let values: Option<Vec<Value>> = (0..items.len()).map(|item| to_json(items, item, place, noted)).collect();
        values.map(Value::Array)
    };
    match column.data_type() {
        DataType::List(_) => list(column.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => list(column.as_fixed_size_list().value(row).as_ref()),
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for (field, part) in fields.iter().zip(column.as_struct().columns()) {
                let place = Place { member: Some(field.name()), ..place };
                if let Some(value) = to_json(part.as_ref(), row, place, noted) {
                    object.insert(field.name().clone(), value);
                }
            }
            Some(Value::Object(object))
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let mut object = Map::new();
            for entry in 0..entries.len() {
                let Value::String(key) = to_json(entries.column(0).as_ref(), entry, place, noted)? else {
                    return note(column, place, noted);
                };
                object.insert(key, to_json(entries.column(1).as_ref(), entry, place, noted)?);
            }
            Some(Value::Object(object))
        }
        _ => scalar(column, row).or_else(|| note(column, place, noted)),
    }
}

/// Where a cell stands: the column of the table, and the field of the innermost struct.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) column: &'a str,
    pub(super) member: Option<&'a str>,
}

fn note(column: &dyn Array, place: Place<'_>, noted: &mut Vec<Unreadable>) -> Option<Value> {
    let unreadable = Unreadable {
        column: place.column.to_owned(),
        member: place.member.map(str::to_owned),
        data_type: column.data_type().to_string(),
    };
    if !noted.contains(&unreadable) {
        noted.push(unreadable);
    }
    None
}

fn scalar(column: &dyn Array, row: usize) -> Option<Value> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Value::from);
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(row).into(),
        DataType::Utf8View => column.as_string_view().value(row).into(),
        DataType::Binary => text(column.as_binary::<i32>().value(row))?,
        DataType::LargeBinary => text(column.as_binary::<i64>().value(row))?,
        DataType::BinaryView => text(column.as_binary_view().value(row))?,
        DataType::FixedSizeBinary(_) => {
            let bytes = column.as_fixed_size_binary().value(row);
            // Texts shorter than the column's width are filled up with zeros.
            let num_bytes = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            text(&bytes[..num_bytes])?
        }
        DataType::Boolean => column.as_boolean().value(row).into(),
        DataType::Int8 => column.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => column.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => column.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float16 => column.as_primitive::<Float16Type>().value(row).to_f32().into(),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).into(),
        DataType::Decimal32(..) => column.as_primitive::<Decimal32Type>().value_as_string(row).into(),
        DataType::Decimal64(..) => column.as_primitive::<Decimal64Type>().value_as_string(row).into(),
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().value_as_string(row).into(),
        DataType::Decimal256(..) => column.as_primitive::<Decimal256Type>().value_as_string(row).into(),
        DataType::Date32 => {
            let days = i64::from(column.as_primitive::<Date32Type>().value(row));
            date(DateTime::from_timestamp(days * 86_400, 0)?)
        }
        DataType::Date64 => date(DateTime::from_timestamp_millis(column.as_primitive::<Date64Type>().value(row))?),
        DataType::Timestamp(unit, zone) => {
            let moment = match unit {
                TimeUnit::Second => {
                    DateTime::from_timestamp(column.as_primitive::<TimestampSecondType>().value(row), 0)?
                }
                TimeUnit::Millisecond => {
                    DateTime::from_timestamp_millis(column.as_primitive::<TimestampMillisecondType>().value(row))?
                }
                TimeUnit::Microsecond => {
                    DateTime::from_timestamp_micros(column.as_primitive::<TimestampMicrosecondType>().value(row))?
                }
                TimeUnit::Nanosecond => {
                    DateTime::from_timestamp_nanos(column.as_primitive::<TimestampNanosecondType>().value(row))
                }
            };
            // Parquet says whether a time is one of UTC or of no zone, and keeps no other.
            let mark = if zone.is_some() { "Z" } else { "" };
            format!("{}{mark}", moment.format("%Y-%m-%dT%H:%M:%S%.f")).into()
        }
        DataType::Time32(TimeUnit::Second) => {
            time(i64::from(column.as_primitive::<Time32SecondType>().value(row)), NANOSECONDS)?
        }
        DataType::Time32(TimeUnit::Millisecond) => {
            time(i64::from(column.as_primitive::<Time32MillisecondType>().value(row)), 1_000_000)?
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            time(column.as_primitive::<Time64MicrosecondType>().value(row), 1_000)?
        }
        DataType::Time64(TimeUnit::Nanosecond) => time(column.as_primitive::<Time64NanosecondType>().value(row), 1)?,
        _ => return None,
    })
}

fn date(day: DateTime<Utc>) -> Value {
    day.format("%Y-%m-%d").to_string().into()
}

/// A time of day of so many units of so many nanoseconds.
fn time(count: i64, unit_nanoseconds: i64) -> Option<Value> {
    let nanoseconds = count.checked_mul(unit_nanoseconds)?;
    let seconds = u32::try_from(nanoseconds.div_euclid(NANOSECONDS)).ok()?;
    let rest = nanoseconds.rem_euclid(NANOSECONDS) as u32;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, rest)?;
    Some(time.format("%H:%M:%S%.f").to_string().into())
}
