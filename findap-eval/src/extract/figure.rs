//! The one reader of figures: what stands for which number in a reply, a right answer or a cell.
//!
//! The rules, which are those of English financial text:
//! - Commas, apostrophes and no-break spaces group thousands and stand before groups of three only; a point opens decimals.
//!   `1,23`, `1.2.3`, `0,123` and `1 234` (which may be two figures) are unreadable: they are no number, never a wrong one.
//! - A minus stands directly before the digits or their currency sign: `-5`, `-$5`, `$-5`, U+2212 and its kin. An en dash is
//!   a minus only where an answer begins. A hyphen after a letter, digit or hyphen is none: `2019-2020`, `10-K`, `16-3`.
//! - Parentheses around a figure make it negative where a value begins or a loss is told, `(1,234)`, `Net: (5)`, `a loss of
//!   (5)`; behind other words they hold a remark: `forty-two (42)`, `step (2)`. `minus 5` and `negative 5` are negative too.
//! - What is no decimal number as a whole, `10:30`, `1.27:1`, `1 1/2`, `2^5`, `2 dozen` or a fraction of a formula, is unreadable too.
//! - A percent sign and a currency sign are no part of the number: `12.6%` is 12.6, as in the gold answers of the tasks.
//! - `1.2e3` and `1.2 x 10^3` are 1200. Scale words (`3 million`, `3m`, `3bn`) count where a step asks for them.
//! - Full-width digits and signs, and the LaTeX spellings `\$`, `\%`, `{,}`, are read as the plain ones.

use std::sync::LazyLock;

use regex::Regex;

/// Exponents beyond this are no figure of any report.
const MAX_EXPONENT: i32 = 30;

/// One figure of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figure {
    /// Where it begins in the text that [`figures`] gives back, its sign, currency and parentheses included.
    pub(super) start: usize,
    /// Where it ends.
    pub(super) end: usize,
    is_negative: bool,
    /// Digits, grouping and point as written, in ASCII.
    digits: String,
    exponent: i32,
    /// Power of ten that the scale words after it stand for.
    scale_exponent: i32,
}

impl Figure {
    /// Whether a scale word stands behind it.
    pub(super) fn has_scale(&self) -> bool {
        self.scale_exponent != 0
    }

    /// As written, without currency and percent: `-1,234.5` for `-$1,234.5` and for `(1,234.5)`.
    pub(super) fn written(&self) -> String {
        let sign = if self.is_negative { "-" } else { "" };
        match self.exponent {
            0 => format!("{sign}{}", self.digits),
            exponent => format!("{sign}{}e{exponent}", self.digits),
        }
    }

    /// One spelling per number: `-1234.5`.
    pub(super) fn normal(&self, with_scale: bool) -> String {
        let plain: String = self.digits.chars().filter(|c| c.is_ascii_digit() || *c == '.').collect();
        let exponent = self.exponent + if with_scale { self.scale_exponent } else { 0 };
        let (whole, fraction) = shift_point(&plain, exponent);
        let whole = match whole.trim_start_matches('0') {
            "" => "0",
            whole => whole,
        };
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        let sign = if self.is_negative && (whole != "0" || !fraction.is_empty()) { "-" } else { "" };
        format!("{sign}{whole}{point}{fraction}")
    }
}

/// Whole part and fraction of a decimal number times a power of ten.
fn shift_point(plain: &str, exponent: i32) -> (String, String) {
    let (whole, fraction) = plain.split_once('.').unwrap_or((plain, ""));
    let moved = usize::try_from(exponent.unsigned_abs()).unwrap_or(0);
    if exponent >= 0 {
        let fraction = format!("{fraction:0<moved$}");
        (format!("{whole}{}", &fraction[..moved]), fraction[moved..].to_owned())
    } else {
        let whole = format!("{whole:0>moved$}");
        let border = whole.len() - moved;
        (whole[..border].to_owned(), format!("{}{fraction}", &whole[border..]))
    }
}

/// The text in plain characters: what [`figures`] reads and its places count in.
pub(super) fn plain(text: &str) -> String {
    let text =
        text.replace("{,}", ",").replace(r"\!", "").replace(r"\$", "$").replace(r"\%", "%").replace(r"\,", "\u{a0}");
    // Brackets of formulas are no parentheses.
    let text = [r"\(", r"\)", r"\[", r"\]"].iter().fold(text, |text, bracket| text.replace(bracket, " "));
    let replace = |character: char| match character {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(character) - 0xfee0).unwrap_or(character),
        '\u{3000}' => ' ',
        '\u{2212}' | '\u{fe63}' | '\u{2796}' | '\u{2d7}' | '\u{2010}' | '\u{2011}' => '-',
        '\u{2012}' => '\u{2013}',
        '\u{202f}' | '\u{2007}' | '\u{2009}' => '\u{a0}',
        '\u{2019}' => '\'',
        other => other,
    };
    text.chars().map(replace).collect()
}

