//! Compiles CUDA kernels as the library does and prints what the compiler says of them.
//! `cargo run -p findap-kernels --example compile_kernels -- sm_80 [src/rms_norm/kernel.cu ...]`
//!
//! `compile_kernels --output FOLDER` writes machine code for Ampere and Hopper instead, as `FINDAP_CUBIN` takes it.
//!
//! For each file a line `file NAME VERSION`, then the compiler's log. Without files: every kernel of every family that the
//! architecture runs. `compute_*` makes PTX, whose size is printed.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use findap_kernels::cuda::compile::{arch, name_made_before};
use findap_kernels::cuda::{Compiler, Needs, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).peekable();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    if arguments.next_if_eq("--output").is_some() {
        return write_machine_code(&sources, Path::new(&arguments.next().ok_or("name a folder after --output")?));
    }
    let arch = arguments.next().ok_or("name an architecture, such as sm_80")?;
    let mut files: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    if files.is_empty() {
        files = every_kernel(&sources)?;
    }
    let compiler = Compiler::find_with_cache(None)?;
    let mut out = std::io::stdout().lock();
    for file in files {
        let source = source(&sources, &file)?;
        let runs = source.needs == Needs::Ampere || arch.ends_with("90a");
        if !runs {
            continue;
        }
        let module = compiler.compile(&source, &arch, &["--ptxas-options=-v"])?;
        let Source { file, .. } = source;
        writeln!(out, "file {file} NVRTC {} {} bytes\n{}", compiler.version(), module.image.len(), module.log)?;
    }
    Ok(())
}

/// The machine code of every kernel, and of those that probe the Hopper units.
fn write_machine_code(sources: &Path, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut files = every_kernel(sources)?;
    files.push(sources.join("emulator/seeded/pipeline_sm90.cu"));
    let compiler = Compiler::find_with_cache(None)?;
    std::fs::create_dir_all(folder)?;
    let mut out = std::io::stdout().lock();
    for file in files {
        let source = source(sources, &file)?;
        for capability in [(8, 0), (9, 0)].into_iter().filter(|capability| source.runs_on(*capability)) {
            let arch = arch(&source, capability);
            let image = compiler.compile(&source, &arch, &[])?.image;
            writeln!(out, "{} {arch} {} bytes", source.file, image.len())?;
            std::fs::write(folder.join(name_made_before(&source, &arch)), image)?;
        }
    }
    Ok(())
}

/// A kernel's file as the library has it.
fn source(sources: &Path, file: &Path) -> std::io::Result<Source> {
    let text = Box::leak(std::fs::read_to_string(file)?.into_boxed_str());
    let name: &'static str =
        Box::leak(file.strip_prefix(sources).unwrap_or(file).display().to_string().into_boxed_str());
    let needs = if name.contains("sm90") { Needs::Hopper } else { Needs::Ampere };
    Ok(Source { file: name, text, needs })
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
