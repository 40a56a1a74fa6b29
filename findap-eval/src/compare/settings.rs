//! What differs between two runs beside the model: settings, and the words of the questions.

use crate::results::{Results, TaskResult};
use crate::sample::Sample;

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
    pub(super) fn of(task: &str, pairs: &[(&Sample, &Sample)]) -> Option<Self> {
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
pub(super) fn setting_differences(before: &Results, after: &Results) -> Vec<SettingDifference> {
    let or_unknown = |text: String| if text.is_empty() { "unknown".to_owned() } else { text };
    let of_run = |results: &Results| {
        let info = &results.info;
        [
            ("precision", or_unknown(info.precision.clone())),
            ("date told by the chat template", info.template_date.clone().unwrap_or_else(|| "none".to_owned())),
            ("version of the scoring", info.scoring_version.to_string()),
            ("seed", info.seed.to_string()),
            ("judge", info.judge.clone().unwrap_or_else(|| "none".to_owned())),
        ]
    };
    let of_task = |task: &TaskResult| {
        let summary = &task.summary;
        let cut = summary.num_cut_prompts.map_or_else(|| "not counted".to_owned(), |count| count.to_string());
        let unjudged = summary.num_unjudged.map_or_else(|| "not counted".to_owned(), |count| count.to_string());
        [
            ("replies without a verdict of the judge", unjudged),
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
