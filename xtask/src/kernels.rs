//! `cargo xtask kernels`: compiles every CUDA kernel for the architectures that matter and holds what the compiler says of them
//! against `findap-kernels/kernels.snapshot`. Needs no GPU.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

#[derive(Default, clap::Args)]
pub(crate) struct Arguments {
    /// Write the snapshot anew instead of failing where it differs
    #[arg(long)]
    accept: bool,
}

/// The runtime compiler whose figures the snapshot has. Another version may use other registers.
pub(crate) const COMPILER: &str = "nvidia-cuda-nvrtc==13.0.88";
/// Architectures to compile for: machine code for Ampere and Hopper; for Blackwell, only that it compiles.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "compute_100a"];

/// The resources that one kernel uses on one architecture, as the compiler reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    registers: u32,
    shared_bytes: u32,
    stack_bytes: u32,
    spill_bytes: u32,
}

/// Usages by kernel and architecture.
type Table = BTreeMap<(String, String), Usage>;

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Some(libraries) = compiler_folder()? else {
        println!("skipped: no kernel was compiled; {COMPILER} is not here and could not be fetched");
        println!("0 kernels compiled, {} architectures skipped", ARCHITECTURES.len());
        return Ok(ExitCode::SUCCESS);
    };
    // Uses the flags of the tests, so that nothing is built twice.
    let mut build = super::cargo();
    build.args(["build", "--quiet"]).args(super::workspace_with_emulator()).args(["--example", "compile_kernels"]);
    ensure!(build.status().context("cannot start cargo")?.success(), "the example compile_kernels does not build");
    let (mut table, mut warnings) = (Table::new(), Vec::new());
    for arch in ARCHITECTURES {
        let log = compile(arch, &libraries)?;
        let (usages, serialized) = read_log(&log);
        println!("{arch}: {} files, {} kernels", log.lines().filter(|l| l.starts_with("file ")).count(), usages.len());
        table.extend(usages.into_iter().map(|(kernel, usage)| ((kernel, arch.to_owned()), usage)));
        warnings.extend(serialized.into_iter().map(|warning| format!("{arch}: {warning}")));
    }
    ensure!(warnings.is_empty(), "the compiler has taken products of a warpgroup apart:\n{}", warnings.join("\n"));
    let file = super::workspace_root().join("findap-kernels").join("kernels.snapshot");
    if arguments.accept {
        std::fs::write(&file, render(&table)).with_context(|| format!("cannot write {}", file.display()))?;
        println!("{} kernels compiled; wrote {}", table.len(), file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let old = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let differences = differences(&parse(&old)?, &table);
    if differences.is_empty() {
        println!("{} kernels compiled, as in the snapshot", table.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}", differences.join("\n"));
    bail!("{} kernels differ from the snapshot; --accept writes it anew", differences.len());
}

// ---- The compiler ----

/// The folder of `libnvrtc`: `FINDAP_CUDA_LIB` where it is set, else a Python environment below `target` that is made once.
/// `None` where it cannot be fetched.
pub(crate) fn compiler_folder() -> Result<Option<PathBuf>> {
    if let Some(folder) = std::env::var_os("FINDAP_CUDA_LIB") {
        return Ok(Some(folder.into()));
    }
    let environment = super::workspace_root().join("target").join("cuda-compiler");
    if let Some(folder) = find_libraries(&environment) {
        return Ok(Some(folder));
    }
    let python = Command::new("python3").args(["-m", "venv"]).arg(&environment).status();
    if !python.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let pip = Command::new(environment.join("bin").join("python"))
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", COMPILER])
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let folder = find_libraries(&environment);
    ensure!(folder.is_some(), "{COMPILER} is installed in {} but has no library", environment.display());
    Ok(folder)
}

/// The folder of `libnvrtc` where it has been fetched.
pub(crate) fn fetched_libraries() -> Option<PathBuf> {
    find_libraries(&super::workspace_root().join("target").join("cuda-compiler"))
}

fn find_libraries(environment: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(environment.join("lib")).ok()?;
    let folders = versions.filter_map(|entry| Some(entry.ok()?.path().join("site-packages/nvidia/cu13/lib")));
    folders.into_iter().find(|folder| folder.is_dir())
}

/// Compiles all kernels with the library's own compiler settings and returns the compiler's log.
fn compile(arch: &str, libraries: &Path) -> Result<String> {
    let output = Command::new(super::workspace_root().join("target/debug/examples/compile_kernels"))
        .arg(arch)
        .env("FINDAP_CUDA_LIB", libraries)
        .output()
        .context("cannot start the example compile_kernels")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the kernels do not compile for {arch}:\n{said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

// ---- The compiler's log ----

/// Reads the usage of each kernel, and the messages C7500 to C7599: wgmma waits where the source does not say so.
fn read_log(log: &str) -> (BTreeMap<String, Usage>, Vec<String>) {
    let (mut usages, mut warnings, mut kernel) = (BTreeMap::<String, Usage>::new(), Vec::new(), String::new());
    for line in log.lines() {
        if line.contains("(C75") {
            warnings.push(line.trim().to_owned());
        } else if let Some(named) = line.split("entry function '").nth(1) {
            kernel = named.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("bytes stack frame") && !kernel.is_empty() {
            let usage = usages.entry(kernel.clone()).or_default();
            usage.stack_bytes = number_before(line, "bytes stack frame");
            usage.spill_bytes = number_before(line, "bytes spill stores") + number_before(line, "bytes spill loads");
        } else if line.contains(" registers") && !kernel.is_empty() {
            let usage = usages.entry(kernel.clone()).or_default();
            usage.registers = number_before(line, "registers");
            usage.shared_bytes = number_before(line, "bytes smem");
        }
    }
    (usages, warnings)
}

/// The number before `what` in a line; 0 where `what` is not in it.
fn number_before(line: &str, what: &str) -> u32 {
    let before = line.split(what).next().filter(|before| before.len() < line.len()).unwrap_or_default();
    before.split_whitespace().next_back().and_then(|word| word.parse().ok()).unwrap_or(0)
}

// ---- The snapshot ----

fn render(table: &Table) -> String {
    let mut text = format!(
        "# What {COMPILER} makes of each kernel. `cargo xtask kernels` compares, `--accept` writes.\n\
         # kernel, architecture, registers, static shared bytes, stack bytes, spilled bytes\n"
    );
    for ((kernel, arch), Usage { registers, shared_bytes, stack_bytes, spill_bytes }) in table {
        writeln!(text, "{kernel:<40} {arch:<8} {registers:>4} {shared_bytes:>6} {stack_bytes:>6} {spill_bytes:>6}")
            .expect("a string takes every text");
    }
    text
}

fn parse(text: &str) -> Result<Table> {
    let mut table = Table::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [kernel, arch, numbers @ ..] = &words[..] else { bail!("kernels.snapshot line {}: too short", number + 1) };
        let numbers: Vec<u32> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
        let [registers, shared_bytes, stack_bytes, spill_bytes] = numbers[..] else {
            bail!("kernels.snapshot line {}: four numbers must follow the architecture", number + 1)
        };
        let usage = Usage { registers, shared_bytes, stack_bytes, spill_bytes };
        table.insert(((*kernel).to_owned(), (*arch).to_owned()), usage);
    }
    Ok(table)
}

/// One line for each kernel that is new, gone or different; new spills are named as such.
fn differences(old: &Table, new: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    for ((kernel, arch), usage) in new {
        let before = old.get(&(kernel.clone(), arch.clone()));
        let spilled = before.map_or(0, |before| before.spill_bytes);
        if usage.spill_bytes > spilled {
            lines.push(format!("NEW SPILL {kernel} {arch}: {} bytes, {spilled} before", usage.spill_bytes));
        } else if before.is_none() {
            lines.push(format!("new {kernel} {arch}: {usage:?}"));
        } else if before != Some(usage) {
            lines.push(format!("changed {kernel} {arch}: {before:?} is now {usage:?}"));
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(key)).map(|(kernel, arch)| format!("gone {kernel} {arch}"));
    lines.extend(gone);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "file a/kernel.cu NVRTC 13.0 100 bytes
ptxas info    : 20 bytes gmem, 40 bytes cmem[4]
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 26 registers, used 1 barriers, 768 bytes smem, 372 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 0 barriers, 372 bytes cmem[0]
ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized
";

    #[test]
    fn the_compilers_words_are_read() {
        let (usages, warnings) = read_log(LOG);
        let first = Usage { registers: 26, shared_bytes: 768, stack_bytes: 16, spill_bytes: 12 };
        assert_eq!(usages["first"], first);
        assert_eq!(usages["second"], Usage { registers: 64, ..Usage::default() });
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_snapshot_is_read_as_written_and_every_difference_named() {
        let table = |usages: &[(&str, Usage)]| -> Table {
            usages.iter().map(|(kernel, usage)| (((*kernel).to_owned(), "sm_80".to_owned()), *usage)).collect()
        };
        let usage = |registers, spill_bytes| Usage { registers, spill_bytes, ..Usage::default() };
        let old = table(&[("a", usage(10, 0)), ("b", usage(20, 0)), ("c", usage(30, 4)), ("d", usage(1, 0))]);
        assert_eq!(parse(&render(&old)).unwrap(), old);
        let new = table(&[("a", usage(10, 8)), ("b", usage(21, 0)), ("c", usage(30, 4)), ("e", usage(1, 0))]);
        let differences = differences(&old, &new);
        let starts = ["NEW SPILL a", "changed b", "new e", "gone d"];
        assert!(differences.iter().zip(starts).all(|(line, start)| line.starts_with(start)), "{differences:?}");
        assert_eq!(differences.len(), starts.len());
    }
}
