//! One stage of a run: skipped where it is done, refused where it was begun otherwise, trained or distilled to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use findap_data::Loader;
use findap_data::files::seed_of;
use findap_model::checkpoint::SaveOptions;
use findap_model::{Config, Decoder, Device, Trained};
use serde_json::{Value, json};

use super::check::files_of;
use super::references::{reference_logprobs, references};
use super::settings::{at_the_beginning, has_produced, settings};
use super::{Current, Done, Run};
use crate::checkpoint;
use crate::distill;
use crate::error::{TrainError, io};
use crate::event::Event;
use crate::folder::{read_json, require_space, write_json};
use crate::identity::{Identity, require_same};
use crate::objective::Objective;
use crate::plan::{self, StageDisk};
use crate::recipe::Stage;
use crate::schedule::Schedule;
use crate::sources::{Sources, StageData};
use crate::trainer::{self, Job, TrainOptions};

impl Run<'_, '_> {
    /// Runs one stage unless it is done, and returns the model after it; `None` when it was stopped. A distillation leaves the model
    /// as it was.
    pub(super) fn stage(
        &mut self,
        stage: &Stage,
        current: &Current,
        sources: &Sources<'_>,
    ) -> Result<Option<Current>, TrainError> {
        let folder = self.recipe.folder().join(stage.name());
        let marker = folder.join("done.json");
        let begun = Instant::now();
        let mut identity = settings(self.recipe, stage);
        identity.insert("model".to_owned(), current.fingerprint.clone());
        let (files, data) = files_of(self.recipe, stage, sources)?;
        identity.extend(files);
        let begun_with = folder.join("identity.json");
        if has_produced(&folder)
            && let Some(was) = read_json::<Identity>(&begun_with)?
        {
            require_same(&folder, stage.name(), &was, &at_the_beginning(identity.clone()))?;
        }
        let done = read_json::<Done>(&marker)?;
        if let Some(done) = done.filter(|done| done.identity == identity) {
            let next = match done.model {
                None => current.clone(),
                Some(wanted) => {
                    let model = folder.join("model");
                    let fingerprint = findap_model::fingerprint(&model)?;
                    if fingerprint != wanted {
                        return Err(TrainError::ModelReplaced { model });
                    }
                    Current { folder: model, fingerprint }
                }
            };
            self.hooks.observer.event(Event::StageSkipped { stage: stage.name().to_owned() });
            return Ok(Some(next));
        }
        write_json(&begun_with, &at_the_beginning(identity.clone()))?;
        self.write_provenance()?;
        let outcome = match (stage, data) {
            (Stage::Distill(stage), _) => {
                let run_folder = self.recipe.folder();
                let (seed, time_seconds) = (self.recipe.run.seed, self.time_seconds);
                let (device, dtype) = self.answers_on()?;
                let (model, device) = (&current.folder, &device);
                let (folder, trained) = (&folder, self.recipe.trained_of_distillation());
                let context =
                    distill::DistillContext { folder, run_folder, trained, model, device, dtype, seed, time_seconds };
                let finished = distill::run(stage, &context, self.hooks.observer, self.hooks.stop)?;
                finished.then_some((0, None))
            }
            (stage, Some(data)) => self.train(stage, data, current, &folder, identity.clone())?,
            // a stage before its distillation, which a run never comes to
            (stage, None) => {
                let problem = "what it trains on is not there yet; run the distill stage before it".to_owned();
                return Err(TrainError::NothingToTrain { stage: stage.name().to_owned(), problem });
            }
        };
        let Some((steps, best)) = outcome else { return Ok(None) };
        let next = match stage.makes_model() {
            true => {
                let model = folder.join("model");
                Current { fingerprint: findap_model::fingerprint(&model)?, folder: model }
            }
            false => current.clone(),
        };
        let seconds = begun.elapsed().as_secs_f64();
        let model = stage.makes_model().then(|| next.fingerprint.clone());
        write_json(&marker, &Done { identity, model, steps, best, seconds })?;
        remove_checkpoints(&folder)?;
        self.hooks.observer.event(Event::StageFinished { stage: stage.name().to_owned(), seconds });
        Ok(Some(next))
    }

