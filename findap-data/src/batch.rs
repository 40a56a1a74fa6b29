//! Token rows and the flat batch of documents that a model sees.
//!
//! Packing and document borders are one type: there is no way to hold several documents without saying where each begins.
//! No target crosses a border, and positions start again at zero in each document.

use serde::{Deserialize, Serialize};

/// The target of a position that is not trained on.
pub const IGNORE: u32 = u32::MAX;

/// One tokenised document.
///
/// `mask[t]` says that token `t` is a target, that is, predicted from the tokens before it. The first token has no tokens before
/// it, so a `true` there has no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizedRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// One flag per token: is it a target?
    pub mask: Vec<bool>,
}

impl TokenizedRow {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of tokens that carry loss: masked tokens after the first.
    pub fn num_loss_tokens(&self) -> usize {
        self.mask.iter().skip(1).filter(|&&is_target| is_target).count()
    }
}

/// A flat list of documents, ready for a model: `n` tokens in `b` documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `[n]` token ids.
    pub tokens: Vec<u32>,
    /// `[n]` the token to predict after position `t`, or [`IGNORE`]. The last position of each document is always [`IGNORE`].
    pub targets: Vec<u32>,
    /// `[n]` position inside the document, from zero.
    pub positions: Vec<u32>,
    /// `[b + 1]` document `i` is `cu_seqlens[i]..cu_seqlens[i + 1]`.
    pub cu_seqlens: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch { tokens: Vec::new(), targets: Vec::new(), positions: Vec::new(), cu_seqlens: vec![0] }
    }

    /// Appends one document. Empty documents are not added.
    ///
    /// # Panics
    /// If `ids` and `mask` differ in length (a caller bug), or if the batch would reach 2^32 tokens.
    pub fn push_document(&mut self, ids: &[u32], mask: &[bool]) {
        assert_eq!(ids.len(), mask.len(), "one mask flag per token");
        self.push(ids, |t| mask[t]);
    }

    /// Appends one document whose tokens are all targets, but for the first.
    ///
    /// # Panics
    /// If the batch would reach 2^32 tokens.
    pub fn push_unmasked(&mut self, ids: &[u32]) {
        self.push(ids, |_| true);
    }

    fn push(&mut self, ids: &[u32], is_target: impl Fn(usize) -> bool) {
        if ids.is_empty() {
            return;
        }
        self.tokens.extend_from_slice(ids);
        self.targets.extend((1..ids.len()).map(|t| if is_target(t) { ids[t] } else { IGNORE }));
        self.targets.push(IGNORE);
        let length = u32::try_from(ids.len()).expect("invariant: a document is shorter than 2^32");
        self.positions.extend(0..length);
        let end = u32::try_from(self.tokens.len()).expect("invariant: a batch is below 2^32 tokens");
        self.cu_seqlens.push(end);
    }

    /// Number of tokens.
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Number of documents.
    pub fn num_documents(&self) -> usize {
        self.cu_seqlens.len() - 1
    }

    /// Number of positions with a target.
    pub fn num_loss_tokens(&self) -> usize {
        self.targets.iter().filter(|&&target| target != IGNORE).count()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Token range of document `index`.
    pub fn document(&self, index: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[index] as usize..self.cu_seqlens[index + 1] as usize
    }

    /// Removes all documents and keeps the memory.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.targets.clear();
        self.positions.clear();
        self.cu_seqlens.clear();
        self.cu_seqlens.push(0);
    }
}
