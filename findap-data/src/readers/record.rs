//! A JSON object to a [`Record`], by the names of its fields.

use serde_json::{Map, Value};

use super::fields::{Fields, names, not_honoured, type_name, wrong_type};
use super::request::{request, system, with_system};
use super::turn::{self, Turn};
use super::{Conversation, Kind, ReadOptions, Record, Row, Unreadable, preference, refused, transcript};
use crate::batch::TokenizedRow;
use crate::error::RecordProblem;
use crate::message::{Message, Role};

/// What a row is, and the fields without which it is not one.
#[derive(Clone, Copy)]
enum Schema {
    Text,
    Packed,
    TokenizedPair,
    Tokenized,
    Preference,
    Conversation(&'static str),
    PromptCompletion,
    Alpaca,
}

impl Schema {
    /// The first schema one of whose telling fields is there; of several, the richest.
    fn find(kind: Option<Kind>, is_there: impl Fn(&str) -> bool) -> Option<Schema> {
        if kind == Some(Kind::Text) && is_there("text") {
            return Some(Schema::Text);
        }
        if is_there("docs") {
            return Some(Schema::Packed);
        }
        if is_there("chosen_ids") || is_there("rejected_ids") {
            return Some(Schema::TokenizedPair);
        }
        if is_there("ids") {
            return Some(Schema::Tokenized);
        }
        let conversation = ["messages", "conversations"].into_iter().find(|field| is_there(field));
        // Rows of pairs may have the better conversation a second time, for those who learn only that.
        let is_pair =
            (kind != Some(Kind::Chat) || conversation.is_none()) && (is_there("chosen") || is_there("rejected"));
        if is_pair {
            return Some(Schema::Preference);
        }
        if let Some(field) = conversation {
            return Some(Schema::Conversation(field));
        }
        if is_there("completion") {
            return Some(Schema::PromptCompletion);
        }
        if is_there("instruction") && is_there("output") {
            return Some(Schema::Alpaca);
        }
        is_there("text").then_some(Schema::Text)
    }

    fn required(self) -> Vec<&'static str> {
        match self {
            Schema::Text => vec!["text"],
            Schema::Packed => vec!["docs"],
            Schema::TokenizedPair => vec!["prompt_ids", "chosen_ids", "rejected_ids"],
            Schema::Tokenized => vec!["ids", "mask"],
            Schema::Preference => vec!["chosen", "rejected"],
            Schema::Conversation(field) => vec![field],
            Schema::PromptCompletion => vec!["prompt", "completion"],
            Schema::Alpaca => vec!["instruction", "output"],
        }
    }
}

pub(super) fn parse(row: &Row, options: &ReadOptions) -> Result<Record, RecordProblem> {
    let Value::Object(object) = &row.value else {
        return Err(RecordProblem::NotAnObject { got: type_name(&row.value) });
    };
    let is_looked_at = |cell: &&Unreadable| cell.member.as_deref().is_none_or(turn::is_field);
    let fields = Fields::new(object, row.unreadable.iter().filter(is_looked_at).collect(), options);
    let record = record(&fields);
    fields.check_readable()?;
    record
}

/// Columns that would make rows of a kind usable, for a message.
fn mapping(kind: Option<Kind>) -> &'static str {
    match kind {
        Some(Kind::Chat) => "prompt = \"...\", completion = \"...\" }, or { instruction = \"...\", output = \"...\"",
        Some(Kind::Preference) => "prompt = \"...\", chosen = \"...\", rejected = \"...\"",
        Some(Kind::Tokenized) => "ids = \"...\", mask = \"...\"",
        Some(Kind::Packed) => "docs = \"...\"",
        Some(Kind::Text) | None => "text = \"...\"",
    }
}

