//! Llama with explicit forward and backward, KV-cache generation, and Hugging Face checkpoints.
