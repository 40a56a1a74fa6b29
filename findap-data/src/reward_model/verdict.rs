//! The verdict in a judge's reply.
//!
//! The reply's answer gives one object with the verdict's keys, or several that decide the same: at top level, in a code block, alone
//! in a list or as the only member of another object. Before it stands at most a text that leads in, neither that text nor its own
//! reason says the contrary, and no text behind it judges again or takes it back. Everything else is no verdict: a solution that was judged without a label costs a pair, one with a wrong
//! label teaches what is false.

use std::ops::Range;

use thiserror::Error;

use super::claim::{contradicts, ends_in_supposition};
use super::json::{Json, NoObject};
use super::reasoning::{answer, aside};
use super::{Correctness, FapVerdict, GradeVerdict, HIGHEST_GRADE, ScpVerdict, Wanted, wanted};
use crate::llm::{ChatReply, ChatRequest, FinishReason, LlmError, one_line};

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
    /// An object has a key without a meaning.
    #[error("its \"{key}\" is missing or has no meaning")]
    BadValue {
        /// The key.
        key: &'static str,
    },
    /// Several verdicts that differ.
    #[error("it gives verdicts that differ")]
    Contradictory,
    /// A verdict that may be meant otherwise.
    #[error("its verdict is in doubt: {why}")]
    Doubtful {
        /// What makes it so.
        why: &'static str,
    },
}

/// What a judge decides: [`FapVerdict`], [`ScpVerdict`] or [`GradeVerdict`], and nothing else.
pub trait Verdict: Decision {}

impl<V: Decision> Verdict for V {}

/// What is read from an object. It is not exported, so that no other crate has verdicts of its own.
pub trait Decision: Sized {
    /// The key without which an object is no verdict of this kind.
    const KEY: &'static str;

    /// Takes the verdict from an object that has the key.
    ///
    /// # Errors
    /// [`VerdictError::BadValue`], [`VerdictError::Contradictory`].
    fn from_object(object: &Object<'_>) -> Result<Self, VerdictError>;

    /// Whether an object that stands in the prompt, too, counts where it is all that the judge replies: where what makes no verdict is
    /// left out of a score, a reply must not keep its verdict away by writing it first.
    const MAY_BE_QUOTED: bool = false;

    /// Whether both decide the same, whatever reason they give.
    fn agrees(&self, other: &Self) -> bool;

    /// Whether the judge's own words say something else.
    fn is_contradicted_by(&self, prose: &str) -> bool;
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
}

fn is_key(name: &str, key: &str) -> bool {
    let plain = |text: &str| text.trim().replace(['_', '-'], " ").to_lowercase();
    plain(name) == plain(key)
}

fn correctness_of(word: &str) -> Option<Correctness> {
    match word.trim().trim_matches(['.', '*', '`', '\'']).to_lowercase().as_str() {
        "correct" => Some(Correctness::Correct),
        "wrong" | "incorrect" => Some(Correctness::Wrong),
        _ => None,
    }
}

fn text_of(value: &Json) -> Option<&str> {
    match value {
        Json::Text(text) => Some(text),
        _ => None,
    }
}

impl Decision for FapVerdict {
    const KEY: &'static str = "Correctness";

    fn from_object(object: &Object<'_>) -> Result<FapVerdict, VerdictError> {
        let key = FapVerdict::KEY;
        let correctness = match object.get(key)? {
            Json::Text(text) => correctness_of(text),
            Json::Bool(true) => Some(Correctness::Correct),
            Json::Bool(false) => Some(Correctness::Wrong),
            _ => None,
        };
        let correctness = correctness.ok_or(VerdictError::BadValue { key })?;
        // A second verdict under a key of the judge's own, such as `final`.
        let others = || object.0.iter().map(|(_, value)| value).filter_map(text_of).filter_map(correctness_of);
        if others().any(|other| other != correctness) {
            return Err(VerdictError::Contradictory);
        }
        Ok(FapVerdict { justification: object.justification(), correctness })
    }

    fn agrees(&self, other: &FapVerdict) -> bool {
        self.correctness == other.correctness
    }

    fn is_contradicted_by(&self, prose: &str) -> bool {
        contradicts(prose, self.correctness) || contradicts(&self.justification, self.correctness)
    }
}

impl Decision for ScpVerdict {
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

    /// It says of no solution whether it is right.
    fn is_contradicted_by(&self, _: &str) -> bool {
        false
    }
}

impl Decision for GradeVerdict {
    const KEY: &'static str = "Grade";
    const MAY_BE_QUOTED: bool = true;

    fn from_object(object: &Object<'_>) -> Result<GradeVerdict, VerdictError> {
        let key = GradeVerdict::KEY;
        let text = match object.get(key)? {
            Json::Number(text) | Json::Text(text) => text.trim(),
            _ => return Err(VerdictError::BadValue { key }),
        };
        let text = text.strip_suffix("/10").unwrap_or(text);
        let grade = text.trim().parse().ok().filter(|grade| (1.0..=HIGHEST_GRADE).contains(grade));
        let grade = grade.ok_or(VerdictError::BadValue { key })?;
        Ok(GradeVerdict { justification: object.justification(), grade })
    }

