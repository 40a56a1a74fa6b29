//! Generation and scoring on a device: on the emulator, and on the first GPU where there is one.

use findap_data::{Batch, IGNORE};
use findap_tensor::Dtype;
use findap_tensor::ops::sample::Sampling;

use super::WeightedBatch;
use super::device::{assert_follows, converted, devices, golden, in_one, wide_heads};
use super::plain;
use crate::decoder::Decoder;
use crate::generate::{GenerateRequest, Generated, Generator};
use crate::session::Recompute;
use crate::text::TextModel;

/// Prompts and continuations of several lengths.
fn requests(vocab: u32, lengths: &[(u32, usize)], sampling: Sampling) -> Vec<GenerateRequest> {
    let request = |(index, &(len, max_new)): (usize, &(u32, usize))| {
        let prompt = (0..len).map(|t| (11 + 97 * t + 701 * index as u32) % vocab).collect();
        GenerateRequest { prompt, max_new, sampling, seed: 40 + index as u64, stop_ids: Vec::new() }
    };
    lengths.iter().enumerate().map(request).collect()
}

fn generate(model: &Decoder, slots: usize, requests: &[GenerateRequest]) -> Vec<Generated> {
    Generator::new(model, slots, 24).unwrap().generate(model, requests).unwrap()
}

/// A batch that gives the log-probability of each new token: prompt and continuation are read as one document.
fn batch(requests: &[GenerateRequest], made: &[Generated]) -> WeightedBatch {
    let mut documents = Batch::new();
    for (request, made) in requests.iter().zip(made) {
        let document: Vec<u32> = request.prompt.iter().chain(&made.ids).copied().collect();
        let is_new: Vec<bool> = (0..document.len()).map(|t| t >= request.prompt.len()).collect();
        documents.push_document(&document, &is_new);
    }
    WeightedBatch { weights: vec![0.0; documents.num_tokens()], documents }
}

/// The entry of the log-probabilities that were asked for.
fn of_targets(results: Vec<(String, Vec<f64>)>, batch: &WeightedBatch) -> Vec<(String, Vec<f64>)> {
    let (name, logp) = results.into_iter().next().unwrap();
    let asked = logp.into_iter().zip(&batch.documents.targets).filter(|(_, target)| **target != IGNORE);
    vec![(name, asked.map(|(logp, _)| logp).collect())]
}

fn logprobs(made: &[Generated]) -> Vec<(String, Vec<f64>)> {
    vec![("logp".to_owned(), made.iter().flat_map(|made| made.logprobs.clone()).collect())]
}

const LENGTHS: [(u32, usize); 5] = [(9, 6), (3, 2), (14, 7), (1, 4), (6, 3)];

#[test]
fn greedy_tokens_on_a_device_are_those_of_the_cpu() {
    let on_cpu = Decoder::load(&golden("tiny"), Dtype::F32).unwrap();
    let requests = requests(2048, &LENGTHS, Sampling::GREEDY);
    let want = generate(&on_cpu, 2, &requests);
    let truth = generate(&Decoder::load(&golden("tiny"), Dtype::F64).unwrap(), 2, &requests);
    for device in devices() {
        let model = Decoder::load_to(&device, &golden("tiny"), Dtype::F32).unwrap();
        // two slots for five requests: slots are used again
        let got = generate(&model, 2, &requests);
        for (got, want) in got.iter().zip(&want) {
            assert_eq!((&got.ids, got.stop), (&want.ids, want.stop));
        }
        let what = format!("generation f32 on {}", device.name());
        let [got, want, truth] = [&got, &want, &truth].map(|made| logprobs(made));
        assert_follows(&what, &got, &want, &truth, 3.0, 4.0 / f64::from(1 << 24));
    }
}

