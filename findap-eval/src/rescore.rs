//! Saved answers scored anew: after a change of a task's extraction or metrics no model has to be asked again.

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use crate::dataset::{self, DataRoots, Row};
use crate::error::EvalError;
use crate::judge::{Case, are_verdicts_of};
use crate::options::Options;
use crate::prompt::{Ask, Item, asked_again};
use crate::results::{Results, RunInfo, SCORING_VERSION, TaskResult, gen_kwargs};
use crate::sample::{Sample, grade};
use crate::task::Task;

/// Scores the answers of earlier results by `tasks` as they are now. `from` names these results. Every prompt is the one that was asked
/// then: solved examples that a task would show now are not looked at.
///
/// # Errors
/// [`EvalError::Rescore`] where a task was not asked, or asks something else by now; as [`dataset::load`].
pub fn rescore(earlier: &Results, from: &str, tasks: &[Task], data_roots: &DataRoots) -> Result<Results, EvalError> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    let of_task = |task: &Task| {
        task.refuse(true)?;
        let found = earlier.tasks.iter().find(|result| result.summary.name == task.name);
        let changed = |problem: String| EvalError::Rescore { task: task.name.clone(), problem };
        let result = found.ok_or_else(|| changed("was not asked".to_owned()))?;
        let loaded = dataset::load(task, data_roots, earlier.info.limit, 0)?;
        if loaded.rows.len() != result.samples.len() {
            let (rows, samples) = (loaded.rows.len(), result.samples.len());
            return Err(changed(format!("has {rows} rows where {samples} were asked; its data have changed")));
        }
        if gen_kwargs(task) != result.gen_kwargs {
            return Err(changed("has another `stop` or `max_new_tokens` by now".to_owned()));
        }
        let rows: HashMap<usize, &Row> = loaded.rows.iter().map(|row| (row.id, row)).collect();
        let rescored = result.samples.iter().map(|sample| {
            let row = rows.get(&sample.row_id).filter(|row| row.fields == sample.fields);
            let row = row.ok_or_else(|| changed(format!("has another row {} by now", sample.row_id)))?;
            let problem = || changed(format!("asks row {} something else by now", sample.row_id));
            let item = item_of(task, row, sample, result.summary.chat)?.ok_or_else(problem)?;
            let mut scored = grade(task, &item, sample.answer.clone());
            // What stood before each choice was written with the solved examples of then.
            scored.contexts.clone_from(&sample.contexts);
            scored.num_cut_tokens = sample.num_cut_tokens;
            if let (Some(rule), Ask::Reply { judged: Some(judged), .. }) = (&task.judge, &item.ask) {
                let case = Case { task: &task.name, asks: rule.asks, judged, sample: &mut scored };
                if !are_verdicts_of(&sample.judgements, &case) {
                    return Err(changed(format!("asks the judge something else about row {} by now", sample.row_id)));
                }
                scored.judgements.clone_from(&sample.judgements);
                scored.count_judgements(rule.asks.metric());
            }
            Ok(scored)
        });
        let options = Options {
            seed: earlier.info.seed,
            chat: Some(result.summary.chat),
            num_fewshot: Some(result.summary.num_fewshot),
            ..Options::default()
        };
        let rescored = rescored.collect::<Result<Vec<_>, EvalError>>()?;
        Ok(TaskResult::new(task, rescored, (loaded.num_original, loaded.num_left_out), &options))
    };
    let tasks = tasks.iter().map(of_task).collect::<Result<Vec<_>, EvalError>>()?;
    Ok(Results {
        info: RunInfo {
            scoring_version: SCORING_VERSION,
            rescored_from: Some(from.to_owned()),
            started_unix: started.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            seconds: clock.elapsed().as_secs_f64(),
            ..earlier.info.clone()
        },
        tasks,
    })
}

/// The question of a sample with the right answer that its row has now; `None` where the row would not be asked so.
fn item_of(task: &Task, row: &Row, sample: &Sample, is_chat: bool) -> Result<Option<Item>, EvalError> {
    let (ask, asked_hash) = asked_again(task, row, is_chat)?;
    let is_same = sample.asked_hash.as_ref() == Some(&asked_hash);
    let item = Item {
        row_id: row.id,
        subset: row.subset.clone(),
        fields: row.fields.clone(),
        prompt: sample.prompt.clone(),
        is_rendered: is_chat,
        messages: Vec::new(),
        asked_hash,
        ask,
    };
    Ok(is_same.then_some(item))
}
