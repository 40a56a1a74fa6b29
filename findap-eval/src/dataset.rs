//! The rows of a benchmark, from its files as they were published.
//!
//! | format | fields of a row |
//! |---|---|
//! | `jsonl`, `json`, `auto` | the keys of the object |
//! | `csv` | the columns, named by the header or by `columns` |
//! | `parquet` | the columns; lists and structs as in JSON |
//! | `conll` | `text`: the sentence; `entities`: list of `name, TYPE`; `answer`: the same, one per line |
//! | `tatqa` | `table`, `paragraphs`, `question`, `answer`, `answers`, `answer_type`, `scale`, `derivation` |
//!
//! Where a benchmark has subsets, each row also has `subset` (the name as in the file) and `subset_title` (with spaces).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use findap_data::readers::paths::{expand, format_of_name, is_pattern, missing_shard};
use findap_data::readers::read_values;
use findap_data::{Location, ReadOptions};
use serde_json::Value;

use crate::error::EvalError;
use crate::extract::normalize_number;
use crate::task::{Dataset, Format, ListPattern, Task};
use crate::template::{Fields, gather, lookup, scalar};

/// The longest CoNLL file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Where dataset paths lead: `world:eval/t.jsonl` is `eval/t.jsonl` in the folder of the root `world`.
pub type DataRoots = BTreeMap<String, PathBuf>;

/// One row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Number of the row in the benchmark, from 0, the same whatever the limit.
    pub id: usize,
    /// The subset it belongs to.
    pub subset: Option<String>,
    /// The file it stands in.
    pub path: PathBuf,
    /// 1-based line, element of a JSON array, or row of a Parquet file.
    pub line: usize,
    /// Its fields.
    pub fields: Fields,
}

impl Row {
    /// An error about one of this row's fields.
    pub(crate) fn error(&self, field: &str, problem: impl Into<String>) -> EvalError {
        EvalError::Row { path: self.path.clone(), line: self.line, field: field.to_owned(), problem: problem.into() }
    }
}

/// The questions and the solved examples of a benchmark.
#[derive(Debug)]
pub struct Loaded {
    /// Questions, all of them or the first `limit` of each subset.
    pub rows: Vec<Row>,
    /// Questions before the limit.
    pub num_original: usize,
    /// Rows of the files that `keep`, `keep_numbers` and `unique_by` leave out.
    pub num_left_out: usize,
    /// Solved examples by subset (the empty name where there are none); empty when they come from the questions' own file
    /// or when none are shown.
    pub fewshot: BTreeMap<String, Vec<Row>>,
    /// All questions by subset, for solved examples from the questions' own file; empty unless needed.
    pub pool: BTreeMap<String, Vec<Row>>,
}

