//! The plan of a stage, made without training: rows, tokens, steps, memory by purpose, operations.

mod disk;

use findap_data::store::rows::RowsReport;
use findap_model::session::{SessionOptions, activation_dtype, memory_bytes};
use findap_model::{Config, Decoder, Device, DeviceKind, Dtype, Lora, Trainable, Trained};
use serde::Serialize;

pub use self::disk::{StageDisk, disk_bytes};
use crate::error::TrainError;
use crate::recipe::{Recipe, Stage};
use crate::schedule::Schedule;
use crate::sources::StageData;
use crate::trainer::TrainOptions;

/// What one stage will take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StagePlan {
    /// Its name.
    pub stage: String,
    /// The name of what it minimises.
    pub loss: &'static str,
    /// Whether rows, tokens and steps are those of stand-ins for what the distillation has yet to make: as many as it makes at most.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_at_most: bool,
    /// Rows of one pass over the data.
    pub rows: u64,
    /// Tokens of these rows.
    pub tokens: u64,
    /// Tokens with loss among them.
    pub loss_tokens: u64,
    /// What became of every row of its sources, also of those of the dev loss.
    pub sources: RowsReport,
    /// Contexts they are packed into.
    pub contexts: usize,
    /// Share of the contexts' space that holds tokens, in 0..=1.
    pub fill: f64,
    /// Optimizer steps of the whole stage.
    pub steps: u64,
    /// Tokens of the whole stage: of one pass, as often as its steps go over them.
    pub trained_tokens: f64,
    /// Bytes on disk.
    pub disk: StageDisk,
    /// Parameters that the stage trains.
    pub trained_parameters: usize,
    /// Parameters that it leaves as they are.
    pub frozen_parameters: usize,
    /// A sentence on the frozen parameters; `None` where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_note: Option<String>,
    /// Whether the learning rate is 0 throughout, so that the stage trains nothing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_idle: bool,
    /// A sentence on a learning rate that does not reach its peak; `None` where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_note: Option<String>,
    /// Bytes in memory by purpose, on the device that [`Recipe::device_kind`] tells.
    pub memory: Vec<(&'static str, usize)>,
    /// Bytes that are saved by not training every parameter.
    pub memory_saved_bytes: usize,
    /// Floating-point operations of the whole stage, forward and backward; 2 for a multiplication with an addition.
    pub flops: f64,
}

