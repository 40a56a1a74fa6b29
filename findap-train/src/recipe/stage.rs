//! The kinds of `[[stage]]`.

use findap_data::{Fill, Join, Length, Strategy};
use findap_model::Trainable;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::align_loss::AlignLoss;
use super::distillation::DistillStage;
use super::lora::LoraTable;
use super::trainable;
use crate::objective::{Loss, NllMean, Preference};
use crate::optimizer::AdamWOptions;
use crate::schedule::{ScheduleKind, ScheduleOptions, Warmup, WarmupLength};

/// The source that stands for the pairs of the run's distillation.
pub(crate) const DISTILLED: &str = "preferences";
/// The source that stands for the right solutions of the run's distillation, as conversations.
pub(crate) const RIGHT_SOLUTIONS: &str = "right-solutions";

/// One `[[stage]]` table; its `kind` key says which.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stage {
    /// Next-token training on texts and conversations.
    Train(TrainStage),
    /// Preference distillation: sample the policy on exercises and make preference pairs.
    Distill(DistillStage),
    /// Alignment: DPO or another loss of preference pairs, with a likelihood term.
    Align(AlignStage),
}

impl Stage {
    /// The stage's name: its folder in the run folder.
    pub fn name(&self) -> &str {
        match self {
            Self::Train(stage) => &stage.name,
            Self::Distill(stage) => &stage.name,
            Self::Align(stage) => &stage.name,
        }
    }

    /// `train`, `distill` or `align`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Distill(_) => "distill",
            Self::Align(_) => "align",
        }
    }

    /// How it trains, and what it minimises; `None` for a distillation.
    pub fn trained(&self) -> Option<(&Optimization, Loss)> {
        match self {
            Self::Train(stage) => Some((&stage.optimization, Loss::CrossEntropy)),
            Self::Align(stage) => Some((&stage.optimization, Loss::Preference(stage.preference()))),
            Self::Distill(_) => None,
        }
    }

    /// Whether it has data to measure a dev loss on.
    pub fn has_dev(&self) -> bool {
        match self {
            Self::Train(stage) => !stage.dev.is_empty(),
            Self::Align(stage) => !stage.dev.is_empty(),
            Self::Distill(_) => false,
        }
    }

    /// Whether the stage leaves a `model/` folder.
    pub fn makes_model(&self) -> bool {
        !matches!(self, Self::Distill(_))
    }
}

/// The keys of a `train` stage, beside those of [`Optimization`] in the same table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainStage {
    /// The stage's name, unique; a folder of the run folder. Required.
    pub name: String,
    /// Names of `text` sources (continued pre-training). Default none.
    #[serde(default)]
    pub text: Vec<String>,
    /// Names of `chat` sources (instruction tuning); `"right-solutions"` among them are the model's own right solutions of exercises,
    /// which the `distill` stage before it writes (rejection-sampling training). Default none.
    #[serde(default)]
    pub chat: Vec<String>,
    /// Names of `tokenized` or `packed` sources; packed rows are kept as given. Default none.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Names of the sources the dev loss is measured on; without any there is none. With a dev loss the stage's model has the weights of
    /// the step at which it was lowest, which need not be the last. Default none.
    #[serde(default)]
    pub dev: Vec<String>,
    /// How text and chat come together. Default `joint`.
    #[serde(default)]
    pub join: Join,
    /// Cut the text rows at random to the number of chat rows (FinDAP, section 3.2). No effect without both. Default true.
    #[serde(default = "yes")]
    pub downsample: bool,
    /// Shuffle the rows. Default true.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// How rows are laid into the context. Default `best_fit`.
    #[serde(default)]
    pub packing: Strategy,
    /// The keys shared with `align`.
    #[serde(flatten, skip_deserializing)]
    #[schemars(!skip_deserializing)]
    pub optimization: Optimization,
}

impl TrainStage {
    /// The sources it trains on: texts, conversations, rows.
    pub fn sources(&self) -> impl Iterator<Item = &String> {
        self.text.iter().chain(&self.chat).chain(&self.rows)
    }

    /// Whether it trains on the right solutions of the run's distillation, alone or beside others.
    pub fn uses_right_solutions(&self) -> bool {
        self.chat.iter().any(|name| name == RIGHT_SOLUTIONS)
    }
}

