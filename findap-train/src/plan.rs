//! What a stage will take: rows, tokens, steps, memory by purpose, arithmetic. Nothing is trained for it.

use findap_model::session::{SessionOptions, memory_bytes};
use findap_model::{Config, Dtype, Llama};
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
    /// Bytes in memory by purpose.
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
        let mut per_token = flops_per_token(config, tokens as f64 / rows.max(1) as f64);
        if stage.kind() == "align" {
            // The reference's forward, and the policy's once more before the weights are known.
            per_token *= 5.0 / 3.0;
        }
        Self {
            stage: stage.name().to_owned(),
            rows,
            tokens,
            loss_tokens,
            dropped_too_long: data.stores.iter().map(|store| store.report().dropped_too_long).sum(),
            contexts: data.loader.num_contexts(),
            fill: data.loader.fill(),
            steps,
            memory: training_memory(recipe, config, data),
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

/// Bytes in memory by purpose while a stage trains.
pub fn training_memory(recipe: &Recipe, config: &Config, data: &StageData) -> Vec<(&'static str, usize)> {
    let dtype = Dtype::from(recipe.model.compute);
    let (tokens, positions) = data.loader.limits();
    let (dev_tokens, dev_positions) = data.dev.as_ref().map_or((0, 0), |dev| dev.limits());
    let options = SessionOptions {
        dtype,
        max_tokens: tokens.max(dev_tokens),
        max_positions: positions.max(dev_positions),
        recompute: recipe.model.recompute.into(),
        needs_backward: true,
    };
    let parameters = Llama::num_parameters(config);
    let weights = parameters * dtype.size_bytes();
    let (in_f32, mut memory) = (4 * parameters, vec![("weights", weights)]);
    match dtype {
        Dtype::Bf16 => {
            memory.extend([("gradients", in_f32), ("optimizer moments", 2 * in_f32), ("weights in f32", in_f32)]);
        }
        _ => memory.extend([("gradients", weights), ("optimizer moments", 2 * weights)]),
    }
    memory.extend(memory_bytes(config, options));
    memory
}

/// Refuses a stage that would not fit into what the machine has free.
///
/// # Errors
/// [`TrainError::Memory`].
pub fn require_memory(stage: &str, memory: &[(&'static str, usize)]) -> Result<(), TrainError> {
    let need_bytes: usize = memory.iter().map(|(_, bytes)| bytes).sum();
    match free_memory_bytes() {
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
