//! A whole run: the stages of a recipe one after the other, each resumable, done ones skipped.
//!
//! When a stage begins, its `identity.json` says what it is made from: its keys, the fingerprints of its data and of the model it
//! begins with. It is done when its `done.json` is there. A stage that has made something from something else is refused, never
//! silently kept or overwritten. Where the recipe's keys alone show this, it is refused before anything in the folder has changed.

mod base;
mod check;
mod evaluate;
pub(crate) mod references;
pub mod rehearsal;
mod reset;
mod settings;
#[cfg(test)]
mod tests;
pub mod verification;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use findap_data::chat_template::day_seconds;
use findap_data::files::seed_of;
use findap_data::{Loader, world};
use findap_model::checkpoint::SaveOptions;
use findap_model::{Config, Decoder, Device, Dtype, Trained};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::check::files_of;
use self::references::{reference_logprobs, references};
use self::settings::{at_the_beginning, has_produced, settings, world_identity};
use crate::checkpoint;
use crate::distill;
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::folder::{FolderLock, read_json, write_if_new, write_json, write_whole};
use crate::identity::{Identity, changes, require_same};
use crate::objective::Objective;
use crate::plan;
use crate::recipe::{Recipe, Stage, StateKind};
use crate::schedule::Schedule;
use crate::sources::{Sources, StageData};
use crate::trainer::{self, Job, TrainOptions};

pub use self::check::CheckTasks;
pub use self::evaluate::{Evaluate, Evaluation};
pub use self::reset::{made_from, reset};
pub use self::settings::refuse_changed;

/// What the caller of a run provides.
pub struct Hooks<'a> {
    /// Receives the events of the run.
    pub observer: &'a mut dyn Observer,
    /// Set to end the run after the step at hand, with a checkpoint.
    pub stop: &'a AtomicBool,
    /// Finds out, before anything is trained, whether the tasks can be asked.
    pub check_tasks: &'a mut CheckTasks<'a>,
    /// Measures a model.
    pub evaluate: &'a mut Evaluate<'a>,
    /// Goes into `provenance.json`: commit, machine, whatever else is known.
    pub provenance: Map<String, Value>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was asked for is done; the folder of the last model.
    Finished(PathBuf),
    /// Stopped on request; the same command resumes from here.
    Interrupted,
}

/// `done.json` of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    /// The identity that the stage was made from.
    identity: Identity,
    /// Fingerprint of the model that the stage made.
    model: Option<String>,
    /// Optimizer steps.
    steps: u64,
    /// Step and dev loss of the weights that were kept.
    best: Option<(u64, f64)>,
    /// Wall time of the process that finished the stage, in seconds.
    seconds: f64,
}

/// A model folder and its fingerprint.
#[derive(Debug, Clone)]
struct Current {
    folder: PathBuf,
    fingerprint: String,
}

/// Runs `recipe`, which must be resolved; `text` is the recipe as written. With `only`, runs that stage alone: those before it must
/// be done.
///
/// # Errors
/// [`TrainError`]; what was finished stays.
pub fn run(recipe: &Recipe, text: &str, only: Option<&str>, hooks: &mut Hooks<'_>) -> Result<Ended, TrainError> {
    run_on(None, recipe, text, only, hooks)
}

/// Runs a recipe as [`run`] does, on an open device instead of the recipe's.
fn run_on(
    device: Option<Device>,
    recipe: &Recipe,
    text: &str,
    only: Option<&str>,
    hooks: &mut Hooks<'_>,
) -> Result<Ended, TrainError> {
    let folder = recipe.folder();
    let _lock = FolderLock::take(folder)?;
    if let Some(name) = only
        && !recipe.stage.iter().any(|stage| stage.name() == name)
    {
        let names: Vec<&str> = recipe.stage.iter().map(Stage::name).collect();
        let problem = format!("the recipe has no such stage; there are {}", names.join(", "));
        return Err(TrainError::NothingToTrain { stage: name.to_owned(), problem });
    }
    let resolved = toml::to_string(recipe).expect("invariant: a resolved recipe is TOML");
    refuse_changed(recipe)?;
    let files = [(folder.join("recipe.toml"), text), (folder.join("resolved.toml"), resolved.as_str())];
    let before: Vec<Option<String>> = files.iter().map(|(path, _)| fs::read_to_string(path).ok()).collect();
    for (path, text) in &files {
        write_if_new(path, text)?;
    }
    let ended = stages(device, recipe, only, hooks);
    if matches!(ended, Err(TrainError::Changed { .. })) {
        // A recipe that is refused for its data must not stand in the folder as if the folder were made from it.
        for ((path, _), before) in files.iter().zip(before) {
            before.map_or(Ok(()), |before| write_if_new(path, &before))?;
        }
    }
    ended
}

