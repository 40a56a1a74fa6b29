//! One of a fixed set of labels in a reply.

use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use super::answer::{Marked, first_line, last_line, marked_answers, strip_wrapping};
use super::letter::leading_letter;

/// The labels, and how one is found.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelStep {
    /// The labels; case does not matter. Where there are none, those of `generate.labels_from`. Default `[]`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// When a reply counts as a label.
    pub how: LabelMatch,
}

/// When a reply counts as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LabelMatch {
    /// The reply, without case and surrounding punctuation, is the label.
    Strict,
    /// The first label of the list that stands anywhere in the reply: how the FLARE tasks are scored (PIXIU), so
    /// `not positive` counts as `positive`.
    Substring,
    /// The one label that the reply names as a whole word. Of a reply with an answer mark the marked line counts. A first
    /// sentence or last line that is a label alone decides over what is said elsewhere, unless the two differ; so does a
    /// clause that the rest explains (`It is negative, although ...`). Questions name none. Labels that are negated in their
    /// clause (`not positive`, `far from positive`) are left out, a label inside a longer one (`very positive`) is not named
    /// by it, and a reply that still names several labels names none. Labels that are single
    /// letters are looked for as the step `leading_letter` does, since `a` is a word.
    FirstWord,
}

impl LabelStep {
    pub(super) fn run(&self, text: &str) -> Option<String> {
        let found = match self.how {
            LabelMatch::Strict => self.spelt_as(text),
            LabelMatch::Substring => {
                let text = text.to_lowercase();
                self.labels.iter().find(|label| text.contains(&label.to_lowercase()))
            }
            LabelMatch::FirstWord if self.labels.iter().all(|label| is_letter(label)) => {
                leading_letter(text).and_then(|letter| self.spelt_as(&letter))
            }
            LabelMatch::FirstWord => self.named_in(text),
        };
        found.cloned()
    }

    /// The label that a text is, without case, white space and surrounding punctuation.
    pub(crate) fn spelt_as(&self, text: &str) -> Option<&String> {
        let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let whole = spaced(strip_wrapping(text));
        let bare = whole.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
        // `A+` is a label of its own, not `A` with punctuation.
        let is = |text: &str| self.labels.iter().find(|label| spaced(label) == text);
        is(&whole).or_else(|| is(bare))
    }

    fn named_in(&self, text: &str) -> Option<&String> {
        let behind = |answers: &[String]| answers.iter().find_map(|answer| self.named_in_unmarked(answer));
        match marked_answers(text) {
            Marked::Strong(answers) => behind(&answers),
            Marked::Weak(answers) => {
                // Where prose names no label (`this answer is based on`), a first line that is a label still does.
                let first = first_line(text).and_then(|line| self.alone(first_sentence(line)));
                agreed(first, behind(&answers))
            }
            Marked::None => self.named_in_unmarked(text),
        }
    }

    fn named_in_unmarked(&self, text: &str) -> Option<&String> {
        let first = first_line(text).and_then(|line| self.alone(first_sentence(line)));
        let last = last_line(text).and_then(|line| self.alone(line));
        if first.or(last).is_some() {
            return agreed(first, last);
        }
        let text = without_questions(&text.to_lowercase().replace('\u{2019}', "'"));
        main_clause(&text).and_then(|clause| self.only_mention(clause)).or_else(|| self.only_mention(&text))
    }

    /// The label that a sentence is, also after a name and a colon: `Sentiment: positive`.
    fn alone(&self, sentence: &str) -> Option<&String> {
        self.spelt_as(sentence).or_else(|| {
            let (name, label) = sentence.split_once(':')?;
            (name.split_whitespace().count() <= 3).then(|| self.spelt_as(label))?
        })
    }

