//! One file per command: its arguments, and the library calls behind it.

pub(crate) mod compare;
pub(crate) mod doctor;
pub(crate) mod plan;
pub(crate) mod report;
