//! The kernels, with their sizes taken from the shapes of the operands. Lengths that disagree are found by the kernels.

pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod linear;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

pub use findap_kernels::{adamw, reduce, sample};
