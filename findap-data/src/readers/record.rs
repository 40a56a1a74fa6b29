//! A JSON object to a [`Record`], by the names of its fields.

use serde_json::{Map, Value};

use super::{Kind, ReadOptions, Record, Turns};
use crate::batch::TokenizedRow;
use crate::error::RecordProblem;
use crate::message::{Message, Role};

pub(super) fn parse(value: Value, options: &ReadOptions) -> Result<Record, RecordProblem> {
    let Value::Object(object) = value else {
        return Err(RecordProblem::NotAnObject { got: type_name(&value) });
    };
    let fields = Fields { object: &object, options };
    let wants_text = options.kind == Some(Kind::Text);
    if wants_text && fields.has("text") {
        return Ok(Record::Text(fields.text("text")?.to_string()));
    }
    if fields.has("docs") {
        return packed(&fields);
    }
    if fields.has("chosen_ids") || fields.has("rejected_ids") {
        return Ok(Record::TokenizedPair {
            prompt: ids(fields.get("prompt_ids")?, "prompt_ids")?,
            chosen: ids(fields.get("chosen_ids")?, "chosen_ids")?,
            rejected: ids(fields.get("rejected_ids")?, "rejected_ids")?,
        });
    }
    if fields.has("ids") {
        return Ok(Record::Tokenized(tokenized(&object, &fields.column("ids"), &fields.column("mask"))?));
    }
    if fields.has("chosen") || fields.has("rejected") {
        return preference(&fields);
    }
    if fields.has("messages") {
        return Ok(Record::Conversation(messages(fields.get("messages")?, "messages")?));
    }
    if fields.has("conversations") {
        return Ok(Record::Conversation(messages(fields.get("conversations")?, "conversations")?));
    }
    if fields.has("completion") {
        return prompt_completion(&fields);
    }
    if fields.has("instruction") && fields.has("output") {
        return alpaca(&fields);
    }
    if fields.has("text") {
        return Ok(Record::Text(fields.text("text")?.to_string()));
    }
    Err(RecordProblem::UnknownSchema { found: fields.names() })
}

struct Fields<'a> {
    object: &'a Map<String, Value>,
    options: &'a ReadOptions,
}

impl<'a> Fields<'a> {
    fn column(&self, field: &str) -> String {
        self.options.columns.get(field).cloned().unwrap_or_else(|| field.to_string())
    }

    fn has(&self, field: &str) -> bool {
        self.object.get(&self.column(field)).is_some_and(|value| !value.is_null())
    }

    fn names(&self) -> String {
        const MAX_NAMES: usize = 20;
        let names: Vec<&str> = self.object.keys().take(MAX_NAMES).map(String::as_str).collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    fn get(&self, field: &str) -> Result<&'a Value, RecordProblem> {
        self.object
            .get(&self.column(field))
            .ok_or_else(|| RecordProblem::MissingField { field: field.to_string(), found: self.names() })
    }

    fn text(&self, field: &str) -> Result<&'a str, RecordProblem> {
        text(self.get(field)?, &self.column(field))
    }

    fn optional_text(&self, field: &str) -> Result<Option<&'a str>, RecordProblem> {
        if self.has(field) { self.text(field).map(Some) } else { Ok(None) }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn wrong_type(field: &str, want: &'static str, value: &Value) -> RecordProblem {
    RecordProblem::WrongType { field: field.to_string(), want, got: type_name(value) }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, RecordProblem> {
    value.as_str().ok_or_else(|| wrong_type(field, "a string", value))
}

fn ids(value: &Value, field: &str) -> Result<Vec<u32>, RecordProblem> {
    let list = value.as_array().ok_or_else(|| wrong_type(field, "a list of token ids", value))?;
    list.iter()
        .map(|item| {
            item.as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|&id| id != u32::MAX)
                .ok_or_else(|| wrong_type(field, "a list of token ids", item))
        })
        .collect()
}

fn tokenized(object: &Map<String, Value>, ids_field: &str, mask_field: &str) -> Result<TokenizedRow, RecordProblem> {
    let missing = |field: &str| RecordProblem::MissingField {
        field: field.to_string(),
        found: object.keys().cloned().collect::<Vec<_>>().join(", "),
    };
    let ids = ids(object.get(ids_field).ok_or_else(|| missing(ids_field))?, ids_field)?;
    let mask_value = object.get(mask_field).ok_or_else(|| missing(mask_field))?;
    let mask = mask_value
        .as_array()
        .ok_or_else(|| wrong_type(mask_field, "a list of 0 and 1", mask_value))?
        .iter()
        .map(|flag| match flag {
            Value::Bool(flag) => Ok(*flag),
            Value::Number(number) if number.as_u64() == Some(0) => Ok(false),
            Value::Number(number) if number.as_u64() == Some(1) => Ok(true),
            other => Err(wrong_type(mask_field, "a list of 0 and 1", other)),
        })
        .collect::<Result<Vec<bool>, _>>()?;
    if ids.len() != mask.len() {
        return Err(RecordProblem::LengthMismatch { field: mask_field.to_string(), ids: ids.len(), mask: mask.len() });
    }
    Ok(TokenizedRow { ids, mask })
}

