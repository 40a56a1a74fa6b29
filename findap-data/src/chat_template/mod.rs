//! Chat templates: a conversation to the exact text and ids that transformers makes of it, and the loss mask.
//!
//! Templates come from model folders, so they are not trusted: they run in minijinja, which reaches no code and no files, with a
//! limit on source, steps, depth and output. The environment is that of transformers: `trim_blocks`, `lstrip_blocks`, Python's
//! string methods, `raise_exception`, `strftime_now`, `tojson(indent=..)`, loop controls.
//!
//! The loss mask covers, in each assistant turn, its content and the end-of-turn token behind it. The turn is found by rendering
//! the conversation a second time with marks around its content; where a template changes the content, by rendering the
//! messages before it with the generation prompt.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::batch::TokenizedRow;
use crate::error::{DataError, TemplateProblem};
use crate::files::hex;
use crate::message::{Message, Role};
use crate::tokenizer::{Configs, Tokenizer, read_limited};

const MAX_SOURCE_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 100;
/// Steps that one rendering may take; a message costs about fifty.
const FUEL: u64 = 20_000_000;
/// Output may be this large beyond eight times the conversation.
const MAX_EXTRA_OUTPUT_BYTES: usize = 4 << 20;

/// A compiled chat template. Cheap to share between threads by reference.
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    special_tokens: BTreeMap<&'static str, String>,
    is_content_trusted: bool,
    /// SHA-256 over the template and its special tokens, in hex.
    digest: String,
    /// What `strftime_now` tells, in seconds since 1970; `None` where the template does not ask.
    time_seconds: Option<u64>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Loads the template of a model folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json` (a string, or a
    /// list of `{name, template}` of which `default` is taken).
    ///
    /// # Errors
    /// [`DataError::Template`] if there is none or it does not compile; [`DataError::Tokenizer`] for a damaged config.
    pub fn load(folder: &Path) -> Result<ChatTemplate, DataError> {
        let configs = Configs::read(Some(folder))?;
        let special_tokens = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .filter_map(|field| Some((field, configs.token(field)?.to_string())))
            .collect();

        let separate = folder.join("chat_template.jinja");
        if let Some(bytes) = read_limited(&separate)? {
            let source = String::from_utf8_lossy(&bytes).into_owned();
            return Self::compile(&separate, &source, special_tokens);
        }
        let config_path = folder.join("tokenizer_config.json");
        let source = read_limited(&config_path)?
            .and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok())
            .and_then(|config| template_in_config(config.get("chat_template")?))
            .ok_or_else(|| DataError::Template { path: folder.to_path_buf(), problem: TemplateProblem::Missing })?;
        Self::compile(&config_path, &source, special_tokens)
    }

    /// As [`ChatTemplate::load`]; `None` for a folder without a template. One that does not compile is an error all the same.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn find(folder: &Path) -> Result<Option<ChatTemplate>, DataError> {
        match Self::load(folder) {
            Err(DataError::Template { problem: TemplateProblem::Missing, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// Compiles a template given as text. `special_tokens` are its variables: `bos_token`, `eos_token`, ...
    ///
    /// # Errors
    /// [`DataError::Template`] if it is longer than 1 MiB or does not compile.
    pub fn compile(
        path: &Path,
        source: &str,
        special_tokens: BTreeMap<&'static str, String>,
    ) -> Result<ChatTemplate, DataError> {
        let fail = |problem| DataError::Template { path: path.to_path_buf(), problem };
        if source.len() > MAX_SOURCE_BYTES {
            return Err(fail(TemplateProblem::TooLarge { bytes: source.len(), limit_bytes: MAX_SOURCE_BYTES }));
        }
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
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(|error| {
            fail(TemplateProblem::Syntax { line: error.line().unwrap_or(0), detail: message_of(&error) })
        })?;

        let mut hasher = Sha256::new();
        hasher.update(source);
        for (field, token) in &special_tokens {
            hasher.update(format!("\0{field}\0{token}"));
        }
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let template = ChatTemplate {
            path: path.to_path_buf(),
            environment,
            special_tokens,
            is_content_trusted: false,
            digest: hex(&hasher.finalize()),
            time_seconds: source.contains("strftime_now").then_some(now_seconds),
        };
        Ok(template.with_time(now_seconds))
    }

    /// Lets the template tell this time, in seconds since 1970, instead of that of loading: what goes on for days must not change with
    /// the date.
    #[must_use]
    pub fn with_time(mut self, now_seconds: u64) -> ChatTemplate {
        self.time_seconds = self.time_seconds.map(|_| now_seconds);
        self.environment.add_function("strftime_now", move |format: String| strftime(now_seconds, &format));
        self
    }

    /// Lets special-token text inside of message contents become control tokens, as transformers does. The default is that it
    /// stays text: a user must not be able to end a turn.
    #[must_use]
    pub fn with_trusted_content(mut self, is_content_trusted: bool) -> ChatTemplate {
        self.is_content_trusted = is_content_trusted;
        self
    }

    /// SHA-256 over the template and its special tokens, in hex, and the date where the template prints it.
    pub fn fingerprint(&self) -> String {
        let date = self.time_seconds.map(|seconds| strftime(seconds, " %Y-%m-%d"));
        format!("{}{}", self.digest, date.unwrap_or_default())
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`DataError::Template`] if the template refuses the conversation or exceeds a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        let content_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for (field, token) in &self.special_tokens {
            context.insert(field, Value::from(token.as_str()));
        }
        let messages_value: Vec<Value> = messages
            .iter()
            .map(|message| {
                Value::from(BTreeMap::from([
                    ("role", Value::from(message.role.name())),
                    ("content", Value::from(message.content.as_str())),
                ]))
            })
            .collect();
        context.insert("messages", Value::from(messages_value));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));

        let mut output = LimitedOutput {
            bytes: Vec::with_capacity(content_bytes + 64 * messages.len() + 64),
            limit_bytes: content_bytes * 8 + MAX_EXTRA_OUTPUT_BYTES,
        };
        let template = self.environment.get_template("chat").map_err(|error| self.render_error(&error))?;
        template.render_captured_to(Value::from(context), &mut output).map_err(|error| self.render_error(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|_| self.fail(TemplateProblem::Render { line: 0, detail: "the output is not UTF-8".into() }))
    }

    /// Ids of a conversation that ends where the assistant's next turn begins, for generation.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, DataError> {
        let escaped = self.escape(tokenizer, messages);
        let text = self.render(&escaped.messages, true)?;
        let (text, _, protected) = escaped.marks.remove(&text);
        Ok(encode_protected(tokenizer, &text, &protected)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids and loss mask of a whole conversation: every assistant turn's content and end-of-turn token are targets.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateProblem::TurnNotFound`] if an assistant turn cannot be located.
    pub fn encode_conversation(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<TokenizedRow, DataError> {
        self.encode_conversation_from(tokenizer, messages, 0)
    }

    /// As [`ChatTemplate::encode_conversation`], with loss only on assistant turns at or after message `first_target`.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_conversation`].
    pub fn encode_conversation_from(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        first_target: usize,
    ) -> Result<TokenizedRow, DataError> {
        let escaped = self.escape(tokenizer, messages);
        let plain_render = self.render(&escaped.messages, false)?;
        let (text, _, protected) = escaped.marks.remove(&plain_render);
        let mut spans = self.content_spans(&escaped, &text)?;
        let is_control =
            |range: &Range<usize>| !protected.iter().any(|kept| kept.start < range.end && range.start < kept.end);
        let control: Vec<Range<usize>> = tokenizer.special_ranges(&text).into_iter().filter(is_control).collect();
        for (_, span) in &mut spans {
            extend_to_end_of_turn(&text, span, &control);
        }
        let spans: Vec<Range<usize>> =
            spans.into_iter().filter(|(message, _)| *message >= first_target).map(|(_, span)| span).collect();

        let tokens = encode_protected(tokenizer, &text, &protected)?;
        let mut row = TokenizedRow { ids: Vec::with_capacity(tokens.len()), mask: Vec::with_capacity(tokens.len()) };
        let mut span_index = 0;
        for (id, range) in tokens {
            while spans.get(span_index).is_some_and(|span| span.end <= range.start) {
                span_index += 1;
            }
            let is_target = spans.get(span_index).is_some_and(|span| range.start < span.end && span.start < range.end);
            row.ids.push(id);
            row.mask.push(is_target);
        }
        Ok(row)
    }

    /// Where the content of each assistant message stands in `text`: (message index, byte range).
    fn content_spans(&self, escaped: &Escaped, text: &str) -> Result<Vec<(usize, Range<usize>)>, DataError> {
        let assistant: Vec<usize> =
            (0..escaped.messages.len()).filter(|&index| escaped.messages[index].role == Role::Assistant).collect();
        // Marks at the very ends keep outer blanks that the template prints; marks inside of the blanks survive a trim.
        for inside_blanks in [false, true] {
            let marked = escaped.with_marks(&assistant, inside_blanks);
            let Ok(render) = self.render(&marked, false) else {
                break;
            };
            let (unmarked, spans, _) = escaped.marks.remove(&render);
            if unmarked == text && spans.len() == assistant.len() {
                return Ok(assistant.into_iter().zip(spans).collect());
            }
        }
        let mut spans = Vec::with_capacity(assistant.len());
        for message in assistant {
            let not_found = || self.fail(TemplateProblem::TurnNotFound { message });
            let before = self.render(&escaped.messages[..message], true).map_err(|_| not_found())?;
            let with_turn = self.render(&escaped.messages[..=message], false).map_err(|_| not_found())?;
            let (before, _, _) = escaped.marks.remove(&before);
            let (with_turn, _, _) = escaped.marks.remove(&with_turn);
            if !text.starts_with(&with_turn) || !with_turn.starts_with(&before) {
                return Err(not_found());
            }
            spans.push((message, before.len()..with_turn.trim_end().len().max(before.len())));
        }
        Ok(spans)
    }

    fn escape(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Escaped {
        let marks = Marks::unused_in(messages);
        let mut messages = messages.to_vec();
        if !self.is_content_trusted {
            for message in &mut messages {
                let ranges = tokenizer.special_ranges(&message.content);
                // A mark inside of the spelling keeps the template's own tokens apart from the user's.
                for range in ranges.into_iter().rev() {
                    message.content.insert(range.end, marks.protect);
                    message.content.insert(range.start, marks.protect);
                }
            }
        }
        Escaped { messages, marks }
    }

    fn render_error(&self, error: &Error) -> DataError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = cause {
            if inner.downcast_ref::<Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel) {
                return self.fail(TemplateProblem::LimitExceeded { limit: "number of steps" });
            }
            if inner.downcast_ref::<OutputLimit>().is_some() || inner.to_string().contains(OutputLimit::TEXT) {
                return self.fail(TemplateProblem::LimitExceeded { limit: "size of the output" });
            }
            cause = inner.source();
        }
        self.fail(TemplateProblem::Render { line: error.line().unwrap_or(0), detail: message_of(error) })
    }

    fn fail(&self, problem: TemplateProblem) -> DataError {
        DataError::Template { path: self.path.clone(), problem }
    }
}