/// All figures of a text made [`plain`], in their order; `None` for digits that are no readable number.
pub(super) fn figures(text: &str) -> Vec<Option<Figure>> {
    static DIGITS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)
            # What is no decimal number as a whole has no figure in its parts either: fractions of formulas,
              \\[dt]?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d)
            # mixed numbers,
            | \b\d+\ \d+/\d+
            | (?:\d[\d.,]*\ ?)?[\u{bc}-\u{be}\u{2150}-\u{215e}]
            # times and ratios: `10:30`, `1.27:1`,
            | \d[\d.,]*(?::\d[\d.]*)+
            # powers in raised digits,
            | \d[\d.,]*[\u{b2}\u{b3}\u{b9}\u{2070}-\u{2079}]
            # or written with a sign, and dozens,
            | \d[\d.,]*\^\{?[-+]?\d+\}?
            | \d[\d.,]*[\ \u{a0}-]?(?i:dozens?)\b
            # and groups with blanks between them, which may be several figures.
            | \b\d{1,3}(?:\ \d{3})+\b(?:[.,]\d+)?
            # A number, from its point or first digit to its last digit.
            | \.?\d(?:[\d.,'\u{a0}]*\d)?",
        )
        .expect("invariant: a valid constant pattern")
    });
    let mut found = Vec::new();
    let mut place = 0;
    while let Some(digits) = DIGITS.find_at(text, place) {
        let mut start = digits.start();
        // The point of `Sec.5` belongs to the word.
        if digits.as_str().starts_with('.') && ends_with(&text[..start], char::is_alphanumeric) {
            start += 1;
        }
        let (figure, end_of_number) = match is_english_number(&text[start..digits.end()]) {
            true => read_around(text, start, digits.end()),
            false => (None, digits.end()),
        };
        found.push(figure);
        place = end_of_number;
    }
    found
}

