//! What a run found, in memory and in lm-eval's files: `results_<time>.json` and `samples_<task>_<time>.jsonl`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use findap_data::files::{remove_partial_files, write_whole};
use findap_data::plain_words::plain_words;
use findap_data::{Capability, Domain};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::EvalError;
use crate::metrics::{Outcome, aggregate, standard_error};
use crate::options::Options;
use crate::sample::{Answer, Sample};
use crate::task::{Kind, Metric, Similarity, SubsetMean, Task};

/// Raised whenever a reply that tasks extract answers from may be scored otherwise than before, so that results of two versions are
/// not compared.
pub const SCORING_VERSION: u32 = 3;

/// What was run and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The model's name: usually its folder.
    pub model_name: String,
    /// What identifies weights and tokenizer.
    pub model_fingerprint: String,
    /// Number format and kind of device that computed the answers, such as `bf16 on cuda`; empty in results of versions that did
    /// not say it.
    #[serde(default)]
    pub precision: String,
    /// The date that the chat template told in every prompt, `2026-11-28`; none where it tells none, and in results of versions that
    /// did not say it.
    #[serde(default)]
    pub template_date: Option<String>,
    /// The [`SCORING_VERSION`] of the program; 0 in results of versions that had none.
    #[serde(default)]
    pub scoring_version: u32,
    /// Tokens that one sequence may hold.
    pub max_tokens: usize,
    /// Only so many rows of each task or subset were asked.
    pub limit: Option<usize>,
    /// Seed of drawn examples and bootstrap errors.
    pub seed: u64,
    /// Whether the tasks' own choice of chat template was overruled.
    pub chat: Option<bool>,
    /// Whether the tasks' own number of solved examples was overruled.
    pub num_fewshot: Option<usize>,
    /// Who judged the replies of tasks with a judge; none where there are no such tasks.
    #[serde(default)]
    pub judge: Option<String>,
    /// The earlier results whose answers were scored anew; none where a model was asked.
    #[serde(default)]
    pub rescored_from: Option<String>,
    /// Start, seconds since 1970 UTC.
    pub started_unix: f64,
    /// Duration.
    pub seconds: f64,
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct Results {
    /// What was run and how.
    pub info: RunInfo,
    /// One entry per task, in the order asked for.
    pub tasks: Vec<TaskResult>,
}

/// A metric's value.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricValue {
    /// Which metric.
    pub metric: Metric,
    /// Its value over all rows.
    pub value: f64,
    /// Its standard error; `None` for fewer than two rows.
    pub stderr: Option<f64>,
}

/// What a run found about one task, or about one subset of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Unique name.
    pub name: String,
    /// Name for readers.
    pub title: String,
    /// Version of the task file.
    pub version: u32,
    /// SHA-256 of the task file, hex.
    pub hash: String,
    /// What it measures.
    pub capability: Capability,
    /// Where it measures it.
    pub domain: Domain,
    /// Whether the kind of task was seen in instruction tuning.
    pub similarity: Similarity,
    /// Score of guessing, in the units of the headline metric.
    pub chance: f64,
    /// Solved examples shown.
    pub num_fewshot: usize,
    /// Through the chat template, or as plain text.
    pub chat: bool,
    /// Rows asked.
    pub num_rows: usize,
    /// Rows there are.
    pub num_original: usize,
    /// Rows of the files that the task leaves out; `None` in results of versions that did not count them.
    #[serde(default)]
    pub num_left_out: Option<usize>,
    /// Prompts that lost their beginning, being longer than the model reads; `None` in results of versions that did not
    /// count them.
    #[serde(default)]
    pub num_cut_prompts: Option<usize>,
    /// Replies that end at the most tokens that they may have; `None` where the task has none, and in results of versions that did not
    /// count them.
    #[serde(default)]
    pub num_cut_replies: Option<usize>,
    /// Replies of which the judge gave no verdict that can be read; `None` where no judge was asked.
    #[serde(default)]
    pub num_unjudged: Option<usize>,
    /// The accuracy of always giving the most frequent right answer; `None` where right answers are no labels, and in results of
    /// versions that did not count it.
    #[serde(default)]
    pub majority: Option<f64>,
    /// Values, the headline first.
    pub metrics: Vec<MetricValue>,
    /// How subsets are averaged.
    pub subset_mean: SubsetMean,
    /// Name, rows and values of each subset.
    pub subsets: Vec<SubsetSummary>,
}