#[test]
fn draws_on_a_device_depend_on_the_request_alone() {
    let mut requests = requests(2048, &LENGTHS, Sampling { temperature: 0.8, top_k: 0, top_p: 0.9 });
    requests[1].sampling = Sampling { temperature: 1.5, top_k: 40, top_p: 1.0 };
    requests[3].sampling = Sampling::GREEDY;
    let on_cpu = generate(&Decoder::load(&golden("tiny"), Dtype::F32).unwrap(), 3, &requests);
    for device in devices() {
        let model = Decoder::load_to(&device, &golden("tiny"), Dtype::F32).unwrap();
        let together = generate(&model, 3, &requests);
        assert_eq!(together, generate(&model, 3, &requests), "the same seeds again");
        // to the bit by our own products; a GPU's library may round those of other sizes otherwise, by some 2^-24 in each of a few dozen
        let allowed = if device.name().starts_with("the emulator") { 0.0 } else { 1e-5 };
        for (request, together) in requests.iter().zip(&together) {
            let alone = &generate(&model, 1, std::slice::from_ref(request))[0];
            assert_eq!((&alone.ids, alone.stop), (&together.ids, together.stop), "alone");
            let differences = alone.logprobs.iter().zip(&together.logprobs).map(|(a, b)| (a - b).abs());
            let largest = differences.fold(0.0, f64::max);
            assert!(largest <= allowed, "alone: {largest:e} on {}", device.name());
        }
        for (got, want) in together.iter().zip(&on_cpu) {
            assert_eq!(got.ids, want.ids, "the numbers of a seed are the same everywhere");
        }
        let mut reseeded = requests.clone();
        reseeded.iter_mut().for_each(|request| request.seed += 1000);
        assert_ne!(generate(&model, 3, &reseeded), together);
    }
}

/// Compares the log-probabilities of tokens that a device generates in bf16 with the truth and the plain run over the same tokens.
fn assert_bf16_generation_follows(what: &str, weights: &Decoder) {
    let requests = requests(weights.config.vocab_size as u32, &[(9, 8), (7, 8), (5, 8)], Sampling::GREEDY);
    for device in devices() {
        let made = generate(&weights.copy_to(&device).unwrap(), 3, &requests);
        let batch = batch(&requests, &made);
        let truth = in_one(&converted(weights, Dtype::F64), Recompute::None, &batch);
        let plain = plain::passes(&converted(weights, Dtype::F32), &batch);
        let [truth, plain] = [truth, plain].map(|results| of_targets(results, &batch));
        let what = format!("generation of {what} on {}", device.name());
        assert_follows(&what, &logprobs(&made), &plain, &truth, 2.0, 0.0);
    }
}

#[test]
fn bf16_generation_follows_the_truth() {
    assert_bf16_generation_follows("tiny bf16", &Decoder::load(&golden("tiny"), Dtype::Bf16).unwrap());
    assert_bf16_generation_follows("wide heads bf16", &wide_heads(64));
}

