//! From a model's reply to an answer: a list of named steps, run in order.
//!
//! A step that finds nothing ends the list with no answer, which is counted as missing and scored as wrong, unless a later
//! `default` step gives one. In a task file a step without arguments is a string, one with arguments a table:
//!
//! ```toml
//! extract = [{ after = "Answer:" }, "last_number", "normalize_number"]
//! ```

use std::collections::BTreeMap;

use regex::Regex;
use serde::Deserialize;

/// One step. The text it gets is what the step before it found.
#[derive(Debug, Clone, Deserialize)]
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
    /// The first number, e.g. `-1,234.5`.
    FirstNumber,
    /// The last number.
    LastNumber,
    /// One spelling per number: `$1,200.50` is `1200.5`, `(3)` is `-3`, `7.0 %` is `7`. Other text passes unchanged.
    NormalizeNumber,
    /// The letter in the last `[[A]]`, as the CFA prompts of the FinDAP paper ask for.
    ChoiceLetter,
    /// The choice letter that a direct answer opens with: `B`, `B.`, `(B)`, `B: because`, `**B**`.
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

/// Arguments of [`Step::Regex`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegexStep {
    /// The expression.
    #[serde(deserialize_with = "parse_regex")]
    pub pattern: Regex,
    /// Capture group; by default 1 where the expression has one, else the whole match.
    pub group: Option<usize>,
    /// Which match counts.
    #[serde(default)]
    pub which: Which,
}

/// Which of several matches counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// The first.
    #[default]
    First,
    /// The last.
    Last,
}

/// Arguments of [`Step::Json`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonStep {
    /// The key whose value is the answer; the object itself, written compactly, where absent.
    pub key: Option<String>,
}

/// Arguments of [`Step::Label`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelStep {
    /// The labels; case does not matter.
    pub labels: Vec<String>,
    /// When a reply counts as a label.
    pub how: LabelMatch,
}

/// When a reply counts as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelMatch {
    /// The reply, without case and surrounding punctuation, is the label.
    Strict,
    /// The first label of the list that stands anywhere in the reply: how the FLARE tasks are scored (PIXIU), so
    /// `not positive` counts as `positive`.
    Substring,
    /// The label that comes first in the reply, as a whole word.
    FirstWord,
}

fn parse_regex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    let pattern = String::deserialize(deserializer)?;
    Regex::new(&pattern).map_err(|error| serde::de::Error::custom(format!("not a regular expression: {error}")))
}

/// Runs the steps on a reply; `None` where no answer was found.
pub fn extract(steps: &[Step], reply: &str) -> Option<String> {
    let mut text = Some(reply.to_owned());
    for step in steps {
        text = match (text, step) {
            (None, Step::Default(answer)) => Some(answer.clone()),
            (None, _) => None,
            (Some(text), step) => step.run(&text),
        };
    }
    text
}

