//! What changed between two runs of the same tasks: differences with paired bootstrap intervals.
//!
//! Both models answered the same rows, so rows are drawn together: how hard a row is cancels out, and the interval of the
//! difference is narrower than the two standard errors suggest. A capability's difference is the mean over its tasks,
//! each resampled on its own.
//!
//! # Source
//! Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile intervals); Koehn 2004,
//! "Statistical significance tests for machine translation evaluation" (paired use).

use std::collections::BTreeMap;
use std::path::PathBuf;

use findap_data::{Capability, Domain};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::EvalError;
use crate::metrics::{Outcome, aggregate, draw};
use crate::results::{Results, TaskResult};
use crate::sample::Sample;
use crate::task::{Metric, SubsetMean};

/// How intervals are made.
#[derive(Debug, Clone, Copy)]
pub struct CompareOptions {
    /// Resamples of the rows.
    pub num_resamples: usize,
    /// Share of resamples inside the interval.
    pub coverage: f64,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { num_resamples: 2000, coverage: 0.95, seed: 0 }
    }
}

/// A difference, after minus before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delta {
    /// Score of the first run, on the rows that both have.
    pub before: f64,
    /// Score of the second run, on the rows that both have.
    pub after: f64,
    /// Lower end of the interval of `after - before`.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// Rows that both runs have.
    pub num_rows: usize,
}

impl Delta {
    /// After minus before.
    pub fn difference(&self) -> f64 {
        self.after - self.before
    }

    /// Whether the interval leaves out zero.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// What changed in one task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskDelta {
    /// The task.
    pub name: String,
    /// What it measures.
    pub capability: Capability,
    /// Where it measures it.
    pub domain: Domain,
    /// The headline metric.
    pub metric: Metric,
    /// The change.
    pub delta: Delta,
    /// Rows that only one of the runs has, which the change leaves out.
    pub unpaired_rows: usize,
}

/// A task that only one of the runs has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpaired {
    /// The task.
    pub name: String,
    /// What it measures.
    pub capability: Capability,
    /// Where it measures it.
    pub domain: Domain,
}

/// What changed in one capability of one domain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellDelta {
    /// What is measured.
    pub capability: Capability,
    /// Where it is measured.
    pub domain: Domain,
    /// The change of the mean over tasks.
    pub delta: Delta,
    /// Tasks that both runs have.
    pub num_tasks: usize,
}

/// What changed between two runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// By task.
    pub tasks: Vec<TaskDelta>,
    /// By capability and domain, in the order of the two enums.
    pub cells: Vec<CellDelta>,
    /// Tasks that only one of the runs has.
    pub unpaired: Vec<Unpaired>,
    /// Tasks in which the runs cut different numbers of prompts, so that the models read different questions.
    pub cut: Vec<CutDifference>,
    /// The differences of each task's resamples.
    resampled: Vec<Vec<f64>>,
}

impl Comparison {
    /// The change of the mean over these tasks, which are places in [`Comparison::tasks`]; none for no task.
    pub fn mean(&self, tasks: &[usize], options: CompareOptions) -> Option<Delta> {
        let mean =
            |value: &dyn Fn(usize) -> f64| tasks.iter().map(|&task| value(task)).sum::<f64>() / tasks.len() as f64;
        let of = |task: usize| &self.tasks[task].delta;
        let differences: Vec<f64> =
            (0..options.num_resamples).map(|resample| mean(&|task| self.resampled[task][resample])).collect();
        let num_rows = tasks.iter().map(|&task| of(task).num_rows).sum();
        let (before, after) = (mean(&|task| of(task).before), mean(&|task| of(task).after));
        (!tasks.is_empty()).then(|| interval(before, after, &differences, num_rows, options))
    }
}

/// How many prompts of a task lost their beginning in each of two runs; `None` where that was not counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutDifference {
    /// The task.
    pub name: String,
    /// In the first run.
    pub before: Option<usize>,
    /// In the second run.
    pub after: Option<usize>,
}

/// Compares two runs task by task.
///
/// # Errors
/// [`EvalError::Results`] where a task's version or a row's data differ: then the runs answered different questions.
pub fn compare(before: &Results, after: &Results, options: CompareOptions) -> Result<Comparison, EvalError> {
    let mut tasks = Vec::new();
    let mut resampled = Vec::new();
    let mut unpaired = Vec::new();
    let mut cut = Vec::new();
    let only_here = |task: &TaskResult| {
        let summary = &task.summary;
        Unpaired { name: summary.name.clone(), capability: summary.capability, domain: summary.domain }
    };
    for first in &before.tasks {
        match after.tasks.iter().find(|second| second.summary.name == first.summary.name) {
            None => unpaired.push(only_here(first)),
            Some(second) => {
                let (delta, differences) = compare_task(first, second, options)?;
                let summary = &first.summary;
                let unpaired_rows = first.samples.len() + second.samples.len() - 2 * delta.num_rows;
                let (cut_before, cut_after) = (summary.num_cut_prompts, second.summary.num_cut_prompts);
                if cut_before != cut_after {
                    cut.push(CutDifference { name: summary.name.clone(), before: cut_before, after: cut_after });
                }
                tasks.push(TaskDelta {
                    name: summary.name.clone(),
                    capability: summary.capability,
                    domain: summary.domain,
                    metric: summary.headline().metric,
                    delta,
                    unpaired_rows,
                });
                resampled.push(differences);
            }
        }
    }
    let is_known = |task: &&TaskResult| before.tasks.iter().any(|first| first.summary.name == task.summary.name);
    unpaired.extend(after.tasks.iter().filter(|task| !is_known(task)).map(only_here));
    let mut comparison = Comparison { tasks, cells: Vec::new(), unpaired, cut, resampled };
    comparison.cells = cells(&comparison, options);
    Ok(comparison)
}

