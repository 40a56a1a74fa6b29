//! What stands before an answer: the system prompt of the row, its history, its request.

use super::fields::{Fields, not_honoured, text, wrong_type};
use super::turn::Turn;
use crate::error::RecordProblem;
use crate::message::{Message, Role};

/// The standing instructions that a row has beside its turns.
pub(super) fn system<'a>(fields: &Fields<'a>) -> Result<Option<(&'static str, &'a str)>, RecordProblem> {
    let mut found: Option<(&'static str, &'a str)> = None;
    for field in ["system", "system_prompt", "system_message"] {
        let Some(text) = fields.optional_text(field)?.filter(|text| !text.trim().is_empty()) else { continue };
        match found {
            Some((other, before)) if before != text => {
                return Err(not_honoured(field, format!("says another thing than '{other}'; remove one of them")));
            }
            Some(_) => {}
            None => found = Some((field, text)),
        }
    }
    Ok(found)
}

/// The turns behind the row's own system prompt, where it has one.
pub(super) fn with_system(fields: &Fields<'_>, mut turns: Vec<Turn>) -> Result<Vec<Turn>, RecordProblem> {
    let Some((field, text)) = system(fields)? else { return Ok(turns) };
    match turns.iter().find(|turn| turn.message.role == Role::System) {
        Some(turn) if turn.message.content.trim() == text.trim() => {}
        Some(_) => {
            return Err(not_honoured(
                field,
                "differs from the system turn that the conversation has; remove one of them",
            ));
        }
        // Without turns the row is empty, whatever its system prompt.
        None if turns.is_empty() => {}
        None => turns.insert(0, Turn::new(Message::system(text))),
    }
    Ok(turns)
}

/// The turns of an alpaca row before its answer.
pub(super) fn request(fields: &Fields<'_>) -> Result<Vec<Turn>, RecordProblem> {
    let mut turns = Vec::new();
    if fields.has("history") {
        let history = fields.get("history")?;
        for pair in history.as_array().ok_or_else(|| wrong_type("history", "a list of pairs", history))? {
            let pair_of_texts = pair.as_array().filter(|pair| pair.len() == 2);
            let pair_of_texts = pair_of_texts.ok_or_else(|| wrong_type("history", "a list of pairs", pair))?;
            turns.push(Turn::new(Message::user(text(&pair_of_texts[0], "history")?)));
            turns.push(Turn::new(Message::assistant(text(&pair_of_texts[1], "history")?)));
        }
    }
    let instruction = fields.text("instruction")?;
    // A column that is taken as the instruction is no input beside it.
    let input =
        if fields.column("input") == fields.column("instruction") { None } else { fields.optional_text("input")? };
    let request = match input.filter(|input| !input.is_empty()) {
        Some(input) if instruction.trim().is_empty() => input.to_owned(),
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_string(),
    };
    turns.push(Turn::new(Message::user(request)));
    with_system(fields, turns)
}