/// The keys of an `align` stage, beside those of [`Optimization`] in the same table. Its batches hold whole pairs:
/// `batch_rows` and `micro_batch_rows` count pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlignStage {
    /// The stage's name, unique. Required.
    pub name: String,
    /// Names of `preference` sources; `"preferences"` among them are the pairs that the `distill` stage before it makes, and without any
    /// they are these alone. Default none.
    #[serde(default)]
    pub pairs: Vec<String>,
    /// Names of `preference` sources for the dev loss; the stage's model has the weights of the step at which it was lowest. Default none.
    #[serde(default)]
    pub dev: Vec<String>,
    /// What is minimised for each pair; `loss_type` means the same. Default `dpo`.
    #[serde(default, alias = "loss_type", alias = "pref_loss")]
    pub loss: AlignLoss,
    /// What log-probabilities are multiplied by where they become rewards (TRL's `beta`), > 0: with a reference, the strength of the pull
    /// towards it. The paper of `simpo` has 2 to 10. Default 0.1.
    #[serde(default = "default_beta")]
    pub beta: f64,
    /// The share of pairs whose answers are believed to be in the wrong order, 0 to 0.5, for `dpo`, `robust` (below 0.5) and `simpo`.
    /// Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_smoothing: Option<f64>,
    /// The margin that rewards are to have, >= 0, for `simpo`; its paper has about half of `beta`. Default 0.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simpo_gamma: Option<f64>,
    /// Weight of the likelihood term, >= 0; 0 is the loss of pairs alone: plain DPO, plain SimPO. ORPO's paper has 1. Default 1.
    #[serde(default = "one", alias = "rpo_alpha", alias = "pref_ftx", alias = "cpo_alpha")]
    pub nll_weight: f64,
    /// How the likelihood term is averaged. Default `pair`.
    #[serde(default)]
    pub nll_mean: NllMean,
    /// Shuffle the pairs. Default true.
    #[serde(default = "yes")]
    pub shuffle: bool,
    /// The keys shared with `train`.
    #[serde(flatten, skip_deserializing)]
    #[schemars(!skip_deserializing)]
    pub optimization: Optimization,
}

impl AlignStage {
    /// Whether it trains on the pairs of the run's distillation, alone or beside others.
    pub fn uses_distilled(&self) -> bool {
        self.pairs.is_empty() || self.pairs.iter().any(|name| name == DISTILLED)
    }

    fn preference(&self) -> Preference {
        let pair_loss = self.loss.pair_loss(self.label_smoothing, self.simpo_gamma);
        Preference { pair_loss, beta: self.beta, nll_weight: self.nll_weight, nll_mean: self.nll_mean }
    }
}

/// The keys that `train` and `align` stages share. They stand in the stage's own table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimization {
    /// Length in passes over the data, > 0. Exactly one of `epochs`, `tokens`, `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Length in tokens seen. Exactly one of `epochs`, `tokens`, `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Length in optimizer steps. Exactly one of `epochs`, `tokens`, `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Tokens per optimizer step at most. Exactly one of `batch_tokens`, `batch_rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Rows (packed contexts, or pairs) per optimizer step. Exactly one of `batch_tokens`, `batch_rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<usize>,
    /// Tokens per forward and backward pass; divides the step into micro-batches and bounds memory. At least `context_tokens`.
    /// Default: the smaller of `batch_tokens` and the larger of `context_tokens` and 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// Rows per forward and backward pass; divides `batch_rows`. Default `batch_rows`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_rows: Option<usize>,
    /// The longest row, in tokens. Default: the model's `max_position_embeddings`, at most 2048.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<usize>,
    /// Which parameters the stage changes: `"all"`, `{ last_blocks = 4 }` (the last blocks, the final norm, and the head where it is no
    /// embedding table), or `{ names = ["*.self_attn.*"] }` (those whose names in Hugging Face files match, `*` for any characters).
    /// The others are frozen: they have no gradient and no optimizer state. Default `all`.
    #[serde(default, with = "trainable", skip_serializing_if = "trainable::is_default")]
    #[schemars(schema_with = "trainable::schema")]
    pub trainable: Trainable,
    /// Peak learning rate, >= 0. Required.
    #[serde(default)]
    #[schemars(!default)]
    pub learning_rate: f64,
    /// How the learning rate falls after the warm-up. Default `linear`.
    #[serde(default)]
    pub schedule: ScheduleKind,
    /// Warm-up as a share of the steps, 0 to 1. At most one of `warmup_ratio`, `warmup_steps`. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// Warm-up in steps. At most one of `warmup_ratio`, `warmup_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup_steps: Option<u64>,
    /// The learning rate of the first step of a warm-up. Hugging Face's schedulers begin at zero. Default `zero`.
    #[serde(default)]
    pub warmup_from: Warmup,
    /// Decoupled weight decay, on matrices only, >= 0. Default 0.1.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// AdamW's decay rates of the two moments. Default `[0.9, 0.95]`.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon, > 0. Default 1e-8.
    #[serde(default = "default_epsilon")]
    pub epsilon: f64,
    /// Maximum norm of all gradients together, > 0. Default 1.
    #[serde(default = "default_clip_norm")]
    pub clip_norm: f64,
    /// Dev loss every so many steps. Default: 10 times over the stage, where `dev` names a source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate_every_steps: Option<u64>,
    /// A checkpoint every so many steps. Default: 5 times over the stage. The last step always saves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub save_every_steps: Option<u64>,
    /// Stop after so many dev losses in a row that are no new minimum. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop_patience: Option<u32>,
    /// Measure the dev loss on at most so many tokens. Default 65536.
    #[serde(default = "default_dev_tokens")]
    pub dev_tokens: usize,
    /// Trains a low-rank adapter (LoRA) and no parameter of the model: `{ rank = 16, alpha = 32 }`, with `targets` and `rslora` as below.
    /// `model/` has it merged into the weights, `adapter/` has it alone, in PEFT's layout. Not beside `trainable`. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraTable>,
}

