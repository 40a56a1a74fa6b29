//! Terminal output: the progress bar or plain lines on stderr, tables on stdout, errors as readable lines.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines of progress.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of a long command: a bar where stderr is a terminal, plain lines elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    stage: String,
    steps: u64,
    began: Instant,
    first_step: u64,
    last_line: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            bar.set_style(
                ProgressStyle::with_template("{prefix:.bold} [{bar:28}] {pos}/{len}  {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar
        });
        Self { bar, stage: String::new(), steps: 0, began: Instant::now(), first_step: 0, last_line: None }
    }

    /// Starts a stage of `steps` steps.
    pub(crate) fn begin(&mut self, stage: &str, steps: u64) {
        stage.clone_into(&mut self.stage);
        self.steps = steps;
        self.began = Instant::now();
        self.first_step = 0;
        self.last_line = None;
        if let Some(bar) = &self.bar {
            bar.set_prefix(stage.to_owned());
            bar.set_length(steps);
            bar.set_position(0);
            bar.set_message("");
        } else {
            self.line(&format!("{stage}: {steps} steps"));
        }
    }

    /// Says that `step` of the stage is done. `facts` is shown beside it: loss, tokens per second.
    pub(crate) fn step(&mut self, step: u64, steps: u64, facts: &str) {
        if self.first_step == 0 {
            self.first_step = step.max(1);
        }
        self.steps = steps;
        let eta = self.eta(step);
        let mut message = facts.to_owned();
        if let Some(eta) = eta {
            let separator = if message.is_empty() { "" } else { "  " };
            let _ = write!(message, "{separator}ETA {}", clock(eta));
        }
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            bar.set_position(step);
            bar.set_message(message);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) || step == steps;
        if due {
            self.last_line = Some(Instant::now());
            self.line(&format!("{}: step {step}/{steps}  {message}", self.stage));
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

    /// Time left at the speed of this stage since its first step in this process.
    fn eta(&self, step: u64) -> Option<Duration> {
        let done = step.checked_sub(self.first_step)?;
        (done > 0 && self.steps >= step).then(|| self.began.elapsed().mul_f64((self.steps - step) as f64 / done as f64))
    }
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
    let value = number / size;
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {name}")
}

/// Writes a number of things: `1 fault`, `2 faults`.
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Draws a table in plain characters: the first column to the left, the others to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(column, text)| {
            let alignment = if column == 0 { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    table.to_string()
}

/// Draws a table in plain characters with all columns to the left.
pub(crate) fn table_of_words(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().copied());
    table.add_rows(rows);
    table.to_string()
}

/// Prints an error and its causes, each on a line of its own, nothing said twice.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, "\n  because: {}", cause.replace('\n', "\n           "));
        }
    }
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(clock(Duration::from_secs(75)), "1:15");
        assert_eq!(clock(Duration::from_secs(3_675)), "1:01:15");
        assert_eq!([7.0, 1234.0, 45_600.0, 789_000.0, 1.2e9].map(count), ["7", "1.23 k", "45.6 k", "789 k", "1.20 G"]);
        assert_eq!(bytes(17), "17 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }
}
