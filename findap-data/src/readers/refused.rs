//! What a row says about its turns and this program does not do: refused by name, where it would be silently another thing.

use serde_json::Value;

use super::fields::{Fields, is_void, not_honoured};
use crate::error::RecordProblem;

const TOOLS: &str =
    "is not handed to the chat template; write it into a system turn as the template prints it, or remove the field";
pub(super) const PARTS: &str = "is no text, and only text is trained on; remove it or the row";
const MASKS: &str = "is not understood beside turns; say per turn what is learnt, with weight = 0 or 1";
const REASONING: &str = "stands beside the turns and is not learnt; write it into the answer as the template prints it, or remove the field";

/// Fields that may not say anything.
const REFUSED: [(&str, &str); 20] = [
    ("tools", TOOLS),
    ("functions", TOOLS),
    ("tool_calls", TOOLS),
    ("documents", TOOLS),
    ("chat_template_kwargs", "is not handed to the chat template; remove it"),
    ("images", PARTS),
    ("image", PARTS),
    ("audio", PARTS),
    ("audios", PARTS),
    ("video", PARTS),
    ("videos", PARTS),
    ("mask", MASKS),
    ("masks", MASKS),
    ("weights", MASKS),
    ("loss_mask", MASKS),
    ("step_loss_mask", MASKS),
    ("loss_weight", MASKS),
    ("reasoning_content", REASONING),
    ("reasoning", REASONING),
    ("thinking", REASONING),
];

/// Fields that may say that a row is learnt.
const WEIGHTS: [&str; 5] = ["weight", "train", "training", "trainable", "loss_scale"];

/// Says the contrary of the fields above.
const MASKED: &str = "masked";

/// Fields by which data sets for KTO mark a bad answer.
const MARKS: [&str; 2] = ["label", "kto_tag"];

/// Every field that is looked at here.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    REFUSED.into_iter().map(|(name, _)| name).chain(WEIGHTS).chain([MASKED]).chain(MARKS)
}

/// The number in a value: of a number, of true and false, and of either as a text, which a table of texts makes of it.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            text => text.parse().ok(),
        },
        _ => None,
    }
}

/// Refuses what a row says about its turns and this program does not do.
pub(super) fn check(fields: &Fields<'_>) -> Result<(), RecordProblem> {
    if let Some((field, why)) = REFUSED.into_iter().find(|(field, _)| fields.says(field)) {
        return Err(not_honoured(field, why));
    }
    check_weights(fields)?;
    let said = |field: &str| fields.find(field).filter(|value| !is_void(value));
    for field in MARKS {
        // Of conversations a number may be the label of a class, which says nothing about the answer.
        let may_be_class = field == "label" && !fields.has("completion");
        let is_bad_number = |value: &Value| number(value).is_some_and(|number| number <= 0.0);
        let is_bad = |value: &&Value| is_bad_number(value) && !(may_be_class && is_figure(value)) || is_bad_word(value);
        if let Some(value) = said(field).filter(is_bad) {
            let why = format!(
                "is {value}, which marks a bad answer; leave the row out, or remove a field that means another thing"
            );
            return Err(not_honoured(field, why));
        }
    }
    Ok(())
}

/// Refuses a row that marks a single answer as good or bad where pairs are asked for.
pub(super) fn check_unpaired(fields: &Fields<'_>) -> Result<(), RecordProblem> {
    match MARKS.into_iter().find(|field| fields.says(field)) {
        Some(field) => Err(not_honoured(
            field,
            "marks a single answer as good or bad, as rows for KTO do, and KTO is not trained here; make pairs (prompt, chosen, rejected) of a \
             good and a bad answer to one prompt, or train on the good answers alone with kind = \"chat\"",
        )),
        None => Ok(()),
    }
}

/// Refuses a row that says that it is not learnt, or in part.
pub(super) fn check_weights(fields: &Fields<'_>) -> Result<(), RecordProblem> {
    let whole = WEIGHTS.map(|field| (field, 1.0)).into_iter().chain([(MASKED, 0.0)]);
    for (field, whole) in whole {
        let value = fields.find(field).filter(|value| !is_void(value));
        let is_part = |value: &&Value| value.is_array() || number(value).is_some_and(|number| number != whole);
        if let Some(value) = value.filter(is_part) {
            let why =
                format!("is {value}, and rows are learnt whole; leave out the row, or say per turn what is learnt");
            return Err(not_honoured(field, why));
        }
    }
    Ok(())
}

/// Whether a value is a word that calls an answer bad.
fn is_bad_word(value: &Value) -> bool {
    const BAD: [&str; 5] = ["bad", "no", "rejected", "undesirable", "dispreferred"];
    value.as_str().is_some_and(|text| BAD.iter().any(|word| text.trim().eq_ignore_ascii_case(word)))
}

/// Whether a value is written as a figure, rather than as true or false.
fn is_figure(value: &Value) -> bool {
    match value {
        Value::String(text) => text.trim().parse::<f64>().is_ok(),
        value => value.is_number(),
    }
}

/// Refuses fields that belong to another form of row than this one: what they say would be lost.
pub(super) fn check_beside(fields: &Fields<'_>, strangers: &[&str]) -> Result<(), RecordProblem> {
    // A column that is mapped to another field is read there.
    let is_read = |field: &str| fields.options.columns.values().any(|theirs| *theirs == fields.column(field));
    match strangers.iter().find(|field| fields.says(field) && !is_read(field)) {
        Some(field) => Err(not_honoured(
            *field,
            "is not read in rows of this form, and what it says would be lost; map it by `columns` to a field that is, \
             write it into the prompt, or remove it",
        )),
        None => Ok(()),
    }
}
