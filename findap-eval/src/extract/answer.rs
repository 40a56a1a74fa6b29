//! Where a reply states its answer: after its reasoning, behind its last answer mark.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::figure::{ends_in_minus, figures, plain};

/// Names of the tags that models write their reasoning between.
const REASONING_TAGS: &str = "think|thinking|thought|reasoning|reflection|scratchpad";

/// Where the reasoning of a reply stands: from the first tag that opens it, or from the beginning where it was opened in the
/// prompt, to the last tag that closes it, or to the end where none does. Empty at the beginning where there is none.
fn reasoning(reply: &str) -> Range<usize> {
    let (mut start, mut end) = (None, None);
    for tag in tags(reply) {
        start = start.or(Some(if tag.is_end { 0 } else { tag.place.start }));
        if tag.is_end {
            end = Some(tag.place.end);
        }
    }
    match (start, end) {
        (None, _) => 0..0,
        (Some(start), end) => start..end.unwrap_or(reply.len()),
    }
}

struct Tag {
    place: Range<usize>,
    is_end: bool,
}

fn tags(reply: &str) -> impl Iterator<Item = Tag> + '_ {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!(r"(?i)<(/?)\s*(?:{REASONING_TAGS})\s*>|\[(/?)THINK\]"))
            .expect("invariant: a valid constant pattern")
    });
    TAG.captures_iter(reply).map(|tag| Tag {
        place: tag.get(0).expect("invariant: group 0 is the match").range(),
        is_end: [1, 2].iter().any(|group| tag.get(*group).is_some_and(|slash| !slash.is_empty())),
    })
}

/// The reply without its reasoning. Of a block that is opened behind it and never closed, all is reasoning.
pub fn without_reasoning(reply: &str) -> String {
    let reasoning = reasoning(reply);
    let behind = &reply[reasoning.end..];
    let reopened = tags(behind).next().map_or(behind.len(), |tag| tag.place.start);
    format!("{}{}", &reply[..reasoning.start], &behind[..reopened])
}

/// Where the answer of a reply begins: behind its reasoning and the white space that leads to it.
pub(crate) fn answer_start(reply: &str) -> usize {
    let end = reasoning(reply).end;
    end + (reply[end..].len() - reply[end..].trim_start().len())
}

/// The reply to a prompt without its reasoning; nothing where that was opened by the prompt and is never closed.
pub(crate) fn answer_to(prompt: &str, reply: &str) -> String {
    match opens_reasoning(prompt) && !closes_reasoning(reply) {
        true => String::new(),
        false => without_reasoning(reply),
    }
}

/// Whether a prompt ends within reasoning, as those of templates do that open it for the model.
pub(crate) fn opens_reasoning(prompt: &str) -> bool {
    let last = tags(prompt).last().filter(|tag| !tag.is_end);
    last.is_some_and(|tag| prompt[tag.place.end..].trim().is_empty())
}

/// Whether a reply has a tag that closes reasoning.
pub(crate) fn closes_reasoning(reply: &str) -> bool {
    tags(reply).any(|tag| tag.is_end)
}

/// What a reply states as its answer, the likeliest first: each one line, without emphasis, quotes and formula signs around it.
///
/// Strong marks are `\boxed{72}`, `#### 72`, `<answer>72</answer>` and, where a line or sentence begins, `Answer:` in any case
/// and emphasis, with `:`, `=`, ` - ` or alone on its line as a heading. Weak marks stand in prose: `the answer is 72`, `the
/// correct option is`. Of the strong marks the last counts first; weak ones count only where no strong one is. A reply
/// without a strong mark also states its answer where its first line opens with its only figure: `72`, `$72.`, `72 clips`.
pub(super) fn stated_answers(reply: &str) -> Vec<String> {
    let marked = marked_answers(reply);
    let direct = || {
        let line = first_line(reply).filter(|line| marked.is_weak() || reply.trim() == *line)?;
        is_direct_figure(line).then(|| strip_wrapping(line).to_owned())
    };
    match marked {
        Marked::Strong(answers) => answers,
        Marked::Weak(ref answers) => answers.iter().cloned().chain(direct()).collect(),
        Marked::None => direct().into_iter().collect(),
    }
}

