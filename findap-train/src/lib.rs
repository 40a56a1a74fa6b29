//! Recipes, objectives, AdamW training with exact resume, and preference distillation.

pub mod recipe;
pub mod schedule;

pub use recipe::Recipe;
