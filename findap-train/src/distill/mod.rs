//! Preference distillation (FinDAP section 3.3): the policy solves exercises, a generative reward model judges, pairs come out.
//!
//! For each exercise `n` solutions are sampled from the policy. Final-answer preference (FAP): a judge compares each solution's final
//! answer with the reference; a right solution is chosen over a wrong one. Stepwise corrective preference (SCP): for a wrong
//! solution the judge names the first wrong step and its correction; the prompt is the question, the right steps so far and a request
//! for the next step, the correction is chosen over the wrong step.
//!
//! Every exercise is one line of `samples.jsonl` with its solutions and verdicts, written when it is complete: a run that was stopped
//! resumes after the last line. The pairs follow from these lines alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use findap_data::journal::Journal;
use findap_data::llm::{Cassette, ChatReply, Choice, FinishReason, HttpChatModel, HttpOptions, LlmError};
use findap_data::reward_model::{
    Correctness, Exercise, FapVerdict, ScpVerdict, fap_prompt, parse_verdict, read_exercises, scp_prompt,
};
use findap_data::world::judge::WorldJudge;
use findap_data::{ChatModel, ChatRequest, Message, Sampling};
use findap_model::{Device, Dtype, TextModel};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::error::TrainError;
use crate::event::{Event, Observer};
use crate::folder::write_whole;
use crate::recipe::{DistillStage, Judge, PairKind};
use crate::sources::locate;

#[cfg(test)]
mod tests;

/// Exercises that are sampled and judged together, and then on disk.
const GROUP: usize = 16;
/// Ends a prompt of stepwise preference.
pub const NEXT_STEP: &str = "What is the next step?";

/// The folders, policy, device and seed of a distillation.
#[derive(Debug, Clone, Copy)]
pub struct DistillContext<'a> {
    /// The stage's folder: `samples.jsonl`, `judge.jsonl`, `statistics.json`.
    pub folder: &'a Path,
    /// The run folder: `preferences.jsonl`.
    pub run_folder: &'a Path,
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

/// One exercise with what was made of it: a line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The exercise.
    pub exercise: String,
    /// Its solutions.
    pub solutions: Vec<Solution>,
    /// Why the policy could not be asked; then there are no solutions.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// A solution with its verdicts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Solution {
    /// What the policy wrote.
    pub text: String,
    /// Whether it ended its turn; otherwise it was cut off.
    pub is_finished: bool,
    /// The verdict on its final answer; `None` where the judge's reply could not be read.
    pub verdict: Option<FapVerdict>,
    /// The first wrong step of a wrong solution, where the judge named one that stands in the text.
    pub correction: Option<ScpVerdict>,
}

/// Counts over all exercises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Exercises.
    pub exercises: usize,
    /// Exercises without solutions: the policy could not be asked, for example because the question is too long.
    pub unsolved: usize,
    /// Solutions sampled.
    pub solutions: usize,
    /// Solutions judged right.
    pub right: usize,
    /// Solutions judged wrong.
    pub wrong: usize,
    /// Solutions whose verdict could not be read; they are in no pair.
    pub unjudged: usize,
    /// Exercises with right and wrong solutions.
    pub mixed_exercises: usize,
    /// Final-answer pairs.
    pub fap_pairs: usize,
    /// Stepwise corrective pairs.
    pub scp_pairs: usize,
}

/// A preference pair: a line of `preferences.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// `fap` or `scp`.
    pub kind: PairKind,
    /// The exercise it came from.
    pub exercise: String,
    /// The turns that both answer.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// The reasons: reference and the judge's words.
    pub evidence: serde_json::Value,
}