fn record(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let options = fields.options;
    // A table's rows have every field; what tells the schema is what is not null, and where all is null the row is empty.
    let schema = Schema::find(options.kind, |field| fields.has(field))
        .or_else(|| Schema::find(options.kind, |field| fields.find(field).is_some()))
        .ok_or_else(|| RecordProblem::UnknownSchema { found: fields.names(), columns: mapping(options.kind) })?;
    if schema.required().into_iter().any(|field| fields.is_null(field)) {
        return Ok(Record::Empty);
    }
    if !matches!(schema, Schema::Preference) && preference::is_continued(fields)? {
        let why = "is true, and only the answers of a pair can go on with a turn; remove it, or give prompt, chosen and rejected";
        return Err(not_honoured(preference::CONTINUED, why));
    }
    if options.kind == Some(Kind::Preference) && matches!(schema, Schema::Conversation(_) | Schema::PromptCompletion) {
        refused::check_unpaired(fields)?;
    }
    match schema {
        Schema::Text => {
            refused::check_weights(fields)?;
            Ok(Record::Text(fields.text("text")?.to_string()))
        }
        Schema::Packed | Schema::TokenizedPair | Schema::Tokenized => {
            refused::check_weights(fields)?;
            tokens(fields, schema)
        }
        Schema::Preference => {
            refused::check(fields)?;
            let has_prompt = ["prompt", "conversations", "messages"].into_iter().any(|field| fields.has(field));
            let strangers: &[&str] = match (has_prompt, fields.says("instruction")) {
                (true, _) => &["history", "input", "context"],
                (false, true) => &["history", "context"],
                (false, false) => &["history"],
            };
            refused::check_beside(fields, strangers)?;
            preference::parse(fields)
        }
        Schema::Conversation(field) => {
            refused::check(fields)?;
            refused::check_beside(fields, &["history", "context"])?;
            match turn::turns(fields.get(field)?, field)? {
                Some(turns) => conversation(with_system(fields, turns)?, options),
                None => Ok(Record::Empty),
            }
        }
        Schema::PromptCompletion => {
            refused::check(fields)?;
            refused::check_beside(fields, &["history", "input", "context"])?;
            prompt_completion(fields)
        }
        Schema::Alpaca => {
            refused::check(fields)?;
            refused::check_beside(fields, &["context"])?;
            let mut turns = request(fields)?;
            turns.push(Turn::new(Message::assistant(fields.text("output")?)));
            conversation(turns, options)
        }
    }
}

/// A row of token ids.
fn tokens(fields: &Fields<'_>, schema: Schema) -> Result<Record, RecordProblem> {
    let of = |field| ids(fields.get(field)?, field);
    match schema {
        Schema::Packed => packed(fields),
        Schema::TokenizedPair => Ok(Record::TokenizedPair {
            prompt: of("prompt_ids")?,
            chosen: of("chosen_ids")?,
            rejected: of("rejected_ids")?,
        }),
        _ => Ok(Record::Tokenized(tokenized(fields.object(), &fields.column("ids"), &fields.column("mask"))?)),
    }
}

fn conversation(turns: Vec<Turn>, options: &ReadOptions) -> Result<Record, RecordProblem> {
    let unlearnt = turns.iter().enumerate().filter(|(_, turn)| turn.unlearnt_by.is_some());
    if options.kind == Some(Kind::Text)
        && let Some((_, turn)) = unlearnt.clone().next()
    {
        let field = turn.unlearnt_by.clone().unwrap_or_default();
        return Err(not_honoured(field, "leaves out a turn, and a text is learnt whole; set kind = \"chat\""));
    }
    let unlearnt = unlearnt.map(|(index, _)| index).collect();
    let messages = turns.into_iter().map(|turn| turn.message).collect();
    Ok(Record::Conversation(Conversation { messages, unlearnt, is_transcript: false }))
}

fn prompt_completion(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let (prompt, completion) = (fields.get("prompt")?, fields.get("completion")?);
    let is_transcript =
        prompt.as_str().is_some_and(transcript::is_transcript) && fields.options.kind != Some(Kind::Text);
    if let (Value::String(prompt), Value::String(completion), None, false) =
        (prompt, completion, system(fields)?, is_transcript)
    {
        return Ok(Record::PromptCompletion { prompt: prompt.clone(), completion: completion.clone() });
    }
    let turns_of = |value: &Value, field: &str, speaker: fn(String) -> Message| match value {
        Value::String(text) => Ok(Some(vec![Turn::new(speaker(text.clone()))])),
        other => turn::turns(other, field),
    };
    let prompt = match prompt {
        Value::String(text) if is_transcript => {
            Some(transcript::prompt(text, "prompt")?.into_iter().map(Turn::new).collect())
        }
        prompt => turns_of(prompt, "prompt", Message::user)?,
    };
    let completion = turns_of(completion, "completion", Message::assistant)?;
    let (Some(prompt), Some(completion)) = (prompt, completion) else { return Ok(Record::Empty) };
    let mut turns = with_system(fields, prompt)?;
    for turn in turns.iter_mut().filter(|turn| turn.message.role == Role::Assistant) {
        turn.unlearnt_by.get_or_insert_with(|| "prompt".to_owned());
    }
    turns.extend(completion);
    // What is learnt of a text is all of it, so the prompt is not told apart.
    if fields.options.kind == Some(Kind::Text) {
        turns.iter_mut().for_each(|turn| turn.unlearnt_by = turn.unlearnt_by.take().filter(|field| field != "prompt"));
    }
    Ok(match conversation(turns, fields.options)? {
        Record::Conversation(of) => Record::Conversation(Conversation { is_transcript, ..of }),
        record => record,
    })
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
    let missing = |field: &str| RecordProblem::MissingField { field: field.to_string(), found: names(object) };
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
