//! What changed between two runs of the same tasks: differences with paired bootstrap intervals.
//!
//! Both models answered the same rows, so rows are drawn together: how hard a row is cancels out, and the interval of the
//! difference is narrower than the two standard errors suggest. A capability's difference is the mean over its tasks,
//! each resampled on its own.
//!
//! # Source
//! Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile intervals); Koehn 2004,
//! "Statistical significance tests for machine translation evaluation" (paired use).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use findap_data::files::seed_of;
use findap_data::{Capability, Domain};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::error::EvalError;
use crate::metrics::{Outcome, aggregate, draw};
use crate::results::{Results, TaskResult, TaskSummary};
use crate::sample::Sample;
use crate::task::{Metric, SubsetMean};

/// How intervals are made.
#[derive(Debug, Clone, Copy, PartialEq)]
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
    /// Settings in which the runs differ.
    pub settings: Vec<SettingDifference>,
    /// Tasks whose questions were put in other words, as by another chat template.
    pub prompts: Vec<PromptDifference>,
    /// The differences of each task's resamples.
    resampled: Vec<Vec<f64>>,
    options: CompareOptions,
}

impl Comparison {
    /// The change of the mean over these tasks, which are places in [`Comparison::tasks`]; none for no task.
    pub fn mean(&self, tasks: &[usize]) -> Option<Delta> {
        let sum = |value: &dyn Fn(usize) -> f64| tasks.iter().map(|&task| value(task)).sum::<f64>();
        let mean = |value: &dyn Fn(usize) -> f64| sum(value) / tasks.len() as f64;
        let of = |task: usize| &self.tasks[task].delta;
        let differences: Vec<f64> =
            (0..self.options.num_resamples).map(|resample| mean(&|task| self.resampled[task][resample])).collect();
        let unseen = sum(&|task| unseen_change(of(task).num_rows).powi(2)).sqrt() / tasks.len() as f64;
        let (before, after) = (mean(&|task| of(task).before), mean(&|task| of(task).after));
        let num_rows = tasks.iter().map(|&task| of(task).num_rows).sum();
        (!tasks.is_empty()).then(|| interval([before, after], &differences, unseen, num_rows, self.options))
    }
}

/// A setting in which the two runs differ, so that the model is not all that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingDifference {
    /// The task; none for a setting of the whole run.
    pub task: Option<String>,
    /// The setting.
    pub setting: &'static str,
    /// Its value in the first run.
    pub before: String,
    /// Its value in the second run.
    pub after: String,
}

impl std::fmt::Display for SettingDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SettingDifference { task, setting, before, after } = self;
        let of_task = task.as_ref().map_or_else(String::new, |task| format!("{task}: "));
        write!(f, "{of_task}{setting} {before} and {after}")
    }
}

/// A task whose questions the two runs put in other words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptDifference {
    /// The task.
    pub task: String,
    /// Questions that both runs answered.
    pub num_rows: usize,
    /// Those among them whose prompts differ.
    pub num_different: usize,
    /// The first such prompt of the first run, from shortly before the difference on.
    pub before: String,
    /// The same of the second run.
    pub after: String,
}

impl PromptDifference {
    /// The difference between the prompts of these answers; none where they are the same.
    fn of(task: &str, pairs: &[(&Sample, &Sample)]) -> Option<Self> {
        /// What is shown of a prompt before and after the first letter that differs.
        const SHOWN: (usize, usize) = (20, 40);
        let mut differing = pairs.iter().filter(|(first, second)| first.prompt != second.prompt);
        let (first, second) = differing.next()?;
        let num_same = first.prompt.chars().zip(second.prompt.chars()).take_while(|(a, b)| a == b).count();
        let shown = |sample: &Sample| {
            let text: String =
                sample.prompt.chars().skip(num_same.saturating_sub(SHOWN.0)).take(SHOWN.0 + SHOWN.1).collect();
            format!("{text:?}")
        };
        let (before, after, num_different) = (shown(first), shown(second), 1 + differing.count());
        Some(Self { task: task.to_owned(), num_rows: pairs.len(), num_different, before, after })
    }
}

impl std::fmt::Display for PromptDifference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { task, num_rows, num_different, before, after } = self;
        write!(f, "{task}: {num_different} of {num_rows} questions have other prompts; the first {before} and {after}")
    }
}

/// The settings in which the whole runs, then tasks that both have, differ.
fn setting_differences(before: &Results, after: &Results) -> Vec<SettingDifference> {
    let or_unknown = |text: String| if text.is_empty() { "unknown".to_owned() } else { text };
    let of_run = |results: &Results| {
        let info = &results.info;
        [
            ("precision", or_unknown(info.precision.clone())),
            ("date told by the chat template", info.template_date.clone().unwrap_or_else(|| "none".to_owned())),
            ("version of the scoring", info.scoring_version.to_string()),
            ("seed", info.seed.to_string()),
        ]
    };
    let of_task = |task: &TaskResult| {
        let summary = &task.summary;
        let cut = summary.num_cut_prompts.map_or_else(|| "not counted".to_owned(), |count| count.to_string());
        [
            ("solved examples", summary.num_fewshot.to_string()),
            ("chat template", summary.chat.to_string()),
            ("prompts that lost their beginning", cut),
        ]
    };
    let mut differences = differing(None, of_run(before), of_run(after));
    for first in &before.tasks {
        if let Some(second) = after.tasks.iter().find(|second| second.summary.name == first.summary.name) {
            differences.extend(differing(Some(&first.summary.name), of_task(first), of_task(second)));
        }
    }
    differences
}

