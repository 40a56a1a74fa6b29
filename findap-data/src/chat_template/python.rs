//! Python's strings: how values print, the methods that templates call, `%` and JSON.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::limits::{charge, charge_replacement, check_size, checked_width, limited};

/// Python's `str(value)`; what is undefined prints nothing.
pub(super) fn str_of(value: &Value) -> Result<String, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => {
            charge(text.len())?;
            Ok(text.to_string())
        }
        (ValueKind::Undefined, _) => Ok(String::new()),
        _ => repr(value),
    }
}

/// Python's `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    write_repr(value, 0, &mut text)?;
    Ok(text)
}

/// Appends Python's `repr(value)`.
fn write_repr(value: &Value, depth: usize, text: &mut String) -> Result<(), Error> {
    check_depth(depth)?;
    let from = text.len();
    match value.kind() {
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if value.is_integer() => text.push_str(&value.to_string()),
        // Only a float is left, which converts.
        ValueKind::Number => text.push_str(&number_text(f64::try_from(value.clone()).unwrap_or(f64::NAN))),
        // Python shows one or the other quote, whichever needs no escape.
        ValueKind::String => text.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Seq => {
            let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
            text.push(if is_tuple { '(' } else { '[' });
            for (index, item) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(&item, depth + 1, text)?;
            }
            text.push_str(match (is_tuple, value.len()) {
                (true, Some(1)) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
            return charge(2);
        }
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(&key, depth + 1, text)?;
                text.push_str(": ");
                write_repr(&value.get_item(&key)?, depth + 1, text)?;
            }
            text.push('}');
            return charge(2);
        }
        _ => text.push_str(&value.to_string()),
    }
    // Lists may hold each other many times, so that each piece counts.
    check_size(text.len())?;
    charge(text.len() - from + 2)
}

/// Refuses a value that is nested deeper than the stack is.
fn check_depth(depth: usize) -> Result<(), Error> {
    const MAX_DEPTH: usize = 100;
    match depth > MAX_DEPTH {
        true => Err(Error::new(ErrorKind::InvalidOperation, format!("a value is nested deeper than {MAX_DEPTH}"))),
        false => Ok(()),
    }
}

fn number_text(number: f64) -> String {
    let exponent = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    if number.is_nan() {
        "nan".to_string()
    } else if number.is_infinite() {
        if number > 0.0 { "inf" } else { "-inf" }.to_string()
    } else if (-4..16).contains(&exponent) {
        format!("{number:?}")
    } else {
        let text = format!("{number:e}");
        match text.split_once('e') {
            Some((digits, exponent)) => {
                let (sign, digits_of_exponent) = match exponent.strip_prefix('-') {
                    Some(rest) => ('-', rest),
                    None => ('+', exponent),
                };
                format!("{digits}e{sign}{digits_of_exponent:0>2}")
            }
            None => text,
        }
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// Python's `left % right`.
pub(super) fn percent(left: Value, right: Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        return format_percent(text, &right).map(Value::from);
    }
    let by_zero = || Error::new(ErrorKind::InvalidOperation, "modulo by zero");
    let no_number = || {
        let kinds = format!("cannot take {} % {}", left.kind(), right.kind());
        Error::new(ErrorKind::InvalidOperation, kinds)
    };
    if let (Some(a), Some(b)) = (left.as_i64(), right.as_i64()) {
        let remainder = a.checked_rem(b).ok_or_else(by_zero)?;
        let is_other_sign = remainder != 0 && (remainder < 0) != (b < 0);
        return Ok(Value::from(if is_other_sign { remainder + b } else { remainder }));
    }
    let float = |value: &Value| f64::try_from(value.clone()).map_err(|_| no_number());
    let (a, b) = (float(&left)?, float(&right)?);
    if b == 0.0 { Err(by_zero()) } else { Ok(Value::from(a - b * (a / b).floor())) }
}

fn format_percent(text: &str, right: &Value) -> Result<String, Error> {
    let args: Vec<Value> = match right.downcast_object_ref::<Tuple>() {
        Some(_) => right.try_iter()?.map(printable).collect::<Result<_, _>>()?,
        None if right.kind() == ValueKind::Map => vec![right.clone()],
        None => vec![printable(right.clone())?],
    };
    formatted(FormatStyle::Printf, text, &args)
}

/// Jinja2's `format`: `'%s' | format(value)`.
pub(super) fn format_filter(text: &str, arguments: &[Value]) -> Result<String, Error> {
    formatted(FormatStyle::Printf, text, &arguments.iter().cloned().map(printable).collect::<Result<Vec<_>, _>>()?)
}

fn printable(value: Value) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::Number | ValueKind::String | ValueKind::Map => value,
        _ => Value::from(str_of(&value)?),
    })
}

