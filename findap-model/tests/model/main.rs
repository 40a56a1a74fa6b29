//! The model against independent numbers, hostile files, and itself.

mod config;
mod hostile;
mod invariance;
mod support;
