//! The verdict in a judge's reply.
//!
//! It is the last object of the answer that has the verdict's keys. Objects that differ are no verdict, and neither is one that is
//! cut off, that is given as an example, or that is named in the middle of a sentence: a solution that was judged without a
//! label costs a pair, one with a wrong label teaches what is false.

use thiserror::Error;

use super::json::{Json, NoObject};
use super::reasoning::{Answer, answer, aside};
use super::{Correctness, FapVerdict, ScpVerdict, is_scp_prompt};
use crate::llm::{ChatReply, ChatRequest, FinishReason};

/// Why a reply has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VerdictError {
    /// The limit of tokens was reached first.
    #[error("it was cut off by the limit of its tokens")]
    CutOff,
    /// A filter of the server kept it back.
    #[error("the server's filter withheld it")]
    Withheld,
    /// An object begins and does not end, or is damaged.
    #[error("a JSON object in it is cut off or damaged")]
    BrokenObject,
    /// No object of the answer has the keys.
    #[error("there is no JSON object with the key \"{key}\" in its answer")]
    NoVerdict {
        /// A key of the verdict.
        key: &'static str,
    },
    /// The last object has a key without a meaning.
    #[error("its \"{key}\" is missing or has no meaning")]
    BadValue {
        /// The key.
        key: &'static str,
    },
    /// Several verdicts that differ.
    #[error("it gives verdicts that differ")]
    Contradictory,
}

/// What a judge decides: [`FapVerdict`] or [`ScpVerdict`].
pub trait Verdict: Sized {
    /// The key without which an object is no verdict of this kind.
    const KEY: &'static str;

    /// Takes the verdict from an object that has [`Verdict::KEY`].
    ///
    /// # Errors
    /// [`VerdictError::BadValue`], [`VerdictError::Contradictory`].
    fn from_object(object: &Object<'_>) -> Result<Self, VerdictError>;

    /// Whether both decide the same, whatever reason they give.
    fn agrees(&self, other: &Self) -> bool;
}

/// An object of a reply. Its keys are found in any case and with `_` or `-` between their words, too.
#[derive(Debug, Clone, Copy)]
pub struct Object<'a>(&'a [(String, Json)]);

impl Object<'_> {
    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| is_key(name, key))
    }

    fn get(&self, key: &'static str) -> Result<&Json, VerdictError> {
        let mut values = self.0.iter().filter(|(name, _)| is_key(name, key)).map(|(_, value)| value);
        let value = values.next().ok_or(VerdictError::BadValue { key })?;
        if values.any(|other| other != value) {
            return Err(VerdictError::Contradictory);
        }
        Ok(value)
    }

    /// A text; a number as it is written, and nothing for `null`.
    fn text(&self, key: &'static str) -> Result<String, VerdictError> {
        match self.get(key)? {
            Json::Text(text) | Json::Number(text) => Ok(text.clone()),
            Json::Null => Ok(String::new()),
            _ => Err(VerdictError::BadValue { key }),
        }
    }

    /// The reason, which decides nothing.
    fn justification(&self) -> String {
        self.text("Justification").unwrap_or_default()
    }

    /// Whether a value is what stands for one in an example: `...`, `<text>`.
    fn has_placeholder(&self) -> bool {
        let is_placeholder = |text: &str| {
            let text = text.trim();
            // With a number in it, it is a step in brackets.
            let has_number = text.contains(char::is_numeric);
            let is_in = |open, close| text.starts_with(open) && text.ends_with(close) && !has_number;
            text == "..." || text == "\u{2026}" || is_in('<', '>') || is_in('[', ']')
        };
        self.0.iter().any(|(_, value)| matches!(value, Json::Text(text) if is_placeholder(text)))
    }
}

fn is_key(name: &str, key: &str) -> bool {
    let plain = |text: &str| text.trim().replace(['_', '-'], " ").to_lowercase();
    plain(name) == plain(key)
}

impl Verdict for FapVerdict {
    const KEY: &'static str = "Correctness";

    fn from_object(object: &Object<'_>) -> Result<FapVerdict, VerdictError> {
        let key = FapVerdict::KEY;
        let word = match object.get(key)? {
            Json::Text(text) => text.trim().trim_matches(['.', '*', '`', '\'']).to_lowercase(),
            Json::Bool(is_correct) => if *is_correct { "correct" } else { "wrong" }.to_owned(),
            _ => return Err(VerdictError::BadValue { key }),
        };
        let correctness = match word.as_str() {
            "correct" => Correctness::Correct,
            "wrong" | "incorrect" => Correctness::Wrong,
            _ => return Err(VerdictError::BadValue { key }),
        };
        Ok(FapVerdict { justification: object.justification(), correctness })
    }

    fn agrees(&self, other: &FapVerdict) -> bool {
        self.correctness == other.correctness
    }
}

impl Verdict for ScpVerdict {
    const KEY: &'static str = "First incorrect step";

    fn from_object(object: &Object<'_>) -> Result<ScpVerdict, VerdictError> {
        Ok(ScpVerdict {
            justification: object.justification(),
            first_incorrect_step: object.text(ScpVerdict::KEY)?,
            reasoning_up_to_incorrect: object.text("Reasoning up to incorrect")?,
            step_correction: object.text("Step correction")?,
        })
    }

