//! Terminal output: the progress bar or plain lines on stderr, tables on stdout, errors as readable lines.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// The bar; `{unit}` is what is counted.
const BAR_TEMPLATE: &str = "{prefix:.bold} [{bar:20}] {pos}/{len} {unit}  {msg}";

/// Columns of a line where stdout is no terminal.
const PLAIN_COLUMNS: usize = 80;

/// Time between two plain lines of progress.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of a long command: a bar where stderr is a terminal, plain lines elsewhere.
///
/// What is counted has a name: `steps`, `questions`, `exercises`. A count begins with the first call for a stage or a name that
/// is not the one before.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stage: String,
    unit: String,
    began: Instant,
    first_done: u64,
    last_line: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(ProgressBar::no_length);
        let (stage, unit) = (String::new(), String::new());
        Self { bar, stage, unit, began: Instant::now(), first_done: 0, last_line: None }
    }

    /// Says that a stage is getting ready; how much there is to count is not known yet.
    pub(crate) fn prepare(&mut self, stage: &str) {
        stage.clone_into(&mut self.stage);
        self.unit.clear();
        match &self.bar {
            Some(bar) => {
                bar.set_style(style("{prefix:.bold}  {msg}"));
                bar.set_prefix(stage.to_owned());
                bar.set_message("getting ready");
            }
            None => self.line(stage),
        }
    }

    /// Says that `done` of `total` units of the stage are done. `facts` is shown beside it: loss, tokens per second.
    pub(crate) fn count(&mut self, stage: &str, unit: &str, done: u64, total: u64, facts: &str) {
        if self.stage != stage || self.unit != unit {
            self.begin(stage, unit, done, total);
        }
        let mut message = facts.to_owned();
        if let Some(left) = self.time_left(done, total) {
            let separator = if message.is_empty() { "" } else { "  " };
            let _ = write!(message, "{separator}ETA {}", clock(left));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(message);
            return;
        }
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) || done == total;
        if is_due && total > 0 {
            self.last_line = Some(Instant::now());
            self.line(format!("{stage}: {done}/{total} {unit}  {message}").trim_end());
        }
    }

    fn begin(&mut self, stage: &str, unit: &str, done: u64, total: u64) {
        stage.clone_into(&mut self.stage);
        unit.clone_into(&mut self.unit);
        (self.began, self.first_done, self.last_line) = (Instant::now(), done, None);
        if let Some(bar) = &self.bar {
            // A bar of nothing is no bar.
            let template = if total == 0 { "{prefix:.bold}  {msg}" } else { BAR_TEMPLATE };
            bar.set_style(style(&template.replace("{unit}", unit)));
            bar.set_prefix(stage.to_owned());
        }
    }

    /// Prints a line that stays, above the bar where there is one.
    pub(crate) fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Removes the bar; called before results are printed.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Time left at the speed since the first count in this process.
    fn time_left(&self, done: u64, total: u64) -> Option<Duration> {
        let counted = done.checked_sub(self.first_done).filter(|counted| *counted > 0)?;
        let left = total.checked_sub(done)?;
        (left > 0).then(|| self.began.elapsed().mul_f64(left as f64 / counted as f64))
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("invariant: a valid constant template").progress_chars("=> ")
}

/// Writes a duration as `m:ss` or `h:mm:ss`.
pub(crate) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Writes a count of bytes with its unit: `1.5 GiB`, `12.0 MiB`, `3.1 KiB`, `17 B`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    units
        .iter()
        .find(|(_, size)| count >= *size)
        .map_or_else(|| format!("{count} B"), |(name, size)| format!("{:.1} {name}", count as f64 / *size as f64))
}

/// Writes a large number in three digits: `1.23 M`, `45.6 k`, `789`.
pub(crate) fn count(number: f64) -> String {
    let units = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    let Some((name, size)) = units.iter().find(|(_, size)| number >= *size) else { return format!("{number:.0}") };
    format!("{} {name}", three_digits(number / size))
}

/// Writes a number in three digits, and all of those before its point: `0.12`, `1.23`, `45.6`, `7890`.
pub(crate) fn three_digits(number: f64) -> String {
    let digits = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
    format!("{number:.digits$}")
}