impl Optimization {
    /// Every key of the struct: a stage's table is split by this list.
    pub(super) const KEYS: [&'static str; 23] = [
        "epochs",
        "tokens",
        "steps",
        "batch_tokens",
        "batch_rows",
        "micro_batch_tokens",
        "micro_batch_rows",
        "context_tokens",
        "trainable",
        "learning_rate",
        "schedule",
        "warmup_ratio",
        "warmup_steps",
        "warmup_from",
        "weight_decay",
        "betas",
        "epsilon",
        "clip_norm",
        "evaluate_every_steps",
        "save_every_steps",
        "early_stop_patience",
        "dev_tokens",
        "lora",
    ];

    /// The length of the stage; `None` when not exactly one of the three keys is written (a checked recipe has one).
    pub fn length(&self) -> Option<Length> {
        match (self.epochs, self.tokens, self.steps) {
            (Some(epochs), None, None) => Some(Length::Epochs(epochs)),
            (None, Some(tokens), None) => Some(Length::Tokens(tokens)),
            (None, None, Some(steps)) => Some(Length::Steps(steps)),
            _ => None,
        }
    }

    /// What the stage trains: the selected parameters, or its adapter.
    pub fn trained(&self) -> Trainable {
        match &self.lora {
            Some(table) => Trainable::Adapter(table.into()),
            None => self.trainable.clone(),
        }
    }

    /// The filling of an optimizer step; `None` when not exactly one of the two keys is written.
    pub fn fill(&self) -> Option<Fill> {
        match (self.batch_tokens, self.batch_rows) {
            (Some(tokens), None) => Some(Fill::Tokens(tokens)),
            (None, Some(rows)) => Some(Fill::Contexts(rows)),
            _ => None,
        }
    }

    /// The filling of a micro-batch, once a recipe is resolved.
    pub fn micro_fill(&self) -> Option<Fill> {
        self.micro_batch_tokens.map(Fill::Tokens).or(self.micro_batch_rows.map(Fill::Contexts))
    }

    /// The learning rate over the steps.
    pub fn schedule_options(&self) -> ScheduleOptions {
        let warmup = match (self.warmup_steps, self.warmup_ratio) {
            (Some(steps), _) => WarmupLength::Steps(steps),
            (None, ratio) => WarmupLength::Ratio(ratio.unwrap_or(0.0)),
        };
        ScheduleOptions {
            kind: self.schedule,
            peak_learning_rate: self.learning_rate,
            warmup,
            warmup_from: self.warmup_from,
        }
    }

    /// The constants of the optimizer.
    pub fn adamw_options(&self) -> AdamWOptions {
        AdamWOptions {
            betas: self.betas,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        }
    }

    /// Makes the choices that the recipe leaves open, for a model of this longest context, in tokens.
    pub(super) fn resolve(&mut self, max_positions: usize) {
        const LONGEST_BY_DEFAULT: usize = 2048;
        const MICRO_BATCH_TOKENS: usize = 4096;
        let most = self.batch_tokens.unwrap_or(usize::MAX);
        let context = *self.context_tokens.get_or_insert(max_positions.min(LONGEST_BY_DEFAULT).min(most));
        match (self.batch_tokens, self.batch_rows) {
            (Some(tokens), _) => {
                self.micro_batch_tokens.get_or_insert(tokens.min(context.max(MICRO_BATCH_TOKENS)));
            }
            (None, rows) => self.micro_batch_rows = self.micro_batch_rows.or(rows),
        }
    }
}

impl Default for Optimization {
    fn default() -> Self {
        toml::from_str("").expect("invariant: every key has a default")
    }
}

fn yes() -> bool {
    true
}
fn one() -> f64 {
    1.0
}
fn default_beta() -> f64 {
    0.1
}
fn default_weight_decay() -> f64 {
    AdamWOptions::default().weight_decay
}
fn default_betas() -> [f64; 2] {
    AdamWOptions::default().betas
}
fn default_epsilon() -> f64 {
    AdamWOptions::default().epsilon
}
fn default_clip_norm() -> f64 {
    AdamWOptions::default().clip_norm
}
fn default_dev_tokens() -> usize {
    65536
}
