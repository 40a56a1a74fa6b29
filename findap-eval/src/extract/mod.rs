//! From a model's reply to an answer: a list of named steps, run in order.
//!
//! A step that finds nothing ends the list with no answer, which is counted as missing and scored as wrong, unless a later
//! `default` step gives one. In a task file a step without arguments is a string, one with arguments a table:
//!
//! ```toml
//! extract = ["answer", "stated_number", "normalize_number"]
//! ```

mod answer;
mod figure;
mod label;
mod letter;
mod stated;

use std::collections::BTreeMap;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

pub(crate) use self::answer::{answer_start, answer_to, closes_reasoning, opens_reasoning};
use self::answer::{first_line, last_line, stated_answers};
pub use self::answer::{stated_answer, without_reasoning};
pub use self::figure::normalize_number;
use self::figure::{Figure, figures, plain, whole_figure};
pub use self::label::{LabelMatch, LabelStep};
use self::letter::{bracketed_letter, leading_letter};
use self::stated::stated_figure;

/// One step. The text it gets is what the step before it found.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Removes white space at both ends; an empty rest is no answer.
    Strip,
    /// The first line that is not blank.
    FirstLine,
    /// The last line that is not blank.
    LastLine,
    /// Lower case.
    LowerCase,
    /// Removes ASCII punctuation.
    StripPunctuation,
    /// What stands after the last occurrence of this text.
    After(String),
    /// What stands before the first occurrence of this text; all of it where there is none.
    Before(String),
    /// A match of a regular expression (the `regex` crate's syntax).
    Regex(RegexStep),
    /// The answer that the reply states behind an answer mark, in any common spelling: `**Answer**: 72`, `The answer is 72`,
    /// `#### 72`, `\boxed{72}`. The last mark counts behind which the steps that follow find something; one of prose (`the
    /// answer is`) only where there is no other.
    Answer,
    /// The first number with its sign, e.g. `-1,234.5`. Commas group thousands and a point opens decimals; a number in parentheses where
    /// a value begins is negative; currency, percent and scale words are no part of it; `1,23`, `10:30`, `3/4` and `2 dozen` are none.
    FirstNumber,
    /// The last number of the text, whatever it says; directly after `regex` the number that the captured answer states. Behind
    /// another answer mark `stated_number` is the step to take.
    LastNumber,
    /// The number that an answer states, on its first line that is not blank: of `72 clips, in 6 boxes` the one that it opens
    /// with, of `6 x 12 = 72` the one after the last `=`, of `sales were 72 in 2019` the one that is no year. An expression, a
    /// range, a list or two numbers between which nothing decides (`6 x 12`, `10-12`, `3, 4`) state none.
    StatedNumber,
    /// A number in one spelling, chosen and scaled as its arguments say.
    Number(NumberStep),
    /// One spelling per number: `$1,200.50` is `1200.5`, `(3)` is `-3`, `7.0 %` is `7`. Other text passes unchanged, also
    /// what is no number by English rules: `1,23`, `3 million`.
    NormalizeNumber,
    /// The letter in the last `[[A]]`, as the CFA prompts of the FinDAP paper ask for.
    ChoiceLetter,
    /// The choice letter that a direct answer, or the answer behind a mark, opens with: `B`, `B.`, `(B)`, `B - Cash`,
    /// `**B**`, `Option B`, `The answer is B`. The article of `A bond is` is none.
    LeadingLetter,
    /// The first JSON object in the text, or one of its values.
    Json(JsonStep),
    /// One of a fixed set of labels.
    Label(LabelStep),
    /// Replaces the whole text where it stands on the left; other text passes unchanged.
    Map(BTreeMap<String, String>),
    /// Sets the answer where the steps before found none.
    Default(String),
}

/// A regular expression, and which of its matches counts.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexStep {
    /// The expression.
    #[serde(deserialize_with = "parse_regex")]
    #[schemars(with = "String")]
    pub pattern: Regex,
    /// Capture group; by default 1 where the expression has one, else the whole match.
    pub group: Option<usize>,
    /// Which match counts. Default `first`.
    #[serde(default)]
    pub which: Which,
}

/// Which of several matches counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The first.
    #[default]
    First,
    /// The last.
    Last,
}

/// Which number is taken, and how it is read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumberStep {
    /// Which number of the text. Default `stated`.
    #[serde(default)]
    pub which: WhichNumber,
    /// Whether scale words count: `1.2 million` and `$1.2m` are `1200000`. For tasks whose right answers are written out.
    #[serde(default)]
    pub scale: bool,
}

/// Which number of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhichNumber {
    /// As the step `first_number`.
    First,
    /// As the step `last_number` on a whole reply.
    Last,
    /// As the step `stated_number`.
    #[default]
    Stated,
}