fn compare_task(
    before: &TaskResult,
    after: &TaskResult,
    options: CompareOptions,
) -> Result<(Delta, Vec<f64>), EvalError> {
    let summary = &before.summary;
    let different = |problem: String| EvalError::Results { path: PathBuf::from(&summary.name), problem };
    if summary.hash != after.summary.hash {
        let problem = format!(
            "version {} and version {} of the task are different files",
            summary.version, after.summary.version
        );
        return Err(different(problem));
    }
    let others: BTreeMap<usize, &Sample> = after.samples.iter().map(|sample| (sample.row_id, sample)).collect();
    let pairs: Vec<(&Sample, &Sample)> =
        before.samples.iter().filter_map(|sample| Some((sample, *others.get(&sample.row_id)?))).collect();
    if let Some((sample, _)) = pairs.iter().find(|(first, second)| first.fields != second.fields) {
        return Err(different(format!("row {} holds different data in the two runs", sample.row_id)));
    }
    if pairs.is_empty() {
        return Err(different("the two runs have no row in common".to_owned()));
    }
    let metric = summary.headline().metric;
    let score = |samples: &[&Sample]| score(metric, summary.subset_mean, samples);
    let (first, second): (Vec<&Sample>, Vec<&Sample>) = pairs.iter().copied().unzip();
    let mut generator = ChaCha8Rng::seed_from_u64(options.seed);
    let (mut drawn_first, mut drawn_second) = (Vec::new(), Vec::new());
    let differences: Vec<f64> = (0..options.num_resamples)
        .map(|_| {
            drawn_first.clear();
            drawn_second.clear();
            for index in draw(pairs.len(), &mut generator) {
                drawn_first.push(first[index]);
                drawn_second.push(second[index]);
            }
            score(&drawn_second) - score(&drawn_first)
        })
        .collect();
    Ok((interval(score(&first), score(&second), &differences, pairs.len(), options), differences))
}

/// The metric as the task's summary reports it.
fn score(metric: Metric, subset_mean: SubsetMean, samples: &[&Sample]) -> f64 {
    let whole = |samples: &[&Sample]| {
        let outcomes: Vec<&Outcome> = samples.iter().map(|sample| &sample.outcome).collect();
        aggregate(metric, &outcomes)
    };
    if subset_mean == SubsetMean::Micro {
        return whole(samples);
    }
    let mut subsets: BTreeMap<Option<&str>, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        subsets.entry(sample.subset.as_deref()).or_default().push(sample);
    }
    subsets.values().map(|samples| whole(samples)).sum::<f64>() / subsets.len().max(1) as f64
}

fn interval(before: f64, after: f64, differences: &[f64], num_rows: usize, options: CompareOptions) -> Delta {
    let mut sorted = differences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| match sorted.len() {
        0 => after - before,
        count => sorted[((count as f64 * share) as usize).min(count - 1)],
    };
    let outside = (1.0 - options.coverage) / 2.0;
    Delta { before, after, low: at(outside), high: at(1.0 - outside), num_rows }
}

