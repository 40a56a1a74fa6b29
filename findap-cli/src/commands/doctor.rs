//! `findap doctor`: what this machine has, and what to do about what it lacks.

use std::path::Path;

use anyhow::Result;
use findap_tensor::{Device, Probe, probe};
use serde::Serialize;

use crate::terminal;

/// Shows what this machine offers and what to do about what it lacks
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Findings {
    version: &'static str,
    system: String,
    cpu: String,
    cores: usize,
    instructions: Vec<&'static str>,
    memory_bytes: Option<u64>,
    memory_free_bytes: Option<u64>,
    disk_free_bytes: Option<u64>,
    nvidia_driver: Option<String>,
    gpus: Vec<String>,
    device: String,
    advice: Vec<String>,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let findings = examine();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
        return Ok(());
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "unknown".to_owned(), terminal::bytes);
    println!("findap        {}", findings.version);
    println!("system        {}", findings.system);
    let cpu = format!("{}, {} cores ({})", findings.cpu, findings.cores, findings.instructions.join(", "));
    println!("{}", terminal::paragraph("cpu           ", &cpu));
    println!("memory        {} free of {}", size(findings.memory_free_bytes), size(findings.memory_bytes));
    println!("disk          {} free here", size(findings.disk_free_bytes));
    println!("gpu driver    {}", findings.nvidia_driver.as_deref().unwrap_or("none"));
    for gpu in &findings.gpus {
        println!("{}", terminal::paragraph("gpu           ", gpu));
    }
    println!("computes on   {}", findings.device);
    println!();
    if findings.advice.is_empty() {
        println!("Nothing to do: `findap run recipes/demo.toml` will work here.");
    }
    for advice in &findings.advice {
        println!("{}", terminal::paragraph("- ", advice));
    }
    Ok(())
}

fn examine() -> Findings {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory_bytes = findap_train::plan::total_memory_bytes();
    let memory_free_bytes = findap_train::plan::free_memory_bytes();
    let disk_free_bytes = findap_train::folder::free_bytes(Path::new("."));
    let nvidia_driver = nvidia_driver();
    let instructions = instructions();

    let mut advice = Vec::new();
    if memory_free_bytes.is_some_and(|free| free < 2 << 30) {
        advice.push("Less than 2 GiB of memory are free: close other programs, or lower `batch_tokens` and set `recompute = \"block\"`.".to_owned());
    }
    if disk_free_bytes.is_some_and(|free| free < 1 << 30) {
        advice.push("Less than 1 GiB of disk is free here: put the run elsewhere with --run-dir.".to_owned());
    }
    let (gpus, device) = devices(nvidia_driver.is_some(), &mut advice);
    if !instructions.contains(&"avx2") && !instructions.contains(&"neon") {
        advice.push("This CPU has no AVX2: everything works, several times slower.".to_owned());
    }
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu_name(),
        cores,
        instructions,
        memory_bytes,
        memory_free_bytes,
        disk_free_bytes,
        nvidia_driver,
        gpus,
        device,
        advice,
    }
}

/// The GPUs that the driver sees, and the device on which `run.device = "auto"` trains; adds to `advice` where that is no GPU.
fn devices(has_driver: bool, advice: &mut Vec<String>) -> (Vec<String>, String) {
    let found = probe();
    let describe = |gpu: &findap_tensor::GpuInfo| {
        let (major, minor) = gpu.compute_capability;
        let memory = terminal::bytes(gpu.memory_bytes as u64);
        // a tenth is left for activations and the driver
        let billions = |bytes_per_weight: f64| 0.9 * gpu.memory_bytes as f64 / bytes_per_weight / 1e9;
        format!(
            "cuda:{} {}, {memory}, compute capability {major}.{minor}; trains all of some {:.1} billion weights in bf16, {:.1} with \
             model.state = \"bf16\"",
            gpu.ordinal,
            gpu.name,
            billions(18.0),
            billions(8.0)
        )
    };
    let gpus = found.devices().iter().map(describe).collect();
    let device = match &found {
        Probe::Ready { .. } => match Device::gpu(0) {
            Ok(_) => "cuda:0",
            Err(error) => {
                advice.push(format!("There is a GPU, but it cannot be used: {error}."));
                "cpu"
            }
        },
        Probe::Absent(reason) => {
            if has_driver {
                advice.push(format!("There is an NVIDIA driver, but no usable GPU: {reason}."));
            }
            "cpu"
        }
    };
    (gpus, device.to_owned())
}

pub(crate) fn cpu_name() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn instructions() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx2") {
            found.push("avx2");
        }
        if std::arch::is_x86_feature_detected!("fma") {
            found.push("fma");
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            found.push("avx512f");
        }
    }
    #[cfg(target_arch = "aarch64")]
    found.push("neon");
    found
}

fn nvidia_driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    text.lines().next()?.split_whitespace().find(|word| word.contains('.')).map(str::to_owned)
}
