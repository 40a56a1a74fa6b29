//! Prompts as plain strings with `{field}`; no logic, so that a task file says what its prompt is.
//!
//! | written | becomes |
//! |---|---|
//! | `{question}` | the field: text as it is, numbers and booleans as JSON writes them |
//! | `{turns.0.value}` | an element of a list, a key of an object |
//! | `{system?}` | the field, or nothing where the row has none |
//! | `{choices:letters}` | a list as lines `A. first`, `B. second` |
//! | `{items:numbers}` | a list as lines `1. first`, `2. second` |
//! | `{steps:lines}` | a list, one element per line |
//! | `{names:commas}` | a list joined by `, ` |
//! | `{evidence.*.text:lines}` | of a list of objects, the list of these values |
//! | `{question:stripped}` | a text without white space at its ends |
//! | `{sentence:capitalized}` | a text with its first letter as a capital and no other |
//! | `{{`, `}}` | a literal brace |

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The fields of one row.
pub type Fields = serde_json::Map<String, Value>;

/// A parsed prompt string.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
#[schemars(into = "String")]
pub struct Template {
    source: String,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field { name: String, optional: bool, style: Option<Style> },
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    List(ListStyle),
    Stripped,
    Capitalized,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListStyle {
    Letters,
    Numbers,
    Lines,
    Commas,
}

/// Why a template cannot be parsed or rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A brace is not closed, not opened, or holds no field name.
    #[error("{template:?}: a lone or empty brace at byte {at}; write {{{{ or }}}} for a literal one")]
    Brace {
        /// The template as written.
        template: String,
        /// Byte offset of the brace.
        at: usize,
    },
    /// The part after the colon is not a known style.
    #[error(
        "{template:?}: {{{field}:{style}}}: known styles are letters, numbers, lines, commas for lists, and stripped, capitalized"
    )]
    Style {
        /// The template as written.
        template: String,
        /// Field name.
        field: String,
        /// What stands after the colon.
        style: String,
    },
    /// The row has no such field.
    #[error("the row has no field {field:?} (it has: {known})")]
    MissingField {
        /// The field that the template names.
        field: String,
        /// The fields of the row, comma separated.
        known: String,
    },
    /// The field's value cannot be written this way.
    #[error("field {field:?} is {found} but {expected} is needed")]
    WrongType {
        /// The field that the template names.
        field: String,
        /// The JSON type that stands there.
        found: &'static str,
        /// The JSON type that is needed.
        expected: &'static str,
    },
}

impl TryFrom<String> for Template {
    type Error = TemplateError;

    fn try_from(source: String) -> Result<Self, TemplateError> {
        let brace = |at| TemplateError::Brace { template: source.clone(), at };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source.char_indices().peekable();
        while let Some((at, character)) = rest.next() {
            match character {
                '{' | '}' if rest.next_if(|&(_, next)| next == character).is_some() => text.push(character),
                '{' => {
                    let length = source[at..].find('}').ok_or_else(|| brace(at))?;
                    let inside = &source[at + 1..at + length];
                    if inside.is_empty() || inside.contains('{') {
                        return Err(brace(at));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(parse_field(&source, inside)?);
                    while rest.next_if(|&(next, _)| next <= at + length).is_some() {}
                }
                '}' => return Err(brace(at)),
                other => text.push(other),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Ok(Self { source, pieces })
    }
}

fn parse_field(template: &str, inside: &str) -> Result<Piece, TemplateError> {
    let (name, style) = match inside.split_once(':') {
        Some((name, style)) => (name, Some(style)),
        None => (inside, None),
    };
    let style = match style {
        None => None,
        Some("letters") => Some(Style::List(ListStyle::Letters)),
        Some("numbers") => Some(Style::List(ListStyle::Numbers)),
        Some("lines") => Some(Style::List(ListStyle::Lines)),
        Some("commas") => Some(Style::List(ListStyle::Commas)),
        Some("stripped") => Some(Style::Stripped),
        Some("capitalized") => Some(Style::Capitalized),
        Some(style) => {
            return Err(TemplateError::Style {
                template: template.to_owned(),
                field: name.to_owned(),
                style: style.to_owned(),
            });
        }
    };
    let optional = name.ends_with('?');
    let name = name.trim_end_matches('?').to_owned();
    Ok(Piece::Field { name, optional, style })
}

impl Template {
    /// The template as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Fills in the fields of one row.
    ///
    /// # Errors
    /// [`TemplateError::MissingField`] and [`TemplateError::WrongType`].
    pub fn render(&self, fields: &Fields) -> Result<String, TemplateError> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field { name, optional, style } => match gather(fields, name).as_deref() {
                    None | Some(Value::Null) if *optional => {}
                    None => return Err(missing(name, fields)),
                    Some(value) => out.push_str(&write(name, value, *style)?),
                },
            }
        }
        Ok(out)
    }
}

fn write(name: &str, value: &Value, style: Option<Style>) -> Result<String, TemplateError> {
    match (style, value) {
        (None, value) => scalar(name, value),
        (Some(Style::Stripped), value) => Ok(scalar(name, value)?.trim().to_owned()),
        (Some(Style::Capitalized), value) => Ok(capitalized(&scalar(name, value)?)),
        (Some(Style::List(style)), Value::Array(items)) => render_list(name, items, style),
        (Some(Style::List(_)), other) => Err(wrong_type(name, other, "a list")),
    }
}

