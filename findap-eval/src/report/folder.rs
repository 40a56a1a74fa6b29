//! Reads a run folder: what the report shows, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use findap_data::plain_words::plain_words;
use serde_json::{Map, Value};

use crate::compare::{CompareOptions, Comparison, compare};
use crate::error::EvalError;
use crate::results::Results;
use crate::sample::Sample;
use crate::table::StageScores;

/// The samples of one stage.
pub(super) type SamplesByTask = BTreeMap<String, Vec<Sample>>;

/// How far a stage of the recipe has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageState {
    /// Name of the stage.
    pub stage: String,
    /// `train`, `distill` or `align`.
    pub kind: String,
    /// Whether it is done.
    pub is_done: bool,
    /// Steps that its log has; exercises that were sampled.
    pub num_done: u64,
    /// Steps in all, where the stage has written how many there are.
    pub num_all: Option<u64>,
}

/// The training log of one stage.
#[derive(Debug, Clone)]
pub struct StageLog {
    /// Name of the stage.
    pub stage: String,
    /// What the stage minimised, where the recipe tells it.
    pub loss: Option<String>,
    /// One flat object per step (or per dev-set pass), as written.
    pub lines: Vec<Map<String, Value>>,
    /// Realised proportions of the stage's data, where the stage wrote them.
    pub mixture: Option<Value>,
}

impl StageLog {
    /// The values of a key over steps.
    pub fn series(&self, key: &str) -> Vec<(f64, f64)> {
        let point = |line: &Map<String, Value>| Some((line.get("step")?.as_f64()?, line.get(key)?.as_f64()?));
        self.lines.iter().filter_map(point).collect()
    }
}

/// A run folder in memory.
#[derive(Debug)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its recipe after resolution, as text.
    pub resolved: Option<String>,
    /// Commit, device, fingerprints.
    pub provenance: Map<String, Value>,
    /// Stages in the order they ran.
    pub logs: Vec<StageLog>,
    /// The stages of the recipe, in its order.
    pub stages: Vec<StageState>,
    /// Stages that the recipe wants to be evaluated and that are not yet; `base` is the model before the first.
    pub not_evaluated: Vec<String>,
    /// Scores of the stages that were evaluated, in the order they ran.
    pub scores: Vec<StageScores>,
    /// What changed from the first evaluated stage to each, in the order of `scores`; `None` for the first itself, and where the
    /// two cannot be compared.
    pub changes: Vec<Option<Comparison>>,
    /// Why stages cannot be compared.
    pub notes: Vec<String>,
    /// Samples of the first and of the last evaluated stage, by task; `None` with fewer than two stages.
    pub samples: Option<(SamplesByTask, SamplesByTask)>,
    /// Preference pairs, as written.
    pub preferences: Vec<Map<String, Value>>,
    /// Statistics of the distillation, empty where there are none.
    pub distillation: Map<String, Value>,
}

impl RunFolder {
    /// Reads a run folder. Missing files are fine: a run may be looked at before it has ended.
    ///
    /// # Errors
    /// [`EvalError::Io`] where the folder or a file cannot be read; [`EvalError::Results`] where a file does not hold what
    /// it should, or the folder holds nothing of a run.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let mut folders: Vec<String> = std::fs::read_dir(path)
            .map_err(EvalError::io(path))?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let recipe = path.join("resolved.toml");
        let resolved = read_optional(&recipe)?;
        let table = parse_recipe(resolved.as_deref().unwrap_or_default(), &recipe)?;
        let order: Vec<String> = recipe_stages(&table).map(|(name, _)| name.to_owned()).collect();
        // The base comes first, then the stages of the recipe in their order, then other stages by name.
        let rank = |name: &str| match order.iter().position(|stage| stage == name) {
            _ if name == "base" => (0, String::new()),
            Some(position) => (1 + position, String::new()),
            None => (usize::MAX, name.to_owned()),
        };
        folders.sort_by_key(|name| rank(name));

        let mut logs = Vec::new();
        let mut distillation = Map::new();
        for stage in &folders {
            let folder = path.join(stage);
            if let Some(Value::Object(object)) = read_json(&folder.join("statistics.json"))? {
                distillation = object;
            }
            let lines = read_lines(&folder.join("metrics.jsonl"))?;
            if !lines.is_empty() {
                let (loss, mixture) = (stage_loss(&table, stage), read_json(&folder.join("mixture.json"))?);
                logs.push(StageLog { stage: stage.clone(), loss, lines, mixture });
            }
        }