    /// The one label that is named and not negated.
    fn only_mention(&self, text: &str) -> Option<&String> {
        let mut mentions: Vec<(usize, usize, &String)> = Vec::new();
        for label in &self.labels {
            let word = label.trim().to_lowercase();
            let is_answer = |at: &usize| word != "no" || answers_no(&text[at + word.len()..]);
            mentions.extend(whole_words(text, &word).filter(is_answer).map(|at| (at, at + word.len(), label)));
        }
        let is_inside = |mention: &(usize, usize, &String)| {
            let holds = |other: &&(usize, usize, &String)| {
                other.0 <= mention.0 && mention.1 <= other.1 && other.1 - other.0 > mention.1 - mention.0
            };
            mentions.iter().any(|other| holds(&other))
        };
        let mut named = mentions
            .iter()
            .filter(|mention| !is_inside(mention) && !self.is_negated(&text[..mention.0]))
            .map(|(_, _, label)| *label);
        let label = named.next()?;
        named.all(|other| other == label).then_some(label)
    }

    /// Whether what stands before a label denies it: a negation before it in the same clause.
    fn is_negated(&self, before: &str) -> bool {
        static CLAUSE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"[.,;:!?()\n\u{2192}]|\s[-\u{2013}]\s|\u{2014}|\bbut\b|\bnot only\b")
                .expect("invariant: a valid constant pattern")
        });
        static NEGATION: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(
                r"(?x)
                # Negations of all that follows in their clause,
                \b(?:not|never|neither|nor|cannot|without|hardly|lacks?|lacking|unlikely|nothing|no\ longer)\b
                | n't\b
                | \b(?:far\ from|rather\ than|instead\ of|free\ (?:of|from)|fail(?:s|ed)?\ to|opposite\ of)\b
                | \b(?:wrong|incorrect|inaccurate|mistaken|misleading|false)\ to\b
                # and of the next word.
                | \b(?:non|un|less)\W*$",
            )
            .expect("invariant: a valid constant pattern")
        });
        static NO: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r"\bno\b").expect("invariant: a valid constant pattern"));
        // `anything but` denies, though `but` alone begins a clause.
        let before = before.replace("anything but", "not");
        let clause = CLAUSE.split(&before).last().unwrap_or_default();
        // Where `no` is a label it answers, it does not deny.
        let no_is_label = self.labels.iter().any(|label| label.trim().eq_ignore_ascii_case("no"));
        NEGATION.is_match(clause) || (!no_is_label && NO.is_match(clause))
    }
}

/// Two readings of one reply: the one that there is, or both where they are the same.
fn agreed<'a>(one: Option<&'a String>, other: Option<&'a String>) -> Option<&'a String> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The text without the sentences that ask.
fn without_questions(text: &str) -> String {
    static QUESTION: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"[^.!?\n]*\?").expect("invariant: a valid constant pattern"));
    QUESTION.replace_all(text, "").into_owned()
}

/// The clause that a text opens with, where what follows only explains it.
fn main_clause(text: &str) -> Option<&str> {
    static EXPLANATION: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[,;\s]\s*(?:although|though|even|as|because|since|despite|while|given|due)\s")
            .expect("invariant: a valid constant pattern")
    });
    Some(&text[..EXPLANATION.find(text)?.start()])
}

/// Whether a `no` before this text answers rather than denies the noun that follows: `no.`, `no, it is`, `no because`.
fn answers_no(after: &str) -> bool {
    static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(?:\s*[^\w\s]|\s*$|\s*\n|\s+(?:because|since|as|or|and|it|they|this|that|he|she|the)\b)")
            .expect("invariant: a valid constant pattern")
    });
    ANSWER.is_match(after)
}

fn is_letter(label: &str) -> bool {
    label.trim().len() == 1 && label.trim().chars().all(|c| c.is_ascii_alphabetic())
}

/// A line up to its first full stop, or to a dash; nothing of one that begins with a question.
fn first_sentence(line: &str) -> &str {
    static END: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[.!?;](?:\W|$)|\s[-\u{2013}]\s|\u{2014}|\s\(|\sbecause\b|\ssince\b")
            .expect("invariant: a valid constant pattern")
    });
    match END.find(line) {
        // What is asked is not said.
        Some(end) if end.as_str().starts_with('?') => "",
        Some(end) => &line[..end.start()],
        None => line,
    }
}

fn whole_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_inside = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !is_inside(text[..*at].chars().next_back()) && !is_inside(text[at + word.len()..].chars().next())
    })
}
