//! Names for memory: tensors that know their shape, an arena for parameters, and one op per kernel family.
//!
//! A [`Tensor`] owns contiguous numbers; a [`View`] borrows some of its rows; an [`Arena`] holds many named tensors in one
//! allocation and one order, so that parameters, gradients and optimizer moments share offsets. The functions of [`ops`]
//! take the sizes of a kernel from the shapes of its operands.
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | [`Device`]: where numbers lie and ops run |
//! | [`tensor`] | [`Tensor`], [`View`], [`ViewMut`] |
//! | [`arena`] | [`Arena`], [`ArenaSpec`] |
//! | [`packed`] | [`PackedArena`]: weights packed for products on the CPU |
//! | [`step_stats`] | [`StepStats`]: the loss and the gradient norm of a step, where the optimizer reads them |
//! | [`documents`] | [`Documents`]: the tokens of a batch, where the ops read them; [`Indices`] for other whole numbers |
//! | [`ops`] | the kernels, called by shape: on the CPU or queued on the device that has the operands |
//!
//! # What it does not do
//! It has no strides, no broadcasting, no reference counts and no automatic differentiation.

#![deny(missing_docs)]

pub mod arena;
mod columns;
pub mod device;
pub mod documents;
mod error;
mod indices;
pub mod ops;
pub mod packed;
mod staging;
pub mod step_stats;
pub mod tensor;

pub use arena::{Arena, ArenaSpec, TensorId};
pub use device::{Cuda, Device, DeviceKind};
pub use documents::Documents;
pub use error::TensorError;
pub use findap_kernels::cuda::{CudaError, GpuInfo, Probe, probe};
#[cfg(feature = "emulator")]
pub use findap_kernels::emulator::Options as EmulatorOptions;
pub use findap_kernels::isa::{Bf16Isa, Isa};
pub use findap_kernels::matmul::PackedFormat;
pub use findap_kernels::{Dtype, KernelError, Slice, SliceMut, Write};
pub use indices::Indices;
pub use packed::PackedArena;
pub use step_stats::{StepStats, Sums};
pub use tensor::{Tensor, View, ViewMut};

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
