//! `cargo xtask study --alignment`: what each kind of preference pairs does to one policy, over several seeds.
//!
//! The policy and its samples are made once a seed, by the first arm. Most others begin with a copy of them: how pairs are chosen may
//! change without sampling again, so that these arms differ in nothing but what is learnt.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::results::newest_results;
use crate::{built, workspace_root};

struct Arm {
    name: &'static str,
    title: &'static str,
    recipe: &'static str,
    settings: &'static [&'static str],
    start: Start,
}

/// What an arm begins with.
enum Start {
    /// Nothing: it trains the policy.
    Nothing,
    /// The policy, its samples and their verdicts.
    Samples,
    /// The model that an arm has left.
    Aligned(&'static str),
    /// The model that the policy was trained from.
    Base,
}

impl Arm {
    const fn of_samples(name: &'static str, title: &'static str, settings: &'static [&'static str]) -> Self {
        Self { name, title, recipe: "demo-align", settings, start: Start::Samples }
    }
}

/// So many of the arms, of which the first makes the policy and the samples, are run with every seed before the others are.
const NUM_FIRST: usize = 7;

const ARMS: [Arm; 16] = [
    Arm { start: Start::Nothing, ..Arm::of_samples("fap-scp", "FAP and SCP, `continue`", &[]) },
    Arm::of_samples("fap", "FAP", &["stage.distill.kinds=[\"fap\"]"]),
    Arm::of_samples("scp", "SCP, `continue`", &["stage.distill.kinds=[\"scp\"]"]),
    Arm::of_samples(
        "naive",
        "naive pairs: the reference over a sample",
        &["stage.distill.kinds=[\"naive\"]", "stage.distill.pairs_per_exercise=2"],
    ),
    Arm { recipe: "demo-rejection", ..Arm::of_samples("rejection", "plain training on own right answers", &[]) },
    Arm {
        recipe: "demo-rejection",
        ..Arm::of_samples(
            "rejection-4x",
            "the same at four times the learning rate",
            &["stage.align.learning_rate=2e-4"],
        )
    },
    Arm::of_samples("fap-scp-4x", "FAP and SCP at four times the learning rate", &["stage.align.learning_rate=2e-4"]),
    Arm::of_samples("scp-ask", "SCP, `ask`", &["stage.distill.kinds=[\"scp\"]", "stage.distill.scp_form=\"ask\""]),
    Arm::of_samples("fap-scp-ask", "FAP and SCP, `ask`", &["stage.distill.scp_form=\"ask\""]),
    Arm::of_samples("fap-scp-twice", "FAP and SCP, two epochs", &["stage.align.epochs=2.0"]),
    Arm {
        recipe: "demo-align-again",
        start: Start::Aligned("fap-scp"),
        ..Arm::of_samples("again", "FAP and SCP, a second round on samples of the aligned model", &[])
    },
    Arm::of_samples("no-nll", "FAP and SCP, DPO without the likelihood term", &["stage.align.nll_weight=0.0"]),
    Arm::of_samples("ipo", "FAP and SCP, IPO", &["stage.align.loss=\"ipo\""]),
    Arm::of_samples(
        "simpo",
        "FAP and SCP, SimPO (beta 2, margin 1, no likelihood term)",
        &[
            "stage.align.loss=\"simpo\"",
            "stage.align.beta=2.0",
            "stage.align.simpo_gamma=1.0",
            "stage.align.nll_weight=0.0",
        ],
    ),
    Arm::of_samples(
        "lora",
        "FAP and SCP, LoRA of rank 16 at ten times the learning rate",
        &["stage.align.lora={ rank = 16 }", "stage.align.learning_rate=5e-4"],
    ),
    Arm {
        recipe: "demo-align-again",
        start: Start::Base,
        ..Arm::of_samples("from-base", "FAP and SCP of the base model's samples, from the base model", &[])
    },
];

/// Columns: tasks, whose mean is shown, and their title.
const COLUMNS: [(&[&str], &str); 4] = [
    (&["finance_case"], "cases"),
    (&["finance_case_harder"], "harder cases"),
    (&["general_reasoning"], "general reasoning"),
    (&["general_choose_sort", "general_name_in_sentence"], "general tasks"),
];

