//! Tables of scores as rows of text, for the terminal and for the report.

use findap_data::{Capability, Domain};

use crate::compare::wilson_error;
use crate::results::{MetricValue, RunInfo, TaskSummary, cell_scores};
use crate::task::{Metric, SubsetMean};

/// The share of missing answers that is told of only in its own column.
const TOLERATED_MISSING: f64 = 0.05;

/// The numbers of one stage of a run.
#[derive(Debug, Clone)]
pub struct StageScores {
    /// Name of the stage: `base`, `group1`, ...
    pub stage: String,
    /// What was run and how.
    pub info: RunInfo,
    /// Its tasks.
    pub tasks: Vec<TaskSummary>,
}

/// One score of a stage, beside that of the first stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StageScore {
    /// The score.
    pub score: f64,
    /// Its standard error; that of a share reaches to the end of Wilson's interval, and is not 0 where no row or every row is right.
    pub stderr: Option<f64>,
    /// Score minus the first stage's; `None` in the first stage.
    pub difference: Option<f64>,
}

/// One line of a table over stages.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreLine {
    /// What is measured.
    pub capability: Capability,
    /// Where it is measured.
    pub domain: Domain,
    /// Name of the task; empty for the mean over several.
    pub name: String,
    /// Name for readers: the task's title, or the capability.
    pub title: String,
    /// Name of the headline metric; `score` for the mean over several tasks.
    pub metric: String,
    /// Rows asked in each stage.
    pub num_rows: usize,
    /// Tasks behind the line.
    pub num_tasks: usize,
    /// Score of guessing.
    pub chance: f64,
    /// One entry per stage; `None` where the stage was not asked.
    pub stages: Vec<Option<StageScore>>,
}

/// One line per capability and domain that any stage has.
pub fn capability_lines(stages: &[StageScores]) -> Vec<ScoreLine> {
    let mut lines = Vec::new();
    for capability in Capability::ALL {
        for domain in Domain::ALL {
            let cells: Vec<_> = stages
                .iter()
                .map(|stage| {
                    let of_cell = |task: &&TaskSummary| (task.capability, task.domain) == (capability, domain);
                    let cell = cell_scores(stage.tasks.iter().filter(of_cell)).pop()?;
                    Some((cell, error_of_mean(stage.tasks.iter().filter(of_cell).map(shown_error))))
                })
                .collect();
            let Some((cell, _)) = cells.iter().flatten().next().copied() else { continue };
            lines.push(ScoreLine {
                capability,
                domain,
                name: String::new(),
                title: capability.name().to_owned(),
                metric: "score".to_owned(),
                num_rows: cell.num_rows,
                num_tasks: cell.num_tasks,
                chance: cell.chance,
                stages: with_differences(cells.iter().map(|cell| cell.map(|(cell, error)| (cell.score, error)))),
            });
        }
    }
    lines
}

/// One line per task that any stage has, ordered by capability and domain.
pub fn task_lines(stages: &[StageScores]) -> Vec<ScoreLine> {
    let mut lines: Vec<ScoreLine> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for task in stages.iter().flat_map(|stage| &stage.tasks) {
        if seen.contains(&task.name.as_str()) {
            continue;
        }
        seen.push(&task.name);
        let of_stage = |stage: &StageScores| {
            let found = stage.tasks.iter().find(|other| other.name == task.name)?;
            Some((found.headline().value, shown_error(found)))
        };
        lines.push(ScoreLine {
            capability: task.capability,
            domain: task.domain,
            name: task.name.clone(),
            title: task.title.clone(),
            metric: task.headline().metric.name().to_owned(),
            num_rows: task.num_rows,
            num_tasks: 1,
            chance: task.chance,
            stages: with_differences(stages.iter().map(of_stage)),
        });
    }
    lines.sort_by_key(|line| (line.capability, line.domain));
    lines
}

/// The standard error of a task's headline metric; of a share no less than Wilson's interval tells.
fn shown_error(task: &TaskSummary) -> Option<f64> {
    let of_rows = |value: MetricValue, num_rows: usize| match value.metric.is_share() && num_rows > 0 {
        true => Some(wilson_error(value.value, num_rows).max(value.stderr.unwrap_or(0.0))),
        false => value.stderr,
    };
    match task.subset_mean {
        SubsetMean::Macro if !task.subsets.is_empty() => {
            error_of_mean(task.subsets.iter().map(|subset| of_rows(subset.metrics[0], subset.num_rows)))
        }
        _ => of_rows(task.headline(), task.num_rows),
    }
}

