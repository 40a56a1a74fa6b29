//! The choice letter of a reply.

use std::sync::LazyLock;

use regex::Regex;

use super::answer::{Marked, first_line, last_line, marked_answers, strip_wrapping};

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

/// The letter that the answer behind the last mark opens with; without a mark, or where marks of prose name none, the letter
/// that the reply opens with behind what it says about others (`A is wrong.`), or that is its last line.
pub(super) fn leading_letter(text: &str) -> Option<String> {
    let behind = |answers: &[String]| answers.iter().find_map(|answer| opening_letter(answer));
    match marked_answers(text) {
        Marked::Strong(answers) => behind(&answers),
        Marked::Weak(answers) => behind(&answers).or_else(|| unmarked_letter(text)),
        Marked::None => unmarked_letter(text),
    }
}

fn unmarked_letter(text: &str) -> Option<String> {
    // A sentence about a letter: `Option A is ...`, `A: wrong`.
    static ABOUT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)^\W*(?i:(?:option|choice|answer)\s+)?[(\[*]*[A-Z][)\]*.]*
            (?:\s+(?i:is|was|would\ be|isn't|wasn't|cannot|can't)\b | [:\s-]+(?i:wrong|incorrect|false|not)\b)
            .*?(?:[.!?](?:\s|$)|\n|$)",
        )
        .expect("invariant: a valid constant pattern")
    });
    static AFFIRMING: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?ix)^\W*(?:(?:option|choice|answer)\s+)?[a-z]\W*\s(?:is|was|would\ be)
            (?:\s+(?:the\s+)?(?:correct|right|best|true|answer)\b|\W*$)",
        )
        .expect("invariant: a valid constant pattern")
    });
    let mut kept = text;
    while let Some(about) = ABOUT.find(kept).filter(|about| !AFFIRMING.is_match(about.as_str())) {
        kept = &kept[about.end()..];
    }
    opening_letter(kept).or_else(|| lone_letter(last_line(kept)?))
}

/// The letter that a text opens with as a choice. `A company`, `U.S. bonds`, `B-rated` and `I think` open with none, and
/// `A, B` and `A or B` name two.
fn opening_letter(text: &str) -> Option<String> {
    static OPENING: LazyLock<Regex> = LazyLock::new(|| {
        let wrapping = r#"[\s(\[{*_"'`$\u{201c}\u{2018}]"#;
        let command = r"\\(?:text|textbf|mathbf|mathrm|boxed)\{";
        Regex::new(&format!(
            r#"(?x)^
            (?:{wrapping}|{command}|\\[(\[])*
            # Option B, the answer is B
            (?:(?i:(?:the\ )?(?:option|choice|letter|answer)(?:\ is)?)[\s:]*)?
            (?:{wrapping}|{command})*
            (?:
                # A capital, and what ends it: the text, a bracket, a full stop or a word that no noun is.
                (?P<capital>[A-Z])
                (?:$|[)\]}}*_"'`$:;\u{{201d}}\u{{2019}}\n\r]|[.,!](?:\W|$)|\s+[-\u{{2013}}]\s|\s*[\u{{2014}}\n\r]
                  |\s+[(\[]|\s+(?:is|because|since)\b)
            |
                # A small letter needs its bracket: `b) cash`.
                (?P<small>[a-z])\)
            )"#
        ))
        .expect("invariant: a valid constant pattern")
    });
    static SECOND: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"(?x)^[\s)\]*"'`.]*
            # What joins two letters,
            (?:[,/&;]|and\b|or\b)[\s,(\[*]*(?:and\ |or\ )?
            # and the second one.
            [(\[*]*(?:[A-Z](?:[.,;:!?)\]*]|\s*$|\s+(?:and|or|are)\b)|[a-z]\))"#,
        )
        .expect("invariant: a valid constant pattern")
    });
    let Some(found) = OPENING.captures(text) else { return lone_letter(first_line(text)?) };
    let letter = found.name("capital").or(found.name("small"))?;
    (!SECOND.is_match(&text[letter.end()..])).then(|| letter.as_str().to_ascii_uppercase())
}

/// The letter, of either case, that is all of a line: `b`, `(b)`, `b)`, `**b.**`.
fn lone_letter(line: &str) -> Option<String> {
    let bare = strip_wrapping(line).trim_matches(['(', ')', '[', ']', '{', '}', '.', ':', ' ', '*']);
    let mut characters = bare.chars();
    let letter = characters.next().filter(char::is_ascii_alphabetic)?;
    characters.next().is_none().then(|| letter.to_ascii_uppercase().to_string())
}
