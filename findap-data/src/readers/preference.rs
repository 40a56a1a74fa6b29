//! Pairs of answers: where their prompt ends and the answers begin.

use serde_json::Value;

use super::fields::{Fields, is_void, not_honoured, wrong_type};
use super::request::{request, with_system};
use super::turn::{self, Turn};
use super::{Record, Turns, transcript};
use crate::error::RecordProblem;
use crate::message::{Message, Role};

/// Both answers, in the same form.
enum Answers {
    Texts(String, String),
    Messages(Vec<Message>, Vec<Message>),
}

impl Answers {
    /// What a transcript has between the mark of the assistant and its words is no part of them.
    fn trimmed(self) -> Answers {
        match self {
            Answers::Texts(chosen, rejected) => Answers::Texts(chosen.trim().to_owned(), rejected.trim().to_owned()),
            messages => messages,
        }
    }
}

/// The turns of a text that is written as such.
fn of_transcript(turns: Turns) -> Turns {
    match turns {
        Turns::Text(text) if transcript::is_transcript(&text) => Turns::Messages(transcript::turns(&text)),
        turns => turns,
    }
}

pub(super) fn parse(fields: &Fields<'_>) -> Result<Record, RecordProblem> {
    let (Some(chosen), Some(rejected)) = (turns(fields, "chosen")?, turns(fields, "rejected")?) else {
        return Ok(Record::Empty);
    };
    let is_written_as_turns = |turns: &Turns| matches!(turns, Turns::Text(text) if transcript::is_transcript(text));
    let mut is_transcript = [&chosen, &rejected].into_iter().any(is_written_as_turns);
    let answers = match (of_transcript(chosen), of_transcript(rejected)) {
        (Turns::Text(chosen), Turns::Text(rejected)) => Answers::Texts(chosen, rejected),
        (Turns::Messages(chosen), Turns::Messages(rejected)) => Answers::Messages(chosen, rejected),
        _ => {
            let (want, got) = ("of the same form as chosen", "of another form");
            return Err(RecordProblem::WrongType { field: "rejected".into(), want, got });
        }
    };
    let explicit = ["prompt", "conversations", "messages"].into_iter().find(|field| fields.has(field));
    let explicit = explicit.map(|field| Ok::<_, RecordProblem>((field, turns(fields, field)?))).transpose()?;
    // A whole conversation beside the pair is for those who learn only the better answer.
    let explicit = explicit
        .filter(|(field, turns)| *field != "messages" || turns.as_ref().is_some_and(|turns| !turns.ends_with_answer()));
    let (prompt, chosen, rejected) = match explicit {
        Some((_, Some(Turns::Text(prompt)))) if prompt.trim().is_empty() => {
            require_no_question(fields)?;
            return Ok(Record::Empty);
        }
        Some((field, prompt)) => match prompt {
            Some(Turns::Text(prompt)) if transcript::is_transcript(&prompt) => {
                is_transcript = true;
                with_prompt(Turns::Messages(transcript::prompt(&prompt, field)?), answers.trimmed())?
            }
            Some(prompt) => with_prompt(prompt, answers)?,
            None => return Ok(Record::Empty),
        },
        None if fields.says("instruction") || (fields.has("instruction") && fields.says("input")) => {
            with_prompt(Turns::Messages(request(fields)?.into_iter().map(|turn| turn.message).collect()), answers)?
        }
        None => without_prompt(fields, answers)?,
    };
    let prompt = behind_system(fields, prompt)?;
    let is_continued = is_continued(fields)?;
    if is_continued {
        check_continued(&prompt, [("chosen", &chosen), ("rejected", &rejected)])?;
    }
    Ok(Record::Preference { prompt, chosen, rejected, is_continued, is_transcript })
}

/// What transformers and TRL call it when an answer goes on with the last turn instead of being a turn of its own.
pub(super) const CONTINUED: &str = "continue_final_message";

/// Whether a row says that its answer goes on with the turn before it. A CSV file spells it as text.
pub(super) fn is_continued(fields: &Fields<'_>) -> Result<bool, RecordProblem> {
    let value = fields.find(CONTINUED).filter(|value| !is_void(value));
    let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_lowercase()));
    match text.as_deref() {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(other) => Err(not_honoured(CONTINUED, format!("is {other}, and must be true or false"))),
    }
}

