//! What became of the rows of a source.

use serde::{Deserialize, Serialize};

/// What was built from a source.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Records read.
    pub records: u64,
    /// Documents kept.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Their tokens that carry loss.
    pub loss_tokens: u64,
    /// Records dropped because they are longer than the context.
    pub dropped_too_long: u64,
    /// Their tokens.
    pub too_long_tokens: u64,
    /// Records dropped because there is nothing to learn.
    pub dropped_empty: u64,
    /// Pairs dropped because both answers are the same.
    pub dropped_equal: u64,
    /// Replies behind which the chat template writes no end-of-turn token.
    pub unended_replies: u64,
    /// Pairs whose prompt ends with a turn of the assistant that the answers do not go on with.
    pub uncontinued_prompts: u64,
    /// Rows of a text that was read as turns of `Human:` and `Assistant:`.
    #[serde(default)]
    pub transcripts: u64,
    /// Bytes of text or ids read.
    pub source_bytes: u64,
    /// Time of building in seconds; of the first build when it is used again.
    pub seconds: f64,
    /// Rows that cannot be read and were skipped.
    pub bad_rows: u64,
    /// The first of them: file, place and fault.
    pub first_bad_rows: Vec<String>,
    /// Contexts in tokens that would keep 90, 95, 99 and 100 of 100 rows to learn; only those wider than the present one.
    pub wider_contexts: Vec<WiderContext>,
}

/// A context that would keep more rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WiderContext {
    /// So many of 100 rows.
    pub percent: u64,
    /// The context.
    pub tokens: u64,
}

impl StoreReport {
    /// Rows that are kept, whole or in pieces.
    pub fn num_kept(&self) -> u64 {
        self.records - self.dropped_empty - self.dropped_equal - self.dropped_too_long
    }

    /// What there is to say beside how many rows were left out: replies without an end, and which rows cannot be read.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.unended_replies > 0 {
            notes.push(format!(
                "{} replies have no end-of-turn token behind them in the chat template, or none that it marks, so that no end is learnt for them",
                self.unended_replies
            ));
        }
        if self.uncontinued_prompts > 0 {
            notes.push(format!(
                "{} pairs have a prompt that ends with an assistant turn; their answers are turns of their own behind it, as in TRL \
                 (`continue_final_message: true` in a row lets them go on with that turn)",
                self.uncontinued_prompts
            ));
        }
        if self.transcripts > 0 {
            notes.push(format!("{} transcripts read as turns of `Human:` and `Assistant:`", self.transcripts));
        }
        notes.extend(self.first_bad_rows.iter().cloned());
        let num_unsaid = self.bad_rows.saturating_sub(self.first_bad_rows.len() as u64);
        if num_unsaid > 0 {
            notes.push(format!("and {num_unsaid} more rows that cannot be read"));
        }
        notes
    }

    /// Notes the contexts that would keep more rows, given the lengths of those that are too long.
    pub(super) fn advise(&mut self, mut too_long_tokens: Vec<u64>) {
        too_long_tokens.sort_unstable();
        let num_kept = self.num_kept();
        let num_rows = num_kept + self.dropped_too_long;
        let wider = |percent: u64| {
            let rank = (num_rows * percent).div_ceil(100).checked_sub(num_kept + 1)?;
            too_long_tokens.get(rank as usize).map(|&tokens| WiderContext { percent, tokens })
        };
        // Where one context keeps 90 and 95 of 100, it is said once, for 95.
        self.wider_contexts = [100, 99, 95, 90].into_iter().filter_map(wider).collect();
        self.wider_contexts.dedup_by_key(|wider| wider.tokens);
        self.wider_contexts.reverse();
    }
}
