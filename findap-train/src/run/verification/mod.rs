//! The verification of a run: it is made again, from its recipe, its data as they are now, the recorded replies of its judge and its
//! seeds, in a folder of its own, and what comes out is compared with what is there, to the bit.

mod compared;
mod difference;
mod scores;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Done;
use crate::error::{TrainError, io};
use crate::folder::read_json;
use crate::recipe::{self, DISTILLED_FILES, Judge, Recipe, Stage};

pub use self::compared::Compared;

/// A verification that can be run: see [`prepare`].
#[derive(Debug)]
pub struct Verification {
    /// The run folder.
    pub folder: PathBuf,
    /// What is to be run, in the folder `verification` of the run folder.
    pub recipe: Recipe,
    /// The run folder by the name that it had when the run was made, which its files may hold.
    named: PathBuf,
    /// How long the stages and evaluations took when they were made, in seconds.
    pub seconds: f64,
    /// Facts of the run's `provenance.json`, such as the processor; another machine may round in another way.
    pub provenance: Map<String, Value>,
}

/// Prepares the verification of what is finished in a run folder, or with `only` of that stage, which then begins with the stored model
/// before it. A verification that was stopped goes on.
///
/// # Errors
/// [`TrainError::Recipe`] for a folder that is none of a run; [`TrainError::NothingToTrain`] where nothing is finished;
/// [`TrainError::Io`].
pub fn prepare(folder: &Path, only: Option<&str>) -> Result<Verification, TrainError> {
    let mut recipe = recipe::load(&folder.join("resolved.toml"), &[])?;
    let place = folder.join("verification");
    // what was compared once is not what is to be compared now
    if place.join(COMPARED).exists() {
        fs::remove_dir_all(&place).map_err(io("remove", &place))?;
    }
    fs::create_dir_all(&place).map_err(io("make the folder", &place))?;
    copy_if_there(&folder.join("begun.json"), &place.join("begun.json"))?;
    let names: Vec<String> = recipe.stage.iter().map(|stage| stage.name().to_owned()).collect();
    let done = |name: &str| read_json::<Done>(&folder.join(name).join("done.json"));
    let nothing = |stage: &str, problem: String| TrainError::NothingToTrain { stage: stage.to_owned(), problem };
    let mut seconds = 0.0;
    let mut finished = Vec::new();
    for stage in std::mem::take(&mut recipe.stage) {
        let Some(done) = done(stage.name())? else { break };
        if only.is_none_or(|only| only == stage.name()) {
            seconds += done.seconds;
            finished.push(stage);
        } else if stage.makes_model() && finished.is_empty() {
            recipe.model.base = Some(folder.join(stage.name()).join("model"));
            (recipe.model.init, recipe.model.tokenizer) = (None, None);
        }
    }
    if finished.is_empty() {
        let problem = format!("it is not finished; the run has {}", names.join(", "));
        return Err(nothing(only.unwrap_or(&names[0]), problem));
    }
    if only.is_some() {
        for name in DISTILLED_FILES {
            copy_if_there(&folder.join(name), &place.join(name))?;
        }
    }
    recipe.stage = finished;
    for stage in &mut recipe.stage {
        if let Stage::Distill(stage) = stage
            && let Judge::Remote(judge) = &mut stage.judge
            && judge.recorded.is_none()
        {
            judge.recorded = Some(folder.join(&stage.name).join("judge.jsonl"));
        }
    }
    if let Some(eval) = &mut recipe.eval {
        let mut measured = eval.stages.take().unwrap_or_default();
        measured.retain(|name| only.is_none_or(|only| only == name));
        for name in &measured {
            seconds +=
                read_json::<Done>(&folder.join("eval").join(name).join("done.json"))?.map_or(0.0, |it| it.seconds);
        }
        measured.retain(|name| folder.join("eval").join(name).join("done.json").exists());
        eval.stages = Some(measured);
        if let Some(judge) = eval.judge.as_mut().filter(|judge| judge.recorded.is_none()) {
            judge.recorded = Some(folder.join("eval"));
        }
    }
    let named = recipe.folder().to_path_buf();
    let recipe = recipe.moved_to(&place, folder);
    let provenance = read_json(&folder.join("provenance.json"))?.unwrap_or_default();
    Ok(Verification { folder: folder.to_path_buf(), recipe, named, seconds, provenance })
}

/// The file in the folder of a verification that says that it was compared.
const COMPARED: &str = "compared.json";

impl Verification {
    /// Removes what was made again.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn clear(&self) -> Result<(), TrainError> {
        fs::remove_dir_all(self.place()).map_err(io("remove", self.place()))
    }

    fn place(&self) -> &Path {
        self.recipe.folder()
    }
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), TrainError> {
    match from.exists() && !to.exists() {
        true => fs::copy(from, to).map(drop).map_err(io("copy", from)),
        false => Ok(()),
    }
}