fn cells(comparison: &Comparison, options: CompareOptions) -> Vec<CellDelta> {
    let all = Capability::ALL.into_iter().flat_map(|capability| Domain::ALL.map(|domain| (capability, domain)));
    all.filter_map(|(capability, domain)| {
        let is_of_cell = |&task: &usize| {
            let task = &comparison.tasks[task];
            (task.capability, task.domain) == (capability, domain)
        };
        let tasks: Vec<usize> = (0..comparison.tasks.len()).filter(is_of_cell).collect();
        let delta = comparison.mean(&tasks, options)?;
        Some(CellDelta { capability, domain, delta, num_tasks: tasks.len() })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::DataRoots;
    use crate::engine::run;
    use crate::options::Options;
    use crate::require::{self, Verdict};
    use crate::scripted::ScriptedModel;
    use crate::task::Task;

    const TASK: &str = r#"
        schema = 1
        name = "t"
        version = 1
        capability = "reasoning"
        domain = "finance"
        similarity = "novel"
        license = "Apache-2.0"
        source = "made up"
        chance = 0.0
        metrics = ["exact_match"]
        chat = true
        prompt = "{q}"
        [dataset]
        path = "data:rows.jsonl"
        [generate]
        gold = "yes"
        max_new_tokens = 1
    "#;

    /// A run on 200 rows that is right where `is_right` says so.
    fn results(is_right: fn(usize) -> bool, task: &str) -> Results {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let rows: String = (0..200).map(|row| format!("{{\"q\": \"{row}\"}}\n")).collect();
        std::fs::write(folder.path().join("rows.jsonl"), rows).expect("writes");
        let model = ScriptedModel::new(
            |_, _| 0.0,
            move |prompt| {
                let digits: String = prompt.chars().filter(char::is_ascii_digit).collect();
                if is_right(digits.parse().expect("a row number")) { "yes" } else { "no" }.to_owned()
            },
        );
        let task = Task::parse("t.toml", task).expect("parses");
        let data_roots = DataRoots::from([("data".to_owned(), folder.path().to_owned())]);
        run(&model, &[task], &Options { data_roots, ..Options::default() }, &mut |_| true).expect("runs")
    }

    #[test]
    fn intervals_hold_the_difference_and_pairing_narrows_them() {
        let before = results(|row| row % 2 == 0, TASK);
        let after = results(|row| row % 2 == 0 || row % 10 == 1, TASK);
        let found = compare(&before, &after, CompareOptions::default()).expect("compares");
        let delta = found.tasks[0].delta;
        assert_eq!((delta.before, delta.after, delta.num_rows), (0.5, 0.6, 200));
        assert!(delta.low < delta.difference() && delta.difference() < delta.high);
        // Closed form of the paired standard error: sqrt(0.1 * 0.9 / 200) = 0.0212; unpaired it would be 0.0497.
        assert!((delta.high - delta.low - 2.0 * 1.96 * 0.0212).abs() < 0.01, "{delta:?}");
        assert!(delta.is_clear());
        let cell = found.cells[0];
        assert_eq!((cell.capability, cell.num_tasks, cell.delta), (Capability::Reasoning, 1, delta));
        assert_eq!(found, compare(&before, &after, CompareOptions::default()).expect("compares"));
    }

    #[test]
    fn equal_runs_differ_by_nothing() {
        let run = results(|row| row < 50, TASK);
        let delta = compare(&run, &run, CompareOptions::default()).expect("compares").tasks[0].delta;
        assert_eq!((delta.difference(), delta.low, delta.high, delta.is_clear()), (0.0, 0.0, 0.0, false));
    }

    #[test]
    fn different_tasks_or_data_are_not_compared() {
        let before = results(|_| true, TASK);
        let other = results(|_| true, &TASK.replace("name = \"t\"", "name = \"u\""));
        let unpaired = compare(&before, &other, CompareOptions::default()).expect("compares").unpaired;
        assert_eq!(unpaired.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["t", "u"]);
        let newer = results(|_| true, &TASK.replace("version = 1", "version = 2"));
        assert!(matches!(compare(&before, &newer, CompareOptions::default()), Err(EvalError::Results { .. })));
        let mut changed = before.clone();
        changed.tasks[0].samples[3].fields.clear();
        let error = compare(&before, &changed, CompareOptions::default()).expect_err("other data").to_string();
        assert!(error.contains("row 3"), "{error}");
        changed.tasks[0].samples.clear();
        assert!(compare(&before, &changed, CompareOptions::default()).is_err());
    }

    #[test]
    fn a_requirement_is_supported_open_or_refuted_by_the_interval() {
        let options = CompareOptions::default();
        let before = results(|row| row % 2 == 0, TASK);
        let after = results(|row| row % 2 == 0 || row % 10 == 1, TASK);
        let found = compare(&before, &after, options).expect("compares");
        let verdicts = |text: &str| {
            let requirements = require::parse(text).expect("reads");
            let checked =
                requirements.iter().map(|requirement| requirement.check(&found, options).map(|it| it.verdict));
            checked.collect::<Result<Vec<_>, _>>()
        };
        // The change is +10 points, give or take 4.2.
        let wanted = [Verdict::Supported, Verdict::Open, Verdict::Refuted];
        assert_eq!(verdicts("finance >= +3, finance >= 10, finance >= 20").expect("checks"), wanted);
        assert_eq!(verdicts("t >= 3, all >= 3, finance reasoning >= 3").expect("checks"), [Verdict::Supported; 3]);
        for unanswered in ["general >= -1", "finance concept >= 0", "u >= 0"] {
            let error = verdicts(unanswered).expect_err("no such task").to_string();
            assert!(error.contains("no task") && error.contains(unanswered), "{error}");
        }
        let mut shorter = after.clone();
        shorter.tasks[0].samples.truncate(150);
        let partial = compare(&before, &shorter, options).expect("compares");
        let error = require::parse("finance >= 0").expect("reads")[0].check(&partial, options).expect_err("fewer rows");
        assert!(error.to_string().contains("50 rows"), "{error}");
        let other = results(|_| true, &TASK.replace("name = \"t\"", "name = \"u\""));
        let unpaired = compare(&before, &other, options).expect("compares");
        let error =
            require::parse("finance >= 0").expect("reads")[0].check(&unpaired, options).expect_err("one run only");
        assert!(error.to_string().contains("task t"), "{error}");
    }
}