/// Runs the arms that are not there yet, and writes `docs/alignment-study.md` after each.
pub(crate) fn run(folder: &Path, seeds: u64) -> Result<()> {
    let (first, others) = ARMS.split_at(NUM_FIRST);
    for arms in [first, others] {
        for seed in 1..=seeds {
            for arm in arms {
                run_arm(arm, seed, folder)?;
                fs::write(workspace_root().join("docs/alignment-study.md"), page(folder, seeds)?)?;
            }
        }
    }
    Ok(())
}

/// Where the run of an arm with a seed lies.
fn place(folder: &Path, arm: &str, seed: u64) -> PathBuf {
    folder.join(format!("{arm}-{seed}"))
}

fn run_arm(arm: &Arm, seed: u64, folder: &Path) -> Result<()> {
    let place = |arm: &str| place(folder, arm, seed);
    let base = match arm.start {
        Start::Aligned(of) => Some(place(of).join("align/model")),
        Start::Nothing | Start::Samples | Start::Base => None,
    };
    if matches!(arm.start, Start::Samples) && !place(arm.name).exists() {
        // A copy that was interrupted is none.
        let begun = place(&format!("copy-for-{}", arm.name));
        if begun.exists() {
            fs::remove_dir_all(&begun)?;
        }
        copy_policy(&place(ARMS[0].name), &begun)?;
        fs::rename(&begun, place(arm.name))?;
    }
    let base = base.map(|base| format!("model.base={:?}", base.display().to_string()));
    let status = built("findap")
        .args(["run", &format!("recipes/{}.toml", arm.recipe), "--set", &format!("run.seed={seed}")])
        .args(arm.settings.iter().copied().chain(base.as_deref()).flat_map(|setting| ["--set", setting]))
        .arg("--run-dir")
        .arg(place(arm.name))
        .status()
        .context("findap cannot be started")?;
    ensure!(status.success(), "{} with seed {seed} failed", arm.name);
    Ok(())
}

/// Copies a run without what is made from its pairs, which are chosen anew where an arm wants others.
fn copy_policy(from: &Path, to: &Path) -> Result<()> {
    const OF_PAIRS: [&str; 2] = ["align", "report.html"];
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} is missing", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_of_pairs = OF_PAIRS.iter().any(|of_pairs| name == *of_pairs);
        match entry.file_type()?.is_dir() {
            _ if is_of_pairs => {}
            true => copy_policy(&entry.path(), &to.join(name))?,
            false => drop(fs::copy(entry.path(), to.join(name))?),
        }
    }
    Ok(())
}

