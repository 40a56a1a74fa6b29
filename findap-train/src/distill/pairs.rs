//! Preference pairs from judged solutions, and the right ones alone.

use std::collections::BTreeSet;

use findap_data::Message;
use findap_data::reward_model::{Correctness, Exercise, ScpVerdict};
use serde::Serialize;
use serde_json::json;

use super::record::{Sampled, Solution};
use crate::recipe::{DistillStage, PairKind, ScpForm};

/// Ends a prompt of stepwise preference in the form that asks.
pub const NEXT_STEP: &str = "What is the next step?";

/// Counts over all exercises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// Exercises.
    pub exercises: usize,
    /// Exercises without solutions: the policy could not be asked, for example because the question is too long.
    pub unsolved: usize,
    /// Solutions sampled.
    pub solutions: usize,
    /// Solutions that were cut off by `max_new_tokens`; they are chosen in no pair and have no correction.
    pub cut_off: usize,
    /// Solutions judged right.
    pub right: usize,
    /// Solutions judged wrong.
    pub wrong: usize,
    /// Solutions whose verdict could not be read; they are in no pair.
    pub unjudged: usize,
    /// Replies of the judge, verdicts and corrections.
    pub judge_replies: usize,
    /// Replies of the judge that could not be read, or did not come.
    pub unread_replies: usize,
    /// Wrong solutions for which the judge named no step that stands in them.
    pub uncorrected: usize,
    /// Exercises with right and wrong solutions.
    pub mixed_exercises: usize,
    /// Final-answer pairs.
    pub fap_pairs: usize,
    /// Stepwise corrective pairs.
    pub scp_pairs: usize,
    /// Naive pairs.
    pub naive_pairs: usize,
    /// Right solutions that a `train` stage can learn: finished, different, and at most so many of an exercise as the recipe allows.
    pub right_solutions: usize,
    /// Pairs that were left out because the better answer is the worse one.
    pub equal_pairs: usize,
}

/// A preference pair: a line of `preferences.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// `fap`, `scp` or `naive`.
    pub kind: PairKind,
    /// The exercise it came from.
    pub exercise: String,
    /// The turns that both answer.
    pub prompt: Vec<Message>,
    /// The better answer.
    pub chosen: Vec<Message>,
    /// The worse answer.
    pub rejected: Vec<Message>,
    /// Whether the answers go on with the prompt's last turn, and do not end it. By the name that transformers and TRL have for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continue_final_message: bool,
    /// The reasons: reference and the judge's words.
    pub evidence: serde_json::Value,
}

/// The pairs of all exercises. Equal pairs are kept once.
pub fn pairs(stage: &DistillStage, exercises: &[Exercise], sampled: &[Sampled]) -> (Vec<Pair>, Statistics) {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut equal_pairs = 0;
    let mut statistics = Statistics { exercises: exercises.len(), ..Statistics::default() };
    for (exercise, sampled) in exercises.iter().zip(sampled) {
        let of = |wanted: Correctness| -> Vec<(usize, &Solution)> {
            sampled.solutions.iter().enumerate().filter(|(_, solution)| solution.is_judged(wanted)).collect()
        };
        let (right, wrong) = (of(Correctness::Correct), of(Correctness::Wrong));
        let chosen = right.iter().filter(|(_, solution)| solution.is_right_and_whole());
        statistics.unsolved += usize::from(sampled.problem.is_some());
        statistics.solutions += sampled.solutions.len();
        let count = |is_counted: fn(&Solution) -> bool| {
            sampled.solutions.iter().filter(|solution| is_counted(solution)).count()
        };
        statistics.cut_off += count(|solution| !solution.is_finished);
        statistics.unread_replies += count(|solution| solution.unread.is_some());
        statistics.uncorrected += count(|solution| solution.uncorrected.is_some());
        let has_second_reply = |solution: &Solution| {
            let is_unread = solution.unread.is_some() && solution.verdict.is_some();
            solution.correction.is_some() || solution.uncorrected.is_some() || is_unread
        };
        statistics.judge_replies += sampled.solutions.len() + count(has_second_reply);
        statistics.right += right.len();
        statistics.wrong += wrong.len();
        statistics.unjudged += sampled.solutions.len() - right.len() - wrong.len();
        statistics.mixed_exercises += usize::from(!right.is_empty() && !wrong.is_empty());
        let mut add = |pair: Pair, most: usize, taken: &mut usize| {
            if pair.chosen == pair.rejected {
                equal_pairs += 1;
                return;
            }
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
                    continue_final_message: false,
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
                add(
                    stepwise(stage.scp_form, exercise, *index, solution, correction),
                    stage.corrections_per_exercise,
                    &mut taken,
                );
            }
            statistics.scp_pairs += taken;
        }
        if stage.kinds.contains(&PairKind::Naive) {
            let mut taken = 0;
            for (index, solution) in sampled.solutions.iter().enumerate().filter(|(_, solution)| solution.is_finished) {
                add(naive(exercise, index, solution), stage.pairs_per_exercise, &mut taken);
            }
            statistics.naive_pairs += taken;
        }
    }
    statistics.equal_pairs = equal_pairs;
    statistics.right_solutions = right_solutions(stage, exercises, sampled).len();
    (pairs, statistics)
}

