//! What a stage will take: rows, tokens, steps, memory by purpose, arithmetic. Nothing is trained for it.

use findap_model::session::{SessionOptions, memory_bytes};
use findap_model::{Config, Device, DeviceKind, Dtype, Llama};
use serde::Serialize;

use crate::error::TrainError;
use crate::recipe::{Recipe, Stage};
use crate::sources::StageData;

/// One stage, before it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: String,
    /// Rows of one pass over the data.
    pub rows: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Of these, with loss.
    pub loss_tokens: u64,
    /// Rows left out because they are longer than the context.
    pub dropped_too_long: u64,
    /// Contexts they are packed into.
    pub contexts: usize,
    /// Part of the contexts' space that holds tokens, in 0..=1.
    pub fill: f64,
    /// Optimizer steps of the whole stage.
    pub steps: u64,
    /// Bytes in memory by purpose, on the device that [`Recipe::device_kind`] tells.
    pub memory: Vec<(&'static str, usize)>,
    /// Floating-point operations of the whole stage, forward and backward; 2 for a multiplication with an addition.
    pub flops: f64,
}

impl StagePlan {
    /// The plan of a stage over its data, for a model of this configuration.
    pub fn new(recipe: &Recipe, stage: &Stage, config: &Config, data: &StageData) -> Self {
        let (rows, tokens, loss_tokens) = data.mixture.totals();
        let steps = data.loader.total_steps();
        let one_pass_steps = data.loader.epoch_steps().max(1) as f64;
        let relative_cost = stage.trained().map_or(0.0, |(_, loss)| loss.relative_cost());
        let per_token = relative_cost * flops_per_token(config, tokens as f64 / rows.max(1) as f64);
        Self {
            stage: stage.name().to_owned(),
            rows,
            tokens,
            loss_tokens,
            dropped_too_long: data.stores.iter().map(|store| store.report().dropped_too_long).sum(),
            contexts: data.loader.num_contexts(),
            fill: data.loader.fill(),
            steps,
            memory: training_memory(recipe.device_kind(), recipe, config, data),
            flops: per_token * tokens as f64 * steps as f64 / one_pass_steps,
        }
    }

