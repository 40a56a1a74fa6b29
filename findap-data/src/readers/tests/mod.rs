#[cfg(feature = "parquet")]
mod parquet_tables;
mod places;
mod rows;

use std::fs::File;
use std::io::Write;

use super::*;
use crate::error::RecordProblem;

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join(name);
    File::create(&path).and_then(|mut file| file.write_all(bytes)).expect("write");
    (folder, path)
}

fn read_all(name: &str, bytes: &[u8]) -> Result<Vec<Record>, DataError> {
    let (_folder, path) = file(name, bytes);
    let options = ReadOptions { max_record_bytes: 1 << 20, ..Default::default() };
    read(&path, &options)?.map(|item| item.map(|(_, record)| record)).collect()
}

#[test]
fn schemas_are_recognised_by_their_fields() {
    let user = |text: &str| Message::user(text);
    let assistant = |text: &str| Message::assistant(text);
    let cases = [
        (r#"{"text": "a"}"#, Record::Text("a".into())),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            Record::Conversation(vec![user("a"), assistant("b")].into()),
        ),
        (
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "agent", "value": "b"}]}"#,
            Record::Conversation(vec![user("a"), assistant("b")].into()),
        ),
        (
            r#"{"instruction": "a", "input": "x", "output": "b", "system": "s", "history": [["q", "r"]]}"#,
            Record::Conversation(
                vec![Message::system("s"), user("q"), assistant("r"), user("a\nx"), assistant("b")].into(),
            ),
        ),
        (
            r#"{"prompt": "a", "completion": "b"}"#,
            Record::PromptCompletion { prompt: "a".into(), completion: "b".into() },
        ),
        (
            r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#,
            Record::Preference {
                prompt: Turns::Text("a".into()),
                chosen: Turns::Text("b".into()),
                rejected: Turns::Text("c".into()),
                is_continued: false,
                is_transcript: false,
            },
        ),
        (
            r#"{"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]}"#,
            Record::Preference {
                prompt: Turns::Messages(vec![user("a")]),
                chosen: Turns::Messages(vec![assistant("b")]),
                rejected: Turns::Messages(vec![assistant("c")]),
                is_continued: false,
                is_transcript: false,
            },
        ),
        (
            r#"{"ids": [1, 2], "mask": [0, 1]}"#,
            Record::Tokenized(TokenizedRow { ids: vec![1, 2], mask: vec![false, true] }),
        ),
        (
            r#"{"docs": [{"ids": [1], "mask": [true]}]}"#,
            Record::Packed(vec![TokenizedRow { ids: vec![1], mask: vec![true] }]),
        ),
    ];
    for (line, want) in cases {
        assert_eq!(read_all("a.jsonl", line.as_bytes()).expect(line), [want], "{line}");
        assert_eq!(read_all("a.json", format!("[{line},\n{line}]").as_bytes()).expect(line).len(), 2);
    }
    assert_eq!(read_all("a.csv", b"text,label\n\"x, y\",1\n").expect("csv"), [Record::Text("x, y".into())]);
    let (_folder, path) = file("a.jsonl", b"{\"question\": \"q\", \"answer\": \"a\"}");
    let columns = BTreeMap::from([
        ("prompt".to_string(), "question".to_string()),
        ("completion".to_string(), "answer".to_string()),
    ]);
    let options = ReadOptions { columns, ..Default::default() };
    let (location, record) = read(&path, &options).expect("open").next().expect("one").expect("record");
    assert_eq!(
        (location, record),
        (Location::Line(1), Record::PromptCompletion { prompt: "q".into(), completion: "a".into() })
    );
}

