//! One kind of training step, timed: `cargo run --release -p findap-train --example step -- [KEY=VALUE]...`
//!
//! Random weights and tokens; forward, backward, clipping, AdamW, always on the same tokens, so that the loss has to fall: if it does
//! not, nothing is printed but an error. Otherwise one JSON object with the median step, the peak memory of the process, the memory
//! that was planned and what is taken of a device's. Keys and defaults: hidden=256 layers=8 heads=4 kv_heads=2 ffn=704 vocab=32000 tied=1 sequence=512 documents=1
//! steps=3 warm=1 device=cpu compute=f32 state=f32 recompute=none. `bench/peers/step.py` takes those with numbers, but for `tied`. What does not
//! fit the device's memory exits with 3.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use findap_model::session::SessionOptions;
use findap_model::{Config, Dtype, Llama, ModelError, Recompute, Session, Tokens};
use findap_tensor::ops::reduce;
use findap_tensor::{Ledger, TensorError};
use findap_train::objective::cross_entropy_weights;
use findap_train::optimizer::{AdamW, StateFormat};
use findap_train::plan::step_memory;
use findap_train::recipe::{DeviceChoice, Optimization};
use serde_json::{Map, Value, json};

const NUMBERS: [(&str, usize); 11] = [
    ("hidden", 256),
    ("layers", 8),
    ("heads", 4),
    ("kv_heads", 2),
    ("ffn", 704),
    ("vocab", 32000),
    ("tied", 1),
    ("sequence", 512),
    ("documents", 1),
    ("steps", 3),
    ("warm", 1),
];

const WORDS: [(&str, &str); 4] = [("device", "cpu"), ("compute", "f32"), ("state", "f32"), ("recompute", "none")];

fn main() -> ExitCode {
    match run() {
        Ok(measured) => {
            println!("{measured}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let does_not_fit = matches!(error.downcast_ref(), Some(TensorError::OutOfMemory { .. }))
                || matches!(error.downcast_ref(), Some(ModelError::Device(TensorError::OutOfMemory { .. })));
            println!("{}{error}", if does_not_fit { "skipped: " } else { "error: " });
            if does_not_fit { ExitCode::from(3) } else { ExitCode::FAILURE }
        }
    }
}

fn run() -> Result<Value, Box<dyn Error>> {
    // The main thread works too: no hand-over at every operation.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
    let mut keys: BTreeMap<&str, usize> = NUMBERS.into();
    let mut words: BTreeMap<&str, String> = WORDS.map(|(key, word)| (key, word.to_owned())).into();
    for argument in std::env::args().skip(1) {
        let (key, value) = argument.split_once('=').ok_or("write KEY=VALUE")?;
        match words.get_mut(key) {
            Some(word) => value.clone_into(word),
            None => *keys.get_mut(key).ok_or_else(|| format!("unknown key {key}"))? = value.parse()?,
        }
    }
    let unknown = |key: &str| format!("{key}={} is not known", words[key]);
    let dtype = match words["compute"].as_str() {
        "f32" => Dtype::F32,
        "bf16" => Dtype::Bf16,
        _ => return Err(unknown("compute").into()),
    };
    let state = match words["state"].as_str() {
        "f32" => StateFormat::Full,
        "bf16" => StateFormat::Bf16 { seed: 0 },
        _ => return Err(unknown("state").into()),
    };
    let recompute = match words["recompute"].as_str() {
        "none" => Recompute::None,
        "block" => Recompute::Block,
        _ => return Err(unknown("recompute").into()),
    };
    let (device, _) = DeviceChoice::try_from(words["device"].clone())?.open(dtype)?;
    let free_bytes = device.free_bytes();
    let n = keys["sequence"];
    let config: Map<String, Value> = [
        ("vocab_size", json!(keys["vocab"])),
        ("hidden_size", json!(keys["hidden"])),
        ("num_hidden_layers", json!(keys["layers"])),
        ("num_attention_heads", json!(keys["heads"])),
        ("num_key_value_heads", json!(keys["kv_heads"])),
        ("intermediate_size", json!(keys["ffn"])),
        ("max_position_embeddings", json!(8192)),
        ("rms_norm_eps", json!(1e-6)),
        ("rope_theta", json!(5e5)),
        ("tie_word_embeddings", json!(keys["tied"] != 0)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let mut model = Llama::init_on(&device, Config::from_json(config)?, 0, dtype)?;
    let length = n.div_ceil(keys["documents"]);
    let gradients = Some(state.dtype(dtype));
    let options = SessionOptions { dtype, max_tokens: n, max_positions: length, recompute, gradients };
    let planned_bytes: usize = step_memory(device.kind(), &model.config, options).iter().map(|(_, bytes)| bytes).sum();
    let mut session = Session::on(&device, &model.config, options)?;
    let mut gradients = model.zero_gradients_in(state.dtype(dtype))?;
    let optimization = Optimization { learning_rate: 1e-4, ..Optimization::default() };
    let mut optimizer = AdamW::new(&model.params, &optimization, state)?;
    let mut ledger = Ledger::new(&device)?;

    // A linear congruence: the values do not matter, only that they are spread over the vocabulary.
    let mut state = 1u64;
    let ids: Vec<u32> = (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % keys["vocab"] as u64) as u32
        })
        .collect();
    let positions: Vec<u32> = (0..n).map(|t| (t % length) as u32).collect();
    let cu_seqlens: Vec<u32> = (0..n).step_by(length).chain([n]).map(|t| t as u32).collect();
    let is_last = |t: usize| t + 1 == n || (t + 1).is_multiple_of(length);
    let targets: Vec<u32> = (0..n).map(|t| if is_last(t) { findap_data::IGNORE } else { ids[t + 1] }).collect();
    let loss_tokens = targets.iter().filter(|target| **target != findap_data::IGNORE).count();
    let mut weights = Vec::new();
    cross_entropy_weights(&targets, loss_tokens, &mut weights);

    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    for step in 0..keys["warm"] + keys["steps"] {
        let begun = Instant::now();
        ledger.begin()?;
        reduce::clear(gradients.tensor_mut())?;
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        session.forward_backward(&model, tokens, &targets, &weights, &mut gradients)?;
        session.add_loss(&mut ledger, loss_tokens as f64)?;
        optimizer.step(&mut model.params, &gradients, &mut ledger, step as u64 + 1, 1e-4)?;
        ledger.close()?;
        losses.push(ledger.read()?.loss);
        if step >= keys["warm"] {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    if losses.len() > 1 && !(last < first && losses.iter().all(|loss| loss.is_finite())) {
        return Err(format!("the loss does not fall on the tokens that are trained on: {losses:?}").into());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let parameters = model.params.spec().len();
    let device_bytes = free_bytes.zip(device.free_bytes()).map(|(before, now)| before.saturating_sub(now));
    Ok(json!({
        "device": device.name(),
        "compute": words["compute"],
        "state": words["state"],
        "recompute": words["recompute"],
        "parameters": parameters,
        "tokens": n,
        "step_s": median,
        "tokens_per_s": n as f64 / median,
        "gflops_6n": 6.0 * parameters as f64 * n as f64 / median / 1e9,
        "peak_memory_mib": peak_memory_mib(),
        "planned_memory_mib": planned_bytes >> 20,
        "device_memory_mib": device_bytes.map(|bytes| bytes >> 20),
        "first_loss": first,
        "loss": last,
        "threads": rayon::current_num_threads(),
    }))
}

/// The largest resident size of this process so far, as Linux tells it.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}
