//! Operators that minijinja reads otherwise than Jinja2: `%` of a string formats, and `~` prints its sides as Python does.
//!
//! Neither can be overloaded, so the source is changed before it is compiled: `a % b` becomes `a|python_percent(b)` and `a ~ b`
//! becomes `a|python_str ~ b|python_str`, on the same line. The sides of `+` and `*`, which may make long strings and lists, pass a
//! filter that looks at their size. Where an operand cannot be told for certain the operator stays.

use super::lexer::{Kind, Piece, Token, pieces};

/// The template with these operators replaced by filters.
pub(super) fn as_minijinja_reads_it(source: &str) -> String {
    let mut rewritten = String::with_capacity(source.len());
    for piece in pieces(source) {
        match piece {
            Piece::Output(text) | Piece::Other(text) => rewritten.push_str(text),
            Piece::Tag { source, tokens } => rewritten.push_str(&expression(source, &tokens)),
        }
    }
    rewritten
}

/// One tag's expression with its operators replaced.
fn expression(source: &str, tokens: &[Token]) -> String {
    // What is put in place of the bytes from one place to another, which may be none.
    let mut edits: Vec<(usize, usize, &str)> = Vec::new();
    let text = |token: &Token| &source[token.range.clone()];
    for (index, token) in tokens.iter().enumerate() {
        let is_growing = matches!(text(token), "+" | "*") && token.kind == Kind::Operator;
        if is_growing {
            let is_operand = |token: &Token| match token.kind {
                Kind::Word => !KEYWORDS.contains(&text(token)),
                kind => matches!(kind, Kind::Text | Kind::Close),
            };
            if let Some(left) = index.checked_sub(1).map(|left| &tokens[left]).filter(|left| is_operand(left)) {
                edits.push((left.range.end, left.range.end, "|limited"));
                if let Some(right) = operand_behind(source, tokens, index) {
                    edits.push((tokens[right].range.end, tokens[right].range.end, "|limited"));
                }
            }
            continue;
        }
        if token.kind != Kind::Replaced {
            continue;
        }
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
                edits.push((token.range.start, token.range.end, "|python_percent("));
                edits.push((right_end, right_end, ")"));
            }
        } else {
            if !is_behind_product {
                edits.push((left_end, left_end, "|python_str"));
            }
            let next = tokens.get(right + 1);
            if !is_product(next) && next.is_none_or(|next| text(next) != "~") {
                edits.push((right_end, right_end, "|python_str"));
            }
        }
    }
    edits.sort_by_key(|(from, ..)| *from);
    let mut rewritten = String::with_capacity(source.len() + 16 * edits.len());
    let mut end = 0;
    for (from, to, text) in edits {
        rewritten.push_str(&source[end..from]);
        rewritten.push_str(text);
        end = to;
    }
    rewritten.push_str(&source[end..]);
    rewritten
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
            // A test, such as `x is divisibleby(3) ~ y`.
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
