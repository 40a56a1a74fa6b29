//! `cargo xtask bench`: measures speed on this CPU beside the CPU's own limits and beside transformers and torch.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{become_command, build, built, cargo, profile, said, target_folder, workspace_root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Run the criterion benches; further arguments go to `cargo bench`
    Kernels {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        further: Vec<String>,
    },
    /// Time training steps of several models
    Step(Pairs),
    /// Time generation and the scoring of answers
    Inference(Pairs),
    /// Where the time of a training step goes, by family of kernels; needs Linux `perf` and `addr2line`
    Profile {
        /// Keys of the example `step`: hidden=768 sequence=2048
        #[arg(value_name = "KEY=VALUE")]
        keys: Vec<String>,
    },
    /// Kernels, steps and inference on this CPU, with its measured limits, into docs/bench/CPU-DATE.md
    Cpu(Pairs),
}

#[derive(clap::Args)]
struct Pairs {
    /// A Python with torch, transformers, peft and lm_eval, timed in turn with us; without it only we are timed
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// How many times each is run
    #[arg(long, value_name = "N", default_value_t = 5)]
    pairs: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.what {
        // `--bench *` leaves out the unit tests, which do not know criterion's arguments.
        What::Kernels { further } => {
            return become_command(cargo().args(["bench", "--workspace", "--bench", "*"]).args(further));
        }
        What::Step(pairs) => println!("{}", compare(&STEP, pairs)?),
        What::Inference(pairs) => println!("{}", compare(&INFERENCE, pairs)?),
        What::Profile { keys } => println!("{}", profile::table(keys)?),
        What::Cpu(pairs) => println!("{}", write_page(pairs)?.display()),
    }
    Ok(ExitCode::SUCCESS)
}

// ---- Whole programs, in turn with the peer's, so that both run under the same conditions ----

/// A program of ours and the peer's script that takes the same keys and prints the same JSON object.
struct Program {
    example: &'static str,
    script: &'static str,
    /// The keys of the object that are compared, larger being better, each with its title.
    speeds: &'static [(&'static str, &'static str)],
    /// Keys whose numbers must agree between the two, each with its relative tolerance.
    agree: &'static [(&'static str, f64)],
    /// The cases that are timed: name, keys of the model, keys of the work.
    cases: &'static [(&'static str, &'static str, &'static str)],
}

const SMALL: &str = "hidden=256 layers=8 heads=4 kv_heads=2 ffn=704 vocab=32000";
const LARGE: &str = "hidden=768 layers=12 heads=12 kv_heads=4 ffn=2048 vocab=32000";

const STEP: Program = Program {
    example: "step",
    script: "step.py",
    speeds: &[("tokens_per_s", "tokens/s")],
    agree: &[],
    cases: &[
        ("14M, 512 tokens", SMALL, "sequence=512 steps=5 warm=2"),
        ("14M, 2048 tokens", SMALL, "sequence=2048 steps=3 warm=1"),
        ("14M, 2048 tokens in 8 documents", SMALL, "sequence=2048 documents=8 steps=3 warm=1"),
        ("100M, 512 tokens", LARGE, "sequence=512 steps=2 warm=1"),
        ("100M, 2048 tokens", LARGE, "sequence=2048 steps=1 warm=1"),
        ("100M, 2048 tokens in 8 documents", LARGE, "sequence=2048 documents=8 steps=1 warm=1"),
        ("14M, 512 tokens, bf16", SMALL, "sequence=512 steps=3 warm=1 compute=bf16"),
        ("14M, 2048 tokens in 8 documents, bf16", SMALL, "sequence=2048 documents=8 steps=1 warm=1 compute=bf16"),
        ("100M, 512 tokens, bf16", LARGE, "sequence=512 steps=1 warm=1 compute=bf16"),
        ("14M, 512 tokens, LoRA of rank 16", SMALL, "sequence=512 steps=5 warm=2 lora=16"),
        ("100M, 512 tokens, LoRA of rank 16", LARGE, "sequence=512 steps=2 warm=1 lora=16"),
    ],
};

