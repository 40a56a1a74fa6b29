//! `findap eval`: tasks asked of one model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use findap_data::chat_template::day_seconds;
use findap_data::{ChatModel, Sampling};
use findap_eval::dataset::{self, DataRoots};
use findap_eval::judge::Judge;
use findap_eval::prompt::{Ask, PromptOptions, prepare};
use findap_eval::rescore::rescore;
use findap_eval::table::{notes, percent};
use findap_eval::{EvalError, Options, Registry, Results, Task};
use findap_model::TextModel;
use findap_train::recipe::RemoteJudge;

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
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "limit", "num_fewshot", "chat", "seed", "date", "judge", "judge_url"])]
    rescore: Option<PathBuf>,
    /// Task names, globs and @groups, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    /// Folder for results and samples
    #[arg(long, value_name = "DIR", required_unless_present = "preview")]
    output: Option<PathBuf>,
    /// Show the first N prompts of each task as the model would read them, with the right answers, and ask nothing
    #[arg(long, value_name = "N", conflicts_with_all = ["output", "rescore", "json", "limit"])]
    preview: Option<usize>,
    /// Whether prompts go through the chat template, whatever the task says
    #[arg(long, value_name = "BOOL")]
    chat: Option<bool>,
    /// Ask only the first N rows of each task, or of each of its subsets
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
    judge: JudgeArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Who judges the replies of tasks that need a judge.
#[derive(clap::Args)]
struct JudgeArguments {
    /// A model folder that judges the replies of tasks that need a judge
    #[arg(long, value_name = "MODEL", conflicts_with = "judge_url")]
    judge: Option<PathBuf>,
    /// An OpenAI-compatible server that judges them, up to and including `/v1`
    #[arg(long, value_name = "URL", requires = "judge_model")]
    judge_url: Option<String>,
    /// The name of the judge on that server
    #[arg(long, value_name = "NAME", requires = "judge_url")]
    judge_model: Option<String>,
    /// The environment variable with the server's key
    #[arg(long, value_name = "VARIABLE", requires = "judge_url")]
    judge_key_env: Option<String>,
    /// Tokens of a judge's reply at most
    #[arg(long, value_name = "N", default_value_t = 1024)]
    judge_max_tokens: usize,
}

impl JudgeArguments {
    fn is_some(&self) -> bool {
        self.judge.is_some() || self.judge_url.is_some()
    }
}

/// Replies of a judge that are kept beside the results.
pub(super) const JUDGE_FILE: &str = "judge.jsonl";

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
    // Saved answers have their verdicts, and a prompt needs none.
    let has_judge = arguments.judge.is_some() || arguments.rescore.is_some() || arguments.preview.is_some();
    let (tasks, refused) = registry.select_runnable(arguments.tasks.iter().map(String::as_str), has_judge)?;
    for refusal in &refused {
        eprintln!("{}", left_out(refusal));
    }
    if tasks.is_empty() {
        bail!("no task of --tasks is left");
    }
    let data_roots: DataRoots = arguments.data.iter().cloned().collect();
    let model = || arguments.model.as_deref().context("name a model folder, or results to --rescore");
    let Some(output) = &arguments.output else {
        return preview(arguments, &load(arguments, model()?)?, &tasks, &data_roots);
    };
    let journal = output.join("journal.jsonl");
    let results = match &arguments.rescore {
        Some(folder) => rescore(&Results::load(folder)?, &folder.display().to_string(), &tasks, &data_roots)?,
        None => {
            std::fs::create_dir_all(output)
                .with_context(|| format!("cannot create the folder {}", output.display()))?;
            let options = Options {
                data_roots,
                limit: arguments.limit,
                seed: arguments.seed,
                chat: arguments.chat,
                num_fewshot: arguments.num_fewshot,
                journal: Some(journal.clone()),
                ..Options::default()
            };
            ask(&load(arguments, model()?)?, judge(arguments, output)?, &tasks, &options)?
        }
    };
    let path = results.write(output)?;
    if arguments.rescore.is_none() {
        // What it holds stands in the results by now.
        std::fs::remove_file(journal).ok();
    }
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