        let mut evaluated: Vec<String> = match std::fs::read_dir(path.join("eval")) {
            Err(_) => Vec::new(),
            Ok(entries) => {
                entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok()).collect()
            }
        };
        evaluated.sort_by_key(|name| rank(name));
        let mut scores = Vec::new();
        let mut results: Vec<Results> = Vec::new();
        for stage in evaluated {
            let folder = path.join("eval").join(&stage);
            let has_results = std::fs::read_dir(&folder).is_ok_and(|entries| {
                entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().starts_with("results_"))
            });
            if has_results {
                let loaded = Results::load(&folder)?;
                let tasks = loaded.tasks.iter().map(|task| task.summary.clone()).collect();
                scores.push(StageScores { stage, info: loaded.info.clone(), tasks });
                results.push(loaded);
            }
        }
        if resolved.is_none() && logs.is_empty() && scores.is_empty() {
            let problem = "this is no run folder: it has no resolved.toml, no stage with a metrics.jsonl and no eval/; name the \
                           folder of a run, such as runs/demo";
            return Err(EvalError::Results { path: path.to_owned(), problem: problem.to_owned() });
        }
        let mut notes = Vec::new();
        let changes = results.iter().enumerate().map(|(index, after)| {
            let before = results.first().filter(|_| index > 0)?;
            match compare(before, after, CompareOptions::default()) {
                Ok(Comparison { settings, prompts, .. }) if !settings.is_empty() || !prompts.is_empty() => {
                    let settings = settings.iter().map(ToString::to_string);
                    let told: Vec<String> = settings.chain(prompts.iter().map(ToString::to_string)).collect();
                    let [stage, first] = [&scores[index].stage, &scores[0].stage];
                    notes.push(format!(
                        "{stage} is not compared with {first}, as it was measured otherwise: {}",
                        told.join("; ")
                    ));
                    None
                }
                Ok(comparison) => Some(comparison),
                Err(error) => {
                    notes.push(format!("{} is not compared: {error}", scores[index].stage));
                    None
                }
            }
        });
        let changes = changes.collect();
        let last = (results.len() > 1).then(|| results.pop()).flatten();
        let samples = last.map(|last| (samples_of(results.swap_remove(0)), samples_of(last)));
        let stages = recipe_stages(&table).map(|(name, kind)| stage_state(path, name, kind, &logs)).collect();
        let not_evaluated = wanted_evaluations(&table)
            .filter(|name| !scores.iter().any(|stage: &StageScores| stage.stage == *name))
            .map(str::to_owned)
            .collect();
        Ok(Self {
            path: path.to_owned(),
            resolved,
            provenance: match read_json(&path.join("provenance.json"))? {
                Some(Value::Object(object)) => object,
                _ => Map::new(),
            },
            logs,
            stages,
            not_evaluated,
            scores,
            changes,
            notes,
            samples,
            preferences: read_lines(&path.join("preferences.jsonl"))?,
            distillation,
        })
    }

    /// Whether all that the recipe asks for is done.
    pub fn is_finished(&self) -> bool {
        self.stages.iter().all(|stage| stage.is_done) && self.not_evaluated.is_empty()
    }

    /// The run's name: that of its folder.
    pub fn name(&self) -> String {
        let full = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        full.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

fn samples_of(results: Results) -> SamplesByTask {
    results.tasks.into_iter().map(|task| (task.summary.name, task.samples)).collect()
}

fn stage_state(run: &Path, name: &str, kind: &str, logs: &[StageLog]) -> StageState {
    let folder = run.join(name);
    let log = logs.iter().find(|log| log.stage == name);
    let last_step = log.and_then(|log| log.series("loss").last().map(|(step, _)| *step as u64));
    // One line for each exercise; a file that is not there yet has none.
    let num_samples = || std::fs::read_to_string(folder.join("samples.jsonl")).map_or(0, |text| text.lines().count());
    StageState {
        stage: name.to_owned(),
        kind: kind.to_owned(),
        is_done: folder.join("done.json").exists(),
        num_done: if kind == "distill" { num_samples() as u64 } else { last_step.unwrap_or(0) },
        num_all: log.and_then(|log| log.mixture.as_ref()?.get("steps")?.as_u64()),
    }
}

fn parse_recipe(text: &str, path: &Path) -> Result<toml::Table, EvalError> {
    text.parse().map_err(|error: toml::de::Error| EvalError::Results {
        path: path.to_owned(),
        problem: format!("it is no recipe: {}", plain_words(error.message())),
    })
}

/// Names and kinds of the stages of a recipe.
fn recipe_stages(recipe: &toml::Table) -> impl Iterator<Item = (&str, &str)> {
    let stages = recipe.get("stage").and_then(toml::Value::as_array);
    stages.into_iter().flatten().filter_map(|stage| {
        Some((stage.get("name")?.as_str()?, stage.get("kind").and_then(toml::Value::as_str).unwrap_or("train")))
    })
}

/// What a stage of a resolved recipe minimises.
fn stage_loss(recipe: &toml::Table, name: &str) -> Option<String> {
    let stages = recipe.get("stage").and_then(toml::Value::as_array);
    let text = |stage: &toml::Value, key: &str| Some(stage.get(key)?.as_str()?.to_owned());
    let stage = stages.into_iter().flatten().find(|stage| text(stage, "name").as_deref() == Some(name))?;
    text(stage, "loss").or_else(|| (text(stage, "kind")? == "train").then(|| "cross-entropy".to_owned()))
}

/// Names of the stages that a resolved recipe wants to be evaluated.
fn wanted_evaluations(recipe: &toml::Table) -> impl Iterator<Item = &str> {
    let stages = recipe.get("eval").and_then(|eval| eval.get("stages")?.as_array());
    stages.into_iter().flatten().filter_map(toml::Value::as_str)
}

fn read_optional(path: &Path) -> Result<Option<String>, EvalError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EvalError::io(path)(error)),
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, EvalError> {
    let Some(text) = read_optional(path)? else { return Ok(None) };
    let problem = |error: serde_json::Error| EvalError::Results {
        path: path.to_owned(),
        problem: format!("is not JSON: {}", plain_words(&error.to_string())),
    };
    serde_json::from_str(&text).map(Some).map_err(problem)
}

/// Reads the objects of a JSONL file. A last line that is cut short belongs to a run that is still writing, and is left out.
fn read_lines(path: &Path) -> Result<Vec<Map<String, Value>>, EvalError> {
    let Some(text) = read_optional(path)? else { return Ok(Vec::new()) };
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| EvalError::Results {
            path: path.to_owned(),
            problem: format!("line {}: {}", index + 1, plain_words(&error.to_string())),
        })
    };
    complete.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
