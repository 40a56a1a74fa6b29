//! The part of a reply that is its answer: without reasoning, drafts and examples in marks, and with its JSON objects found.
//!
//! Models mark what they think with `<think>..</think>`, `<reasoning>`, `[THINK]`, `<|begin_of_thought|>` and more. Such a mark need
//! not be closed (all after it is thought), nor opened (all before it is: templates of reasoning models open the mark in the
//! prompt). Marks of other names end a paragraph and hide nothing: what stands between them is read as the answer's.

use std::collections::HashMap;
use std::ops::Range;

use super::json::{Json, NoObject, object_at};

/// Begins the answer in the format of gpt-oss, where a server has not taken it apart.
const FINAL_CHANNEL: &str = "<|channel|>final<|message|>";
const CHANNEL: &str = "<|channel|>";

/// What is left of a reply.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    /// The objects, and where they stand in the text.
    pub(super) objects: Vec<(Range<usize>, Json)>,
}

/// The answer in a reply.
///
/// # Errors
/// [`NoObject::Broken`] if an object in it is cut off or damaged: an object inside of it would be taken for the answer.
pub(super) fn answer(reply: &str) -> Result<Answer, NoObject> {
    let text = match reply.rsplit_once(FINAL_CHANNEL) {
        Some((_, last)) => last,
        None if reply.contains(CHANNEL) => "",
        None => reply,
    };
    let ends = ends(text);
    let end_after = |stem: &str, at: usize| {
        let ends = ends.get(stem)?;
        ends.get(ends.partition_point(|end| *end <= at)).copied()
    };
    let mut answer = Answer::default();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let plain = rest.find(|c| c == '{' || begins_mark(c)).unwrap_or(rest.len());
        if plain > 0 {
            answer.text.push_str(&rest[..plain]);
            at += plain;
            continue;
        }
        if let Some(mark) = mark_at(rest) {
            let after = at + mark.len;
            at = match (aside(&mark.name), mark.is_closing) {
                (None, _) => {
                    answer.text.push_str("\n\n");
                    after
                }
                (Some(_), true) => {
                    answer = Answer::default();
                    after
                }
                (Some(stem), false) => end_after(stem, after).unwrap_or(text.len()),
            };
            continue;
        }
        let len = match object_at(rest) {
            Ok((object, len)) => {
                let start = answer.text.len();
                answer.objects.push((start..start + len, object));
                len
            }
            Err(NoObject::Broken) => return Err(NoObject::Broken),
            Err(NoObject::Unrelated) => rest.chars().next().map_or(1, char::len_utf8),
        };
        answer.text.push_str(&rest[..len]);
        at += len;
    }
    Ok(answer)
}

/// Whether a word of a name says that it holds thoughts, drafts or examples; then what tells so, which is the same for `<think>` and
/// `</thinking>`.
pub(super) fn aside(name: &str) -> Option<&'static str> {
    const STEMS: [&str; 12] = [
        "think",
        "thought",
        "reason",
        "reflect",
        "analy",
        "scratch",
        "draft",
        "deliberat",
        "rationale",
        "monologue",
        "brainstorm",
        "example",
    ];
    const WORDS: [&str; 4] = ["cot", "format", "template", "schema"];
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.find_map(|word| {
        let stem = STEMS.into_iter().find(|stem| word.starts_with(stem));
        stem.or_else(|| WORDS.into_iter().find(|whole| word == *whole))
    })
}

#[derive(Debug)]
struct Mark {
    name: String,
    is_closing: bool,
    len: usize,
}

/// Where the closing marks of each stem end.
fn ends(text: &str) -> HashMap<&'static str, Vec<usize>> {
    let mut ends: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, _) in text.match_indices(begins_mark) {
        if let Some(mark) = mark_at(&text[at..]).filter(|mark| mark.is_closing)
            && let Some(stem) = aside(&mark.name)
        {
            ends.entry(stem).or_default().push(at + mark.len);
        }
    }
    ends
}

fn begins_mark(c: char) -> bool {
    matches!(c, '<' | '[' | '\u{25c1}')
}