/// As Python's `capitalize`, which makes all letters but the first small.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters.as_str().to_lowercase().chars()).collect())
}

fn render_list(name: &str, items: &[Value], style: ListStyle) -> Result<String, TemplateError> {
    let texts = items.iter().map(|item| scalar(name, item)).collect::<Result<Vec<_>, _>>()?;
    Ok(match style {
        ListStyle::Letters => {
            let line = |(index, text): (usize, &String)| format!("{}. {text}", letter(index));
            texts.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
        }
        ListStyle::Numbers => {
            let line = |(index, text): (usize, &String)| format!("{}. {text}", index + 1);
            texts.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
        }
        ListStyle::Lines => texts.join("\n"),
        ListStyle::Commas => texts.join(", "),
    })
}

/// The letter of a choice: A, B, ... Z, then numbers from 27.
pub fn letter(index: usize) -> String {
    match u8::try_from(index) {
        Ok(small) if small < 26 => char::from(b'A' + small).to_string(),
        _ => (index + 1).to_string(),
    }
}

/// The value at a path: a field, or `field.0.key` into lists and objects.
pub(crate) fn lookup<'a>(fields: &'a Fields, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = fields.get(parts.next()?);
    parts.fold(first, |value, part| match value? {
        Value::Object(object) => object.get(part),
        Value::Array(items) => items.get(part.parse::<usize>().ok()?),
        _ => None,
    })
}

/// As [`lookup`], where a part `*` stands for every object of a list: `evidence.*.text` is the list of their texts, and is absent
/// where one of them has none.
pub(crate) fn gather<'a>(fields: &'a Fields, path: &str) -> Option<Cow<'a, Value>> {
    let Some((list, member)) = path.split_once(".*.") else { return lookup(fields, path).map(Cow::Borrowed) };
    let items = lookup(fields, list)?.as_array()?;
    let values: Option<Vec<Value>> = items.iter().map(|item| lookup(item.as_object()?, member).cloned()).collect();
    values.map(|values| Cow::Owned(Value::Array(values)))
}

/// A text, number or boolean as a string.
pub(crate) fn scalar(name: &str, value: &Value) -> Result<String, TemplateError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(wrong_type(name, other, "text or a number")),
    }
}

pub(crate) fn missing(name: &str, fields: &Fields) -> TemplateError {
    let known = fields.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    TemplateError::MissingField { field: name.to_owned(), known }
}

pub(crate) fn wrong_type(name: &str, value: &Value, expected: &'static str) -> TemplateError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    TemplateError::WrongType { field: name.to_owned(), found, expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> Template {
        Template::try_from(source.to_owned()).expect("a valid template")
    }

    fn fields(json: &str) -> Fields {
        serde_json::from_str(json).expect("an object")
    }

    #[test]
    fn fields_lists_and_braces_render() {
        let row = fields(
            r#"{"q": "Why {so}?", "n": 3, "f": 2.50, "c": ["x", "y"], "none": null, "o": {"k": "v"},
            "w": " a  b\n", "t": "\u00e9t\u00e9 It I", "list": [{"k": 1, "o": {"k": "x"}}, {"k": 2, "o": {"k": "y"}}]}"#,
        );
        let cases = [
            ("Q: {q}\nA:", "Q: Why {so}?\nA:"),
            ("{n} {f}", "3 2.5"),
            ("{c:letters}", "A. x\nB. y"),
            ("{c:numbers}", "1. x\n2. y"),
            ("{c:lines}|{c:commas}", "x\ny|x, y"),
            ("{{\"k\": {n}}}", "{\"k\": 3}"),
            ("{none?}{absent?}.", "."),
            ("{c.1}{o.k}", "yv"),
            ("[{w:stripped}] [{t:capitalized}]", "[a  b] [\u{c9}t\u{e9} it i]"),
            ("{list.*.k:lines}|{list.*.o.k:commas}", "1\n2|x, y"),
            ("{list.*.absent?:lines}.", "."),
        ];
        for (source, want) in cases {
            assert_eq!(template(source).render(&row).as_deref(), Ok(want), "{source}");
        }
    }

    #[test]
    fn bad_templates_are_refused() {
        for source in ["{", "a}b", "{}", "{a{b}}"] {
            assert!(matches!(Template::try_from(source.to_owned()), Err(TemplateError::Brace { .. })), "{source}");
        }
        assert!(matches!(Template::try_from("{a:rows}".to_owned()), Err(TemplateError::Style { .. })));
    }

    #[test]
    fn missing_and_mistyped_fields_are_named() {
        let row = fields(r#"{"q": ["x"], "s": "text", "n": null, "l": ["a", null]}"#);
        let error = template("{answer}").render(&row).unwrap_err();
        assert_eq!(error.to_string(), "the row has no field \"answer\" (it has: q, s, n, l)");
        assert!(matches!(template("{q}").render(&row), Err(TemplateError::WrongType { found: "a list", .. })));
        let error = template("{n}").render(&row).unwrap_err();
        assert_eq!(error.to_string(), "field \"n\" is null but text or a number is needed");
        for source in ["{n:lines}", "{l:lines}"] {
            assert!(
                matches!(template(source).render(&row), Err(TemplateError::WrongType { found: "null", .. })),
                "{source}"
            );
        }
        assert!(matches!(template("{s:lines}").render(&row), Err(TemplateError::WrongType { found: "text", .. })));
    }

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([0, 25, 26, 300].map(letter), ["A", "Z", "27", "301"]);
    }
}
