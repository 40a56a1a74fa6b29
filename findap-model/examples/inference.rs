//! Generation and scoring, timed: `cargo run --release -p findap-model --example inference -- [KEY=NUMBER]...`
//!
//! A model of random weights, written to `target/inference` so that `bench/peers/inference.py` reads the same one, continues random
//! prompts greedily, and scores four answers of four tokens to each of some questions of 128. Prints one JSON object: speeds, what the
//! model said in numbers (the summed log-probabilities), the peak memory of the process.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use findap_model::checkpoint::SaveOptions;
use findap_model::{Config, Dtype, GenerateRequest, Llama, Sampling, TextModel};
use serde_json::{Map, Value, json};

const KEYS: [(&str, usize); 10] = [
    ("hidden", 256),
    ("layers", 8),
    ("heads", 4),
    ("kv_heads", 2),
    ("ffn", 704),
    ("vocab", 32000),
    ("prompts", 32),
    ("prompt_tokens", 64),
    ("new_tokens", 64),
    ("questions", 32),
];
const QUESTION_TOKENS: usize = 128;
const ANSWERS: usize = 4;
const ANSWER_TOKENS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
    let mut keys: BTreeMap<&str, usize> = KEYS.into();
    for argument in std::env::args().skip(1) {
        let (key, number) = argument.split_once('=').ok_or("write KEY=NUMBER")?;
        *keys.get_mut(key).ok_or_else(|| format!("unknown key {key}"))? = number.parse()?;
    }
    let folder = PathBuf::from(format!("target/inference/{}-{}-{}", keys["hidden"], keys["layers"], keys["vocab"]));
    if !folder.exists() {
        write_model(&keys, &folder)?;
    }
    let model = TextModel::load(&folder, Dtype::F32)?;

    // The same numbers as the peer's: a linear congruence.
    let mut state = 1u64;
    let mut tokens = |count: usize| -> Vec<u32> {
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 33) % keys["vocab"] as u64) as u32
            })
            .collect()
    };
    let requests: Vec<GenerateRequest> = (0..keys["prompts"])
        .map(|_| GenerateRequest {
            prompt: tokens(keys["prompt_tokens"]),
            max_new: keys["new_tokens"],
            sampling: Sampling { temperature: 0.0, top_k: 0, top_p: 1.0 },
            seed: 0,
            stop_ids: Vec::new(),
        })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..keys["questions"] {
        let question = tokens(QUESTION_TOKENS);
        pairs.extend((0..ANSWERS).map(|_| (question.clone(), tokens(ANSWER_TOKENS))));
    }

    // once to build the buffers, as a server or an evaluation has them after its first request
    model.generate(&requests[..1])?;
    model.score(&pairs[..1])?;
    let begun = Instant::now();
    let generated = model.generate(&requests)?;
    let generate_s = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let scores = model.score(&pairs)?;
    let score_s = begun.elapsed().as_secs_f64();

    let num_generated: usize = generated.iter().map(|generated| generated.ids.len()).sum();
    println!(
        "{}",
        json!({
            "parameters": model.llama().params.spec().len(),
            "generated_tokens_per_s": num_generated as f64 / generate_s,
            "scored_items_per_s": pairs.len() as f64 / score_s,
            "generated_logp": generated.iter().flat_map(|generated| &generated.logprobs).sum::<f64>(),
            "scored_logp": scores.iter().map(|score| score.logp).sum::<f64>(),
            "peak_memory_mib": peak_memory_mib(),
            "threads": rayon::current_num_threads(),
        })
    );
    Ok(())
}

fn write_model(keys: &BTreeMap<&str, usize>, folder: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let config: Map<String, Value> = [
        ("model_type", json!("llama")),
        ("architectures", json!(["LlamaForCausalLM"])),
        ("vocab_size", json!(keys["vocab"])),
        ("hidden_size", json!(keys["hidden"])),
        ("num_hidden_layers", json!(keys["layers"])),
        ("num_attention_heads", json!(keys["heads"])),
        ("num_key_value_heads", json!(keys["kv_heads"])),
        ("intermediate_size", json!(keys["ffn"])),
        ("max_position_embeddings", json!(2048)),
        ("rms_norm_eps", json!(1e-6)),
        ("rope_theta", json!(5e5)),
        ("tie_word_embeddings", json!(true)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let options = SaveOptions {
        dtype: Dtype::F32,
        carry_from: Some("assets/tiny-instruct".into()), // a tokenizer; its ids are some of the model's
        max_shard_bytes: 5_000_000_000,
    };
    std::fs::create_dir_all("target/inference")?;
    Ok(Llama::init(Config::from_json(config)?, 0, Dtype::F32).save(folder, &options)?)
}

/// The largest resident size of this process so far, as Linux tells it.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
