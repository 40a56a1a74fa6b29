//! `findap run`, `findap train`, `findap distill`: a recipe, or one stage of it.

use std::cell::RefCell;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use findap_data::files::{file_sha256, sha256};
use findap_data::llm::LlmError;
use findap_data::reward_model::{GradeVerdict, grade_prompt, verdict_or_problem};
use findap_data::{ChatModel, ChatRequest, Message};
use findap_eval::judge::Judge;
use findap_eval::report::{LearntAnswer, RunFolder, learnt_answer};
use findap_eval::results::SCORING_VERSION;
use findap_eval::table::{capability_lines, notes, text_table};
use findap_eval::{EvalError, Options, Registry, Task};
use findap_model::TextModel;
use findap_train::Event;
use findap_train::identity::Identity;
use findap_train::recipe::{EvalTable, Recipe, RemoteJudge};
use findap_train::run::{Ended, Evaluation, Hooks};
use serde_json::{Map, Value, json};

use super::eval::{JUDGE_FILE, left_out};
use super::recipe::Common;
use crate::signals::{self, Work};
use crate::terminal::{self, Progress};

/// Exit code of a run that was stopped by a signal after saving where it stands (128 + SIGINT, as shells count).
const STOPPED: u8 = 130;

/// Runs a recipe from where it stands to its end: stages, evaluation, report
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap run recipes/demo.toml
  findap run mine.toml --set run.seed=2 --run-dir runs/mine-2
  findap run mine.toml --unset stage.group1.epochs \\
      --set stage.group1.steps=100")]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
}

/// Runs one training or alignment stage of a recipe; those before it must be done
#[derive(clap::Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    common: Common,
    /// The stage's name
    #[arg(long, value_name = "NAME")]
    stage: String,
}