/// The first of all stated answers: the answer of a reply where nothing else is known of it than that it is one line.
pub fn stated_answer(reply: &str) -> Option<String> {
    stated_answers(reply).into_iter().next()
}

/// The first line of a text that is not blank.
pub(super) fn first_line(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| !line.is_empty())
}

/// The last line of a text that is not blank.
pub(super) fn last_line(text: &str) -> Option<&str> {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty())
}

/// The lines behind the answer marks of a reply, the last mark's first.
pub(super) enum Marked {
    /// Behind marks that nothing but an answer follows.
    Strong(Vec<String>),
    /// Behind marks of prose, after which no answer need follow.
    Weak(Vec<String>),
    /// There is no mark.
    None,
}

impl Marked {
    pub(super) fn is_weak(&self) -> bool {
        matches!(self, Self::Weak(_))
    }
}

/// What a reply says behind its answer marks, of the strong ones where it has any.
pub(super) fn marked_answers(reply: &str) -> Marked {
    let (strong, weak): (Vec<Mark>, Vec<Mark>) = word_marks(reply)
        .chain(figure_marks(reply))
        .chain(box_marks(reply))
        .chain(tag_marks(reply))
        .partition(|mark| mark.is_strong);
    let answers = |mut marks: Vec<Mark>| {
        marks.sort_by_key(|mark| std::cmp::Reverse(mark.place));
        marks.iter().filter_map(Mark::line).collect()
    };
    match (strong.is_empty(), weak.is_empty()) {
        (false, _) => Marked::Strong(answers(strong)),
        (true, false) => Marked::Weak(answers(weak)),
        (true, true) => Marked::None,
    }
}

/// An answer mark.
struct Mark {
    /// Where it stands.
    place: usize,
    is_strong: bool,
    /// What stands behind it.
    answer: String,
}

impl Mark {
    /// The answer's first line that is not blank. A bullet below the line of the mark is no sign of the answer.
    fn line(&self) -> Option<String> {
        let line = first_line(&self.answer)?;
        let is_below = self.answer.trim_start_matches([' ', '\t']).starts_with(['\n', '\r']);
        let line = if is_below { line.strip_prefix("- ").unwrap_or(line) } else { line };
        let answer = strip_wrapping(line);
        (!answer.is_empty()).then(|| answer.to_owned())
    }
}

