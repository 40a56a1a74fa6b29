//! The choice letter of a reply.

use std::sync::LazyLock;

use regex::Regex;

use super::answer::{behind_last_mark, unwrap};

/// The letter in the last `[[A]]`.
pub(super) fn bracketed_letter(text: &str) -> Option<String> {
    let letters = text.match_indices("[[").filter_map(|(at, _)| {
        let inside = text[at + 2..].split_once("]]")?.0.trim();
        let mut characters = inside.chars();
        let letter = characters.next().filter(char::is_ascii_alphabetic)?;
        characters.next().is_none().then(|| letter.to_ascii_uppercase().to_string())
    });
    letters.last()
}

/// The letter that the answer behind the last mark opens with; without a mark, the letter that the reply opens with, or that
/// is its last line.
pub(super) fn leading_letter(text: &str) -> Option<String> {
    if let Some(answer) = behind_last_mark(text) {
        return opening_letter(answer);
    }
    let last_line = || text.lines().rev().find(|line| !line.trim().is_empty()).and_then(lone_letter);
    opening_letter(text).or_else(last_line)
}

/// The letter that a text opens with as a choice. `A company`, `U.S. bonds`, `B-rated` and `I think` open with none, and
/// `A, B` and `A or B` name two.
fn opening_letter(text: &str) -> Option<String> {
    static OPENING: LazyLock<Regex> = LazyLock::new(|| {
        let wrapping = r#"[\s(\[{*_"'`$\u{201c}\u{2018}]"#;
        let command = r"\\(?:text|textbf|mathbf|mathrm|boxed)\{";
        let end = r#"$|[)\]}*_"'`$:;\u{201d}\u{2019}\n\r]|[.,!](?:\W|$)|\s+[-\u{2013}]\s|\s*[\u{2014}\n\r]|\s+(?:is|because|since)\b"#;
        Regex::new(&format!(
            r"^(?:{wrapping}|{command}|\\[(\[])*(?:(?i:(?:the )?(?:option|choice|letter|answer))[\s:]*)?(?:{wrapping}|{command})*([A-Z])(?:{end})"
        ))
        .expect("invariant: a valid constant pattern")
    });
    static SECOND: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#"^[\s)\]*"'`.]*(?:[,/&;]|and\b|or\b)[\s,(\[*]*(?:and |or )?[(\[*]*[A-Z](?:[.,;:!?)\]*]|\s*$|\s+(?:and|or|are)\b)"#)
            .expect("invariant: a valid constant pattern")
    });
    let Some(found) = OPENING.captures(text) else { return lone_letter(text.lines().next()?) };
    let letter = &found[1];
    let behind = &text[found.get(1)?.end()..];
    (!SECOND.is_match(behind)).then(|| letter.to_owned())
}

/// The letter, of either case, that is all of a line: `b`, `(b)`, `b)`, `**b.**`.
fn lone_letter(line: &str) -> Option<String> {
    let bare = unwrap(line).trim_matches(['(', ')', '[', ']', '{', '}', '.', ':', ' ', '*']);
    let mut characters = bare.chars();
    let letter = characters.next().filter(char::is_ascii_alphabetic)?;
    characters.next().is_none().then(|| letter.to_ascii_uppercase().to_string())
}
