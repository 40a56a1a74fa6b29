//! Exercises from files of any format that has named fields.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Exercise;
use crate::error::{DataError, RecordProblem};
use crate::readers::{self, Format, ReadOptions, paths};

/// The fields of an exercise, which columns can be mapped to.
pub const EXERCISE_FIELDS: [&str; 5] = ["id", "question", "choices", "answer", "steps"];

/// What stands before the final answer in solutions written as those of GSM8K are.
const FINAL_ANSWER: &str = "####";

/// Where exercises are read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExerciseFiles {
    /// Files, folders and patterns, in order; see [`paths::expand`].
    pub paths: Vec<PathBuf>,
    /// The file format; a name that tells none is read as JSONL.
    pub format: Format,
    /// Names of [`EXERCISE_FIELDS`] to the files' column names.
    pub columns: BTreeMap<String, String>,
}

impl ExerciseFiles {
    /// The files, in order.
    ///
    /// # Errors
    /// As [`paths::expand`].
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        paths::expand(&self.paths, self.format)
    }
}

/// The exercises of all files in order, at most `limit` of them.
///
/// `id` is made from the place among all exercises where a row has none. `answer` is a text, a number or a boolean; where a row has no
/// steps and the last line of its answer begins with `####`, that line is the answer and those before it are the steps. Where there are
/// choices, the answer is the letter or the text of one.
///
/// # Errors
/// [`DataError::Io`], [`DataError::File`]; [`DataError::Record`] with file, place and field where a field is missing, empty or of
/// another type, or an id comes twice.
pub fn read_exercises(source: &ExerciseFiles, limit: Option<usize>) -> Result<Vec<Exercise>, DataError> {
    let limit = limit.unwrap_or(usize::MAX);
    let mut ids = HashSet::new();
    let mut exercises = Vec::new();
    for path in source.files()? {
        if exercises.len() >= limit {
            break;
        }
        let options = ReadOptions { format: format_of(&path, source.format), ..ReadOptions::default() };
        for row in readers::read_values(&path, &options)?.take(limit - exercises.len()) {
            let (location, value) = row?;
            let fail = |detail| DataError::Record {
                path: path.clone(),
                location,
                problem: RecordProblem::NotAnExercise { detail },
            };
            let exercise = exercise(&value, &source.columns, exercises.len() + 1).map_err(fail)?;
            if !ids.insert(exercise.id.clone()) {
                return Err(fail(format!("the id `{}` comes twice; remove the ids, and they are made", exercise.id)));
            }
            exercises.push(exercise);
        }
    }
    Ok(exercises)
}

/// A text file has no fields of its own, so that what is named .txt, or in no known way, is JSONL.
fn format_of(path: &Path, format: Format) -> Format {
    match (format, paths::format_of_name(path)) {
        (Format::Auto, None | Some(Format::Txt)) => Format::Jsonl,
        (format, _) => format,
    }
}

fn exercise(value: &Value, columns: &BTreeMap<String, String>, number: usize) -> Result<Exercise, String> {
    let Value::Object(object) = value else { return Err("the row is no object with named fields".to_owned()) };
    let row = Row { object, columns };
    row.refuse_unread()?;
    let question = row.text("question")?.ok_or_else(|| row.missing("question"))?;
    let answer = row.text("answer")?.ok_or_else(|| row.missing("answer"))?;
    let steps = row.list("steps")?;
    let (steps, answer) = match final_answer(&answer).filter(|_| steps.is_empty()) {
        Some((_, "")) => return Err(format!("field '{}' has no answer behind {FINAL_ANSWER}", row.column("answer"))),
        Some((solution, last)) => (lines(solution), last.to_owned()),
        None => (steps, answer),
    };
    let id = row.text("id")?.unwrap_or_else(|| format!("exercise-{number}"));
    let choices = row.list("choices")?;
    if !choices.is_empty() && !is_choice(&answer, &choices) {
        return Err(format!(
            "field '{}' is {answer:?}, which is neither the letter nor the text of one of the {} choices; a place among them is written as its \
             letter, A for the first",
            row.column("answer"),
            choices.len()
        ));
    }
    let question = with_choices(question, &choices);
    Ok(Exercise { id, question, choices, answer, steps })
}

/// Whether an answer is the letter of a choice, also as `(A)` or `a.`, or its text.
fn is_choice(answer: &str, choices: &[String]) -> bool {
    let bare = answer.trim().trim_matches(|c: char| c.is_ascii_punctuation());
    let is_letter = |letter: char| bare.eq_ignore_ascii_case(letter.encode_utf8(&mut [0; 4]));
    let is_text = |choice: &String| choice.trim().eq_ignore_ascii_case(answer.trim());
    ('A'..='Z').take(choices.len()).any(is_letter) || choices.iter().any(is_text)
}

