//! What a run needs, looked for before its first step: what would end it after hours ends it at once.

use std::error::Error;
use std::path::PathBuf;

use findap_data::files::{file_sha256, sha256};
use findap_model::Config;

use super::Run;
use super::settings::has_produced;
use crate::distill;
use crate::error::{TrainError, io};
use crate::folder::{read_json, require_space};
use crate::identity::{Identity, require_same};
use crate::plan::{self, StageDisk};
use crate::recipe::{DISTILLED, EvalTable, RIGHT_SOLUTIONS, Recipe, Stage};
use crate::sources::{Sources, StageData};

/// A function that finds out whether tasks can be asked: that they exist, and that their data are there and can be read. It returns what
/// their scores depend on beside the model, such as hashes of tasks and of their files: where these are others, a model is measured
/// again. The caller of a run gives it, for findap-train does not know findap-eval.
pub type CheckTasks<'a> = dyn FnMut(&EvalTable) -> Result<Identity, Box<dyn Error + Send + Sync>> + 'a;

impl Run<'_, '_> {
    /// Looks at everything that the run, or with `only` that stage, will need: tasks, exercises, data, memory, disk and, last because it
    /// is asked a question, the judge.
    ///
    /// # Errors
    /// [`TrainError`] of the first fault.
    pub(super) fn check(
        &mut self,
        sources: &Sources<'_>,
        config: &Config,
        only: Option<&str>,
    ) -> Result<(), TrainError> {
        let recipe = self.recipe;
        let is_wanted = |stage: &&Stage| only.is_none_or(|name| name == stage.name());
        let is_done = |stage: &Stage| recipe.folder().join(stage.name()).join("done.json").exists();
        if recipe.stage.iter().filter(is_wanted).any(|stage| !is_done(stage)) {
            self.note("looking at what the run needs: tasks, data, memory, disk, judge".to_owned());
        }
        if let Some(eval) = &recipe.eval {
            self.tasks = (self.hooks.check_tasks)(eval).map_err(|source| TrainError::Tasks { source })?;
        }
        let mut disk = Vec::new();
        for stage in recipe.stage.iter().filter(is_wanted) {
            let (files, data) = files_of(recipe, stage, sources)?;
            self.require_same_files(stage, files)?;
            if is_done(stage) {
                continue;
            }
            if let (Some(data), Some((keys, _))) = (&data, stage.trained()) {
                self.require_memory(stage.name(), &recipe.train_options(keys), config, data)?;
            }
            let folder = recipe.folder().join(stage.name());
            disk.extend(StageDisk::new(recipe, stage, config)?.map(|disk| disk.beside_what_is_in(&folder)));
        }
        require_space(recipe.folder(), plan::disk_bytes(&disk))?;
        for stage in recipe.stage.iter().filter(is_wanted).filter(|stage| !is_done(stage)) {
            if let Stage::Distill(stage) = stage
                && let Some(note) = distill::check(stage, recipe.folder())?
            {
                self.note(format!("{}: {note}", stage.name));
            }
        }
        Ok(())
    }

    /// Refuses a stage whose files have changed since it made something of them. What the run itself distils is not among them:
    /// what makes it may yet make the same again.
    fn require_same_files(&self, stage: &Stage, mut files: Identity) -> Result<(), TrainError> {
        let folder = self.recipe.folder().join(stage.name());
        if !has_produced(&folder) {
            return Ok(());
        }
        let Some(mut was) = read_json::<Identity>(&folder.join("identity.json"))? else { return Ok(()) };
        for name in [DISTILLED, RIGHT_SOLUTIONS] {
            files.remove(&format!("data.{name}"));
        }
        was.retain(|key, _| files.contains_key(key));
        require_same(&folder, stage.name(), &was, &files)
    }
}

/// The fingerprints of the files that a stage reads, by the keys that they have in its identity, and its data; none where they are yet
/// to be made.
pub(super) fn files_of(
    recipe: &Recipe,
    stage: &Stage,
    sources: &Sources<'_>,
) -> Result<(Identity, Option<StageData>), TrainError> {
    if let Stage::Distill(stage) = stage {
        let exercises = files_sha256(&stage.exercise_files(recipe.folder()).files()?)?;
        return Ok((Identity::from([("exercises".to_owned(), exercises)]), None));
    }
    let data = sources.of(stage)?;
    let fingerprints = data.iter().flat_map(|data| &data.fingerprints);
    Ok((fingerprints.map(|(name, print)| (format!("data.{name}"), print.clone())).collect(), data))
}

/// The hash of a file, or that of the hashes of several.
fn files_sha256(files: &[PathBuf]) -> Result<String, TrainError> {
    let hashes = files.iter().map(|file| file_sha256(file).map_err(io("read", file))).collect::<Result<Vec<_>, _>>()?;
    Ok(match hashes.as_slice() {
        [hash] => hash.clone(),
        hashes => sha256(hashes.join("\n").as_bytes()),
    })
}
