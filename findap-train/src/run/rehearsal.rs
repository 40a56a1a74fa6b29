//! A rehearsal: a whole run in small, in a folder of its own, that finds what would end the run and how long its parts take.

use std::fs;
use std::path::PathBuf;

use super::begun_file;
use super::stand_ins::{self, Most};
use crate::distill;
use crate::error::{TrainError, io};
use crate::recipe::{Optimization, Recipe, Stage};

/// Optimizer steps of a stage; the first of them warms up.
pub const STEPS: u64 = 2;
/// Exercises of a distillation.
pub const EXERCISES: usize = 3;
/// Questions of a task, or of each of its subsets.
pub const QUESTIONS: usize = 2;

/// Stand-ins for what the distillation has yet to make, at most.
pub const STAND_INS: usize = 64;

/// The folder of rehearsals in a run folder.
pub fn folder(recipe: &Recipe) -> PathBuf {
    recipe.folder().join("rehearsal")
}

/// Makes the folder of a rehearsal, empty but for what it shares with the run: the data, and the time that templates tell. Returns the
/// recipe of the rehearsal: [`STEPS`] steps a stage, [`EXERCISES`] exercises, [`QUESTIONS`] questions a task.
///
/// So few exercises may give no pair and no right solution. Therefore the distillation comes last, and a stage on what it makes trains on
/// stand-ins made of the exercises.
///
/// # Errors
/// [`TrainError::Io`]; those of reading the exercises.
pub fn prepare(recipe: &Recipe) -> Result<Recipe, TrainError> {
    super::refuse_changed(recipe)?;
    let place = folder(recipe);
    clear(recipe)?;
    let mut small = stand_ins::beside(recipe, &place, |_| Most { exercises: STAND_INS, pairs: 1, solutions: 1 })?;
    let begun = begun_file(recipe);
    if begun.exists() {
        fs::copy(&begun, begun_file(&small)).map_err(io("copy", &begun))?;
    }
    if let Some(eval) = &mut small.eval {
        eval.limit = Some(QUESTIONS.min(eval.limit.unwrap_or(usize::MAX)));
    }
    for stage in &mut small.stage {
        match stage {
            Stage::Train(stage) => shorten(&mut stage.optimization),
            Stage::Align(stage) => shorten(&mut stage.optimization),
            Stage::Distill(stage) => {
                stage.limit = Some(EXERCISES.min(distill::exercises(stage, recipe.folder())?.len()));
            }
        }
    }
    small.stage.sort_by_key(|stage| !stage.makes_model());
    Ok(small)
}

/// Removes what an earlier rehearsal has left.
///
/// # Errors
/// [`TrainError::Io`].
pub fn clear(recipe: &Recipe) -> Result<(), TrainError> {
    let place = folder(recipe);
    match fs::remove_dir_all(&place) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &place)(source)),
        _ => Ok(()),
    }
}

/// The dev loss is measured and a checkpoint written once, as often in the whole stage as its keys say.
fn shorten(keys: &mut Optimization) {
    (keys.epochs, keys.tokens, keys.steps) = (None, None, Some(STEPS));
    keys.evaluate_every_steps = keys.evaluate_every_steps.map(|_| STEPS);
    keys.save_every_steps = Some(STEPS);
    keys.early_stop_patience = None;
    keys.warmup_steps = keys.warmup_steps.map(|steps| steps.min(STEPS));
}
