//! `cargo xtask bench profile`: where the time of a training step on the CPU goes, by family of kernels.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{cargo, said, target_folder, workspace_root};

/// Counts of samples by part of the step.
type Samples = BTreeMap<String, usize>;

/// Samples the example `step` with these keys by Linux `perf`, and returns a table of each part's share.
pub(crate) fn table(keys: &[String]) -> Result<String> {
    // The program is linked to a fixed address, so that perf's addresses are those of the file.
    let status = cargo()
        .args(["rustc", "--profile", "profiling", "-p", "findap-train", "--example", "step", "--"])
        .args(["-C", "relocation-model=static"])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "it does not build");
    let folder = target_folder().join("profile");
    fs::create_dir_all(&folder)?;
    let samples = folder.join("samples");
    let step = Command::new(target_folder().join("profiling").join("examples").join("step"));
    let mut perf = Command::new("perf");
    perf.args(["record", "--quiet", "--freq", "999", "--output"]).arg(&samples).arg("--").arg(step.get_program());
    let status = perf.args(keys).stdout(Stdio::null()).status().context("`perf` (Linux) cannot be started")?;
    ensure!(status.success(), "perf failed; it may need /proc/sys/kernel/perf_event_paranoid at 1 or below");
    let script = said(Command::new("perf").args(["script", "--fields", "ip,sym,dso", "--input"]).arg(&samples))?;
    show(&by_part(&script, Path::new(step.get_program()), &folder.join("addresses"))?)
}

/// Counts samples by part, without those outside of the kernels, such as in the making of the model.
fn by_part(script: &str, program: &Path, addresses: &Path) -> Result<Samples> {
    let mut samples = Samples::new();
    let mut in_program: BTreeMap<&str, usize> = BTreeMap::new();
    for line in script.lines() {
        let (address, place) = line.trim().trim_start_matches('0').split_once(' ').unwrap_or_default();
        if place.contains("/examples/step") {
            *in_program.entry(address).or_default() += 1;
        } else if place.contains("libc") {
            *samples.entry("copies (libc)".to_owned()).or_default() += 1;
        } else if place.contains("[kernel") {
            *samples.entry("the operating system".to_owned()).or_default() += 1;
        }
    }
    let list: Vec<&str> = in_program.keys().copied().collect();
    fs::write(addresses, list.join("\n"))?;
    // The output has for each address a line 0x.., then two lines for each function around it, from the innermost.
    let frames = said(
        Command::new("addr2line").args(["-a", "-i", "-f", "-e"]).arg(program).arg(format!("@{}", addresses.display())),
    )?;
    for block in frames.split("\n0x") {
        let mut lines = block.trim_start_matches("0x").lines();
        let address = lines.next().unwrap_or_default().trim_start_matches('0');
        let Some(part) = part(block) else { continue };
        *samples.entry(part).or_default() += in_program.get(address).copied().unwrap_or(0);
    }
    Ok(samples)
}

/// The family of the innermost function that belongs to one; for products, also which part of them.
fn part(frames: &str) -> Option<String> {
    const SOURCES: &str = "findap-kernels/src/";
    let mut from_lanes = None;
    for line in frames.lines() {
        let Some((_, place)) = line.split_once(SOURCES) else { continue };
        let file = place.split(':').next().unwrap_or(place);
        let family = file.split(['/', '.']).next().unwrap_or(file);
        if family == "matmul" {
            let is_tile = ["tile", "vector", "amx"].iter().any(|name| file.contains(name));
            return Some(format!("products: {}", if is_tile { "multiplying" } else { "packing and the rest" }));
        }
        if family == "lanes" {
            // vector code counts for its caller; without one it is that of attention's products
            from_lanes = Some("attention".to_owned());
        } else if workspace_root().join(SOURCES).join(family).is_dir() {
            return Some(family.to_owned());
        }
    }
    from_lanes
}

fn show(samples: &Samples) -> Result<String> {
    let total: usize = samples.values().sum();
    ensure!(total > 0, "perf took no samples");
    let mut rows: Vec<_> = samples.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let mut table = String::from("| part of the step | share of its time |\n|---|---|");
    for (part, count) in rows {
        write!(table, "\n| {part} | {:.1} % |", 100.0 * *count as f64 / total as f64)?;
    }
    table.push('\n');
    Ok(table)
}