/// A conversation whose special-token texts are fenced.
struct Escaped {
    messages: Vec<Message>,
    marks: Marks,
}

impl Escaped {
    fn with_marks(&self, indices: &[usize], inside_blanks: bool) -> Vec<Message> {
        let mut messages = self.messages.clone();
        for &index in indices {
            let content = &mut messages[index].content;
            let (start, end) = if inside_blanks {
                let start = content.len() - content.trim_start().len();
                (start, content.trim_end().len().max(start))
            } else {
                (0, content.len())
            };
            content.insert(end, self.marks.close);
            content.insert(start, self.marks.open);
        }
        messages
    }
}

/// Three characters that occur nowhere in a conversation.
#[derive(Clone, Copy)]
struct Marks {
    open: char,
    close: char,
    protect: char,
}

impl Marks {
    fn unused_in(messages: &[Message]) -> Marks {
        // The second supplementary private use area; no text in the wild uses it.
        let is_private = |c: char| ('\u{100000}'..='\u{10fffd}').contains(&c);
        let used: std::collections::HashSet<char> =
            messages.iter().flat_map(|message| message.content.chars()).filter(|&c| is_private(c)).collect();
        let mut free = ('\u{100000}'..='\u{10fffd}').filter(|c| !used.contains(c));
        let mut next = || free.next().unwrap_or('\u{10fffd}');
        Marks { open: next(), close: next(), protect: next() }
    }