    fn agrees(&self, other: &GradeVerdict) -> bool {
        self.grade == other.grade
    }

    /// Good words may go with a low grade.
    fn is_contradicted_by(&self, _: &str) -> bool {
        false
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

/// As [`read_verdict`] for what came back, a failure too; what went wrong is told in one line, with the reply.
///
/// # Errors
/// Why there is no verdict.
pub fn verdict_or_problem<V: Verdict>(request: &ChatRequest, reply: &Result<ChatReply, LlmError>) -> Result<V, String> {
    let reply = reply.as_ref().map_err(|error| one_line(&error.to_string()))?;
    read_verdict(request, reply).map_err(|error| {
        let limit = match error {
            VerdictError::CutOff => format!(" (`max_tokens` of the judge is {})", request.sampling.max_tokens),
            _ => String::new(),
        };
        format!("{error}{limit}: \"{}\"", one_line(reply.text()))
    })
}

/// Reads the verdict in the text of a whole reply, whatever it replies to.
///
/// # Errors
/// Why there is none.
pub fn parse_verdict<V: Verdict>(reply: &str) -> Result<V, VerdictError> {
    verdict_of("", reply)
}

fn verdict_of<V: Verdict>(prompt: &str, reply: &str) -> Result<V, VerdictError> {
    let answer = answer(reply).map_err(|_: NoObject| VerdictError::BrokenObject)?;
    let no_verdict = VerdictError::NoVerdict { key: V::KEY };
    let objects: Vec<&(Range<usize>, Json)> = answer.objects.iter().filter(|(_, value)| names(value, V::KEY)).collect();
    // A solution may hold a verdict on itself, and a judge quote it.
    let is_quote = |(range, _): &&(Range<usize>, Json)| prompt.contains(&answer.text[range.clone()]);
    let is_alone = objects.len() == 1 && answer.text[objects[0].0.clone()] == *answer.text.trim();
    if objects.iter().all(is_quote) && !(is_alone && V::MAY_BE_QUOTED) {
        return Err(no_verdict);
    }
    let mut verdicts = objects.iter().map(|(_, value)| verdict_in::<V>(value)).collect::<Result<Vec<V>, _>>()?;
    let (Some(verdict), [earlier @ .., (range, value)]) = (verdicts.pop(), objects.as_slice()) else {
        return Err(no_verdict);
    };
    if verdicts.iter().any(|other| !other.agrees(&verdict)) {
        return Err(VerdictError::Contradictory);
    }
    let start_of_gap = earlier.last().map_or(0, |(range, _)| range.end);
    let (before, after) = (&answer.text[start_of_gap..range.start], &answer.text[range.end..]);
    let doubt = |why| Err(VerdictError::Doubtful { why });
    if !is_lead_in(before) {
        return doubt("the text before it does not lead in to a verdict");
    }
    if has_placeholder(value) {
        return doubt("it has a placeholder, as a template has");
    }
    if verdict.is_contradicted_by(&prose_before(&answer.text, &objects)) {
        return doubt("the judge's own words say the contrary");
    }
    if judges_again(after) {
        return doubt("the text behind it judges again, or takes it back");
    }
    Ok(verdict)
}

/// What stands before each of these objects, and not within them.
fn prose_before(text: &str, objects: &[&(Range<usize>, Json)]) -> String {
    let starts = std::iter::once(0).chain(objects.iter().map(|(range, _)| range.end));
    let gaps = starts.zip(objects).map(|(start, (range, _))| &text[start..range.start]);
    gaps.collect::<Vec<_>>().join("\n")
}

/// Whether the reply to one of the prompts of a reward model has a verdict; replies to other prompts need none.
pub fn has_verdict(request: &ChatRequest, reply: &ChatReply) -> bool {
    match request.messages.last().and_then(|message| wanted(&message.content)) {
        Some(Wanted::FirstWrongStep) => read_verdict::<ScpVerdict>(request, reply).is_ok(),
        Some(Wanted::FinalAnswer) => read_verdict::<FapVerdict>(request, reply).is_ok(),
        Some(Wanted::Grade) => read_verdict::<GradeVerdict>(request, reply).is_ok(),
        None => true,
    }
}

/// Whether a key stands anywhere in a value.
fn names(value: &Json, key: &str) -> bool {
    match value {
        Json::Object(members) => members.iter().any(|(name, value)| is_key(name, key) || names(value, key)),
        Json::Array(values) => values.iter().any(|value| names(value, key)),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => false,
    }
}

/// The verdict that a value is, or is the only wrapping of, as in `{"result": {..}}`.
fn verdict_in<V: Verdict>(value: &Json) -> Result<V, VerdictError> {
    match value {
        Json::Object(members) if Object(members).has(V::KEY) => {
            if members.iter().any(|(_, value)| names(value, V::KEY)) {
                return Err(VerdictError::Doubtful { why: "another verdict stands within it" });
            }
            V::from_object(&Object(members))
        }
        Json::Object(members) => match members.as_slice() {
            [(name, value)] if aside(name).is_none() => verdict_in(value),
            _ => Err(VerdictError::Doubtful { why: "it stands among other members of an object" }),
        },
        Json::Array(values) => match values.as_slice() {
            [value] => verdict_in(value),
            _ => Err(VerdictError::Doubtful { why: "it stands among other values of a list" }),
        },
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => Err(VerdictError::NoVerdict { key: V::KEY }),
    }
}

/// Whether a text before a verdict ends before it: with a sentence, a colon, a paragraph, a heading or an item. A sentence that goes
/// on with the verdict may deny it, and one whose last clause announces an example or a refusal gives none.
fn is_lead_in(before: &str) -> bool {
    const OF_MENTIONS: [&str; 15] = [
        "example",
        "instance",
        "such as",
        "format",
        "template",
        "keys",
        "cannot",
        "can't",
        "will not",
        "won't",
        "not say",
        "would",
        "'d ",
        "refuse",
        "reply with",
    ];
    const QUOTING: [&str; 6] = ["says", "said", "wrote", "writes", "claims", "contains"];
    let is_fence = |line: &&str| line.trim_start().starts_with("```");
    let own_line = before.rsplit('\n').next().unwrap_or_default().trim();
    let text = before.lines().filter(|line| !is_fence(line)).collect::<Vec<_>>().join("\n");
    let text = text.trim_end().trim_end_matches(['[', '*', '_', '`', ' ', '\n']);
    let Some(line) = text.lines().rev().find(|line| has_words(line)) else {
        // A quote, or one of several in a list.
        return !text.trim_start().starts_with(['>', ',']);
    };
    let is_apart = own_line.trim_matches(['[', '*', '`']).is_empty()
        && (before.lines().any(|line| is_fence(&line))
            || before.trim_end_matches([' ', '[']).ends_with("\n\n")
            || line.contains(": ")
            || line.trim_start().starts_with(['#', '-', '*']));
    let closed = text.trim_end_matches(['"', ')', '*', '_']);
    let has_ended = is_apart || closed.ends_with(['.', ':', '!', '?', '\u{ff1a}', '\u{3002}']);
    let line = line.to_lowercase().replace("e.g.", "example").replace('\u{2019}', "'");
    let clause = line.trim_end_matches(|c: char| !c.is_alphanumeric());
    let clause = clause.rsplit(['.', ',', ';', '!', '?']).next().unwrap_or(clause);
    let is_mention =
        OF_MENTIONS.iter().any(|words| clause.contains(words)) || QUOTING.iter().any(|word| clause.ends_with(word));
    has_ended && !is_mention && !ends_in_supposition(&line) && !own_line.starts_with('>')
}

/// Whether a text behind a verdict judges once more, speaks of the answers again or takes it back.
fn judges_again(after: &str) -> bool {
    const STEMS: [&str; 27] = [
        "right",
        "wrong",
        "correct",
        "incorrect",
        "mistak",
        "error",
        "refus",
        "retract",
        "match",
        "agree",
        "disagree",
        "same",
        "identical",
        "equal",
        "equivalen",
        "differ",
        "mismatch",
        "reconsider",
        "reflect",
        "revis",
        "both",
        "they",
        "proposed",
        "reference",
        "solution",
        "verdict",
        "hmm",
    ];
    const WORDS: [&str; 10] =
        ["no", "not", "never", "cannot", "but", "however", "wait", "actually", "instead", "would"];
    let text = after.to_lowercase().replace('\u{2019}', "'");
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .any(|word| STEMS.iter().any(|stem| word.starts_with(stem)) || WORDS.contains(&word) || word.ends_with("n't"))
}

/// Whether a value is what stands for one in an example: `...`, `<text>`.
fn has_placeholder(value: &Json) -> bool {
    let is_placeholder = |text: &str| {
        let text = text.trim();
        // With a number in it, it is a step in brackets.
        let has_number = text.contains(char::is_numeric);
        let is_in = |open, close| text.starts_with(open) && text.ends_with(close) && !has_number;
        let is_dots = !text.is_empty() && text.chars().all(|c| matches!(c, '.' | '\u{2026}'));
        let bare = text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        let is_asked = matches!(bare.as_str(), "string" | "text" | "reason" | "justification" | "up to 100 words");
        is_dots || is_asked || is_in('<', '>') || is_in('[', ']')
    };
    match value {
        Json::Text(text) => is_placeholder(text),
        Json::Object(members) => members.iter().any(|(_, value)| has_placeholder(value)),
        Json::Array(values) => values.iter().any(has_placeholder),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// Whether a text has words; the fence of a code block has none.
fn has_words(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with("```") && line.contains(char::is_alphanumeric))
}
