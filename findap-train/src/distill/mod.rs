//! Preference distillation (FinDAP section 3.3): the policy solves exercises, a generative reward model judges, pairs come out.
//!
//! For each exercise `n` solutions are sampled from the policy. Final-answer preference (FAP): a judge compares each solution's final
//! answer with the reference; a right solution is chosen over a wrong one. Stepwise corrective preference (SCP): for a wrong
//! solution the judge names the first wrong step and its correction, which is chosen over the wrong step. The prompt is the question and
//! the right steps so far, as the beginning of the policy's own turn or, as in the paper, with a request for the next step.
//!
//! The right solutions are written, too, as conversations: plain training on them (rejection sampling) is what preferences are to beat.
//!
//! Every exercise is one line of `samples.jsonl` with its solutions and verdicts, written when it is complete: a run that was stopped
//! resumes after the last line. The pairs follow from these lines alone. A reply of the judge that could not be read makes no label;
//! it is counted, the first one is shown, and the judge is asked again when the run goes on. A reply is replayed only for the judge that
//! gave it: its model at its server, or its model alone where nobody is asked.

mod judging;
mod pairs;
mod record;
mod sampling;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use findap_data::journal::Journal;
use findap_data::reward_model::{Exercise, read_exercises};
use findap_model::{Device, Dtype, TextModel};
use serde::Serialize;
use serde_json::json;

use self::judging::{Bench, Round};
pub use self::pairs::{NEXT_STEP, Pair, RightSolution, Statistics, pairs, right_solutions};
pub use self::record::{Sampled, Solution};
use self::sampling::sample;
use crate::error::TrainError;
use crate::event::{Event, Observer};
use crate::folder::write_whole;
use crate::recipe::{DistillStage, PREFERENCES_FILE, RIGHT_SOLUTIONS_FILE};

/// Exercises that are sampled and judged together, and then on disk.
const GROUP: usize = 16;

/// The folders, policy, device and seed of a distillation.
#[derive(Debug, Clone, Copy)]
pub struct DistillContext<'a> {
    /// The stage's folder: `samples.jsonl`, `judge.jsonl`, `statistics.json`.
    pub folder: &'a Path,
    /// The run folder: `preferences.jsonl`, `right-solutions.jsonl`.
    pub run_folder: &'a Path,
    /// Whether pairs and right solutions are to be trained on: without any of what is, the distillation has failed, and where neither
    /// is, without any of both.
    pub trained: [bool; 2],
    /// The policy's folder.
    pub model: &'a Path,
    /// Where the policy is sampled.
    pub device: &'a Device,
    /// The format of the policy's weights there.
    pub dtype: Dtype,
    /// The run's seed.
    pub seed: u64,
    /// What the policy's chat template tells as the time, in seconds since 1970.
    pub time_seconds: u64,
}

/// Looks, before a run trains anything, at what its distillation needs: the exercises, and whether the judge answers about the first one.
/// A note where its reply makes no label.
///
/// # Errors
/// [`TrainError::Data`], [`TrainError::NothingToTrain`] without an exercise; [`TrainError::Judge`] where the judge cannot be asked.
pub fn check(stage: &DistillStage, run_folder: &Path) -> Result<Option<String>, TrainError> {
    judging::try_judge(stage, &exercises(stage, run_folder)?[0])
}

/// The exercises of a distillation, at least one.
///
/// # Errors
/// [`TrainError::Data`], [`TrainError::NothingToTrain`].
pub fn exercises(stage: &DistillStage, run_folder: &Path) -> Result<Vec<Exercise>, TrainError> {
    let exercises = read_exercises(&stage.exercise_files(run_folder), stage.limit)?;
    if exercises.is_empty() {
        let problem = "its files hold no exercise".to_owned();
        return Err(TrainError::NothingToTrain { stage: stage.name.clone(), problem });
    }
    Ok(exercises)
}

/// Finds out, without asking it, whether the judge of a distillation could be asked: its address, and its key where it needs one.
///
/// # Errors
/// [`TrainError::Judge`].
pub fn require_judge(stage: &DistillStage) -> Result<(), TrainError> {
    judging::client(stage).map(drop)
}

/// Samples, judges and writes pairs; `false` when it was stopped before the end.
///
/// # Errors
/// [`TrainError::Data`], [`TrainError::Io`], [`TrainError::Language`], [`TrainError::NothingToTrain`] when nothing came
/// out of what is to be trained on.
pub fn run(
    stage: &DistillStage,
    context: &DistillContext<'_>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<bool, TrainError> {
    let exercises = exercises(stage, context.run_folder)?;
    let Some(sampled) = judged_samples(stage, context, &exercises, observer, stop)? else { return Ok(false) };
    let (pairs, statistics) = pairs(stage, &exercises, &sampled);
    let name = &stage.name;
    let unread = unread_note(&statistics, &sampled);
    let text = serde_json::to_vec_pretty(&statistics).expect("invariant: numbers are JSON");
    write_whole(&context.folder.join("statistics.json"), &text)?;
    let solutions = right_solutions(stage, &exercises, &sampled);
    let [trains_pairs, trains_solutions] = context.trained;
    let is_empty = pairs.is_empty() && solutions.is_empty();
    if (trains_pairs || is_empty) && pairs.is_empty() {
        let problem = nothing_came_out("pair", &statistics, unread);
        return Err(TrainError::NothingToTrain { stage: name.clone(), problem });
    }
    if trains_solutions && solutions.is_empty() {
        let problem = nothing_came_out("right solution", &statistics, unread);
        return Err(TrainError::NothingToTrain { stage: name.clone(), problem });
    }
    write_lines(&context.run_folder.join(PREFERENCES_FILE), &pairs)?;
    write_lines(&context.run_folder.join(RIGHT_SOLUTIONS_FILE), &solutions)?;
    let Statistics { right, solutions, cut_off, fap_pairs, scp_pairs, naive_pairs, equal_pairs, uncorrected, .. } =
        statistics;
    let naive = if naive_pairs > 0 { format!(" and {naive_pairs} naive") } else { String::new() };
    let right_solutions = statistics.right_solutions;
    let equal = if equal_pairs > 0 { format!(", {equal_pairs} pairs of equal texts left out") } else { String::new() };
    observer.event(Event::Note(format!(
        "{name}: {right} of {solutions} solutions right, {cut_off} cut off; {fap_pairs} final-answer and {scp_pairs} stepwise{naive} pairs, \
         {uncorrected} wrong solutions without a step to correct{equal}; {right_solutions} right solutions to learn from"
    )));
    if let Some(unread) = unread {
        observer.event(Event::Note(format!("{name}: {unread}")));
    }
    Ok(true)
}

