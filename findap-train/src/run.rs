//! A whole run: the stages of a recipe one after the other, each resumable, done ones skipped.
//!
//! A stage is done when its `done.json` is there. It holds what the stage was made from (its keys, the fingerprints of its data and
//! of the model it began with); a stage that was made from something else is refused, never silently kept or overwritten.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use findap_data::world::{self, WorldConfig};
use findap_data::{ChatTemplate, Tokenizer};
use findap_model::checkpoint::SaveOptions;
use findap_model::{Config, Dtype, Llama, Recompute};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::distill;
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::folder::{FolderLock, file_sha256, write_whole};
use crate::objective::{Dpo, Reference};
use crate::recipe::{AlignStage, Compute, Recipe, RecomputeKind, SaveDtype, Stage, TrainStage};
use crate::sources::{Sources, StageData};
use crate::trainer::{self, Job, Objective, References, changes};

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
    /// Goes into `provenance.json`: commit, device, whatever else is known.
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
    identity: BTreeMap<String, String>,
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
    let folder = recipe.folder();
    let _lock = FolderLock::take(folder)?;
    if let Some(name) = only
        && !recipe.stage.iter().any(|stage| stage.name() == name)
    {
        let names: Vec<&str> = recipe.stage.iter().map(Stage::name).collect();
        let problem = format!("the recipe has no such stage; there are {}", names.join(", "));
        return Err(TrainError::NothingToTrain { stage: name.to_owned(), problem });
    }
    let resolved = toml::to_string(recipe).expect("invariant: a recipe is TOML");
    let files = [(folder.join("recipe.toml"), text), (folder.join("resolved.toml"), resolved.as_str())];
    let before: Vec<Option<String>> = files.iter().map(|(path, _)| fs::read_to_string(path).ok()).collect();
    for (path, text) in &files {
        write_if_new(path, text)?;
    }
    let ended = stages(recipe, only, hooks);
    if matches!(ended, Err(TrainError::Changed { .. })) {
        // What was refused must not stand in the folder as if it had made it.
        for ((path, _), before) in files.iter().zip(before) {
            before.map_or(Ok(()), |before| write_if_new(path, &before))?;
        }
    }
    ended
}

