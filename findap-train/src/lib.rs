//! Recipes, objectives, AdamW training with exact resume, and preference distillation.
//!
//! | module | holds |
//! |---|---|
//! | [`recipe`] | what a run is, as TOML |
//! | [`run`] | a whole run: stages in order, done ones skipped |
//! | [`schedule`], [`optimizer`], [`objective`] | learning rate, AdamW, losses as weights per token |
//! | [`device`] | where a run computes |
//! | [`sources`] | the sources of a recipe as loaders |
//! | [`distill`] | preference pairs from the policy's own solutions |
//! | [`trainer`] | one stage |
//! | [`checkpoint`], [`metrics`], [`folder`] | files on disk |
//! | [`identity`] | what something on disk was made from |
//! | [`event`] | the events of a run while it works |
//!
//! # Invariants
//! - A resumed stage is the uninterrupted one, bit for bit.
//! - A checkpoint is complete or invisible; the last good one is removed only after the next is committed.
//! - Nothing here prints.

pub mod checkpoint;
pub mod device;
pub mod distill;
pub mod error;
pub mod event;
pub mod folder;
pub mod identity;
mod judge;
pub mod metrics;
pub mod objective;
pub mod optimizer;
pub mod plan;
pub mod recipe;
pub mod run;
pub mod schedule;
pub mod sources;
pub mod trainer;

pub use error::TrainError;
pub use event::{Event, Observer};
pub use recipe::Recipe;

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
