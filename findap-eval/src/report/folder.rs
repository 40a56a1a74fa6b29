//! Reads a run folder: what the report shows, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::EvalError;
use crate::results::{load_samples, load_summaries};
use crate::sample::Sample;
use crate::table::StageScores;

/// The samples of one stage.
pub(super) type SamplesByTask = BTreeMap<String, Vec<Sample>>;

/// The training log of one stage.
#[derive(Debug, Clone)]
pub struct StageLog {
    /// Name of the stage.
    pub stage: String,
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
    /// Scores of the stages that were evaluated, in the order they ran.
    pub scores: Vec<StageScores>,
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
    /// it should.
    pub fn read(path: &Path) -> Result<Self, EvalError> {
        let mut folders: Vec<String> = std::fs::read_dir(path)
            .map_err(EvalError::io(path))?
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let recipe = path.join("resolved.toml");
        let resolved = read_optional(&recipe)?;
        let order = stage_order(resolved.as_deref().unwrap_or_default(), &recipe)?;
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
                logs.push(StageLog { stage: stage.clone(), lines, mixture: read_json(&folder.join("mixture.json"))? });
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
        let mut result_files = Vec::new();
        for stage in evaluated {
            let folder = path.join("eval").join(&stage);
            let has_results = std::fs::read_dir(&folder).is_ok_and(|entries| {
                entries.filter_map(Result::ok).any(|entry| entry.file_name().to_string_lossy().starts_with("results_"))
            });
            if has_results {
                let (file, info, tasks) = load_summaries(&folder)?;
                result_files.push((file, tasks.clone()));
                scores.push(StageScores { stage, info, tasks });
            }
        }
        let samples = match (result_files.first(), result_files.last()) {
            (Some(first), Some(last)) if result_files.len() > 1 => Some((samples_of(first)?, samples_of(last)?)),
            _ => None,
        };
        Ok(Self {
            path: path.to_owned(),
            resolved,
            provenance: match read_json(&path.join("provenance.json"))? {
                Some(Value::Object(object)) => object,
                _ => Map::new(),
            },
            logs,
            scores,
            samples,
            preferences: read_lines(&path.join("preferences.jsonl"))?,
            distillation,
        })
    }

    /// The run's name: that of its folder.
    pub fn name(&self) -> String {
        let full = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        full.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

type ResultFile = (PathBuf, Vec<crate::results::TaskSummary>);

fn samples_of((file, tasks): &ResultFile) -> Result<SamplesByTask, EvalError> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stamp = name.trim_start_matches("results_").trim_end_matches(".json");
    let mut samples = BTreeMap::new();
    for task in tasks {
        let path = file.with_file_name(format!("samples_{}_{stamp}.jsonl", task.name));
        if path.exists() {
            samples.insert(task.name.clone(), load_samples(&path)?);
        }
    }
    Ok(samples)
}

/// Names of the stages of the recipe at `path`; none of an empty one.
fn stage_order(text: &str, path: &Path) -> Result<Vec<String>, EvalError> {
    let table: toml::Table = text
        .parse()
        .map_err(|error| EvalError::Results { path: path.to_owned(), problem: format!("it is no recipe: {error}") })?;
    let stages = table.get("stage").and_then(toml::Value::as_array);
    let name = |stage: &toml::Value| stage.get("name")?.as_str().map(str::to_owned);
    Ok(stages.into_iter().flatten().filter_map(name).collect())
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
    let problem = |error| EvalError::Results { path: path.to_owned(), problem: format!("is not JSON: {error}") };
    serde_json::from_str(&text).map(Some).map_err(problem)
}

/// Reads the objects of a JSONL file. A last line that is cut short belongs to a run that is still writing, and is left out.
fn read_lines(path: &Path) -> Result<Vec<Map<String, Value>>, EvalError> {
    let Some(text) = read_optional(path)? else { return Ok(Vec::new()) };
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|error| EvalError::Results {
            path: path.to_owned(),
            problem: format!("line {}: {error}", index + 1),
        })
    };
    complete.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}
