//! What became of every row of a source, from its files to a stage.

use serde::{Deserialize, Serialize};

use super::TokenStore;
use super::report::{StoreReport, WiderContext};

/// Rows and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many rows.
    pub rows: u64,
    /// How many tokens they have.
    pub tokens: u64,
}

impl Amount {
    /// The amount of these rows of a store.
    pub fn of(store: &TokenStore, rows: impl Iterator<Item = u32>) -> Amount {
        rows.fold(Amount::default(), |sum, row| Amount {
            rows: sum.rows + 1,
            tokens: sum.tokens + store.row_tokens(row as usize) as u64,
        })
    }

    /// This amount without a part of it.
    pub fn without(self, part: Amount) -> Amount {
        Amount { rows: self.rows - part.rows, tokens: self.tokens - part.tokens }
    }
}

/// What a stage does with the rows of a source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// It trains on them.
    #[default]
    Train,
    /// It measures its dev loss on them.
    Dev,
}

/// Where the rows of one source went in one stage.
///
/// The rows read are those that cannot be read, are empty, equal pairs or too long, and those to learn. A text longer than the context
/// is one row to learn and several pieces; the pieces of all rows are those that were left out and those that are used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRows {
    /// The source's name in the recipe.
    pub source: String,
    /// What the stage does with them.
    pub purpose: Use,
    /// Rows of its files.
    pub read: u64,
    /// Rows that cannot be read and were skipped.
    pub unreadable: u64,
    /// Rows without text, or without an answer to learn.
    pub empty: u64,
    /// Pairs whose two answers are the same.
    pub equal_answers: u64,
    /// Rows longer than the context.
    pub too_long: Amount,
    /// Rows to learn, in pieces that fit the context.
    pub pieces: Amount,
    /// Pieces left out so that the source has no more than its share.
    pub beyond_share: Amount,
    /// Pieces of texts left out so that there are as many as conversations.
    pub downsampled: Amount,
    /// Pieces that no step of the stage comes to, or that lie behind the tokens of its dev loss.
    pub not_reached: Amount,
    /// Pieces that the stage uses, each at least once.
    pub used: Amount,
    /// Contexts in tokens that would keep more of the rows to learn.
    pub wider_contexts: Vec<WiderContext>,
}

/// Why a piece that was kept is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The source has no more than its share.
    BeyondShare,
    /// There are as many texts as conversations.
    Downsampled,
    /// No step of the stage comes to it, or it is beyond the tokens of the dev loss.
    NotReached,
}

/// One line of the account of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How many rows, pieces or pairs.
    pub rows: u64,
    /// What became of them, as a noun: "rows longer than the context left out".
    pub what: String,
    /// Their tokens, where they are known.
    pub tokens: Option<u64>,
}

impl SourceRows {
    /// The account of a source of which these pieces were kept, and all are used.
    pub(super) fn new(source: &str, report: &StoreReport, pieces: Amount) -> SourceRows {
        SourceRows {
            source: source.to_owned(),
            read: report.records + report.bad_rows,
            unreadable: report.bad_rows,
            empty: report.dropped_empty,
            equal_answers: report.dropped_equal,
            too_long: Amount { rows: report.dropped_too_long, tokens: report.too_long_tokens },
            pieces,
            used: pieces,
            wider_contexts: report.wider_contexts.clone(),
            ..SourceRows::default()
        }
    }

    /// Rows that are kept whole or in pieces.
    pub fn num_to_learn(&self) -> u64 {
        self.read - self.unreadable - self.empty - self.equal_answers - self.too_long.rows
    }

    /// The account of a source all of whose rows in its store are used.
    pub fn of(source: &str, store: &TokenStore) -> SourceRows {
        let pieces = Amount { rows: store.num_rows() as u64, tokens: store.num_tokens() as u64 };
        SourceRows::new(source, store.report(), pieces)
    }

