//! One file per command: its arguments, and the library calls behind it.

pub(crate) mod chat;
pub(crate) mod compare;
pub(crate) mod data;
pub(crate) mod device;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod help;
pub(crate) mod init;
pub(crate) mod plan;
pub(crate) mod recipe;
pub(crate) mod rehearse;
pub(crate) mod report;
pub(crate) mod reset;
pub(crate) mod run;
pub(crate) mod sampling;
pub(crate) mod score;
pub(crate) mod serve;
pub(crate) mod tasks;
pub(crate) mod verify;