/// Refuses a row that goes on with a turn which is not there, or by more than one piece of it.
fn check_continued(prompt: &Turns, answers: [(&str, &Turns); 2]) -> Result<(), RecordProblem> {
    if !prompt.ends_with_answer() {
        let got =
            prompt.last_message().map_or("is a text".to_owned(), |last| format!("ends with a {} turn", last.role));
        let why = format!(
            "is true, but the prompt {got}; what the answers go on with must be its last turn, of the assistant"
        );
        return Err(not_honoured(CONTINUED, why));
    }
    for (field, answer) in answers {
        if let Turns::Messages(messages) = answer
            && messages.len() != 1
        {
            let why = format!(
                "is true, but {field} has {} turns; what goes on with a turn is one piece of it",
                messages.len()
            );
            return Err(not_honoured(CONTINUED, why));
        }
    }
    Ok(())
}

/// A text, or turns; `None` where a turn has no content.
fn turns(fields: &Fields<'_>, field: &str) -> Result<Option<Turns>, RecordProblem> {
    let turns = match fields.get(field)? {
        Value::String(text) => return Ok(Some(Turns::Text(text.clone()))),
        value @ (Value::Array(_) | Value::Object(_)) => turn::turns(value, field)?,
        other => return Err(wrong_type(field, "a string or a list of turns", other)),
    };
    let Some(turns) = turns else { return Ok(None) };
    if let Some(unlearnt_by) =
        turns.iter().find_map(|turn| turn.unlearnt_by.as_ref()).filter(|_| matches!(field, "chosen" | "rejected"))
    {
        return Err(not_honoured(unlearnt_by, "leaves out a turn, and both answers of a pair are compared whole"));
    }
    Ok(Some(Turns::Messages(turns.into_iter().map(|turn| turn.message).collect())))
}

fn behind_system(fields: &Fields<'_>, prompt: Turns) -> Result<Turns, RecordProblem> {
    let messages = match &prompt {
        Turns::Text(text) => vec![Message::user(text)],
        Turns::Messages(messages) => messages.clone(),
    };
    let num_before = messages.len();
    let messages = with_system(fields, messages.into_iter().map(Turn::new).collect())?;
    // Without a system prompt of the row a prompt keeps its form: a text needs no chat template.
    if messages.len() == num_before {
        return Ok(prompt);
    }
    Ok(Turns::Messages(messages.into_iter().map(|turn| turn.message).collect()))
}

/// The prompt may stand in both answers again, as in UltraFeedback.
fn with_prompt(prompt: Turns, answers: Answers) -> Result<(Turns, Turns, Turns), RecordProblem> {
    let (chosen, rejected) = match answers {
        Answers::Texts(chosen, rejected) => return Ok(texts_with_prompt(prompt, chosen, rejected)),
        Answers::Messages(chosen, rejected) => (chosen, rejected),
    };
    let shared = &chosen[..num_shared(&chosen, &rejected)];
    let (whole_prompt, num_repeated) = match prompt {
        Turns::Messages(prompt) if chosen.starts_with(&prompt) && rejected.starts_with(&prompt) => {
            let num_repeated = prompt.len();
            (prompt, num_repeated)
        }
        // The answers may begin with a system turn that the prompt lacks,
        Turns::Messages(prompt) if shared.ends_with(&prompt) => (shared.to_vec(), shared.len()),
        // or lack the first turns of the prompt.
        Turns::Messages(prompt) => {
            let num_repeated = (0..=shared.len()).rev().find(|&count| prompt.ends_with(&shared[..count])).unwrap_or(0);
            (prompt, num_repeated)
        }
        // As TRL does: a text beside lists of turns is known to be one of the turns before the answers.
        Turns::Text(text) if shared.iter().any(|message| message.content.trim() == text.trim()) => {
            (shared.to_vec(), shared.len())
        }
        Turns::Text(text) => (vec![Message::user(text)], 0),
    };
    let (chosen, rejected) = (chosen[num_repeated..].to_vec(), rejected[num_repeated..].to_vec());
    check_answers(&chosen, &rejected, "it is neither the prompt, repeated, nor an answer")?;
    Ok((Turns::Messages(whole_prompt), Turns::Messages(chosen), Turns::Messages(rejected)))
}