const INFERENCE: Program = Program {
    example: "inference",
    script: "inference.py",
    speeds: &[("generated_tokens_per_s", "generated tokens/s"), ("scored_items_per_s", "scored items/s")],
    // both sides compute in f32 and sum in different orders
    agree: &[("generated_logp", 1e-4), ("scored_logp", 1e-4)],
    cases: &[
        ("14M, 32 prompts of 64 tokens", SMALL, "prompts=32 prompt_tokens=64 new_tokens=64 questions=32"),
        (
            "14M, 64 prompts of 64 tokens at temperature 0.7",
            SMALL,
            "prompts=64 prompt_tokens=64 new_tokens=64 questions=8 temperature_percent=70",
        ),
        ("100M, 16 prompts of 64 tokens", LARGE, "prompts=16 prompt_tokens=64 new_tokens=32 questions=8"),
        ("100M, 1 prompt of 256 tokens", LARGE, "prompts=1 prompt_tokens=256 new_tokens=32 questions=8"),
    ],
};

/// A table of a program's cases: medians of the runs, and medians of the pairs' ratios.
fn compare(program: &Program, arguments: &Pairs) -> Result<String> {
    build(&["--example", program.example])?;
    let mut table = String::from("| case | parameters |");
    for (_, title) in program.speeds {
        write!(table, " ours, {title} | peer, {title} | ratio |")?;
    }
    table.push_str(" ours, MiB | peer, MiB | ratio |\n|---|---|---|---|---|");
    table.push_str(&"---|---|---|".repeat(program.speeds.len()));
    for (name, model, work) in program.cases {
        let keys: Vec<&str> = model.split(' ').chain(work.split(' ')).collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.pairs {
            ours.push(timed(built(&format!("examples/{}", program.example)).args(&keys))?);
            if let Some(python) = &arguments.peer {
                let script = workspace_root().join("bench/peers").join(program.script);
                theirs.push(timed(Command::new(python).arg(script).args(&keys))?);
            }
        }
        for (key, limit) in program.agree {
            for (ours, theirs) in numbers(&ours, key).into_iter().zip(numbers(&theirs, key)) {
                let is_near = (ours - theirs).abs() <= limit * theirs.abs();
                ensure!(is_near, "{name}: {key} is {ours} here and {theirs} in {}", program.script);
            }
        }
        let parameters = median(numbers(&ours, "parameters")).unwrap_or(0.0) / 1e6;
        write!(table, "\n| {name} | {parameters:.1}M |")?;
        for (key, _) in program.speeds.iter().chain(&[("peak_memory_mib", "MiB")]) {
            let (ours, theirs) = (numbers(&ours, key), numbers(&theirs, key));
            let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect());
            write!(table, " {} | {} | {} |", show(median(ours), 0), show(median(theirs), 0), show(ratio, 2))?;
        }
        eprintln!("{}", table.lines().last().unwrap_or_default());
    }
    Ok(table)
}

/// Runs a program, and returns the JSON object that it prints.
fn timed(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("a bench printed no JSON object")
}

