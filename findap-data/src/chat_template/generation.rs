//! The spans that a template marks as the assistant's with `{% generation %}` .. `{% endgeneration %}`.
//!
//! transformers learns what is marked and nothing else (`return_assistant_tokens_mask`, TRL's `assistant_only_loss`). A pair of tags
//! becomes a filter block, which prints the same; where the spans are asked for, the filter puts a character before and one behind
//! what it is given, so that spans are found in whatever a macro or a `set` block makes of them.

use std::cell::Cell;
use std::ops::Range;
use std::sync::LazyLock;

use minijinja::{Environment, Error};
use regex::Regex;

use super::ChatTemplate;
use super::limits::charge;
use crate::error::{DataError, TemplateProblem};
use crate::message::Message;

const FILTER: &str = "generation_span";
/// The first supplementary area for private use, so that these are none of the marks of contents.
const PRIVATE: Range<char> = '\u{f0000}'..'\u{ffffd}';

thread_local! {
    /// What the rendering on this thread puts before and behind a span.
    static MARKS: Cell<Option<[char; 2]>> = const { Cell::new(None) };
}

/// Whether a template marks any spans.
pub(super) fn has_tags(source: &str) -> bool {
    static COMMENT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)\{#.*?#\}").expect("invariant: a valid constant pattern"));
    tag("generation").is_match(&COMMENT.replace_all(source, ""))
}

/// The template with each tag replaced, its blank control kept.
pub(super) fn with_filter_blocks(source: &str) -> String {
    let opened = tag("generation").replace_all(source, format!("{{%$1 filter {FILTER} $2%}}"));
    tag("endgeneration").replace_all(&opened, "{%$1 endfilter $2%}").into_owned()
}

fn tag(name: &str) -> Regex {
    Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}")).expect("invariant: the pattern is constant")
}

pub(super) fn add_filter(environment: &mut Environment<'static>) {
    environment.add_filter(FILTER, |span: String| -> Result<String, Error> {
        charge(span.len())?;
        Ok(match MARKS.get() {
            Some([open, close]) => format!("{open}{span}{close}"),
            None => span,
        })
    });
}

impl ChatTemplate {
    /// The spans that the template marks in `text`, which is this conversation rendered: ascending and apart from each other. `None`
    /// for a template that has no tags.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateProblem::SpansUnknown`] where marks change what is printed.
    pub(super) fn marked_spans(
        &self,
        messages: &[Message],
        text: &str,
    ) -> Result<Option<Vec<Range<usize>>>, DataError> {
        if !self.marks_spans {
            return Ok(None);
        }
        let unknown = || self.fail(TemplateProblem::SpansUnknown);
        let mut unused = PRIVATE.filter(|c| !text.contains(*c));
        let marks = unused.next().zip(unused.next()).map(|(open, close)| [open, close]).ok_or_else(unknown)?;
        MARKS.set(Some(marks));
        let rendered = self.render(messages, false);
        MARKS.set(None);

        let [open, close] = marks;
        let mut spans: Vec<Range<usize>> = Vec::new();
        // A span within another adds nothing to it.
        let mut starts = Vec::new();
        let mut unmarked = String::with_capacity(text.len());
        for c in rendered?.chars() {
            if c == open {
                starts.push(unmarked.len());
            } else if c == close {
                let start = starts.pop().ok_or_else(unknown)?;
                if starts.is_empty() && start < unmarked.len() {
                    spans.push(start..unmarked.len());
                }
            } else {
                unmarked.push(c);
            }
        }
        if unmarked != text || !starts.is_empty() {
            return Err(unknown());
        }
        Ok(Some(spans))
    }
}
