//! How tasks are run.

use std::path::PathBuf;

use crate::dataset::DataRoots;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where dataset paths lead.
    pub data_roots: DataRoots,
    /// Only the first rows of each task, or of each subset.
    pub limit: Option<usize>,
    /// Seed of drawn examples and of bootstrap errors.
    pub seed: u64,
    /// Chat template or plain text for all tasks, whatever they say.
    pub chat: Option<bool>,
    /// Number of solved examples for all tasks, whatever they say.
    pub num_fewshot: Option<usize>,
    /// Requests given to the model at once; does not change answers.
    pub requests_per_call: usize,
    /// A file that keeps answers, so that a stopped run goes on; removed by the caller once results are written.
    pub journal: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_roots: DataRoots::new(),
            limit: None,
            seed: 0,
            chat: None,
            num_fewshot: None,
            requests_per_call: 256,
            journal: None,
        }
    }
}
