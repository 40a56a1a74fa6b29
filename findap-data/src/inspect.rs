//! Rows as a person wants to see them: tokens, loss mask, document borders.

use crate::batch::{Batch, IGNORE};
use crate::error::DataError;
use crate::tokenizer::Tokenizer;

/// One token as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownToken {
    /// Its id.
    pub id: u32,
    /// Its text; several tokens of one character are shown as replacement characters.
    pub text: String,
    /// Whether it is a target.
    pub is_target: bool,
    /// Whether it is a special token.
    pub is_special: bool,
}

/// One document as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownDocument {
    /// Its tokens.
    pub tokens: Vec<ShownToken>,
}

impl ShownDocument {
    /// Number of tokens that carry loss.
    pub fn num_loss_tokens(&self) -> usize {
        self.tokens.iter().filter(|token| token.is_target).count()
    }
}

/// The documents of a batch, token by token.
///
/// # Errors
/// [`DataError::Tokenizer`] if an id cannot be decoded.
pub fn documents(batch: &Batch, tokenizer: &Tokenizer) -> Result<Vec<ShownDocument>, DataError> {
    (0..batch.num_documents())
        .map(|document| {
            let range = batch.document(document);
            let tokens = range
                .clone()
                .map(|at| {
                    let id = batch.tokens[at];
                    Ok(ShownToken {
                        id,
                        text: tokenizer.decode(&[id], false)?,
                        // A target is stored at the place before it.
                        is_target: at > range.start && batch.targets[at - 1] != IGNORE,
                        is_special: tokenizer.is_special(id),
                    })
                })
                .collect::<Result<Vec<_>, DataError>>()?;
            Ok(ShownDocument { tokens })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_and_targets_are_where_they_were_put() {
        let golden =
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
        let tokenizer = Tokenizer::load(golden).expect("tokenizer");
        let mut batch = Batch::new();
        batch.push_document(&tokenizer.encode("a b", true).expect("ids"), &[false, false, true]);
        batch.push_document(&[2037, 64], &[false, true]);
        let shown = documents(&batch, &tokenizer).expect("documents");
        let targets: Vec<Vec<bool>> =
            shown.iter().map(|document| document.tokens.iter().map(|token| token.is_target).collect()).collect();
        assert_eq!(targets, [vec![false, false, true], vec![false, true]]);
        assert_eq!(
            (shown[0].tokens[1].text.as_str(), shown[0].tokens[0].is_special, shown[1].num_loss_tokens()),
            ("a", true, 1)
        );
    }
}