fn stages(recipe: &Recipe, only: Option<&str>, hooks: &mut Hooks<'_>) -> Result<Ended, TrainError> {
    let folder = recipe.folder();
    make_world(recipe, hooks.observer)?;
    let mut run = Run { recipe, hooks };
    let mut current = run.base()?;
    run.write_provenance(&current)?;
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

/// Generates the closed world of a recipe into `data/world` of its run folder, where it is not there yet.
///
/// # Errors
/// [`TrainError::World`], [`TrainError::Io`].
pub fn make_world(recipe: &Recipe, observer: &mut dyn Observer) -> Result<(), TrainError> {
    let Some(table) = &recipe.world else { return Ok(()) };
    let config = WorldConfig::deserialize(table.clone())
        .map_err(|error| TrainError::WorldTable { problem: error.message().to_owned() })?;
    let folder = recipe.folder().join("data").join("world");
    let marker = folder.join("world.json");
    let wanted = json!({ "version": world::VERSION, "config": config }).to_string();
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    observer.event(Event::Note(format!("writing the closed world to {}", folder.display())));
    // A world that is half replaced must not pass as the one before.
    if marker.exists() {
        fs::remove_file(&marker).map_err(io("remove", &marker))?;
    }
    world::generate(&config, &folder)?;
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
}

impl Run<'_, '_> {
    fn note(&mut self, text: String) {
        self.hooks.observer.event(Event::Note(text));
    }

    fn is_stopped(&self) -> bool {
        self.hooks.stop.load(Ordering::Relaxed)
    }

    fn dtype(&self) -> Dtype {
        match self.recipe.model.compute {
            Compute::F32 => Dtype::F32,
            Compute::F64 => Dtype::F64,
        }
    }

    /// The model before the first stage. Random weights are drawn once and kept.
    fn base(&mut self) -> Result<Current, TrainError> {
        let model = &self.recipe.model;
        let folder = match (&model.base, &model.tokenizer) {
            (Some(base), _) => base.clone(),
            (None, tokenizer) => {
                let folder = self.recipe.folder().join("base").join("model");
                let mut identity = BTreeMap::new();
                let init = model.init.clone().unwrap_or_default();
                flatten("model.init", &serde_json::to_value(init).unwrap_or_default(), &mut identity);
                identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
                let marker = self.recipe.folder().join("base").join("done.json");
                if let Some(done) = read_done(&marker)? {
                    self.require_same("base", &done.identity, &identity)?;
                } else {
                    let llama = Llama::init(base_config(self.recipe)?, self.recipe.run.seed, self.dtype());
                    self.save(&llama, &folder, tokenizer.clone())?;
                    let done = Done { identity, model: None, steps: 0, best: None, seconds: 0.0 };
                    write_json(&marker, &done)?;
                }
                folder
            }
        };
        Ok(Current { fingerprint: model_fingerprint(&folder)?, folder })
    }

    fn write_provenance(&mut self, base: &Current) -> Result<(), TrainError> {
        let mut provenance = self.hooks.provenance.clone();
        provenance.insert("findap".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        provenance.insert("base model".to_owned(), json!(base.folder));
        provenance.insert("base fingerprint".to_owned(), json!(base.fingerprint));
        provenance.insert("seed".to_owned(), json!(self.recipe.run.seed));
        write_json(&self.recipe.folder().join("provenance.json"), &provenance)
    }

    /// Does one stage, or finds it done; `None` when it was stopped. A distillation leaves the model as it was.
    fn stage(&mut self, stage: &Stage, current: &Current) -> Result<Option<Current>, TrainError> {
        let folder = self.recipe.folder().join(stage.name());
        let marker = folder.join("done.json");
        let mut identity = self.identity(stage, current);
        let begun = Instant::now();
        let tokenizer = Tokenizer::load(&current.folder)?;
        let template = ChatTemplate::load(&current.folder).ok();
        let sources = Sources { recipe: self.recipe, tokenizer: &tokenizer, template: template.as_ref() };
        let data = match stage {
            Stage::Train(stage) => Some(sources.train(stage)?),
            Stage::Align(stage) => Some(sources.align(stage)?),
            Stage::Distill(stage) => {
                let path = crate::sources::locate(self.recipe.folder(), &stage.exercises);
                identity.insert("exercises".to_owned(), file_sha256(&path)?);
                None
            }
        };
        for (name, fingerprint) in data.iter().flat_map(|data| &data.fingerprints) {
            identity.insert(format!("data.{name}"), fingerprint.clone());
        }
        for source in data.iter().flat_map(|data| &data.sources).filter(|source| source.share.is_some()) {
            identity.insert(format!("share.{}", source.name), format!("{:?}", source.share));
        }
        if let Some(done) = read_done(&marker)? {
            self.require_same(stage.name(), &done.identity, &identity)?;
            self.hooks.observer.event(Event::StageSkipped { stage: stage.name().to_owned() });
            return Ok(Some(match done.model {
                Some(fingerprint) => Current { folder: folder.join("model"), fingerprint },
                None => current.clone(),
            }));
        }
        let outcome = match (stage, data) {
            (Stage::Train(stage), Some(data)) => self.train(stage, data, current, &folder, identity.clone())?,
            (Stage::Align(stage), Some(data)) => self.align(stage, data, current, &folder, identity.clone())?,
            (Stage::Distill(stage), _) => {
                let run_folder = self.recipe.folder();
                let place = distill::Place { folder: &folder, run_folder, identity: &identity };
                let model = &current.folder;
                let finished =
                    distill::run(stage, model, self.recipe.run.seed, &place, self.hooks.observer, self.hooks.stop)?;
                finished.then_some((0, None))
            }
            _ => unreachable!("invariant: train and align stages have data"),
        };
        let Some((steps, best)) = outcome else { return Ok(None) };
        let next = match stage.makes_model() {
            true => {
                let model = folder.join("model");
                Current { fingerprint: model_fingerprint(&model)?, folder: model }
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
        identity: BTreeMap<String, String>,
    ) -> Result<StageOutcome, TrainError> {
        let model = Llama::load(&current.folder, self.dtype())?;
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
        identity: BTreeMap<String, String>,
    ) -> Result<StageOutcome, TrainError> {
        let model = Llama::load(&current.folder, self.dtype())?;
        write_json(&folder.join("mixture.json"), &mixture_json(&data))?;
        let references = self.references(&stage.name, &model, &data.loader, "references", folder, &identity)?;
        let dev_references = match &data.dev {
            Some(dev) => self.references(&stage.name, &model, dev, "dev_references", folder, &identity)?,
            None => References::new(),
        };
        let dpo = Dpo { beta: stage.beta, nll_weight: stage.nll_weight, nll_mean: stage.nll_mean };
        let objective = Objective::Dpo { dpo, references, dev_references };
        self.optimize(&stage.name, &stage.optimization, model, data, objective, current, folder, identity)
    }

    /// The reference's log-probabilities of the pairs, from the disk where they are: they follow from model and data alone.
    fn references(
        &mut self,
        stage: &str,
        model: &Llama,
        loader: &findap_data::Loader,
        name: &str,
        folder: &Path,
        identity: &BTreeMap<String, String>,
    ) -> Result<References, TrainError> {
        #[derive(Serialize, Deserialize)]
        struct Cached {
            identity: BTreeMap<String, String>,
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
        let identity: BTreeMap<String, String> =
            identity.iter().filter(|(key, _)| is_cause(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let cached = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
        if let Some(cached) = cached.filter(|cached| cached.identity == identity) {
            let entry =
                |(store, row, chosen, rejected)| (findap_data::RowRef { store, row }, Reference { chosen, rejected });
            return Ok(cached.pairs.into_iter().map(entry).collect());
        }
        let references = trainer::reference_logprobs(model, loader, stage, self.hooks.observer)?;
        let pairs = references.iter().map(|(row, pair)| (row.store, row.row, pair.chosen, pair.rejected)).collect();
        write_json(&path, &Cached { identity, pairs })?;
        Ok(references)
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
        identity: BTreeMap<String, String>,
    ) -> Result<StageOutcome, TrainError> {
        let sources: Vec<String> = data.sources.iter().map(|source| source.name.clone()).collect();
        let job = Job {
            stage: name,
            folder,
            keys,
            recompute: match self.recipe.model.recompute {
                RecomputeKind::None => Recompute::None,
                RecomputeKind::Block => Recompute::Block,
            },
            keep_checkpoints: self.recipe.run.keep_checkpoints,
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

    /// What the stage is made from: its keys as flat text, the model, what else decides its bits.
    fn identity(&self, stage: &Stage, current: &Current) -> BTreeMap<String, String> {
        /// How often something is saved changes nothing that is made.
        const WITHOUT_EFFECT: [&str; 1] = ["save_every_steps"];
        let mut identity = BTreeMap::new();
        let Value::Object(mut table) = serde_json::to_value(stage).expect("invariant: a stage is JSON") else {
            unreachable!("invariant: a stage is a table")
        };
        WITHOUT_EFFECT.iter().for_each(|key| drop(table.remove(*key)));
        flatten(&format!("stage.{}", stage.name()), &Value::Object(table), &mut identity);
        identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
        let model = &self.recipe.model;
        identity.insert("model.compute".to_owned(), format!("{:?}", model.compute));
        identity.insert("model.save_dtype".to_owned(), format!("{:?}", model.save_dtype));
        identity.insert("model".to_owned(), current.fingerprint.clone());
        identity
    }

    fn require_same(
        &self,
        stage: &str,
        was: &BTreeMap<String, String>,
        now: &BTreeMap<String, String>,
    ) -> Result<(), TrainError> {
        let changes = changes(was, now);
        if changes.is_empty() {
            return Ok(());
        }
        let folder = self.recipe.folder().join(stage);
        Err(TrainError::Changed { folder, stage: stage.to_owned(), changes })
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
        let mut identity = BTreeMap::from([("model".to_owned(), current.fingerprint.clone())]);
        flatten("eval", &serde_json::to_value(eval).expect("invariant: a table is JSON"), &mut identity);
        identity.remove("eval.stages");
        identity.insert("world".to_owned(), json!(self.recipe.world).to_string());
        identity.insert("run.seed".to_owned(), self.recipe.run.seed.to_string());
        if let Some(done) = read_done(&marker)? {
            if changes(&done.identity, &identity).is_empty() {
                return Ok(true);
            }
            self.note(format!("{}: measured for another model or other tasks; measuring again", output.display()));
        }
        fs::create_dir_all(&output).map_err(io("make the folder", &output))?;
        self.hooks.observer.event(Event::Evaluating { stage: stage.to_owned() });
        let begun = Instant::now();
        let asked = Evaluation { stage, model: &current.folder, recipe: self.recipe, output: &output };
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

/// SHA-256 over everything of a model folder that changes what it computes: weights, config, tokenizer, template.
///
/// # Errors
/// [`TrainError::Io`].
pub fn model_fingerprint(folder: &Path) -> Result<String, TrainError> {
    use sha2::{Digest, Sha256};
    let decides = |name: &str| {
        name.ends_with(".safetensors")
            || [
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "chat_template.jinja",
                "generation_config.json",
            ]
            .contains(&name)
    };
    let entries = fs::read_dir(folder).map_err(io("list", folder))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| decides(name)).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let file = file_sha256(&folder.join(&name))?;
        hash.update(format!("{name} {file}\n"));
    }
    Ok(crate::folder::hex(&hash.finalize()))
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

fn read_done(path: &Path) -> Result<Option<Done>, TrainError> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(done) => Ok(Some(done)),
            Err(error) => Err(io("read", path)(std::io::Error::other(error))),
        },
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
