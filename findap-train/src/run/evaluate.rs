//! The evaluation of models: the request to the evaluator, and the identity of a result.

use std::error::Error;
use std::path::Path;

use findap_model::{Device, Dtype};

use crate::identity::{Identity, flatten};
use crate::recipe::{EvalTable, Recipe};

/// A model to be measured.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// `base` or the stage that made it.
    pub stage: &'a str,
    /// Its folder.
    pub model: &'a Path,
    /// The resolved recipe: what to measure, and the seed.
    pub recipe: &'a Recipe,
    /// The folder for the results.
    pub output: &'a Path,
    /// The device on which to compute.
    pub device: &'a Device,
    /// The format of its weights there.
    pub dtype: Dtype,
    /// When the run was begun, in seconds since 1970: the time that chat templates tell.
    pub time_seconds: u64,
}

/// A function that measures a model; `false` when it was stopped before the end. The caller of a run gives it, for findap-train does
/// not know findap-eval.
pub type Evaluate<'a> = dyn FnMut(&Evaluation<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> + 'a;

/// The identity of the results of a model with this fingerprint; `tasks` is what the scores depend on beside it.
pub(super) fn identity(recipe: &Recipe, eval: &EvalTable, model: &str, tasks: &Identity) -> Identity {
    let mut identity = tasks.clone();
    identity.insert("model".to_owned(), model.to_owned());
    flatten("eval", &serde_json::to_value(eval).expect("invariant: a table is JSON"), &mut identity);
    // Where files lie and where the judge is asked changes no score; what is in the files stands in `tasks`.
    const PLACES: [&str; 4] = ["eval.stages", "eval.judge.url", "eval.judge.key_env", "eval.judge.recorded"];
    identity.retain(|key, _| !PLACES.contains(&key.as_str()) && !key.starts_with("eval.data."));
    identity.insert("run.seed".to_owned(), recipe.run.seed.to_string());
    identity.insert("model.compute".to_owned(), format!("{:?}", recipe.model.compute));
    identity.extend(recipe.run.date.iter().map(|date| ("run.date".to_owned(), date.clone())));
    identity
}
