//! Times generation and scoring: `cargo run --release -p findap-train --example inference -- [KEY=VALUE]...`
//!
//! The model has random weights and is written to `target/inference`, so that `bench/peers/inference.py` reads the same one. It continues
//! random prompts, greedily unless there is a temperature, and scores four answers of four tokens to each of some questions of 128. The
//! program prints one JSON object: speeds, summed log-probabilities, the peak memory of the process.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Instant;

use common::{Keys, peak_memory_mib, use_threads};
use findap_model::checkpoint::SaveOptions;
use findap_model::{Decoder, Dtype, GenerateRequest, Sampling, TextModel};
use serde_json::json;

const NUMBERS: [(&str, usize); 5] =
    [("prompts", 32), ("prompt_tokens", 64), ("new_tokens", 64), ("questions", 32), ("temperature_percent", 0)];
const WORDS: [(&str, &str); 2] = [("device", "cpu"), ("compute", "f32")];
const QUESTION_TOKENS: usize = 128;
const ANSWERS: usize = 4;
const ANSWER_TOKENS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use_threads()?;
    let keys = Keys::read(&NUMBERS, &WORDS)?;
    let (device, dtype) = keys.device()?;
    let [hidden, layers, vocab] = ["hidden", "layers", "vocab"].map(|key| keys.number(key));
    let folder = PathBuf::from(format!("target/inference/{hidden}-{layers}-{vocab}"));
    if !folder.exists() {
        write_model(&keys, &folder)?;
    }
    let model = TextModel::load_to(&device, &folder, dtype)?;

    let (mut tokens, temperature_percent) = (keys.tokens(), keys.number("temperature_percent"));
    let requests: Vec<GenerateRequest> = (0..keys.number("prompts"))
        .map(|index| GenerateRequest {
            prompt: tokens(keys.number("prompt_tokens")),
            max_new: keys.number("new_tokens"),
            sampling: Sampling { temperature: temperature_percent as f64 / 100.0, top_k: 0, top_p: 1.0 },
            seed: index as u64,
            stop_ids: Vec::new(),
        })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..keys.number("questions") {
        let question = tokens(QUESTION_TOKENS);
        pairs.extend((0..ANSWERS).map(|_| (question.clone(), tokens(ANSWER_TOKENS))));
    }

    // a first run builds the buffers, which a server or an evaluation has after its first request
    model.generate(&requests[..1])?;
    model.score(&pairs[..1])?;
    let begun = Instant::now();
    let generated = model.generate(&requests)?;
    let generate_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let scores = model.score(&pairs)?;
    let score_s = begun.elapsed().as_secs_f64();

    let num_generated: usize = generated.iter().map(|generated| generated.ids.len()).sum();
    // drawn tokens differ from the peer's, so their log-probabilities are not compared
    let is_greedy = temperature_percent == 0;
    let generated_logp = generated.iter().flat_map(|generated| &generated.logprobs).sum::<f64>();
    println!(
        "{}",
        json!({
            "parameters": model.decoder().params.spec().len(),
            "generated_tokens_per_s": num_generated as f64 / generate_s,
            "scored_items_per_s": pairs.len() as f64 / score_s,
            "generated_logp": is_greedy.then_some(generated_logp),
            "scored_logp": scores.iter().map(|score| score.logp).sum::<f64>(),
            "peak_memory_mib": peak_memory_mib(),
            "threads": rayon::current_num_threads(),
        })
    );
    Ok(())
}

fn write_model(keys: &Keys, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = SaveOptions {
        dtype: Dtype::F32,
        carry_from: Some("assets/tiny-instruct".into()), // a tokenizer; its ids are some of the model's
        max_shard_bytes: 5_000_000_000,
    };
    std::fs::create_dir_all("target/inference")?;
    Ok(Decoder::init(keys.config()?, 0, Dtype::F32).save(folder, &options)?)
}
