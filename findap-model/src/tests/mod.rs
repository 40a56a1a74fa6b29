//! `FINDAP_GOLDEN` names the folder of golden models and numbers where it is not that of the sources.

mod adapter;
mod device;
mod generate;
mod golden;
mod gradients;
mod plain;

use std::path::{Path, PathBuf};

use findap_data::Batch;

use crate::session::Tokens;

/// Golden models that use each option in which families differ: a sliding window, biases of queries, keys and values, norms of their
/// heads, biases everywhere.
const FAMILIES: [&str; 4] = ["tiny_mistral", "tiny_qwen2", "tiny_qwen3", "tiny_biased"];

fn golden(path: &str) -> PathBuf {
    let sources = || Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    std::env::var_os("FINDAP_GOLDEN").map_or_else(sources, PathBuf::from).join(path)
}

/// Packed documents, and dLoss / dlogp of each token.
struct WeightedBatch {
    documents: Batch,
    weights: Vec<f64>,
}

impl WeightedBatch {
    fn tokens(&self) -> Tokens<'_> {
        (&self.documents).into()
    }
}