/// What a run found about one subset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubsetSummary {
    /// Name of the subset.
    pub name: String,
    /// Rows asked.
    pub num_rows: usize,
    /// Values, the headline first.
    pub metrics: Vec<MetricValue>,
}

/// A summary and the samples behind it.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The numbers.
    pub summary: TaskSummary,
    /// How replies were asked for, for the samples file.
    pub gen_kwargs: Value,
    /// Every question with its answer.
    pub samples: Vec<Sample>,
}

impl TaskSummary {
    /// The headline metric.
    pub fn headline(&self) -> MetricValue {
        self.metrics[0]
    }
}

impl TaskResult {
    /// The numbers beside the samples are the rows there are, and those that the task leaves out.
    pub(crate) fn new(
        task: &Task,
        samples: Vec<Sample>,
        (num_original, num_left_out): (usize, usize),
        options: &Options,
    ) -> Self {
        let mut metrics = task.metrics.clone();
        if matches!(task.kind, Kind::Generate(_)) && !metrics.contains(&Metric::Missing) {
            metrics.push(Metric::Missing);
        }
        let subsets: Vec<SubsetSummary> = task
            .dataset
            .subsets
            .iter()
            .map(|name| {
                let of_subset = || samples.iter().filter(|sample| sample.subset.as_deref() == Some(name));
                let outcomes: Vec<&Outcome> = of_subset().map(|sample| &sample.outcome).collect();
                SubsetSummary {
                    name: name.clone(),
                    num_rows: outcomes.len(),
                    metrics: metrics.iter().map(|metric| measure(*metric, &outcomes, options.seed)).collect(),
                }
            })
            .collect();
        let outcomes: Vec<&Outcome> = samples.iter().map(|sample| &sample.outcome).collect();
        let is_macro = task.dataset.subset_mean == SubsetMean::Macro && !subsets.is_empty();
        let values = metrics.iter().enumerate().map(|(index, metric)| {
            if is_macro {
                mean_of(subsets.iter().map(|subset| subset.metrics[index]), *metric)
            } else {
                measure(*metric, &outcomes, options.seed)
            }
        });
        let summary = TaskSummary {
            name: task.name.clone(),
            title: task.title.clone(),
            version: task.version,
            hash: task.hash.clone(),
            capability: task.capability,
            domain: task.domain,
            similarity: task.similarity,
            chance: task.chance,
            num_fewshot: options.num_fewshot.unwrap_or(task.fewshot.num),
            chat: options.chat.unwrap_or(task.chat),
            num_rows: samples.len(),
            num_original,
            num_left_out: Some(num_left_out),
            num_cut_prompts: count(samples.iter().map(|sample| sample.num_cut_tokens.map(|tokens| tokens > 0))),
            num_cut_replies: count(samples.iter().map(Sample::is_cut_off)),
            num_unjudged: task.judge.as_ref().map(|rule| {
                samples.iter().filter(|sample| !sample.outcome.values.contains_key(&rule.asks.metric())).count()
            }),
            majority: task.metrics.iter().any(|metric| metric.compares_labels()).then(|| majority(&outcomes)),
            metrics: values.collect(),
            subset_mean: task.dataset.subset_mean,
            subsets,
        };
        Self { summary, gen_kwargs: gen_kwargs(task), samples }
    }
}

/// How a task asks for replies, in lm-eval's keys; null where it asks for none.
pub(crate) fn gen_kwargs(task: &Task) -> Value {
    match &task.kind {
        Kind::Generate(generate) => {
            json!({ "until": generate.stop, "do_sample": false, "max_gen_toks": generate.max_new_tokens })
        }
        Kind::MultipleChoice(_) => Value::Null,
    }
}

/// How many are true; `None` where the samples do not all say.
fn count(mut samples: impl Iterator<Item = Option<bool>>) -> Option<usize> {
    samples.try_fold(0, |sum, is_so| Some(sum + usize::from(is_so?)))
}

