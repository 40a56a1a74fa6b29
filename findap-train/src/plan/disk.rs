//! Bytes on disk: what a run writes beside its data, and what of it is there already.

use std::path::Path;

use findap_model::{Config, Decoder, Trained, text_directory};
use serde::Serialize;

use super::trained_dtype;
use crate::checkpoint;
use crate::error::TrainError;
use crate::recipe::{Recipe, Stage};

/// Bytes on disk that a stage takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StageDisk {
    /// Its model, which stays, and its adapter, where it trains one.
    pub model_bytes: u64,
    /// One checkpoint: the trained parameters and their moments.
    pub checkpoint_bytes: u64,
    /// Checkpoints and best weights at most at once, until the stage is done.
    pub training_bytes: u64,
    /// What of the model is there already.
    #[serde(skip)]
    present_model_bytes: u64,
    /// What there is of checkpoints and best weights; it is removed once the stage is done.
    #[serde(skip)]
    present_training_bytes: u64,
}

impl StageDisk {
    /// The disk of a whole run: the base, where the run makes it itself, and every stage that makes a model, of those whose data are yet
    /// to come, too.
    ///
    /// # Errors
    /// As [`StageDisk::new`].
    pub fn of_all(recipe: &Recipe, config: &Config) -> Result<Vec<Self>, TrainError> {
        let is_base_made = match &recipe.model.base {
            None => true,
            // an adapter is merged into a model of the run
            Some(base) => text_directory(base)? != *base,
        };
        let base = Self { model_bytes: model_bytes(recipe, config), ..Self::default() };
        let stages = recipe.stage.iter().filter_map(|stage| Self::new(recipe, stage, config).transpose());
        is_base_made.then_some(Ok(base)).into_iter().chain(stages).collect()
    }

    /// What a stage takes beside its data; none for a distillation.
    ///
    /// # Errors
    /// [`TrainError::Model`] for a selection of parameters that the model cannot obey.
    pub fn new(recipe: &Recipe, stage: &Stage, config: &Config) -> Result<Option<Self>, TrainError> {
        let Some((keys, _)) = stage.trained() else { return Ok(None) };
        let trainable = recipe.train_options(keys).trainable;
        let trained_dtype = trained_dtype(recipe.device_kind(), recipe.model.compute.into(), trainable.lora());
        let trained = Trained::of(config, &trainable)?.num_parameters() as u64;
        let checkpoint_bytes = 3 * trained * recipe.state_format().dtype(trained_dtype).size_bytes() as u64;
        let adapter_bytes = if trainable.lora().is_some() { 4 * trained } else { 0 };
        // the new best weights are written before the old ones are removed
        let num_best = if stage.has_dev() { 2 } else { 0 };
        let kept = recipe.run.keep_checkpoints as u64 + 1;
        Ok(Some(Self {
            model_bytes: model_bytes(recipe, config) + adapter_bytes,
            checkpoint_bytes,
            training_bytes: kept * checkpoint_bytes + num_best * trained * trained_dtype.size_bytes() as u64,
            ..Self::default()
        }))
    }

    /// The same beside what the stage has in its folder: of a stage that was stopped only the rest is still to be written.
    #[must_use]
    pub fn beside_what_is_in(self, folder: &Path) -> Self {
        let of_training = ["checkpoint", "best"].map(|prefix| {
            let found = checkpoint::list(folder, prefix).into_iter().map(|(_, path)| path);
            // what a kill left half written is removed before the next is
            found.chain(checkpoint::unfinished(folder, prefix)).map(|path| folder_bytes(&path)).sum::<u64>()
        });
        let of_model = ["model", "adapter"].map(|name| folder_bytes(&folder.join(name)));
        Self {
            present_model_bytes: of_model.iter().sum::<u64>().min(self.model_bytes),
            present_training_bytes: of_training.iter().sum(),
            ..self
        }
    }
}

/// Bytes of a model of the run.
fn model_bytes(recipe: &Recipe, config: &Config) -> u64 {
    (Decoder::num_parameters(config) * recipe.model.save_dtype.dtype().size_bytes()) as u64
}

/// Bytes of the files of a folder. What cannot be looked at counts for nothing: then more room is asked for, not less.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// Bytes on disk that are still to be written at most at once by stages one after the other: the models so far, and what the stage at
/// hand trains with. What is there is not written again, and a stage that ends gives back what it trained with.
pub fn disk_bytes(stages: &[StageDisk]) -> u64 {
    let (mut need, mut models, mut given_back) = (0, 0, 0);
    for stage in stages {
        models += stage.model_bytes - stage.present_model_bytes;
        given_back += stage.present_training_bytes;
        need = need.max((models + stage.training_bytes).saturating_sub(given_back));
    }
    need
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(model_bytes: u64, training_bytes: u64) -> StageDisk {
        StageDisk { model_bytes, training_bytes, ..StageDisk::default() }
    }

    #[test]
    fn a_run_takes_all_its_models_and_what_one_stage_trains_with() {
        let stages = [stage(10, 0), stage(10, 60), stage(10, 90), stage(10, 30)];
        assert_eq!(disk_bytes(&stages), 30 + 90);
        assert_eq!(disk_bytes(&[]), 0);
    }

    #[test]
    fn of_a_stopped_stage_only_the_rest_counts_and_what_it_gives_back_is_free_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, count: usize| {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("file"), vec![0; count]).unwrap();
        };
        write("checkpoint-5", 20);
        write("checkpoint-10", 20);
        write("checkpoint-15.tmp", 12);
        write("best-10", 5);
        let begun = stage(10, 70).beside_what_is_in(folder.path());
        assert_eq!(disk_bytes(&[begun]), 10 + 70 - 57);
        // the next stage has the room of the first one's checkpoints
        assert_eq!(disk_bytes(&[begun, stage(10, 70)]), 20 + 70 - 57);
        write("model", 8);
        assert_eq!(disk_bytes(&[stage(10, 70).beside_what_is_in(folder.path())]), 2 + 70 - 57);
    }
}
