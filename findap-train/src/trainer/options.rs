//! The options of a stage's training.

use findap_model::{Recompute, Trainable};

use crate::optimizer::{AdamWOptions, StateFormat};
use crate::schedule::ScheduleOptions;

/// The options of training that all objectives share.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// Which parameters are trained.
    pub trainable: Trainable,
    /// The learning rate over the steps.
    pub schedule: ScheduleOptions,
    /// The constants of the optimizer.
    pub adamw: AdamWOptions,
    /// The format of gradients, moments and weights.
    pub state: StateFormat,
    /// What the backward pass recomputes.
    pub recompute: Recompute,
    /// Steps from one dev loss to the next; `None` for ten dev losses over the stage.
    pub evaluate_every_steps: Option<u64>,
    /// Most tokens on which the dev loss is measured.
    pub dev_tokens: usize,
    /// Count of dev losses in a row without a new minimum after which training stops; `None` for never.
    pub early_stop_patience: Option<u32>,
    /// Steps from one checkpoint to the next; `None` for five checkpoints over the stage. The last step always saves one.
    pub save_every_steps: Option<u64>,
    /// Count of the newest checkpoints that are kept.
    pub keep_checkpoints: usize,
}