/// Writes a number of things: `1 fault`, `2 faults`.
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Columns that a line on stdout has room for.
fn columns() -> usize {
    let terminal = console::Term::stdout();
    let size = if terminal.is_term() { terminal.size_checked() } else { None };
    size.map_or(PLAIN_COLUMNS, |(_, columns)| usize::from(columns).max(40))
}

/// Writes words behind a name, broken at the terminal's width; further lines begin below the first word.
pub(crate) fn paragraph(name: &str, text: &str) -> String {
    paragraph_within(columns(), name, text)
}

fn paragraph_within(columns: usize, name: &str, text: &str) -> String {
    let indent = name.chars().count();
    let mut out = name.to_owned();
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > columns {
            let _ = write!(out, "\n{:indent$}", "");
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

/// Joins lines, of which those wider than the terminal are broken between words.
pub(crate) fn lines(lines: &[String]) -> String {
    let columns = columns();
    let broken = |line: &String| match line.chars().count() <= columns {
        true => line.clone(),
        false => paragraph_within(columns, &" ".repeat(line.len() - line.trim_start().len()), line),
    };
    lines.iter().map(broken).collect::<Vec<_>>().join("\n")
}

/// Draws a table in plain characters: the first column to the left, the others to the right. Where it is wider than the terminal,
/// cells are broken between words; where that does not suffice, the columns are told in several tables under each other, each
/// with the first column.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    table_within(columns(), CellAlignment::Right, header, rows)
}

/// Draws a table as [`table`] does, with all columns to the left.
pub(crate) fn table_of_words(header: &[&str], rows: &[Vec<String>]) -> String {
    table_within(columns(), CellAlignment::Left, header, rows)
}

/// Stands for a blank at which no line is broken.
const HELD: &str = "\u{a0}";

/// Holds a number and its unit together.
fn unbroken(cell: &str) -> String {
    const UNITS: [&str; 6] = ["GiB", "MiB", "KiB", "B", "k", "M"];
    match cell.rsplit_once(' ') {
        Some((number, unit)) if UNITS.contains(&unit) && number.parse::<f64>().is_ok() => {
            format!("{number}{HELD}{unit}")
        }
        _ => cell.to_owned(),
    }
}

/// Draws a table whose columns behind the first are aligned as is said.
fn table_within(columns: usize, others: CellAlignment, header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| unbroken(cell)).collect()).collect();
    let texts = |column: usize| {
        let cells = rows.iter().filter_map(move |row| row.get(column).map(String::as_str));
        std::iter::once(header[column]).chain(cells)
    };
    let longest_word = |column| texts(column).flat_map(|text| text.split(' ')).map(console::measure_text_width).max();
    let least: Vec<usize> = (0..header.len()).map(|column| longest_word(column).unwrap_or(0)).collect();
    let natural = (0..header.len()).map(|column| texts(column).map(console::measure_text_width).max().unwrap_or(0));
    let mut widths: Vec<usize> = natural.collect();
    let mut drawn = Vec::new();
    let mut from = 1;
    loop {
        // the first column, and as many further ones as fit at their least width
        let mut shown = vec![0];
        let mut taken = 1 + least[0] + 3;
        while from < header.len() && (shown.len() == 1 || taken + least[from] + 3 <= columns) {
            shown.push(from);
            taken += least[from] + 3;
            from += 1;
        }
        while shown.iter().map(|column| widths[*column] + 3).sum::<usize>() + 1 > columns {
            let widest = shown.iter().copied().filter(|column| widths[*column] > least[*column]);
            let Some(widest) = widest.max_by_key(|column| widths[*column]) else { break };
            widths[widest] -= 1;
        }
        drawn.push(draw(others, header, &rows, &shown, &widths));
        if from >= header.len() {
            return drawn.join("\n\n").replace(HELD, " ");
        }
    }
}

fn draw(others: CellAlignment, header: &[&str], rows: &[Vec<String>], shown: &[usize], widths: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(shown.iter().map(|column| header[*column]));
    for row in rows {
        table.add_row(shown.iter().map(|column| {
            let alignment = if *column == 0 { CellAlignment::Left } else { others };
            Cell::new(row.get(*column).map_or("", String::as_str)).set_alignment(alignment)
        }));
    }
    let width = |column: &usize| ColumnConstraint::Absolute(Width::Fixed(widths[*column] as u16 + 2));
    table.set_constraints(shown.iter().map(width));
    table.to_string()
}

