//! Which of the figures of an answer is the one that it states.

use std::sync::LazyLock;

use regex::Regex;

use super::answer::first_line;
use super::figure::{Figure, figures, plain, whole_figure};

/// The figure that an answer states; `None` where it states none or several between which nothing decides.
///
/// The first line that is not blank counts, without its remarks (`because ...`, and parentheses with a `=` in them). The one
/// figure that is emphasised is it. Of a line with `=` it is that of a side with one figure only: of the first side, where
/// the line opens with that figure, else of the last; one in percent goes before others. Otherwise [`only_figure`] decides.
pub(super) fn stated_figure(text: &str) -> Option<Figure> {
    let text = plain(text);
    let line = without_remarks(first_line(&text)?);
    emphasised_figure(&line).or_else(|| if line.contains(EQUALS) { figure_of_sides(&line) } else { only_figure(&line) })
}

const EQUALS: [char; 2] = ['=', '\u{2248}'];

fn without_remarks(line: &str) -> String {
    static REMARK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?ix) \([^()]*=[^()]*\) | (?P<behind>\d\S*\s.*?)\b(?:because|since|given|where)\b.*")
            .expect("invariant: a valid constant pattern")
    });
    REMARK.replace_all(line, "$behind").into_owned()
}

/// The figure of the one emphasised span that opens with a figure.
fn emphasised_figure(line: &str) -> Option<Figure> {
    let parts: Vec<&str> = line.split("**").collect();
    // An odd mark belongs to emphasis that began elsewhere.
    if parts.len().is_multiple_of(2) {
        return None;
    }
    let mut figures = parts.iter().skip(1).step_by(2).filter(|span| !span.contains(EQUALS)).filter_map(|span| {
        let figure = only_figure(span)?;
        (opens(&signed(span), &figure) && !figure.may_be_year(&signed(span))).then_some(figure)
    });
    let figure = figures.next()?;
    figures.next().is_none().then_some(figure)
}

fn figure_of_sides(line: &str) -> Option<Figure> {
    let sides: Vec<String> = line.split(EQUALS).map(signed).collect();
    let is_percent =
        |side: &&String| only_figure(side).is_some_and(|figure| side[figure.start..figure.end].contains('%'));
    // `3 boxes of 6 = 18` opens with a part of a calculation.
    let is_opened = |side: &&String| only_figure(side).is_some_and(|figure| opens(side, &figure));
    let opening = sides.first().filter(|side| figures(side).len() == 1).filter(is_opened);
    // Unreadable digits decide as well: they end the search.
    let last = || sides.iter().rev().find(|side| figures(side).len() == 1 || only_figure(side).is_some());
    let side = sides.iter().rev().find(is_percent).or(opening).or_else(last)?;
    only_figure(side)
}

/// The figure of a text without `=`. Of a text that opens with a figure it is that one, `72 clips, in 6 boxes`, unless an
/// operator, a range, a list or a smaller unit follows it. Otherwise figures that tell from where or when (`from 20`, `in
/// 2019`, `as of May 3`) are left out, and years beside other figures; it is the one that is left.
fn only_figure(text: &str) -> Option<Figure> {
    let text = &signed(without_list_mark(text));
    // Unreadable digits beside others may be what is stated.
    let found = figures(text).into_iter().collect::<Option<Vec<Figure>>>()?;
    let first = found.first()?;
    let is_joined = |figure: &Figure| goes_on_with_figures(&text[figure.end..]);
    if opens(text, first) && !first.may_be_year(text) {
        return (!is_joined(first)).then(|| first.clone());
    }
    let mut is_side = false;
    let is_main = |figure: &&Figure| {
        is_side = tells_from_where(&text[..figure.start], is_side) || is_day(&text[figure.end..]);
        !is_side
    };
    let main: Vec<&Figure> = match found.as_slice() {
        [only] => vec![only],
        several => several.iter().filter(is_main).collect(),
    };
    let (years, others): (Vec<&Figure>, Vec<&Figure>) = main.into_iter().partition(|figure| figure.may_be_year(text));
    let left = if others.is_empty() { years } else { others };
    let (figure, repeated) = left.split_first()?;
    let is_one = repeated.iter().all(|other| other.normal(true) == figure.normal(true));
    (is_one && !is_joined(figure)).then(|| (*figure).clone())
}