/// The share of the most frequent right answer.
fn majority(outcomes: &[&Outcome]) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in outcomes {
        *counts.entry(outcome.gold.as_str()).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0) as f64 / outcomes.len().max(1) as f64
}

fn measure(metric: Metric, outcomes: &[&Outcome], seed: u64) -> MetricValue {
    MetricValue { metric, value: aggregate(metric, outcomes), stderr: standard_error(metric, outcomes, seed) }
}

/// The mean of independent values, and its standard error where each has one.
fn mean_of(values: impl Iterator<Item = MetricValue>, metric: Metric) -> MetricValue {
    let values: Vec<MetricValue> = values.collect();
    let count = values.len() as f64;
    let squares: Option<f64> = values.iter().map(|value| value.stderr.map(|error| error * error)).sum();
    MetricValue {
        metric,
        value: values.iter().map(|value| value.value).sum::<f64>() / count,
        stderr: squares.map(|squares| squares.sqrt() / count),
    }
}

/// The score of one capability in one domain: the mean of the headline metrics of its tasks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellScore {
    /// What is measured.
    pub capability: Capability,
    /// Where it is measured.
    pub domain: Domain,
    /// Mean of the headline metrics, each task counting the same.
    pub score: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Mean of the chance levels.
    pub chance: f64,
    /// Rows of all its tasks.
    pub num_rows: usize,
    /// Its tasks.
    pub num_tasks: usize,
}

/// Scores by capability and domain, in the order of the two enums; cells without a task are left out.
pub fn cell_scores<'a>(tasks: impl Iterator<Item = &'a TaskSummary> + Clone) -> Vec<CellScore> {
    let mut cells = Vec::new();
    for capability in Capability::ALL {
        for domain in Domain::ALL {
            let of_cell: Vec<_> =
                tasks.clone().filter(|task| (task.capability, task.domain) == (capability, domain)).collect();
            if of_cell.is_empty() {
                continue;
            }
            let mean = mean_of(of_cell.iter().map(|task| task.headline()), Metric::Acc);
            cells.push(CellScore {
                capability,
                domain,
                score: mean.value,
                stderr: mean.stderr,
                chance: of_cell.iter().map(|task| task.chance).sum::<f64>() / of_cell.len() as f64,
                num_rows: of_cell.iter().map(|task| task.num_rows).sum(),
                num_tasks: of_cell.len(),
            });
        }
    }
    cells
}

impl Results {
    /// Scores by capability and domain.
    pub fn cells(&self) -> Vec<CellScore> {
        cell_scores(self.tasks.iter().map(|task| &task.summary))
    }

    /// Writes results and samples into a folder, each file whole or not at all; the results come last, so a folder with
    /// results has its samples. Returns the path of the results file.
    ///
    /// # Errors
    /// [`EvalError::Io`].
    pub fn write(&self, folder: &Path) -> Result<PathBuf, EvalError> {
        let stamp = iso_time(self.info.started_unix).replace(':', "-");
        if folder.exists() {
            remove_partial_files(folder).map_err(EvalError::io(folder))?;
        }
        for task in &self.tasks {
            let names: Vec<Metric> = task.summary.metrics.iter().map(|value| value.metric).collect();
            let mut text = String::new();
            for sample in &task.samples {
                text.push_str(&sample.to_json(&names, &task.gen_kwargs).to_string());
                text.push('\n');
            }
            let path = folder.join(format!("samples_{}_{stamp}.jsonl", task.summary.name));
            write_whole(&path, text.as_bytes()).map_err(EvalError::io(&path))?;
        }
        let path = folder.join(format!("results_{stamp}.json"));
        write_whole(&path, format!("{:#}\n", self.to_json()).as_bytes()).map_err(EvalError::io(&path))?;
        Ok(path)
    }

