//! JSON as language models write it.
//!
//! Beyond the standard, texts may hold line breaks and tabs as they are, a backslash that begins no escape stands for itself, as in
//! the LaTeX of `\(\frac{1}{2}\)`, and a comma may stand before a closing bracket. Nothing else is repaired: what would have to be
//! guessed is no JSON.

/// How deep arrays and objects may lie in each other.
const MAX_DEPTH: usize = 32;

/// A value. An object keeps its members in their order, those that come twice included.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// As it is written.
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Why there is no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoObject {
    /// The brace belongs to something else, such as a formula.
    Unrelated,
    /// An object begins, but is cut off or damaged.
    Broken,
}

/// Reads the object that `text` begins with; the number is that of its bytes.
pub(super) fn object_at(text: &str) -> Result<(Json, usize), NoObject> {
    let mut reader = Reader { rest: text };
    if let Some(object) = reader.object(MAX_DEPTH) {
        return Ok((object, text.len() - reader.rest.len()));
    }
    let mut reader = Reader { rest: text };
    let begins = reader.take('{') && (reader.is_at_end() || reader.begins_member());
    Err(if begins { NoObject::Broken } else { NoObject::Unrelated })
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Takes `wanted`, and the white space before it.
    fn take(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn is_at_end(&self) -> bool {
        self.rest.trim_start().is_empty()
    }

    /// Whether a key with its colon follows, or a key that the end of the text cuts off.
    fn begins_member(&mut self) -> bool {
        let is_quoted = self.rest.trim_start().starts_with('"');
        is_quoted && self.text().is_none_or(|_| self.is_at_end() || self.take(':'))
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        match self.rest.trim_start().chars().next()? {
            '{' => self.object(depth),
            '[' => self.array(depth),
            '"' => self.text().map(Json::Text),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        if !self.take('{') {
            return None;
        }
        let mut members = Vec::new();
        while !self.take('}') {
            let key = self.text()?;
            if !self.take(':') {
                return None;
            }
            members.push((key, self.value(depth)?));
            if !self.take(',') {
                return self.take('}').then_some(Json::Object(members));
            }
        }
        Some(Json::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Json> {
        let depth = depth.checked_sub(1)?;
        if !self.take('[') {
            return None;
        }
        let mut values = Vec::new();
        while !self.take(']') {
            values.push(self.value(depth)?);
            if !self.take(',') {
                return self.take(']').then_some(Json::Array(values));
            }
        }
        Some(Json::Array(values))
    }

    fn word(&mut self) -> Option<Json> {
        let text = self.rest.trim_start();
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let value = match word {
            "null" => Json::Null,
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            number => number.parse::<f64>().ok().filter(|x| x.is_finite()).map(|_| Json::Number(number.to_owned()))?,
        };
        self.rest = rest;
        Some(value)
    }

    fn text(&mut self) -> Option<String> {
        let mut rest = self.rest.trim_start().strip_prefix('"')?;
        let mut text = String::new();
        loop {
            let special = rest.find(['"', '\\'])?;
            text.push_str(&rest[..special]);
            let (mark, after) = rest[special..].split_at(1);
            if mark == "\"" {
                self.rest = after;
                return Some(text);
            }
            rest = unescape(after, &mut text);
        }
    }
}

/// Adds what an escape stands for, given what follows its backslash; gives what follows the escape.
fn unescape<'a>(after: &'a str, text: &mut String) -> &'a str {
    /// LaTeX commands that begin with the letter of an escape which judges do mean, but for those whose rest is a word, as in a line
    /// that begins with `eg`. `\b` and `\f` are never meant: nobody writes a backspace or a form feed, but everybody `\beta` and
    /// `\frac`.
    const COMMANDS: [&str; 34] = [
        "nabla",
        "natural",
        "neq",
        "newline",
        "nexists",
        "nleq",
        "ngeq",
        "nonumber",
        "notag",
        "notin",
        "rangle",
        "rbrace",
        "rceil",
        "rfloor",
        "rho",
        "right",
        "rightarrow",
        "rm",
        "tanh",
        "tau",
        "tbinom",
        "text",
        "textbf",
        "textit",
        "textrm",
        "texttt",
        "tfrac",
        "therefore",
        "theta",
        "thickapprox",
        "tilde",
        "times",
        "top",
        "triangle",
    ];
    let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
    let is_command = COMMANDS.contains(&&after[..letters]);
    let meant = match after.chars().next() {
        Some(c @ ('"' | '\\' | '/')) => Some((c, 1)),
        Some('n') if !is_command => Some(('\n', 1)),
        Some('r') if !is_command => Some(('\r', 1)),
        Some('t') if !is_command => Some(('\t', 1)),
        Some('u') => code_point(&after[1..]).map(|(c, len)| (c, 1 + len)),
        _ => None,
    };
    let (c, len) = meant.unwrap_or(('\\', 0));
    text.push(c);
    &after[len..]
}

/// The character of four hexadecimal digits, or of two such escapes that make one; half a pair is U+FFFD.
fn code_point(digits: &str) -> Option<(char, usize)> {
    let unit = |text: &str| {
        let digits = text.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(digits)?;
    if let Some(second) = digits[4..].strip_prefix("\\u").and_then(unit)
        && let Some(Ok(c)) = char::decode_utf16([first, second]).next()
        && c.len_utf16() == 2
    {
        return Some((c, 10));
    }
    Some((char::from_u32(u32::from(first)).unwrap_or(char::REPLACEMENT_CHARACTER), 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        match object_at(json).map(|(object, _)| object) {
            Ok(Json::Object(members)) => match &members[0].1 {
                Json::Text(text) => text.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn what_is_valid_json_is_read_as_serde_reads_it() {
        for json in [
            r#"{"a": "b", "c": [1, -2.5e3, true, false, null, [], {}], "d": {"e": {"f": "g"}}}"#,
            r#"{"a": "quote \" slash \/ backslash \\ line\nbreak tab\t \u00e9 \ud83d\ude00 \\frac \\(x\\)"}"#,
            "{ }",
        ] {
            let tail = " and more } text";
            let (object, len) = object_at(&format!("{json}{tail}")).unwrap();
            assert_eq!(len, json.len(), "{json}");
            fn of(value: &serde_json::Value) -> Json {
                match value {
                    serde_json::Value::Null => Json::Null,
                    serde_json::Value::Bool(value) => Json::Bool(*value),
                    serde_json::Value::Number(number) => Json::Number(number.to_string()),
                    serde_json::Value::String(text) => Json::Text(text.clone()),
                    serde_json::Value::Array(values) => Json::Array(values.iter().map(of).collect()),
                    serde_json::Value::Object(members) => {
                        Json::Object(members.iter().map(|(key, value)| (key.clone(), of(value))).collect())
                    }
                }
            }
            let wanted = of(&serde_json::from_str(&json.replace("-2.5e3", "-2500")).unwrap());
            assert_eq!(object_at(&json.replace("-2.5e3", "-2500")).unwrap().0, wanted, "{object:?}");
        }
    }

    #[test]
    fn raw_line_breaks_latex_and_trailing_commas_are_read() {
        for (json, wanted) in [
            ("{\"a\": \"two\nlines\tand\r\nmore\"}", "two\nlines\tand\r\nmore"),
            (r#"{"a": "\frac{1}{2} \(x\) \[y\] \$5 \% \beta \{z\}"}"#, r"\frac{1}{2} \(x\) \[y\] \$5 \% \beta \{z\}"),
            (r#"{"a": "3 \times 4 \neq \text{coupon} \rho \theta"}"#, r"3 \times 4 \neq \text{coupon} \rho \theta"),
            (r#"{"a": "so\nthe next\tone\r\n"}"#, "so\nthe next\tone\r\n"),
            (r#"{"a": "\upsilon \u12 \ud800 \u0041"}"#, "\\upsilon \\u12 \u{fffd} A"),
            (r#"{"a": "b",}"#, "b"),
            (r#"{"a": "b", "c": [1, 2,], }"#, "b"),
        ] {
            assert_eq!(text(json), wanted, "{json}");
        }
    }

    #[test]
    fn a_cut_object_is_told_from_a_formula() {
        for cut in [
            "{",
            "{ \"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\": \"b",
            "{\"a\": 1",
            "{\"a\": 1,",
            "{\"a\": maybe}",
            "{\"a\": 1 \"b\": 2}",
        ] {
            assert_eq!(object_at(cut), Err(NoObject::Broken), "{cut}");
        }
        for formula in ["{x}", "{1, 2}", "{\"x\"}", "{'a': 1}", "x", "", "{{\"a\": 1}"] {
            assert_eq!(object_at(formula), Err(NoObject::Unrelated), "{formula}");
        }
        assert_eq!(object_at(&"{\"a\":".repeat(1_000_000)), Err(NoObject::Broken));
    }
}
