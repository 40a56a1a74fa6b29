//! Turns of conversations, in the spellings of public data sets.

use serde_json::{Map, Value};

use super::fields::{is_void, names, not_honoured, text, wrong_type};
use super::refused::{self, PARTS};
use crate::error::RecordProblem;
use crate::message::{Message, Role};

/// A message as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) message: Message,
    /// The field that says that this answer is not learnt.
    pub(super) unlearnt_by: Option<String>,
}

impl Turn {
    pub(super) fn new(message: Message) -> Turn {
        Turn { message, unlearnt_by: None }
    }
}

const ROLES: [&str; 2] = ["role", "from"];
const CONTENTS: [&str; 3] = ["content", "value", "text"];
/// True, or 1: the answer is learnt. From OpenAI, axolotl and ms-swift.
const LEARNT: [&str; 8] =
    ["weight", "train", "training", "trainable", "loss", "loss_scale", "loss_weight", "loss_mask"];
/// What chat templates may print and this program does not hand to them, and finer masks than those of whole turns.
const REFUSED: [(&str, &str); 17] = [
    ("tool_calls", TOOLS),
    ("function_call", TOOLS),
    ("tool_call_id", TOOLS),
    ("tool_responses", TOOLS),
    ("tools", TOOLS),
    ("reasoning_content", REASONING),
    ("reasoning", REASONING),
    ("thinking", REASONING),
    ("images", PARTS),
    ("image", PARTS),
    ("audio", PARTS),
    ("video", PARTS),
    ("videos", PARTS),
    ("mask", MASKS),
    ("step_loss_mask", MASKS),
    ("train_detail", MASKS),
    ("training_detail", MASKS),
];
const TOOLS: &str = "is not handed to the chat template; write the call into the content as the template prints it, or remove the field";
const REASONING: &str =
    "is not handed to the chat template; write it into the content as the template prints it, or remove the field";
const MASKS: &str =
    "is not understood here; say per turn what is learnt, with weight = 0 or 1, or give ids and mask as a row";

/// Whether a field of this name, in a struct of a table, is looked at.
pub(super) fn is_field(name: &str) -> bool {
    let is_plain =
        [&ROLES[..], &CONTENTS, &LEARNT, &["masked", "label", "type", "ids", "mask"]].concat().contains(&name);
    is_plain || REFUSED.iter().any(|(refused, _)| *refused == name)
}

/// Turns as `{role, content}` or `{from, value}`; `None` where one of them has no content.
pub(super) fn turns(value: &Value, field: &str) -> Result<Option<Vec<Turn>>, RecordProblem> {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().map(|(index, turn)| one(turn, &format!("{field}[{index}]"))).collect()
        }
        // LLaMA-Factory gives the answers of a pair as single turns.
        Value::Object(_) => Ok(one(value, field)?.map(|turn| vec![turn])),
        other => Err(wrong_type(field, "a list of turns", other)),
    }
}

fn one(turn: &Value, field: &str) -> Result<Option<Turn>, RecordProblem> {
    let object = turn.as_object().ok_or_else(|| wrong_type(field, "an object with role and content", turn))?;
    let name = part(object, &ROLES).ok_or_else(|| missing(object, field, ROLES[0]))?;
    let name = text(name, &format!("{field}.role"))?;
    let role = Role::parse(name).ok_or_else(|| RecordProblem::UnknownRole {
        field: field.to_string(),
        role: name.chars().take(40).collect(),
    })?;
    for (refused, why) in REFUSED {
        if object.get(refused).is_some_and(|value| !is_void(value)) {
            return Err(not_honoured(format!("{field}.{refused}"), why));
        }
    }
    if role == Role::Assistant && object.get("label").is_some_and(|label| *label == Value::Bool(false)) {
        return Err(not_honoured(format!("{field}.label"), "is false, which marks a bad answer; leave the row out"));
    }
    let unlearnt_by = unlearnt_by(object, role, field)?;
    let Some(value) = part(object, &CONTENTS) else {
        return if CONTENTS.iter().any(|name| object.contains_key(*name)) {
            Ok(None)
        } else {
            Err(missing(object, field, CONTENTS[0]))
        };
    };
    let content = content(value, &format!("{field}.content"))?;
    Ok(Some(Turn { message: Message::new(role, content), unlearnt_by }))
}