impl StagePlan {
    /// The plan of a stage over its data, for a model of this configuration.
    ///
    /// # Errors
    /// [`TrainError::Model`] for a selection of parameters that the model cannot obey.
    ///
    /// # Panics
    /// For a distillation, which has no steps.
    pub fn new(recipe: &Recipe, stage: &Stage, config: &Config, data: &StageData) -> Result<Self, TrainError> {
        let (keys, loss) = stage.trained().expect("invariant: a distillation is not planned");
        let options = recipe.train_options(keys);
        let trained = Trained::of(config, &options.trainable)?;
        let (rows, tokens, loss_tokens) = data.mixture.totals();
        let steps = data.loader.total_steps();
        let schedule = Schedule::new(options.schedule, steps);
        let trained_tokens = tokens as f64 * steps as f64 / data.loader.epoch_steps().max(1) as f64;
        let mean_row_tokens = tokens as f64 / rows.max(1) as f64;
        let per_token = loss.relative_cost() * flops_per_token(config, &options.trainable, &trained, mean_row_tokens);
        let memory =
            |options| training_memory(recipe.device_kind(), recipe.model.compute.into(), options, config, data);
        let (parts, whole) =
            (memory(&options)?, memory(&TrainOptions { trainable: Trainable::All, ..options.clone() })?);
        let sum = |memory: &[(&'static str, usize)]| memory.iter().map(|(_, bytes)| bytes).sum::<usize>();
        Ok(Self {
            stage: stage.name().to_owned(),
            loss: loss.name(),
            is_at_most: false,
            rows,
            tokens,
            loss_tokens,
            sources: data.rows.clone(),
            contexts: data.loader.num_contexts(),
            fill: data.loader.fill(),
            steps,
            trained_parameters: trained.num_parameters(),
            frozen_parameters: num_frozen(config, &options.trainable, &trained),
            frozen_note: frozen_note(config, &options.trainable, &trained),
            is_idle: schedule.is_idle(),
            rate_note: schedule.note(),
            memory_saved_bytes: sum(&whole).saturating_sub(sum(&parts)),
            memory: parts,
            trained_tokens,
            disk: StageDisk::new(recipe, stage, config)?.expect("invariant: a distillation is not planned"),
            flops: per_token * trained_tokens,
        })
    }

    /// Bytes in memory at once.
    pub fn memory_bytes(&self) -> usize {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Operations per token, forward and backward. Each weight of a matrix product takes 2 forward, 2 for the gradient of its input where
/// something below is trained, and 2 for its own gradient where it is trained; each of an adapter takes all six. Attention is over the tokens before, on average half of
/// the row's; flash attention's backward pass computes the scores again. Source: Kaplan et al. 2020, section 2.1.
fn flops_per_token(config: &Config, trainable: &Trainable, trained: &Trained, mean_row_tokens: f64) -> f64 {
    let embedding = config.vocab_size * config.hidden_size;
    let looked_up = if config.tie_word_embeddings { 0 } else { embedding };
    let is_embedding_trained = trainable.is_trained(EMBEDDING, config.num_layers);
    let products = Decoder::num_parameters(config) - looked_up;
    let in_head = embedding + config.hidden_size;
    let frozen_share = trained.frozen_blocks() as f64 / config.num_layers as f64;
    let below = (products - in_head) as f64 * frozen_share;
    let own = trained.num_parameters() - if is_embedding_trained { looked_up } else { 0 };
    let of_adapter = if trainable.lora().is_some() { trained.num_parameters() } else { 0 };
    let scores = (config.num_layers * config.num_heads * config.head_dim) as f64 * mean_row_tokens / 2.0;
    2.0 * (products as f64 + (products as f64 - below) + (own + 2 * of_adapter) as f64)
        + (3.5 - 2.5 * frozen_share) * 4.0 * scores
}

/// Count of the model's parameters that a stage leaves as they are.
fn num_frozen(config: &Config, trainable: &Trainable, trained: &Trained) -> usize {
    let num_trained_weights = if trainable.lora().is_some() { 0 } else { trained.num_parameters() };
    Decoder::num_parameters(config) - num_trained_weights
}

/// The name of the embedding table, which is also the head where they are tied.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A sentence on the frozen parameters of a selection; `None` where all are trained.
pub fn frozen_note(config: &Config, trainable: &Trainable, trained: &Trained) -> Option<String> {
    let (all, trained) = (Decoder::num_parameters(config), trained.num_parameters());
    if let Some(lora) = trainable.lora() {
        return Some(format!(
            "{trained} parameters of an adapter of rank {} are trained, those of the model, {all}, are frozen",
            lora.rank
        ));
    }
    let is_head_frozen = config.tie_word_embeddings && !trainable.is_trained(EMBEDDING, config.num_layers);
    let head = if is_head_frozen { "; its head is the embedding table and stays frozen with it" } else { "" };
    (trained < all).then(|| format!("{trained} of {all} parameters are trained, the others are frozen{head}"))
}

/// Bytes in memory by purpose while a stage trains in `dtype` on a device of this kind.
///
/// # Errors
/// [`TrainError::Model`] for a selection of parameters that the model cannot obey.
pub fn training_memory(
    kind: DeviceKind,
    dtype: Dtype,
    options: &TrainOptions,
    config: &Config,
    data: &StageData,
) -> Result<Vec<(&'static str, usize)>, TrainError> {
    let trained = Trained::of(config, &options.trainable)?;
    let (tokens, positions) = data.loader.limits();
    let (dev_tokens, dev_positions) = data.dev.as_ref().map_or((0, 0), |dev| dev.limits());
    let session = SessionOptions {
        dtype,
        max_tokens: tokens.max(dev_tokens),
        max_positions: positions.max(dev_positions),
        recompute: options.recompute,
        gradients: Some(options.state.dtype(trained_dtype(kind, dtype, options.trainable.lora()))),
        frozen_blocks: trained.frozen_blocks(),
        lora: options.trainable.lora().copied(),
    };
    Ok(step_memory(kind, config, trained.num_parameters(), session))
}

/// The format of what is trained beside weights in `dtype`: theirs, or that of the activations, which an adapter has.
fn trained_dtype(kind: DeviceKind, dtype: Dtype, lora: Option<&Lora>) -> Dtype {
    if lora.is_some() { activation_dtype(kind, dtype) } else { dtype }
}

/// Bytes in memory by purpose while a session with these options and AdamW train `num_trained` parameters on a device of this kind.
/// Moments have the format of the gradients; where the weights have another, there is a copy of them in the gradients' format.
pub fn step_memory(
    kind: DeviceKind,
    config: &Config,
    num_trained: usize,
    options: SessionOptions,
) -> Vec<(&'static str, usize)> {
    let weights = Decoder::num_parameters(config) * options.dtype.size_bytes();
    let trained_dtype = trained_dtype(kind, options.dtype, options.lora.as_ref());
    let gradient_dtype = options.gradients.unwrap_or(trained_dtype);
    let gradients = num_trained * gradient_dtype.size_bytes();
    let mut memory = vec![("weights", weights)];
    if options.lora.is_some() {
        memory.push(("adapter", num_trained * trained_dtype.size_bytes()));
    }
    memory.extend([("gradients", gradients), ("optimizer moments", 2 * gradients)]);
    if gradient_dtype != trained_dtype {
        memory.push(("weights in f32", gradients));
    }
    memory.extend(memory_bytes(kind, config, options));
    memory
}

/// Refuses a stage that would not fit into the free memory of `device`, which for the CPU is the machine's. Where the free memory is
/// unknown, the stage is allowed.
///
/// # Errors
/// [`TrainError::Memory`].
pub fn require_memory(stage: &str, memory: &[(&'static str, usize)], device: &Device) -> Result<(), TrainError> {
    let need_bytes: usize = memory.iter().map(|(_, bytes)| bytes).sum();
    let free_bytes = match device.kind() {
        DeviceKind::Cpu => free_memory_bytes(),
        // scratch memory of an earlier stage's ops is used again
        DeviceKind::Cuda => device.free_bytes().map(|bytes| (bytes + device.scratch_bytes()) as u64),
    };
    match free_bytes {
        Some(free_bytes) if (free_bytes as usize) < need_bytes => {
            Err(TrainError::Memory { stage: stage.to_owned(), memory: memory.to_vec(), need_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

/// Memory of the machine that programs may still take, in bytes; `None` where the system does not say.
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
    use findap_model::{Recompute, Targets};
    use serde_json::json;

    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn llama_3_8b() -> Config {
        let config = json!({
            "vocab_size": 128_256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "num_key_value_heads": 8, "intermediate_size": 14_336, "tie_word_embeddings": false,
            "rms_norm_eps": 1e-5, "rope_theta": 5e5, "max_position_embeddings": 8192,
        });
        let serde_json::Value::Object(config) = config else { unreachable!("an object was written") };
        Config::from_json(config).unwrap()
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "the parts are worth reading")]
    fn a_full_fine_tune_of_llama_3_8b_fits_one_gpu_of_80_gb() {
        let config = llama_3_8b();
        let memory = |gradients| {
            let (max_tokens, max_positions, recompute) = (8192, 8192, Recompute::Block);
            let options = SessionOptions {
                dtype: Dtype::Bf16,
                max_tokens,
                max_positions,
                recompute,
                gradients: Some(gradients),
                frozen_blocks: 0,
                lora: None,
            };
            step_memory(DeviceKind::Cuda, &config, Decoder::num_parameters(&config), options)
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
    #[expect(clippy::print_stdout, reason = "the parts are worth reading")]
    fn an_adapter_of_llama_3_8b_in_bf16_fits_one_gpu_of_24_gb() {
        let config = llama_3_8b();
        let lora = Lora { rank: 16, alpha: 32.0, targets: Targets::ALL, is_rank_stabilized: false };
        let trained = Trained::of(&config, &Trainable::Adapter(lora)).unwrap().num_parameters();
        // PEFT says as much of this model: 16 * (4096 + 4096) twice, (4096 + 1024) twice, (4096 + 14336) three times, 32 blocks
        assert_eq!(trained, 41_943_040);
        let memory = |kind| {
            let options = SessionOptions {
                dtype: Dtype::Bf16,
                max_tokens: 4096,
                max_positions: 4096,
                recompute: Recompute::Block,
                gradients: Some(Dtype::F32),
                frozen_blocks: 0,
                lora: Some(lora),
            };
            step_memory(kind, &config, trained, options)
        };
        let parts = memory(DeviceKind::Cuda);
        parts.iter().for_each(|(purpose, bytes)| println!("{:>6.2} GiB  {purpose}", *bytes as f64 / GIB));
        let sum = parts.iter().map(|(_, bytes)| bytes).sum::<usize>() as f64 / GIB;
        println!("{sum:>6.2} GiB");
        assert!(sum < 22.0, "{parts:?}");
        let first: Vec<usize> = parts[..5].iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!(first, [2 * 8_030_261_248, 2 * trained, 4 * trained, 8 * trained, 4 * trained]);
        assert_eq!(parts[1].0, "adapter");
        // on the CPU an adapter is f32 and needs no copy in f32
        let on_cpu = memory(DeviceKind::Cpu);
        assert_eq!(on_cpu[1], ("adapter", 4 * trained));
        assert!(on_cpu.iter().all(|(purpose, _)| *purpose != "weights in f32"), "{on_cpu:?}");
    }

    #[test]
    fn an_adapter_takes_the_operations_of_a_frozen_model_and_all_of_its_own() {
        let config = json!({
            "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
            "intermediate_size": 128, "tie_word_embeddings": false,
        });
        let config = Config::from_json(config.as_object().unwrap().clone()).unwrap();
        let lora =
            Lora { rank: 2, alpha: 4.0, targets: Targets::from_names(["q_proj"]).unwrap(), is_rank_stabilized: false };
        let adapter = Trainable::Adapter(lora);
        let trained = Trained::of(&config, &adapter).unwrap();
        assert_eq!(trained.num_parameters(), 4 * 2 * (64 + 64));
        let all = Trained::of(&config, &Trainable::All).unwrap();
        let of = |trainable: &Trainable, trained: &Trained| flops_per_token(&config, trainable, trained, 32.0);
        let looked_up = 500 * 64;
        let weight_gradients = 2.0 * (all.num_parameters() - looked_up) as f64;
        let own = 6.0 * trained.num_parameters() as f64;
        assert_eq!(of(&adapter, &trained), of(&Trainable::All, &all) - weight_gradients + own);
        let note = frozen_note(&config, &adapter, &trained).unwrap();
        assert!(note.contains("1024 parameters of an adapter of rank 2"), "{note}");
        assert_eq!(num_frozen(&config, &adapter, &trained), Decoder::num_parameters(&config));
    }

    #[test]
    fn frozen_blocks_take_neither_gradients_nor_moments_nor_a_backward_pass() {
        let config = |is_tied: bool| {
            let config = json!({
                "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
                "intermediate_size": 128, "tie_word_embeddings": is_tied,
            });
            Config::from_json(config.as_object().unwrap().clone()).unwrap()
        };
        let (untied, tied) = (config(false), config(true));
        let of = |config: &Config, trainable: &Trainable| Trained::of(config, trainable).unwrap();
        let last = Trainable::LastBlocks(1);
        let (all, part) = (of(&untied, &Trainable::All), of(&untied, &last));
        let block = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64;
        assert_eq!(part.num_parameters(), block + 64 + 500 * 64);
        let flops = |trainable: &Trainable, trained: &Trained| flops_per_token(&untied, trainable, trained, 32.0);
        let scores = 4.0 * 64.0 * 16.0;
        let products = (4 * block + 64 + 500 * 64) as f64;
        assert_eq!(flops(&Trainable::All, &all), 6.0 * products + 14.0 * scores);
        // three of four blocks have no way back
        let forward = 2.0 * products + 4.0 * scores;
        let trained = 4.0 * part.num_parameters() as f64 + 2.5 * scores;
        assert_eq!(flops(&last, &part), forward + trained);
        assert_eq!(frozen_note(&untied, &Trainable::All, &all), None);
        let note = |config: &Config| frozen_note(config, &last, &of(config, &last)).unwrap();
        assert!(note(&untied).starts_with(&format!(
            "{} of {}",
            part.num_parameters(),
            Decoder::num_parameters(&untied)
        )));
        assert!(note(&tied).contains("its head is the embedding table") && !note(&untied).contains("its head"));
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