fn page(folder: &Path, seeds: u64) -> Result<String> {
    let mut page = format!(
        "# What alignment comes to\n\nMade by `cargo xtask study --alignment --seeds {seeds}` from recipes/demo-align.toml, \
         recipes/demo-align-again.toml and recipes/demo-rejection.toml, on the closed world of seed 1. Scores in percent of 200 held-out \
         questions a task: means over the seeds of training, with 95 % intervals (Student's t over the seeds; none of one seed). The \
         difference is that to the model that the arm begins with, seed by seed. All arms but the second round and the one from the base model learn what \
         comes of the same samples; each for one epoch, where it does not say otherwise.\n\n| learnt | seeds |"
    );
    for (_, title) in COLUMNS {
        write!(page, " {title} |")?;
    }
    page.push_str(" cases, difference | rows learnt | steps | reward accuracy |\n|---|");
    page.push_str(&"---|".repeat(COLUMNS.len() + 5));
    let of = |arm: &str, stage: &str, tasks: &[&str], seeds: &[u64]| -> Result<Vec<f64>> {
        seeds.iter().map(|seed| score(&place(folder, arm, *seed).join("eval").join(stage), tasks)).collect()
    };
    let policy = ARMS[0].name;
    let seeds_of = |arm: &str| -> Vec<u64> {
        (1..=seeds).filter(|seed| newest_results(&place(folder, arm, *seed).join("eval/align")).is_ok()).collect()
    };
    let all = seeds_of(policy);
    write!(page, "\n| nothing: the policy | {} |", all.len())?;
    for (tasks, _) in COLUMNS {
        write!(page, " {} |", with_interval(&of(policy, "group2", tasks, &all)?))?;
    }
    page.push_str(" | | | |");
    for arm in &ARMS {
        let seeds = seeds_of(arm.name);
        if seeds.is_empty() {
            continue;
        }
        write!(page, "\n| {} | {} |", arm.title, seeds.len())?;
        for (tasks, _) in COLUMNS {
            write!(page, " {} |", with_interval(&of(arm.name, "align", tasks, &seeds)?))?;
        }
        let after = of(arm.name, "align", COLUMNS[0].0, &seeds)?;
        let before = match arm.start {
            Start::Nothing | Start::Samples => of(policy, "group2", COLUMNS[0].0, &seeds)?,
            Start::Aligned(_) | Start::Base => of(arm.name, "base", COLUMNS[0].0, &seeds)?,
        };
        let differences: Vec<f64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        let learnt = seeds
            .iter()
            .map(|seed| last_metrics(&place(folder, arm.name, *seed).join("align")))
            .collect::<Result<Vec<_>>>()?;
        let mean = |value: &dyn Fn(&Learnt) -> f64| learnt.iter().map(value).sum::<f64>() / learnt.len() as f64;
        write!(
            page,
            " {} | {:.0} | {:.0} |",
            with_interval(&differences),
            mean(&|learnt| learnt.rows),
            mean(&|learnt| learnt.steps)
        )?;
        match mean(&|learnt| learnt.reward_accuracy) {
            accuracy if accuracy.is_nan() => page.push_str(" |"),
            accuracy => write!(page, " {accuracy:.2} |")?,
        }
    }
    page.push('\n');
    Ok(page)
}

/// The mean of the tasks' scores, in percent.
fn score(folder: &Path, tasks: &[&str]) -> Result<f64> {
    let results = newest_results(folder)?;
    let of_task = |task: &&str| {
        let score = results["results"][task]["exact_match,none"].as_f64();
        score.with_context(|| format!("{} has no score of {task}", folder.display()))
    };
    let scores = tasks.iter().map(of_task).collect::<Result<Vec<f64>>>()?;
    Ok(100.0 * scores.iter().sum::<f64>() / scores.len() as f64)
}

/// What a stage has learnt from.
struct Learnt {
    rows: f64,
    steps: f64,
    /// The mean over the last quarter of its steps; not a number where there are no pairs.
    reward_accuracy: f64,
}

fn last_metrics(folder: &Path) -> Result<Learnt> {
    let read =
        |name: &str| fs::read_to_string(folder.join(name)).with_context(|| format!("{}/{name}", folder.display()));
    let mixture: Value = serde_json::from_str(&read("mixture.json")?)?;
    let sources = mixture["rows"]["sources"].as_array().context("mixture.json accounts for no sources")?;
    let used = |source: &Value| source["used"]["rows"].as_f64().context("mixture.json says no rows of a source");
    let rows = sources.iter().map(used).sum::<Result<f64>>()?;
    let text = read("metrics.jsonl")?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let steps: Vec<&Value> = lines.iter().filter(|line| line.get("loss").is_some()).collect();
    let last = &steps[steps.len() - steps.len() / 4..];
    let accuracies: Vec<f64> = last.iter().filter_map(|line| line["reward_accuracy"].as_f64()).collect();
    let reward_accuracy = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
    Ok(Learnt { rows, steps: steps.len() as f64, reward_accuracy })
}

/// The mean, and what 95 % of means over as many seeds lie within.
fn with_interval(values: &[f64]) -> String {
    /// Student's t for 95 %, by the number of values less one.
    const T: [f64; 19] = [
        12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10,
        2.09,
    ];
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    if values.len() < 2 {
        return format!("{mean:.1}");
    }
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    // Of more values the last is a little too large.
    let t = T[(values.len() - 2).min(T.len() - 1)];
    format!("{mean:.1} ± {:.1}", t * (variance / count).sqrt())
}