fn stages(
    device: Option<Device>,
    recipe: &Recipe,
    only: Option<&str>,
    hooks: &mut Hooks<'_>,
) -> Result<Ended, TrainError> {
    let folder = recipe.folder();
    let time_seconds = told_time(recipe)?;
    if recipe.run.date.is_none() && !begun_file(recipe).exists() {
        write_json(&begun_file(recipe), &time_seconds)?;
    }
    make_world(recipe, hooks.observer)?;
    let mut run = Run { recipe, hooks, time_seconds, unrecorded_base: None, device, tasks: Identity::new() };
    let base = run.base()?;
    let sources = Sources::open(recipe, &base.folder, time_seconds)?;
    run.check(&sources, &Config::load(&base.folder)?, only)?;
    let mut current = base.clone();
    run.unrecorded_base = Some(base);
    if only.is_none() && !run.evaluate("base", &current)? {
        return Ok(Ended::Interrupted);
    }
    for stage in &recipe.stage {
        let is_wanted = only.is_none_or(|name| name == stage.name());
        if !is_wanted && !folder.join(stage.name()).join("done.json").exists() {
            let problem = format!("it is not done; run it before `{}`", only.unwrap_or_default());
            return Err(TrainError::NothingToTrain { stage: stage.name().to_owned(), problem });
        }
        match run.stage(stage, &current, &sources)? {
            None => return Ok(Ended::Interrupted),
            Some(next) => current = next,
        }
        if is_wanted && stage.makes_model() && !run.evaluate(stage.name(), &current)? {
            return Ok(Ended::Interrupted);
        }
        if only == Some(stage.name()) {
            break;
        }
    }
    Ok(Ended::Finished(current.folder))
}