    /// Bytes in memory at once.
    pub fn memory_bytes(&self) -> usize {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Operations of forward and backward: 6 per weight of a matrix product, and attention over the tokens before, on average half of the
/// row's (Kaplan et al. 2020, section 2.1; flash attention's backward pass computes the scores again).
fn flops_per_token(config: &Config, mean_row_tokens: f64) -> f64 {
    let embedding = config.vocab_size * config.hidden_size;
    let looked_up = if config.tie_word_embeddings { 0 } else { embedding };
    let products = 6.0 * (Llama::num_parameters(config) - looked_up) as f64;
    let scores = (config.num_layers * config.num_heads * config.head_dim) as f64 * mean_row_tokens / 2.0;
    products + 3.5 * 4.0 * scores
}

/// Bytes in memory by purpose while a stage trains on a device of this kind.
pub fn training_memory(
    kind: DeviceKind,
    recipe: &Recipe,
    config: &Config,
    data: &StageData,
) -> Vec<(&'static str, usize)> {
    let dtype = Dtype::from(recipe.model.compute);
    let (tokens, positions) = data.loader.limits();
    let (dev_tokens, dev_positions) = data.dev.as_ref().map_or((0, 0), |dev| dev.limits());
    let options = SessionOptions {
        dtype,
        max_tokens: tokens.max(dev_tokens),
        max_positions: positions.max(dev_positions),
        recompute: recipe.model.recompute.into(),
        gradients: Some(recipe.state_format().dtype(dtype)),
        frozen_blocks: 0,
    };
    step_memory(kind, config, options)
}

/// Bytes in memory by purpose while a session with these options and AdamW train on a device of this kind: moments have the format of
/// the gradients, and where that is another than the weights', there is a copy of the weights in it.
pub fn step_memory(kind: DeviceKind, config: &Config, options: SessionOptions) -> Vec<(&'static str, usize)> {
    let parameters = Llama::num_parameters(config);
    let weights = parameters * options.dtype.size_bytes();
    let gradients = parameters * options.gradients.unwrap_or(options.dtype).size_bytes();
    let mut memory = vec![("weights", weights), ("gradients", gradients), ("optimizer moments", 2 * gradients)];
    if gradients != weights {
        memory.push(("weights in f32", gradients));
    }
    memory.extend(memory_bytes(kind, config, options));
    memory
}

/// Refuses a stage that would not fit into what `device` has free: of the machine's memory for the CPU, of its own otherwise. One that
/// cannot tell is tried.
///
/// # Errors
/// [`TrainError::Memory`].
pub fn require_memory(stage: &str, memory: &[(&'static str, usize)], device: &Device) -> Result<(), TrainError> {
    let need_bytes: usize = memory.iter().map(|(_, bytes)| bytes).sum();
    let free_bytes = match device.kind() {
        DeviceKind::Cpu => free_memory_bytes(),
        // what an earlier stage's ops have shared serves again
        DeviceKind::Cuda => device.free_bytes().map(|bytes| (bytes + device.scratch_bytes()) as u64),
    };
    match free_bytes {
        Some(free_bytes) if (free_bytes as usize) < need_bytes => {
            Err(TrainError::Memory { stage: stage.to_owned(), memory: memory.to_vec(), need_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Memory that programs may still take, in bytes; `None` where the system does not say.
pub fn free_memory_bytes() -> Option<u64> {
    meminfo_bytes("MemAvailable:")
}

/// Memory of the machine, in bytes; `None` where the system does not say.
pub fn total_memory_bytes() -> Option<u64> {
    meminfo_bytes("MemTotal:")
}

fn meminfo_bytes(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use findap_model::Recompute;
    use serde_json::json;

    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "the parts are worth reading")]
    fn a_full_fine_tune_of_llama_3_8b_fits_one_gpu_of_80_gb() {
        const GIB: f64 = (1u64 << 30) as f64;
        let config = json!({
            "vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14_336, "tie_word_embeddings": false,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "max_position_embeddings": 8192,
        });
        let serde_json::Value::Object(config) = config else { unreachable!("an object was written") };
        let config = Config::from_json(config).unwrap();
        let memory = |gradients| {
            let (max_tokens, max_positions, recompute) = (8192, 8192, Recompute::Block);
            let options = SessionOptions {
                dtype: Dtype::Bf16,
                max_tokens,
                max_positions,
                recompute,
                gradients: Some(gradients),
                frozen_blocks: 0,
            };
            step_memory(DeviceKind::Cuda, &config, options)
        };
        let sum = |parts: &[(&str, usize)]| parts.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let parts = memory(Dtype::Bf16);
        parts.iter().for_each(|(purpose, bytes)| println!("{:>6.2} GiB  {purpose}", *bytes as f64 / GIB));
        println!("{:>6.2} GiB", sum(&parts) as f64 / GIB);
        // an H100 has 79.6 GiB, of which the context and the products' workspace take less than one
        assert!((sum(&parts) as f64) < 78.0 * GIB, "{parts:?}");
        assert_eq!(sum(&parts[..3]), 8 * 8_030_261_248, "weights, gradients, moments");
        assert_eq!(sum(&memory(Dtype::F32)[..4]), 18 * 8_030_261_248, "and with a copy of the weights");
    }

    #[test]
    fn a_stage_that_would_not_fit_is_refused_by_purpose() {
        let Some(free) = free_memory_bytes() else { return };
        let memory = [("weights", 1), ("gradients", 4 * free as usize)];
        let error = require_memory("group1", &memory, &Device::Cpu).unwrap_err();
        assert!(matches!(error, TrainError::Memory { need_bytes, .. } if need_bytes == 4 * free as usize + 1));
        assert!(error.to_string().contains("weights 0, gradients"), "{error}");
        assert!(require_memory("group1", &memory[..1], &Device::Cpu).is_ok());
    }
}