fn part<'a>(object: &'a Map<String, Value>, names: &[&str]) -> Option<&'a Value> {
    names.iter().filter_map(|name| object.get(*name)).find(|value| !value.is_null())
}

fn missing(object: &Map<String, Value>, field: &str, name: &str) -> RecordProblem {
    RecordProblem::MissingField { field: format!("{field}.{name}"), found: names(object) }
}

/// A text, or a list of parts that are texts.
fn content(value: &Value, field: &str) -> Result<String, RecordProblem> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text_of = |(index, part)| part_text(part, &format!("{field}[{index}]"));
            parts.iter().enumerate().map(text_of).collect()
        }
        Value::Object(_) => part_text(value, field).map(str::to_owned),
        other => Err(wrong_type(field, "a string or a list of text parts", other)),
    }
}

fn part_text<'a>(part: &'a Value, field: &str) -> Result<&'a str, RecordProblem> {
    let object = match part {
        Value::String(text) => return Ok(text),
        Value::Object(object) => object,
        other => return Err(wrong_type(field, "a text part", other)),
    };
    match object.get("type").filter(|kind| !kind.is_null()) {
        None => {}
        Some(Value::String(kind)) if matches!(kind.as_str(), "text" | "input_text" | "output_text") => {}
        Some(kind) => return Err(not_honoured(field, format!("is a part of type {kind}, which {PARTS}"))),
    }
    for name in LEARNT.into_iter().chain(["masked"]) {
        let whole = if name == "masked" { 0.0 } else { 1.0 };
        let is_plain = |value: &Value| is_void(value) || refused::number(value) == Some(whole);
        if object.get(name).is_some_and(|value| !is_plain(value)) {
            return Err(not_honoured(
                format!("{field}.{name}"),
                "is said of a part, and answers are learnt or not as a whole",
            ));
        }
    }
    text(object.get("text").ok_or_else(|| missing(object, field, "text"))?, &format!("{field}.text"))
}

/// The field by which an answer is not learnt.
fn unlearnt_by(object: &Map<String, Value>, role: Role, field: &str) -> Result<Option<String>, RecordProblem> {
    let flags = LEARNT.iter().map(|name| (*name, false)).chain([("masked", true)]);
    let mut found: Option<(bool, String)> = None;
    for (name, is_inverse) in flags {
        let Some(value) = object.get(name).filter(|value| !value.is_null()) else { continue };
        let place = format!("{field}.{name}");
        let is_learnt = match value {
            Value::Bool(flag) => *flag,
            Value::Number(number) if number.as_f64() == Some(0.0) => false,
            Value::Number(number) if number.as_f64() == Some(1.0) => true,
            other => {
                let why =
                    format!("is {other}; it must be 0 or 1, or true or false: answers are learnt or not, not in part");
                return Err(not_honoured(place, why));
            }
        } != is_inverse;
        // On turns of others the plain 1 of a table's column says nothing, and the word train does.
        if role != Role::Assistant && is_learnt && value.is_boolean() && !is_inverse {
            return Err(not_honoured(place, format!("is true on a {role} turn, and only assistant turns are learnt")));
        }
        match &found {
            Some((before, other)) if *before != is_learnt => {
                return Err(not_honoured(place, format!("says another thing than {other}; remove one of them")));
            }
            _ => found = Some((is_learnt, place)),
        }
    }
    Ok(found.filter(|(is_learnt, _)| !is_learnt && role == Role::Assistant).map(|(_, place)| place))
}
