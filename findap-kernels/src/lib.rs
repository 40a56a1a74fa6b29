//! Kernels of a Llama trainer: each with its definition, a fast CPU version and a CUDA version.