    /// The results file, in lm-eval's keys; `findap` holds what lm-eval has no key for.
    pub fn to_json(&self) -> Value {
        let info = &self.info;
        let mut results = Map::new();
        let mut group_subtasks = Map::new();
        let per_task = |value: &dyn Fn(&TaskSummary) -> Value| -> Value {
            self.tasks
                .iter()
                .map(|task| (task.summary.name.clone(), value(&task.summary)))
                .collect::<Map<_, _>>()
                .into()
        };
        for TaskResult { summary, .. } in &self.tasks {
            results.insert(summary.name.clone(), metrics_json(&summary.title, summary.num_rows, &summary.metrics));
            for subset in &summary.subsets {
                let name = format!("{}:{}", summary.name, subset.name);
                results.insert(name, metrics_json(&subset.name, subset.num_rows, &subset.metrics));
            }
            let subsets: Vec<String> =
                summary.subsets.iter().map(|subset| format!("{}:{}", summary.name, subset.name)).collect();
            group_subtasks.insert(summary.name.clone(), json!(subsets));
        }
        let groups: Map<String, Value> = self
            .cells()
            .iter()
            .map(|cell| {
                let name = format!("{}_{}", cell.domain.name(), cell.capability.name());
                let stderr = cell.stderr.map_or(json!("N/A"), |error| json!(error));
                let value = json!({ "alias": name, "score,none": cell.score, "score_stderr,none": stderr,
                    "chance": cell.chance, "sample_len": cell.num_rows, "num_tasks": cell.num_tasks });
                (name, value)
            })
            .collect();
        json!({
            "results": results,
            "groups": groups,
            "group_subtasks": group_subtasks,
            "configs": per_task(&|task| json!({ "task": task.name, "metadata": { "version": task.version },
                "num_fewshot": task.num_fewshot, "metric_list": task.metrics.iter().map(|value| json!({
                    "metric": value.metric.name(), "higher_is_better": value.metric.higher_is_better() })).collect::<Vec<_>>() })),
            "versions": per_task(&|task| json!(task.version)),
            "n-shot": per_task(&|task| json!(task.num_fewshot)),
            "higher_is_better": per_task(&|task| task.metrics.iter()
                .map(|value| (value.metric.name().to_owned(), json!(value.metric.higher_is_better()))).collect::<Map<_, _>>().into()),
            "n-samples": per_task(&|task| json!({ "original": task.num_original, "effective": task.num_rows })),
            "n-left-out": per_task(&|task| json!(task.num_left_out)),
            "n-cut-prompts": per_task(&|task| json!(task.num_cut_prompts)),
            "n-unjudged": per_task(&|task| json!(task.num_unjudged)),
            "n-cut-replies": per_task(&|task| json!(task.num_cut_replies)),
            "config": { "model": "findap", "model_args": info.model_name, "limit": info.limit, "random_seed": info.seed,
                "fewshot_seed": info.seed, "bootstrap_iters": crate::metrics::BOOTSTRAP_RESAMPLES },
            "date": info.started_unix,
            "max_length": info.max_tokens,
            "task_hashes": per_task(&|task| json!(task.hash)),
            "model_source": "findap",
            "model_name": info.model_name,
            "model_name_sanitized": info.model_name.replace(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.'), "__"),
            "start_time": info.started_unix,
            "end_time": info.started_unix + info.seconds,
            "total_evaluation_time_seconds": info.seconds.to_string(),
            "findap": { "version": env!("CARGO_PKG_VERSION"), "info": info,
                "tasks": self.tasks.iter().map(|task| &task.summary).collect::<Vec<_>>() },
        })
    }

    /// Reads the newest results of a folder, with their samples.
    ///
    /// # Errors
    /// [`EvalError::Io`]; [`EvalError::Results`] where there are none, or a file is not one of ours.
    pub fn load(folder: &Path) -> Result<Self, EvalError> {
        let (path, info, summaries) = load_summaries(folder)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stamp = name.trim_start_matches("results_").trim_end_matches(".json");
        let mut tasks = Vec::new();
        for summary in summaries {
            let (samples, gen_kwargs) = read_samples(&folder.join(format!("samples_{}_{stamp}.jsonl", summary.name)))?;
            tasks.push(TaskResult { summary, gen_kwargs, samples });
        }
        Ok(Self { info, tasks })
    }
}

/// Reads the numbers of the newest results of a folder, without samples: the path, what was run, and the tasks.
///
/// # Errors
/// As [`Results::load`].
pub fn load_summaries(folder: &Path) -> Result<(PathBuf, RunInfo, Vec<TaskSummary>), EvalError> {
    let newest = results_files(folder)?.pop();
    let problem = |path: &Path, problem: String| EvalError::Results { path: path.to_owned(), problem };
    let path = newest.ok_or_else(|| problem(folder, "holds no results_*.json; run `findap eval` first".to_owned()))?;
    let bytes = std::fs::read(&path).map_err(EvalError::io(path.as_path()))?;
    let file: Value = serde_json::from_slice(&bytes)
        .map_err(|error| problem(&path, format!("is not JSON: {}", plain_words(&error.to_string()))))?;
    let part = |key: &str| file["findap"][key].clone();
    let foreign = |error: serde_json::Error| {
        problem(&path, format!("was not written by findap: {}", plain_words(&error.to_string())))
    };
    let info = serde_json::from_value(part("info")).map_err(foreign)?;
    let tasks: Vec<TaskSummary> = serde_json::from_value(part("tasks")).map_err(foreign)?;
    match tasks.iter().find(|task| task.metrics.is_empty()) {
        Some(task) => Err(problem(&path, format!("task {} has no metric", task.name))),
        None => Ok((path, info, tasks)),
    }
}

/// The results files of a folder, the newest last: where there are several, the others are of earlier evaluations.
///
/// # Errors
/// [`EvalError::Io`].
pub fn results_files(folder: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let entries = std::fs::read_dir(folder).map_err(EvalError::io(folder))?;
    let is_results = |name: &str| name.starts_with("results_") && name.ends_with(".json");
    let paths = entries.filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_results)).collect();
    files.sort();
    Ok(files)
}

