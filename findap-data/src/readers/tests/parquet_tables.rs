use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray, Float64Array,
    Int64Array, LargeBinaryArray, ListArray, NullArray, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field};
use serde_json::json;

use super::*;

fn table(columns: &[(&str, ArrayRef)]) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(name, column)| (*name, column.clone(), true)));
    let batch = batch.expect("batch");
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("writer");
    writer.write(&batch).expect("write");
    writer.close().expect("close");
    bytes
}

#[test]
fn pages_are_unpacked_whatever_packed_them() {
    use parquet::basic::Compression;
    let batch = RecordBatch::try_from_iter([("text", texts(&[Some("one"), Some("two")]))]).expect("batch");
    let zstd = Compression::ZSTD(Default::default());
    let gzip = Compression::GZIP(Default::default());
    for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd, gzip, Compression::LZ4, Compression::LZ4_RAW] {
        let properties = parquet::file::properties::WriterProperties::builder().set_compression(codec).build();
        let mut bytes = Vec::new();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("writer");
        writer.write(&batch).expect("write");
        writer.close().expect("close");
        let records = read_all("a.parquet", &bytes).expect("read");
        assert_eq!(records, ["one", "two"].map(|text| Record::Text(text.into())), "{codec:?}");
    }
}

fn texts(texts: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

#[test]
fn parquet_is_read_and_damaged_parquet_is_refused() {
    let good = table(&[("text", texts(&[Some("one"), Some("two \u{20ac}"), Some("three")]))]);
    let records = read_all("a.parquet", &good).expect("read");
    assert_eq!(records, ["one", "two \u{20ac}", "three"].map(|text| Record::Text(text.into())));

    let mut absurd_footer = good.clone();
    let len = absurd_footer.len();
    absurd_footer[len - 8..len - 4].fill(0xff);
    for bytes in
        [b"PAR1".to_vec(), b"PAR1PAR1".to_vec(), good[..len / 2].to_vec(), good[..len - 1].to_vec(), absurd_footer]
    {
        assert!(read_all("a.parquet", &bytes).is_err());
    }
    // Every flipped byte gives records or an error, never a panic.
    for place in 0..len {
        let mut flipped = good.clone();
        flipped[place] ^= 0xff;
        let _ = read_all("a.parquet", &flipped);
    }
}

#[test]
fn columns_of_one_name_and_rows_of_too_many_values_are_refused() {
    let twice = table(&[("text", texts(&[Some("one")])), ("text", texts(&[Some("two")]))]);
    let error = read_all("a.parquet", &twice).expect_err("two columns").to_string();
    assert!(error.contains("column 2 has the name `text`"), "{error}");

    // 17 million equal numbers are next to nothing in the file.
    let numbers = Int64Array::from(vec![0; 17 << 20]);
    let field = Arc::new(Field::new("item", DataType::Int64, true));
    let list = ListArray::new(field, OffsetBuffer::from_lengths([numbers.len()]), Arc::new(numbers), None);
    let bomb = table(&[("text", texts(&[Some("one")])), ("ids", Arc::new(list))]);
    assert!(bomb.len() < 1 << 16, "{} bytes", bomb.len());
    let error = read_all("a.parquet", &bomb).expect_err("a long list").to_string();
    assert!(error.contains("a row holds 17825792 values"), "{error}");
}

#[test]
fn cells_are_the_texts_and_numbers_they_hold() {
    let fixed = FixedSizeBinaryArray::try_from_iter([b"abc\0\0".to_vec()].into_iter()).expect("fixed");
    let decimal = Decimal128Array::from(vec![-1_050]).with_precision_and_scale(9, 2).expect("decimal");
    let moment = 1_700_000_000_500_000;
    let columns: Vec<(&str, ArrayRef, Value)> = vec![
        ("binary", Arc::new(BinaryArray::from(vec!["née".as_bytes()])), json!("née")),
        ("large_binary", Arc::new(LargeBinaryArray::from(vec!["x".as_bytes()])), json!("x")),
        ("fixed_binary", Arc::new(fixed), json!("abc")),
        ("absent", Arc::new(NullArray::new(1)), json!(null)),
        ("null_text", texts(&[None]), json!(null)),
        ("date", Arc::new(Date32Array::from(vec![19_723])), json!("2024-01-01")),
        ("day_before_epoch", Arc::new(Date32Array::from(vec![-1])), json!("1969-12-31")),
        ("local", Arc::new(TimestampMicrosecondArray::from(vec![moment])), json!("2023-11-14T22:13:20.500")),
        (
            "utc",
            Arc::new(TimestampMicrosecondArray::from(vec![moment]).with_timezone("UTC")),
            json!("2023-11-14T22:13:20.500Z"),
        ),
        ("time", Arc::new(Time64MicrosecondArray::from(vec![3_723_000_000])), json!("01:02:03")),
        ("decimal", Arc::new(decimal), json!("-10.50")),
        ("flag", Arc::new(BooleanArray::from(vec![true])), json!(true)),
        ("count", Arc::new(Int64Array::from(vec![i64::MIN])), json!(i64::MIN)),
        ("ratio", Arc::new(Float64Array::from(vec![0.1])), json!(0.1)),
    ];
    let arrays: Vec<(&str, ArrayRef)> = columns.iter().map(|(name, array, _)| (*name, array.clone())).collect();
    let (_folder, path) = file("a.parquet", &table(&arrays));
    let (_, value) = read_values(&path, &ReadOptions::default()).expect("open").next().expect("row").expect("value");
    for (name, _, want) in columns {
        assert_eq!(value[name], want, "{name}");
    }
}

#[test]
fn cells_that_are_no_text_are_refused_only_where_they_are_used() {
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![&[0xff, 0xfe][..]]));
    let unused = table(&[("text", texts(&[Some("a")])), ("picture", bytes.clone())]);
    assert_eq!(read_all("a.parquet", &unused).expect("unused"), [Record::Text("a".into())]);
    let error = read_all("a.parquet", &table(&[("text", bytes.clone())])).expect_err("used").to_string();
    assert!(error.contains("row 1: column 'text' is of type Binary"), "{error}");
    let prompt = table(&[("prompt", bytes), ("completion", texts(&[Some("a")]))]);
    let error = read_all("a.parquet", &prompt).expect_err("used").to_string();
    assert!(error.contains("column 'prompt'"), "{error}");
}