/// Reads the rows of a task, and those that `num_fewshot` solved examples are taken from.
///
/// # Errors
/// [`EvalError::UnknownDataRoot`], [`EvalError::Io`], and [`EvalError::Row`] with file, line and field.
pub fn load(task: &Task, roots: &DataRoots, limit: Option<usize>, num_fewshot: usize) -> Result<Loaded, EvalError> {
    let dataset = &task.dataset;
    let subsets: Vec<Option<&str>> = match dataset.subsets.as_slice() {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    let mut loaded =
        Loaded { rows: Vec::new(), num_original: 0, num_left_out: 0, fewshot: BTreeMap::new(), pool: BTreeMap::new() };
    for subset in subsets {
        let key = subset.unwrap_or_default().to_owned();
        let (mut rows, num_left_out) = read_subset(task, &dataset.path, subset, roots)?;
        loaded.num_left_out += num_left_out;
        for row in &mut rows {
            row.id += loaded.num_original;
        }
        loaded.num_original += rows.len();
        if num_fewshot > 0 {
            match &dataset.fewshot_path {
                Some(path) => drop(loaded.fewshot.insert(key, read_subset(task, path, subset, roots)?.0)),
                None => drop(loaded.pool.insert(key, rows.clone())),
            }
        }
        rows.truncate(limit.unwrap_or(usize::MAX));
        loaded.rows.extend(rows);
    }
    if loaded.rows.is_empty() {
        return Err(EvalError::Row {
            path: resolve(task, &dataset.path, roots)?,
            line: 0,
            field: "row".to_owned(),
            problem: "no rows; a task needs at least one".to_owned(),
        });
    }
    Ok(loaded)
}

/// Finds out whether the files of all tasks are there, those of solved examples where tasks show some.
///
/// # Errors
/// [`EvalError::MissingData`] with all that are not; as [`load`] for what is there and no set of files.
pub fn require(tasks: &[Task], roots: &DataRoots, num_fewshot: Option<usize>) -> Result<(), EvalError> {
    let mut missing = Vec::new();
    for task in tasks {
        let dataset = &task.dataset;
        let shows_examples = num_fewshot.unwrap_or(task.fewshot.num) > 0;
        let places = std::iter::once(&dataset.path).chain(dataset.fewshot_path.iter().filter(|_| shows_examples));
        let subset = dataset.subsets.first().map(String::as_str);
        for place in places {
            match files(task, place, subset, roots) {
                Ok(_) => continue,
                Err(EvalError::MissingData { missing: files }) => missing.extend(files),
                Err(error @ EvalError::UnknownDataRoot { .. }) => missing.push(error.to_string()),
                Err(error) => return Err(error),
            }
            break;
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(EvalError::MissingData { missing }) }
}

/// The rows, and the number of those that are left out.
fn read_subset(
    task: &Task,
    place: &str,
    subset: Option<&str>,
    roots: &DataRoots,
) -> Result<(Vec<Row>, usize), EvalError> {
    let dataset = &task.dataset;
    let (mut seen, mut rows, mut num_left_out) = (BTreeSet::new(), Vec::new(), 0);
    for path in files(task, place, subset, roots)? {
        for (line, fields) in read(&path, dataset)? {
            let mut row = Row { id: rows.len(), subset: subset.map(str::to_owned), path: path.clone(), line, fields };
            complete(&mut row, dataset)?;
            if is_kept(&row, dataset)? && is_new(&row, dataset, &mut seen)? {
                rows.push(row);
            } else {
                num_left_out += 1;
            }
        }
    }
    Ok((rows, num_left_out))
}

/// The files of the questions, or of the solved examples.
fn files(task: &Task, place: &str, subset: Option<&str>, roots: &DataRoots) -> Result<Vec<PathBuf>, EvalError> {
    let dataset = &task.dataset;
    let others: &[String] = if place == dataset.path { &dataset.also_at } else { &[] };
    let mut found: Option<(PathBuf, Vec<PathBuf>)> = None;
    for place in std::iter::once(place).chain(others.iter().map(String::as_str)) {
        let path = resolve(task, &place.replace("{subset}", subset.unwrap_or_default()), roots)?;
        match (expand(std::slice::from_ref(&path), data_format(dataset.format)), &found) {
            (Ok(_), Some((other, _))) => {
                let problem = format!("{} is there, too, and one of them is asked; take one away", path.display());
                return Err(row_error(other, 0, "dataset.path", problem));
            }
            (Ok(paths), None) => found = Some((path, paths)),
            (Err(error), _) if error.is_absent() => {}
            (Err(error), _) => return Err(EvalError::Data(error)),
        }
    }
    match found {
        Some((path, paths)) => match missing_shard(&paths).filter(|_| !path.is_file()) {
            Some(problem) => Err(row_error(&path, 0, "dataset.path", problem)),
            None => Ok(paths),
        },
        None => {
            let others = if others.is_empty() { String::new() } else { format!(", nor at {}", others.join(", ")) };
            let place = resolve(task, &place.replace("{subset}", subset.unwrap_or_default()), roots)?;
            Err(EvalError::MissingData {
                missing: vec![format!("{}: nothing is at {}{others}", task.name, place.display())],
            })
        }
    }
}

/// A folder before a pattern, whose own name is none: `runs[1]` is `runs[[]1]` there.
fn literal(folder: &Path) -> PathBuf {
    let Some(text) = folder.to_str().filter(|_| is_pattern(folder)) else { return folder.to_owned() };
    let escape = |c: char| {
        let written = c.to_string();
        if is_pattern(Path::new(&written)) { format!("[{c}]") } else { written }
    };
    text.chars().map(escape).collect::<String>().into()
}

/// The format as training data have it, by which a folder's files are chosen.
fn data_format(format: Format) -> findap_data::Format {
    match format {
        Format::Jsonl => findap_data::Format::Jsonl,
        Format::Json | Format::Tatqa => findap_data::Format::Json,
        Format::Csv => findap_data::Format::Csv,
        Format::Parquet => findap_data::Format::Parquet,
        Format::Auto => findap_data::Format::Auto,
        Format::Conll => findap_data::Format::Lines,
    }
}

/// Adds the fields that the task and the subset give a row.
fn complete(row: &mut Row, dataset: &Dataset) -> Result<(), EvalError> {
    for (new, old) in &dataset.rename {
        if let Some(value) = gather(&row.fields, old).map(|value| value.into_owned()) {
            row.fields.insert(new.clone(), value);
        }
    }
    for (new, list) in &dataset.lists {
        let items = list_items(row, new, list)?;
        row.fields.insert(new.clone(), items.into());
    }
    if let Some(subset) = &row.subset {
        let title = subset.replace('_', " ");
        row.fields.insert("subset".to_owned(), subset.as_str().into());
        row.fields.insert("subset_title".to_owned(), title.into());
    }
    Ok(())
}

fn list_items(row: &Row, name: &str, list: &ListPattern) -> Result<Vec<String>, EvalError> {
    let field = list.from.as_str();
    let value = lookup(&row.fields, field).ok_or_else(|| row.error(field, "is absent, but dataset.lists reads it"))?;
    let text = scalar(field, value).map_err(|error| row.error(field, error.to_string()))?;
    let mut items: Vec<String> = list.separator.split(&text).skip(1).map(|item| item.trim().to_owned()).collect();
    if items.last().is_some_and(String::is_empty) {
        items.pop();
    }
    match items.is_empty() {
        true => Err(row.error(field, format!("holds no element of the list `{name}`: {text:?}"))),
        false => Ok(items),
    }
}

fn is_kept(row: &Row, dataset: &Dataset) -> Result<bool, EvalError> {
    for (field, values) in &dataset.keep {
        let value =
            lookup(&row.fields, field).ok_or_else(|| row.error(field, "is absent, but dataset.keep asks for it"))?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !values.contains(&text) {
            return Ok(false);
        }
    }
    for field in &dataset.keep_numbers {
        let absent = || row.error(field, "is absent, but dataset.keep_numbers asks for it");
        let value = lookup(&row.fields, field).ok_or_else(absent)?;
        if !scalar(field, value).is_ok_and(|text| normalize_number(&text).parse::<f64>().is_ok()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_new(row: &Row, dataset: &Dataset, seen: &mut BTreeSet<String>) -> Result<bool, EvalError> {
    match &dataset.unique_by {
        None => Ok(true),
        Some(field) => match lookup(&row.fields, field) {
            Some(value) => Ok(seen.insert(value.to_string())),
            None => Err(row.error(field, "is absent, but dataset.unique_by asks for it")),
        },
    }
}

fn resolve(task: &Task, path: &str, roots: &DataRoots) -> Result<PathBuf, EvalError> {
    // A single letter before the colon is a Windows drive.
    match path.split_once(':').filter(|(root, _)| root.len() > 1) {
        None => Ok(PathBuf::from(path)),
        Some((root, rest)) => match roots.get(root) {
            Some(folder) if is_pattern(Path::new(rest)) => Ok(literal(folder).join(rest)),
            Some(folder) => Ok(folder.join(rest)),
            None => Err(EvalError::UnknownDataRoot {
                task: task.name.clone(),
                path: path.to_owned(),
                root: root.to_owned(),
                known: roots.keys().cloned().collect::<Vec<_>>().join(", "),
            }),
        },
    }
}

fn read(path: &Path, dataset: &Dataset) -> Result<Vec<(usize, Fields)>, EvalError> {
    match dataset.format {
        Format::Conll => read_conll(path, &read_text(path)?),
        Format::Tatqa => read_tatqa(path),
        format => {
            let header = dataset.columns.clone().filter(|_| format == Format::Csv);
            let format = match (format, format_of_name(path)) {
                // A text file has no fields of its own.
                (Format::Auto, None | Some(findap_data::Format::Txt)) => Format::Jsonl,
                (format, _) => format,
            };
            read_rows(path, data_format(format), header)
        }
    }
}

fn row_error(path: &Path, line: usize, field: &str, problem: impl Into<String>) -> EvalError {
    EvalError::Row { path: path.to_owned(), line, field: field.to_owned(), problem: problem.into() }
}

/// Rows of a format that training data have, too.
fn read_rows(
    path: &Path,
    format: findap_data::Format,
    header: Option<Vec<String>>,
) -> Result<Vec<(usize, Fields)>, EvalError> {
    let options = ReadOptions { format, header, ..ReadOptions::default() };
    let rows = read_values(path, &options).map_err(EvalError::Data)?;
    rows.map(|row| {
        let (Location::Line(number) | Location::Row(number) | Location::Element(number), value) =
            row.map_err(EvalError::Data)?;
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        match value {
            Value::Object(fields) => Ok((number, fields)),
            _ => Err(row_error(path, number, "row", "is not a JSON object")),
        }
    })
    .collect()
}

fn read_text(path: &Path) -> Result<String, EvalError> {
    let size = std::fs::metadata(path).map_err(EvalError::io(path))?.len();
    if size > MAX_FILE_BYTES {
        let problem = format!("has {size} bytes, more than the {MAX_FILE_BYTES} that are read; split it");
        return Err(row_error(path, 0, "file", problem));
    }
    let bytes = std::fs::read(path).map_err(EvalError::io(path))?;
    String::from_utf8(bytes).map(|text| text.trim_start_matches('\u{feff}').to_owned()).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        row_error(path, line, "row", "is not UTF-8")
    })
}

fn read_conll(path: &Path, text: &str) -> Result<Vec<(usize, Fields)>, EvalError> {
    let mut rows = Vec::new();
    let mut sentence: Vec<(&str, &str)> = Vec::new();
    let mut first_line = 1;
    for (index, line) in text.lines().chain([""]).enumerate() {
        let mut parts = line.split_whitespace();
        match (parts.next(), parts.last()) {
            (None, _) => {
                if !sentence.is_empty() {
                    rows.push((first_line, sentence_fields(&sentence)));
                    sentence.clear();
                }
            }
            (Some("-DOCSTART-"), _) => {}
            (Some(token), Some(tag)) if tag == "O" || tag.starts_with("I-") || tag.starts_with("B-") => {
                if sentence.is_empty() {
                    first_line = index + 1;
                }
                sentence.push((token, tag));
            }
            _ => return Err(row_error(path, index + 1, "tag", "the last column must be O, I-TYPE or B-TYPE")),
        }
    }
    Ok(rows)
}

fn sentence_fields(sentence: &[(&str, &str)]) -> Fields {
    let mut entities: Vec<(String, &str)> = Vec::new();
    let mut before = "O";
    for (token, tag) in sentence {
        if let Some((prefix, kind)) = tag.split_once('-') {
            // I- continues an entity of its own type; after anything else it opens one (the older IOB convention).
            let continues = prefix == "I" && before.split_once('-').is_some_and(|(_, open)| open == kind);
            match entities.last_mut().filter(|_| continues) {
                Some((name, _)) => name.extend([" ", token]),
                None => entities.push(((*token).to_owned(), kind)),
            }
        }
        before = tag;
    }
    let lines: Vec<String> = entities.iter().map(|(name, kind)| format!("{name}, {kind}")).collect();
    let text = sentence.iter().map(|(token, _)| *token).collect::<Vec<_>>().join(" ");
    let mut fields = Fields::new();
    fields.insert("text".to_owned(), text.into());
    fields.insert("answer".to_owned(), lines.join("\n").into());
    fields.insert("entities".to_owned(), lines.into());
    fields
}

fn read_tatqa(path: &Path) -> Result<Vec<(usize, Fields)>, EvalError> {
    let mut rows = Vec::new();
    for (element, context) in read_rows(path, findap_data::Format::Json, None)? {
        let part = |key: &str| {
            lookup(&context, key)
                .and_then(Value::as_array)
                .ok_or_else(|| row_error(path, element, key, "is not a list"))
        };
        let table: Vec<String> = part("table.table")?.iter().map(table_line).collect();
        let paragraphs: Vec<&str> = part("paragraphs")?.iter().filter_map(|item| item.get("text")?.as_str()).collect();
        for question in part("questions")? {
            let Value::Object(question) = question else {
                return Err(row_error(path, element, "questions", "holds something that is not an object"));
            };
            let mut fields = question.clone();
            let answers: Vec<String> = match question.get("answer") {
                Some(Value::Array(items)) => items.iter().map(plain).collect(),
                Some(value @ (Value::String(_) | Value::Number(_))) => vec![plain(value)],
                _ => return Err(row_error(path, element, "questions.answer", "is neither text, a number nor a list")),
            };
            fields.insert("table".to_owned(), table.join("\n").into());
            fields.insert("paragraphs".to_owned(), paragraphs.join("\n").into());
            fields.insert("answer".to_owned(), answers.join(", ").into());
            fields.insert("answers".to_owned(), answers.into());
            rows.push((element, fields));
        }
    }
    Ok(rows)
}

fn table_line(row: &Value) -> String {
    let cells = row.as_array().map(|cells| cells.iter().map(plain).collect::<Vec<_>>()).unwrap_or_default();
    format!("| {} |", cells.join(" | "))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