/// The question with its options, each in a line of its own behind its letter, where it does not name them itself.
fn with_choices(mut question: String, choices: &[String]) -> String {
    if choices.iter().all(|choice| has_words(&question, choice.trim())) {
        return question;
    }
    for (letter, choice) in ('A'..='Z').zip(choices.iter().map(|choice| choice.trim())) {
        // `A)21` and `A. 21` have their letter.
        let has_letter = choice.strip_prefix(letter).is_some_and(|rest| rest.starts_with([')', '.', ':']));
        question.push('\n');
        if !has_letter {
            question.push_str(&format!("{letter}. "));
        }
        question.push_str(choice);
    }
    question
}

/// Whether a text stands in another and is no part of a longer word or number there.
fn has_words(text: &str, part: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let is_whole = |at: usize| {
        let (before, after) = (text[..at].chars().next_back(), text[at + part.len()..].chars().next());
        !(is_word(part.chars().next()) && is_word(before) || is_word(part.chars().next_back()) && is_word(after))
    };
    text.match_indices(part).any(|(at, _)| is_whole(at))
}

/// The solution and the final answer behind it, where the last line is marked as one.
fn final_answer(answer: &str) -> Option<(&str, &str)> {
    let answer = answer.trim_end();
    let last = answer.rfind('\n').map_or(0, |end| end + 1);
    let marked = answer[last..].trim_start().strip_prefix(FINAL_ANSWER)?;
    Some((&answer[..last], marked.trim()))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Fields that belong to the question in many sets, and are not read under these names.
const OF_QUESTIONS: [&str; 9] = ["options", "context", "input", "passage", "A", "B", "C", "D", "choice"];

/// The fields of a row under the names that the recipe gives them.
struct Row<'a> {
    object: &'a Map<String, Value>,
    columns: &'a BTreeMap<String, String>,
}