fn numbers(runs: &[Value], key: &str) -> Vec<f64> {
    runs.iter().filter_map(|run| run[key].as_f64()).collect()
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

// ---- The page ----

fn write_page(arguments: &Pairs) -> Result<PathBuf> {
    let begun = std::time::SystemTime::now();
    let criterion = ["--", "--warm-up-time", "1", "--measurement-time", "2"];
    let mut kernels = cargo();
    kernels.args(["bench", "--workspace", "--bench", "kernels"]).args(criterion);
    let status = kernels.status().context("cannot start cargo")?;
    ensure!(status.success(), "the benches failed");
    let cpu = first_line("/proc/cpuinfo", "model name").unwrap_or_else(|| "an unknown CPU".to_owned());
    let date = said(Command::new("date").args(["-u", "+%F"]))?;
    let commit = said(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(workspace_root()))?;
    let threads = std::thread::available_parallelism()?;
    let peer = match &arguments.peer {
        Some(python) => {
            let versions = "import torch, transformers; print('torch', torch.__version__, 'and transformers', transformers.__version__)";
            format!(
                "The peer is {} on the same threads, in f32, or with autocast in bf16 where that is said.",
                said(Command::new(python).args(["-c", versions]))?
            )
        }
        None => "No peer was timed.".to_owned(),
    };
    let page = format!(
        "# {cpu}, {date}\n\nMade by `cargo xtask bench cpu --pairs {}` at commit {commit} on {threads} threads. {peer} The programs run in turn; \
         figures are medians of the runs, ratios medians of the pairs' ratios. Absolute speeds hold for that hour on that machine only.\n\n\
         ## A training step\n\nForward, backward, clipping and AdamW over random weights and tokens.\n\n{}\n\n\
         ## Generation and scoring\n\nContinuations of random prompts, greedy where no temperature is named (transformers' `generate` at the peer), and four \
         answers of four tokens to each question of 128 (lm_eval's `_loglikelihood_tokens`). Both programs must come to the same log-probabilities.\n\n{}\n\n\
         ## Where the time of a step goes\n\nSamples of Linux perf, by family of kernels.\n\n{}\n\n## The kernels and their limits\n\n{}",
        arguments.pairs,
        compare(&STEP, arguments)?,
        compare(&INFERENCE, arguments)?,
        profiles(),
        roofline(begun)?,
    );
    let file = workspace_root().join("docs/bench").join(format!("{}-{date}.md", slug(&cpu)));
    fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// The profiles of some of the steps as text, or the reason why there are none.
fn profiles() -> String {
    let cases = STEP.cases.iter().filter(|(name, ..)| name.contains("2048") && !name.contains("bf16"));
    let profile = |(name, model, work): &(&str, &str, &str)| {
        let keys: Vec<String> = model.split(' ').chain(work.split(' ')).map(str::to_owned).collect();
        Ok(format!("{name}:\n\n{}", profile::table(&keys)?))
    };
    let tables: Result<Vec<String>> = cases.map(profile).collect();
    tables.map_or_else(|error| format!("Not measured: {error:#}."), |tables| tables.join("\n"))
}

/// A table of the criterion cases that ran since `begun`, beside the limits measured with them.
fn roofline(begun: std::time::SystemTime) -> Result<String> {
    let folder = target_folder().join("criterion");
    let mut cases = Vec::new();
    for group in folders(&folder)? {
        for case in folders(&group)? {
            let [about, estimates] = ["benchmark", "estimates"].map(|name| case.join(format!("new/{name}.json")));
            // a result of an earlier run, of a bench that may no longer exist
            if !fs::metadata(&estimates).and_then(|file| file.modified()).is_ok_and(|time| time >= begun) {
                continue;
            }
            let (about, estimates): (Value, Value) = (read_json(&about)?, read_json(&estimates)?);
            let seconds = estimates["median"]["point_estimate"].as_f64().unwrap_or(f64::NAN) / 1e9;
            let [bytes, operations] = ["Bytes", "Elements"].map(|unit| about["throughput"][unit].as_f64());
            if let Some(work) = bytes.or(operations) {
                let name = about["full_id"].as_str().unwrap_or_default().to_owned();
                cases.push((name, bytes.is_some(), work / seconds / 1e9, seconds));
            }
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    let limit = |is_bytes: bool| {
        let of_kind = cases.iter().filter(|case| case.0.starts_with("peak/") && case.1 == is_bytes);
        of_kind.map(|case| case.2).fold(0.0, f64::max)
    };
    let (bandwidth, arithmetic) = (limit(true), limit(false));
    ensure!(bandwidth > 0.0 && arithmetic > 0.0, "the benches of the group `peak` did not run");
    let mut table = format!(
        "Measured limits: {arithmetic:.0} GFLOP/s of multiply-adds in registers, {bandwidth:.1} GB/s of copying through memory. A kernel that \
         moves memory is held against the second (it may pass it where its arrays fit the caches or are changed in place), one that computes against the first.\n\n\
         | case | limit | rate | of the limit | milliseconds |\n|---|---|---|---|---|"
    );
    for (name, is_bytes, rate, seconds) in cases.iter().filter(|case| !case.0.starts_with("peak/")) {
        let (kind, unit, limit) =
            if *is_bytes { ("memory", "GB/s", bandwidth) } else { ("arithmetic", "GFLOP/s", arithmetic) };
        let (share, milliseconds) = (rate / limit, seconds * 1e3);
        write!(table, "\n| {name} | {kind} | {rate:.1} {unit} | {share:.2} | {milliseconds:.3} |")?;
    }
    table.push('\n');
    Ok(table)
}

fn folders(of: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(of).with_context(|| format!("cannot read {}", of.display()))?;
    Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

fn read_json(file: &Path) -> Result<Value> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))
}

fn first_line(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

/// A CPU's name in the form of a file name.
fn slug(name: &str) -> String {
    let plain = name.to_lowercase().replace("(r)", "").replace("(tm)", "");
    let words = plain.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).filter(|word| !word.is_empty());
    words.filter(|word| !["cpu", "processor"].contains(word)).collect::<Vec<_>>().join("-")
}