/// Samples, judges and writes pairs; `false` when it was stopped before the end.
///
/// # Errors
/// [`TrainError::Data`], [`TrainError::Changed`], [`TrainError::Language`], [`TrainError::NothingToTrain`] when no pair came out.
pub fn run(
    stage: &DistillStage,
    context: &DistillContext<'_>,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<bool, TrainError> {
    let exercises = read_exercises(&locate(context.run_folder, &stage.exercises), stage.limit)?;
    let path = context.folder.join("samples.jsonl");
    let (mut journal, read) = Journal::open::<Sampled>(&path)?;
    let mut done = read.entries;
    let total = exercises.len() as u64;
    let name = stage.name.clone();
    observer.event(Event::StageStarted { stage: name.clone(), kind: "distill", steps: total, done: done.len() as u64 });
    if let Some(torn) = read.torn {
        let note = format!("{name}: line {} of samples.jsonl was cut short; that exercise is sampled again", torn.line);
        observer.event(Event::Note(note));
    }
    if done.len() < exercises.len() {
        let policy = TextModel::load_to(context.device, context.model, context.dtype)?.with_time(context.time_seconds);
        let judge = judge(&stage.judge, context.folder)?;
        while done.len() < exercises.len() {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let first = done.len();
            let group = &exercises[first..exercises.len().min(first + GROUP)];
            let mut sampled = sample(&policy, stage, context.seed, first, group)?;
            for record in &sampled {
                if let Some(problem) = &record.problem {
                    observer.event(Event::Note(format!("{name}: exercise {} is left out: {problem}", record.exercise)));
                }
            }
            judge_solutions(judge.as_ref(), group, &mut sampled)?;
            journal.append(&sampled)?;
            done.extend(sampled);
            let (stage, done) = (name.clone(), done.len() as u64);
            observer.event(Event::Progress { stage, what: "exercises", done, total });
        }
    }
    let (pairs, statistics) = pairs(stage, &exercises, &done);
    if pairs.is_empty() {
        let problem = format!(
            "no pair came out of {} solutions ({} right, {} wrong); sample more per exercise, raise the temperature, or train longer \
             before it",
            statistics.solutions, statistics.right, statistics.wrong
        );
        return Err(TrainError::NothingToTrain { stage: name, problem });
    }
    let lines: String = pairs.iter().map(|pair| format!("{}\n", json!(pair))).collect();
    write_whole(&context.run_folder.join("preferences.jsonl"), lines.as_bytes())?;
    let text = serde_json::to_vec_pretty(&statistics).expect("invariant: numbers are JSON");
    write_whole(&context.folder.join("statistics.json"), &text)?;
    observer.event(Event::Note(format!(
        "{name}: {} of {} solutions right; {} final-answer and {} stepwise pairs",
        statistics.right, statistics.solutions, statistics.fap_pairs, statistics.scp_pairs
    )));
    Ok(true)
}

fn judge(judge: &Judge, folder: &Path) -> Result<Box<dyn ChatModel>, TrainError> {
    match judge {
        Judge::Named(_) => Ok(Box::new(WorldJudge)),
        Judge::Remote(remote) => {
            let options = HttpOptions {
                url: remote.url.clone(),
                model: remote.model.clone(),
                key_env: remote.key_env.clone(),
                ..HttpOptions::default()
            };
            Ok(Box::new(Cassette::open(&folder.join("judge.jsonl"), Some(HttpChatModel::new(options)?))?))
        }
    }
}