/// The time that chat templates tell in this run, in seconds since 1970: that of `run.date`, or else that at which the run in this
/// folder was begun; the present, where it has not been. So a run resumed after midnight has the prompts of the day it was begun.
///
/// # Errors
/// [`TrainError::Io`].
pub fn told_time(recipe: &Recipe) -> Result<u64, TrainError> {
    if let Some(seconds) = recipe.run.date.as_deref().and_then(day_seconds) {
        return Ok(seconds);
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(read_json(&begun_file(recipe))?.unwrap_or_else(now))
}

/// Says when a run was begun.
fn begun_file(recipe: &Recipe) -> PathBuf {
    recipe.folder().join("begun.json")
}

/// Generates the closed world of a recipe into `data/world` of its run folder, where it is not there yet.
///
/// # Errors
/// [`TrainError::World`], [`TrainError::Io`].
pub fn make_world(recipe: &Recipe, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let Some(config) = &recipe.world else { return Ok(()) };
    let folder = recipe.folder().join("data").join("world");
    let marker = folder.join("world.json");
    let wanted = world_identity(recipe).unwrap_or_default().to_string();
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    observer.event(Event::Note(format!("writing the closed world to {}", folder.display())));
    // A world that is half replaced must not pass for the one before.
    if marker.exists() {
        fs::remove_file(&marker).map_err(io("remove", &marker))?;
    }
    world::generate(config, &folder)?;
    write_whole(&marker, wanted.as_bytes())
}

/// Reads the configuration of the model that `recipe` begins with.
///
/// # Errors
/// [`TrainError::Model`].
pub fn base_config(recipe: &Recipe) -> Result<Config, TrainError> {
    match (&recipe.model.base, &recipe.model.init) {
        (Some(base), _) => Ok(Config::load(base)?),
        (None, init) => {
            let table = init.clone().unwrap_or_default();
            let Ok(Value::Object(raw)) = serde_json::to_value(table) else {
                unreachable!("invariant: a TOML table is a JSON object")
            };
            Ok(Config::from_json(raw)?)
        }
    }
}

struct Run<'a, 'h> {
    recipe: &'a Recipe,
    hooks: &'a mut Hooks<'h>,
    time_seconds: u64,
    /// The model before the first stage, until `provenance.json` names it.
    unrecorded_base: Option<Current>,
    /// The device on which models are trained, sampled and measured, once it is open.
    device: Option<Device>,
    /// What scores depend on beside the model, once the tasks have been looked at.
    tasks: Identity,
}

impl Run<'_, '_> {
    fn note(&mut self, text: String) {
        self.hooks.observer.event(Event::Note(text));
    }

    fn is_stopped(&self) -> bool {
        self.hooks.stop.load(Ordering::Relaxed)
    }

    fn dtype(&self) -> Dtype {
        self.recipe.model.compute.into()
    }

    /// The device on which a stage trains, if its memory holds the training.
    fn require_memory(
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

    /// The device of the recipe, which is opened at the first call.
    fn device(&mut self) -> Result<Device, TrainError> {
        if let Some(device) = &self.device {
            return Ok(device.clone());
        }
        let (device, why_not_gpu) = self.recipe.run.device.open(self.dtype())?;
        if self.recipe.model.state == StateKind::Bf16 && device == Device::Cpu {
            return Err(TrainError::StateNeedsGpu { why_not_gpu: why_not_gpu.map(|why| why.to_string()) });
        }
        if let Some(why) = why_not_gpu {
            self.note(format!("computing on the CPU, not on the GPU: {why}"));
        } else if device != Device::Cpu {
            self.note(format!("computing on {}", device.name()));
        }
        Ok(self.device.insert(device).clone())
    }

    /// The device on which a model is sampled and measured, and the format: on a GPU that in which it trains, on the CPU f32.
    fn answers_on(&mut self) -> Result<(Device, Dtype), TrainError> {
        let device = self.device()?;
        let dtype = if device == Device::Cpu { Dtype::F32 } else { self.dtype() };
        Ok((device, dtype))
    }

    /// Writes `provenance.json`, once per process and only if the process does some work.
    fn write_provenance(&mut self) -> Result<(), TrainError> {
        let Some(base) = self.unrecorded_base.take() else { return Ok(()) };
        let mut provenance = self.hooks.provenance.clone();
        provenance.insert("findap".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        provenance.insert("base model".to_owned(), json!(base.folder));
        provenance.insert("base fingerprint".to_owned(), json!(base.fingerprint));
        provenance.insert("computes on".to_owned(), json!(self.device()?.name()));
        provenance.insert("seed".to_owned(), json!(self.recipe.run.seed));
        write_json(&self.recipe.folder().join("provenance.json"), &provenance)
    }

    /// Runs one stage unless it is done, and returns the model after it; `None` when it was stopped. A distillation leaves the model
    /// as it was.
    fn stage(
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

    fn save(&self, model: &Decoder, folder: &Path, carry_from: Option<PathBuf>) -> Result<(), TrainError> {
        let dtype = self.recipe.model.save_dtype.dtype();
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        Ok(model.save(folder, &SaveOptions { dtype, max_shard_bytes: 5_000_000_000, carry_from })?)
    }

    /// Measures a model if the recipe wants it and it is not done; `false` when it was stopped.
    fn evaluate(&mut self, stage: &str, current: &Current) -> Result<bool, TrainError> {
        if self.is_stopped() {
            return Ok(false);
        }
        let Some(eval) = &self.recipe.eval else { return Ok(true) };
        if !eval.stages.iter().flatten().any(|name| name == stage) {
            return Ok(true);
        }
        let output = self.recipe.folder().join("eval").join(stage);
        let marker = output.join("done.json");
        let identity = evaluate::identity(self.recipe, eval, &current.fingerprint, &self.tasks);
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