fn texts_with_prompt(prompt: Turns, chosen: String, rejected: String) -> (Turns, Turns, Turns) {
    let repeated = match &prompt {
        // Answers may begin with the same single word as the question by chance.
        Turns::Text(text) if text.trim().contains(char::is_whitespace) => {
            let behind = |answer| str::strip_prefix(answer, text.as_str()).filter(|rest| !goes_on(text, rest));
            behind(&chosen).zip(behind(&rejected))
        }
        _ => None,
    };
    let (chosen, rejected) = match repeated {
        Some((first, second)) => (first.to_owned(), second.to_owned()),
        None => (chosen, rejected),
    };
    (prompt, Turns::Text(chosen), Turns::Text(rejected))
}

/// Whether a text ends within a word that the rest goes on with.
fn goes_on(text: &str, rest: &str) -> bool {
    text.ends_with(char::is_alphanumeric) && rest.starts_with(char::is_alphanumeric)
}

/// Fewer words than these two answers have in common by chance, and the value of a field is no question.
const LEAST_WORDS: usize = 3;

/// Refuses a row that has its question under another name than `prompt`.
fn require_no_question(fields: &Fields<'_>) -> Result<(), RecordProblem> {
    const QUESTIONS: [&str; 15] = [
        "question", "query", "input", "problem", "user", "post", "context", "title", "text", "body", "document",
        "article", "passage", "dialogue", "messages",
    ];
    let is_known = |name: &str| {
        ["prompt", "chosen", "rejected", "system", "system_prompt", "system_message"]
            .into_iter()
            .any(|field| fields.column(field) == name)
    };
    let is_sentence = |value: &Value| value.as_str().is_some_and(|text| text.split_whitespace().count() >= LEAST_WORDS);
    let mut others = fields.object().iter().filter(|(name, _)| !is_known(name));
    if QUESTIONS.into_iter().any(|field| fields.says(field)) || others.any(|(_, value)| is_sentence(value)) {
        return Err(RecordProblem::MissingField { field: "prompt".into(), found: fields.names() });
    }
    Ok(())
}

/// An implicit prompt is what both answers begin with.
fn without_prompt(fields: &Fields<'_>, answers: Answers) -> Result<(Turns, Turns, Turns), RecordProblem> {
    match answers {
        Answers::Messages(chosen, rejected) => {
            let num_shared = num_shared(&chosen, &rejected);
            let (prompt, chosen) = (chosen[..num_shared].to_vec(), chosen[num_shared..].to_vec());
            let rejected = rejected[num_shared..].to_vec();
            check_answers(&chosen, &rejected, "chosen and rejected must begin with the same prompt")?;
            if !prompt.iter().any(|message| message.role == Role::User) {
                return Err(RecordProblem::MissingField { field: "prompt".into(), found: fields.names() });
            }
            Ok((Turns::Messages(prompt), Turns::Messages(chosen), Turns::Messages(rejected)))
        }
        Answers::Texts(chosen, rejected) => {
            require_no_question(fields)?;
            let pairs = chosen.chars().zip(rejected.chars());
            let shared: usize = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
            // TRL cuts before the first other character; at the last blank before it no word is divided.
            let shared = chosen[..shared].rfind(char::is_whitespace).unwrap_or(0);
            if chosen[..shared].split_whitespace().count() < LEAST_WORDS {
                return Err(RecordProblem::MissingField { field: "prompt".into(), found: fields.names() });
            }
            let (prompt, chosen) = chosen.split_at(shared);
            let rejected = &rejected[shared..];
            Ok((Turns::Text(prompt.into()), Turns::Text(chosen.into()), Turns::Text(rejected.into())))
        }
    }
}

/// How many turns both begin with; at least one turn of each is the answer.
fn num_shared(chosen: &[Message], rejected: &[Message]) -> usize {
    let num_shared = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    num_shared.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1))
}

fn check_answers(chosen: &[Message], rejected: &[Message], why: &str) -> Result<(), RecordProblem> {
    for (field, answer) in [("chosen", chosen), ("rejected", rejected)] {
        if let Some(first) = answer.first().filter(|first| first.role != Role::Assistant) {
            let role = first.role;
            return Err(not_honoured(field, format!("has a {role} turn where the answer should begin; {why}")));
        }
        if let Some(last) = answer.last().filter(|last| last.role != Role::Assistant) {
            let role = last.role;
            return Err(not_honoured(
                field,
                format!("ends with a {role} turn; the answer of the assistant must be last"),
            ));
        }
    }
    Ok(())
}
