//! The environment in which transformers renders chat templates, in minijinja.
//!
//! transformers uses Jinja2 with `trim_blocks`, `lstrip_blocks` and loop controls, and with `raise_exception`, `strftime_now` and a
//! `tojson` of its own; values print as Python prints them. What minijinja does otherwise is put right here.

use std::fmt;
use std::io;

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use super::generation::{add_filter, with_filter_blocks};
use super::lexer::pieces;
use super::limits::{charge, charge_replacement, check_nesting, check_size, checked_width, limit_filters, limited};
use super::python::{format_filter, is_python_space, method, percent, repr, str_of, tojson};
use super::rewrite::as_minijinja_reads_it;

const MAX_DEPTH: usize = 100;
/// Steps that one rendering may take; a message costs about fifty.
const FUEL: u64 = 20_000_000;

/// The environment with one template in it.
pub(super) fn environment(name: &'static str, source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        minijinja::syntax::SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("invariant: the default delimiters are valid"),
    );
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("string", |value: Value| str_of(&value));
    environment.add_filter("join", join);
    environment.add_filter("trim", trim);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", |value: Value| is_iterable(value.clone()) && value.len().is_some());
    environment.add_test("callable", |value: Value| value.as_object().is_some() && !is_iterable(value));
    environment.add_filter("python_str", |value: Value| str_of(&value));
    environment.add_filter("python_percent", percent);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    limit_filters(&mut environment);
    environment.add_filter("limited", limited);
    environment.add_filter("pprint", |value: Value| repr(&value));
    environment.add_filter("replace", replace);
    environment.add_filter("indent", indent);
    environment.add_filter("format", |text: &str, arguments: Rest<Value>| format_filter(text, &arguments));
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    add_filter(&mut environment);
    let source = with_filter_blocks(source);
    check_nesting(&pieces(&source)).map_err(|detail| Error::new(ErrorKind::SyntaxError, detail))?;
    environment.add_template_owned(name, as_minijinja_reads_it(&source))?;
    Ok(environment)
}

fn print(output: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    // What a block or a macro prints is kept, so that it counts here.
    output.write_str(&str_of(value)?).map_err(|_| Error::new(ErrorKind::WriteFailure, "output"))
}

/// Python's `len`; what is undefined is empty, `none` and numbers have no length.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("a {} has no length", value.kind())))
}

/// What Python iterates over; minijinja counts `none` in.
fn is_iterable(value: Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn trim(value: Value, chars: Option<String>) -> Result<String, Error> {
    let is_trimmed = |c: char| chars.as_ref().map_or_else(|| is_python_space(c), |chars| chars.contains(c));
    Ok(str_of(&value)?.trim_matches(is_trimmed).to_string())
}

fn replace(value: Value, from: &str, to: &str, count: Option<i64>) -> Result<String, Error> {
    let text = str_of(&value)?;
    charge_replacement(&text, from, to)?;
    Ok(match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(from, to, count),
        None => text.replace(from, to),
    })
}

/// Jinja2's `indent`, which keeps a last newline.
fn indent(
    value: Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = width.or(options.get("width")?);
    let is_first = first.or(options.get("first")?).unwrap_or(false);
    let is_blank = blank.or(options.get("blank")?).unwrap_or(false);
    options.assert_all_used()?;
    let margin = match &width {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(margin), _) => margin.to_string(),
            (None, Some(width)) => " ".repeat(checked_width(width)?),
            (None, None) => {
                let detail = format!("a width is a number or a text, not a {}", width.kind());
                return Err(Error::new(ErrorKind::InvalidOperation, detail));
            }
        },
    };
    let text = str_of(&value)?;
    charge(text.matches('\n').count().saturating_add(1).saturating_mul(margin.len()).saturating_add(text.len()))?;
    let mut indented = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            indented.push('\n');
        }
        let is_indented = if index == 0 { is_first } else { is_blank || !line.is_empty() };
        if is_indented {
            indented.push_str(&margin);
        }
        indented.push_str(line);
    }
    Ok(indented)
}

/// Jinja2's `escape`, with the references of its markupsafe.
fn escape(value: Value) -> Result<String, Error> {
    let text = str_of(&value)?;
    charge(text.len().saturating_mul(2))?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Ok(escaped)
}

fn join(values: &Value, separator: Option<&Value>, options: Kwargs) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => str_of(separator)?,
        None => options.get::<Option<String>>("d")?.unwrap_or_default(),
    };
    let attribute: Option<String> = options.get("attribute")?;
    options.assert_all_used()?;
    let mut joined = String::new();
    for (index, value) in values.try_iter()?.enumerate() {
        if index > 0 {
            joined.push_str(&separator);
        }
        let value = match &attribute {
            Some(attribute) => value.get_attr(attribute)?,
            None => value,
        };
        let text = str_of(&value)?;
        charge(text.len().saturating_add(separator.len()))?;
        joined.push_str(&text);
        check_size(joined.len())?;
    }
    Ok(joined)
}

pub(super) fn message_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Output that ends in an error beyond a limit.
pub(super) struct LimitedOutput {
    pub(super) bytes: Vec<u8>,
    pub(super) limit_bytes: usize,
}

#[derive(Debug)]
pub(super) struct OutputLimit;

impl OutputLimit {
    pub(super) const TEXT: &'static str = "template output limit";
}

impl fmt::Display for OutputLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::TEXT)
    }
}

impl std::error::Error for OutputLimit {}

impl io::Write for LimitedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.limit_bytes {
            return Err(io::Error::other(OutputLimit));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// C's `strftime`, in UTC. A format with an unknown directive is printed as it is.
pub(super) fn strftime(seconds: u64, format: &str) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let mut text = String::new();
    match time.map(|time| fmt::Write::write_fmt(&mut text, format_args!("{}", time.format(format)))) {
        Some(Ok(())) => text,
        _ => format.to_owned(),
    }
}
