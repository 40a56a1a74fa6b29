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
    /// Records dropped because there is nothing to learn.
    pub dropped_empty: u64,
    /// Pairs dropped because both answers are the same.
    pub dropped_equal: u64,
    /// Replies behind which the chat template writes no end-of-turn token.
    // A store of an older version has no such number, and is built again for its fingerprint.
    #[serde(default)]
    pub unended_replies: u64,
    /// Bytes of text or ids read.
    pub source_bytes: u64,
    /// Time of building in seconds; of the first build when it is used again.
    pub seconds: f64,
    /// Rows that cannot be read and were skipped.
    pub bad_rows: u64,
    /// The first of them: file, place and fault.
    pub first_bad_rows: Vec<String>,
    /// Contexts in tokens that would keep 90, 95 and 99 of 100 rows; only those wider than the present one.
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
    /// Which rows, and which ends of replies, were left out and why, in one sentence a reason.
    pub fn left_out(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.dropped_too_long > 0 {
            let wider: Vec<String> = self
                .wider_contexts
                .iter()
                .map(|wider| format!("{} % in {} tokens", wider.percent, wider.tokens))
                .collect();
            let advice =
                if wider.is_empty() { String::new() } else { format!(", of which would fit: {}", wider.join(", ")) };
            let (count, all) = (self.dropped_too_long, self.records);
            reasons.push(format!("{count} rows longer than the context left out, of {all} rows{advice}"));
        }
        for (count, what) in [
            (self.dropped_empty, "empty rows, or rows without an answer to learn,"),
            (self.dropped_equal, "pairs with equal answers"),
            (self.bad_rows, "rows that cannot be read"),
        ] {
            if count > 0 {
                reasons.push(format!("{count} {what} left out"));
            }
        }
        if self.unended_replies > 0 {
            reasons.push(format!(
                "{} replies have no end-of-turn token behind them in the chat template, so that no end is learnt for them",
                self.unended_replies
            ));
        }
        reasons.extend(self.first_bad_rows.iter().cloned());
        let num_unsaid = self.bad_rows.saturating_sub(self.first_bad_rows.len() as u64);
        if num_unsaid > 0 {
            reasons.push(format!("and {num_unsaid} more rows that cannot be read"));
        }
        reasons
    }

    /// Notes the contexts that would keep more rows, given the lengths of those that are too long.
    pub(super) fn advise(&mut self, mut too_long_tokens: Vec<u64>) {
        too_long_tokens.sort_unstable();
        let num_kept = self.records - self.dropped_empty - self.dropped_equal - self.dropped_too_long;
        let num_rows = num_kept + self.dropped_too_long;
        let wider = |percent: u64| {
            let rank = (num_rows * percent).div_ceil(100).checked_sub(num_kept + 1)?;
            too_long_tokens.get(rank as usize).map(|&tokens| WiderContext { percent, tokens })
        };
        // Where one context keeps 90 and 95, it is said once.
        self.wider_contexts = [99, 95, 90].into_iter().filter_map(wider).collect();
        self.wider_contexts.dedup_by_key(|wider| wider.tokens);
        self.wider_contexts.reverse();
    }
}
