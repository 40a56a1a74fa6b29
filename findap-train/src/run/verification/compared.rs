//! The parts of a run, each compared with what was made again of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use findap_data::files::file_sha256;
use findap_model::checkpoint::ADAPTER_WEIGHTS;
use serde_json::Value;

use super::difference::{Twin, entries, only};
use super::{COMPARED, Verification};
use crate::error::{TrainError, io};
use crate::folder::{read_json, write_json};
use crate::identity::{Identity, changes};
use crate::recipe::{DISTILLED, PREFERENCES_FILE, RIGHT_SOLUTIONS, RIGHT_SOLUTIONS_FILE, Stage};

/// A part of a run, made again and compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// The stage, or `base`.
    pub stage: String,
    /// What of it: `files`, `counts`, `training`, `model`, `samples`, `pairs`, `right solutions`, `scores`.
    pub part: &'static str,
    /// What was compared.
    pub what: String,
    /// Where the two differ first; `None` where every bit is equal.
    pub difference: Option<String>,
}

impl Compared {
    pub(super) fn new(stage: &str, part: &'static str, what: String, difference: Option<String>) -> Self {
        Self { stage: stage.to_owned(), part, what, difference }
    }
}

impl Verification {
    /// Compares the run with what was made again of it, stage by stage.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn compare(&self) -> Result<Vec<Compared>, TrainError> {
        let mut compared = Vec::new();
        let measured = self.recipe.eval.iter().flat_map(|eval| eval.stages.iter().flatten());
        let is_measured = |name: &str| measured.clone().any(|stage| stage == name);
        if is_measured("base") {
            compared.push(self.scores("base")?);
        }
        for stage in &self.recipe.stage {
            let name = stage.name();
            compared.extend([self.files(stage)?, self.counts(stage)?]);
            match stage {
                Stage::Distill(_) => {
                    compared.push(self.samples(name)?);
                    compared.push(self.rows(name, "pairs", PREFERENCES_FILE)?);
                    // a run that was made before there were any has none
                    if self.folder.join(RIGHT_SOLUTIONS_FILE).exists() {
                        compared.push(self.rows(name, "right solutions", RIGHT_SOLUTIONS_FILE)?);
                    }
                }
                Stage::Train(_) | Stage::Align(_) => {
                    compared.extend([self.training(name)?, self.model(name)?]);
                    if is_measured(name) {
                        compared.push(self.scores(name)?);
                    }
                }
            }
        }
        let differing = compared.iter().filter(|part| part.difference.is_some()).count();
        write_json(&self.place().join(COMPARED), &differing)?;
        Ok(compared)
    }

    /// The files of the stages begun so far that are not what they were: the first thing to look at where a run cannot be made again.
    ///
    /// # Errors
    /// [`TrainError::Io`].
    pub fn changed_files(&self) -> Result<Vec<String>, TrainError> {
        let mut changed = Vec::new();
        for stage in &self.recipe.stage {
            if self.place().join(stage.name()).join("identity.json").exists() {
                changed.extend(self.files(stage)?.difference);
            }
        }
        Ok(changed)
    }

    /// A file of the run beside the same file made again.
    pub(super) fn twin(&self, file: impl Into<PathBuf>) -> Twin {
        Twin::new(file.into(), [&self.folder, self.place()], &self.named)
    }

    /// The fingerprints of everything that a stage reads: data, exercises, the model before it.
    fn files(&self, stage: &Stage) -> Result<Compared, TrainError> {
        let name = stage.name();
        let read = |folder: &Path| -> Result<Identity, TrainError> {
            let mut identity: Identity = read_json(&folder.join(name).join("identity.json"))?.unwrap_or_default();
            identity.retain(|key, _| ["model", "exercises"].contains(&key.as_str()) || key.starts_with("data."));
            Ok(identity)
        };
        let (was, now) = (read(&self.folder)?, read(self.place())?);
        let changed: Vec<String> =
            changes(&was, &now).iter().map(|change| self.named_file(stage, &change.key)).collect();
        let difference = match changed.as_slice() {
            [] => None,
            [one] => Some(format!("{one} is not what it was")),
            several => Some(format!("{} are not what they were", several.join(", "))),
        };
        let what = match was.keys().filter(|key| key.starts_with("data.")).count() {
            0 => "the model before it, its exercises".to_owned(),
            1 => "the model before it, 1 source".to_owned(),
            count => format!("the model before it, {count} sources"),
        };
        Ok(Compared::new(name, "files", what, difference))
    }

    /// A key of an identity with the path that the recipe has for it.
    fn named_file(&self, stage: &Stage, key: &str) -> String {
        let path = match (key.strip_prefix("data."), stage) {
            (None, Stage::Distill(stage)) if key == "exercises" => stage.exercises.to_string(),
            (Some(DISTILLED), _) => PREFERENCES_FILE.to_owned(),
            (Some(RIGHT_SOLUTIONS), _) => RIGHT_SOLUTIONS_FILE.to_owned(),
            (Some(source), _) => match self.recipe.data.iter().find(|table| table.name == source) {
                Some(table) => table.path.to_string(),
                None => return key.to_owned(),
            },
            _ => return key.to_owned(),
        };
        format!("{key} ({path})")
    }

    /// What the report tells of a stage beside its log: rows, steps, the step that was kept, the counts of a distillation.
    fn counts(&self, stage: &Stage) -> Result<Compared, TrainError> {
        let name = Path::new(stage.name());
        let counted = match stage {
            Stage::Distill(_) => "statistics.json",
            Stage::Train(_) | Stage::Align(_) => "mixture.json",
        };
        let of_counts = self.twin(name.join(counted)).json(|_| ())?;
        let of_steps = || self.twin(name.join("done.json")).json(only(&["steps", "best"]));
        let difference = match of_counts {
            None => of_steps()?,
            difference => difference,
        };
        let what = match stage {
            Stage::Distill(_) => "solutions, verdicts, pairs, right solutions",
            Stage::Train(_) | Stage::Align(_) => "rows, contexts, steps, the step that was kept",
        };
        Ok(Compared::new(stage.name(), "counts", what.to_owned(), difference))
    }

    /// The lines of the training log, without times.
    fn training(&self, stage: &str) -> Result<Compared, TrainError> {
        let timeless = |value: &mut Value| drop(value.as_object_mut().and_then(|line| line.remove("tokens_per_s")));
        let lines = self.twin(Path::new(stage).join("metrics.jsonl")).lines(timeless)?;
        let steps = lines.was.iter().filter(|line| line.get("loss").is_some()).count();
        Ok(Compared::new(stage, "training", format!("{steps} steps: losses, norms, rates"), lines.difference))
    }

    /// Every file of a model folder, and the weights of the adapter that the stage trained, where it is one. The adapter's other file
    /// names the place of its base.
    fn model(&self, stage: &str) -> Result<Compared, TrainError> {
        let hashes = |run: &Path| -> Result<BTreeMap<String, String>, TrainError> {
            let folder = run.join(stage);
            let mut files = entries(&folder.join("model"))?;
            files.extend(Some(folder.join("adapter").join(ADAPTER_WEIGHTS)).filter(|path| path.exists()));
            let name = |path: &Path| path.strip_prefix(&folder).unwrap_or(path).display().to_string();
            let hash = |path: PathBuf| Ok((name(&path), file_sha256(&path).map_err(io("read", &path))?));
            files.into_iter().map(hash).collect()
        };
        let (was, now) = (hashes(&self.folder)?, hashes(self.place())?);
        let differing: Vec<String> = changes(&was, &now).into_iter().map(|change| change.key).collect();
        let difference = (!differing.is_empty()).then(|| format!("other bytes in {}", differing.join(", ")));
        Ok(Compared::new(stage, "model", format!("{} files", was.len()), difference))
    }

    /// Solutions and verdicts. What a reply of the judge that could not be read said is not recorded.
    fn samples(&self, stage: &str) -> Result<Compared, TrainError> {
        let without_unread = |value: &mut Value| {
            for solution in value["solutions"].as_array_mut().into_iter().flatten() {
                drop(solution.as_object_mut().and_then(|solution| solution.remove("unread")));
            }
        };
        let lines = self.twin(Path::new(stage).join("samples.jsonl")).lines(without_unread)?;
        let what = format!("{} exercises: solutions, verdicts", lines.was.len());
        Ok(Compared::new(stage, "samples", what, lines.difference))
    }

    /// The rows of a file that a distillation writes.
    fn rows(&self, stage: &str, part: &'static str, file: &str) -> Result<Compared, TrainError> {
        let lines = self.twin(file).lines(|_| ())?;
        Ok(Compared::new(stage, part, format!("{} {part}", lines.was.len()), lines.difference))
    }
}