/// Reads a samples file.
///
/// # Errors
/// [`EvalError::Io`]; [`EvalError::Results`] with the line.
pub fn load_samples(path: &Path) -> Result<Vec<Sample>, EvalError> {
    Ok(read_samples(path)?.0)
}

/// The samples, and how their replies were asked for.
fn read_samples(path: &Path) -> Result<(Vec<Sample>, Value), EvalError> {
    let mut gen_kwargs = Value::Null;
    let text = std::fs::read_to_string(path).map_err(EvalError::io(path))?;
    let problem = |line: usize, what: String| EvalError::Results {
        path: path.to_owned(),
        problem: format!("line {line}: {what}"),
    };
    let samples = text.lines().enumerate().map(|(index, line)| {
        let value: Value =
            serde_json::from_str(line).map_err(|error| problem(index + 1, plain_words(&error.to_string())))?;
        let sample = Sample::from_json(&value)
            .map_err(|key| problem(index + 1, format!("{key} is absent or of the wrong type")))?;
        if index == 0 && matches!(sample.answer, Answer::Reply(_)) {
            gen_kwargs = value["arguments"]["gen_args_0"]["arg_1"].clone();
        }
        Ok(sample)
    });
    Ok((samples.collect::<Result<_, EvalError>>()?, gen_kwargs))
}

fn metrics_json(alias: &str, num_rows: usize, metrics: &[MetricValue]) -> Value {
    let mut out = json!({ "alias": alias, "sample_len": num_rows });
    for MetricValue { metric, value, stderr } in metrics {
        out[format!("{},none", metric.name())] = json!(value);
        out[format!("{}_stderr,none", metric.name())] = stderr.map_or(json!("N/A"), |error| json!(error));
    }
    out
}

/// `2026-11-21T02:54:01.123456`, UTC.
pub(crate) fn iso_time(unix_seconds: f64) -> String {
    let micros = (unix_seconds.max(0.0) * 1e6).round() as i64;
    chrono::DateTime::from_timestamp_micros(micros).unwrap_or_default().format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        assert_eq!(iso_time(0.0), "1970-01-01T00:00:00.000000");
        assert_eq!(iso_time(951_782_400.5), "2000-02-29T00:00:00.500000");
        assert_eq!(iso_time(1_795_229_641.25), "2026-11-21T02:54:01.250000");
    }
}