    /// The text without marks, the ranges between open and close, and the fenced ranges.
    fn remove(&self, text: &str) -> (String, Vec<Range<usize>>, Vec<Range<usize>>) {
        let mut clean = String::with_capacity(text.len());
        let mut spans = Vec::new();
        let mut protected = Vec::new();
        let mut span_start = None;
        let mut fence_start = None;
        for c in text.chars() {
            if c == self.open {
                span_start = Some(clean.len());
            } else if c == self.close {
                if let Some(start) = span_start.take() {
                    spans.push(start..clean.len());
                }
            } else if c == self.protect {
                match fence_start.take() {
                    None => fence_start = Some(clean.len()),
                    Some(start) => protected.push(start..clean.len()),
                }
            } else {
                clean.push(c);
            }
        }
        (clean, spans, protected)
    }
}

/// Moves the end of a turn behind the control token that follows it, blanks between them allowed.
fn extend_to_end_of_turn(text: &str, span: &mut Range<usize>, control: &[Range<usize>]) {
    let next = control.partition_point(|range| range.start < span.end);
    if let Some(range) = control.get(next)
        && text[span.end..range.start].trim().is_empty()
    {
        span.end = range.end;
    }
}

/// Encodes rendered text in which `protected` ranges are ordinary text whatever they spell.
fn encode_protected(
    tokenizer: &Tokenizer,
    text: &str,
    protected: &[Range<usize>],
) -> Result<Vec<(u32, Range<usize>)>, DataError> {
    if protected.is_empty() {
        return tokenizer.encode_rendered_with_ranges(text);
    }
    let mut tokens = Vec::new();
    let mut plain_from = 0;
    let encode_plain = |range: Range<usize>, tokens: &mut Vec<(u32, Range<usize>)>| {
        if range.is_empty() {
            return Ok(());
        }
        let start = range.start;
        let encoded = tokenizer.encode_with_ranges(&text[range])?;
        tokens.extend(encoded.into_iter().map(|(id, range)| (id, range.start + start..range.end + start)));
        Ok::<(), DataError>(())
    };
    for range in tokenizer.special_ranges(text) {
        let is_protected = protected.iter().any(|kept| kept.start < range.end && range.start < kept.end);
        let Some(id) = tokenizer.token_to_id(&text[range.clone()]).filter(|_| !is_protected) else {
            continue;
        };
        encode_plain(plain_from..range.start, &mut tokens)?;
        plain_from = range.end;
        tokens.push((id, range));
    }
    encode_plain(plain_from..text.len(), &mut tokens)?;
    Ok(tokens)
}

