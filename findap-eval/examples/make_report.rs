//! Writes the report of a run folder: `cargo run -p findap-eval --example make_report -- runs/demo`

use std::path::PathBuf;

use findap_eval::{EvalError, report};

#[allow(clippy::print_stdout)] // an example shows what it made
fn main() -> Result<(), EvalError> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("runs/demo"), PathBuf::from);
    println!("{}", report::write(&folder, false)?.display());
    Ok(())
}