#[test]
fn harmless_oddities_of_lines_are_accepted() {
    let text = b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\r\n  \n{\"text\": \"c\"}";
    assert_eq!(read_all("a.jsonl", text).expect("read"), [Record::Text("a".into()), Record::Text("c".into())]);
}

#[test]
fn damaged_lines_name_file_line_and_remedy() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(2 << 20));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"{\"text\": \"a\"}\n{\"text\": \"b".to_vec(), "line 2: not valid JSON"),
        (b"{\"text\": \"\xff\"}".to_vec(), "line 1: byte 11"),
        (b"{\"text\": \"\\ud800\"}".to_vec(), "not valid JSON"),
        (b"{\"text\": NaN}".to_vec(), "not valid JSON"),
        (b"{\"text\": Infinity}".to_vec(), "not valid JSON"),
        (deep.into_bytes(), "not valid JSON"),
        (long.into_bytes(), "longer than the limit of 1048576 bytes"),
        (b"\0\0\0\0\n".to_vec(), "is zero, which no text has"),
        (b"[1, 2]".to_vec(), "a list, not an object"),
        (b"{\"text\": 3}".to_vec(), "field 'text' is a number, expected a string"),
        (b"{\"body\": \"a\"}".to_vec(), "columns"),
        (b"{\"conversations\": [{\"from\": \"alien\", \"value\": \"a\"}]}".to_vec(), "unknown role 'alien'"),
        (b"{\"messages\": [{\"role\": \"user\"}]}".to_vec(), "messages[0].content"),
        (b"{\"ids\": [1, 2], \"mask\": [1]}".to_vec(), "2 ids but 1 mask"),
        (b"{\"ids\": [-1], \"mask\": [1]}".to_vec(), "field 'ids'"),
        (b"PK\x03\x04\0\0".to_vec(), "zip-compressed"),
        (b"\x1f\x8b\x08\0\0".to_vec(), "cannot read"),
        (b"\x28\xb5\x2f\xfd\0\0".to_vec(), "cannot read"),
        (b"".to_vec(), "holds no records"),
        (b"\n\n".to_vec(), "holds no records"),
    ];
    for (bytes, want) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let error = read_all("a.jsonl", &bytes).expect_err(&shown).to_string();
        assert!(error.contains(want) && error.contains("a.jsonl"), "{shown}: {error}");
    }
    let error = read_all("a.text", b"hello").expect_err("format");
    assert!(matches!(error, DataError::File { problem: FileProblem::UnknownFormat, .. }));
    let error = read_all("a.json", b"[{\"text\": \"a\"},").expect_err("array");
    assert!(matches!(error, DataError::File { problem: FileProblem::NotAnArray { .. }, .. }));
    let folder = tempfile::tempdir().expect("folder");
    assert!(matches!(
        read(folder.path(), &ReadOptions::default()),
        Err(DataError::File { problem: FileProblem::NotAFile, .. })
    ));
    assert!(matches!(read(&folder.path().join("absent.jsonl"), &ReadOptions::default()), Err(DataError::Io { .. })));
}

#[test]
fn faults_of_csv_are_explained_as_such() {
    for (text, want) in [
        ("text,label\none,1\ntwo\n", "line 3: has 1 fields where the header has 2"),
        ("text\none\ntwo, three\n", "line 3: has 2 fields where the header has 1"),
        ("text\n\"one\ntwo\nthree\n", "line 2: a quoted field begins here and never ends"),
        ("text,label\na,\"b\"\"\n", "line 2: a quoted field begins here and never ends"),
        ("text,x\n\"a\",1\n\"b, c,2\n\"d\",3\n", "line 4: a quoted field goes on behind its closing quote"),
        ("text,text\na,b\n", "two columns are named 'text'"),
        ("text;label\na, b;1\n", "separated by a semicolon"),
        ("text\tlabel\na\t1\n", "separated by a tab"),
        ("text\n\"\"\"quoted\"\"\"\nmid\"quote\n", ""),
    ] {
        match read_all("a.csv", text.as_bytes()) {
            Ok(records) => assert!(want.is_empty(), "{text}: {records:?}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!want.is_empty() && error.contains(want) && !error.contains("JSON"), "{text}: {error}");
            }
        }
    }
    let endless = format!("text\n\"{}\"\n", "x".repeat(2 << 20));
    let error = read_all("a.csv", endless.as_bytes()).expect_err("long").to_string();
    assert!(error.contains("longer than the limit of 1048576 bytes"), "{error}");
}

