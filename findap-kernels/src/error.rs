//! Why a kernel refuses its arguments.

use crate::dtype::Dtype;

/// Why a kernel refuses its arguments. Every check runs before the first write: on an error no output has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// An argument does not have the length that the sizes in the call imply.
    #[error("{op}: `{arg}` has {got} elements, but the sizes given need {want}")]
    ShapeMismatch {
        /// The kernel, `family::function`.
        op: &'static str,
        /// The field of the argument structure.
        arg: &'static str,
        /// The length that the other arguments imply.
        want: usize,
        /// The length given.
        got: usize,
    },
    /// No version of the kernel exists for this combination of formats.
    #[error("{op}: no version for {}; on the CPU all are f32 or f64, weights may be bf16 beside f32; on a device all are f32 or bf16, sums f32", list(.dtypes))]
    UnsupportedDtype {
        /// The kernel, `family::function`.
        op: &'static str,
        /// The arguments and the formats they have.
        dtypes: Vec<(&'static str, Dtype)>,
    },
    /// An index points outside the table it indexes.
    #[error("{op}: `{arg}[{index}]` is {id}, but must be below {limit}")]
    IdOutOfRange {
        /// The kernel, `family::function`.
        op: &'static str,
        /// The field of the argument structure.
        arg: &'static str,
        /// Which entry of `arg`.
        index: usize,
        /// Its value.
        id: u32,
        /// The number of rows in the table.
        limit: usize,
    },
    /// Boundaries that do not start at 0, decrease, or do not end at the number of rows.
    #[error("{op}: `{arg}[{index}]` is {got}, but must be {want}")]
    BadOffsets {
        /// The kernel, `family::function`.
        op: &'static str,
        /// The field of the argument structure.
        arg: &'static str,
        /// Which entry of `arg`.
        index: usize,
        /// Its value.
        got: usize,
        /// What it may be, in words.
        want: String,
    },
    /// The environment names instructions that the processor, or its operating system, does not have.
    #[error(
        "{setting} names {want}, which this machine does not have; it has {best} and what comes before it. Unset {setting}"
    )]
    MissingInstructions {
        /// The variable.
        setting: &'static str,
        /// The set that it names.
        want: &'static str,
        /// The richest set of this machine.
        best: &'static str,
    },
    /// A number outside its domain.
    #[error("{op}: `{arg}` is {got}, but must be {want}")]
    BadArgument {
        /// The kernel, `family::function`.
        op: &'static str,
        /// The field of the argument structure.
        arg: &'static str,
        /// Its value.
        got: f64,
        /// What it may be, in words.
        want: &'static str,
    },
}

fn list(dtypes: &[(&'static str, Dtype)]) -> String {
    let parts: Vec<String> = dtypes.iter().map(|(arg, dtype)| format!("{arg}: {dtype}")).collect();
    parts.join(", ")
}