/// One row: turns of role, content and tool calls that are all null.
fn messages(turns: &[(&str, Option<&str>)], content_type: &DataType) -> ArrayRef {
    let roles: ArrayRef = Arc::new(StringArray::from_iter_values(turns.iter().map(|(role, _)| *role)));
    let contents: ArrayRef = match content_type {
        DataType::Null => Arc::new(NullArray::new(turns.len())),
        DataType::Binary => Arc::new(BinaryArray::from_iter(turns.iter().map(|(_, text)| text.map(str::as_bytes)))),
        _ => texts(&turns.iter().map(|(_, text)| *text).collect::<Vec<_>>()),
    };
    let calls: ArrayRef = Arc::new(NullArray::new(turns.len()));
    let fields: Vec<Field> = [("role", &roles), ("content", &contents), ("tool_calls", &calls)]
        .map(|(name, array)| Field::new(name, array.data_type().clone(), true))
        .to_vec();
    let item = StructArray::new(fields.into(), vec![roles, contents, calls], None);
    let field = Arc::new(Field::new("item", item.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([turns.len()]);
    Arc::new(ListArray::new(field, offsets, Arc::new(item), None::<NullBuffer>))
}

#[test]
fn turns_of_structs_with_null_members_are_conversations() {
    let turns = [("user", Some("a")), ("assistant", Some("b"))];
    for content_type in [DataType::Utf8, DataType::Binary] {
        let bytes = table(&[("messages", messages(&turns, &content_type)), ("system", Arc::new(NullArray::new(1)))]);
        let want = Record::Conversation(vec![Message::user("a"), Message::assistant("b")].into());
        assert_eq!(read_all("a.parquet", &bytes).expect("read"), [want], "{content_type}");
    }
    for (turns, content_type) in [(turns, DataType::Null), ([turns[0], ("assistant", None)], DataType::Utf8)] {
        let bytes = table(&[("messages", messages(&turns, &content_type))]);
        assert_eq!(read_all("a.parquet", &bytes).expect("read"), [Record::Empty], "{content_type}");
    }
}
