//! `cargo xtask study`: compares the paper's recipes on the closed world, each with several seeds.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::results::newest_results;
use crate::{align_study, build, built, workspace_root};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Seeds per recipe, from 1
    #[arg(long, value_name = "N", default_value_t = 3)]
    seeds: u64,
    /// Where the runs lie; finished ones are not run again
    #[arg(long, value_name = "DIR", default_value = "runs/study")]
    folder: PathBuf,
    /// Compare what alignment learns from, and write docs/alignment-study.md
    #[arg(long)]
    alignment: bool,
}

const ALIGNED: &str = "eval.stages=[\"base\", \"group2\", \"align\"]";
const TRAINED: &str = "eval.stages=[\"group2\"]";

/// The runs of each seed: name, recipe, overrides.
const RUNS: [(&str, &str, &[&str]); 5] = [
    ("demo", "demo", &[ALIGNED]),
    ("demo-bf16", "demo", &[ALIGNED, "model.compute=\"bf16\""]),
    ("demo-cpt", "demo-cpt", &[TRAINED]),
    ("demo-sequential", "demo-sequential", &[TRAINED]),
    ("demo-nodownsample", "demo-nodownsample", &[TRAINED]),
];

/// The columns of the table: run, stage whose scores are shown, title.
const ARMS: [(&str, &str, &str); 6] = [
    ("demo", "group2", "joint"),
    ("demo", "align", "joint, aligned"),
    ("demo-bf16", "align", "joint, aligned, products in bf16"),
    ("demo-cpt", "group2", "texts alone"),
    ("demo-sequential", "group2", "texts, then conversations"),
    ("demo-nodownsample", "group2", "joint, every text"),
];

const CELLS: [&str; 8] = [
    "finance_concept",
    "finance_task",
    "finance_reasoning",
    "finance_chat",
    "general_concept",
    "general_task",
    "general_reasoning",
    "general_chat",
];

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    build(&["--bin", "findap"])?;
    let folder = workspace_root().join(&arguments.folder);
    if arguments.alignment {
        align_study::run(&folder, arguments.seeds)?;
        println!("docs/alignment-study.md");
        return Ok(ExitCode::SUCCESS);
    }
    for seed in 1..=arguments.seeds {
        for (name, recipe, settings) in RUNS {
            let status = built("findap")
                .args(["run", &format!("recipes/{recipe}.toml"), "--set", &format!("run.seed={seed}")])
                .args(settings.iter().flat_map(|setting| ["--set", setting]))
                .arg("--run-dir")
                .arg(folder.join(format!("{name}-{seed}")))
                .status()
                .context("findap cannot be started")?;
            ensure!(status.success(), "{name} with seed {seed} failed");
        }
        fs::write(workspace_root().join("docs/demo-study.md"), page(&folder, seed)?)?;
    }
    println!("docs/demo-study.md");
    Ok(ExitCode::SUCCESS)
}

fn page(folder: &Path, seeds: u64) -> Result<String> {
    let base = scores(&folder.join("demo-1/eval/base"))?;
    let over = match seeds {
        1 => "with one seed of training".to_owned(),
        _ => format!("with the mean and the standard deviation over {seeds} seeds of training"),
    };
    let mut page = format!(
        "# What the recipes came to\n\nMade by `cargo xtask study --seeds {seeds}`. Scores in percent: the mean of each capability's tasks, \
         {over}; the world is always that of seed 1. The standard error of one score from its number of questions is 1 to 5 points (`findap report` prints each), so that smaller \
         differences mean nothing.\n\n| | chance | base |"
    );
    for (_, _, title) in ARMS {
        write!(page, " {title} |")?;
    }
    page.push_str("\n|---|---|---|");
    page.push_str(&"---|".repeat(ARMS.len()));
    for cell in CELLS {
        write!(
            page,
            "\n| {} | {:.1} | {:.1} |",
            cell.replace('_', " "),
            100.0 * number(&base, cell, "chance"),
            score(&base, cell)
        )?;
        for (name, stage, _) in ARMS {
            let values = (1..=seeds)
                .map(|seed| Ok(score(&scores(&folder.join(format!("{name}-{seed}/eval/{stage}")))?, cell)))
                .collect::<Result<Vec<f64>>>()?;
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            if values.len() == 1 {
                write!(page, " {mean:.1} |")?;
                continue;
            }
            let spread = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            let deviation = (spread / (values.len() - 1) as f64).sqrt();
            write!(page, " {mean:.1} ± {deviation:.1} |")?;
        }
    }
    page.push('\n');
    Ok(page)
}

/// The `groups` of the newest results in a folder.
fn scores(folder: &Path) -> Result<Value> {
    Ok(newest_results(folder)?["groups"].take())
}

fn number(groups: &Value, cell: &str, key: &str) -> f64 {
    groups[cell][key].as_f64().unwrap_or(f64::NAN)
}

fn score(groups: &Value, cell: &str) -> f64 {
    100.0 * number(groups, cell, "score,none")
}
