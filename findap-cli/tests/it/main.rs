//! The integration tests of the workspace: one binary, so that there is one link step.

mod bad_input;
mod circles;
mod demo;
mod edges;
mod guide;
mod init;
mod recipe;
mod run;
mod score;
mod talk;
mod tidy;
mod tool;
mod usage;
mod whole;
