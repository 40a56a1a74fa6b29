//! The evaluation of models: when it is due, the request to the evaluator, and the identity of a result.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use findap_model::{Device, Dtype};

use super::{Current, Done, Run};
use crate::error::{TrainError, io};
use crate::event::Event;
use crate::folder::{read_json, write_json};
use crate::identity::{Identity, changes, flatten};
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

impl Run<'_, '_> {
    /// Measures a model if the recipe wants it and it is not done; `false` when it was stopped.
    pub(super) fn evaluate(&mut self, stage: &str, current: &Current) -> Result<bool, TrainError> {
        if self.is_stopped() {
            return Ok(false);
        }
        let Some(eval) = &self.recipe.eval else { return Ok(true) };
        if !eval.stages.iter().flatten().any(|name| name == stage) {
            return Ok(true);
        }
        let output = self.recipe.folder().join("eval").join(stage);
        let marker = output.join("done.json");
        let identity = identity(self.recipe, eval, &current.fingerprint, &self.tasks);
        if let Some(done) = read_json::<Done>(&marker)? {
            if changes(&done.identity, &identity).is_empty() {
                return Ok(true);
            }
            self.note(format!("{}: measured for another model or other tasks; measuring again", output.display()));
        }
        self.write_provenance()?;
        fs::create_dir_all(&output).map_err(io("make the folder", &output))?;
        self.hooks.observer.event(Event::Evaluating { stage: stage.to_owned() });
        let begun = Instant::now();
        let (time_seconds, (device, dtype)) = (self.time_seconds, self.answers_on()?);
        let (model, recipe, output, device) = (&current.folder, self.recipe, &output, &device);
        let asked = Evaluation { stage, model, recipe, output, device, dtype, time_seconds };
        let is_complete = (self.hooks.evaluate)(&asked)
            .map_err(|source| TrainError::Evaluation { stage: stage.to_owned(), source })?;
        if is_complete {
            let seconds = begun.elapsed().as_secs_f64();
            write_json(&marker, &Done { identity, model: None, steps: 0, best: None, seconds })?;
        }
        Ok(is_complete)
    }
}

/// The identity of the results of a model with this fingerprint; `tasks` is what the scores depend on beside it.
fn identity(recipe: &Recipe, eval: &EvalTable, model: &str, tasks: &Identity) -> Identity {
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