#[test]
fn a_bad_record_does_not_end_the_stream() {
    let (_folder, path) = file("a.jsonl", b"{\"text\": \"a\"}\nnonsense\n{\"text\": \"b\"}\n");
    let items: Vec<_> = read(&path, &ReadOptions::default()).expect("open").collect();
    assert_eq!(items.len(), 3);
    assert!(matches!(
        &items[1],
        Err(DataError::Record { location: Location::Line(2), problem: RecordProblem::NotJson { .. }, .. })
    ));
    assert!(items[2].is_ok());
}

#[test]
#[expect(clippy::print_stdout, reason = "says what it skips")]
fn real_files_are_read() {
    let Some(root) = std::env::var_os("FINDAP_REAL_DATA").map(PathBuf::from) else {
        println!("skipped: FINDAP_REAL_DATA is not set");
        return;
    };
    let question_answer = BTreeMap::from([
        ("prompt".to_string(), "question".to_string()),
        ("completion".to_string(), "answer".to_string()),
    ]);
    let rationale = BTreeMap::from([
        ("prompt".to_string(), "question".to_string()),
        ("completion".to_string(), "rationale".to_string()),
    ]);
    for (name, columns) in [
        ("gsm8k/train.jsonl", question_answer.clone()),
        ("gsm8k/test.jsonl", question_answer.clone()),
        ("aqua_rat/dev.json", rationale),
        ("metamath/GSM8K_Backward.jsonl", question_answer),
        ("self_instruct/t0_ag_news_classify.jsonl", BTreeMap::new()),
        ("flare_finqa/valid.jsonl", BTreeMap::new()),
        ("mt_bench/sharegpt_dummy_conversation.json", BTreeMap::new()),
    ] {
        let options = ReadOptions { columns, ..Default::default() };
        let records: Result<Vec<_>, _> = read(&root.join(name), &options).expect(name).collect();
        let records = records.expect(name);
        assert!(!records.is_empty(), "{name}");
        assert!(
            records
                .iter()
                .all(|(_, record)| matches!(record, Record::PromptCompletion { .. } | Record::Conversation(_))),
            "{name}"
        );
    }
}

#[test]
fn elements_of_an_array_are_read_one_by_one_and_faults_name_their_place() {
    let texts = |json: &str| -> Result<Vec<String>, String> {
        let text = |record| match record {
            Record::Text(text) => text,
            other => format!("{other:?}"),
        };
        let records = read_all("a.json", json.as_bytes()).map_err(|error| error.to_string())?;
        Ok(records.into_iter().map(text).collect())
    };
    let odd = "\n [ {\"text\": \"a]},[\"} ,\n{\"x\": [[1], {\"y\": \"\\\\\"}], \"text\": \"\\\"}\"}\n]\n";
    assert_eq!(texts(odd), Ok(vec!["a]},[".to_owned(), "\"}".to_owned()]));
    let element = r#"{"text": "a"}"#;
    let long = format!("[{element}, {{\"text\": \"{}\"}}]", "x".repeat(2 << 20));
    for (json, want) in [
        ("[]".to_owned(), "holds no records"),
        (format!("[{element},]"), "element 2 is missing"),
        (format!("[{element} {element}]"), "element 1: not valid JSON (trailing"),
        (format!("[{element}"), "the file ends inside element 1"),
        (format!("[{element}]]"), "there is ']' behind its end"),
        (format!("[{element}, {{\"text\": }}]"), "element 2: not valid JSON"),
        (format!("[{element}, 7]"), "element 2: is a number, not an object"),
        (format!("[{element}, {{\"text\": \"a\", \"text\": \"a\"}}]"), "element 2: the key"),
        (format!("[{element}}}]"), "there is '}' behind element 1"),
        (long, "element 2: longer than the limit"),
    ] {
        let error = texts(&json).expect_err(&json[..json.len().min(60)]);
        assert!(error.contains(want), "{:.60}: {error}", json);
    }
}