/// A formatted text, whose widths and precisions must be as small as real ones are.
fn formatted(style: FormatStyle, text: &str, args: &[Value]) -> Result<String, Error> {
    let sign = if matches!(style, FormatStyle::Printf) { '%' } else { '{' };
    let mut digits = text.split(|c: char| !c.is_ascii_digit());
    if digits.any(|digits| digits.len() > 3) && text.contains(sign) {
        return Err(Error::new(ErrorKind::InvalidOperation, "a number in a format has more than three digits"));
    }
    if sign == '%' && text.contains('*') && args.iter().any(|arg| arg.as_i64().is_some_and(|arg| arg.abs() > 999)) {
        return Err(Error::new(ErrorKind::InvalidOperation, "a width in a format has more than three digits"));
    }
    // Each argument may be printed as often as the format says.
    let args_bytes: usize = args.iter().filter_map(|arg| arg.as_str().map(str::len)).sum();
    charge(text.matches(sign).count().saturating_mul(args_bytes.saturating_add(1000)).saturating_add(text.len()))?;
    format(style, text, args)
}

/// Methods of Python's values that minijinja lacks or reads otherwise, before those of its own compatibility layer.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => string_method(text, name, args)?,
        None => None,
    };
    limited(match own {
        Some(result) => result,
        None => unknown_method_callback(state, value, name, args)?,
    })
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let none_given = || from_args::<()>(args);
    let side = |fill_left: bool| -> Result<Value, Error> {
        let (width, fill): (usize, Option<&str>) = from_args(args)?;
        padded(text, width, fill, if fill_left { 1.0 } else { 0.0 })
    };
    let result = match name {
        "replace" => {
            if let [from, to, ..] = args
                && let (Some(from), Some(to)) = (from.as_str(), to.as_str())
            {
                charge_replacement(text, from, to)?;
            }
            return Ok(None);
        }
        "format" => Value::from(formatted(FormatStyle::StrFormat, text, args)?),
        "split" => Value::from(split(text, args, false)?),
        "rsplit" => Value::from(split(text, args, true)?),
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let at = if name == "partition" { text.find(separator) } else { text.rfind(separator) };
            let parts = match at.filter(|_| !separator.is_empty()) {
                Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "removeprefix" | "removesuffix" => {
            let (end,): (&str,) = from_args(args)?;
            let rest = if name == "removeprefix" { text.strip_prefix(end) } else { text.strip_suffix(end) };
            Value::from(rest.unwrap_or(text))
        }
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let is_stripped = |c: char| chars.map_or_else(|| is_python_space(c), |chars| chars.contains(c));
            Value::from(match name {
                "strip" => text.trim_matches(is_stripped),
                "lstrip" => text.trim_start_matches(is_stripped),
                _ => text.trim_end_matches(is_stripped),
            })
        }
        "title" => {
            none_given()?;
            Value::from(title(text))
        }
        "swapcase" => {
            none_given()?;
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => {
            none_given()?;
            Value::from(text.to_lowercase().replace('\u{df}', "ss"))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if name == "index" { text.find(what) } else { text.rfind(what) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            let digits = padded(digits, width.saturating_sub(sign.len()), Some("0"), 1.0)?;
            Value::from(format!("{sign}{digits}"))
        }
        "rjust" => side(true)?,
        "ljust" => side(false)?,
        "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            padded(text, width, fill, 0.5)?
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Value::from(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut joined = String::new();
            for (index, value) in values.try_iter()?.enumerate() {
                if index > 0 {
                    joined.push_str(text);
                }
                let item = value.as_str().ok_or_else(|| {
                    let detail = format!("join wants strings, item {index} is a {}", value.kind());
                    Error::new(ErrorKind::InvalidOperation, detail)
                })?;
                charge(item.len().saturating_add(text.len()))?;
                joined.push_str(item);
                check_size(joined.len())?;
            }
            Value::from(joined)
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// What Python's `str.strip` and `str.split` take for a blank: Unicode's white space and four control characters.
pub(super) fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut is_in_word = false;
    for c in text.chars() {
        if is_in_word {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        is_in_word = c.is_alphabetic();
    }
    titled
}

/// A string of `width` characters, with this share of the missing ones on the left.
fn padded(text: &str, width: usize, fill: Option<&str>, left_share: f64) -> Result<Value, Error> {
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the fill must be one character"));
    }
    let width = checked_width(width)?;
    let missing = width.saturating_sub(text.chars().count());
    // Python puts the odd one on the left if the width is odd.
    let left = (missing as f64 * left_share) as usize + usize::from(left_share == 0.5 && missing & width & 1 == 1);
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<Value> {
    let is_break = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let is_pair = rest[at..].starts_with("\r\n");
        let len = if is_pair { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        lines.push(Value::from(if keep_ends { &rest[..at + len] } else { &rest[..at] }));
        rest = &rest[at + len..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}

/// Python's `split` and `rsplit`: `sep` and `maxsplit`, by place or by name.
fn split(text: &str, args: &[Value], is_from_right: bool) -> Result<Vec<Value>, Error> {
    let (separator, limit, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(options.get::<Option<Value>>("sep")?).filter(|separator| !separator.is_none());
    let limit = limit.or(options.get::<Option<i64>>("maxsplit")?).unwrap_or(-1);
    options.assert_all_used()?;
    // As many pieces as there may be; `usize::MAX` for no limit.
    let max_pieces = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    let pieces: Vec<&str> = match &separator {
        None => split_at_blanks(text, max_pieces, is_from_right),
        Some(separator) => {
            let separator = separator.as_str().filter(|separator| !separator.is_empty()).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "a separator must be a string that is not empty")
            })?;
            match is_from_right {
                false => text.splitn(max_pieces, separator).collect(),
                true => {
                    let mut pieces: Vec<&str> = text.rsplitn(max_pieces, separator).collect();
                    pieces.reverse();
                    pieces
                }
            }
        }
    };
    Ok(pieces.into_iter().map(Value::from).collect())
}

fn split_at_blanks(text: &str, max_pieces: usize, is_from_right: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    // The far side keeps its blanks where the last piece is all that is left.
    let mut rest = match is_from_right {
        false => text.trim_start_matches(is_python_space),
        true => text.trim_end_matches(is_python_space),
    };
    while !rest.is_empty() {
        if pieces.len() + 1 >= max_pieces {
            pieces.push(rest);
            break;
        }
        let (piece, others) = if is_from_right {
            match rest.rfind(is_python_space) {
                Some(at) => {
                    let blank = rest[at..].chars().next().map_or(0, char::len_utf8);
                    (&rest[at + blank..], rest[..at].trim_end_matches(is_python_space))
                }
                None => (rest, ""),
            }
        } else {
            match rest.find(is_python_space) {
                Some(at) => (&rest[..at], rest[at..].trim_start_matches(is_python_space)),
                None => (rest, ""),
            }
        };
        pieces.push(piece);
        rest = others;
    }
    if is_from_right {
        pieces.reverse();
    }
    pieces
}

/// Python's `json.dumps(value, ensure_ascii=.., indent=.., separators=.., sort_keys=..)` with the defaults of transformers.
pub(super) fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;
    let as_error = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::BadSerialization, "an undefined value is no JSON"));
    }
    check_json(&value, 0, &mut 0)?;
    let mut json = serde_json::to_value(&value).map_err(as_error)?;
    if sort_keys.unwrap_or(false) {
        json.sort_all_objects();
    }
    let indent = match indent {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match (value.as_str(), value.as_usize()) {
            (Some(text), _) if text.len() <= 16 => text.to_string(),
            (None, Some(width)) if width <= 16 => " ".repeat(width),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "indent must be a text or 0 to 16")),
        }),
    };
    let [between_items, after_key] = match separators.as_deref() {
        None => [if indent.is_some() { "," } else { ", " }, ": "].map(str::to_string),
        Some([items, keys]) => [items.clone(), keys.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two texts")),
    };
    let style = JsonStyle { indent, between_items, after_key, is_ascii: ensure_ascii.unwrap_or(false) };
    let mut text = String::new();
    style.write(&json, 0, &mut text);
    Ok(Value::from(text))
}

