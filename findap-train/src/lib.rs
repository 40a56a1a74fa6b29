//! Recipes, objectives, AdamW training with exact resume, and preference distillation.
