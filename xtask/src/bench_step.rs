//! `cargo xtask bench-step`: a training step against the peer's, in turn, so that both meet the same machine.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{build, built, workspace_root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A Python with torch and transformers; without it only our own step is timed
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// How many times each is run
    #[arg(long, value_name = "N", default_value_t = 5)]
    pairs: usize,
}

const SMALL: &str = "hidden=256 layers=8 heads=4 kv_heads=2 ffn=704 vocab=32000";
const LARGE: &str = "hidden=768 layers=12 heads=12 kv_heads=4 ffn=2048 vocab=32000";

/// What is timed: its name, the model's keys, the batch's keys.
const CASES: [(&str, &str, &str); 6] = [
    ("14M, 512 tokens", SMALL, "sequence=512 steps=5 warm=2"),
    ("14M, 2048 tokens", SMALL, "sequence=2048 steps=3 warm=1"),
    ("14M, 2048 tokens in 8 documents", SMALL, "sequence=2048 documents=8 steps=3 warm=1"),
    ("100M, 512 tokens", LARGE, "sequence=512 steps=2 warm=1"),
    ("100M, 2048 tokens", LARGE, "sequence=2048 steps=1 warm=1"),
    ("100M, 2048 tokens in 8 documents", LARGE, "sequence=2048 documents=8 steps=1 warm=1"),
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    build(&["--example", "step"])?;
    println!(
        "| case | parameters | ours, tokens/s | ours, MiB | peer, tokens/s | peer, MiB | speed ratio | memory ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (name, model, batch) in CASES {
        let keys: Vec<&str> = model.split(' ').chain(batch.split(' ')).collect();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..arguments.pairs {
            ours.push(timed(built("examples/step").args(&keys))?);
            if let Some(python) = &arguments.peer {
                theirs.push(timed(Command::new(python).arg(workspace_root().join("bench/peers/step.py")).args(&keys))?);
            }
        }
        println!("{}", line(name, &ours, &theirs));
    }
    Ok(ExitCode::SUCCESS)
}

/// The JSON object that a run prints.
fn timed(command: &mut Command) -> Result<Value> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("a bench printed no JSON object")
}

fn line(name: &str, ours: &[Value], theirs: &[Value]) -> String {
    let all = |runs: &[Value], key: &str| -> Vec<f64> { runs.iter().filter_map(|run| run[key].as_f64()).collect() };
    let ratios = |key: &str| {
        let pairs = all(ours, key).into_iter().zip(all(theirs, key));
        median(pairs.map(|(ours, theirs)| ours / theirs).collect())
    };
    let show = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
    let parameters = median(all(ours, "parameters")).unwrap_or(0.0) / 1e6;
    let cells = [
        name.to_owned(),
        format!("{parameters:.1}M"),
        show(median(all(ours, "tokens_per_s")), 0),
        show(median(all(ours, "peak_memory_mib")), 0),
        show(median(all(theirs, "tokens_per_s")), 0),
        show(median(all(theirs, "peak_memory_mib")), 0),
        show(ratios("tokens_per_s"), 2),
        show(ratios("peak_memory_mib"), 2),
    ];
    format!("| {} |", cells.join(" | "))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