/// The solutions of a group. Each exercise has its own seed, whatever it is sampled together with.
fn sample(
    policy: &TextModel,
    stage: &DistillStage,
    seed: u64,
    first: usize,
    group: &[Exercise],
) -> Result<Vec<Sampled>, TrainError> {
    let request = |(index, exercise): (usize, &Exercise)| ChatRequest {
        messages: vec![Message::user(&exercise.question)],
        sampling: Sampling {
            temperature: stage.temperature,
            top_p: Some(stage.top_p),
            max_tokens: stage.max_new_tokens,
            n: stage.samples_per_exercise,
            seed: Some(exercise_seed(seed, (first + index) as u64)),
            ..Sampling::default()
        },
    };
    let requests: Vec<ChatRequest> = group.iter().enumerate().map(request).collect();
    let solution = |choice: Choice| Solution {
        is_finished: choice.finish_reason == FinishReason::Stop,
        text: choice.text,
        verdict: None,
        correction: None,
    };
    let sampled = |(exercise, reply): (&Exercise, Result<ChatReply, LlmError>)| {
        let (solutions, problem) = match reply {
            Ok(reply) => (reply.choices.into_iter().map(solution).collect(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Sampled { exercise: exercise.id.clone(), solutions, problem }
    };
    Ok(group.iter().zip(ask(policy, &requests)?).map(sampled).collect())
}

/// The seed of the solutions of an exercise, which differ in the upper half.
///
/// Below 2^12 seeds of runs and 2^20 exercises each has a value of its own in the lower half. What is beyond moves that by a hash: two
/// runs or exercises share a stream no likelier than two random numbers of 64 bits are the same.
fn exercise_seed(run_seed: u64, exercise: u64) -> u64 {
    const SEED_BITS: u32 = 12;
    const EXERCISE_BITS: u32 = 20;
    let (seed_page, seed) = (run_seed >> SEED_BITS, run_seed & ((1 << SEED_BITS) - 1));
    let (exercise_page, exercise) = (exercise >> EXERCISE_BITS, exercise & ((1 << EXERCISE_BITS) - 1));
    (seed << EXERCISE_BITS | exercise).wrapping_add(mix(mix(seed_page) ^ exercise_page))
}

/// The finalizer of SplitMix64: a permutation of all numbers of 64 bits that leaves 0 where it is.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Replies and the requests' own faults; a fault of the model, or the same fault in every request, ends the stage.
fn ask(model: &dyn ChatModel, requests: &[ChatRequest]) -> Result<Vec<Result<ChatReply, LlmError>>, TrainError> {
    let replies = model.chat(requests);
    let errors = || replies.iter().filter_map(|reply| reply.as_ref().err());
    let is_all = errors().count() == requests.len();
    match errors().find(|error| is_all || !error.is_of_request()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(replies),
    }
}

/// Adds the verdicts: on every final answer, then on the first wrong step of every wrong solution.
fn judge_solutions(judge: &dyn ChatModel, group: &[Exercise], sampled: &mut [Sampled]) -> Result<(), TrainError> {
    let mut solutions: Vec<(&Exercise, &mut Solution)> = group
        .iter()
        .zip(sampled)
        .flat_map(|(exercise, sampled)| sampled.solutions.iter_mut().map(move |solution| (exercise, solution)))
        .collect();
    let prompts = solutions
        .iter()
        .map(|(exercise, solution)| fap_prompt(&exercise.question, &exercise.solution(), &solution.text));
    let answers = verdicts::<FapVerdict>(judge, prompts)?;
    for ((_, solution), verdict) in solutions.iter_mut().zip(answers) {
        solution.verdict = verdict;
    }
    let is_wrong = |solution: &Solution| {
        solution.verdict.as_ref().is_some_and(|verdict| verdict.correctness == Correctness::Wrong)
    };
    solutions.retain(|(_, solution)| is_wrong(solution));
    let prompts = solutions
        .iter()
        .map(|(exercise, solution)| scp_prompt(&exercise.question, &exercise.solution(), &solution.text));
    let corrections = verdicts::<ScpVerdict>(judge, prompts)?;
    for ((_, solution), verdict) in solutions.into_iter().zip(corrections) {
        solution.correction = verdict.filter(|verdict| is_correction_of(verdict, &solution.text));
    }
    Ok(())
}

/// One verdict per prompt; a reply that did not come or cannot be read never becomes a label.
fn verdicts<V: DeserializeOwned>(
    judge: &dyn ChatModel,
    prompts: impl Iterator<Item = String>,
) -> Result<Vec<Option<V>>, TrainError> {
    const REPLY_TOKENS: usize = 1024;
    let sampling = Sampling { max_tokens: REPLY_TOKENS, ..Sampling::default() };
    let request = |prompt: String| ChatRequest { messages: vec![Message::user(prompt)], sampling: sampling.clone() };
    let requests: Vec<ChatRequest> = prompts.map(request).collect();
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let verdict = |reply: Result<ChatReply, LlmError>| parse_verdict(reply.ok()?.text()).ok();
    Ok(ask(judge, &requests)?.into_iter().map(verdict).collect())
}

/// Whether the verdict names a step that stands in the solution right after the prefix it gives, and another step in its place.
fn is_correction_of(verdict: &ScpVerdict, solution: &str) -> bool {
    let (wrong, right) = (verdict.first_incorrect_step.trim(), verdict.step_correction.trim());
    let rest = solution.trim_start().strip_prefix(verdict.reasoning_up_to_incorrect.trim());
    !wrong.is_empty()
        && !right.is_empty()
        && wrong != right
        && rest.is_some_and(|rest| rest.trim_start().starts_with(wrong))
}

/// The pairs of all exercises. Equal pairs are kept once.
pub fn pairs(stage: &DistillStage, exercises: &[Exercise], sampled: &[Sampled]) -> (Vec<Pair>, Statistics) {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut statistics = Statistics { exercises: exercises.len(), ..Statistics::default() };
    for (exercise, sampled) in exercises.iter().zip(sampled) {
        let of = |wanted: Correctness| -> Vec<(usize, &Solution)> {
            let is_wanted =
                |solution: &Solution| solution.verdict.as_ref().is_some_and(|verdict| verdict.correctness == wanted);
            sampled.solutions.iter().enumerate().filter(|(_, solution)| is_wanted(solution)).collect()
        };
        let (right, wrong) = (of(Correctness::Correct), of(Correctness::Wrong));
        // A right solution that was cut off would teach to stop there.
        let chosen = right.iter().filter(|(_, solution)| solution.is_finished);
        statistics.unsolved += usize::from(sampled.problem.is_some());
        statistics.solutions += sampled.solutions.len();
        statistics.right += right.len();
        statistics.wrong += wrong.len();
        statistics.unjudged += sampled.solutions.len() - right.len() - wrong.len();
        statistics.mixed_exercises += usize::from(!right.is_empty() && !wrong.is_empty());
        let mut add = |pair: Pair, most: usize, taken: &mut usize| {
            let key = json!([pair.prompt, pair.chosen, pair.rejected]).to_string();
            if *taken < most && seen.insert(key) {
                *taken += 1;
                pairs.push(pair);
            }
        };
        if stage.kinds.contains(&PairKind::Fap) {
            // Cut-off solutions last: a wrong answer teaches more than a missing one.
            let mut rejected: Vec<&(usize, &Solution)> = wrong.iter().collect();
            rejected.sort_by_key(|(_, solution)| !solution.is_finished);
            let mut taken = 0;
            for ((right_index, right), (wrong_index, wrong)) in chosen.zip(rejected) {
                let pair = Pair {
                    kind: PairKind::Fap,
                    exercise: exercise.id.clone(),
                    prompt: vec![Message::user(&exercise.question)],
                    chosen: vec![Message::assistant(right.text.trim())],
                    rejected: vec![Message::assistant(wrong.text.trim())],
                    evidence: json!({
                        "reference": exercise.answer,
                        "chosen_sample": right_index,
                        "rejected_sample": wrong_index,
                        "chosen_verdict": right.verdict,
                        "rejected_verdict": wrong.verdict,
                    }),
                };
                add(pair, stage.pairs_per_exercise, &mut taken);
            }
            statistics.fap_pairs += taken;
        }
        if stage.kinds.contains(&PairKind::Scp) {
            let mut taken = 0;
            // The last line of a solution that was cut off is no step.
            for (index, solution) in wrong.iter().filter(|(_, solution)| solution.is_finished) {
                let Some(correction) = &solution.correction else { continue };
                let so_far = correction.reasoning_up_to_incorrect.trim();
                let so_far = if so_far.is_empty() { String::new() } else { format!("\n\n{so_far}") };
                let pair = Pair {
                    kind: PairKind::Scp,
                    exercise: exercise.id.clone(),
                    prompt: vec![Message::user(format!("{}{so_far}\n\n{NEXT_STEP}", exercise.question))],
                    chosen: vec![Message::assistant(correction.step_correction.trim())],
                    rejected: vec![Message::assistant(correction.first_incorrect_step.trim())],
                    evidence: json!({
                        "reference": exercise.solution(),
                        "rejected_sample": index,
                        "verdict": correction,
                    }),
                };
                add(pair, stage.corrections_per_exercise, &mut taken);
            }
            statistics.scp_pairs += taken;
        }
    }
    (pairs, statistics)
}
