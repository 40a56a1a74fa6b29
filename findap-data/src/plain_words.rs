//! What parsers say, in words of people who do not know Rust.
//!
//! serde names what it found and expected by types of Rust: `invalid type: string "x", expected u64`. Every message of serde, serde_json
//! or toml that a user may see goes through [`plain_words`].

use crate::spelling::nearest;

/// Longest text that is shown whole, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// Rewrites a message of serde, serde_json or toml. A message of any other form is kept as it is.
pub fn plain_words(message: &str) -> String {
    let message = message.trim();
    let (said, place) = match split_place(message) {
        Some((said, 1, column)) => (said, format!(" (column {column})")),
        Some((said, line, column)) => (said, format!(" (line {line}, column {column})")),
        None => (message, String::new()),
    };
    format!("{}{place}", told(said).unwrap_or_else(|| said.to_owned()))
}

/// The message before ` at line 3 column 14`, and the two numbers.
fn split_place(message: &str) -> Option<(&str, u64, u64)> {
    let (said, place) = message.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((said, line.parse().ok()?, column.parse().ok()?))
}

fn told(said: &str) -> Option<String> {
    if let Some(rest) = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: ")) {
        let (found, wanted) = rest.rsplit_once(", expected ")?;
        return Some(format!("must be {}, not {}", wanted_words(wanted), found_words(found)));
    }
    if let Some(rest) = said.strip_prefix("invalid length ") {
        let (count, wanted) = rest.split_once(", expected ")?;
        return Some(format!("must be {}, not {count}", wanted_words(wanted)));
    }
    if let Some(rest) = said.strip_prefix("unknown variant `") {
        let (found, names) = rest.split_once('`')?;
        let names = quoted(names);
        return Some(format!("must be {}, not \"{found}\"{}", alternatives(&names), suggestion(found, &names)));
    }
    if let Some(rest) = said.strip_prefix("unknown field `") {
        let (found, names) = rest.split_once('`')?;
        let names = quoted(names);
        return Some(format!(
            "has an unknown key `{found}`; known are {}{}",
            names.join(", "),
            suggestion(found, &names)
        ));
    }
    if let Some(rest) = said.strip_prefix("missing field `") {
        return Some(format!("`{}` is missing", rest.trim_end_matches('`')));
    }
    if let Some(rest) = said.strip_prefix("duplicate field `") {
        return Some(format!("`{}` is there twice", rest.trim_end_matches('`')));
    }
    if said.starts_with("data did not match any variant of untagged enum") {
        return Some("has none of the forms that are known here".to_owned());
    }
    said.strip_prefix("EOF while parsing ").map(|what| format!("it ends in the middle of {what}"))
}

/// The texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        None => "something else".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

fn suggestion(found: &str, names: &[&str]) -> String {
    match nearest(found, names.iter().copied()).filter(|_| names.len() > 1) {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => String::new(),
    }
}

/// What was found, which serde writes as `integer `3``, `string "x"` or a kind alone.
fn found_words(found: &str) -> String {
    let in_ticks = |kind: &str| found.strip_prefix(kind)?.strip_prefix(" `")?.strip_suffix('`');
    if let Some(number) = in_ticks("integer").or_else(|| in_ticks("floating point")) {
        return format!("the number {number}");
    }
    if let Some(value) = in_ticks("boolean") {
        return value.to_owned();
    }
    if let Some(text) = found.strip_prefix("string ") {
        let mut shown: String = text.chars().take(SHOWN_CHARACTERS).collect();
        if shown.len() < text.len() {
            shown.push_str("...\"");
        }
        return format!("the text {shown}");
    }
    match found {
        "sequence" => "a list",
        "map" => "a table of keys and values",
        "null" | "unit value" | "unit" | "Option value" => "nothing",
        "character" => "a letter",
        "byte array" => "bytes",
        other => other,
    }
    .to_owned()
}