fn is_english_number(token: &str) -> bool {
    let (whole, fraction) = token.split_once('.').unwrap_or((token, "0"));
    let Some(separator) = whole.chars().find(|c| !c.is_ascii_digit()) else { return is_digits(fraction) };
    let mut groups = whole.split(separator);
    let first = groups.next().unwrap_or_default();
    matches!(separator, ',' | '\'' | '\u{a0}')
        && (1..=3).contains(&first.len())
        && is_digits(first)
        && !first.starts_with('0')
        && groups.all(|group| group.len() == 3 && is_digits(group))
        && is_digits(fraction)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// Sign, parentheses, exponent, percent and scale around readable digits. The second value is the end of the digits and
/// their exponent; the figure is `None` where the exponent is out of range.
fn read_around(text: &str, start: usize, end: usize) -> (Option<Figure>, usize) {
    let (exponent, exponent_len) = exponent(&text[end..]);
    let end_of_number = end + exponent_len;
    let (scale_exponent, unit_len) = unit(&text[end_of_number..]);
    let mut figure = Figure {
        start,
        end: end_of_number + unit_len,
        is_negative: false,
        digits: text[start..end].to_owned(),
        exponent,
        scale_exponent,
    };
    let (sign, before) = strip_sign_and_currency(&text[..start]);
    figure.is_negative = sign.unwrap_or(false);
    figure.start = before.len();
    let closing = text[figure.end..].trim_start_matches(' ');
    if let (Some(before), Some(rest)) = (before.trim_end_matches(' ').strip_suffix('('), closing.strip_prefix(')')) {
        let (outer_sign, outside) = strip_sign_and_currency(before);
        figure.is_negative = match (sign, outer_sign) {
            // Brackets around a signed figure are those of a formula.
            (Some(is_negative), _) => is_negative,
            (None, Some(is_negative)) => is_negative,
            (None, None) => is_accounting(before),
        };
        figure.start = outside.len();
        let (scale_exponent, unit_len) = unit(rest);
        figure.scale_exponent += scale_exponent;
        figure.end = text.len() - rest.len() + unit_len;
    } else if let (None, Some(before)) = (sign, strip_negative_word(before)) {
        figure.is_negative = true;
        figure.start = before.len();
    }
    ((exponent.abs() <= MAX_EXPONENT).then_some(figure), end_of_number)
}

/// The minus (`true`) or plus at the end of a text, before or behind a currency sign, and what stands before both.
fn strip_sign_and_currency(before: &str) -> (Option<bool>, &str) {
    let (sign, rest) = strip_sign(before);
    let rest = strip_currency(rest);
    if sign.is_some() { (sign, rest) } else { strip_sign(rest) }
}

fn strip_sign(before: &str) -> (Option<bool>, &str) {
    if let Some(rest) = before.strip_suffix('+') {
        return if ends_with(rest, char::is_alphanumeric) { (None, before) } else { (Some(false), rest) };
    }
    if let Some(rest) = before.strip_suffix('-') {
        let is_hyphen = ends_with(rest, |c| c.is_alphanumeric() || matches!(c, '-' | ')' | '%'));
        return if is_hyphen { (None, before) } else { (Some(true), rest) };
    }
    if let Some(rest) = before.strip_suffix('\u{2013}') {
        let opens = rest.trim_end().is_empty()
            || ends_with(rest.trim_end_matches(' '), |c| matches!(c, ':' | '=' | '(' | '|' | '*' | '`' | '"' | '\n'));
        return if opens { (Some(true), rest) } else { (None, before) };
    }
    (None, before)
}

const CURRENCY_SIGNS: [char; 6] = ['$', '\u{20ac}', '\u{a3}', '\u{a5}', '\u{20b9}', '\u{20a9}'];
const CURRENCY_CODES: [&str; 14] =
    ["USD", "EUR", "GBP", "JPY", "CHF", "CNY", "RMB", "INR", "HKD", "AUD", "CAD", "SGD", "Rs.", "Rs"];

fn strip_currency(before: &str) -> &str {
    let trimmed = before.trim_end_matches([' ', '\u{a0}']);
    if let Some(rest) = trimmed.strip_suffix(CURRENCY_SIGNS) {
        // US$, HK$, A$
        let prefix = rest.trim_end_matches(|c: char| c.is_ascii_uppercase());
        return if rest.len() - prefix.len() <= 3 && !ends_with(prefix, char::is_alphanumeric) { prefix } else { rest };
    }
    let code = CURRENCY_CODES.iter().find_map(|code| trimmed.strip_suffix(code));
    code.filter(|rest| !ends_with(rest, char::is_alphanumeric)).unwrap_or(before)
}

/// What stands before `minus` or `negative`, where that is a sign and no operator.
fn strip_negative_word(before: &str) -> Option<&str> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?ix)(?:
                \b(negative)
                # `minus` is an operator but where a value begins.
              | (?:^|[:=(,*]|\b(?:is|was|are|were|be|of|by|to|at|equals)\b)\s*(minus)
            )\s+$",
        )
        .expect("invariant: a valid constant pattern")
    });
    // The word stands near: a long text is not searched anew for each of its figures.
    let near = before.char_indices().rev().nth(31).map_or(0, |(at, _)| at);
    let found = WORD.captures(&before[near..])?;
    found.get(1).or_else(|| found.get(2)).map(|word| &before[..near + word.start()])
}

/// Whether parentheses after this text are those of accounting, a minus: where nothing but a currency or a sign that opens a
/// value stands before them, or a word of loss shortly before. Behind other words they hold a remark: `step (2)`.
fn is_accounting(before: &str) -> bool {
    static LOSS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)\b(?:loss(?:es)?|decreas\w*|deficits?|changes?|net)\b(?:\s+\w+){0,2}$")
            .expect("invariant: a valid constant pattern")
    });
    let value = before.trim_end_matches([' ', '*', '_', '`', '"']);
    let near = value.char_indices().rev().nth(47).map_or(0, |(place, _)| place);
    value.is_empty()
        || ends_with(value, |c| matches!(c, ':' | '=' | '|' | '\u{2248}' | '\n' | '#'))
        || strip_currency(before).len() < before.len()
        || LOSS.is_match(&value[near..])
}

/// Whether a minus stands at the end of the text as the sign of what follows it.
pub(super) fn ends_in_minus(before: &str) -> bool {
    let before = plain(before);
    let (sign, rest) = strip_sign(before.trim_end_matches(['$', ' ']));
    let is_direct = !before.trim_end_matches('$').ends_with(' ');
    sign == Some(true) && (is_direct || rest.trim_end().is_empty() || rest.trim_end().ends_with(['=', ':']))
}

