//! A file of a run beside the same file made again: where they differ first.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{TrainError, io};

/// A file of a run, and the same file made again.
pub(super) struct Twin {
    /// Its path below either folder.
    file: PathBuf,
    was: PathBuf,
    now: PathBuf,
    /// The names of both folders, which are no difference.
    places: Vec<String>,
}

/// The lines of a file of the run, and where those made again differ first.
pub(super) struct Lines {
    pub(super) was: Vec<Value>,
    pub(super) difference: Option<String>,
}

impl Twin {
    /// `folders` are the run's and that in which it was made again; `named` is the run's when it was made.
    pub(super) fn new(file: PathBuf, folders: [&Path; 2], named: &Path) -> Self {
        let [was, now] = folders.map(|folder| folder.join(&file));
        // the longest first: one lies in the other
        let places = [folders[1], folders[0], named].map(|folder| folder.display().to_string()).to_vec();
        Self { file, was, now, places }
    }

    /// As [`Twin::new`], where the file made again has a name of its own.
    pub(super) fn of_two_names(file: PathBuf, folders: [&Path; 2], again: &Path, named: &Path) -> Self {
        Self { now: folders[1].join(again), ..Self::new(file, folders, named) }
    }

    /// Where two JSON files differ, without what `strip` takes off.
    pub(super) fn json(&self, strip: impl Fn(&mut Value)) -> Result<Option<String>, TrainError> {
        let read = |path: &Path| match self.text(path)? {
            None => Ok(None),
            Some(text) => self.value(path, &text, &strip).map(Some),
        };
        let file = self.file.display();
        Ok(match (read(&self.was)?, read(&self.now)?) {
            (None, None) => None,
            (Some(was), Some(now)) => difference(&was, &now).map(|field| format!("{file}: {field}")),
            (Some(_), None) => Some(format!("{file} is not made again")),
            (None, Some(_)) => Some(format!("{file} is not there, and is made again")),
        })
    }

    /// Where two JSONL files differ first, without what `strip` takes off a line. No file has no lines.
    pub(super) fn lines(&self, strip: impl Fn(&mut Value)) -> Result<Lines, TrainError> {
        let read = |path: &Path| -> Result<Vec<Value>, TrainError> {
            let text = self.text(path)?.unwrap_or_default();
            text.lines().map(|line| self.value(path, line, &strip)).collect()
        };
        let (was, now) = (read(&self.was)?, read(&self.now)?);
        let file = self.file.display();
        let differing = was.iter().zip(&now).enumerate();
        let mut of_lines = differing.filter_map(|(index, (was, now))| Some((index, difference(was, now)?)));
        let difference = match of_lines.next() {
            Some((index, field)) => Some(format!("{file}, line {}: {field}", index + 1)),
            None if was.len() == now.len() => None,
            None => Some(format!("{file} has {} lines, made again {}", was.len(), now.len())),
        };
        Ok(Lines { was, difference })
    }

    fn text(&self, path: &Path) -> Result<Option<String>, TrainError> {
        match fs::read_to_string(path) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            text => text.map(Some).map_err(io("read", path)),
        }
    }

    fn value(&self, path: &Path, text: &str, strip: impl Fn(&mut Value)) -> Result<Value, TrainError> {
        let mut value = serde_json::from_str(text).map_err(|error| io("read", path)(std::io::Error::other(error)))?;
        strip(&mut value);
        self.without_places(&mut value);
        Ok(value)
    }

    fn without_places(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                *text = self.places.iter().fold(std::mem::take(text), |text, place| text.replace(place, "RUN"));
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.without_places(value)),
            Value::Object(object) => object.values_mut().for_each(|value| self.without_places(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Takes off everything but these keys.
pub(super) fn only(keys: &'static [&'static str]) -> impl Fn(&mut Value) {
    |value| {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, _| keys.contains(&key.as_str()));
        }
    }
}

/// The first field in which two values differ, with both values; `None` where they are equal.
fn difference(was: &Value, now: &Value) -> Option<String> {
    let told = |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), |value| short(&value.to_string()));
    let (field, was, now) = first_field(was, now)?;
    let field = if field.is_empty() { String::new() } else { format!("`{}` is ", field.trim_start_matches('.')) };
    Some(format!("{field}{}, made again {}", told(was), told(now)))
}

/// A field by its full name, and its value in either where it is there.
type Field<'a> = (String, Option<&'a Value>, Option<&'a Value>);

fn first_field<'a>(was: &'a Value, now: &'a Value) -> Option<Field<'a>> {
    let below = |name: String, was: Option<&'a Value>, now: Option<&'a Value>| match (was, now) {
        (Some(was), Some(now)) => first_field(was, now).map(|(rest, was, now)| (name + &rest, was, now)),
        _ => Some((name, was, now)),
    };
    match (was, now) {
        _ if was == now => None,
        (Value::Object(first), Value::Object(second)) => {
            let is_new = |(key, _): &(&String, &Value)| !first.contains_key(*key);
            let keys = first.keys().chain(second.iter().filter(is_new).map(|(key, _)| key));
            let get = |object: &'a Map<String, Value>, key: &str| object.get(key);
            keys.into_iter().find_map(|key| match (get(first, key), get(second, key)) {
                (was, now) if was == now => None,
                (was, now) => below(format!(".{key}"), was, now),
            })
        }
        (Value::Array(first), Value::Array(second)) => (0..first.len().max(second.len()))
            .find(|&index| first.get(index) != second.get(index))
            .and_then(|index| below(format!("[{index}]"), first.get(index), second.get(index))),
        _ => Some((String::new(), Some(was), Some(now))),
    }
}

/// The beginning of a long text.
fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

/// The files of a folder, sorted; none where there is no such folder.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(io("list", folder))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(io("list", folder)));
    let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_field_that_differs_is_named_with_both_values() {
        let was = json!({ "a": { "b": [1, { "c,none": 0.5 }] }, "d": "x" });
        for (now, said) in [
            (json!({ "a": { "b": [1, { "c,none": 0.7 }] }, "d": "x" }), "`a.b[1].c,none` is 0.5, made again 0.7"),
            (json!({ "a": { "b": [1] }, "d": "x" }), "`a.b[1]` is {\"c,none\":0.5}, made again absent"),
            (json!({ "a": { "b": [1, { "c,none": 0.5 }] } }), "`d` is \"x\", made again absent"),
            (json!({ "a": { "b": [1, { "c,none": 0.5 }] }, "d": "x", "e": 1 }), "`e` is absent, made again 1"),
            (json!(3), "{\"a\":{\"b\":[1,{\"c,none\":0.5}]},\"d\":\"x\"}, made again 3"),
        ] {
            assert_eq!(difference(&was, &now).as_deref(), Some(said));
        }
        assert_eq!(difference(&was, &was), None);
    }
}
