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
mod stage;
pub mod stand_ins;
#[cfg(test)]
mod tests;
pub mod verification;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use findap_data::chat_template::day_seconds;
use findap_data::world;
use findap_model::{Config, Device, Dtype};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::settings::world_identity;
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::folder::{FolderLock, read_json, write_if_new, write_json, write_whole};
use crate::identity::Identity;
use crate::recipe::{Recipe, Stage, StateKind};
use crate::sources::Sources;

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
}
