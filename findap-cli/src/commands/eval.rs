//! `findap eval`: tasks asked of one model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use findap_data::chat_template::day_seconds;
use findap_eval::dataset::DataRoots;
use findap_eval::rescore::rescore;
use findap_eval::table::{notes, percent};
use findap_eval::{Options, Registry, Results, Task};

use super::device::DeviceArguments;
use crate::terminal::{self, Progress};

/// Measures a model on tasks; results are written in lm-eval's schema
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap eval models/base --tasks gsm8k,mmlu_finance \\
      --data data=eval-data --output scores/base
  findap eval models/base --tasks own_task --task-folder tasks \\
      --data own=own-data --output scores/own
  findap eval --rescore scores/own --tasks own_task --task-folder tasks \\
      --data own=own-data --output scores/own-again")]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    #[arg(required_unless_present = "rescore")]
    model: Option<PathBuf>,
    /// Score the saved answers of these results as the tasks would today, asking no model
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "limit", "num_fewshot", "seed", "date"])]
    rescore: Option<PathBuf>,
    /// Task names, globs and @groups, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// Folder for results and samples
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Ask only the first N rows of each task
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Where data sets lie: NAME=DIR (`world=runs/demo/data/world`); may be given several times
    #[arg(long = "data", value_name = "NAME=DIR", value_parser = named_folder)]
    data: Vec<(String, PathBuf)>,
    /// A folder of further task files
    #[arg(long, value_name = "DIR")]
    task_folder: Option<PathBuf>,
    /// Solved examples before each question, whatever the task says
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,
    /// Seed of drawn examples and bootstrap errors
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The day that the chat template tells, as 2026-11-28, where it tells one; default: today
    #[arg(long, value_name = "DAY", value_parser = day)]
    date: Option<u64>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn day(text: &str) -> Result<u64, String> {
    day_seconds(text).ok_or_else(|| "write a day since 1970 as 2026-11-28".to_owned())
}

fn named_folder(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, folder)) if !name.is_empty() && !folder.is_empty() => Ok((name.to_owned(), folder.into())),
        _ => Err("write NAME=DIR".to_owned()),
    }
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let mut registry = Registry::builtin()?;
    if let Some(folder) = &arguments.task_folder {
        registry.add_folder(folder)?;
    }
    let (tasks, refused) = registry.select_runnable(arguments.tasks.iter().map(String::as_str))?;
    for task in &refused {
        eprintln!("{}", left_out(task));
    }
    if tasks.is_empty() {
        bail!("--tasks names no task");
    }
    let data_roots: DataRoots = arguments.data.iter().cloned().collect();
    let results = match (&arguments.rescore, &arguments.model) {
        (Some(folder), _) => {
            let earlier = Results::load(folder)?;
            rescore(&earlier, &folder.display().to_string(), &tasks, &data_roots)?
        }
        (None, Some(model)) => ask(arguments, model, &tasks, data_roots)?,
        (None, None) => bail!("name a model folder, or results to --rescore"),
    };
    let path = results.write(&arguments.output)?;
    // What it holds stands in the results by now.
    std::fs::remove_file(journal(arguments)).ok();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&results.to_json())?);
    } else {
        println!("{}\n", table(&results));
        for told in notes(results.tasks.iter().map(|task| &task.summary), results.info.max_tokens) {
            println!("{told}\n");
        }
        println!("{}", path.display());
    }
    Ok(())
}

/// Answers on their way to the results.
fn journal(arguments: &Arguments) -> PathBuf {
    arguments.output.join("journal.jsonl")
}

fn ask(arguments: &Arguments, model: &Path, tasks: &[Task], data_roots: DataRoots) -> Result<Results> {
    let model = arguments.device.load(model)?;
    let model = match arguments.date {
        Some(seconds) => model.with_time(seconds),
        None => model,
    };
    std::fs::create_dir_all(&arguments.output)
        .with_context(|| format!("cannot create the folder {}", arguments.output.display()))?;
    let options = Options {
        data_roots,
        limit: arguments.limit,
        seed: arguments.seed,
        num_fewshot: arguments.num_fewshot,
        journal: Some(journal(arguments)),
        ..Options::default()
    };
    let mut progress = Progress::new();
    progress.prepare("eval");
    let results = findap_eval::run(&model, tasks, &options, &mut |now| {
        progress.count("eval", "questions", now.num_done as u64, now.num_total as u64, now.task);
        true
    })?;
    progress.clear();
    Ok(results)
}

/// Says that a task of a group is not run.
pub(super) fn left_out(task: &Task) -> String {
    format!("left out: {}: {}", task.name, task.refused.as_deref().unwrap_or_default())
}

fn table(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .tasks
        .iter()
        .map(|task| {
            let summary = &task.summary;
            let headline = summary.headline();
            vec![
                summary.name.clone(),
                headline.metric.name().to_owned(),
                summary.num_rows.to_string(),
                percent(summary.chance),
                percent(headline.value),
                headline.stderr.map_or_else(|| "-".to_owned(), percent),
            ]
        })
        .collect();
    terminal::table(&["task", "metric", "n", "chance", "score", "+-"], &rows)
}
