//! Where a reply states its answer: after its reasoning, behind its last answer mark.

use std::sync::LazyLock;

use regex::Regex;

use super::figure::{figures, plain};

/// Names of the tags that models write their reasoning between.
const REASONING_TAGS: &str = "think|thinking|thought|reasoning|reflection|scratchpad";

/// The reply without what stands between reasoning tags. Of a block that is never closed all is reasoning; of one that was
/// opened in the prompt, what stands before its end is.
pub fn without_reasoning(reply: &str) -> String {
    static TAG: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!(r"(?i)<(/?)\s*(?:{REASONING_TAGS})\s*>|\[(/?)THINK\]"))
            .expect("invariant: a valid constant pattern")
    });
    let mut kept = String::new();
    let mut depth = 0usize;
    let mut place = 0;
    for tag in TAG.captures_iter(reply) {
        let whole = tag.get(0).expect("invariant: group 0 is the match");
        if depth == 0 {
            kept.push_str(&reply[place..whole.start()]);
        }
        place = whole.end();
        let is_end = [1, 2].iter().any(|group| tag.get(*group).is_some_and(|slash| !slash.is_empty()));
        match (is_end, depth) {
            (false, _) => depth += 1,
            (true, 0) => kept.clear(),
            (true, _) => depth -= 1,
        }
    }
    if depth == 0 {
        kept.push_str(&reply[place..]);
    }
    kept
}

/// What a reply states as its answer: one line, without emphasis, quotes and formula signs around it.
///
/// The last of these marks counts: `Answer:` in any case and emphasis, with `:`, `=`, ` - ` or `is`, or alone on a line as a
/// heading; `The answer is`, `The correct option is`; `#### 72`; `\boxed{72}`; `<answer>72</answer>`. A reply without a mark
/// states its answer where it is one line that opens with its only figure: `72`, `$72.`, `72 clips`. An answer mark with
/// nothing behind it states none.
pub fn stated_answer(reply: &str) -> Option<String> {
    match behind_last_mark(reply) {
        Some(_) => marked_answer(reply),
        None => direct_figure(reply).map(|figure| unwrap(figure).to_owned()),
    }
}

/// The line behind the last mark, as [`stated_answer`] gives it.
pub(super) fn marked_answer(reply: &str) -> Option<String> {
    let line = behind_last_mark(reply)?.lines().find(|line| !line.trim().is_empty())?;
    let answer = unwrap(line);
    (!answer.is_empty()).then(|| answer.to_owned())
}

/// What stands behind the last mark; `None` where there is no mark.
pub(super) fn behind_last_mark(reply: &str) -> Option<&str> {
    let marks = [word_mark(reply), figure_mark(reply), box_mark(reply), tag_mark(reply)];
    marks.into_iter().flatten().max_by_key(|(place, _)| *place).map(|(_, answer)| answer)
}

/// A mark's place and what stands behind it.
type Mark<'a> = Option<(usize, &'a str)>;

fn word_mark(reply: &str) -> Mark<'_> {
    static WORDS: LazyLock<Regex> = LazyLock::new(|| {
        let noun = r"(?:(?:\b|_)answer|\b(?:correct|right|best)\s+(?:option|choice|letter|label))";
        let joint = r"(?:\s*(?:[:=\u{ff1a}]|=>|->|\u{2192})|\s+[-\u{2013}\u{2014}]\s|(?:\s+(?:to|for|in)\s[^\n.:=]{1,80}?)?\s+(?:is|was|would be|should be|must be)\b)";
        let heading = r"^[#\s]*[*_]*(?:(?:my|the)\s+)?(?:final\s+)?answer[*_]*[ \t\r]*$";
        // Emphasis directly behind the mark ends that of the mark, emphasis behind a space begins that of the answer.
        Regex::new(&format!(r"(?im)(?:{noun}[*_`]*{joint}|{heading})[*_`]*[:\s]*"))
            .expect("invariant: a valid constant pattern")
    });
    let mark = WORDS.find_iter(reply).last()?;
    Some((mark.start(), &reply[mark.end()..]))
}

fn figure_mark(reply: &str) -> Mark<'_> {
    // Before a word, `####` opens a heading.
    let is_answer = |behind: &str| {
        let mut characters = behind.trim_start_matches([' ', '*', '\t']).chars();
        let first = characters.next();
        let is_letter_alone =
            first.is_some_and(char::is_alphabetic) && !characters.next().is_some_and(char::is_alphanumeric);
        is_letter_alone || first.is_some_and(|c| !c.is_alphabetic() && c != '#' && c != '\n')
    };
    let found = reply.rmatch_indices("####").map(|(at, mark)| (at, &reply[at + mark.len()..]));
    found.into_iter().find(|(_, behind)| is_answer(behind))
}

fn box_mark(reply: &str) -> Mark<'_> {
    ["\\boxed", "\\fbox"]
        .iter()
        .flat_map(|name| reply.rmatch_indices(name))
        .find_map(|(at, name)| Some((at, braced(reply[at + name.len()..].trim_start())?.0)))
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

fn tag_mark(reply: &str) -> Mark<'_> {
    static TAG: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)<(?:final_)?answer>").expect("invariant: a valid constant pattern"));
    let tag = TAG.find_iter(reply).last()?;
    Some((tag.start(), reply[tag.end()..].split("</").next().unwrap_or_default()))
}

fn direct_figure(reply: &str) -> Option<&str> {
    let line = reply.trim();
    let text = plain(line);
    let found = figures(&text);
    let [Some(figure)] = found.as_slice() else { return None };
    let opens = !text[..figure.start].chars().any(char::is_alphanumeric);
    (opens && !line.contains('\n')).then_some(line)
}

/// The text without emphasis, quotes, formula signs and LaTeX commands that stand around all of it.
pub(super) fn unwrap(text: &str) -> &str {
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
