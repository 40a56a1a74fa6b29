//! Times one kind of training step: `cargo run --release -p findap-train --example step -- [KEY=VALUE]...`
//!
//! Weights and tokens are random; a step is forward, backward, clipping and AdamW. All steps have the same tokens, so that the loss has
//! to fall: if it does not, only an error is printed. Otherwise it prints one JSON object with the median step, the peak memory of the
//! process, the planned memory and that taken on a device. Keys and defaults: hidden=256 layers=8 heads=4 kv_heads=2 ffn=704 vocab=32000
//! tied=1 sequence=512 documents=1 steps=3 warm=1 device=cpu compute=f32 state=f32 recompute=none lora=0, the rank of an
//! adapter of every linear layer instead of all weights. `bench/peers/step.py` takes those
//! with numbers, but for `tied`. The exit code is 3 if the device's memory does not suffice.

#![allow(clippy::print_stdout, reason = "a program, not a library")]

mod common;

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use common::{Keys, peak_memory_mib, use_threads};
use findap_data::Batch;
use findap_model::session::SessionOptions;
use findap_model::{Decoder, Lora, ModelError, Recompute, Session, Targets};
use findap_tensor::ops::reduce;
use findap_tensor::{StepStats, TensorError};
use findap_train::objective::cross_entropy_weights;
use findap_train::optimizer::{AdamW, AdamWOptions, StateFormat};
use findap_train::plan::step_memory;
use serde_json::{Value, json};

const NUMBERS: [(&str, usize); 5] = [("sequence", 512), ("documents", 1), ("steps", 3), ("warm", 1), ("lora", 0)];
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
    use_threads()?;
    let keys = Keys::read(&NUMBERS, &WORDS)?;
    let (device, dtype) = keys.device()?;
    let state = keys.choice("state", &[("f32", StateFormat::Full), ("bf16", StateFormat::Bf16 { seed: 0 })])?;
    let kinds = [("none", Recompute::None), ("mlp", Recompute::Mlp), ("block", Recompute::Block)];
    let recompute = keys.choice("recompute", &kinds)?;
    let free_bytes = device.free_bytes();
    let n = keys.number("sequence");
    let mut model = Decoder::init_on(&device, keys.config()?, 0, dtype)?;
    if let rank @ 1.. = keys.number("lora") {
        let lora = Lora { rank, alpha: 2.0 * rank as f64, targets: Targets::ALL, is_rank_stabilized: false };
        model.add_adapter(lora, 0)?;
    }
    let length = n.div_ceil(keys.number("documents"));
    let gradients = Some(state.dtype(model.trained_params().dtype()));
    let options = SessionOptions {
        dtype,
        max_tokens: n,
        max_positions: length,
        recompute,
        gradients,
        frozen_blocks: 0,
        lora: model.lora(),
    };
    let planned_bytes: usize = step_memory(device.kind(), &model.config, model.trained_params().spec().len(), options)
        .iter()
        .map(|(_, bytes)| bytes)
        .sum();
    let mut session = Session::on(&device, &model.config, options)?;
    let mut gradients = model.zero_gradients_in(state.dtype(model.trained_params().dtype()))?;
    let mut optimizer = AdamW::new(model.trained_params(), gradients.spec(), AdamWOptions::default(), state)?;
    let mut stats = StepStats::new(&device)?;

    let mut batch = Batch::new();
    keys.tokens()(n).chunks(length).for_each(|document| batch.push_unmasked(document));
    let loss_tokens = batch.num_loss_tokens();
    let mut weights = Vec::new();
    cross_entropy_weights(&batch.targets, loss_tokens, &mut weights);

    let mut seconds = Vec::new();
    let mut losses = Vec::new();
    for step in 0..keys.number("warm") + keys.number("steps") {
        let begun = Instant::now();
        stats.begin()?;
        reduce::clear(gradients.tensor_mut())?;
        let pass = session.forward(&model, (&batch).into())?;
        let log_probs = pass.backward(&batch.targets, &weights, &mut gradients)?;
        log_probs.add_loss(&mut stats, loss_tokens as f64)?;
        optimizer.step(model.trained_params_mut(), &gradients, &mut stats, step as u64 + 1, 1e-4)?;
        stats.close()?;
        losses.push(stats.read()?.loss);
        if step >= keys.number("warm") {
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
        "compute": keys.word("compute"),
        "state": keys.word("state"),
        "recompute": keys.word("recompute"),
        "parameters": parameters,
        "trained_parameters": model.trained_params().spec().len(),
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
