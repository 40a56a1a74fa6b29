//! Stand-ins for what a distillation has yet to make, so that the stages on it can be planned and rehearsed before it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use findap_data::reward_model::Exercise;
use findap_data::{Capability, Domain, Format, Kind};
use serde_json::{Value, json};

use crate::distill;
use crate::error::{TrainError, io};
use crate::folder::write_whole;
use crate::recipe::{DISTILLED, DataTable, DistillStage, PairKind, Paths, RIGHT_SOLUTIONS, Recipe, STAND_INS, Stage};

/// Names, files and kinds.
const SOURCES: [(&str, &str, Kind); 2] =
    [(STAND_INS[0], "stand-ins.jsonl", Kind::Preference), (STAND_INS[1], "solution-stand-ins.jsonl", Kind::Chat)];

/// How many stand-ins there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Most {
    /// Exercises of which they are made, the first ones.
    pub(super) exercises: usize,
    /// Pairs of an exercise.
    pub(super) pairs: usize,
    /// Right solutions of an exercise.
    pub(super) solutions: usize,
}

impl Most {
    /// What a distillation makes of all its exercises at most.
    fn of(stage: &DistillStage) -> Self {
        let samples = stage.samples_per_exercise;
        let of_kind = |kind: &PairKind| match kind {
            // each takes a right solution and a wrong one
            PairKind::Fap => stage.pairs_per_exercise.min(samples / 2),
            PairKind::Scp => stage.corrections_per_exercise.min(samples),
            PairKind::Naive => stage.pairs_per_exercise.min(samples),
        };
        Self {
            exercises: usize::MAX,
            pairs: stage.kinds.iter().map(of_kind).sum(),
            solutions: stage.right_solutions_per_exercise.min(samples),
        }
    }
}

/// The recipe with as many stand-ins as its distillation makes at most, in a folder of its own; [`clear`] removes it.
///
/// # Errors
/// [`TrainError::Io`]; those of reading the exercises.
pub fn at_most(recipe: &Recipe) -> Result<Recipe, TrainError> {
    clear(recipe)?;
    beside(recipe, &folder(recipe), Most::of)
}

/// Removes the folder of [`at_most`].
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

fn folder(recipe: &Recipe) -> PathBuf {
    recipe.folder().join("planned")
}

/// A copy of a recipe for the folder `place` in the run folder, with which it shares the data, whose stages train on stand-ins instead of
/// what the distillation has yet to make.
pub(super) fn beside(
    recipe: &Recipe,
    place: &Path,
    most: impl Fn(&DistillStage) -> Most,
) -> Result<Recipe, TrainError> {
    for folder in [place, &recipe.folder().join("data")] {
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
    }
    let link = place.join("data");
    std::os::unix::fs::symlink("../data", &link).map_err(io("link", &link))?;
    let mut copy = recipe.clone().moved_to(place, recipe.folder());
    for stage in &mut copy.stage {
        match stage {
            Stage::Train(stage) => {
                let solutions = stage.chat.iter_mut().filter(|name| *name == RIGHT_SOLUTIONS);
                solutions.for_each(|name| *name = SOURCES[1].0.to_owned());
            }
            Stage::Align(stage) if stage.uses_distilled() => {
                stage.pairs.retain(|name| name != DISTILLED);
                stage.pairs.push(SOURCES[0].0.to_owned());
            }
            Stage::Align(_) => {}
            Stage::Distill(stage) => {
                let exercises = distill::exercises(stage, recipe.folder())?;
                write(&SOURCES.map(|(_, file, _)| place.join(file)), &exercises, most(stage))?;
            }
        }
    }
    copy.data.extend(SOURCES.map(|(name, file, kind)| DataTable {
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
    Ok(copy)
}

/// Pairs and solutions as long as those to come: the reference solution, in pairs over one whose answer is another.
fn write([pairs, solutions]: &[PathBuf; 2], exercises: &[Exercise], most: Most) -> Result<(), TrainError> {
    let pair = |exercise: &Exercise, number: usize| {
        let other = Exercise { answer: format!("not {}", exercise.answer), ..exercise.clone() };
        let chosen = numbered(exercise.solution(), number);
        json!({ "prompt": exercise.question, "chosen": chosen, "rejected": other.solution() })
    };
    let solution = |exercise: &Exercise, number: usize| json!({ "prompt": exercise.question, "completion": numbered(exercise.solution(), number) });
    let lines = |row: &dyn Fn(&Exercise, usize) -> Value, count: usize| {
        let exercises = exercises.iter().take(most.exercises);
        exercises.flat_map(|it| (0..count).map(|number| format!("{}\n", row(it, number)))).collect::<String>()
    };
    write_whole(pairs, lines(&pair, most.pairs).as_bytes())?;
    write_whole(solutions, lines(&solution, most.solutions).as_bytes())
}

/// A text that is different from that of another number; that of 0 is the text.
fn numbered(text: String, number: usize) -> String {
    if number == 0 { text } else { format!("{text} {number}") }
}