/// The mark that the text begins with. In square brackets only names of thoughts are marks: `[1]` and `[x]` are text.
fn mark_at(text: &str) -> Option<Mark> {
    const BRACKETS: [(&str, &str); 4] = [("<|", "|>"), ("<", ">"), ("[", "]"), ("\u{25c1}", "\u{25b7}")];
    const MAX_LEN: usize = 100;
    let (open, close) = BRACKETS.into_iter().find(|(open, _)| text.starts_with(open))?;
    let inner = &text[open.len()..];
    let near = inner.char_indices().nth(MAX_LEN).map_or(inner, |(end, _)| &inner[..end]);
    let body = &near[..near.find(close)?];
    let len = open.len() + body.len() + close.len();
    let (body, has_slash) = body.strip_prefix('/').map_or((body, false), |body| (body, true));
    let name = body.split_whitespace().next()?.trim_end_matches('/').to_lowercase();
    let is_name = name.starts_with(|c: char| c.is_alphabetic())
        && name.chars().all(|c| c.is_alphanumeric() || "_-:.".contains(c))
        && !body.contains(['<', '{', '\n']);
    let is_closing = has_slash || open == "<|" && name.starts_with("end_");
    let mark = Mark { name, is_closing, len };
    let is_mark = is_name && (open != "[" || aside(&mark.name).is_some());
    is_mark.then_some(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: &str) -> String {
        answer(reply).unwrap().text.trim().to_owned()
    }

    #[test]
    fn marked_reasoning_is_put_aside_however_it_is_marked() {
        for reply in [
            "<think>a</think>yes",
            "<THINK>\na\n</Think>\nyes",
            "<thinking>a <b>x</b></thinking>yes",
            "<reasoning depth=\"2\">a</reasoning>yes",
            "<think>a</thinking>yes",
            "<think>a <thought>b</thought> c</think>yes",
            "<think>a <think> is my mark</think> c</think>yes",
            "<seed:think>a</seed:think>yes",
            "<verdict>yes</verdict>",
            "[THINK]a[/THINK]yes",
            "\u{25c1}think\u{25b7}a\u{25c1}/think\u{25b7}yes",
            "<|begin_of_thought|>a<|end_of_thought|>yes",
            "<|START_THINKING|>a<|END_THINKING|>yes",
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes",
            "a, as the template opened the mark</think>yes",
            "yes<think>a</think>",
            "yes<think>a, and no end",
        ] {
            assert_eq!(text(reply), "yes", "{reply}");
        }
    }

    #[test]
    fn thought_without_an_end_leaves_nothing() {
        for reply in
            ["<think>a", "<reasoning>a <b>c</b>", "<|channel|>analysis<|message|>a", "<think>a <thought>b</thought> c"]
        {
            assert_eq!(text(reply), "", "{reply}");
        }
    }

    #[test]
    fn what_only_looks_like_a_mark_is_text() {
        for reply in ["3 < 4 and 5 > 4", "[1] see [x]", "a <b", "<120>", "if x<y then"] {
            assert_eq!(text(reply), reply);
        }
    }

    #[test]
    fn other_marks_end_a_paragraph_and_hide_nothing() {
        for (reply, wanted) in [
            ("<condition>a</condition>b", "a\n\nb"),
            ("a<information>b", "a\n\nb"),
            ("<unreasoned_verdict>a</unreasoned_verdict>", "a"),
            ("<formatted_output>a</formatted_output>", "a"),
            ("<your_verdict/>a<br>b", "a\n\nb"),
        ] {
            assert_eq!(text(reply), wanted, "{reply}");
        }
    }

    #[test]
    fn marks_inside_an_object_are_its_text() {
        let reply = "{\"a\": \"it wrote </think> and <think>\"} after";
        let answer = answer(reply).unwrap();
        assert_eq!(answer.text, reply);
        assert_eq!(answer.objects[0].0, 0..reply.len() - " after".len());
    }

    #[test]
    fn many_marks_take_no_longer_than_their_text() {
        let hostile = "<a>".repeat(300_000) + &"</think>".repeat(100_000);
        assert_eq!(text(&hostile), "");
    }
}