/// The settings, the same in both with their values, that differ.
fn differing<const N: usize>(
    task: Option<&str>,
    before: [(&'static str, String); N],
    after: [(&'static str, String); N],
) -> Vec<SettingDifference> {
    let pairs = before.into_iter().zip(after).filter(|(before, after)| before != after);
    let difference = |((setting, before), (_, after)): ((&'static str, String), (_, String))| SettingDifference {
        task: task.map(str::to_owned),
        setting,
        before,
        after,
    };
    pairs.map(difference).collect()
}

/// Compares two runs task by task.
///
/// # Errors
/// [`EvalError::Results`] where a task's version or a row's data differ: then the runs answered different questions.
pub fn compare(before: &Results, after: &Results, options: CompareOptions) -> Result<Comparison, EvalError> {
    let mut tasks = Vec::new();
    let mut resampled = Vec::new();
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
                let pairs = paired(first, second)?;
                let (delta, differences) = compare_task(&first.summary, &pairs, options);
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
                resampled.push(differences);
            }
        }
    }
    let is_known = |task: &&TaskResult| before.tasks.iter().any(|first| first.summary.name == task.summary.name);
    unpaired.extend(after.tasks.iter().filter(|task| !is_known(task)).map(only_here));
    let settings = setting_differences(before, after);
    let mut comparison = Comparison { tasks, cells: Vec::new(), unpaired, settings, prompts, resampled, options };
    comparison.cells = cells(&comparison);
    Ok(comparison)
}

/// The answers of both runs to each question that both have.
fn paired<'a>(before: &'a TaskResult, after: &'a TaskResult) -> Result<Vec<(&'a Sample, &'a Sample)>, EvalError> {
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
    let pairs: Vec<(&Sample, &Sample)> =
        before.samples.iter().filter_map(|sample| Some((sample, *others.get(&sample.row_id)?))).collect();
    if let Some((sample, _)) = pairs.iter().find(|(first, second)| first.fields != second.fields) {
        return Err(different(format!("row {} holds different data in the two runs", sample.row_id)));
    }
    if pairs.is_empty() {
        return Err(different("the two runs have no row in common".to_owned()));
    }
    Ok(pairs)
}

fn compare_task(summary: &TaskSummary, pairs: &[(&Sample, &Sample)], options: CompareOptions) -> (Delta, Vec<f64>) {
    let metric = summary.headline().metric;
    let score = |samples: &[&Sample]| score(metric, summary.subset_mean, samples);
    let (first, second): (Vec<&Sample>, Vec<&Sample>) = pairs.iter().copied().unzip();
    // Each task has draws of its own: those of tasks with equally many rows would else hide or double each other's spread.
    let mut generator = ChaCha8Rng::seed_from_u64(seed_of(&format!("{}\u{1}{}", options.seed, summary.name)));
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
    let scores = [score(&first), score(&second)];
    (interval(scores, &differences, unseen_change(pairs.len()), pairs.len(), options), differences)
}

/// By how much the score of all rows that there are may have changed though none of `num_rows` drawn ones shows it: the rule of three
/// (Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?"), 3 / n with a confidence of 95 %.
fn unseen_change(num_rows: usize) -> f64 {
    3.0 / num_rows as f64
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

/// The percentiles of the resampled differences, but no narrower than `unseen` to either side: few rows, or rows of which none
/// changed, resample to nearly nothing.
fn interval(
    [before, after]: [f64; 2],
    differences: &[f64],
    unseen: f64,
    num_rows: usize,
    options: CompareOptions,
) -> Delta {
    let mut sorted = differences.to_vec();
    sorted.sort_by(f64::total_cmp);
    let change = after - before;
    let at = |share: f64| match sorted.len() {
        0 => change,
        count => sorted[((count as f64 * share) as usize).min(count - 1)],
    };
    let outside = (1.0 - options.coverage) / 2.0;
    let (low, high) = (at(outside).min(change - unseen), at(1.0 - outside).max(change + unseen));
    Delta { before, after, low, high, num_rows }
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
        run(&model, None, &[task], &Options { data_roots, ..Options::default() }, &mut |_| true).expect("runs")
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
    fn equal_runs_differ_by_nothing_that_their_rows_could_show() {
        let run = results(|row| row < 50, TASK);
        let delta = compare(&run, &run, CompareOptions::default()).expect("compares").tasks[0].delta;
        assert_eq!((delta.difference(), delta.low, delta.high, delta.is_clear()), (0.0, -0.015, 0.015, false));
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
            let checked = requirements.iter().map(|requirement| requirement.check(&found).map(|it| it.verdict));
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
        let error = require::parse("finance >= 0").expect("reads")[0].check(&partial).expect_err("fewer rows");
        assert!(error.to_string().contains("50 rows"), "{error}");
        let other = results(|_| true, &TASK.replace("name = \"t\"", "name = \"u\""));
        let unpaired = compare(&before, &other, options).expect("compares");
        let error = require::parse("finance >= 0").expect("reads")[0].check(&unpaired).expect_err("one run only");
        assert!(error.to_string().contains("task t"), "{error}");
    }

    /// Two tasks of which one is better on even rows and the other on odd ones: with the same draws their mean would not vary.
    #[test]
    fn tasks_are_resampled_each_on_its_own() {
        let other = TASK.replace("name = \"t\"", "name = \"u\"");
        let join = |mut first: Results, second: Results| {
            first.tasks.extend(second.tasks);
            first
        };
        let before = join(results(|_| false, TASK), results(|_| false, &other));
        let after = join(results(|row| row % 2 == 0, TASK), results(|row| row % 2 == 1, &other));
        let cell = compare(&before, &after, CompareOptions::default()).expect("compares").cells[0].delta;
        // The standard error of each is sqrt(0.25 / 200), that of their mean smaller by sqrt(2): 0.025.
        assert!((cell.high - cell.low - 2.0 * 1.96 * 0.025).abs() < 0.012, "{cell:?}");
    }

    #[test]
    fn other_settings_are_named_and_no_requirement_is_held_against_them() {
        let run = results(|row| row < 50, TASK);
        let edited = |edit: fn(&mut Results)| {
            let mut edited = run.clone();
            edit(&mut edited);
            compare(&run, &edited, CompareOptions::default()).expect("compares")
        };
        for (edit, said) in [
            (
                (|run| run.info.precision = "bf16 on cuda".to_owned()) as fn(&mut Results),
                "precision text and bf16 on cuda",
            ),
            (
                |run| run.info.template_date = Some("2026-11-28".to_owned()),
                "date told by the chat template none and 2026-11-28",
            ),
            (|run| run.info.scoring_version = 1, "version of the scoring 3 and 1"),
            (|run| run.tasks[0].summary.num_fewshot = 5, "t: solved examples 0 and 5"),
            (|run| run.tasks[0].summary.chat = false, "t: chat template true and false"),
            (|run| run.tasks[0].summary.num_cut_prompts = Some(9), "t: prompts that lost their beginning 0 and 9"),
        ] {
            let comparison = edited(edit);
            assert_eq!(comparison.settings.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
            let error = require::parse("finance >= -50").expect("reads")[0].check(&comparison).expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
        }
        let same = edited(|_| {});
        assert!(same.settings.is_empty() && same.prompts.is_empty());
    }

    #[test]
    fn questions_with_other_prompts_are_counted_and_the_first_is_shown() {
        let run = results(|row| row < 50, TASK);
        let mut other = run.clone();
        for sample in &mut other.tasks[0].samples[7..9] {
            sample.prompt = format!("It is the 28th of November. {}", sample.prompt);
        }
        let found = compare(&run, &other, CompareOptions::default()).expect("compares").prompts;
        let [difference] = &found[..] else { panic!("one task differs: {found:?}") };
        let said = difference.to_string();
        let num_rows = run.tasks[0].samples.len();
        assert!(said.starts_with(&format!("t: 2 of {num_rows} questions have other prompts; the first ")), "{said}");
        assert!(said.contains("and \"It is the 28th"), "{said}");
    }

    #[test]
    fn few_rows_support_nothing() {
        let cut = |mut run: Results, rows: usize| {
            run.tasks[0].samples.truncate(rows);
            run
        };
        let (wrong, right) = (results(|_| false, TASK), results(|_| true, TASK));
        let verdict = |before: &Results, after: &Results, rows: usize, text: &str| {
            let [before, after] = [before, after].map(|run| cut(run.clone(), rows));
            let found = compare(&before, &after, CompareOptions::default()).expect("compares");
            require::parse(text).expect("reads")[0].check(&found).expect("checks").verdict
        };
        assert_eq!(verdict(&wrong, &right, 2, "finance >= +3"), Verdict::Open);
        assert_eq!(verdict(&wrong, &right, 200, "finance >= +3"), Verdict::Supported);
        assert_eq!(verdict(&right, &right, 50, "finance >= -1"), Verdict::Open);
        assert_eq!(verdict(&right, &right, 200, "finance >= -2"), Verdict::Supported);
        let mut twice = right.clone();
        twice.tasks[0].samples[1].row_id = 0;
        assert!(compare(&twice, &right, CompareOptions::default()).is_err(), "a row that stands twice");
    }
}
