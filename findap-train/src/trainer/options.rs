//! How a stage is trained.

use findap_model::{Recompute, Trainable};

use crate::optimizer::{AdamWOptions, StateFormat};
use crate::schedule::ScheduleOptions;

/// How a stage is trained, whatever is minimised.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Which parameters are trained.
    pub trainable: Trainable,
    /// The learning rate over the steps.
    pub schedule: ScheduleOptions,
    /// The constants of the optimizer.
    pub adamw: AdamWOptions,
    /// How gradients, moments and weights are kept.
    pub state: StateFormat,
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Steps from one dev loss to the next; `None` for ten of them over the stage.
    pub evaluate_every_steps: Option<u64>,
    /// The dev loss is measured on at most so many tokens.
    pub dev_tokens: usize,
    /// Stop after so many dev losses in a row that are no new minimum; `None` for never.
    pub early_stop_patience: Option<u32>,
    /// Steps from one checkpoint to the next; `None` for five of them over the stage. The last step always saves one.
    pub save_every_steps: Option<u64>,
    /// How many checkpoints are kept, the newest ones.
    pub keep_checkpoints: usize,
}
