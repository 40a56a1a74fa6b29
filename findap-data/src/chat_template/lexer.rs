//! A template's source as pieces: what is printed as it stands, and the tokens of tags.

use std::collections::HashSet;
use std::ops::Range;

/// A piece of a template's source; all pieces in their order are the source.
pub(super) enum Piece<'a> {
    /// Printed as it stands, but for the blanks that tags take.
    Output(&'a str),
    /// What stands between the delimiters of a tag.
    Tag { source: &'a str, tokens: Vec<Token> },
    /// A delimiter or a comment.
    Other(&'a str),
}

/// Cuts a template into its pieces.
pub(super) fn pieces(source: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = source;
    while let Some(open) = next_tag(rest) {
        pieces.push(Piece::Output(&rest[..open]));
        let delimiter = &rest[open..open + 2];
        rest = &rest[open..];
        if delimiter == "{#" {
            let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
            pieces.push(Piece::Other(&rest[..end]));
            rest = &rest[end..];
            continue;
        }
        pieces.push(Piece::Other(delimiter));
        rest = &rest[2..];
        let close = if delimiter == "{{" { "}}" } else { "%}" };
        let tokens = Token::all(rest, close);
        let end = tokens.last().map_or(0, |token| token.range.end);
        let first_word = tokens.iter().find(|token| token.kind == Kind::Word);
        let is_raw = delimiter == "{%" && first_word.is_some_and(|token| &rest[token.range.clone()] == "raw");
        pieces.push(Piece::Tag { source: &rest[..end], tokens });
        rest = &rest[end..];
        let end = rest.find(close).map_or(rest.len(), |at| at + close.len());
        pieces.push(Piece::Other(&rest[..end]));
        rest = &rest[end..];
        if is_raw {
            let end = rest.find("endraw").map_or(rest.len(), |end| rest[..end].rfind("{%").unwrap_or(end));
            pieces.push(Piece::Output(&rest[..end]));
            rest = &rest[end..];
        }
    }
    pieces.push(Piece::Output(rest));
    pieces
}

/// Where the next tag or comment begins.
fn next_tag(source: &str) -> Option<usize> {
    let mut braces = source.match_indices('{').map(|(at, _)| at);
    braces.find(|at| matches!(source.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')))
}

/// What a template may print of its own, and the names that it uses.
pub(crate) struct Vocabulary {
    /// Output and string literals.
    literals: Vec<String>,
    words: HashSet<String>,
}

impl Vocabulary {
    pub(crate) fn of(source: &str) -> Vocabulary {
        let mut vocabulary = Vocabulary { literals: Vec::new(), words: HashSet::new() };
        for piece in pieces(source) {
            match piece {
                Piece::Output(text) => vocabulary.literals.push(text.to_string()),
                Piece::Other(_) => {}
                Piece::Tag { source, tokens } => {
                    for token in tokens {
                        let text = source[token.range].to_string();
                        match token.kind {
                            Kind::Text => vocabulary.literals.push(text),
                            Kind::Word => _ = vocabulary.words.insert(text),
                            _ => {}
                        }
                    }
                }
            }
        }
        vocabulary
    }

    /// Whether a literal has this text in it.
    pub(crate) fn prints(&self, text: &str) -> bool {
        self.literals.iter().any(|literal| literal.contains(text))
    }

    /// Whether the template uses this name, as a variable, an attribute or a key.
    pub(crate) fn names(&self, name: &str) -> bool {
        let is_key = |literal: &String| literal.trim_matches(['\'', '"']) == name;
        self.words.contains(name) || self.literals.iter().any(is_key)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Word,
    Open,
    Close,
    /// `%` or `~`.
    Replaced,
    Operator,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

impl Token {
    /// The tokens of a tag up to the end of the tag, which is not among them.
    fn all(source: &str, close: &str) -> Vec<Token> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut depth = 0usize;
        let mut at = 0;
        while let Some(c) = source[at..].chars().next() {
            let rest = &source[at..];
            if depth == 0 && (rest.starts_with(close) || (rest.starts_with('-') && rest[1..].starts_with(close))) {
                break;
            }
            let (kind, len) = match c {
                c if c.is_whitespace() => {
                    at += c.len_utf8();
                    continue;
                }
                '\'' | '"' => (Kind::Text, string_len(rest)),
                c if c.is_alphanumeric() || c == '_' => {
                    let is_number = c.is_ascii_digit();
                    let is_part = |c: char| c.is_alphanumeric() || c == '_' || (is_number && c == '.');
                    (Kind::Word, rest.find(|c| !is_part(c)).unwrap_or(rest.len()))
                }
                '(' | '[' | '{' => {
                    depth += 1;
                    (Kind::Open, 1)
                }
                ')' | ']' | '}' => {
                    depth = depth.saturating_sub(1);
                    (Kind::Close, 1)
                }
                '%' | '~' => (Kind::Replaced, 1),
                _ if rest.starts_with("**") || rest.starts_with("//") => (Kind::Operator, 2),
                c => (Kind::Operator, c.len_utf8()),
            };
            tokens.push(Token { kind, range: at..at + len });
            at += len;
        }
        tokens
    }
}

/// Bytes of the string literal that `text` begins with.
fn string_len(text: &str) -> usize {
    let mut chars = text.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    let mut is_escaped = false;
    for (at, c) in chars {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if Some(c) == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}
