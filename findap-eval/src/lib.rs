//! Evaluation tasks as data: engine, metrics, comparison and report.

pub mod check;
pub mod compare;
pub mod dataset;
pub mod engine;
mod error;
pub mod extract;
mod flare;
pub mod judge;
pub mod metrics;
pub mod model;
pub mod options;
pub mod prompt;
pub mod registry;
pub mod report;
pub mod require;
pub mod rescore;
pub mod results;
pub mod sample;
pub mod scripted;
pub mod table;
pub mod task;
pub mod template;
mod text_model;

pub use engine::{Progress, run};
pub use error::EvalError;
pub use model::LanguageModel;
pub use options::Options;
pub use registry::Registry;
pub use results::Results;
pub use task::Task;

#[cfg(test)]
mod tests;

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