fn word_marks(reply: &str) -> impl Iterator<Item = Mark> + '_ {
    static WORDS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?imx)
            (?:
                # A heading: the word alone on its line.
                (?P<heading> ^[\#\s>]*[*_]*(?:(?:my|the)\s+)?(?:(?:final|correct)\s+)?answer[*_]*[\ \t\r]*$ )
            |
                # Where a line or a sentence begins, or as `final answer` anywhere, only an answer can follow a sign.
                (?P<opening>
                    (?: (?:^|[.!?;]\s)[\s\#>*_`-]*(?:(?:my|the|so|thus|therefore),?\s+)*(?:(?:final|correct)\s+)?
                      | \bfinal\s+ )
                    answer[*_`]*
                    (?:\s*(?:[:=\u{ff1a}]|=>|->|\u{2192})|\s+[-\u{2013}\u{2014}]\s)
                )
            |
                # In prose: a noun, and a sign or a verb.
                (?:(?:\b|_)answer|\b(?:correct|right|best)\s+(?:option|choice|letter|label))[*_`]*
                (?:
                    \s*(?:[:=\u{ff1a}]|=>|->|\u{2192})
                  | \s+[-\u{2013}\u{2014}]\s
                  | (?:\s+(?:to|for|in)\s[^\n.:=]{1,80}?)?\s+(?:is|was|would\ be|should\ be|must\ be)\b
                )
            )
            # Emphasis directly behind the mark ends that of the mark, emphasis behind a space begins that of the answer.
            [*_`]*(?:[\ \t]*:)?",
        )
        .expect("invariant: a valid constant pattern")
    });
    let marks = WORDS.captures_iter(reply).map(|mark| {
        let whole = mark.get(0).expect("invariant: group 0 is the match");
        Mark {
            place: whole.start(),
            is_strong: mark.name("heading").or(mark.name("opening")).is_some(),
            answer: reply[whole.end()..].trim_start_matches(':').to_owned(),
        }
    });
    // `The answer is not 72` states none.
    marks.filter(|mark| mark.is_strong || !mark.answer.trim_start().starts_with("not "))
}

fn figure_marks(reply: &str) -> impl Iterator<Item = Mark> + '_ {
    // Before a word, `####` opens a heading.
    let is_answer = |behind: &str| {
        let mut characters = behind.trim_start_matches([' ', '*', '\t']).chars();
        let first = characters.next();
        let is_letter_alone =
            first.is_some_and(char::is_alphabetic) && !characters.next().is_some_and(char::is_alphanumeric);
        is_letter_alone || first.is_some_and(|c| !c.is_alphabetic() && c != '#' && c != '\n')
    };
    reply
        .match_indices("####")
        .map(|(place, mark)| (place, &reply[place + mark.len()..]))
        .filter(move |(_, behind)| is_answer(behind))
        .map(|(place, behind)| Mark { place, is_strong: true, answer: behind.to_owned() })
}

fn box_marks(reply: &str) -> impl Iterator<Item = Mark> + '_ {
    ["\\boxed", "\\fbox"].iter().flat_map(|name| reply.match_indices(name)).filter_map(|(place, name)| {
        let (inside, _) = braced(reply[place + name.len()..].trim_start())?;
        // `-\boxed{72}`: the sign stands before the box.
        let is_negative = ends_in_minus(&reply[..place]);
        Some(Mark { place, is_strong: true, answer: format!("{}{inside}", if is_negative { "-" } else { "" }) })
    })
}

fn tag_marks(reply: &str) -> impl Iterator<Item = Mark> + '_ {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)<(?:final_)?answer>").expect("invariant: a valid constant pattern"));
    TAG.find_iter(reply).map(|tag| Mark {
        place: tag.start(),
        is_strong: true,
        answer: reply[tag.end()..].split("</").next().unwrap_or_default().to_owned(),
    })
}

/// What stands between the brace that a text opens with and its partner, and what stands behind that.
fn braced(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('{')?;
    let mut depth = 1;
    let mut is_escaped = false;
    for (at, character) in inside.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((&inside[..at], &inside[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether a line opens with a figure and has no other.
fn is_direct_figure(line: &str) -> bool {
    let text = plain(line);
    let found = figures(&text);
    let [Some(figure)] = found.as_slice() else { return false };
    !text[..figure.start].chars().any(char::is_alphanumeric)
}

/// The text without emphasis, quotes, formula signs and LaTeX commands that stand around all of it.
pub(super) fn strip_wrapping(text: &str) -> &str {
    const PAIRS: [(&str, &str); 13] = [
        ("**", "**"),
        ("__", "__"),
        ("*", "*"),
        ("_", "_"),
        ("`", "`"),
        ("\"", "\""),
        ("'", "'"),
        ("\u{201c}", "\u{201d}"),
        ("\u{2018}", "\u{2019}"),
        ("$$", "$$"),
        ("$", "$"),
        ("\\(", "\\)"),
        ("\\[", "\\]"),
    ];
    const COMMANDS: [&str; 7] = ["\\boxed", "\\fbox", "\\text", "\\textbf", "\\mathbf", "\\mathrm", "\\textrm"];
    let mut text = text.trim();
    loop {
        let without_stop = text.strip_suffix('.').unwrap_or(text);
        let inside = PAIRS.iter().find_map(|(open, close)| {
            let inside = without_stop.strip_prefix(open)?.strip_suffix(close)?;
            (!inside.contains(close)).then_some(inside)
        });
        let inside = inside.or_else(|| {
            COMMANDS.iter().find_map(|name| {
                let (inside, behind) = braced(without_stop.strip_prefix(name)?)?;
                behind.trim().is_empty().then_some(inside)
            })
        });
        match inside {
            Some(inside) => text = inside.trim(),
            // Emphasis that began before the mark: `**Answer: 72**`.
            None if text.matches("**").count() == 1 => return text.strip_suffix("**").unwrap_or(text).trim_end(),
            None => return text,
        }
    }
}