fn packed(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let value = fields.get("docs")?;
    let list = value.as_array().ok_or_else(|| wrong_type("docs", "a list of documents", value))?;
    let documents = list
        .iter()
        .map(|document| match document {
            Value::Object(object) => tokenized(object, "ids", "mask"),
            other => Err(wrong_type("docs", "a list of {ids, mask}", other)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Record::Packed(documents))
}

/// Turns as `{role, content}` or `{from, value}`.
fn messages(value: &Value, field: &str) -> Result<Vec<Message>, RecordProblem> {
    let list = value.as_array().ok_or_else(|| wrong_type(field, "a list of turns", value))?;
    list.iter().enumerate().map(|(index, turn)| message(turn, &format!("{field}[{index}]"))).collect()
}

fn message(turn: &Value, field: &str) -> Result<Message, RecordProblem> {
    let object = turn.as_object().ok_or_else(|| wrong_type(field, "an object with role and content", turn))?;
    let part = |names: [&str; 2]| {
        names.iter().find_map(|name| object.get(*name)).ok_or_else(|| RecordProblem::MissingField {
            field: format!("{field}.{}", names[0]),
            found: object.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    };
    let role = text(part(["role", "from"])?, &format!("{field}.role"))?;
    let content = text(part(["content", "value"])?, &format!("{field}.content"))?;
    let role = Role::parse(role).ok_or_else(|| RecordProblem::UnknownRole {
        field: field.to_string(),
        role: role.chars().take(40).collect(),
    })?;
    Ok(Message::new(role, content))
}

/// A text, a list of turns, or (LLaMA-Factory) a single turn.
fn turns(value: &Value, field: &str) -> Result<Turns, RecordProblem> {
    match value {
        Value::String(text) => Ok(Turns::Text(text.clone())),
        Value::Array(_) => Ok(Turns::Messages(messages(value, field)?)),
        Value::Object(_) => Ok(Turns::Messages(vec![message(value, field)?])),
        other => Err(wrong_type(field, "a string or a list of turns", other)),
    }
}

fn preference(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let chosen = turns(fields.get("chosen")?, "chosen")?;
    let rejected = turns(fields.get("rejected")?, "rejected")?;
    if chosen == rejected {
        return Err(RecordProblem::EqualAnswers);
    }
    let explicit = ["prompt", "conversations"].into_iter().find(|field| fields.has(field));
    if let Some(field) = explicit {
        return Ok(Record::Preference { prompt: turns(fields.get(field)?, field)?, chosen, rejected });
    }
    // An implicit prompt is what both answers begin with.
    match (chosen, rejected) {
        (Turns::Messages(chosen), Turns::Messages(rejected)) => {
            let num_shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            let num_shared = num_shared.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
            Ok(Record::Preference {
                prompt: Turns::Messages(chosen[..num_shared].to_vec()),
                chosen: Turns::Messages(chosen[num_shared..].to_vec()),
                rejected: Turns::Messages(rejected[num_shared..].to_vec()),
            })
        }
        (Turns::Text(chosen), Turns::Text(rejected)) => {
            let shared: usize =
                chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            // TRL cuts at the last blank, so that no word is divided.
            let shared = chosen[..shared].rfind(char::is_whitespace).unwrap_or(0);
            Ok(Record::Preference {
                prompt: Turns::Text(chosen[..shared].to_string()),
                chosen: Turns::Text(chosen[shared..].to_string()),
                rejected: Turns::Text(rejected[shared..].to_string()),
            })
        }
        _ => Err(RecordProblem::WrongType {
            field: "rejected".into(),
            want: "of the same form as chosen",
            got: "of another form",
        }),
    }
}

fn prompt_completion(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let prompt = turns(fields.get("prompt")?, "prompt")?;
    let completion = turns(fields.get("completion")?, "completion")?;
    match (prompt, completion) {
        (Turns::Text(prompt), Turns::Text(completion)) => Ok(Record::PromptCompletion { prompt, completion }),
        (Turns::Messages(mut prompt), Turns::Messages(completion)) => {
            prompt.extend(completion);
            Ok(Record::Conversation(prompt))
        }
        _ => Err(RecordProblem::WrongType {
            field: "completion".into(),
            want: "of the same form as prompt",
            got: "of another form",
        }),
    }
}

fn alpaca(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let mut conversation = Vec::new();
    if let Some(system) = fields.optional_text("system")?.filter(|system| !system.is_empty()) {
        conversation.push(Message::system(system));
    }
    if fields.has("history") {
        let history = fields.get("history")?;
        for pair in history.as_array().ok_or_else(|| wrong_type("history", "a list of pairs", history))? {
            let pair_of_texts = pair.as_array().filter(|pair| pair.len() == 2);
            let pair_of_texts = pair_of_texts.ok_or_else(|| wrong_type("history", "a list of pairs", pair))?;
            conversation.push(Message::user(text(&pair_of_texts[0], "history")?));
            conversation.push(Message::assistant(text(&pair_of_texts[1], "history")?));
        }
    }
    let instruction = fields.text("instruction")?;
    let request = match fields.optional_text("input")?.filter(|input| !input.is_empty()) {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_string(),
    };
    conversation.push(Message::user(request));
    conversation.push(Message::assistant(fields.text("output")?));
    Ok(Record::Conversation(conversation))
}