impl Step {
    fn run(&self, text: &str) -> Option<String> {
        match self {
            Self::Strip => non_empty(text.trim()),
            Self::FirstLine => text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned),
            Self::LastLine => text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned),
            Self::LowerCase => Some(text.to_lowercase()),
            Self::StripPunctuation => non_empty(text.replace(|c: char| c.is_ascii_punctuation(), "").trim()),
            Self::After(marker) => text.rfind(marker.as_str()).map(|at| text[at + marker.len()..].to_owned()),
            Self::Before(marker) => Some(text.split(marker.as_str()).next().unwrap_or_default().to_owned()),
            Self::Regex(step) => step.run(text),
            Self::FirstNumber => numbers(text).next().map(str::to_owned),
            Self::LastNumber => numbers(text).last().map(str::to_owned),
            Self::NormalizeNumber => Some(normalize_number(text)),
            Self::ChoiceLetter => choice_letter(text),
            Self::LeadingLetter => leading_letter(text),
            Self::Json(step) => step.run(text),
            Self::Label(step) => step.run(text),
            Self::Map(pairs) => Some(pairs.get(text).cloned().unwrap_or_else(|| text.to_owned())),
            Self::Default(_) => Some(text.to_owned()),
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

impl LabelStep {
    fn run(&self, text: &str) -> Option<String> {
        let text = text.to_lowercase();
        let found = match self.how {
            LabelMatch::Strict => {
                let bare = text.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
                self.labels.iter().find(|label| label.to_lowercase() == bare)
            }
            LabelMatch::Substring => self.labels.iter().find(|label| text.contains(&label.to_lowercase())),
            LabelMatch::FirstWord => {
                let place = |label: &String| whole_word(&text, &label.to_lowercase());
                let placed = self.labels.iter().filter_map(|label| Some((place(label)?, label)));
                // Of two labels at one place, one is a prefix of the other: the longer one was meant.
                placed.min_by_key(|(at, label)| (*at, std::cmp::Reverse(label.len()))).map(|(_, label)| label)
            }
        };
        found.cloned()
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn whole_word(text: &str, word: &str) -> Option<usize> {
    let is_inside = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    text.match_indices(word)
        .map(|(at, _)| at)
        .find(|&at| !is_inside(text[..at].chars().next_back()) && !is_inside(text[at + word.len()..].chars().next()))
}

fn numbers(text: &str) -> impl Iterator<Item = &str> {
    static NUMBER: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
        Regex::new(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\.\d+").expect("invariant: a valid constant pattern")
    });
    NUMBER.find_iter(text).map(move |found| {
        // A minus directly after a digit or letter is an operator or a hyphen (`16-3`, `mid-2019`), not a sign.
        let glued = found.as_str().starts_with('-')
            && text[..found.start()].chars().next_back().is_some_and(char::is_alphanumeric);
        &text[found.start() + usize::from(glued)..found.end()]
    })
}

/// One spelling per number (see [`Step::NormalizeNumber`]); text that is not a number is returned trimmed.
pub fn normalize_number(text: &str) -> String {
    let text = text.trim();
    let bracketed = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let mut digits: String =
        bracketed.unwrap_or(text).chars().filter(|c| !matches!(c, '$' | ',' | '%' | ' ') && !is_currency(*c)).collect();
    while digits.ends_with('.') {
        digits.pop();
    }
    let plain = digits.trim_start_matches(['-', '+']);
    let is_number = plain.chars().any(|c| c.is_ascii_digit())
        && plain.chars().all(|c| c.is_ascii_digit() || c == '.')
        && plain.matches('.').count() <= 1
        && digits.len() - plain.len() <= 1;
    if !is_number {
        return text.to_owned();
    }
    let negative = digits.starts_with('-') != bracketed.is_some();
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let whole = match whole.trim_start_matches('0') {
        "" => "0",
        whole => whole,
    };
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
    format!("{sign}{whole}{point}{fraction}")
}

fn is_currency(character: char) -> bool {
    matches!(character, '\u{20ac}' | '\u{a3}' | '\u{a5}')
}

fn choice_letter(text: &str) -> Option<String> {
    let letters = text.match_indices("[[").filter_map(|(at, _)| {
        let inside = text[at + 2..].split_once("]]")?.0.trim();
        let mut characters = inside.chars();
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        characters.next().is_none().then(|| letter.to_ascii_uppercase().to_string())
    });
    letters.last()
}

fn leading_letter(text: &str) -> Option<String> {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, '(' | '[' | '*' | '"' | '\''));
    let mut characters = text.chars();
    let letter = characters.next().filter(char::is_ascii_uppercase)?;
    match characters.next() {
        // `A` alone is an answer, `A company` is an article.
        None => Some(letter.to_string()),
        Some('\n' | '.' | ')' | ']' | ':' | ',' | '*' | '"' | '\'') => Some(letter.to_string()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Steps {
        extract: Vec<Step>,
    }

    fn check(steps: &str, reply: &str, want: Option<&str>) {
        let parsed: Steps = toml::from_str(&format!("extract = {steps}")).expect(steps);
        assert_eq!(extract(&parsed.extract, reply).as_deref(), want, "{steps} on {reply:?}");
    }

    #[test]
    fn each_step_finds_what_its_name_says() {
        check(r#"["strip"]"#, " yes \n", Some("yes"));
        check(r#"["strip"]"#, " \n", None);
        check(r#"["first_line"]"#, "\n \n one \ntwo", Some("one"));
        check(r#"["last_line"]"#, "one\ntwo\n\n", Some("two"));
        check(r#"["lower_case"]"#, "\u{c9}T\u{c9}", Some("\u{e9}t\u{e9}"));
        check(r#"["strip_punctuation"]"#, "(yes!)", Some("yes"));
        check(r#"[{after = "Answer:"}]"#, "Answer: 1. Answer: 2", Some(" 2"));
        check(r#"[{after = "Answer:"}]"#, "no marker", None);
        check(r#"[{before = "."}]"#, "one. two.", Some("one"));
        check(r#"[{regex = {pattern = 'is (\w+)'}}]"#, "it is red, it is blue", Some("red"));
        check(r#"[{regex = {pattern = 'is (\w+)', which = "last"}}]"#, "it is red, it is blue", Some("blue"));
        check(r#"[{regex = {pattern = '\d+'}}]"#, "a 12 b", Some("12"));
        check(r#"[{regex = {pattern = '(a)(b)', group = 2}}]"#, "ab", Some("b"));
        check(r#"["first_number"]"#, "from 3 to 4", Some("3"));
        check(r#"["last_number"]"#, "16-3 = 13 so $1,234.50.", Some("1,234.50"));
        check(r#"["last_number"]"#, "a change of -12.6 million", Some("-12.6"));
        check(r#"["last_number"]"#, "16-3", Some("3"));
        check(r#"["last_number"]"#, "none", None);
        check(r#"["choice_letter"]"#, "Because [[A]] no. Selection: [[ b ]]", Some("B"));
        check(r#"["choice_letter"]"#, "Selection: A", None);
        check(r#"["choice_letter"]"#, "[[AB]] [[1]] [[", None);
        check(r#"[{json = {key = "answer"}}]"#, r#"So: {"answer": 4} done"#, Some("4"));
        check(r#"[{json = {key = "answer"}}]"#, r#"{"other": 4}"#, None);
        check(r#"[{json = {}}]"#, r#"{bad {"a": "x"}"#, Some(r#"{"a":"x"}"#));
        check(r#"["strip", {map = {good = "yes", bad = "no"}}]"#, " good", Some("yes"));
        check(r#"["strip", {map = {good = "yes"}}]"#, "other", Some("other"));
        check(r#"["last_number", {default = "0"}]"#, "none", Some("0"));
        check(r#"["last_number", {default = "0"}]"#, "7", Some("7"));
    }

    #[test]
    fn leading_letters_are_not_articles() {
        for (reply, want) in [
            ("B", Some("B")),
            (" (C) because", Some("C")),
            ("**D**", Some("D")),
            ("A. Cash", Some("A")),
            ("A company", None),
            ("Because", None),
            ("", None),
        ] {
            check(r#"["leading_letter"]"#, reply, want);
        }
    }

    #[test]
    fn labels_match_in_three_ways() {
        let label =
            |how: &str| format!(r#"[{{label = {{labels = ["positive", "negative", "neutral"], how = "{how}"}}}}]"#);
        check(&label("strict"), " Negative.\n", Some("negative"));
        check(&label("strict"), "It is negative", None);
        check(&label("substring"), "negative, not positive", Some("positive"));
        check(&label("first_word"), "negative, not positive", Some("negative"));
        check(&label("first_word"), "unpositively", None);
        check(&label("substring"), "unsure", None);
    }

    #[test]
    fn numbers_have_one_spelling() {
        for (written, want) in [
            ("$1,200.50", "1200.5"),
            ("(3.0)", "-3"),
            ("7 %", "7"),
            ("-0.00", "0"),
            ("007", "7"),
            (".5", "0.5"),
            ("+4.", "4"),
            ("\u{20ac}12", "12"),
            ("twelve", "twelve"),
            ("1.2.3", "1.2.3"),
            ("--4", "--4"),
        ] {
            assert_eq!(normalize_number(written), want, "{written}");
        }
    }

    #[test]
    fn unknown_steps_are_refused() {
        for steps in [r#"["last_numbr"]"#, r#"[{regex = {pattern = "("}}]"#, r#"[{json = {field = "a"}}]"#] {
            assert!(toml::from_str::<Steps>(&format!("extract = {steps}")).is_err(), "{steps}");
        }
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "[-+($]{0,2}[0-9,.]{0,8}[)% ]{0,2}") {
            let once = normalize_number(&text);
            proptest::prop_assert_eq!(normalize_number(&once), once);
        }
    }
}
