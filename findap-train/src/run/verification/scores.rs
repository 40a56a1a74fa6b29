//! The evaluations of a run, compared with those made again.

use std::path::Path;

use serde_json::Value;

use super::Verification;
use super::compared::Compared;
use super::difference::{Lines, Twin, entries, only};
use crate::error::TrainError;

/// The files of one evaluation; their names end with the time at which it was begun.
struct Measured {
    /// That time, of the newest results in the folder: the ones that reports and comparisons show.
    stamp: Option<String>,
    /// The tasks that have samples of that time.
    tasks: Vec<String>,
    /// Files of earlier evaluations, of another model or of other tasks, which were replaced.
    num_replaced: usize,
}

impl Measured {
    fn read(folder: &Path) -> Result<Self, TrainError> {
        let name = |path: &std::path::PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let names: Vec<String> = entries(folder)?.iter().map(name).collect();
        let stamps = names.iter().filter_map(|name| name.strip_prefix("results_")?.strip_suffix(".json"));
        let stamp = stamps.max().map(str::to_owned);
        let ending = stamp.as_ref().map(|stamp| format!("_{stamp}.jsonl"));
        let task = |name: &String| Some(name.strip_prefix("samples_")?.strip_suffix(ending.as_deref()?)?.to_owned());
        let tasks: Vec<String> = names.iter().filter_map(task).collect();
        let is_of_evaluation = |name: &&String| name.starts_with("results_") || name.starts_with("samples_");
        let num_files = names.iter().filter(is_of_evaluation).count();
        Ok(Self { num_replaced: num_files - tasks.len() - usize::from(stamp.is_some()), stamp, tasks })
    }
}

impl Verification {
    /// The answer to every question, and every number that was made of the answers.
    pub(super) fn scores(&self, stage: &str) -> Result<Compared, TrainError> {
        let folder = Path::new("eval").join(stage);
        let (was, now) = (Measured::read(&self.folder.join(&folder))?, Measured::read(&self.place().join(&folder))?);
        let twin = |name: &dyn Fn(&str) -> String| {
            let file = |measured: &Measured| folder.join(name(measured.stamp.as_deref().unwrap_or_default()));
            Twin::of_two_names(file(&was), [&self.folder, self.place()], &file(&now), &self.named)
        };
        // what was asked: other tasks or other data explain all that differs below
        let mut difference = self.twin(folder.join("done.json")).json(only(&["identity"]))?;
        let mut tasks = was.tasks.clone();
        tasks.extend(now.tasks.iter().filter(|task| !was.tasks.contains(task)).cloned());
        let mut num_answers = 0;
        for task in &tasks {
            let Lines { was, difference: of_task } =
                twin(&|stamp| format!("samples_{task}_{stamp}.jsonl")).lines(without_unread)?;
            num_answers += was.len();
            difference = difference.or(of_task);
        }
        let difference = match difference {
            None => twin(&|stamp| format!("results_{stamp}.json")).json(without_names_and_times)?,
            difference => difference,
        };
        let tasks = if tasks.len() == 1 { "1 task".to_owned() } else { format!("{} tasks", tasks.len()) };
        let replaced = match was.num_replaced {
            0 => String::new(),
            1 => "; not 1 file of an earlier evaluation".to_owned(),
            count => format!("; not {count} files of earlier evaluations"),
        };
        let what = format!("{num_answers} answers in {tasks}, results{replaced}");
        Ok(Compared::new(stage, "scores", what, difference))
    }
}

/// Takes off a sample why there is no verdict: such replies are not recorded.
fn without_unread(sample: &mut Value) {
    for judgement in sample.get_mut("judgements").and_then(Value::as_array_mut).into_iter().flatten() {
        if judgement["value"].is_null() {
            *judgement = Value::Null;
        }
    }
}

/// Takes off results what is no result: when they were made, by which version, the name of the model, whose bits its fingerprint tells,
/// and that of the judge, whose address is one of those it was recorded at.
fn without_names_and_times(results: &mut Value) {
    const OUTSIDE: [&str; 6] =
        ["date", "start_time", "end_time", "total_evaluation_time_seconds", "model_name", "model_name_sanitized"];
    const IN_INFO: [&str; 4] = ["model_name", "judge", "started_unix", "seconds"];
    let take = |object: Option<&mut Value>, keys: &[&str]| {
        if let Some(object) = object.and_then(Value::as_object_mut) {
            object.retain(|key, _| !keys.contains(&key.as_str()));
        }
    };
    take(results.pointer_mut("/findap/info"), &IN_INFO);
    take(results.pointer_mut("/findap"), &["version"]);
    take(results.pointer_mut("/config"), &["model_args"]);
    take(Some(results), &OUTSIDE);
}
