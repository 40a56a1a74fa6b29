//! Rules that a reply must keep, for instruction following: checked by code, never by a judge.
//!
//! In data a rule is an object with the key `rule`, e.g. `{"rule": "list_of_n", "n": 3}`; in a task file the same as an
//! inline table. A reply passes when it keeps every rule of its row and of its task.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One rule about a reply. Leading and trailing white space of the reply is ignored by all rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// Exactly one word; a full stop or other punctuation after it is allowed.
    OneWord,
    /// At most `n` words.
    MaxWords {
        /// Limit.
        n: usize,
    },
    /// At least `n` words.
    MinWords {
        /// Limit.
        n: usize,
    },
    /// The reply is one JSON object with exactly these keys, in any order.
    JsonKeys {
        /// Keys.
        keys: Vec<String>,
    },
    /// The reply is one JSON object in which `key` has this value (numbers are compared as numbers).
    JsonValue {
        /// Key.
        key: String,
        /// Value.
        value: Value,
    },
    /// Exactly `n` list items: lines that start with `-`, `*` or `1.`, or, where there is no such line, items between
    /// commas.
    ListOfN {
        /// Number of items.
        n: usize,
    },
    /// Begins with `text` (case matters).
    StartsWith {
        /// Beginning.
        text: String,
    },
    /// Ends with `text` (case matters).
    EndsWith {
        /// End.
        text: String,
    },
    /// Holds `text` anywhere, whatever the case.
    Contains {
        /// Part.
        text: String,
    },
    /// Holds one of `texts` anywhere, whatever the case.
    ContainsAny {
        /// Parts.
        texts: Vec<String>,
    },
    /// Does not hold `text`, whatever the case.
    NotContains {
        /// Part.
        text: String,
    },
    /// Is one of `values`; case and final punctuation do not matter.
    OneOf {
        /// Allowed replies.
        values: Vec<String>,
    },
    /// Declines: says that it cannot, will not or does not know.
    Refuses,
    /// All letters are capitals, and there is at least one.
    UpperCase,
    /// No letter is a capital, and there is at least one letter.
    LowerCase,
}

impl Check {
    /// Whether `reply` keeps the rule.
    pub fn passes(&self, reply: &str) -> bool {
        let reply = reply.trim();
        let words = reply.split_whitespace().count();
        match self {
            Self::OneWord => words == 1 && reply.chars().any(char::is_alphanumeric),
            Self::MaxWords { n } => words <= *n && words > 0,
            Self::MinWords { n } => words >= *n,
            Self::JsonKeys { keys } => json_object(reply)
                .is_some_and(|object| object.len() == keys.len() && keys.iter().all(|key| object.contains_key(key))),
            Self::JsonValue { key, value } => {
                json_object(reply).is_some_and(|object| object.get(key).is_some_and(|found| same_value(found, value)))
            }
            Self::ListOfN { n } => num_list_items(reply) == *n,
            Self::StartsWith { text } => reply.starts_with(text.as_str()),
            Self::EndsWith { text } => reply.ends_with(text.as_str()),
            Self::Contains { text } => contains_ignoring_case(reply, text),
            Self::ContainsAny { texts } => texts.iter().any(|text| contains_ignoring_case(reply, text)),
            Self::NotContains { text } => !contains_ignoring_case(reply, text),
            Self::OneOf { values } => values.iter().any(|value| bare(value) == bare(reply)),
            Self::Refuses => refuses(reply),
            Self::UpperCase => has_letters(reply) && !reply.chars().any(char::is_lowercase),
            Self::LowerCase => has_letters(reply) && !reply.chars().any(char::is_uppercase),
        }
    }
}

fn json_object(reply: &str) -> Option<serde_json::Map<String, Value>> {
    serde_json::from_str(reply).ok()
}

fn same_value(found: &Value, want: &Value) -> bool {
    match (found.as_f64(), want.as_f64()) {
        (Some(found), Some(want)) => found == want,
        _ => found == want,
    }
}

fn num_list_items(reply: &str) -> usize {
    let is_item = |line: &&str| {
        let line = line.trim_start();
        let after_digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
        line.starts_with("- ")
            || line.starts_with("* ")
            || (after_digits.len() < line.len() && (after_digits.starts_with(". ") || after_digits.starts_with(") ")))
    };
    match reply.lines().filter(is_item).count() {
        0 => reply.split(',').filter(|item| !item.trim().is_empty()).count(),
        bulleted => bulleted,
    }
}

