//! A decoder of the Llama family on explicit forward and backward passes, with Hugging Face directories in and out.
//!
//! | module | holds |
//! |---|---|
//! | [`config`] | [`Config`]: `config.json` of Llama, Mistral, Qwen 2 and 3, in both spellings |
//! | [`checkpoint`] | weights from and to a model directory |
//! | [`decoder`] | [`Decoder`]: the parameters in one arena |
//! | [`session`] | [`Session`]: activations, forward, backward, the head |
//! | [`generate`] | [`Generator`]: many sequences at once over a key-value cache |
//! | [`lora`] | [`Lora`]: a low-rank adapter beside frozen weights |
//! | [`trainable`] | [`Trainable`]: which parameters are trained, which frozen |
//! | [`text`] | [`TextModel`]: a model directory, text in and text out |
//!
//! # Invariants
//! - The model does not know objectives: a loss enters the backward pass as one weight per token, dLoss / dlogp.
//! - Gradients of parameters add, gradients of activations overwrite.
//! - Nothing is allocated once a [`Session`] is built.
//! - Packed documents do not influence each other.

#![deny(missing_docs)]

mod adapter_folder;
mod cache;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod error;
mod files;
mod fingerprint;
mod foreign;
mod format;
pub mod generate;
mod layout;
mod linear;
pub mod lora;
mod score;
pub mod session;
#[cfg(test)]
mod tests;
pub mod text;
pub mod trainable;
mod trained;

pub use adapter_folder::text_directory;
pub use config::{Config, Family};
pub use decoder::Decoder;
pub use error::ModelError;
pub use findap_tensor::ops::sample::Sampling;
pub use findap_tensor::{Arena, Device, DeviceKind, Dtype};
pub use fingerprint::{fingerprint, tokenizer_fingerprint};
pub use generate::{GenerateRequest, Generated, Generator, Next, StopReason};
pub use lora::{Lora, Targets};
pub use score::Likelihood;
pub use session::{Pass, Recompute, Scored, Session, Tokens};
pub use text::TextModel;
pub use trainable::Trainable;
pub use trained::Trained;

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