/// Runs the distillation stage of a recipe: preference pairs from the policy's own solutions
#[derive(clap::Args)]
pub(crate) struct DistillArguments {
    #[command(flatten)]
    common: Common,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<u8> {
    let (text, recipe) = arguments.common.load()?;
    let began = Instant::now();
    match start(&recipe, &text, None, &mut |_| ())? {
        Ended::Interrupted => Ok(stopped()),
        Ended::Finished(model) => {
            finish(&recipe, &model, began.elapsed())?;
            Ok(0)
        }
    }
}

pub(crate) fn execute_train(arguments: &TrainArguments) -> Result<u8> {
    let (text, recipe) = arguments.common.load()?;
    one_stage(&recipe, &text, &arguments.stage)
}

pub(crate) fn execute_distill(arguments: &DistillArguments) -> Result<u8> {
    let (text, recipe) = arguments.common.load()?;
    let Some(stage) = recipe.stage.iter().find(|stage| stage.kind() == "distill") else {
        bail!("{} has no stage of kind \"distill\"", arguments.common.recipe.display());
    };
    one_stage(&recipe, &text, stage.name())
}

fn one_stage(recipe: &Recipe, text: &str, stage: &str) -> Result<u8> {
    match start(recipe, text, Some(stage), &mut |_| ())? {
        Ended::Interrupted => return Ok(stopped()),
        Ended::Finished(_) => println!("{}", recipe.folder().join(stage).display()),
    }
    Ok(0)
}

/// Says that the command was stopped, and gives its exit code.
pub(super) fn stopped() -> u8 {
    eprintln!("stopped; the same command resumes from here");
    STOPPED
}

/// Runs a recipe with progress on stderr and evaluation by its tasks; `listen` is told of every event, too.
pub(super) fn start(recipe: &Recipe, text: &str, only: Option<&str>, listen: &mut dyn FnMut(&Event)) -> Result<Ended> {
    let stop = signals::stop_flag();
    let progress = RefCell::new(Progress::new());
    let mut observer = |event: Event| {
        listen(&event);
        let is_finished = matches!(event, Event::StageFinished { .. });
        show(&mut progress.borrow_mut(), event);
        if is_finished {
            refresh_report(recipe.folder(), &progress.borrow());
        }
    };
    let mut evaluate = |asked: &Evaluation<'_>| evaluate(asked, stop, &mut progress.borrow_mut());
    let check_tasks = &mut |eval: &EvalTable| check_tasks(eval, &mut |line| progress.borrow().line(line));
    let mut hooks =
        Hooks { observer: &mut observer, stop, check_tasks, evaluate: &mut evaluate, provenance: provenance() };
    let ended = findap_train::run::run(recipe, text, only, &mut hooks);
    progress.borrow().clear();
    Ok(ended?)
}

/// Looks whether the tasks of a recipe can be asked, and returns what their scores depend on: how answers are scored, and for each task
/// its own hash and those of its files. `say` is told of tasks that are left out.
fn check_tasks(eval: &EvalTable, say: &mut dyn FnMut(&str)) -> Result<Identity, Box<dyn Error + Send + Sync>> {
    let (tasks, refused) = tasks(eval)?;
    refused.iter().for_each(|refusal| say(&left_out(refusal)));
    if let Some(judge) = eval.judge.as_ref().filter(|_| tasks.iter().any(|task| task.judge.is_some())) {
        // Training need not wait for it, and what is trained is kept; but it is better known now.
        if let Some(problem) = trial(judge)? {
            say(&format!("[eval] judge: {problem}; without it the evaluations will fail"));
        }
    }
    let files = findap_eval::prompt::check(&tasks, &eval.data)?;
    let mut identity = Identity::from([("scoring".to_owned(), SCORING_VERSION.to_string())]);
    for task in tasks {
        let mut hashes = vec![task.hash];
        for file in files.get(&task.name).into_iter().flatten() {
            hashes.push(file_sha256(file)?);
        }
        identity.insert(format!("task.{}", task.name), sha256(hashes.join("\n").as_bytes()));
    }
    Ok(identity)
}

/// Asks the judge of an evaluation for a grade of two plain words. Says what went wrong, if it can be asked at all and is no recording.
fn trial(judge: &RemoteJudge) -> Result<Option<String>, LlmError> {
    let client = judge.client()?;
    if judge.recorded.is_some() {
        return Ok(None);
    }
    let prompt = grade_prompt(&[("What is 2 and 2?", "It is 4.")], Some("4"));
    let request = ChatRequest { messages: vec![Message::user(prompt)], sampling: judge.sampling() };
    let problem = verdict_or_problem::<GradeVerdict>(&request, &client.chat_one(&request)).err();
    Ok(problem.map(|problem| format!("a trial gave no verdict: {problem}")))
}

fn show(progress: &mut Progress, event: Event) {
    match event {
        Event::StageStarted { stage, kind, steps, done } => {
            let unit = if kind == "distill" { "exercises" } else { "steps" };
            let before = if done > 0 && done < steps { format!(", {done} of them done before") } else { String::new() };
            progress.line(&format!("{stage}: {steps} {unit}{before}"));
            signals::set_work(if kind == "distill" { Work::Exercises } else { Work::Step });
        }
        Event::Step { stage, step, steps, loss, tokens_per_s, .. } => {
            progress.count(&stage, "steps", step, steps, &format!("loss {loss:.3}  {tokens_per_s:.0} tokens/s"));
        }
        Event::Progress { stage, what, done, total } => {
            signals::set_work(if what == "exercises" { Work::Exercises } else { Work::Pairs });
            progress.count(&stage, what, done, total, "");
        }
        Event::DevLoss { stage, step, loss, is_best } => {
            let best = if is_best { ", the lowest so far" } else { "" };
            progress.line(&format!("{stage}: dev loss {loss:.4} after step {step}{best}"));
        }
        Event::StageFinished { stage, seconds } => {
            signals::set_work(Work::Preparing);
            progress.line(&format!("{stage}: done in {}", terminal::clock(Duration::from_secs_f64(seconds))));
        }
        Event::StageSkipped { stage } => progress.line(&format!("{stage}: done before, skipped")),
        Event::Evaluating { stage } => progress.prepare(&format!("eval {stage}")),
        Event::Note(text) => progress.line(&text),
        _ => {}
    }
}

/// Measures one model; `false` when it was asked to stop.
fn evaluate(
    asked: &Evaluation<'_>,
    stop: &AtomicBool,
    progress: &mut Progress,
) -> Result<bool, Box<dyn Error + Send + Sync>> {
    let Some(eval) = &asked.recipe.eval else { return Ok(true) };
    let (tasks, _) = tasks(eval)?;
    let model = TextModel::load_to(asked.device, asked.model, asked.dtype)?.with_time(asked.time_seconds);
    let journal = asked.output.join("journal.jsonl");
    let options = Options {
        data_roots: eval.data.clone(),
        limit: eval.limit,
        seed: asked.recipe.run.seed,
        journal: Some(journal.clone()),
        ..Options::default()
    };
    let stage = format!("eval {}", asked.stage);
    signals::set_work(Work::Questions);
    let remote = eval.judge.as_ref().filter(|_| tasks.iter().any(|task| task.judge.is_some()));
    let judge = remote.map(|remote| remote.kept_in(&asked.output.join(JUDGE_FILE))).transpose()?;
    let judge = judge.as_deref().zip(remote);
    let judge = judge.map(|(model, remote)| Judge { model, sampling: remote.sampling() });
    let results = findap_eval::run(&model, judge.as_ref(), &tasks, &options, &mut |now| {
        progress.count(&stage, "questions", now.num_done as u64, now.num_total as u64, now.task);
        !stop.load(Ordering::Relaxed)
    });
    for note in judge.iter().flat_map(|judge| judge.model.take_notes()) {
        progress.line(&format!("{stage}: the judge: {note}"));
    }
    let results = match results {
        Err(EvalError::Stopped) => return Ok(false),
        other => other?,
    };
    signals::set_work(Work::Preparing);
    results.write(asked.output)?;
    std::fs::remove_file(&journal).ok();
    refresh_report(asked.recipe.folder(), progress);
    Ok(true)
}

/// Writes the report of a run that goes on. A run is worth more than its report: one that cannot be written is only told.
fn refresh_report(run: &Path, progress: &Progress) {
    if let Err(error) = findap_eval::report::write(run, true) {
        progress.line(&format!("the report cannot be written now: {error}"));
    }
}

/// The tasks that a recipe names, and those of its groups that cannot be run.
pub(super) fn tasks(eval: &EvalTable) -> Result<(Vec<Task>, Vec<EvalError>), EvalError> {
    let mut registry = Registry::builtin()?;
    if let Some(folder) = &eval.task_folder {
        registry.add_folder(folder)?;
    }
    registry.select_runnable(eval.tasks.iter().map(String::as_str), eval.judge.is_some())
}

/// The facts about this program and machine for `provenance.json`.
pub(super) fn provenance() -> Map<String, Value> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let entries = [
        ("commit", json!(env!("FINDAP_COMMIT"))),
        ("processor", json!(super::doctor::cpu_name())),
        ("threads", json!(cores)),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Writes the report, prints the table of scores and where everything is.
fn finish(recipe: &Recipe, model: &Path, took: Duration) -> Result<()> {
    let folder = recipe.folder();
    let report = findap_eval::report::write(folder, false)?;
    let run = RunFolder::read(folder)?;
    let scores = &run.scores;
    if !scores.is_empty() {
        let table = text_table(scores, &capability_lines(scores));
        println!("{}\n", terminal::table(&table.header.iter().map(String::as_str).collect::<Vec<_>>(), &table.rows));
        for stage in scores {
            for told in notes(stage.tasks.iter(), stage.info.max_tokens) {
                println!("{}: {told}\n", stage.stage);
            }
        }
    }
    println!("model   {}", model.display());
    println!("report  {}", report.display());
    println!("talk    {} chat {}", program(), model.display());
    if let Some(LearntAnswer { question, before, after }) = learnt_answer(&run) {
        println!("ask     {} generate {} --prompt \"{question}\"", program(), model.display());
        println!("        \"{after}\"; {} said \"{before}\"", scores[0].stage);
    }
    println!("time    {}", terminal::clock(took));
    Ok(())
}

/// The path by which the user can call this program again.
pub(super) fn program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "findap".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(&path).display().to_string()
}