    /// Trains a stage; `None` when it was stopped.
    fn train(
        &mut self,
        stage: &Stage,
        mut data: StageData,
        current: &Current,
        folder: &Path,
        identity: Identity,
    ) -> Result<StageOutcome, TrainError> {
        let (keys, loss) = stage.trained().expect("invariant: a distillation trains nothing and does not come here");
        let options = self.recipe.train_options(keys);
        let mut model = self.load(stage.name(), &options, &data, current)?;
        let disk = StageDisk::new(self.recipe, stage, &model.config)?.map(|disk| disk.beside_what_is_in(folder));
        require_space(folder, plan::disk_bytes(disk.as_slice()))?;
        if matches!(stage, Stage::Train(_)) {
            self.note(mixture_note(stage.name(), &data));
        }
        for line in data.rows.lines(stage.name()) {
            self.note(line);
        }
        write_json(&folder.join("mixture.json"), &mixture_json(&data))?;
        let mut objective = Objective::from(loss);
        if loss.has_reference() {
            let (stop, observer) = (self.hooks.stop, &mut *self.hooks.observer);
            let mut of_reference = |loader: &Loader, file: &str| {
                let compute = || reference_logprobs(&model, loader, stage.name(), stop, observer);
                references(&folder.join(file), &identity, compute)
            };
            let Some(pairs) = of_reference(&data.loader, "references.json")? else { return Ok(None) };
            objective.references = pairs;
            if let Some(dev) = &data.dev {
                let Some(pairs) = of_reference(dev, "dev_references.json")? else { return Ok(None) };
                objective.dev_references = pairs;
            }
        }
        // The references are those of the weights alone: the adapter comes after them.
        if let Some(lora) = options.trainable.lora() {
            model.add_adapter(*lora, adapter_seed(self.recipe.run.seed, stage.name()))?;
        }
        let sources: Vec<String> = data.sources.iter().map(|source| source.name.clone()).collect();
        let job = Job { stage: stage.name(), folder, options, identity, objective, sources: &sources };
        let dev = data.dev.as_ref();
        match trainer::train(&mut model, &mut data.loader, dev, &job, self.hooks.stop, self.hooks.observer)? {
            trainer::Outcome::Interrupted { .. } => Ok(None),
            trainer::Outcome::Finished { step, best } => {
                if let Some((kept, loss)) = best.filter(|(kept, _)| *kept != step) {
                    let name = stage.name();
                    self.note(format!(
                        "{name}: the model is that of step {kept}, whose dev loss of {loss:.4} was the lowest"
                    ));
                }
                // of a stage that was killed while it saved its model: the room of the new one
                for unfinished in [folder.join("model"), folder.join("adapter")].iter().filter(|path| path.exists()) {
                    fs::remove_dir_all(unfinished).map_err(io("remove", unfinished))?;
                }
                if model.lora().is_some() {
                    let base = std::path::absolute(&current.folder).map_err(io("find", &current.folder))?;
                    model.save_adapter(&folder.join("adapter"), &base)?;
                    model.merge_adapter()?;
                }
                self.save(&model, &folder.join("model"), Some(current.folder.clone()))?;
                Ok(Some((step, best)))
            }
        }
    }

    pub(super) fn save(&self, model: &Decoder, folder: &Path, carry_from: Option<PathBuf>) -> Result<(), TrainError> {
        let dtype = self.recipe.model.save_dtype.dtype();
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        Ok(model.save(folder, &SaveOptions { dtype, max_shard_bytes: 5_000_000_000, carry_from })?)
    }

    /// The device on which a stage trains, if its memory holds the training.
    pub(super) fn require_memory(
        &mut self,
        stage: &str,
        options: &TrainOptions,
        config: &Config,
        data: &StageData,
    ) -> Result<Device, TrainError> {
        let device = self.device()?;
        let memory = plan::training_memory(device.kind(), self.dtype(), options, config, data)?;
        plan::require_memory(stage, &memory, &device)?;
        Ok(device)
    }

    /// Loads the weights that a stage begins with onto the device that trains them, or refuses where its memory does not suffice.
    fn load(
        &mut self,
        stage: &str,
        options: &TrainOptions,
        data: &StageData,
        current: &Current,
    ) -> Result<Decoder, TrainError> {
        let config = Config::load(&current.folder)?;
        let device = self.require_memory(stage, options, &config, data)?;
        let trained = Trained::of(&config, &options.trainable)?;
        let of_rate = Schedule::new(options.schedule, data.loader.total_steps()).note();
        for note in of_rate.into_iter().chain(plan::frozen_note(&config, &options.trainable, &trained)) {
            self.note(format!("{stage}: {note}"));
        }
        Ok(Decoder::load_to(&device, &current.folder, self.dtype())?)
    }
}

/// Removes the checkpoints and the best weights of a stage that is done: its model is what is needed of it.
fn remove_checkpoints(folder: &Path) -> Result<(), TrainError> {
    for prefix in ["checkpoint", "best"] {
        for (_, path) in checkpoint::list(folder, prefix) {
            fs::remove_dir_all(&path).map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// The seed by which a stage draws its adapter. Stages differ: adapters that begin with one A would change the same directions.
fn adapter_seed(run_seed: u64, stage: &str) -> u64 {
    seed_of(&format!("adapter {run_seed} {stage}"))
}

/// Steps and best dev loss of a finished stage; `None` when it was stopped.
type StageOutcome = Option<(u64, Option<(u64, f64)>)>;

fn mixture_json(data: &StageData) -> Value {
    let (contexts, steps) = (data.loader.num_contexts(), data.loader.total_steps());
    let fill = data.loader.fill();
    json!({ "sources": data.mixture.sets, "rows": data.rows, "contexts": contexts, "fill": fill, "steps": steps })
}

fn mixture_note(stage: &str, data: &StageData) -> String {
    let (rows, tokens, loss_tokens) = data.mixture.totals();
    format!("{stage}: {rows} rows, {tokens} tokens, {loss_tokens} with loss")
}
