//! A look at data files: what their rows are, under which names of columns, and how long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use findap_data::encode::{Outcome, RecordEncoder};
use findap_data::readers::{self, paths};
use findap_data::{Format, Kind, ReadOptions, Record, TokenizedRow};
use findap_train::recipe::draft::DraftSource;
use serde_json::Value;

/// Rows of a source that are read.
pub(crate) const MOST_ROWS: u64 = 10_000;

/// Reads the first rows of a source as what `kind` says they are. Without an encoder, tokens are guessed from the length of the text.
///
/// # Errors
/// Where a file or a row cannot be read, is of another kind, or has columns that nobody knows. Of the columns that are given, those
/// count that the file has.
pub(crate) fn survey(
    name: String,
    path: &str,
    kind: Kind,
    encoder: Option<RecordEncoder<'_>>,
    given: &BTreeMap<String, String>,
) -> Result<DraftSource> {
    let files = paths::expand(&[PathBuf::from(path)], Format::Auto)?;
    let first = files.first().with_context(|| format!("{path}: no file"))?;
    let columns = columns(first, kind, given)?;
    let options = ReadOptions { kind: Some(kind), columns: columns.clone(), ..ReadOptions::default() };
    let mut source = DraftSource { name, path: path.to_owned(), kind, columns, row_tokens: Vec::new(), is_whole: true };
    for file in &files {
        for row in readers::read(file, &options)? {
            if source.num_rows() == MOST_ROWS {
                source.is_whole = false;
                return Ok(source);
            }
            let (location, record) = row?;
            let num_tokens = match encoder {
                Some(encoder) => num_tokens(&encoder, &record, kind).map_err(|error| error.at(file, location))?,
                None => guessed_tokens(&record),
            };
            source.row_tokens.push(num_tokens);
        }
    }
    Ok(source)
}

fn num_tokens(
    encoder: &RecordEncoder<'_>,
    record: &Record,
    kind: Kind,
) -> Result<u64, findap_data::encode::RecordError> {
    let sum = |rows: &[TokenizedRow]| rows.iter().map(TokenizedRow::len).sum::<usize>();
    Ok(match encoder.documents(record, kind)? {
        Outcome::Documents(rows) | Outcome::PackedRow(rows) => sum(&rows),
        Outcome::Conversation { document, .. } => document.len(),
        Outcome::TooLong { num_tokens, .. } => num_tokens,
        Outcome::Empty | Outcome::EqualAnswers => 0,
    } as u64)
}

/// Some four bytes of English make a token.
fn guessed_tokens(record: &Record) -> u64 {
    const BYTES_PER_TOKEN: u64 = 4;
    (record.num_bytes() as u64).div_ceil(BYTES_PER_TOKEN)
}

const QUESTION: &[&str] = &["instruction", "question", "query", "prompt", "problem", "user", "input"];
const ANSWER: &[&str] =
    &["output", "answer", "response", "completion", "reply", "assistant", "target", "solution", "final_answer"];

/// Under which names a file of exercises can be read: those that are given and stand in its first row, else question and answer by their
/// usual names. None where they have ours.
///
/// # Errors
/// Where the file cannot be read.
pub(crate) fn exercise_columns(path: &Path, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let format = if paths::format_of_name(path).is_none() { Format::Jsonl } else { Format::Auto };
    let files = paths::expand(&[path.to_path_buf()], Format::Auto)?;
    let first = files.first().with_context(|| format!("{}: no file", path.display()))?;
    let options = ReadOptions { format, ..ReadOptions::default() };
    let Some((_, Value::Object(row))) = readers::read_values(first, &options)?.next().transpose()? else {
        return Ok(BTreeMap::new());
    };
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    let mut columns = of_file(given, &names);
    for (ours, usual) in [("question", QUESTION), ("answer", ANSWER)] {
        if !columns.contains_key(ours)
            && !names.contains(&ours)
            && let Some(theirs) = first_of(usual, &names)
        {
            columns.insert(ours.to_owned(), theirs.to_owned());
        }
    }
    Ok(columns)
}

/// The columns, of those that are given, that a file has.
fn of_file(given: &BTreeMap<String, String>, names: &[&str]) -> BTreeMap<String, String> {
    let is_there = |(_, theirs): &(&String, &String)| names.contains(&theirs.as_str());
    given.iter().filter(is_there).map(|(ours, theirs)| (ours.clone(), theirs.clone())).collect()
}