/// Which value of the first JSON object is taken.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonStep {
    /// The key whose value is the answer; the object itself, written compactly, where absent.
    pub key: Option<String>,
}

/// A regular expression as a task file writes it.
pub(crate) fn parse_regex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    let pattern = String::deserialize(deserializer)?;
    Regex::new(&pattern).map_err(|error| serde::de::Error::custom(format!("not a regular expression: {error}")))
}

/// Runs the steps on a reply without its reasoning; `None` where no answer was found.
pub fn extract(steps: &[Step], reply: &str) -> Option<String> {
    run_with_defaults(steps, &without_reasoning(reply))
}

/// Runs the steps; where they find nothing the last `default` gives what the steps before it did not find.
fn run_with_defaults(steps: &[Step], text: &str) -> Option<String> {
    run(steps, text).or_else(|| {
        let is_default = |step: &Step| matches!(step, Step::Default(_));
        let place = steps.iter().rposition(is_default)?;
        let Step::Default(answer) = &steps[place] else { return None };
        let found = run_with_defaults(&steps[..place], text);
        run(&steps[place + 1..], found.as_deref().unwrap_or(answer))
    })
}

/// Runs the steps on the first text that the first of them finds and that the others find something in.
fn run(steps: &[Step], text: &str) -> Option<String> {
    let Some((step, others)) = steps.split_first() else { return Some(text.to_owned()) };
    let found = match step {
        Step::Answer => stated_answers(text),
        // `**Answer**: 72` has what a pattern such as `Answer:\s*(.+)` looks for all the same.
        Step::Regex(_) => {
            let plain = || step.run(&text.replace("**", "").replace("__", ""));
            step.run(text).or_else(plain).into_iter().collect()
        }
        step => step.run(text).into_iter().collect(),
    };
    found.iter().find_map(|text| match (step, others.split_first()) {
        // What a pattern captures is an answer, whose number is the one that it states.
        (Step::Regex(_), Some((Step::LastNumber, rest))) => run(rest, &Step::StatedNumber.run(text)?),
        _ => run(others, text),
    })
}

/// A right answer by its own steps.
///
/// # Errors
/// Why there is none: the steps find nothing, or leave out a scale word, so that `1.2 million` would equal `1.2 billion`.
pub(crate) fn extract_gold(steps: &[Step], written: &str) -> Result<String, String> {
    let gold = extract(steps, written).ok_or_else(|| format!("finds nothing in {written:?}"))?;
    let [plain, scaled] = [false, true].map(|scale| extract(&as_numbers(steps, scale), written));
    if steps.iter().any(Step::leaves_scale_out) && plain != scaled {
        return Err(format!("{written:?} {UNCOUNTED_SCALE}"));
    }
    Ok(gold)
}

const UNCOUNTED_SCALE: &str = "has a scale word that does not count; take `{ number = { scale = true } }` as the step for right answers and \
replies, or write the number out";

/// The steps with every number in one spelling, with or without its scale words.
fn as_numbers(steps: &[Step], scale: bool) -> Vec<Step> {
    let number = |which| Step::Number(NumberStep { which, scale });
    let as_number = |step: &Step| match step {
        Step::FirstNumber => number(WhichNumber::First),
        Step::LastNumber => number(WhichNumber::Last),
        Step::StatedNumber => number(WhichNumber::Stated),
        Step::Number(step) => number(step.which),
        step => step.clone(),
    };
    steps.iter().map(as_number).collect()
}

/// The right answer as the steps would give it, so that both are compared in one spelling: a label, a letter or a number
/// where they end in one. The error says what it is not; it would count every answer as wrong.
pub(crate) fn as_answer(steps: &[Step], gold: &str) -> Result<String, String> {
    let normalizes = steps.iter().any(|step| matches!(step, Step::NormalizeNumber));
    let last = steps.iter().rev().find(|step| !matches!(step, Step::Default(_) | Step::NormalizeNumber));
    if last.is_some_and(Step::leaves_scale_out) && whole_figure(gold).is_some_and(|figure| figure.has_scale()) {
        return Err(UNCOUNTED_SCALE.to_owned());
    }
    let found = match last {
        Some(Step::Label(step)) => {
            let none = || format!("is none of the task's labels ({})", step.labels.join(", "));
            return step.spelt_as(gold).cloned().ok_or_else(none);
        }
        Some(Step::LeadingLetter | Step::ChoiceLetter) => {
            return leading_letter(gold).or_else(|| bracketed_letter(gold)).ok_or_else(|| "is no letter".to_owned());
        }
        Some(Step::FirstNumber | Step::LastNumber | Step::StatedNumber) => {
            whole_figure(gold).map(|figure| if normalizes { figure.normal(false) } else { figure.written() })
        }
        Some(Step::Number(step)) => whole_figure(gold).map(|figure| figure.normal(step.scale)),
        _ => Some(if normalizes { normalize_number(gold) } else { gold.to_owned() }),
    };
    found.ok_or_else(|| "is no number".to_owned())
}

