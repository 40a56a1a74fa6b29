//! The kernels, with their sizes taken from the shapes of the operands. The kernels find lengths that disagree.
//!
//! An op runs where its first operand lies; the others must lie there, too. On a device it is queued and the call returns.

pub mod adamw;
pub mod attention;
pub mod bias;
pub mod cross_entropy;
pub mod embedding;
pub mod linear;
pub mod preference;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod swiglu;