/// The standard error of the mean of independent values; none where one has none.
fn error_of_mean(errors: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let errors: Vec<f64> = errors.collect::<Option<_>>()?;
    Some(errors.iter().map(|error| error * error).sum::<f64>().sqrt() / errors.len() as f64)
}

fn with_differences(scores: impl Iterator<Item = Option<(f64, Option<f64>)>>) -> Vec<Option<StageScore>> {
    let mut first = None;
    scores
        .map(|score| {
            let (score, stderr) = score?;
            let difference = first.map(|first: f64| score - first);
            first.get_or_insert(score);
            Some(StageScore { score, stderr, difference })
        })
        .collect()
}

/// A table as text: a header and rows of the same length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTable {
    /// Column names.
    pub header: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

/// The table that the terminal shows at the end of a run: scores in percent, differences to the first stage in brackets.
pub fn text_table(stages: &[StageScores], lines: &[ScoreLine]) -> TextTable {
    let mut header: Vec<String> = ["measured", "n", "chance"].map(str::to_owned).into();
    header.extend(stages.iter().map(|stage| stage.stage.clone()));
    header.push("+-".to_owned());
    let rows = lines
        .iter()
        .map(|line| {
            let measured = match line.metric.as_str() {
                "score" => format!("{} {}", line.domain.name(), line.capability.name()),
                metric => format!("{} ({metric})", line.title),
            };
            let mut row = vec![measured, line.num_rows.to_string(), percent(line.chance)];
            row.extend(line.stages.iter().map(|score| match score {
                None => "-".to_owned(),
                Some(StageScore { score, difference: None, .. }) => percent(*score),
                Some(StageScore { score, difference: Some(difference), .. }) => {
                    format!("{} ({:+.1})", percent(*score), 100.0 * difference)
                }
            }));
            let widest = line.stages.iter().flatten().filter_map(|score| score.stderr).reduce(f64::max);
            row.push(widest.map_or("-".to_owned(), percent));
            row
        })
        .collect();
    TextTable { header, rows }
}

/// What one has to know beside the scores of some tasks, a sentence each, for under a table: prompts and replies that were cut, missing
/// answers, and scores that a constant answer reaches.
pub fn notes<'a>(tasks: impl Iterator<Item = &'a TaskSummary> + Clone, max_tokens: usize) -> Vec<String> {
    type Told<'n> = &'n dyn Fn(&TaskSummary) -> Option<String>;
    let of_rows = |count: Option<usize>, task: &TaskSummary| {
        count.filter(|count| *count > 0).map(|count| format!("{count} of {}", task.num_rows))
    };
    let left_out = |task: &TaskSummary| {
        let count = task.num_left_out.filter(|count| *count > 0)?;
        Some(format!("{count} of {}", task.num_original + count))
    };
    let cut_prompts = |task: &TaskSummary| of_rows(task.num_cut_prompts, task);
    let cut_replies = |task: &TaskSummary| of_rows(task.num_cut_replies, task);
    let value =
        |task: &TaskSummary, metric| task.metrics.iter().find(|value| value.metric == metric).map(|value| value.value);
    let unjudged = |task: &TaskSummary| of_rows(task.num_unjudged, task);
    let missing = |task: &TaskSummary| {
        let missing = value(task, Metric::Missing).filter(|missing| *missing > TOLERATED_MISSING)?;
        Some(format!("{} %", percent(missing)))
    };
    let constant = |task: &TaskSummary| {
        let acc = value(task, Metric::Acc)?;
        let majority = task.majority.filter(|majority| acc <= *majority)?;
        Some(format!("{} of {}", percent(acc), percent(majority)))
    };
    let lost = format!("prompts that lost their beginning, being longer than the {max_tokens} tokens of the model");
    let kinds: [(&str, Told<'_>); 6] = [
        ("rows that the task leaves out", &left_out),
        (&lost, &cut_prompts),
        ("replies cut off at the task's `max_new_tokens`", &cut_replies),
        ("replies without a verdict of the judge, which are left out of its metric", &unjudged),
        ("replies in which no answer is found, which count as wrong", &missing),
        ("accuracy no better than that of always giving the most frequent answer", &constant),
    ];
    let note = |(told, of_task): &(&str, Told<'_>)| {
        let tasks: Vec<String> =
            tasks.clone().filter_map(|task| Some(format!("{} {}", task.name, of_task(task)?))).collect();
        (!tasks.is_empty()).then(|| format!("{told}: {}", tasks.join(", ")))
    };
    kinds.iter().filter_map(note).collect()
}

/// `43.2` for 0.432.
pub fn percent(score: f64) -> String {
    format!("{:.1}", 100.0 * score)
}
