//! A whole run: the stages of a recipe one after the other, each resumable, done ones skipped.
//!
//! When a stage begins, its `identity.json` says what it is made from: its keys, the fingerprints of its data and of the model it
//! begins with. It is done when its `done.json` is there. A stage that was begun from something else is refused, never silently kept
//! or overwritten, and where the recipe's keys tell, before anything in the folder has changed.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use findap_data::files::{file_sha256, hash_file, hex};
use findap_data::world;
use findap_model::checkpoint::SaveOptions;
use findap_model::{Config, Device, Dtype, Llama};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::distill;
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::folder::{FolderLock, write_whole};
use crate::objective::{Dpo, Reference};
use crate::plan;
use crate::recipe::{AlignStage, Recipe, SaveDtype, Stage, StateKind, TrainStage};
use crate::sources::{Sources, StageData};
use crate::trainer::{self, Job, Objective, References, changes};

#[cfg(all(test, feature = "emulator"))]
mod tests;

/// A model to be measured.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// `base` or the stage that made it.
    pub stage: &'a str,
    /// Its folder.
    pub model: &'a Path,
    /// The resolved recipe: what to measure, and the seed.
    pub recipe: &'a Recipe,
    /// Where results belong.
    pub output: &'a Path,
    /// Where it computes.
    pub device: &'a Device,
    /// The format of its weights there.
    pub dtype: Dtype,
    /// When the run was begun, in seconds since 1970: the time that chat templates tell.
    pub time_seconds: u64,
}

/// Measures a model; `false` when it was stopped before the end. Train and eval do not know each other: whoever starts a run joins them.
pub type Evaluate<'a> = dyn FnMut(&Evaluation<'_>) -> Result<bool, Box<dyn Error + Send + Sync>> + 'a;

/// What a run asks of whoever starts it.
pub struct Hooks<'a> {
    /// Is told what happens.
    pub observer: &'a mut dyn Observer,
    /// Set to end the run after the step at hand, with a checkpoint.
    pub stop: &'a AtomicBool,
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
    /// Stopped on request; the same command goes on from here.
    Interrupted,
}

/// `done.json` of a stage.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    /// What it was made from.
    identity: Identity,
    /// Fingerprint of the model it made.
    model: Option<String>,
    /// Optimizer steps.
    steps: u64,
    /// Step and dev loss of the weights that were kept.
    best: Option<(u64, f64)>,
    /// Wall time of the process that finished it.
    seconds: f64,
}

/// A model folder and what it holds.
#[derive(Debug, Clone)]
struct Current {
    folder: PathBuf,
    fingerprint: String,
}

/// Runs `recipe`, which is resolved; `text` is how it was written. With `only`, that stage alone: those before it must be done.
///
/// # Errors
/// [`TrainError`]; what was finished stays.
pub fn run(recipe: &Recipe, text: &str, only: Option<&str>, hooks: &mut Hooks<'_>) -> Result<Ended, TrainError> {
    run_on(None, recipe, text, only, hooks)
}

