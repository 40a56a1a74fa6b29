//! CUDA at run time: what this machine has, how kernels are compiled, and how they are launched.
//!
//! One binary serves machines with and without a GPU: the driver and the runtime compiler are looked for when they are needed.
//! A family's `cuda.rs` turns checked arguments into a [`Launch`], a plain value; an [`Executor`] runs it. There are two: a
//! device ([`Gpu`]) and, under the feature `emulator`, the CPU (`emulator::Emulator`, or `emulator::Queue`, which puts off its work as
//! a device does), which runs the very same source.
//!
//! | module | has |
//! |---|---|
//! | [`probe()`] | the devices of this machine, or why there are none |
//! | [`mod@source`] | the text of kernels; `prelude.cuh`, `hopper.cuh` and `common.cuh` stand before each |
//! | [`compile`] | source to machine code for one architecture, kept on disk |
//! | [`launch`], [`arg`] | the value that describes one run, and its parameters |
//! | [`executor`] | the trait that runs it, and memory of its own |
//! | [`product`] | matrix products, which a library may compute |
//! | [`driver`] | the executor that is a device |
//! | [`operand`] | arrays in device memory, as the families' launches take them |

pub mod arg;
pub mod compile;
mod cublaslt;
pub mod driver;
mod error;
pub mod executor;
pub mod launch;
mod libraries;
pub mod operand;
mod probe;
pub mod product;
pub mod source;
#[cfg(test)]
pub(crate) mod tests;

pub use arg::{Arg, Swizzle, TensorMap};
pub use compile::Compiler;
pub use driver::Gpu;
pub use error::CudaError;
pub use executor::{Buffer, Event, Executor, Pinned};
pub use launch::Launch;
pub use operand::{Indices, Operand};
pub use probe::{GpuInfo, Probe, Reason, probe};
pub use product::{Matrix, Product};
pub use source::{Needs, Source};
