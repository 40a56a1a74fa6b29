//! Evaluation tasks as data: engine, metrics, comparison and report.

pub mod check;
mod error;
pub mod extract;
mod results;
pub mod task;
pub mod template;

pub use error::EvalError;
pub use task::Task;