#[test]
fn scores_on_a_device_follow_the_cpu() {
    let pairs: Vec<(Vec<u32>, Vec<u32>)> = (0..6u32)
        .map(|pair| {
            let ids: Vec<u32> = (0..10 + pair).map(|t| (5 + 131 * t + 17 * pair) % 2048).collect();
            let (context, continuation) = ids.split_at(3 + pair as usize);
            (context.to_vec(), continuation.to_vec())
        })
        .chain([vec![], vec![3], vec![4, 5, 6], vec![9, 5]].map(|continuation| (vec![7, 8], continuation)))
        .collect();
    let scores = |model: &TextModel| model.score(&pairs).unwrap();
    let on_cpu = |dtype| scores(&TextModel::load(&golden("tiny"), dtype).unwrap());
    let (yardstick, truth) = (on_cpu(Dtype::F32), on_cpu(Dtype::F64));
    for device in devices() {
        let model = TextModel::load_to(&device, &golden("tiny"), Dtype::F32).unwrap();
        // a continuation that is greedy, and one that is no more
        let request = GenerateRequest {
            prompt: pairs[0].0.clone(),
            max_new: 3,
            sampling: Sampling::GREEDY,
            seed: 0,
            stop_ids: Vec::new(),
        };
        let greedy = model.generate(&[request]).unwrap()[0].ids.clone();
        let other = [&greedy[..2], &[greedy[2] ^ 1]].concat();
        let asked = [greedy, other].map(|continuation| (pairs[0].0.clone(), continuation));
        let flags: Vec<bool> = model.score(&asked).unwrap().iter().map(|score| score.is_greedy).collect();
        assert_eq!(flags, [true, false]);
        let got = scores(&model);
        assert_eq!(
            got.iter().map(|x| x.is_greedy).collect::<Vec<_>>(),
            truth.iter().map(|x| x.is_greedy).collect::<Vec<_>>()
        );
        let [got, yardstick, truth] = [&got, &yardstick, &truth]
            .map(|scores| vec![("logp".to_owned(), scores.iter().map(|score| score.logp).collect())]);
        let what = format!("scores f32 on {}", device.name());
        assert_follows(&what, &got, &yardstick, &truth, 3.0, 4.0 / f64::from(1 << 24));
        let error = model.score(&[(vec![1], vec![2048])]).unwrap_err().to_string();
        assert!(error.contains("targets[0]"), "{error}");
    }
}

/// Generation multiplies by packed weights and adds a token at a time; scoring does neither.
#[test]
fn what_was_generated_scores_to_the_same_bits() {
    let model = TextModel::load(&golden("tiny"), Dtype::F32).unwrap();
    for sampling in [Sampling::GREEDY, Sampling { temperature: 0.7, top_k: 0, top_p: 1.0 }] {
        let requests = requests(2048, &LENGTHS, sampling);
        let made = model.generate(&requests).unwrap();
        for (request, made) in requests.into_iter().zip(made) {
            let scored = model.score(&[(request.prompt, made.ids)]).unwrap()[0].logp;
            let generated = made.logprobs.iter().fold(0.0, |sum, logp| sum + logp);
            assert_eq!(scored.to_bits(), generated.to_bits(), "{scored} and {generated}");
        }
    }
}

#[test]
fn continuations_of_one_context_score_as_if_alone() {
    let context = |seed: u32, len: u32| -> Vec<u32> { (0..len).map(|t| (seed + 131 * t) % 2048).collect() };
    let continuations =
        |lens: &[u32]| -> Vec<Vec<u32>> { lens.iter().map(|&len| context(900 + 7 * len, len)).collect() };
    // ragged turns, continuations of no token and of one, more contexts than a pass holds
    let mut pairs = Vec::new();
    for (number, lens) in [&[5, 2, 1, 7][..], &[1, 1], &[0, 3, 3], &[4]].iter().cycle().take(50).enumerate() {
        let context = context(number as u32, 30 + 3 * number as u32);
        pairs.extend(continuations(lens).into_iter().map(|continuation| (context.clone(), continuation)));
    }
    let scores = |model: &TextModel| {
        let alone = |pair| model.score(std::slice::from_ref(pair)).unwrap()[0];
        (model.score(&pairs).unwrap(), pairs.iter().map(alone).collect::<Vec<_>>())
    };
    let load = |dtype| TextModel::load(&golden("tiny"), dtype).unwrap();
    let (together, alone) = scores(&load(Dtype::F32));
    for ((pair, together), alone) in pairs.iter().zip(together).zip(alone) {
        assert_eq!(together.logp.to_bits(), alone.logp.to_bits(), "{pair:?}");
        assert_eq!(together.is_greedy, alone.is_greedy);
    }
    // f64 attention sums a decoded token in another order: a few hundred roundings of 2^-53
    let (together, alone) = scores(&load(Dtype::F64));
    for (together, alone) in together.iter().zip(alone) {
        assert!((together.logp - alone.logp).abs() <= 1e-13 * alone.logp.abs(), "{together:?} {alone:?}");
    }
}
