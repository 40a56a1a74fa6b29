//! `--set table.member.key=value` and `--unset table.member.key`: a recipe, changed for one run.

use toml::{Table, Value};

use super::error::{RecipeError, kind_of};

/// A change of a recipe for one run. Members of arrays are named by their `name` or index: `stage.group1.learning_rate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Override {
    /// Gives a key a value, whether it is written or not.
    Set {
        /// The full key.
        key: String,
        /// TOML or, failing that, a bare string.
        value: String,
    },
    /// Takes a written key, table or member out, so that its default holds.
    Unset {
        /// The full key.
        key: String,
    },
}

impl Override {
    /// A key with a value.
    pub fn set(key: &str, value: &str) -> Self {
        Self::Set { key: key.to_owned(), value: value.to_owned() }
    }

    /// The full key.
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Unset { key } => key,
        }
    }

    pub(super) fn apply(&self, root: &mut Table) -> Result<(), RecipeError> {
        let (flag, done) = match self {
            Self::Set { key, value } => ("--set", set(root, key, value)),
            Self::Unset { key } => ("--unset", unset(root, key)),
        };
        done.map_err(|problem| RecipeError::Override { flag, key: self.key().to_owned(), problem })
    }
}

fn set(root: &mut Table, key: &str, text: &str) -> Result<(), String> {
    // An empty variable of a shell script is more likely than a wish for an empty text.
    if text.trim().is_empty() {
        return Err(format!("there is no value; write {key}=VALUE, {key}='\"\"' for an empty text, or --unset {key}"));
    }
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(|| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    };
    let (tables, last) = parts(key)?;
    match lead(root, &tables)? {
        Cursor::Table(table) => {
            table.insert(last.to_owned(), value);
            Ok(())
        }
        Cursor::Array(_) => Err(format!("`{last}` would replace a whole member; name a key of it")),
    }
}

fn unset(root: &mut Table, key: &str) -> Result<(), String> {
    let (tables, last) = parts(key)?;
    let absent = || format!("the recipe does not have `{last}` there, so there is nothing to take out");
    match lead(root, &tables)? {
        Cursor::Table(table) => table.remove(last).map(drop).ok_or_else(absent),
        Cursor::Array(items) => {
            let index = member(items, last)?;
            items.remove(index);
            Ok(())
        }
    }
}

/// The tables that lead to a key, and its name.
fn parts(key: &str) -> Result<(Vec<&str>, &str), String> {
    let mut parts: Vec<&str> = key.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err("the key must be of the form table.key or table.member.key".to_owned());
    }
    let last = parts.pop().expect("invariant: split gives at least one part");
    Ok((parts, last))
}

/// The table or array that the parts of a key have led to so far.
enum Cursor<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

/// Follows the parts of a key; makes the tables that are not there.
fn lead<'a>(root: &'a mut Table, parts: &[&str]) -> Result<Cursor<'a>, String> {
    let mut cursor = Cursor::Table(root);
    for part in parts {
        let next = match cursor {
            Cursor::Table(table) => table.entry(*part).or_insert_with(|| Value::Table(Table::new())),
            Cursor::Array(items) => {
                let index = member(items, part)?;
                &mut items[index]
            }
        };
        cursor = match next {
            Value::Table(table) => Cursor::Table(table),
            Value::Array(items) => Cursor::Array(items),
            other => return Err(format!("`{part}` is {} and has no keys", kind_of(other))),
        };
    }
    Ok(cursor)
}

/// The place of a member of an array, by its name or its index.
fn member(items: &[Value], part: &str) -> Result<usize, String> {
    let name = |value: &Value| value.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
    let names: Vec<String> = items.iter().map(name).collect();
    let by_index = || part.parse().ok().filter(|index| *index < items.len());
    let found = names.iter().position(|name| name == part).or_else(by_index);
    found.ok_or_else(|| format!("there is no member `{part}`; there are {}", names.join(", ")))
}
