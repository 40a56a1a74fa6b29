//! Kernels of a trainer of Llama-family models: each with its definition, a fast CPU version, a CUDA version and the tests of both.
//!
//! A kernel is a function over flat, contiguous, row-major memory. It takes one argument structure with named fields,
//! checks every length and index once, and writes its outputs; it owns no memory and knows nothing about tensors.
//!
//! | module | computes |
//! |---|---|
//! | [`dtype`], [`slice`](mod@slice), [`error`] | what a kernel reads and writes, and why it refuses |
//! | [`matmul`] | dense products with transposes and accumulation, in f32, f64, or bf16 with f32 sums |
//! | [`bias`] | the bias of a linear layer |
//! | [`embedding`] | rows of a table by token, and the sum of their gradients |
//! | [`rms_norm`] | normalisation, alone or fused with the residual addition |
//! | [`rope`] | rotary positions, in place |
//! | [`attention`] | causal attention over packed documents, its gradients, and decoding over a cache |
//! | [`swiglu`] | the gated unit of the MLP |
//! | [`cross_entropy`] | the head: log-probabilities of targets and their gradients, logits never whole |
//! | [`preference`] | weights of the tokens of preference pairs (DPO) |
//! | [`adamw`] | the optimizer, all tensors in one pass |
//! | [`reduce`] | norms, finiteness, sums |
//! | [`sample`] | the choice of the next token |
//! | [`aligned`] | memory that begins at a cache line |
//! | [`check`] | the checks that families share |
//! | [`isa`] | the vector instructions in use |
//! | `cuda` | the devices of this machine; how CUDA kernels are compiled and launched (feature `cuda`, on by default) |
//! | `emulator` | the same kernels on the CPU, for tests (feature `emulator`) |
//!
//! A family's module has the functions that run on the CPU; its module `cuda` has those that make launches for a device.
//!
//! # Invariants
//! - Results do not depend on the number of threads, and are the same bits from run to run: every sum has one order, and work is
//!   cut by data, but for the rectangles of a product, whose cut reaches no sum. (Different instruction sets may round differently.)
//! - The compute dtype is the dtype of the activations, f32 or f64. Beside activations in f32, weights may be stored in bf16, and the
//!   factors of products rounded to it, with sums in f32. CUDA kernels compute in f32 and store f32 or bf16.
//! - Gradients of parameters add, gradients of activations overwrite unless [`Write::Accumulate`] is asked for.
//! - Nothing is allocated in steady state: scratch comes in through the arguments or is a per-thread buffer that grows once.
//! - Bad arguments are a [`KernelError`]; nothing here panics on them or prints. The environment is read by
//!   [`Isa::current`] and [`Bf16Isa::current`], once, and where CUDA is looked for (`cuda::Compiler::find`, `cuda::Gpu::open`).
//!
//! # What it does not do
//! Strides, broadcasting, shapes beyond flat lengths and memory management live in the tensor crate.

#![deny(missing_docs)]

pub mod adamw;
pub mod aligned;
pub mod attention;
pub mod bias;
pub mod check;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dtype;
pub mod embedding;
#[cfg(feature = "emulator")]
pub mod emulator;
pub mod error;
pub mod isa;
mod lanes;
pub mod matmul;
pub mod preference;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod sample;
mod scratch;
pub mod slice;
mod softmax;
pub mod swiglu;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tolerance;

pub use dtype::{Dtype, Element, Real};
pub use error::KernelError;
pub use isa::{Bf16Isa, Isa};
pub use slice::{Slice, SliceMut, Write};

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
