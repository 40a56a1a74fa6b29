//! The fields of a row, under the names that the recipe gives them.

use std::cell::Cell;

use serde_json::{Map, Value};

use super::{ReadOptions, Unreadable};
use crate::error::RecordProblem;

/// The fields that are asked for in a row, which columns can be mapped to.
pub const FIELDS: [&str; 52] = [
    "text",
    "messages",
    "conversations",
    "prompt",
    "completion",
    "label",
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "system_prompt",
    "system_message",
    "chosen",
    "rejected",
    "continue_final_message",
    "question",
    "query",
    "problem",
    "user",
    "ids",
    "mask",
    "docs",
    "prompt_ids",
    "chosen_ids",
    "rejected_ids",
    "weight",
    "train",
    "training",
    "tools",
    "functions",
    "tool_calls",
    "chat_template_kwargs",
    "images",
    "image",
    "audio",
    "audios",
    "video",
    "videos",
    "documents",
    "loss_mask",
    "step_loss_mask",
    "loss_weight",
    "reasoning_content",
    "reasoning",
    "thinking",
    "kto_tag",
    "masks",
    "weights",
    "trainable",
    "loss_scale",
    "masked",
];

pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pub(super) options: &'a ReadOptions,
    unreadable: Vec<&'a Unreadable>,
    /// The first cell that was asked for and is neither text nor a number.
    missed: Cell<Option<&'a Unreadable>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(
        object: &'a Map<String, Value>,
        unreadable: Vec<&'a Unreadable>,
        options: &'a ReadOptions,
    ) -> Self {
        Fields { object, options, unreadable, missed: Cell::new(None) }
    }

    pub(super) fn object(&self) -> &'a Map<String, Value> {
        self.object
    }

    pub(super) fn column(&self, field: &str) -> String {
        self.options.columns.get(field).cloned().unwrap_or_else(|| field.to_string())
    }

    /// The field's value, null or not, where it is there.
    pub(super) fn find(&self, field: &str) -> Option<&'a Value> {
        let column = self.column(field);
        if self.missed.get().is_none() {
            self.missed.set(self.unreadable.iter().find(|cell| cell.column == column).copied());
        }
        self.object.get(&column)
    }

    /// Whether the field is there and not null.
    pub(super) fn has(&self, field: &str) -> bool {
        self.find(field).is_some_and(|value| !value.is_null())
    }

    pub(super) fn is_null(&self, field: &str) -> bool {
        self.find(field).is_some_and(Value::is_null)
    }

    /// Whether the field is there and says something.
    pub(super) fn says(&self, field: &str) -> bool {
        self.find(field).is_some_and(|value| !is_void(value))
    }

    pub(super) fn names(&self) -> String {
        names(self.object)
    }

    pub(super) fn get(&self, field: &str) -> Result<&'a Value, RecordProblem> {
        self.find(field).ok_or_else(|| RecordProblem::MissingField { field: field.to_string(), found: self.names() })
    }

    pub(super) fn text(&self, field: &str) -> Result<&'a str, RecordProblem> {
        text(self.get(field)?, &self.column(field))
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&'a str>, RecordProblem> {
        if self.has(field) { self.text(field).map(Some) } else { Ok(None) }
    }

    /// Refuses a row of which a cell was asked for that is neither text nor a number.
    pub(super) fn check_readable(&self) -> Result<(), RecordProblem> {
        let Some(cell) = self.missed.get() else { return Ok(()) };
        let member = cell.member.iter().map(|member| format!(".{member}")).collect::<String>();
        let column = format!("{}{member}", cell.column);
        Err(RecordProblem::Unreadable { column, data_type: cell.data_type.clone() })
    }
}

pub(super) fn names(object: &Map<String, Value>) -> String {
    const MAX_NAMES: usize = 20;
    let names: Vec<&str> = object.keys().take(MAX_NAMES).map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// Whether a value says nothing: null, or what an absent value becomes in tables, where every row has every field.
pub(super) fn is_void(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => matches!(text.trim(), "" | "null" | "[]" | "{}"),
        Value::Array(items) => items.iter().all(is_void),
        Value::Object(members) => members.values().all(is_void),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn wrong_type(field: &str, want: &'static str, value: &Value) -> RecordProblem {
    RecordProblem::WrongType { field: field.to_string(), want, got: type_name(value) }
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, RecordProblem> {
    value.as_str().ok_or_else(|| wrong_type(field, "a string", value))
}

pub(super) fn not_honoured(field: impl Into<String>, why: impl Into<String>) -> RecordProblem {
    RecordProblem::NotHonoured { field: field.into(), why: why.into() }
}
