//! `FINDAP_GOLDEN` names the folder of golden models and numbers where it is not that of the sources.

use std::path::{Path, PathBuf};

mod device;
mod generate;
mod golden;
mod gradients;
mod plain;

fn golden(path: &str) -> PathBuf {
    let sources = || Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden");
    std::env::var_os("FINDAP_GOLDEN").map_or_else(sources, PathBuf::from).join(path)
}
