//! Operators that minijinja reads otherwise than Jinja2: `%` of a string formats, and `~` prints its sides as Python does.
//!
//! Neither can be overloaded, so the source is changed before it is compiled: `a % b` becomes `a|python_percent(b)` and `a ~ b`
//! becomes `a|python_str ~ b|python_str`, on the same line. Where an operand cannot be told for certain the operator stays.

use std::ops::Range;

/// The template with these operators replaced by filters.
pub(super) fn as_minijinja_reads_it(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        let kind = &rest[open..open + 2];
        rewritten.push_str(&rest[..open + 2]);
        rest = &rest[open + 2..];
        if kind == "{#" {
            let end = rest.find("#}").unwrap_or(rest.len());
            rewritten.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let close = if kind == "{{" { "}}" } else { "%}" };
        let tokens = Token::all(rest, close);
        let end = tokens.last().map_or(0, |token| token.range.end);
        rewritten.push_str(&expression(&rest[..end], &tokens));
        let is_raw = kind == "{%"
            && tokens
                .iter()
                .find(|token| token.kind == Kind::Word)
                .is_some_and(|token| &rest[token.range.clone()] == "raw");
        rest = &rest[end..];
        if is_raw {
            let end = rest.find("endraw").unwrap_or(rest.len());
            rewritten.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    rewritten.push_str(rest);
    rewritten
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Word,
    Open,
    Close,
    /// `%` or `~`.
    Replaced,
    Operator,
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

impl Token {
    /// The tokens up to the end of the tag, which is not among them.
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

/// One tag's expression with its operators replaced.
fn expression(source: &str, tokens: &[Token]) -> String {
    let mut insertions: Vec<(usize, &str)> = Vec::new();
    let mut removed: Vec<Range<usize>> = Vec::new();
    let text = |token: &Token| &source[token.range.clone()];
    for (index, token) in tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Replaced) {
        let (Some(left), Some(right)) = (operand_before(source, tokens, index), operand_behind(source, tokens, index))
        else {
            continue;
        };
        let is_product =
            |token: Option<&Token>| token.is_some_and(|token| ["*", "/", "//", "**", "%"].contains(&text(token)));
        let is_behind_product = is_product(left.checked_sub(1).and_then(|before| tokens.get(before)));
        let (left_end, right_end) = (tokens[index - 1].range.end, tokens[right].range.end);
        if text(token) == "%" {
            if !is_behind_product {
                insertions.push((token.range.start, "|python_percent("));
                insertions.push((right_end, ")"));
                removed.push(token.range.clone());
            }
        } else {
            if !is_behind_product {
                insertions.push((left_end, "|python_str"));
            }
            let next = tokens.get(right + 1);
            if !is_product(next) && next.is_none_or(|next| text(next) != "~") {
                insertions.push((right_end, "|python_str"));
            }
        }
    }
    insertions.sort_by_key(|(at, _)| *at);
    let mut rewritten = String::with_capacity(source.len() + 16 * insertions.len());
    let mut from = 0;
    for (at, text) in insertions {
        push_without(&mut rewritten, source, from..at, &removed);
        rewritten.push_str(text);
        from = at;
    }
    push_without(&mut rewritten, source, from..source.len(), &removed);
    rewritten
}

fn push_without(rewritten: &mut String, source: &str, range: Range<usize>, removed: &[Range<usize>]) {
    let kept = source[range.clone()]
        .char_indices()
        .filter(|(at, _)| !removed.iter().any(|gap| gap.contains(&(range.start + at))));
    rewritten.extend(kept.map(|(_, c)| c));
}

/// Words after which an operand begins anew.
const KEYWORDS: [&str; 15] = [
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "set",
    "print",
    "for",
    "call",
    "filter",
    "recursive",
    "return",
];

/// Index of the first token of the operand that ends before `index`: a value with its attributes, calls and filters.
fn operand_before(source: &str, tokens: &[Token], index: usize) -> Option<usize> {
    let text = |at: usize| &source[tokens[at].range.clone()];
    let mut at = index;
    loop {
        at = at.checked_sub(1)?;
        match tokens[at].kind {
            Kind::Close => {
                let mut depth = 1;
                while depth > 0 {
                    at = at.checked_sub(1)?;
                    match tokens[at].kind {
                        Kind::Close => depth += 1,
                        Kind::Open => depth -= 1,
                        _ => {}
                    }
                }
                // A call or an index belongs to what stands before it.
                let is_postfix = text(at) != "{"
                    && at.checked_sub(1).is_some_and(|before| match tokens[before].kind {
                        Kind::Word => !KEYWORDS.contains(&text(before)),
                        Kind::Text | Kind::Close => true,
                        _ => false,
                    });
                if is_postfix {
                    continue;
                }
            }
            Kind::Word if KEYWORDS.contains(&text(at)) => return None,
            Kind::Word | Kind::Text => {}
            _ => return None,
        }
        match at.checked_sub(1).map(text) {
            Some("." | "|") => at -= 1,
            // A test such as `x is divisibleby(3) ~ y`, and strings side by side.
            Some("is") => return None,
            _ => return Some(at),
        }
    }
}

/// Index of the last token of the operand that begins behind `index`.
fn operand_behind(source: &str, tokens: &[Token], index: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|token| &source[token.range.clone()]);
    let mut at = index + 1;
    if matches!(text(at), Some("-" | "+")) {
        at += 1;
    }
    match tokens.get(at)?.kind {
        Kind::Open => at = closing(tokens, at)?,
        Kind::Text => {}
        Kind::Word if !KEYWORDS.contains(&text(at)?) => {}
        _ => return None,
    }
    loop {
        match text(at + 1) {
            Some("(" | "[") => at = closing(tokens, at + 1)?,
            Some("." | "|") => at += 2,
            _ => break,
        }
        tokens.get(at)?;
    }
    Some(at)
}

fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}
