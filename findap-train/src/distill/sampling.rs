//! The policy's solutions.

use findap_data::files::seed_of;
use findap_data::llm::{ChatReply, Choice, FinishReason, LlmError};
use findap_data::reward_model::Exercise;
use findap_data::{ChatModel, ChatRequest, Message, Sampling};
use findap_model::TextModel;

use super::record::{Sampled, Solution};
use crate::error::TrainError;
use crate::recipe::DistillStage;

/// The solutions of a group. Each exercise has its own seed, whatever it is sampled together with and wherever it stands.
pub(super) fn sample(
    policy: &TextModel,
    stage: &DistillStage,
    seed: u64,
    group: &[Exercise],
) -> Result<Vec<Sampled>, TrainError> {
    let request = |exercise: &Exercise| ChatRequest {
        messages: vec![Message::user(&exercise.question)],
        sampling: Sampling {
            temperature: stage.temperature,
            top_p: Some(stage.top_p),
            max_tokens: stage.max_new_tokens,
            n: stage.samples_per_exercise,
            seed: Some(exercise_seed(seed, &exercise.id)),
            ..Sampling::default()
        },
    };
    let requests: Vec<ChatRequest> = group.iter().map(request).collect();
    let solution = |choice: Choice| Solution {
        is_finished: choice.finish_reason == FinishReason::Stop,
        text: choice.text,
        verdict: None,
        correction: None,
        unread: None,
        uncorrected: None,
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

/// The seed of the solutions of an exercise, which differ in the upper half: a hash of the run's seed and the exercise's id.
///
/// Seeds of runs below 2^12 and the first 2^20 exercises of the closed world have a value of their own in the lower half: what was
/// sampled of them is sampled again. What is beyond, or of another id, moves that by a hash: two runs or exercises share a stream no
/// likelier than two random numbers of 64 bits are the same.
fn exercise_seed(run_seed: u64, id: &str) -> u64 {
    const SEED_BITS: u32 = 12;
    const EXERCISE_BITS: u32 = 20;
    const OF_THE_WORLD: &str = "exercises.jsonl-";
    let in_world = |number: &u64| *number < 1 << EXERCISE_BITS && format!("{OF_THE_WORLD}{number}") == id;
    let number = id.strip_prefix(OF_THE_WORLD).and_then(|number| number.parse().ok()).filter(in_world);
    let exercise_page = if number.is_some() { 0 } else { seed_of(id) };
    let (seed_page, seed) = (run_seed >> SEED_BITS, run_seed & ((1 << SEED_BITS) - 1));
    (seed << EXERCISE_BITS | number.unwrap_or(0)).wrapping_add(mix(mix(seed_page) ^ exercise_page))
}

/// The finalizer of SplitMix64: a permutation of all numbers of 64 bits that leaves 0 where it is.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Replies and the requests' own faults; a fault of the policy, or the same fault in every request, ends the stage.
fn ask(model: &dyn ChatModel, requests: &[ChatRequest]) -> Result<Vec<Result<ChatReply, LlmError>>, TrainError> {
    let replies = model.chat(requests);
    let errors = || replies.iter().filter_map(|reply| reply.as_ref().err());
    let is_all = errors().count() == requests.len();
    match errors().find(|error| is_all || !error.is_of_request()) {
        Some(error) => Err(error.clone().into()),
        None => Ok(replies),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Runs of the closed world were made with these seeds: what they sampled must be sampled again.
    #[test]
    fn small_seeds_of_runs_keep_the_solutions_they_had_in_the_closed_world() {
        let before = |seed: u64, exercise: u64| (seed << 20).wrapping_add(exercise) & 0xffff_ffff;
        for (seed, exercise) in [(0, 0), (1, 0), (1, 359), (7, 1), (4095, 0), (4095, (1 << 20) - 1)] {
            let id = format!("exercises.jsonl-{exercise}");
            assert_eq!(exercise_seed(seed, &id), before(seed, exercise), "{seed}, {exercise}");
        }
    }

    #[test]
    fn no_two_runs_or_exercises_sample_from_one_stream() {
        let seeds = [0, 1, 2, 4095]
            .into_iter()
            .flat_map(|seed| [0, 1, 2, 3, 1 << 20, 1 << 32, 1 << 51].map(|page| (page << 12) + seed));
        let ids = [
            "exercises.jsonl-0",
            "exercises.jsonl-1",
            "exercises.jsonl-01",
            "exercises.jsonl-+1",
            "exercises.jsonl-1048575",
            "exercises.jsonl-1048576",
            "exercises.jsonl-",
            "0",
            "1",
            "01",
            "10",
            "ab",
            "ba",
            "",
            " ",
        ];
        let mut streams = BTreeSet::new();
        let mut count = 0;
        for seed in seeds {
            for id in ids {
                for sample in 0..64u64 {
                    count += 1;
                    streams.insert(exercise_seed(seed, id).wrapping_add(sample << 32));
                }
            }
        }
        assert_eq!(streams.len(), count);
    }
}