/// The power of ten written after digits, and the length of its spelling: `e3`, ` x 10^3`, `\times 10^{3}`.
fn exponent(after: &str) -> (i32, usize) {
    static EXPONENT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)^(?:
                # e3
                [eE]([+-]?\d{1,4})\b
                # x 10^3, \times 10^{3}
              | \s*(?:[x\u{d7}*\u{b7}]|\\times|\\cdot)\s*10\s*(?:\^|\*\*)\s*(?:\{([+-]?\d{1,4})\}|([+-]?\d{1,4})\b)
            )",
        )
        .expect("invariant: a valid constant pattern")
    });
    let Some(found) = EXPONENT.captures(after) else { return (0, 0) };
    let digits = (1..=3).find_map(|group| found.get(group)).map_or("0", |group| group.as_str());
    (digits.parse().unwrap_or(i32::MAX), found[0].len())
}

/// The power of ten of the scale words after a number, and the length of scale words, percent sign and currency.
fn unit(after: &str) -> (i32, usize) {
    static SCALE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?ix)^(?:
                # Words and short forms, also behind a blank,
                [\ \u{a0}-]?(hundred|thousand|lakh|million|crore|billion|trillion|mill?|mln|bil|bln|mn|bn|tn|mm)s?
                # letters directly behind the digits, and capital ones behind a blank, where a `b` is a list's mark before a word.
              | (k|m|b|t)
              | [\ \u{a0}]((?-i:[KMBTb]))
            )\b",
        )
        .expect("invariant: a valid constant pattern")
    });
    static PERCENT_OR_CURRENCY: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x)^[\ \u{a0}]?(?:
                %|(?i:percent|per\ cent|pct)\b
              | [$\u{20ac}\u{a3}\u{a5}\u{20b9}\u{20a9}]
              | (?:USD|EUR|GBP|JPY|CHF|CNY|RMB|INR|HKD|AUD|CAD|SGD)\b
            )",
        )
        .expect("invariant: a valid constant pattern")
    });
    let (mut scale, mut length) = (0, 0);
    while let Some(found) = SCALE.captures(&after[length..]) {
        let rest = &after[length + found[0].len()..];
        let is_list_mark = found.get(3).is_some_and(|letter| letter.as_str() == "b")
            && rest.chars().any(|c| c.is_alphanumeric() || c == ')');
        if is_list_mark {
            break;
        }
        let word = (1..=3).find_map(|group| found.get(group)).map_or("", |word| word.as_str()).to_ascii_lowercase();
        scale += match word.as_str() {
            "hundred" => 2,
            "thousand" | "k" => 3,
            "lakh" => 5,
            "million" | "mil" | "mill" | "mln" | "mn" | "mm" | "m" => 6,
            "crore" => 7,
            "billion" | "bil" | "bln" | "bn" | "b" => 9,
            _ => 12,
        };
        length += found[0].len();
    }
    let suffix = PERCENT_OR_CURRENCY.find(&after[length..]).map_or(0, |found| found.end());
    (scale, length + suffix)
}

fn ends_with(text: &str, is: impl Fn(char) -> bool) -> bool {
    text.chars().next_back().is_some_and(is)
}

/// The figure that a text is, where it is one figure and nothing else but quotes, emphasis and a full stop.
pub(super) fn whole_figure(text: &str) -> Option<Figure> {
    let text = plain(text);
    let mut found = figures(&text);
    let figure = found.pop().flatten().filter(|_| found.is_empty())?;
    let is_wrapping = |c: char| c.is_whitespace() || matches!(c, '*' | '_' | '`' | '"' | '\'' | '$');
    let before = text[..figure.start].trim_matches(is_wrapping);
    let after = text[figure.end..].trim_matches(|c| is_wrapping(c) || matches!(c, '.' | ',' | ';' | '!'));
    (before.is_empty() && after.is_empty()).then_some(figure)
}

/// One spelling per number (see [`super::Step::NormalizeNumber`]); text that is not a number is returned trimmed.
pub fn normalize_number(text: &str) -> String {
    // A scale word is no decoration: `3 million` is left as it is, not made 3.
    let figure = whole_figure(text).filter(|figure| !figure.has_scale());
    figure.map_or_else(|| text.trim().to_owned(), |figure| figure.normal(false))
}
