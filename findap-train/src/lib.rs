//! Recipes, objectives, AdamW training with exact resume, and preference distillation.
//!
//! | module | holds |
//! |---|---|
//! | [`recipe`] | what a run is, as TOML |
//! | [`schedule`], [`optimizer`], [`objective`] | learning rate, AdamW, losses as weights per token |
//! | [`loader`] | rows to micro-batches of optimizer steps |
//! | [`trainer`] | one stage |
//! | [`checkpoint`], [`metrics`], [`folder`] | what is on disk |
//! | [`event`] | what a run tells while it works |
//!
//! # Invariants
//! - A resumed stage is the uninterrupted one, bit for bit.
//! - A checkpoint is complete or invisible; the last good one goes only after the next is committed.
//! - Nothing here prints.

pub mod checkpoint;
pub mod error;
pub mod event;
pub mod folder;
pub mod loader;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod recipe;
pub mod schedule;
pub mod trainer;

pub use error::TrainError;
pub use event::{Event, Observer};
pub use recipe::Recipe;