/// The solutions of all exercises with their verdicts; `None` when it was stopped before the end.
fn judged_samples(
    stage: &DistillStage,
    context: &DistillContext<'_>,
    exercises: &[Exercise],
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Option<Vec<Sampled>>, TrainError> {
    let name = &stage.name;
    let path = context.folder.join("samples.jsonl");
    let (mut journal, read) = Journal::open::<Sampled>(&path)?;
    let mut done = read.entries;
    let total = exercises.len() as u64;
    observer.event(Event::StageStarted { stage: name.clone(), kind: "distill", steps: total, done: done.len() as u64 });
    if let Some(torn) = read.torn {
        let note = format!("{name}: line {} of samples.jsonl was cut short; that exercise is sampled again", torn.line);
        observer.event(Event::Note(note));
    }
    let num_open =
        done.iter().flat_map(|sampled| &sampled.solutions).filter(|solution| judging::is_open(stage, solution)).count();
    if done.len() >= exercises.len() && num_open == 0 {
        return Ok(Some(done));
    }
    let mut bench = Bench::new(stage, context.folder, stop)?;
    if num_open > 0 {
        let note = format!("{name}: {num_open} solutions lack a verdict or a correction; the judge is asked again");
        observer.event(Event::Note(note));
        for (exercises, sampled) in exercises.chunks(GROUP).zip(done.chunks_mut(GROUP)) {
            if !bench.judge(Round::Again, exercises, sampled, observer)? {
                return Ok(None);
            }
        }
        let lines: String = done.iter().map(|sampled| format!("{}\n", json!(sampled))).collect();
        write_whole(&path, lines.as_bytes())?;
        (journal, _) = Journal::open::<Sampled>(&path)?;
    }
    if done.len() >= exercises.len() {
        return Ok(Some(done));
    }
    let policy = TextModel::load_to(context.device, context.model, context.dtype)?.with_time(context.time_seconds);
    while done.len() < exercises.len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let first = done.len();
        let group = &exercises[first..exercises.len().min(first + GROUP)];
        let mut sampled = sample(&policy, stage, context.seed, group)?;
        for record in &sampled {
            if let Some(problem) = &record.problem {
                observer.event(Event::Note(format!("{name}: exercise {} is left out: {problem}", record.exercise)));
            }
        }
        if !bench.judge(Round::First, group, &mut sampled, observer)? {
            return Ok(None);
        }
        journal.append(&sampled)?;
        done.extend(sampled);
        let done = done.len() as u64;
        observer.event(Event::Progress { stage: name.clone(), what: "exercises", done, total });
    }
    Ok(Some(done))
}

/// How many replies could not be read, and the first; `None` where all could.
fn unread_note(statistics: &Statistics, sampled: &[Sampled]) -> Option<String> {
    let first = sampled.iter().flat_map(|sampled| &sampled.solutions).find_map(|solution| solution.unread.as_ref())?;
    let Statistics { unread_replies, judge_replies, .. } = statistics;
    Some(format!("{unread_replies} of {judge_replies} replies of the judge could not be read; the first: {first}"))
}

fn write_lines(path: &Path, rows: &[impl Serialize]) -> Result<(), TrainError> {
    let lines: String = rows.iter().map(|row| format!("{}\n", json!(row))).collect();
    write_whole(path, lines.as_bytes())
}

/// Why there is no such thing and what to do: a judge that cannot be read does not read better after more training.
fn nothing_came_out(what: &str, statistics: &Statistics, unread: Option<String>) -> String {
    let Statistics { solutions, right, wrong, cut_off, unsolved, .. } = statistics;
    let unsolved = if *unsolved > 0 { format!(", {unsolved} exercises without any") } else { String::new() };
    let counts = format!(
        "no {what} came out of {solutions} solutions ({right} right, {wrong} wrong, {cut_off} cut off{unsolved})"
    );
    match unread {
        Some(unread) => format!(
            "{counts}. {unread}. Repair the judge, or its keys in the recipe, and run again: the solutions are kept, and the judge is \
             asked again about what could not be read"
        ),
        None => {
            let longer = if *cut_off > 0 { "raise `max_new_tokens`, " } else { "" };
            format!("{counts}; {longer}sample more per exercise, raise the temperature, or train longer before it")
        }
    }
}