/// Refuses a value that is too deep or too large to be written: lists may hold each other many times.
fn check_json(value: &Value, depth: usize, json_bytes: &mut usize) -> Result<(), Error> {
    const MIN_BYTES: usize = 32;
    check_depth(depth)?;
    let bytes = value.as_str().map_or(0, str::len) + MIN_BYTES;
    charge(bytes)?;
    *json_bytes += bytes;
    check_size(*json_bytes)?;
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| check_json(&item, depth + 1, json_bytes))
        }
        ValueKind::Map => {
            value.try_iter()?.try_for_each(|key| check_json(&value.get_item(&key)?, depth + 1, json_bytes))
        }
        _ => Ok(()),
    }
}

/// How Python writes JSON.
struct JsonStyle {
    indent: Option<String>,
    between_items: String,
    after_key: String,
    is_ascii: bool,
}

impl JsonStyle {
    fn write(&self, value: &serde_json::Value, depth: usize, text: &mut String) {
        match value {
            serde_json::Value::Array(items) => {
                self.write_items(["[", "]"], items, depth, text, |item, text| self.write(item, depth + 1, text));
            }
            serde_json::Value::Object(pairs) => {
                self.write_items(["{", "}"], pairs, depth, text, |(key, value), text| {
                    self.write_string(key, text);
                    text.push_str(&self.after_key);
                    self.write(value, depth + 1, text);
                });
            }
            serde_json::Value::String(string) => self.write_string(string, text),
            serde_json::Value::Number(number) if number.is_f64() => {
                text.push_str(&number_text(number.as_f64().unwrap_or(f64::NAN)));
            }
            other => text.push_str(&other.to_string()),
        }
    }

    fn write_items<T>(
        &self,
        [open, close]: [&str; 2],
        items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
        depth: usize,
        text: &mut String,
        mut write: impl FnMut(T, &mut String),
    ) {
        text.push_str(open);
        let items = items.into_iter();
        let is_empty = items.len() == 0;
        for (index, item) in items.enumerate() {
            if index > 0 {
                text.push_str(&self.between_items);
            }
            self.new_line(depth + 1, text);
            write(item, text);
        }
        if !is_empty {
            self.new_line(depth, text);
        }
        text.push_str(close);
    }

    fn new_line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.push_str(&indent.repeat(depth));
        }
    }

    fn write_string(&self, string: &str, text: &mut String) {
        let escaped = serde_json::Value::from(string).to_string();
        if !self.is_ascii {
            text.push_str(&escaped);
            return;
        }
        for c in escaped.chars() {
            if c.is_ascii() && c != '\u{7f}' {
                text.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}