fn load(arguments: &Arguments, folder: &Path) -> Result<TextModel> {
    let model = arguments.device.load(folder)?;
    Ok(match arguments.date {
        Some(seconds) => model.with_time(seconds),
        None => model,
    })
}

/// Prints the first prompts of each task.
fn preview(arguments: &Arguments, model: &TextModel, tasks: &[Task], data_roots: &DataRoots) -> Result<()> {
    let options = PromptOptions { chat: arguments.chat, num_fewshot: arguments.num_fewshot, seed: arguments.seed };
    for task in tasks {
        let num_fewshot = arguments.num_fewshot.unwrap_or(task.fewshot.num);
        let loaded = dataset::load(task, data_roots, arguments.preview, num_fewshot)?;
        for item in prepare(task, &loaded, model, options)? {
            let subset = item.subset.as_ref().map(|subset| format!(" of {subset}")).unwrap_or_default();
            println!("--- {}, row {}{subset}\n{}", task.name, item.row_id, item.prompt);
            match &item.ask {
                Ask::Choices { gold, .. } => {
                    for (index, (context, continuation)) in item.scored().into_iter().enumerate() {
                        // Where the choice is put into the prompt, the text before what is scored differs.
                        let before = if context == item.prompt { "" } else { context };
                        let which = if index == *gold { ", the right one" } else { "" };
                        println!("--- choice{which}\n{before}{continuation}");
                    }
                }
                Ask::Reply { golds, follow_ups, judged, .. } => {
                    follow_ups.iter().for_each(|text| println!("--- then, behind its reply\n{text}"));
                    golds.iter().for_each(|gold| println!("--- right\n{gold}"));
                    let references = judged.iter().flat_map(|judged| &judged.references).flatten();
                    references.for_each(|reference| println!("--- for the judge to compare with\n{reference}"));
                }
            }
        }
    }
    Ok(())
}

/// The judge that the arguments name, with how its replies are drawn. What a server replies is kept beside the results.
fn judge(arguments: &Arguments, output: &Path) -> Result<Option<(Box<dyn ChatModel>, Sampling)>> {
    let JudgeArguments { judge, judge_url, judge_model, judge_key_env, judge_max_tokens } = &arguments.judge;
    match (judge, judge_url, judge_model) {
        (Some(folder), ..) => {
            let sampling = Sampling { max_tokens: *judge_max_tokens, ..Sampling::default() };
            Ok(Some((Box::new(arguments.device.load(folder)?), sampling)))
        }
        (None, Some(url), Some(model)) => {
            let remote = RemoteJudge {
                url: url.clone(),
                model: model.clone(),
                key_env: judge_key_env.clone(),
                max_tokens: *judge_max_tokens,
                max_tokens_field: None,
                temperature: None,
                recorded: None,
            };
            Ok(Some((remote.kept_in(&output.join(JUDGE_FILE))?, remote.sampling())))
        }
        _ => Ok(None),
    }
}

fn ask(
    model: &TextModel,
    judge: Option<(Box<dyn ChatModel>, Sampling)>,
    tasks: &[Task],
    options: &Options,
) -> Result<Results> {
    let judge = judge.as_ref().map(|(model, sampling)| Judge { model: model.as_ref(), sampling: sampling.clone() });
    let mut progress = Progress::new();
    progress.prepare("eval");
    let results = findap_eval::run(model, judge.as_ref(), tasks, options, &mut |now| {
        progress.count("eval", "questions", now.num_done as u64, now.num_total as u64, now.task);
        true
    });
    progress.clear();
    for note in judge.iter().flat_map(|judge| judge.model.take_notes()) {
        eprintln!("the judge: {note}");
    }
    Ok(results?)
}

/// Says that a task of a group is not run.
pub(super) fn left_out(refusal: &EvalError) -> String {
    format!("left out: {refusal}")
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