/// Writes an argument as a shell reads it.
pub(crate) fn shell_word(argument: &str) -> String {
    let is_plain = argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=,@+".contains(&byte));
    match is_plain && !argument.is_empty() {
        true => argument.to_owned(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    }
}

/// Prints an error and its causes, each on a line of its own, nothing said twice.
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("{}", error_text(error));
}

/// Writes an error and its causes, each on a line of its own, nothing said twice.
pub(crate) fn error_text(error: &anyhow::Error) -> String {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if told.iter().any(|earlier| earlier.contains(&cause)) {
            continue;
        }
        // Whoever says all of what stands before, and more, says it alone.
        told.retain(|earlier| !cause.contains(earlier.as_str()));
        told.push(cause);
    }
    format!("error: {}", told.join("\nbecause: ").replace('\n', "\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(clock(Duration::from_secs(75)), "1:15");
        assert_eq!(clock(Duration::from_secs(3_675)), "1:01:15");
        assert_eq!([7.0, 1234.0, 45_600.0, 789_000.0, 1.2e9].map(count), ["7", "1.23 k", "45.6 k", "789 k", "1.20 G"]);
        let words = ["a/b-c.toml", "two words", "it's", ""].map(shell_word);
        assert_eq!(words, ["a/b-c.toml", "'two words'", "'it'\\''s'", "''"]);
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }

    #[test]
    fn a_table_is_no_wider_than_the_terminal_and_breaks_no_word() {
        let stages = ["base", "group1", "group2", "align", "group3", "group4", "align2"];
        for num_stages in 1..=stages.len() {
            let header: Vec<&str> =
                ["measured", "n", "chance"].into_iter().chain(stages).take(3 + num_stages).collect();
            let cells = ["finance reasoning", "200", "33.3", "0.5"].into_iter();
            let row: Vec<String> = cells.chain(vec!["48.5 (+48.0)"; num_stages - 1]).map(str::to_owned).collect();
            let drawn = table_within(80, CellAlignment::Right, &header, &[row]);
            assert!(drawn.lines().all(|line| line.chars().count() <= 80), "{drawn}");
            assert_eq!(drawn.matches("48.5").count(), num_stages - 1, "{drawn}");
            assert_eq!(drawn.matches("(+48.0)").count(), num_stages - 1, "{drawn}");
            assert!(header.iter().all(|name| drawn.contains(name)), "{drawn}");
        }
        let cells = ["group1", &"a word ".repeat(12), "221.2 MiB"].map(str::to_owned);
        let sizes = table_within(80, CellAlignment::Right, &["stage", "data", "memory"], &[cells.to_vec()]);
        assert!(sizes.contains("221.2 MiB"), "{sizes}");
        let narrow = table_within(80, CellAlignment::Right, &["a", "b"], &[vec!["x".to_owned(), "1".to_owned()]]);
        assert_eq!(narrow, "| a | b |\n|---|---|\n| x | 1 |");
    }

    #[test]
    fn words_are_broken_between_lines_and_stand_below_each_other() {
        assert_eq!(paragraph_within(20, "groups: ", "@all @chat @finance"), "groups: @all @chat\n        @finance");
        assert_eq!(paragraph_within(10, "a ", "unbreakable-word b"), "a unbreakable-word\n  b");
    }

    #[test]
    fn an_error_says_nothing_twice() {
        let chain = |messages: &[&str]| {
            let mut messages = messages.iter().rev().map(|message| (*message).to_owned());
            let innermost = anyhow::Error::msg(messages.next().expect("a message"));
            error_text(&messages.fold(innermost, anyhow::Error::context))
        };
        for (messages, want) in [
            (&["it fails"][..], "error: it fails"),
            (&["cannot read a", "not found"], "error: cannot read a\n  because: not found"),
            (&["cannot read a: not found", "not found"], "error: cannot read a: not found"),
            (&["cannot read a", "cannot read a: not found", "not found"], "error: cannot read a: not found"),
            (&["it fails", "two\nlines", "two\nlines"], "error: it fails\n  because: two\n  lines"),
        ] {
            assert_eq!(chain(messages), want);
        }
    }
}