/// [`run`] on a device that is in use already, instead of the recipe's.
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
    refuse_changed(recipe, only)?;
    let files = [(folder.join("recipe.toml"), text), (folder.join("resolved.toml"), resolved.as_str())];
    let before: Vec<Option<String>> = files.iter().map(|(path, _)| fs::read_to_string(path).ok()).collect();
    for (path, text) in &files {
        write_if_new(path, text)?;
    }
    let ended = stages(device, recipe, only, hooks);
    if matches!(ended, Err(TrainError::Changed { .. })) {
        // What was refused for its data must not stand in the folder as if it had made it.
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
    let time_seconds = begun_at(folder)?;
    make_world(recipe, hooks.observer)?;
    let mut run = Run { recipe, hooks, time_seconds, unrecorded_base: None, device };
    let base = run.base()?;
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
        match run.stage(stage, &current)? {
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

/// When the run in this folder was begun, in seconds since 1970; the first call decides. A run that goes on after midnight has the
/// chat template of the day it was begun.
///
/// # Errors
/// [`TrainError::Io`].
pub fn begun_at(folder: &Path) -> Result<u64, TrainError> {
    let path = folder.join("begun.json");
    if let Some(seconds) = read_json(&path)? {
        return Ok(seconds);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    write_json(&path, &now)?;
    Ok(now)
}

/// Compares the recipe's keys with those that its stages were begun with.
fn refuse_changed(recipe: &Recipe, only: Option<&str>) -> Result<(), TrainError> {
    for stage in &recipe.stage {
        let folder = recipe.folder().join(stage.name());
        if let Some(mut begun) = read_json::<Identity>(&folder.join("identity.json"))? {
            begun.retain(|key, _| !is_fingerprint(key));
            require_same(&folder, stage.name(), &begun, &at_the_beginning(settings(recipe, stage)))?;
        }
        if only == Some(stage.name()) {
            break;
        }
    }
    Ok(())
}

/// What a stage is made from, as flat text: the recipe's keys and the fingerprints of model and data.
type Identity = BTreeMap<String, String>;

/// The part of an identity that a stage cannot go on without. How pairs are chosen may change: the samples serve again.
fn at_the_beginning(mut identity: Identity) -> Identity {
    const OF_PAIRS: [&str; 3] = [".kinds", ".pairs_per_exercise", ".corrections_per_exercise"];
    identity.retain(|key, _| !OF_PAIRS.iter().any(|end| key.ends_with(end)));
    identity
}

fn is_fingerprint(key: &str) -> bool {
    key == "model" || key == "exercises" || key.starts_with("data.")
}

/// The part of a stage's identity that stands in the recipe.
fn settings(recipe: &Recipe, stage: &Stage) -> Identity {
    /// How often something is saved, or where the judge is, changes nothing that is made.
    const WITHOUT_EFFECT: [&str; 3] = [".save_every_steps", ".judge.url", ".judge.key_env"];
    let mut identity = Identity::new();
    let table = serde_json::to_value(stage).expect("invariant: a stage is JSON");
    flatten(&format!("stage.{}", stage.name()), &table, &mut identity);
    identity.retain(|key, _| !WITHOUT_EFFECT.iter().any(|end| key.ends_with(end)));
    let is_named = |name: &String| match stage {
        Stage::Train(stage) => stage.sources().any(|source| source == name),
        Stage::Align(stage) => stage.pairs.contains(name),
        Stage::Distill(_) => false,
    };
    for source in recipe.data.iter().filter(|source| source.share.is_some() && is_named(&source.name)) {
        identity.insert(format!("share.{}", source.name), format!("{:?}", source.share));
    }
    if let Some(world) = world_identity(recipe) {
        flatten("world", &world, &mut identity);
    }
    identity.insert("run.seed".to_owned(), recipe.run.seed.to_string());
    identity.insert("model.compute".to_owned(), format!("{:?}", recipe.model.compute));
    identity.insert("model.save_dtype".to_owned(), format!("{:?}", recipe.model.save_dtype));
    if recipe.model.state != StateKind::default() {
        // what was begun before there was this key goes on
        identity.insert("model.state".to_owned(), format!("{:?}", recipe.model.state));
    }
    identity
}

/// What decides the closed world.
fn world_identity(recipe: &Recipe) -> Option<Value> {
    recipe.world.as_ref().map(|config| json!({ "version": world::VERSION, "config": config }))
}

fn require_same(folder: &Path, stage: &str, was: &Identity, now: &Identity) -> Result<(), TrainError> {
    let changes = changes(was, now);
    if changes.is_empty() {
        return Ok(());
    }
    Err(TrainError::Changed { folder: folder.into(), stage: stage.to_owned(), changes })
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
    // A world that is half replaced must not pass as the one before.
    if marker.exists() {
        fs::remove_file(&marker).map_err(io("remove", &marker))?;
    }
    world::generate(config, &folder)?;
    write_whole(&marker, wanted.as_bytes())
}

/// The config of the model that `recipe` begins with.
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
    /// The model before the first stage, until it is written down that the run comes from it.
    unrecorded_base: Option<Current>,
    /// Where models are trained, sampled and measured, once one is.
    device: Option<Device>,
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

    /// The weights a stage begins with, on the device that trains them, where there is memory for it.
    fn load(&mut self, stage: &str, data: &StageData, current: &Current) -> Result<Llama, TrainError> {
        let device = self.device()?;
        let config = Config::load(&current.folder)?;
        plan::require_memory(stage, &plan::training_memory(device.kind(), self.recipe, &config, data), &device)?;
        Ok(Llama::load_to(&device, &current.folder, self.dtype())?)
    }

    /// The device of the recipe, taken into use at the first call.
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

    /// Where a model is sampled and measured, and in which format: on a device that in which it trains, on the CPU f32.
    fn answers_on(&mut self) -> Result<(Device, Dtype), TrainError> {
        let device = self.device()?;
        let dtype = if device == Device::Cpu { Dtype::F32 } else { self.dtype() };
        Ok((device, dtype))
    }

    /// The model before the first stage. Random weights are drawn once and kept.
    fn base(&mut self) -> Result<Current, TrainError> {
        let model = &self.recipe.model;
        let folder = match (&model.base, &model.tokenizer) {
            (Some(base), _) => base.clone(),
            (None, tokenizer) => {
                let folder = self.recipe.folder().join("base").join("model");
                let mut identity = Identity::new();
                let init = model.init.clone().unwrap_or_default();
                flatten("model.init", &serde_json::to_value(init).unwrap_or_default(), &mut identity);
                identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
                let marker = self.recipe.folder().join("base").join("done.json");
                if let Some(done) = read_json::<Done>(&marker)? {
                    require_same(&self.recipe.folder().join("base"), "base", &done.identity, &identity)?;
                } else {
                    // drawn in f32 and rounded once, when it is saved or loaded
                    let dtype = if self.dtype() == Dtype::Bf16 { Dtype::F32 } else { self.dtype() };
                    let llama = Llama::init(base_config(self.recipe)?, self.recipe.run.seed, dtype);
                    self.save(&llama, &folder, tokenizer.clone())?;
                    let done = Done { identity, model: None, steps: 0, best: None, seconds: 0.0 };
                    write_json(&marker, &done)?;
                }
                folder
            }
        };
        Ok(Current { fingerprint: findap_model::fingerprint(&folder)?, folder })
    }

    /// Says once per process that does something where the results come from.
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

    /// Does one stage, or finds it done; `None` when it was stopped. A distillation leaves the model as it was.
    fn stage(&mut self, stage: &Stage, current: &Current) -> Result<Option<Current>, TrainError> {
        let folder = self.recipe.folder().join(stage.name());
        let marker = folder.join("done.json");
        let begun = Instant::now();
        let mut identity = settings(self.recipe, stage);
        identity.insert("model".to_owned(), current.fingerprint.clone());
        let sources = Sources::open(self.recipe, &current.folder, self.time_seconds)?;
        let data = match stage {
            Stage::Train(stage) => Some(sources.train(stage)?),
            Stage::Align(stage) => Some(sources.align(stage)?),
            Stage::Distill(stage) => {
                let path = crate::sources::locate(self.recipe.folder(), &stage.exercises);
                identity.insert("exercises".to_owned(), file_sha256(&path).map_err(io("read", &path))?);
                None
            }
        };
        for (name, fingerprint) in data.iter().flat_map(|data| &data.fingerprints) {
            identity.insert(format!("data.{name}"), fingerprint.clone());
        }
        let begun_with = folder.join("identity.json");
        if let Some(was) = read_json::<Identity>(&begun_with)? {
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
            (Stage::Train(stage), Some(data)) => self.train(stage, data, current, &folder, identity.clone())?,
            (Stage::Align(stage), Some(data)) => self.align(stage, data, current, &folder, identity.clone())?,
            (Stage::Distill(stage), _) => {
                let run_folder = self.recipe.folder();
                let (seed, time_seconds) = (self.recipe.run.seed, self.time_seconds);
                let (device, dtype) = self.answers_on()?;
                let (model, device) = (&current.folder, &device);
                let place = distill::Place { folder: &folder, run_folder, model, device, dtype, seed, time_seconds };
                let finished = distill::run(stage, &place, self.hooks.observer, self.hooks.stop)?;
                finished.then_some((0, None))
            }
            _ => unreachable!("invariant: train and align stages have data"),
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
        self.hooks.observer.event(Event::StageFinished { stage: stage.name().to_owned(), seconds });
        Ok(Some(next))
    }

    fn train(
        &mut self,
        stage: &TrainStage,
        data: StageData,
        current: &Current,
        folder: &Path,
        identity: Identity,
    ) -> Result<StageOutcome, TrainError> {
        let model = self.load(&stage.name, &data, current)?;
        self.note(mixture_note(&stage.name, &data));
        write_json(&folder.join("mixture.json"), &mixture_json(&data))?;
        self.optimize(&stage.name, &stage.optimization, model, data, Objective::CrossEntropy, current, folder, identity)
    }

    fn align(
        &mut self,
        stage: &AlignStage,
        data: StageData,
        current: &Current,
        folder: &Path,
        identity: Identity,
    ) -> Result<StageOutcome, TrainError> {
        let model = self.load(&stage.name, &data, current)?;
        write_json(&folder.join("mixture.json"), &mixture_json(&data))?;
        let references = self.references(&stage.name, &model, &data.loader, "references", folder, &identity)?;
        let dev_references = match &data.dev {
            Some(dev) => self.references(&stage.name, &model, dev, "dev_references", folder, &identity)?,
            None => Some(References::new()),
        };
        let (Some(references), Some(dev_references)) = (references, dev_references) else { return Ok(None) };
        let dpo = Dpo { beta: stage.beta, nll_weight: stage.nll_weight, nll_mean: stage.nll_mean };
        let objective = Objective::Dpo { dpo, references, dev_references };
        self.optimize(&stage.name, &stage.optimization, model, data, objective, current, folder, identity)
    }

    /// The reference's log-probabilities of the pairs, from the disk where they are: they follow from model and data alone. `None`
    /// when it was stopped.
    fn references(
        &mut self,
        stage: &str,
        model: &Llama,
        loader: &findap_data::Loader,
        name: &str,
        folder: &Path,
        identity: &Identity,
    ) -> Result<Option<References>, TrainError> {
        #[derive(Serialize, Deserialize)]
        struct Cached {
            identity: Identity,
            /// Store, row, log-probabilities of the chosen and the rejected answer.
            pairs: Vec<(u32, u32, f64, f64)>,
        }
        let path = folder.join(format!("{name}.json"));
        // The order of sources and the seed decide which row has which number.
        let is_cause = |key: &str| {
            ["model", "model.compute", "run.seed"].contains(&key)
                || ["data.", "share."].iter().any(|start| key.starts_with(start))
                || [".pairs", ".dev", ".context_tokens"].iter().any(|end| key.ends_with(end))
        };
        let identity: Identity =
            identity.iter().filter(|(key, _)| is_cause(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let cached = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
        if let Some(cached) = cached.filter(|cached| cached.identity == identity) {
            let entry =
                |(store, row, chosen, rejected)| (findap_data::RowRef { store, row }, Reference { chosen, rejected });
            return Ok(Some(cached.pairs.into_iter().map(entry).collect()));
        }
        let (stop, observer) = (self.hooks.stop, &mut *self.hooks.observer);
        let Some(references) = trainer::reference_logprobs(model, loader, stage, stop, observer)? else {
            return Ok(None);
        };
        let pairs = references.iter().map(|(row, pair)| (row.store, row.row, pair.chosen, pair.rejected)).collect();
        write_json(&path, &Cached { identity, pairs })?;
        Ok(Some(references))
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where a stage comes together")]
    fn optimize(
        &mut self,
        name: &str,
        keys: &crate::recipe::Optimization,
        mut model: Llama,
        mut data: StageData,
        objective: Objective,
        current: &Current,
        folder: &Path,
        identity: Identity,
    ) -> Result<StageOutcome, TrainError> {
        let sources: Vec<String> = data.sources.iter().map(|source| source.name.clone()).collect();
        let job = Job {
            stage: name,
            folder,
            options: self.recipe.train_options(keys),
            identity,
            objective,
            sources: &sources,
        };
        let dev = data.dev.as_ref();
        match trainer::train(&mut model, &mut data.loader, dev, &job, self.hooks.stop, self.hooks.observer)? {
            trainer::Outcome::Interrupted { .. } => Ok(None),
            trainer::Outcome::Finished { step, best } => {
                self.save(&model, &folder.join("model"), Some(current.folder.clone()))?;
                Ok(Some((step, best)))
            }
        }
    }

    fn save(&self, model: &Llama, folder: &Path, carry_from: Option<PathBuf>) -> Result<(), TrainError> {
        let dtype = match self.recipe.model.save_dtype {
            SaveDtype::Bf16 => Dtype::Bf16,
            SaveDtype::F32 => Dtype::F32,
        };
        fs::create_dir_all(folder).map_err(io("make the folder", folder))?;
        Ok(model.save(folder, &SaveOptions { dtype, max_shard_bytes: 5_000_000_000, carry_from })?)
    }

    /// Measures a model where the recipe wants it and it was not done; `false` when it was stopped.
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
        let mut identity = Identity::from([("model".to_owned(), current.fingerprint.clone())]);
        flatten("eval", &serde_json::to_value(eval).expect("invariant: a table is JSON"), &mut identity);
        identity.remove("eval.stages");
        if let Some(world) = world_identity(self.recipe) {
            flatten("world", &world, &mut identity);
        }
        for folder in eval.task_folder.iter().chain(eval.data.values()) {
            identity.insert(format!("files.{}", folder.display()), file_sizes(folder)?);
        }
        identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
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

/// Steps and best dev loss of a finished stage; `None` when it was stopped.
type StageOutcome = Option<(u64, Option<(u64, f64)>)>;

/// SHA-256 over the names and sizes of the files below a folder and the contents of its task files: whether questions may have changed.
fn file_sizes(folder: &Path) -> Result<String, TrainError> {
    let mut entries = files_below(folder)?;
    entries.sort();
    let mut hash = Sha256::new();
    for (path, bytes) in entries {
        hash.update(format!("{} {bytes}\n", path.strip_prefix(folder).unwrap_or(&path).display()));
        if path.extension().is_some_and(|ending| ending == "toml") {
            hash_file(&mut hash, &path).map_err(io("read", &path))?;
        }
    }
    Ok(hex(&hash.finalize()))
}

/// The files below a folder with their sizes. A link to a folder is not followed.
fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>, TrainError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io("list", &folder))? {
            let entry = entry.map_err(io("list", &folder))?;
            let path = entry.path();
            let metadata = entry.metadata().map_err(io("look at", &path))?;
            if metadata.is_dir() { folders.push(path) } else { files.push((path, metadata.len())) }
        }
    }
    Ok(files)
}

/// `a.b.c` -> text, for every value below `value`.
fn flatten(key: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, into)),
        other => drop(into.insert(key.to_owned(), other.to_string())),
    }
}

fn mixture_json(data: &StageData) -> Value {
    json!({ "sources": data.mixture.sets, "contexts": data.loader.num_contexts(), "fill": data.loader.fill() })
}

fn mixture_note(stage: &str, data: &StageData) -> String {
    let (rows, tokens, loss_tokens) = data.mixture.totals();
    let dropped: u64 = data.stores.iter().map(|store| store.report().dropped_too_long).sum();
    let dropped =
        if dropped > 0 { format!(", {dropped} rows longer than the context left out") } else { String::new() };
    format!("{stage}: {rows} rows, {tokens} tokens, {loss_tokens} with loss{dropped}")
}

/// `None` where there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TrainError> {
    match fs::read(path) {
        Ok(bytes) => {
            let parsed = serde_json::from_slice(&bytes);
            parsed.map(Some).map_err(|error| io("read", path)(std::io::Error::other(error)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let text = serde_json::to_vec_pretty(value).expect("invariant: plain values are JSON");
    write_whole(path, &text)
}

/// Leaves a file with this very text as it is.
fn write_if_new(path: &Path, text: &str) -> Result<(), TrainError> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    write_whole(path, text.as_bytes())
}
