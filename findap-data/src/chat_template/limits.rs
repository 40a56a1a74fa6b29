//! Bounds on what a template nests and on what it makes in memory.
//!
//! The engine bounds steps, depth and output. What one step makes may still be as large as a template likes (`s ~ s`, again and
//! again), so that everything that makes strings and lists first says how large they are.

use std::cell::Cell;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, Error, ErrorKind, State, filters};

use super::lexer::{Kind, Piece};

/// A string or list that a template makes may be this large beyond eight times the conversation.
const MAX_EXTRA_VALUE_BYTES: usize = 16 << 20;
/// All that one rendering makes may be this many times one value's limit.
const MAX_VALUES: usize = 32;
const MAX_WIDTH: usize = 10_000;
/// Brackets in brackets.
const MAX_NESTING: usize = 100;
/// Operators in a row, each of which the engine nests in the last.
const MAX_CHAIN: usize = 500;

#[derive(Clone, Copy)]
struct Budget {
    value_bytes: usize,
    all_bytes: usize,
}

thread_local! {
    /// What the rendering on this thread may still make.
    static BUDGET: Cell<Budget> = const { Cell::new(Budget { value_bytes: MAX_EXTRA_VALUE_BYTES, all_bytes: usize::MAX }) };
}

pub(super) const LIMIT_TEXT: &str = "template value limit";

/// Begins a rendering of this much text.
pub(super) fn begin(content_bytes: usize) {
    let value_bytes = content_bytes.saturating_mul(8).saturating_add(MAX_EXTRA_VALUE_BYTES);
    BUDGET.set(Budget { value_bytes, all_bytes: value_bytes.saturating_mul(MAX_VALUES) });
}

/// Takes the size of a value that is about to be made from what may be made.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    check_size(bytes)?;
    let Budget { value_bytes, all_bytes } = BUDGET.get();
    let all_bytes = all_bytes.checked_sub(bytes).ok_or_else(too_large)?;
    BUDGET.set(Budget { value_bytes, all_bytes });
    Ok(())
}

/// Refuses a value that is too large, however little is made besides.
pub(super) fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes > BUDGET.get().value_bytes { Err(too_large()) } else { Ok(()) }
}

fn too_large() -> Error {
    Error::new(ErrorKind::InvalidOperation, LIMIT_TEXT)
}

/// The value, if it may be that large. Numbers and the like cost nothing.
pub(super) fn limited(value: Value) -> Result<Value, Error> {
    let bytes = match value.as_str() {
        Some(text) => text.len(),
        None if value.as_object().is_some() => value.len().unwrap_or(0).saturating_mul(size_of::<Value>()),
        None => 0,
    };
    charge(bytes)?;
    Ok(value)
}

/// The size of a text in which one string is put for another.
pub(super) fn charge_replacement(text: &str, from: &str, to: &str) -> Result<(), Error> {
    let growth = to.len().saturating_sub(from.len());
    match growth {
        0 => charge(text.len()),
        _ => charge(text.matches(from).count().saturating_mul(growth).saturating_add(text.len())),
    }
}

/// A width that a template asks for.
pub(super) fn checked_width(width: usize) -> Result<usize, Error> {
    if width > MAX_WIDTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("a width of {width} is more than {MAX_WIDTH}")));
    }
    Ok(width)
}

/// Lets the engine's own filters say how large the strings and lists are that they make.
pub(super) fn limit_filters(environment: &mut Environment<'static>) {
    for (name, filter) in [
        ("upper", Value::from_function(filters::upper)),
        ("lower", Value::from_function(filters::lower)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("list", Value::from_function(filters::list)),
        ("sort", Value::from_function(filters::sort)),
        ("reverse", Value::from_function(filters::reverse)),
        ("items", Value::from_function(filters::items)),
        ("dictsort", Value::from_function(filters::dictsort)),
        ("unique", Value::from_function(filters::unique)),
        ("map", Value::from_function(filters::map)),
        ("select", Value::from_function(filters::select)),
        ("reject", Value::from_function(filters::reject)),
        ("chain", Value::from_function(filters::chain)),
        ("zip", Value::from_function(filters::zip)),
    ] {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<Value>| {
            limited(filter.call(state, &arguments)?)
        });
    }
    for (name, filter) in
        [("batch", Value::from_function(filters::batch)), ("slice", Value::from_function(filters::slice))]
    {
        environment.add_filter(name, move |state: &mut State, arguments: Rest<Value>| {
            // How many, or how long; the filter itself names an argument of another kind.
            checked_width(arguments.get(1).and_then(Value::as_usize).unwrap_or(0))?;
            limited(filter.call(state, &arguments)?)
        });
    }
}

/// Refuses what would nest deeper in the engine than its stack is: brackets, and operators in a row.
pub(super) fn check_nesting(pieces: &[Piece]) -> Result<(), String> {
    let mut num_elif = 0;
    for piece in pieces {
        let Piece::Tag { source, tokens } = piece else { continue };
        // Operators so far, for each open bracket.
        let mut chains = vec![0];
        for token in tokens {
            let text = &source[token.range.clone()];
            num_elif += usize::from(text == "elif");
            let chain = chains.last_mut().ok_or("it closes a bracket that is not open")?;
            match (token.kind, text) {
                (Kind::Operator, ",") => *chain = 0,
                (Kind::Operator | Kind::Replaced, _) => *chain += 1,
                (Kind::Word, "not" | "and" | "or" | "if" | "else" | "is" | "in") => *chain += 1,
                (Kind::Open, _) => {
                    *chain += 1;
                    chains.push(0);
                }
                (Kind::Close, _) => _ = chains.pop(),
                _ => {}
            }
            if chains.len() > MAX_NESTING {
                return Err(format!("more than {MAX_NESTING} brackets are open at once"));
            }
            if chains.last().is_some_and(|&chain| chain > MAX_CHAIN) || num_elif > MAX_CHAIN {
                return Err(format!("more than {MAX_CHAIN} operators follow each other"));
            }
        }
    }
    Ok(())
}
