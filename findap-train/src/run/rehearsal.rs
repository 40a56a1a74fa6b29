//! A rehearsal: a whole run in small, in a folder of its own, that finds what would end the run and how long its parts take.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use findap_data::reward_model::Exercise;
use findap_data::{Capability, Domain, Format, Kind};
use serde_json::{Value, json};

use super::begun_file;
use crate::distill;
use crate::error::{TrainError, io};
use crate::folder::write_whole;
use crate::recipe::{DISTILLED, DataTable, Optimization, Paths, RIGHT_SOLUTIONS, Recipe, Stage};

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
    /// No sources of a recipe can have these names.
    const SOURCES: [(&str, &str, Kind); 2] = [
        ("stand-ins for pairs", "stand-ins.jsonl", Kind::Preference),
        ("stand-ins for solutions", "solution-stand-ins.jsonl", Kind::Chat),
    ];
    super::refuse_changed(recipe)?;
    let place = folder(recipe);
    clear(recipe)?;
    let data = recipe.folder().join("data");
    for folder in [&place, &data] {
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
    }
    let link = place.join("data");
    std::os::unix::fs::symlink("../data", &link).map_err(io("link", &link))?;
    let mut small = recipe.clone();
    small.point_at(recipe.folder());
    small.run.folder = Some(place.clone());
    let begun = begun_file(recipe);
    if begun.exists() {
        fs::copy(&begun, begun_file(&small)).map_err(io("copy", &begun))?;
    }
    if let Some(eval) = &mut small.eval {
        eval.limit = Some(QUESTIONS.min(eval.limit.unwrap_or(usize::MAX)));
    }
    for stage in &mut small.stage {
        match stage {
            Stage::Train(stage) => {
                shorten(&mut stage.optimization);
                let solutions = stage.chat.iter_mut().filter(|name| *name == RIGHT_SOLUTIONS);
                solutions.for_each(|name| *name = SOURCES[1].0.to_owned());
            }
            Stage::Align(stage) => {
                shorten(&mut stage.optimization);
                if stage.uses_distilled() {
                    stage.pairs.retain(|name| name != DISTILLED);
                    stage.pairs.push(SOURCES[0].0.to_owned());
                }
            }
            Stage::Distill(stage) => {
                let exercises = distill::exercises(stage, recipe.folder())?;
                write_stand_ins(&SOURCES.map(|(_, file, _)| place.join(file)), &exercises)?;
                stage.limit = Some(EXERCISES.min(exercises.len()));
            }
        }
    }
    small.stage.sort_by_key(|stage| !stage.makes_model());
    small.data.extend(SOURCES.map(|(name, file, kind)| DataTable {
        name: name.to_owned(),
        path: Paths::One(place.join(file)),
        kind,
        format: Format::Jsonl,
        columns: BTreeMap::new(),
        max_bad_rows: 0,
        domain: Domain::General,
        capability: Some(Capability::Reasoning),
        share: None,
    }));
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

/// Pairs and solutions as long as those to come: the reference solution, in pairs over one whose answer is another.
fn write_stand_ins([pairs, solutions]: &[PathBuf; 2], exercises: &[Exercise]) -> Result<(), TrainError> {
    let pair = |exercise: &Exercise| {
        let other = Exercise { answer: format!("not {}", exercise.answer), ..exercise.clone() };
        json!({ "prompt": exercise.question, "chosen": exercise.solution(), "rejected": other.solution() })
    };
    let solution = |exercise: &Exercise| json!({ "prompt": exercise.question, "completion": exercise.solution() });
    let lines = |row: &dyn Fn(&Exercise) -> Value| {
        exercises.iter().take(STAND_INS).map(|exercise| format!("{}\n", row(exercise))).collect::<String>()
    };
    write_whole(pairs, lines(&pair).as_bytes())?;
    write_whole(solutions, lines(&solution).as_bytes())
}
