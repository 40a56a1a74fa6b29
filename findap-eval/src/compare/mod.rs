//! What changed between two runs of the same tasks: differences with paired intervals.
//!
//! Both models answered the same rows, so rows are compared in pairs: how hard a row is cancels out, and the interval of the
//! difference is narrower than the two standard errors suggest. A capability's difference is the mean over its tasks.
//!
//! | module | holds |
//! |---|---|
//! | `delta` | the change of a task, from the answers of both runs |
//! | `interval` | intervals of shares, and of their change |
//! | `settings` | what differs between two runs beside the model |

mod delta;
mod interval;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use findap_data::{Capability, Domain};

pub use self::delta::{CompareOptions, Delta};
use self::delta::{Pair, delta_of};
pub(crate) use self::interval::wilson_error;
use self::settings::setting_differences;
pub use self::settings::{PromptDifference, SettingDifference};
use crate::error::EvalError;
use crate::results::{Results, TaskResult};
use crate::sample::Sample;
use crate::task::Metric;

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
    /// Settings in which the runs differ.
    pub settings: Vec<SettingDifference>,
    /// Tasks whose questions were put in other words, as by another chat template.
    pub prompts: Vec<PromptDifference>,
}

impl Comparison {
    /// The change of the mean over these tasks, which are places in [`Comparison::tasks`]; none for no task.
    pub fn mean(&self, tasks: &[usize]) -> Option<Delta> {
        Delta::of_mean(&tasks.iter().map(|&task| self.tasks[task].delta).collect::<Vec<_>>())
    }
}

/// Compares two runs task by task.
///
/// # Errors
/// [`EvalError::Results`] where a task's version or a row's data differ: then the runs answered different questions.
pub fn compare(before: &Results, after: &Results, options: CompareOptions) -> Result<Comparison, EvalError> {
    let mut tasks = Vec::new();
    let mut unpaired = Vec::new();
    let mut prompts = Vec::new();
    let only_here = |task: &TaskResult| {
        let summary = &task.summary;
        Unpaired { name: summary.name.clone(), capability: summary.capability, domain: summary.domain }
    };
    for first in &before.tasks {
        match after.tasks.iter().find(|second| second.summary.name == first.summary.name) {
            None => unpaired.push(only_here(first)),
            Some(second) => {
                let mut pairs = paired(first, second)?;
                let metric = first.summary.headline().metric;
                if metric.is_judged() {
                    let has_verdict = |sample: &Sample| sample.outcome.values.contains_key(&metric);
                    pairs.retain(|(first, second)| has_verdict(first) && has_verdict(second));
                    if pairs.is_empty() {
                        let problem = "no row has a verdict of the judge in both runs".to_owned();
                        return Err(EvalError::Results { path: PathBuf::from(&first.summary.name), problem });
                    }
                }
                let delta = delta_of(&first.summary, &pairs, options);
                prompts.extend(PromptDifference::of(&first.summary.name, &pairs));
                let summary = &first.summary;
                let unpaired_rows = first.samples.len() + second.samples.len() - 2 * delta.num_rows;
                tasks.push(TaskDelta {
                    name: summary.name.clone(),
                    capability: summary.capability,
                    domain: summary.domain,
                    metric: summary.headline().metric,
                    delta,
                    unpaired_rows,
                });
            }
        }
    }
    let is_known = |task: &&TaskResult| before.tasks.iter().any(|first| first.summary.name == task.summary.name);
    unpaired.extend(after.tasks.iter().filter(|task| !is_known(task)).map(only_here));
    let settings = setting_differences(before, after);
    let mut comparison = Comparison { tasks, cells: Vec::new(), unpaired, settings, prompts };
    comparison.cells = cells(&comparison);
    Ok(comparison)
}

/// The answers of both runs to each question that both have.
fn paired<'a>(before: &'a TaskResult, after: &'a TaskResult) -> Result<Vec<Pair<'a>>, EvalError> {
    let summary = &before.summary;
    let different = |problem: String| EvalError::Results { path: PathBuf::from(&summary.name), problem };
    if summary.hash != after.summary.hash {
        let problem = format!(
            "version {} and version {} of the task are different files",
            summary.version, after.summary.version
        );
        return Err(different(problem));
    }
    let by_row =
        |result: &TaskResult| -> BTreeSet<usize> { result.samples.iter().map(|sample| sample.row_id).collect() };
    if [before, after].iter().any(|result| by_row(result).len() < result.samples.len()) {
        return Err(different("a row stands twice in the samples of a run".to_owned()));
    }
    let others: BTreeMap<usize, &Sample> = after.samples.iter().map(|sample| (sample.row_id, sample)).collect();
    let pairs: Vec<Pair<'_>> =
        before.samples.iter().filter_map(|sample| Some((sample, *others.get(&sample.row_id)?))).collect();
    if let Some((sample, _)) = pairs.iter().find(|(first, second)| first.fields != second.fields) {
        return Err(different(format!("row {} holds different data in the two runs", sample.row_id)));
    }
    if pairs.is_empty() {
        return Err(different("the two runs have no row in common".to_owned()));
    }
    Ok(pairs)
}

fn cells(comparison: &Comparison) -> Vec<CellDelta> {
    let all = Capability::ALL.into_iter().flat_map(|capability| Domain::ALL.map(|domain| (capability, domain)));
    all.filter_map(|(capability, domain)| {
        let is_of_cell = |&task: &usize| {
            let task = &comparison.tasks[task];
            (task.capability, task.domain) == (capability, domain)
        };
        let tasks: Vec<usize> = (0..comparison.tasks.len()).filter(is_of_cell).collect();
        let delta = comparison.mean(&tasks)?;
        Some(CellDelta { capability, domain, delta, num_tasks: tasks.len() })
    })
    .collect()
}
