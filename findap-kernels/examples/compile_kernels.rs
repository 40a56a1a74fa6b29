//! Compiles CUDA kernels as the library does and prints what the compiler says of them.
//! `cargo run -p findap-kernels --example compile_kernels -- sm_80 [src/rms_norm/kernel.cu ...]`
//!
//! For each file a line `file NAME VERSION`, then the compiler's log. Without files: every kernel of every family that the
//! architecture runs. `compute_*` makes PTX, whose size is printed.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use findap_kernels::cuda::{Compiler, Needs, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let arch = arguments.next().ok_or("name an architecture, such as sm_80")?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if files.is_empty() {
        files = every_kernel(&sources)?;
    }
    let compiler = Compiler::find_with_cache(None)?;
    let mut out = std::io::stdout().lock();
    for file in files {
        let text: &'static str = Box::leak(std::fs::read_to_string(&file)?.into_boxed_str());
        let name: &'static str =
            Box::leak(file.strip_prefix(&sources).unwrap_or(&file).display().to_string().into_boxed_str());
        let needs = if name.contains("sm90") { Needs::Hopper } else { Needs::Ampere };
        let runs = needs == Needs::Ampere || arch.ends_with("90a");
        if !runs {
            continue;
        }
        let module = compiler.compile(&Source { file: name, text, needs }, &arch, &["--ptxas-options=-v"])?;
        writeln!(out, "file {name} NVRTC {} {} bytes\n{}", compiler.version(), module.image.len(), module.log)?;
    }
    Ok(())
}

/// `kernel*.cu` of every family, by name.
fn every_kernel(sources: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(sources)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|suffix| suffix == "cu") {
                found.push(file);
            }
        }
    }
    found.sort();
    Ok(found)
}
