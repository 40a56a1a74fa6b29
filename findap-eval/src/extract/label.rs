//! One of a fixed set of labels in a reply.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use super::answer::{behind_last_mark, unwrap};
use super::letter::leading_letter;

/// Arguments of [`super::Step::Label`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelStep {
    /// The labels; case does not matter.
    pub labels: Vec<String>,
    /// When a reply counts as a label.
    pub how: LabelMatch,
}

/// When a reply counts as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelMatch {
    /// The reply, without case and surrounding punctuation, is the label.
    Strict,
    /// The first label of the list that stands anywhere in the reply: how the FLARE tasks are scored (PIXIU), so
    /// `not positive` counts as `positive`.
    Substring,
    /// The one label that the reply names as a whole word. Of a reply with an answer mark the marked line counts. A first
    /// sentence or last line that is a label alone decides over what is said elsewhere, unless the two differ. Otherwise
    /// labels that are negated (`not positive`, `neither positive nor negative`) are left out, a label inside a longer one
    /// (`very positive`) is not named by it, and a reply that still names several labels names none. Labels that are single
    /// letters are looked for as [`super::Step::LeadingLetter`] does, since `a` is a word.
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
        let whole = spaced(unwrap(text));
        let bare = whole.trim_matches(|c: char| c.is_whitespace() || c.is_ascii_punctuation());
        // `A+` is a label of its own, not `A` with punctuation.
        let is = |text: &str| self.labels.iter().find(|label| spaced(label) == text);
        is(&whole).or_else(|| is(bare))
    }

    fn named_in(&self, text: &str) -> Option<&String> {
        let marked = behind_last_mark(text).map(|answer| answer.lines().find(|line| !line.trim().is_empty()));
        let text = match marked {
            Some(line) => line?,
            None => text,
        };
        let lines = || text.lines().filter(|line| !line.trim().is_empty());
        let first = lines().next().and_then(|line| self.alone(first_sentence(line)));
        let last = lines().next_back().and_then(|line| self.alone(line));
        match (first, last) {
            (Some(first), Some(last)) => (first == last).then_some(first),
            (Some(label), None) | (None, Some(label)) => Some(label),
            (None, None) => self.only_mention(&text.to_lowercase()),
        }
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
            mentions.extend(whole_words(text, &word).map(|at| (at, at + word.len(), label)));
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

    /// Whether what stands before a label denies it: a negation among the five words before it in the same clause.
    fn is_negated(&self, before: &str) -> bool {
        static CLAUSE: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"[.,;:!?()\n\u{2192}]|\s[-\u{2013}]\s|\u{2014}|\bbut\b|\bnot only\b")
                .expect("invariant: a valid constant pattern")
        });
        let clause = CLAUSE.split(before).last().unwrap_or_default().replace('\u{2019}', "'");
        let words: Vec<&str> =
            clause.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|w| !w.is_empty()).collect();
        let near = &words[words.len().saturating_sub(5)..];
        // Where `no` is a label it answers, it does not deny.
        let no_is_label = self.labels.iter().any(|label| label.trim().eq_ignore_ascii_case("no"));
        let denies_next = |word: &&str| matches!(*word, "no" if !no_is_label) || *word == "non";
        let is_phrase = |pair: &[&str]| matches!(pair, ["rather", "than"] | ["instead", "of"] | ["no", "longer"]);
        near.last().is_some_and(denies_next)
            || near.windows(2).any(is_phrase)
            || near.iter().any(|word| {
                matches!(*word, "not" | "never" | "neither" | "nor" | "cannot" | "without") || word.ends_with("n't")
            })
    }
}

fn is_letter(label: &str) -> bool {
    label.trim().len() == 1 && label.trim().chars().all(|c| c.is_ascii_alphabetic())
}

/// A line up to its first full stop, or to a dash.
fn first_sentence(line: &str) -> &str {
    static END: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"[.!?;](?:\W|$)|\s[-\u{2013}]\s|\u{2014}|\s\(|\sbecause\b|\ssince\b")
            .expect("invariant: a valid constant pattern")
    });
    END.find(line).map_or(line, |end| &line[..end.start()])
}

fn whole_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_inside = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        !is_inside(text[..*at].chars().next_back()) && !is_inside(text[at + word.len()..].chars().next())
    })
}
