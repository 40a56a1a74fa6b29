//! Conversations written as one text: `\n\nHuman: ...\n\nAssistant: ...`, as in HH-RLHF.

use std::borrow::Cow;

use super::fields::not_honoured;
use crate::error::RecordProblem;
use crate::message::{Message, Role};

const SPEAKERS: [(&str, Role); 2] = [("Human:", Role::User), ("Assistant:", Role::Assistant)];

/// Whether a text is written as turns: it begins with one of the user, and one of the assistant follows.
pub(super) fn is_transcript(text: &str) -> bool {
    text.trim_start().starts_with("Human:") && with_plain_ends(text).contains("\n\nAssistant:")
}

/// A text whose lines end as those of Unix do.
fn with_plain_ends(text: &str) -> Cow<'_, str> {
    if text.contains('\r') { text.replace("\r\n", "\n").into() } else { text.into() }
}

/// The turns of a transcript; the last is empty where the assistant has yet to answer.
pub(super) fn turns(text: &str) -> Vec<Message> {
    let mut turns: Vec<(Role, String)> = Vec::new();
    for paragraph in with_plain_ends(text).trim_start().split("\n\n") {
        let speaker = SPEAKERS.iter().find_map(|(mark, role)| Some((*role, paragraph.strip_prefix(mark)?)));
        match (speaker, turns.last_mut()) {
            (Some((role, said)), _) => turns.push((role, said.to_owned())),
            (None, Some((_, content))) => {
                content.push_str("\n\n");
                content.push_str(paragraph);
            }
            (None, None) => {}
        }
    }
    turns.into_iter().map(|(role, content)| Message { role, content: content.trim().to_owned() }).collect()
}

/// The turns before the answer that a prompt asks for.
pub(super) fn prompt(text: &str, field: &str) -> Result<Vec<Message>, RecordProblem> {
    let mut turns = turns(text);
    match turns.pop() {
        Some(Message { role: Role::Assistant, content, .. }) if content.is_empty() => Ok(turns),
        Some(last) if last.role == Role::User => {
            turns.push(last);
            Ok(turns)
        }
        _ => Err(not_honoured(
            field,
            "is written as turns of Human and Assistant and ends with a reply; end it with \"\\n\\nAssistant:\"",
        )),
    }
}