/// The likeliest of some names, in whichever case a file has it.
fn first_of<'n>(candidates: &[&str], names: &[&'n str]) -> Option<&'n str> {
    candidates.iter().find_map(|candidate| names.iter().find(|name| name.eq_ignore_ascii_case(candidate))).copied()
}

/// Under which names the first row's columns can be read; none where they have the usual ones.
fn columns(file: &Path, kind: Kind, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let read = |columns: &BTreeMap<String, String>| {
        let options = ReadOptions { kind: Some(kind), columns: columns.clone(), ..ReadOptions::default() };
        // A first row that is empty tells nothing.
        readers::read(file, &options)?.find(|row| !matches!(row, Ok((_, Record::Empty)))).transpose()
    };
    if !given.is_empty()
        && let Some((_, Value::Object(row))) =
            readers::read_values(file, &ReadOptions::default())?.next().transpose()?
    {
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        let columns = of_file(given, &names);
        if !columns.is_empty() {
            return match read(&columns)? {
                Some((_, record)) if !fits(&record, kind) => {
                    bail!("{}: with the columns given its rows are not of kind \"{}\"", file.display(), kind.name())
                }
                _ => Ok(columns),
            };
        }
    }
    let usual = read(&BTreeMap::new());
    if let Ok(Some((_, record))) = &usual
        && fits(record, kind)
    {
        return Ok(BTreeMap::new());
    }
    let row = readers::read_values(file, &ReadOptions::default())?.next().transpose()?;
    let Some((location, Value::Object(row))) = row else {
        return Err(usual.err().map_or_else(|| anyhow::anyhow!("{}: no row", file.display()), Into::into));
    };
    let names: Vec<&str> = row.keys().map(String::as_str).collect();
    if let Some(columns) = proposals(kind, &names)
        .into_iter()
        .find(|columns| matches!(read(columns), Ok(Some((_, record))) if fits(&record, kind)))
    {
        return Ok(columns);
    }
    match usual {
        // The reader's words, which name the row and what is wrong with it.
        Err(error) => Err(error).context(format!("{} cannot be read as kind = \"{}\"", file.display(), kind.name())),
        Ok(_) => bail!(
            "{}, {location}: the columns {} are nothing of kind \"{}\"; say which are meant by `columns` in the recipe",
            file.display(),
            names.join(", "),
            kind.name()
        ),
    }
}

/// Whether a record is what its kind asks for.
fn fits(record: &Record, kind: Kind) -> bool {
    match kind {
        // Conversations are read as texts, too, where a source says so.
        Kind::Text => matches!(record, Record::Text(_) | Record::Conversation(_) | Record::PromptCompletion { .. }),
        Kind::Chat => matches!(record, Record::Conversation(_) | Record::PromptCompletion { .. }),
        Kind::Preference => matches!(record, Record::Preference { .. } | Record::TokenizedPair { .. }),
        Kind::Tokenized | Kind::Packed => matches!(record, Record::Tokenized(_) | Record::Packed(_)),
    }
}

