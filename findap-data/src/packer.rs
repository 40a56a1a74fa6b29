//! Documents into rows of at most `context` tokens, without cutting any.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// How rows are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// In the order given, each into the fullest row that still takes it: few rows, little unused space. Longest first would waste
    /// still less, but would put documents of one length, and so of one sort, side by side.
    #[default]
    BestFit,
    /// In the order given; a row is closed by the first document that does not fit (the FinDAP code's way).
    NextFit,
}

/// Assigns documents to rows; the result lists document indices per row. Every index appears exactly once.
///
/// Best fit takes n log(context) steps: rows are kept by their free space in an ordered map.
///
/// # Errors
/// [`DataError::BadOption`] if a document is longer than `context`.
pub fn pack(lengths: &[usize], context: usize, strategy: Strategy) -> Result<Vec<Vec<u32>>, DataError> {
    if let Some(longest) = lengths.iter().copied().max().filter(|&longest| longest > context) {
        return Err(DataError::BadOption {
            option: "context_tokens",
            got: context.to_string(),
            want: format!("at least {longest}, the longest document"),
        });
    }
    Ok(match strategy {
        Strategy::NextFit => next_fit(lengths, context),
        Strategy::BestFit => best_fit(lengths, context),
    })
}

fn next_fit(lengths: &[usize], context: usize) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let mut free = 0;
    for (index, &length) in lengths.iter().enumerate() {
        if rows.is_empty() || length > free {
            rows.push(Vec::new());
            free = context;
        }
        rows.last_mut().expect("invariant: a row was pushed").push(index as u32);
        free -= length;
    }
    rows
}

fn best_fit(lengths: &[usize], context: usize) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let mut rows_by_free: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, &length) in lengths.iter().enumerate() {
        let free = rows_by_free.range(length..).next().map(|(&free, _)| free);
        let (row, free) = match free {
            Some(free) => {
                let with_free = rows_by_free.get_mut(&free).expect("invariant: the key was just seen");
                let row = with_free.pop().expect("invariant: empty lists are removed");
                if with_free.is_empty() {
                    rows_by_free.remove(&free);
                }
                (row, free)
            }
            None => {
                rows.push(Vec::new());
                (rows.len() - 1, context)
            }
        };
        rows[row].push(index as u32);
        rows_by_free.entry(free - length).or_default().push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #[test]
        fn every_document_is_in_one_row_and_no_row_is_too_long(
            lengths in prop::collection::vec(1usize..=64, 0..400),
            next in any::<bool>(),
        ) {
            let strategy = if next { Strategy::NextFit } else { Strategy::BestFit };
            let rows = pack(&lengths, 64, strategy).expect("pack");
            let mut seen: Vec<u32> = rows.iter().flatten().copied().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len() as u32).collect::<Vec<_>>());
            for row in &rows {
                prop_assert!(!row.is_empty());
                prop_assert!(row.iter().map(|&index| lengths[index as usize]).sum::<usize>() <= 64);
            }
            // No two rows of best fit could be one.
            if strategy == Strategy::BestFit {
                let used: Vec<usize> = rows.iter().map(|row| row.iter().map(|&index| lengths[index as usize]).sum()).collect();
                prop_assert!(used.iter().filter(|&&tokens| tokens * 2 <= 64).count() <= 1);
            }
        }
    }

    #[test]
    fn a_document_longer_than_the_context_is_refused() {
        let error = pack(&[5, 9], 8, Strategy::BestFit).expect_err("too long");
        assert!(error.to_string().contains("at least 9"), "{error}");
    }
}