/// What was expected, which serde names by types of Rust unless the type has words of its own.
fn wanted_words(wanted: &str) -> String {
    // A list of fixed length: `a tuple of size 2`, `an array of length 2`, `tuple struct Pair with 2 elements`.
    let is_list = ["a tuple", "an array", "tuple ", "struct "].iter().any(|kind| wanted.starts_with(kind));
    if let Some(count) = wanted.split_whitespace().find_map(|word| word.parse::<u64>().ok()).filter(|_| is_list) {
        return format!("a list of {count} values");
    }
    if wanted.starts_with("struct ") || wanted.starts_with("internally tagged enum") {
        return "a table of keys and values".to_owned();
    }
    if wanted.starts_with("a nonzero ") {
        return "a whole number, but not 0".to_owned();
    }
    match wanted {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number from 0 up",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "string" | "a borrowed string" | "str" => "text",
        "path string" => "a path",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" | "map" | "table" => "a table of keys and values",
        "unit" | "null" => "nothing",
        "string or map" | "string or table" | "variant identifier" => "a name that is known here",
        "option" => "a value or nothing",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;
    use std::num::NonZeroUsize;
    use std::path::PathBuf;

    use serde::Deserialize;
    use serde::de::DeserializeOwned;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "read for its errors")]
    struct Pair {
        first: u32,
        second: Option<f64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "read for its errors")]
    enum OneOrTwo {
        One(u32),
        Two(u32, u32),
    }

    fn json<T: DeserializeOwned + Debug>(text: &str) -> String {
        plain_words(&serde_json::from_str::<T>(text).expect_err(text).to_string())
    }

    fn toml_value<T: DeserializeOwned + Debug>(text: &str) -> String {
        let error = toml::from_str::<BTreeMap<String, T>>(&format!("key = {text}")).expect_err(text);
        plain_words(error.message())
    }

    #[test]
    fn no_word_of_rust_reaches_the_user() {
        for (told, want) in [
            (toml_value::<u64>("\"one\""), "must be a whole number from 0 up, not the text \"one\""),
            (toml_value::<usize>("1.5"), "must be a whole number from 0 up, not the number 1.5"),
            (toml_value::<u64>("-3"), "must be a whole number from 0 up, not the number -3"),
            (toml_value::<f64>("true"), "must be a number, not true"),
            (toml_value::<i64>("[1]"), "must be a whole number, not a list"),
            (toml_value::<String>("3"), "must be text, not the number 3"),
            (toml_value::<String>("{ a = 1 }"), "must be text, not a table of keys and values"),
            (toml_value::<bool>("\"yes\""), "must be true or false, not the text \"yes\""),
            (toml_value::<Vec<u32>>("2"), "must be a list, not the number 2"),
            (toml_value::<PathBuf>("2"), "must be a path, not the number 2"),
            (toml_value::<[f64; 2]>("[0.9]"), "must be a list of 2 values, not 1"),
            (toml_value::<(f64, f64)>("0.9"), "must be a list of 2 values, not the number 0.9"),
            (toml_value::<Pair>("\"x\""), "must be a table of keys and values, not the text \"x\""),
            (toml_value::<Pair>("{}"), "`first` is missing"),
            (
                toml_value::<Pair>("{ first = 1, secnd = 2 }"),
                "has an unknown key `secnd`; known are first, second; did you mean \"second\"?",
            ),
            (toml_value::<Colour>("\"gren\""), "must be \"red\" or \"green\", not \"gren\"; did you mean \"green\"?"),
            (toml_value::<OneOrTwo>("\"x\""), "has none of the forms that are known here"),
            (toml_value::<NonZeroUsize>("0"), "must be a whole number, but not 0, not the number 0"),
            (json::<u8>("300"), "must be a whole number from 0 to 255, not the number 300 (column 3)"),
            (json::<String>("null"), "must be text, not nothing (column 4)"),
            (json::<Pair>("{\"first\": 1, \"first\": 2}"), "`first` is there twice (column 20)"),
            (json::<Vec<u8>>("[1,"), "it ends in the middle of a value (column 3)"),
            (json::<Vec<u8>>("[1,\n2"), "it ends in the middle of a list (line 2, column 1)"),
            (json::<u8>("{"), "must be a whole number from 0 to 255, not a table of keys and values (column 0)"),
            (plain_words("judges differ"), "judges differ"),
        ] {
            assert_eq!(told, want);
        }
        let long = toml_value::<u64>(&format!("\"{}\"", "word ".repeat(100)));
        assert!(long.len() < 150 && long.ends_with("...\""), "{long}");
    }
}