fn contains_ignoring_case(reply: &str, text: &str) -> bool {
    reply.to_lowercase().contains(&text.to_lowercase())
}

fn bare(text: &str) -> String {
    text.trim().trim_end_matches(|c: char| c.is_ascii_punctuation()).to_lowercase()
}

fn has_letters(reply: &str) -> bool {
    reply.chars().any(char::is_alphabetic)
}

fn refuses(reply: &str) -> bool {
    const PHRASES: [&str; 12] = [
        "i cannot",
        "i can't",
        "i can not",
        "i am not able",
        "i'm not able",
        "i am unable",
        "i'm unable",
        "i do not know",
        "i don't know",
        "i will not",
        "i won't",
        "i'm sorry",
    ];
    let reply = reply.to_lowercase().replace('\u{2019}', "'");
    PHRASES.iter().any(|phrase| reply.contains(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_and_fail() {
        let cases: &[(&str, &str, bool)] = &[
            (r#"{"rule": "one_word"}"#, " Paris.\n", true),
            (r#"{"rule": "one_word"}"#, "In Paris", false),
            (r#"{"rule": "one_word"}"#, "...", false),
            (r#"{"rule": "max_words", "n": 2}"#, "one two", true),
            (r#"{"rule": "max_words", "n": 2}"#, "", false),
            (r#"{"rule": "min_words", "n": 3}"#, "one two", false),
            (r#"{"rule": "json_keys", "keys": ["a", "b"]}"#, r#"{"b": 1, "a": [2]}"#, true),
            (r#"{"rule": "json_keys", "keys": ["a", "b"]}"#, r#"{"a": 1}"#, false),
            (r#"{"rule": "json_keys", "keys": ["a"]}"#, r#"Here: {"a": 1}"#, false),
            (r#"{"rule": "json_value", "key": "a", "value": 2}"#, r#"{"a": 2.0}"#, true),
            (r#"{"rule": "json_value", "key": "a", "value": "x"}"#, r#"{"a": "y"}"#, false),
            (r#"{"rule": "list_of_n", "n": 2}"#, "Sure:\n- a\n- b", true),
            (r#"{"rule": "list_of_n", "n": 3}"#, "1. a\n2. b\n3) c", true),
            (r#"{"rule": "list_of_n", "n": 3}"#, "red, green, blue", true),
            (r#"{"rule": "list_of_n", "n": 3}"#, "red", false),
            (r#"{"rule": "starts_with", "text": "Yes"}"#, "Yes, it is", true),
            (r#"{"rule": "ends_with", "text": "!"}"#, "Hello!\n", true),
            (r#"{"rule": "contains", "text": "PARIS"}"#, "in Paris", true),
            (r#"{"rule": "contains_any", "texts": ["hello", "good day"]}"#, "Good day to you", true),
            (r#"{"rule": "not_contains", "text": "the"}"#, "The end", false),
            (r#"{"rule": "one_of", "values": ["yes", "no"]}"#, "No.", true),
            (r#"{"rule": "one_of", "values": ["yes", "no"]}"#, "Not sure", false),
            (r#"{"rule": "refuses"}"#, "I\u{2019}m sorry, but no", true),
            (r#"{"rule": "refuses"}"#, "The answer is 4", false),
            (r#"{"rule": "upper_case"}"#, "ALL 4", true),
            (r#"{"rule": "upper_case"}"#, "44", false),
            (r#"{"rule": "lower_case"}"#, "quiet", true),
            (r#"{"rule": "lower_case"}"#, "Loud", false),
        ];
        for (rule, reply, want) in cases {
            let check: Check = serde_json::from_str(rule).expect(rule);
            assert_eq!(check.passes(reply), *want, "{rule} on {reply:?}");
        }
    }

    #[test]
    fn unknown_rules_and_keys_are_refused() {
        for rule in [r#"{"rule": "one_wrd"}"#, r#"{"rule": "max_words", "m": 2}"#, r#"{"rule": "max_words"}"#] {
            assert!(serde_json::from_str::<Check>(rule).is_err(), "{rule}");
        }
    }
}