/// Which of a file's columns may stand for ours, the likeliest first.
fn proposals(kind: Kind, names: &[&str]) -> Vec<BTreeMap<String, String>> {
    const TEXT: &[&str] = &[
        "text",
        "body",
        "content",
        "contents",
        "document",
        "article",
        "page_content",
        "raw_content",
        "passage",
        "paragraph",
    ];
    const TURNS: &[&str] = &["messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"];
    const CONTEXT: &[&str] = &["input", "context"];
    const CHOSEN: &[&str] = &["chosen", "preferred", "accepted", "better", "chosen_response", "response_chosen"];
    const REJECTED: &[&str] =
        &["rejected", "dispreferred", "declined", "worse", "rejected_response", "response_rejected"];
    let first = |candidates: &[&str]| first_of(candidates, names);
    let map = |pairs: &[(&str, Option<&str>)]| -> Option<BTreeMap<String, String>> {
        let named = pairs.iter().map(|(ours, theirs)| Some(((*ours).to_owned(), (*theirs)?.to_owned())));
        named.collect()
    };
    let options = match kind {
        Kind::Text => vec![map(&[("text", first(TEXT))])],
        Kind::Chat => {
            let question = first(QUESTION);
            let context =
                CONTEXT.iter().find_map(|candidate| first(&[*candidate])).filter(|name| Some(*name) != question);
            let asked = map(&[("instruction", question), ("output", first(ANSWER))]);
            let with_context = asked.clone().zip(context).map(|(mut asked, context)| {
                asked.insert("input".to_owned(), context.to_owned());
                asked
            });
            vec![map(&[("messages", first(TURNS))]), with_context, asked]
        }
        Kind::Preference => {
            let answers = map(&[("chosen", first(CHOSEN)), ("rejected", first(REJECTED))]);
            let asked = answers.clone().zip(first(QUESTION)).map(|(mut answers, prompt)| {
                answers.insert("prompt".to_owned(), prompt.to_owned());
                answers
            });
            vec![asked, answers]
        }
        Kind::Tokenized | Kind::Packed => Vec::new(),
    };
    let differing = |mut columns: BTreeMap<String, String>| {
        columns.retain(|ours, theirs| ours != theirs);
        columns
    };
    options.into_iter().flatten().map(differing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_other_names_are_proposed() {
        let text = "Rates rose.";
        type Case = (Kind, Value, &'static [(&'static str, &'static str)]);
        let cases: [Case; 13] = [
            (Kind::Text, serde_json::json!({ "text": text }), &[]),
            (Kind::Text, serde_json::json!({ "id": 1, "Body": text }), &[("text", "Body")]),
            (Kind::Text, serde_json::json!({ "instruction": "a", "output": text }), &[]),
            (Kind::Text, serde_json::json!({ "title": "x", "content": text }), &[("text", "content")]),
            (
                Kind::Chat,
                serde_json::json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
                &[],
            ),
            (
                Kind::Chat,
                serde_json::json!({ "dialog": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] }),
                &[("messages", "dialog")],
            ),
            (Kind::Chat, serde_json::json!({ "instruction": "a", "output": "b" }), &[]),
            (
                Kind::Chat,
                serde_json::json!({ "question": "a", "answer": "b" }),
                &[("instruction", "question"), ("output", "answer")],
            ),
            (
                Kind::Chat,
                serde_json::json!({ "question": "a", "context": "c", "answer": "b" }),
                &[("input", "context"), ("instruction", "question"), ("output", "answer")],
            ),
            (Kind::Chat, serde_json::json!({ "instruction": "a", "response": "b" }), &[("output", "response")]),
            (Kind::Chat, serde_json::json!({ "prompt": "a", "completion": "b" }), &[]),
            (Kind::Preference, serde_json::json!({ "prompt": "a", "chosen": "b", "rejected": "c" }), &[]),
            (
                Kind::Preference,
                serde_json::json!({ "question": "a", "better": "b", "worse": "c" }),
                &[("chosen", "better"), ("prompt", "question"), ("rejected", "worse")],
            ),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        for (kind, row, want) in cases {
            std::fs::write(&path, format!("{row}\n{row}\n")).unwrap();
            let found = survey("x".to_owned(), path.to_str().unwrap(), kind, None, &BTreeMap::new());
            let found = found.unwrap_or_else(|error| panic!("{row}: {error:#}"));
            let want: BTreeMap<String, String> = want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!((found.columns.clone(), found.num_rows()), (want, 2), "{row}");
        }
    }

    #[test]
    fn rows_of_another_kind_or_of_no_known_columns_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        for (kind, rows, word) in [
            (Kind::Text, r#"{"figure": 3}"#, "figure"),
            (Kind::Chat, r#"{"text": "only a text"}"#, "text"),
            (Kind::Preference, r#"{"messages": []}"#, "messages"),
            (Kind::Text, "{\"text\": \"good\"}\n{\"text\": 7}", "line 2"),
            (Kind::Text, "no JSON", "line 1"),
        ] {
            std::fs::write(&path, rows).unwrap();
            let error = survey("x".to_owned(), path.to_str().unwrap(), kind, None, &BTreeMap::new()).expect_err(rows);
            let said = format!("{error:#}");
            assert!(said.contains(word), "{rows}: {said}");
        }
        let missing = survey("x".to_owned(), "no/such-*.jsonl", Kind::Text, None, &BTreeMap::new()).unwrap_err();
        assert!(format!("{missing:#}").contains("no/such-*.jsonl"), "{missing:#}");
    }
}