    fn agrees(&self, other: &ScpVerdict) -> bool {
        let parts = |verdict: &ScpVerdict| {
            [&verdict.first_incorrect_step, &verdict.reasoning_up_to_incorrect, &verdict.step_correction]
                .map(|text| text.trim().to_owned())
        };
        parts(self) == parts(other)
    }
}

/// Reads the verdict in the first choice of a reply that was given whole.
///
/// # Errors
/// Why there is none.
pub fn read_verdict<V: Verdict>(request: &ChatRequest, reply: &ChatReply) -> Result<V, VerdictError> {
    let prompt = request.messages.last().map_or("", |message| &message.content);
    match reply.choices.first().map(|choice| choice.finish_reason) {
        Some(FinishReason::Length) => Err(VerdictError::CutOff),
        Some(FinishReason::ContentFilter) => Err(VerdictError::Withheld),
        Some(FinishReason::Stop) | None => verdict_of(prompt, reply.text()),
    }
}

/// Reads the verdict in the text of a whole reply, whatever it replies to.
///
/// # Errors
/// Why there is none.
pub fn parse_verdict<V: Verdict>(reply: &str) -> Result<V, VerdictError> {
    verdict_of("", reply)
}

/// An object that stands in the prompt, too, is a quote: a solution may hold a verdict on itself.
fn verdict_of<V: Verdict>(prompt: &str, reply: &str) -> Result<V, VerdictError> {
    let answer = answer(reply).map_err(|_: NoObject| VerdictError::BrokenObject)?;
    let gaps = gaps(&answer);
    let is_alone = answer.objects.len() == 1 && !gaps.iter().flat_map(|gap| gap.lines()).any(has_words);
    let mut verdicts = Vec::new();
    for ((range, value), around) in answer.objects.iter().zip(gaps.windows(2)) {
        let is_quote = prompt.contains(&answer.text[range.clone()]);
        if !is_quote && !is_mention(around[0], around[1]) {
            collect(value, is_alone, &mut verdicts);
        }
    }
    let last = verdicts.pop().unwrap_or(Err(VerdictError::NoVerdict { key: V::KEY }))?;
    let is_one = verdicts.iter().flatten().all(|earlier: &V| earlier.agrees(&last));
    if is_one { Ok(last) } else { Err(VerdictError::Contradictory) }
}

/// Whether the reply to one of the two prompts of a reward model has a verdict; replies to other prompts need none.
pub fn has_verdict(request: &ChatRequest, reply: &ChatReply) -> bool {
    match request.messages.last().and_then(|message| is_scp_prompt(&message.content)) {
        Some(true) => read_verdict::<ScpVerdict>(request, reply).is_ok(),
        Some(false) => read_verdict::<FapVerdict>(request, reply).is_ok(),
        None => true,
    }
}

/// The verdicts in a value: the value itself, or those that it wraps, as in `{"result": {..}}`.
fn collect<V: Verdict>(value: &Json, is_alone: bool, verdicts: &mut Vec<Result<V, VerdictError>>) {
    match value {
        Json::Object(members) if Object(members).has(V::KEY) => {
            let object = Object(members);
            // Alone, even the laziest justification is the judge's own.
            if is_alone || !object.has_placeholder() {
                verdicts.push(V::from_object(&object));
            }
        }
        Json::Object(members) => {
            let members = members.iter().filter(|(name, _)| aside(name).is_none());
            members.for_each(|(_, value)| collect(value, is_alone, verdicts));
        }
        Json::Array(values) => values.iter().for_each(|value| collect(value, is_alone, verdicts)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => {}
    }
}

/// The texts before, between and after the objects.
fn gaps(answer: &Answer) -> Vec<&str> {
    let starts = answer.objects.iter().map(|(range, _)| range.start).chain([answer.text.len()]);
    let ends = [0].into_iter().chain(answer.objects.iter().map(|(range, _)| range.end));
    ends.zip(starts).map(|(end, start)| &answer.text[end..start]).collect()
}

/// Whether the object between two texts is spoken of and not given: quoted, introduced as an example, or in the middle of a sentence.
fn is_mention(before: &str, after: &str) -> bool {
    const OF_MENTIONS: [&str; 15] = [
        "example",
        "e.g.",
        "for instance",
        "such as",
        "format is",
        "format would",
        "template",
        "placeholder",
        "would",
        "draft",
        " says",
        " said",
        " wrote",
        " claims",
        " contains",
    ];
    let line = before.rsplit('\n').next().unwrap_or_default();
    let rest_of_line = after.split('\n').next().unwrap_or_default();
    let intro = before.lines().rev().find(|line| has_words(line)).unwrap_or_default();
    let is_led_in = has_words(line) || intro.trim_end().trim_end_matches(['*', '_']).ends_with(':');
    let is_example = is_led_in && OF_MENTIONS.iter().any(|words| intro.to_lowercase().contains(words));
    let is_inside = has_words(line) && has_words(rest_of_line) && !line.trim_end().ends_with(':');
    line.trim_start().starts_with('>') || is_example || is_inside
}

/// Whether a line has words; the fence of a code block has none.
fn has_words(line: &str) -> bool {
    !line.trim_start().starts_with("```") && line.contains(char::is_alphanumeric)
}