    /// Takes some of the pieces out of those that are used.
    pub fn leave(&mut self, reason: Reason, amount: Amount) {
        self.used = self.used.without(amount);
        *match reason {
            Reason::BeyondShare => &mut self.beyond_share,
            Reason::Downsampled => &mut self.downsampled,
            Reason::NotReached => &mut self.not_reached,
        } = amount;
    }

    /// What was left out and why, and what is used: the rows read, part by part, without those of no rows.
    pub fn parts(&self) -> Vec<Part> {
        let (to_learn, is_cut) = (self.num_to_learn(), self.pieces.rows != self.num_to_learn());
        let unit = if is_cut { "pieces" } else { "rows" };
        let (not_reached, used) = match self.purpose {
            Use::Train => ("not reached: the stage is shorter than one pass", "trained"),
            Use::Dev => ("not measured: they are beyond dev_tokens", "measured"),
        };
        let without_tokens = |rows, what: &str| Part { rows, what: what.to_owned(), tokens: None };
        let part = |amount: Amount, what: String| Part { rows: amount.rows, what, tokens: Some(amount.tokens) };
        let mut parts = vec![
            without_tokens(self.unreadable, "rows that cannot be read left out"),
            without_tokens(self.empty, "rows that are empty or have no answer to learn left out"),
            without_tokens(self.equal_answers, "pairs with equal answers left out"),
            part(self.too_long, "rows longer than the context left out".to_owned()),
        ];
        if is_cut {
            parts.push(part(self.pieces, format!("pieces that {to_learn} rows are cut into at the context")));
        }
        parts.extend([
            part(self.beyond_share, format!("{unit} left out, as they are beyond the share")),
            part(self.downsampled, format!("{unit} left out by downsampling")),
            part(self.not_reached, format!("{unit} {not_reached}")),
        ]);
        parts.retain(|part| part.rows > 0);
        parts.push(part(self.used, format!("{unit} {used}")));
        parts
    }

    /// Which contexts would keep more rows; `None` where no row is too long.
    pub fn advice(&self) -> Option<String> {
        let (first, others) = self.wider_contexts.split_first()?;
        let share = |wider: &WiderContext| match wider.percent {
            100 => "all".to_owned(),
            percent => format!("{percent} %"),
        };
        let others = others.iter().map(|wider| format!(", {}: {}", share(wider), wider.tokens));
        Some(format!("context_tokens to keep {}: {}{}", share(first), first.tokens, others.collect::<String>()))
    }

    /// The reasons for which rows were left out before anything was chosen, in one sentence each.
    pub fn left_out(&self) -> Vec<String> {
        let mut parts = self.parts();
        parts.pop();
        parts.into_iter().map(|part| format!("{} {}", part.rows, part.what)).chain(self.advice()).collect()
    }
}

/// Where the rows of all sources of a stage went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowsReport {
    /// One account per source, those of the dev loss last.
    pub sources: Vec<SourceRows>,
    /// What else is to be said of them: which rows cannot be read, replies without an end.
    pub notes: Vec<String>,
}

impl RowsReport {
    /// The accounts as lines of a text, of 80 columns where the names allow it, and the notes.
    pub fn lines(&self, stage: &str) -> Vec<String> {
        let line = |text: &str, tokens: &str| format!("{text:<66}{tokens:>14}");
        let tokens_of = |part: &Part| part.tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string());
        let mut lines = vec![line(&format!("{stage}: rows of its sources"), "tokens")];
        for source in &self.sources {
            let dev = if source.purpose == Use::Dev { " (dev loss)" } else { "" };
            let head = format!("{}{dev}: {} rows read", source.source, source.read);
            match source.parts().as_slice() {
                [used] if used.rows == source.read => {
                    let how = used.what.replacen("rows", "all", 1);
                    lines.push(line(&format!("{head}, {how}"), &tokens_of(used)));
                }
                parts => {
                    lines.push(head);
                    let of_part = |part: &Part| line(&format!("{:>10} {}", part.rows, part.what), &tokens_of(part));
                    lines.extend(parts.iter().map(of_part));
                }
            }
            lines.extend(source.advice().map(|advice| format!("  {advice}")));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }
}