/// A text without the mark of a list before a figure: `1) 18 clips`, `1. 18`. Behind a full stop there may be no word, for it may end a
/// sentence: `5. 3 of them are red.` states 5.
fn without_list_mark(text: &str) -> &str {
    static MARK: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\s*\d([.)])\s+([-$(]*\d.*)").expect("invariant: a valid constant pattern"));
    let Some((_, [mark, rest])) = MARK.captures(text).map(|found| found.extract()) else { return text };
    if mark == ")" || whole_figure(rest).is_some() { rest } else { text }
}

/// A text whose leading minus stands directly before its figure: `- 5` where the text begins is -5.
fn signed(text: &str) -> String {
    static MINUS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^([\s*_`$]*)[-\u{2013}]\s+([$\u{20ac}\u{a3}\u{a5}]?\.?\d)")
            .expect("invariant: a valid constant pattern")
    });
    MINUS.replace(text, "${1}-${2}").into_owned()
}

fn opens(text: &str, figure: &Figure) -> bool {
    !text[..figure.start].chars().any(char::is_alphanumeric)
}

impl Figure {
    /// Whether it is written as a year is: 1900 to 2099 without grouping, point, sign, currency, percent or scale.
    fn may_be_year(&self, text: &str) -> bool {
        text[self.start..self.end].trim().parse().is_ok_and(|year: u32| (1900..2100).contains(&year))
    }
}

const MONTH: &str = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?";

/// Whether what stands before a figure makes it a starting point, a date or a rate; `is_behind_side` where the figure before
/// it is one, after which `to`, `and` and a comma go on.
fn tells_from_where(before: &str, is_behind_side: bool) -> bool {
    static SIDE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!(r"(?x)(?: \b(?i:from|in|during|fy|fiscal|as\ of|as\ at|per|since)\s* | \b{MONTH}\s* )$"))
            .expect("invariant: a valid constant pattern")
    });
    static GOES_ON: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?:\bto|\band|,)\s*$").expect("invariant: a valid constant pattern"));
    // The words stand near: a long text is not searched anew for each of its figures.
    let near = &before[before.char_indices().rev().nth(31).map_or(0, |(place, _)| place)..];
    SIDE.is_match(near) || (is_behind_side && GOES_ON.is_match(near))
}

/// Whether a month follows a figure: `31 December`.
fn is_day(after: &str) -> bool {
    static MONTH_NEXT: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(&format!(r"^\s+{MONTH}(?:\W|$)")).expect("invariant: a valid constant pattern"));
    MONTH_NEXT.is_match(after)
}

/// Whether what follows a figure joins it to the next one: an operator, a range, a list, or a unit and a smaller one.
fn goes_on_with_figures(after: &str) -> bool {
    static JOINED: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)
            # An operator or a word that joins, also behind a remark, and a figure with its sign and currency;
              ^(?:\s*\([^()]*\))?[\s*_`)\]$]*
               (?:[-+*/x\u{d7}\u{f7}\u{b7}\u{2013}^,;&|]|\\times|\\cdot|\\div|(?i:and|or|to|plus|minus|times)\b)
               [\s($]*[-+]?[$\u{20ac}\u{a3}\u{a5}]?\.?\d
            # figures with blanks or a bracket between them;
            | ^(?:\s+|\()\d
            # `3 hours and 20 minutes`, `5 feet 6 inches`.
            | ^[\s-]*(?P<unit>[a-z]+)(?:,?\ and|,)?\s+\d[\d.]*[\s-]*[a-z]",
        )
        .expect("invariant: a valid constant pattern")
    });
    const BEFORE_A_SIDE: [&str; 10] = ["in", "for", "per", "from", "of", "by", "on", "at", "over", "since"];
    let Some(joined) = JOINED.captures(after) else { return false };
    joined.name("unit").is_none_or(|unit| !BEFORE_A_SIDE.contains(&unit.as_str()))
}
