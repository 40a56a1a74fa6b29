//! Chat templates: a conversation to the exact text and ids that transformers makes of it, and the loss mask.
//!
//! Templates come from model folders, so they are not trusted: they run in minijinja, which reaches no code and no files, with a
//! limit on source, steps, depth, output and what they make in memory (`limits`). `jinja` makes the environment that of transformers,
//! `rewrite` (on the tokens of `lexer`) and `python` what minijinja reads otherwise than Jinja2.
//!
//! The loss mask covers, in each assistant turn, what the template prints of its content and the end-of-turn token behind it, and
//! nothing of the next turn's header; or, where the template marks what the assistant says, these spans (`generation`). `layout` finds the contents in the text, `encode` makes ids and mask: control tokens are those
//! that the template writes, and what contents spell stays text. `continuation` makes ids of a reply that is not ended.

mod continuation;
mod encode;
mod generation;
mod jinja;
mod layout;
mod lexer;
mod limits;
mod marks;
mod python;
mod rewrite;

pub(crate) use self::lexer::Vocabulary;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use sha2::{Digest, Sha256};

use self::jinja::{LimitedOutput, OutputLimit, environment, message_of, strftime};
use crate::error::{DataError, TemplateProblem};
use crate::files::hex;
use crate::message::{Message, Role};
use crate::model_files::{ADDITIONAL_TOKENS, COMMON_TOKENS, Configs, TemplateSource};

const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Output may be this large beyond eight times the conversation.
const MAX_EXTRA_OUTPUT_BYTES: usize = 4 << 20;

/// The beginning of a day written as `2026-11-28`, in seconds since 1970, UTC; `None` for what is no such day.
pub fn day_seconds(date: &str) -> Option<u64> {
    let day = chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok().filter(|_| date.len() == "2026-11-28".len())?;
    u64::try_from(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp()).ok()
}

/// A compiled chat template. Cheap to share between threads by reference.
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, Vec<String>>,
    is_content_trusted: bool,
    /// Whether the template asks for `add_generation_prompt`.
    has_generation_prompt: bool,
    /// Whether the template marks what is learnt with `{% generation %}`.
    marks_spans: bool,
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
        let special_tokens = configs.token_variables().into_iter().collect();
        match TemplateSource::find(folder)? {
            Some(TemplateSource { path, text }) => Self::compile(&path, &text, special_tokens),
            None => Err(DataError::Template { path: folder.to_path_buf(), problem: TemplateProblem::Missing }),
        }
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

    /// Compiles a template given as text. `special_tokens` are its variables: `bos_token`, `eos_token`, ..., of one token each, and
    /// `additional_special_tokens`, which is a list.
    ///
    /// # Errors
    /// [`DataError::Template`] if it is longer than 1 MiB or does not compile.
    pub fn compile(
        path: &Path,
        source: &str,
        mut special_tokens: BTreeMap<String, Vec<String>>,
    ) -> Result<ChatTemplate, DataError> {
        let fail = |problem| DataError::Template { path: path.to_path_buf(), problem };
        if source.len() > MAX_SOURCE_BYTES {
            return Err(fail(TemplateProblem::TooLarge { bytes: source.len(), limit_bytes: MAX_SOURCE_BYTES }));
        }
        let environment = environment("chat", source).map_err(|error| {
            fail(TemplateProblem::Syntax { line: error.line().unwrap_or(0), detail: message_of(&error) })
        })?;

        let mut hasher = Sha256::new();
        hasher.update(source);
        // What a template does not ask for changes nothing, not even the digest.
        special_tokens.retain(|field, _| COMMON_TOKENS.contains(&field.as_str()) || source.contains(field.as_str()));
        for (field, tokens) in &special_tokens {
            hasher.update(format!("\0{field}\0{}", tokens.join("\0")));
        }
        let marks_spans = generation::has_tags(source);
        if marks_spans {
            // Token stores of a time when these tags were not read have another loss mask.
            hasher.update("\0generation");
        }
        let now_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let template = ChatTemplate {
            path: path.to_path_buf(),
            environment,
            special_tokens,
            is_content_trusted: false,
            has_generation_prompt: source.contains("add_generation_prompt"),
            marks_spans,
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

    /// The date that the template tells, `2026-11-28` in UTC; `None` where it tells none.
    pub fn date(&self) -> Option<String> {
        self.time_seconds.map(|seconds| strftime(seconds, "%Y-%m-%d"))
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
        let date = self.date().map(|date| format!(" {date}"));
        format!("{}{}", self.digest, date.unwrap_or_default())
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the assistant's next turn begins.
    ///
    /// # Errors
    /// [`DataError::Template`] if the template refuses the conversation or exceeds a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        let content_bytes: usize = messages.iter().map(|message| message.content.len()).sum();
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        for (field, tokens) in &self.special_tokens {
            let value = match tokens.as_slice() {
                [token] if field != ADDITIONAL_TOKENS => Value::from(token.as_str()),
                tokens => Value::from(tokens.to_vec()),
            };
            context.insert(field, value);
        }
        let messages_value: Vec<Value> = messages
            .iter()
            .map(|message| {
                // In the order in which transformers has them, which `tojson` prints.
                Value::from_pairs([("role", message.role.name()), ("content", message.content.as_str())])
            })
            .collect();
        context.insert("messages", Value::from(messages_value));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));

        limits::begin(content_bytes);
        let mut output = LimitedOutput {
            bytes: Vec::with_capacity(content_bytes + 64 * messages.len() + 64),
            limit_bytes: content_bytes * 8 + MAX_EXTRA_OUTPUT_BYTES,
        };
        let template = self.environment.get_template("chat").map_err(|error| self.render_error(&error))?;
        template.render_captured_to(Value::from(context), &mut output).map_err(|error| self.render_error(&error))?;
        String::from_utf8(output.bytes)
            .map_err(|_| self.fail(TemplateProblem::Render { line: 0, detail: "the output is not UTF-8".into() }))
    }

    /// As [`ChatTemplate::render`] up to where the assistant's next turn begins, for generation.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateProblem::SystemNotPrinted`].
    pub fn render_prompt(&self, messages: &[Message]) -> Result<String, DataError> {
        let text = self.render(messages, true)?;
        self.check_system(messages, &text)?;
        Ok(text)
    }

    /// Refuses a system turn that the template passes over, as some do: what it asks for would be neither learnt nor followed.
    fn check_system(&self, messages: &[Message], text: &str) -> Result<(), DataError> {
        let first_line =
            |message: &Message| message.content.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        // Another turn may have the same words.
        let is_printed = |line: &str| {
            let of_others = messages.iter().filter(|message| message.role != Role::System);
            text.matches(line).count() > of_others.map(|message| message.content.matches(line).count()).sum()
        };
        let of_system = messages.iter().filter(|message| message.role == Role::System);
        match of_system.filter_map(first_line).find(|line| !is_printed(line)) {
            Some(_) => Err(self.fail(TemplateProblem::SystemNotPrinted)),
            None => Ok(()),
        }
    }

    fn render_error(&self, error: &Error) -> DataError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(inner) = cause {
            if inner.downcast_ref::<Error>().is_some_and(|inner| inner.kind() == ErrorKind::OutOfFuel) {
                return self.fail(TemplateProblem::LimitExceeded { limit: "number of steps" });
            }
            if inner.to_string().contains(limits::LIMIT_TEXT) {
                return self.fail(TemplateProblem::LimitExceeded { limit: "size of strings and lists" });
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

#[cfg(test)]
mod generation_tests;
#[cfg(test)]
mod reply_tests;
#[cfg(test)]
mod system_tests;
#[cfg(test)]
mod tests;
