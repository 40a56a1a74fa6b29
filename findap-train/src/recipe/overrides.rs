//! `--set table.member.key=value`: one value of a recipe, changed for one run.

use toml::{Table, Value};

use super::error::RecipeError;

/// Puts `text`, read as TOML or failing that as a bare string, where `key` leads.
pub(super) fn apply_override(root: &mut Table, key: &str, text: &str) -> Result<(), RecipeError> {
    let fail = |problem: String| RecipeError::Override { key: key.to_owned(), problem };
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or_else(|| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    };
    let parts: Vec<&str> = key.split('.').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(fail("the key must be of the form table.key or table.member.key".to_owned()));
    }
    let (last, folders) = parts.split_last().expect("invariant: split gives at least one part");
    let mut cursor = Cursor::Table(root);
    for part in folders {
        cursor = cursor.step(part).map_err(&fail)?;
    }
    match cursor {
        Cursor::Table(table) => {
            table.insert((*last).to_owned(), value);
            Ok(())
        }
        Cursor::Array(_) => Err(fail(format!("`{last}` would replace a whole member; name a key of it"))),
    }
}

/// The table or array that the parts of a key have led to so far.
enum Cursor<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Cursor<'a> {
    fn step(self, part: &str) -> Result<Self, String> {
        let next = match self {
            Self::Table(table) => table.entry(part).or_insert_with(|| Value::Table(Table::new())),
            Self::Array(items) => {
                let names: Vec<String> = items.iter().map(member_name).collect();
                let found = names
                    .iter()
                    .position(|name| name == part)
                    .or_else(|| part.parse().ok().filter(|i| *i < items.len()));
                let index =
                    found.ok_or_else(|| format!("there is no member `{part}`; there are {}", names.join(", ")))?;
                &mut items[index]
            }
        };
        match next {
            Value::Table(table) => Ok(Self::Table(table)),
            Value::Array(items) => Ok(Self::Array(items)),
            other => Err(format!("`{part}` is a {} and has no keys", other.type_str())),
        }
    }
}

fn member_name(value: &Value) -> String {
    value.get("name").and_then(Value::as_str).unwrap_or("?").to_owned()
}