impl Row<'_> {
    /// Refuses what the question may need and no one would see.
    fn refuse_unread(&self) -> Result<(), String> {
        let is_read = |name: &str| self.columns.values().any(|column| column == name);
        let says =
            |value: &Value| !matches!(value, Value::Null) && value.as_str().is_none_or(|text| !text.trim().is_empty());
        let unread = OF_QUESTIONS.iter().find(|name| self.object.get(**name).is_some_and(says) && !is_read(name));
        unread.map_or(Ok(()), |name| {
            Err(format!(
                "field '{name}' is not read, and the question may need it; map it, as in exercise_columns = {{ choices = \"{name}\" }}, write \
                 it into the question, or remove it"
            ))
        })
    }

    fn column<'a>(&'a self, field: &'a str) -> &'a str {
        self.columns.get(field).map_or(field, String::as_str)
    }

    fn missing(&self, field: &str) -> String {
        let found: Vec<&str> = self.object.keys().map(String::as_str).collect();
        format!("field '{}' is missing or empty; the row has {}", self.column(field), found.join(", "))
    }

    /// The value of a field; `None` where it is null or not there, which it may not be under a name of the recipe.
    fn find(&self, field: &str) -> Result<Option<&Value>, String> {
        match self.object.get(self.column(field)) {
            None if self.columns.contains_key(field) => Err(self.missing(field)),
            found => Ok(found.filter(|value| !value.is_null())),
        }
    }

    fn text(&self, field: &str) -> Result<Option<String>, String> {
        match self.find(field)? {
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.trim().is_empty())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(_) => Err(format!("field '{}' is neither a text nor a number", self.column(field))),
            None => Ok(None),
        }
    }

    /// A list of texts, or a text's lines.
    fn list(&self, field: &str) -> Result<Vec<String>, String> {
        let wrong = || format!("field '{}' is no list of texts", self.column(field));
        match self.find(field)? {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(lines(text)),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            Some(_) => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn exercises_are_read_from_every_format_with_columns_and_ids() {
        let folder = tempfile::tempdir().expect("folder");
        let gzip = |text: &str| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(text.as_bytes()).expect("pack");
            packed.finish().expect("pack")
        };
        let solved = r#"{"q": "2 + 2 * 3?", "a": "2*3=6\n2+6=8\n#### 8", "n": 1}"#;
        let plain = r#"{"q": "1 + 1?", "a": 2}"#;
        let columns = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(field, name)| ((*field).to_owned(), (*name).to_owned())).collect::<BTreeMap<_, _>>()
        };
        let mapped = columns(&[("question", "q"), ("answer", "a")]);
        let read = |name: &str, bytes: &[u8], columns: &BTreeMap<String, String>| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).expect("write");
            let source = ExerciseFiles { paths: vec![path], columns: columns.clone(), ..ExerciseFiles::default() };
            read_exercises(&source, None).map_err(|error| error.to_string())
        };
        let csv = "q,a\n2 + 2 * 3?,\"2*3=6\n2+6=8\n#### 8\"\n1 + 1?,2\n";
        for (name, bytes) in [
            ("a.jsonl", format!("{solved}\n\n{plain}\n").into_bytes()),
            ("a.data", format!("{solved}\n{plain}\n").into_bytes()),
            ("a.json", format!("[{solved},{plain}]").into_bytes()),
            ("a.csv", csv.into()),
            ("a.jsonl.gz", gzip(&format!("{solved}\n{plain}\n"))),
        ] {
            let exercises = read(name, &bytes, &mapped).expect(name);
            let short = |exercise: &Exercise| {
                let Exercise { id, question, answer, steps, .. } = exercise;
                format!("{id}|{question}|{}|{answer}", steps.join(";"))
            };
            let shorts: Vec<String> = exercises.iter().map(short).collect();
            assert_eq!(shorts, ["exercise-1|2 + 2 * 3?|2*3=6;2+6=8|8", "exercise-2|1 + 1?||2"], "{name}");
        }
        let of_places = columns(&[("question", "q"), ("answer", "a"), ("id", "n")]);
        let none = BTreeMap::new();
        let bad = |text: &str, columns, want: &[&str]| {
            let error = read("b.jsonl", text.as_bytes(), columns).expect_err("bad");
            assert!(want.iter().all(|word| error.contains(word)), "{error}");
        };
        bad(&format!("{solved}\n{plain}"), &of_places, &["b.jsonl: line 2", "field 'n'", "has q, a"]);
        bad(&format!("{solved}\n{solved}"), &of_places, &["line 2", "the id `1` comes twice"]);
        bad(r#"{"question": " ", "answer": "a"}"#, &none, &["line 1", "field 'question'"]);
        bad(r#"{"question": "q", "answer": ["a"]}"#, &none, &["line 1", "field 'answer'"]);
        bad(r#"{"question": "q", "answer": "1\n####"}"#, &none, &["line 1", "field 'answer'", "####"]);
        bad(r#"{"question": "q", "answer": "a", "steps": [1]}"#, &none, &["line 1", "field 'steps'"]);
        bad("[1]", &none, &["line 1", "no object"]);
        for answer in [r#""C""#, "1", r#""bond""#, "\"#### C\""] {
            let row = format!(r#"{{"question": "q", "choices": ["bonds", "rates"], "answer": {answer}}}"#);
            bad(&row, &none, &["line 1", "field 'answer'", "2 choices"]);
        }
    }

    #[test]
    fn options_that_a_question_lacks_stand_behind_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.jsonl");
        for (question, choices, want) in [
            ("Which rises?", r#"["bonds", "rates"]"#, "Which rises?\nA. bonds\nB. rates"),
            ("How many?", r#"["A)21", "B)22"]"#, "How many?\nA)21\nB)22"),
            ("Bonds or rates?", r#"["Bonds", "rates"]"#, "Bonds or rates?"),
            ("Why?", "[]", "Why?"),
        ] {
            let texts: Vec<String> = serde_json::from_str(choices).expect("a list");
            for answer in ["A", "(a)", "A.", texts.first().map_or("rates fall", String::as_str)] {
                let row = format!(r#"{{"question": "{question}", "choices": {choices}, "answer": "{answer}"}}"#);
                fs::write(&path, row).expect("write");
                let source = ExerciseFiles { paths: vec![path.clone()], ..ExerciseFiles::default() };
                let exercise = &read_exercises(&source, None).expect("read")[0];
                assert_eq!((exercise.question.as_str(), exercise.answer.as_str()), (want, answer));
            }
        }
    }

    #[test]
    fn several_files_are_one_list_and_an_answer_with_steps_of_its_own_is_not_cut() {
        let folder = tempfile::tempdir().expect("folder");
        let row = |question: &str| {
            format!("{{\"question\": \"{question}\", \"answer\": \"x\\n#### 1\", \"steps\": [\"s\"]}}\n")
        };
        fs::write(folder.path().join("b-1.jsonl"), row("first") + &row("second")).expect("write");
        fs::write(folder.path().join("b-2.jsonl"), row("third")).expect("write");
        let source = ExerciseFiles { paths: vec![folder.path().join("b-*.jsonl")], ..ExerciseFiles::default() };
        let ids = |limit| {
            let exercises = read_exercises(&source, limit).expect("read");
            exercises.iter().map(|exercise| format!("{} {}", exercise.id, exercise.question)).collect::<Vec<_>>()
        };
        assert_eq!(ids(None), ["exercise-1 first", "exercise-2 second", "exercise-3 third"]);
        assert_eq!(ids(Some(2)), ["exercise-1 first", "exercise-2 second"]);
        let first = &read_exercises(&source, None).expect("read")[0];
        assert_eq!((first.answer.as_str(), first.steps.as_slice()), ("x\n#### 1", &["s".to_owned()][..]));
    }
}