/// The correction of a solution's first wrong step over that step.
fn stepwise(form: ScpForm, exercise: &Exercise, index: usize, solution: &Solution, correction: &ScpVerdict) -> Pair {
    let (right, wrong) = (correction.step_correction.trim(), correction.first_incorrect_step.trim());
    let so_far = correction.reasoning_up_to_incorrect.trim();
    let question = &exercise.question;
    let (prompt, chosen, rejected) = match form {
        ScpForm::Ask => {
            let so_far = if so_far.is_empty() { String::new() } else { format!("\n\n{so_far}") };
            let asked = format!("{question}{so_far}\n\n{NEXT_STEP}");
            (vec![Message::user(asked)], right.to_owned(), wrong.to_owned())
        }
        ScpForm::Continue => {
            let text = solution.text.trim_start();
            let rest = text.strip_prefix(so_far).unwrap_or(text);
            // The blanks before the step belong to what is there, and those behind it to the step, as the policy wrote them.
            let (begun, rest) = text.split_at(text.len() - rest.trim_start().len());
            let behind = rest.strip_prefix(wrong).unwrap_or_default();
            let line_break = match &behind[..behind.len() - behind.trim_start().len()] {
                "" => "\n",
                blanks => blanks,
            };
            let prompt = vec![Message::user(question), Message::assistant(begun)];
            (prompt, format!("{right}{line_break}"), format!("{wrong}{line_break}"))
        }
    };
    Pair {
        kind: PairKind::Scp,
        exercise: exercise.id.clone(),
        prompt,
        chosen: vec![Message::assistant(chosen)],
        rejected: vec![Message::assistant(rejected)],
        continue_final_message: form == ScpForm::Continue,
        evidence: json!({ "reference": exercise.solution(), "rejected_sample": index, "verdict": correction }),
    }
}

/// The reference over a solution of the policy's.
fn naive(exercise: &Exercise, index: usize, solution: &Solution) -> Pair {
    Pair {
        kind: PairKind::Naive,
        exercise: exercise.id.clone(),
        prompt: vec![Message::user(&exercise.question)],
        chosen: vec![Message::assistant(exercise.solution())],
        rejected: vec![Message::assistant(solution.text.trim())],
        continue_final_message: false,
        evidence: json!({ "reference": exercise.answer, "rejected_sample": index, "rejected_verdict": solution.verdict }),
    }
}

/// A right solution of the policy's own: a line of `right-solutions.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RightSolution {
    /// The exercise.
    pub exercise: String,
    /// The question, and what the policy answered.
    pub messages: Vec<Message>,
}

/// The right solutions of all exercises, of each the first `right_solutions_per_exercise` that are finished and different.
pub fn right_solutions(stage: &DistillStage, exercises: &[Exercise], sampled: &[Sampled]) -> Vec<RightSolution> {
    let of_exercise = |(exercise, sampled): (&Exercise, &Sampled)| {
        let mut texts: Vec<String> = Vec::new();
        for solution in sampled.solutions.iter().filter(|solution| solution.is_right_and_whole()) {
            let text = solution.text.trim();
            if texts.len() < stage.right_solutions_per_exercise && !texts.iter().any(|other| other == text) {
                texts.push(text.to_owned());
            }
        }
        let (id, question) = (exercise.id.clone(), exercise.question.clone());
        texts.into_iter().map(move |text| RightSolution {
            exercise: id.clone(),
            messages: vec![Message::user(&question), Message::assistant(text)],
        })
    };
    exercises.iter().zip(sampled).flat_map(of_exercise).collect()
}
