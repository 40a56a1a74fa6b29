//! Whole runs.

mod adapter;
#[cfg(feature = "emulator")]
mod device;

use super::*;

/// Writes a file of one line.
fn write(folder: &Path, name: &str, line: &Value) {
    fs::write(folder.join(name), format!("{line}\n")).unwrap();
}
