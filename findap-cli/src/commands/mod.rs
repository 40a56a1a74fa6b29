//! One file per command: its arguments, and the library calls behind it.

pub(crate) mod doctor;