/// The steps with the labels of a row, for label steps without labels of their own.
pub(crate) fn with_labels(steps: &[Step], labels: &[String]) -> Vec<Step> {
    let fill = |step: &Step| match step {
        Step::Label(step) if step.labels.is_empty() => {
            Step::Label(LabelStep { labels: labels.to_vec(), how: step.how })
        }
        step => step.clone(),
    };
    steps.iter().map(fill).collect()
}

impl Step {
    /// Whether it takes a number without its scale words.
    pub(crate) fn leaves_scale_out(&self) -> bool {
        match self {
            Self::FirstNumber | Self::LastNumber | Self::StatedNumber => true,
            Self::Number(step) => !step.scale,
            _ => false,
        }
    }

    /// What is wrong with its arguments; `None` where nothing is.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Regex(RegexStep { pattern, group: Some(group), .. }) if *group >= pattern.captures_len() => {
                let num_groups = pattern.captures_len() - 1;
                Some(format!(
                    "the regular expression {pattern} has {num_groups} groups, and group = {group} is none of them"
                ))
            }
            Self::Label(step) => empty_label(&step.labels),
            _ => None,
        }
    }

    fn run(&self, text: &str) -> Option<String> {
        match self {
            Self::Strip => non_empty(text.trim()),
            Self::FirstLine => first_line(text).map(str::to_owned),
            Self::LastLine => last_line(text).map(str::to_owned),
            Self::LowerCase => Some(text.to_lowercase()),
            Self::StripPunctuation => non_empty(text.replace(|c: char| c.is_ascii_punctuation(), "").trim()),
            Self::After(marker) => text.rfind(marker.as_str()).map(|at| text[at + marker.len()..].to_owned()),
            Self::Before(marker) => Some(text.split(marker.as_str()).next().unwrap_or_default().to_owned()),
            Self::Regex(step) => step.run(text),
            Self::FirstNumber => WhichNumber::First.find(text).map(|figure| figure.written()),
            Self::LastNumber => WhichNumber::Last.find(text).map(|figure| figure.written()),
            Self::StatedNumber => WhichNumber::Stated.find(text).map(|figure| figure.written()),
            Self::Number(step) => step.run(text),
            Self::NormalizeNumber => Some(normalize_number(text)),
            Self::Answer => stated_answer(text),
            Self::ChoiceLetter => bracketed_letter(text),
            Self::LeadingLetter => leading_letter(text),
            Self::Json(step) => step.run(text),
            Self::Label(step) => step.run(text),
            Self::Map(pairs) => Some(pairs.get(text).cloned().unwrap_or_else(|| text.to_owned())),
            Self::Default(_) => Some(text.to_owned()),
        }
    }
}

impl NumberStep {
    fn run(&self, text: &str) -> Option<String> {
        self.which.find(text).map(|figure| figure.normal(self.scale))
    }
}

impl WhichNumber {
    fn find(self, text: &str) -> Option<Figure> {
        match self {
            Self::First => figures(&plain(text)).into_iter().next().flatten(),
            Self::Last => figures(&plain(text)).pop().flatten(),
            Self::Stated => stated_figure(text),
        }
    }
}

impl RegexStep {
    fn run(&self, text: &str) -> Option<String> {
        let captures = match self.which {
            Which::First => self.pattern.captures(text),
            Which::Last => self.pattern.captures_iter(text).last(),
        }?;
        let group = self.group.unwrap_or(usize::from(self.pattern.captures_len() > 1));
        captures.get(group).map(|found| found.as_str().to_owned())
    }
}

impl JsonStep {
    fn run(&self, text: &str) -> Option<String> {
        let object = text.match_indices('{').find_map(|(at, _)| {
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<serde_json::Value>();
            values.next()?.ok()
        })?;
        match &self.key {
            None => Some(object.to_string()),
            Some(key) => match object.get(key)? {
                serde_json::Value::String(value) => Some(value.clone()),
                serde_json::Value::Null => None,
                value => Some(value.to_string()),
            },
        }
    }
}

/// What is wrong with labels of which one is empty: it would stand in every reply.
pub(crate) fn empty_label(labels: &[String]) -> Option<String> {
    let place = labels.iter().position(|label| label.trim().is_empty())?;
    Some(format!("label {} of {labels:?} is empty; take it out", place + 1))
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