fn template_in_config(value: &serde_json::Value) -> Option<String> {
    if let Some(source) = value.as_str() {
        return Some(source.to_string());
    }
    let list = value.as_array()?;
    let named = |name: &str| list.iter().find(|entry| entry["name"] == name);
    let chosen = named("default").or_else(|| (list.len() == 1).then(|| &list[0]))?;
    chosen["template"].as_str().map(str::to_string)
}

/// transformers marks the assistant's text with `{% generation %}`; an `if` with the same blank control prints the same.
fn without_generation_tags(source: &str) -> String {
    let replace = |name: &str, with: &str, text: &str| {
        let pattern = format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}");
        Regex::new(&pattern)
            .expect("invariant: the pattern is constant")
            .replace_all(text, format!("{{%$1 {with} $2%}}"))
            .into_owned()
    };
    let opened = replace("generation", "if true", source);
    replace("endgeneration", "endif", &opened)
}

fn message_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=..)`, which is what transformers gives templates.
fn tojson(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let as_error = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let value = serde_json::to_value(&value).map_err(as_error)?;
    let mut bytes = Vec::new();
    match indent {
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut serializer).map_err(as_error)?;
        }
        None => {
            let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, PythonSpacing);
            value.serialize(&mut serializer).map_err(as_error)?;
        }
    }
    Ok(Value::from(String::from_utf8_lossy(&bytes).into_owned()))
}

/// `", "` between items and `": "` after keys, as Python writes on one line.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

struct LimitedOutput {
    bytes: Vec<u8>,
    limit_bytes: usize,
}

#[derive(Debug)]
struct OutputLimit;

impl OutputLimit {
    const TEXT: &'static str = "template output limit";
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
fn strftime(seconds: u64, format: &str) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    let mut text = String::new();
    match time.map(|time| fmt::Write::write_fmt(&mut text, format_args!("{}", time.format(format)))) {
        Some(Ok(())) => text,
        _ => format.to_owned(),
    }
}

#[cfg(test)]
mod tests;
