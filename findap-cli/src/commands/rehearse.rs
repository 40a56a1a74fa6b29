//! `findap rehearse`: a whole recipe in small, and what the run will take.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use findap_data::{Length, llm};
use findap_eval::results::load_summaries;
use findap_train::plan::{self, StageDisk, StagePlan};
use findap_train::recipe::{DistillStage, Judge, Optimization, Recipe, Stage};
use findap_train::run::{Ended, base_config, rehearsal};
use findap_train::sources::Sources;
use findap_train::{Event, TrainError, distill, folder};

use super::recipe::Common;
use super::run;
use crate::terminal;

/// Runs a recipe in small: two steps a stage, three exercises, two questions a task; says what the run will take and whether it is
/// safe to start
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
}

/// A part of a run.
struct Part {
    name: String,
    size: String,
    seconds: f64,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<u8> {
    let (_, recipe) = arguments.common.load()?;
    let _lock = folder::FolderLock::take(recipe.folder())?;
    let small = rehearsal::prepare(&recipe)?;
    let text = toml::to_string(&small).context("a recipe is TOML")?;
    let mut events = Vec::new();
    let ended = run::start(&small, &text, None, &mut |event| events.push((Instant::now(), event.clone())));
    let ended_at = Instant::now();
    let mut warnings = Vec::new();
    match ended {
        Ok(Ended::Interrupted) => {
            rehearsal::clear(&recipe)?;
            return Ok(run::stopped());
        }
        Ok(Ended::Finished(_)) => {}
        Err(error) => match error.downcast_ref::<TrainError>() {
            // three exercises may well give no pair
            Some(TrainError::NothingToTrain { stage, problem }) if is_distillation(&recipe, stage) => {
                warnings.push(format!("{stage}: {problem}; if all exercises give none, the run ends there"));
            }
            _ => {
                terminal::print_error(&error);
                println!("not safe to start; what the rehearsal made is in {}", small.folder().display());
                return Ok(1);
            }
        },
    }
    let mut idle = Vec::new();
    let parts = parts(&recipe, &small, &Watched { events, ended_at }, &mut warnings, &mut idle)?;
    show(&recipe, &parts)?;
    for warning in &warnings {
        println!("{}", terminal::paragraph("warning: ", warning));
    }
    rehearsal::clear(&recipe)?;
    if !idle.is_empty() {
        idle.iter().for_each(|problem| terminal::print_error(&anyhow::anyhow!("{problem}")));
        println!("\nnot safe to start");
        return Ok(1);
    }
    let arguments: Vec<String> = std::env::args().skip(2).map(|argument| terminal::shell_word(&argument)).collect();
    let but = if warnings.is_empty() { "" } else { ", but read the warnings above" };
    println!("\nsafe to start{but}: {} run {}", run::program(), arguments.join(" "));
    Ok(0)
}

fn is_distillation(recipe: &Recipe, name: &str) -> bool {
    recipe.stage.iter().any(|stage| stage.name() == name && !stage.makes_model())
}

/// What happened in a rehearsal, and when.
struct Watched {
    events: Vec<(Instant, Event)>,
    ended_at: Instant,
}

impl Watched {
    fn find(&self, is_wanted: impl Fn(&Event) -> bool) -> Option<Instant> {
        self.events.iter().find(|(_, event)| is_wanted(event)).map(|(at, _)| *at)
    }

    /// Tokens per second of the last step of a stage.
    fn speed(&self, stage: &str) -> Option<f64> {
        let speed = |event: &Event| match event {
            Event::Step { stage: name, step: rehearsal::STEPS, tokens_per_s, .. } if name == stage => {
                Some(*tokens_per_s)
            }
            _ => None,
        };
        self.events.iter().find_map(|(_, event)| speed(event))
    }

    /// Seconds of one dev loss, of one checkpoint, and of all else in a stage but its steps: opening data and model, saving the model.
    fn besides_steps(&self, stage: &str) -> [f64; 3] {
        let seconds = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to).map_or(0.0, |(from, to)| to.saturating_duration_since(from).as_secs_f64())
        };
        let is_of = |name: &str| name == stage;
        let begun = self.find(|event| matches!(event, Event::StageStarted { stage, .. } if is_of(stage)));
        let last_step =
            self.find(|event| matches!(event, Event::Step { stage, step: rehearsal::STEPS, .. } if is_of(stage)));
        let dev = self.find(|event| matches!(event, Event::DevLoss { stage, .. } if is_of(stage)));
        let saved = self.find(|event| matches!(event, Event::Saved { stage, .. } if is_of(stage)));
        let whole = self.events.iter().find_map(|(_, event)| match event {
            Event::StageFinished { stage, seconds } if is_of(stage) => Some(*seconds),
            _ => None,
        });
        let rest = whole.unwrap_or(0.0) - seconds(begun, saved);
        [seconds(last_step, dev), seconds(dev.or(last_step), saved), rest.max(0.0)]
    }
}

/// What the parts of the run will take, from what those of the rehearsal took. `idle` is told of stages that would train nothing.
fn parts(
    recipe: &Recipe,
    small: &Recipe,
    watched: &Watched,
    warnings: &mut Vec<String>,
    idle: &mut Vec<String>,
) -> Result<Vec<Part>> {
    let config = base_config(recipe)?;
    let model = recipe.model.base.as_ref().or(recipe.model.tokenizer.as_ref()).context("the recipe names no model")?;
    let time_seconds = findap_train::run::told_time(recipe)?;
    let (sources, small_sources) =
        (Sources::open(recipe, model, time_seconds)?, Sources::open(small, model, time_seconds)?);
    let mut parts = Vec::new();
    for stage in &recipe.stage {
        if let Stage::Distill(stage) = stage {
            parts.push(distillation(recipe, small, stage, watched, warnings)?);
            continue;
        }
        let (keys, _) = stage.trained().context("the stage trains")?;
        let (tokens, steps, is_at_most) = match sources.of(stage)? {
            Some(data) => {
                let plan = StagePlan::new(recipe, stage, &config, &data)?;
                let told = if plan.is_idle { &mut *idle } else { &mut *warnings };
                told.extend(plan.rate_note.map(|note| format!("{}: {note}", stage.name())));
                (plan.trained_tokens, plan.steps, false)
            }
            None => {
                let rehearsed =
                    small.stage.iter().find(|other| other.name() == stage.name()).context("it was rehearsed")?;
                let data = small_sources.of(rehearsed)?.context("stand-ins were written")?;
                let plan = StagePlan::new(small, rehearsed, &config, &data)?;
                let (tokens, steps) = of_rows_to_come(recipe, stage, keys, &plan)?;
                (tokens, steps, true)
            }
        };
        let [dev, save, rest] = watched.besides_steps(stage.name());
        let times =
            |every: Option<u64>, default: u64| steps.div_ceil(every.unwrap_or(steps.div_ceil(default)).max(1)) as f64;
        let speed = watched.speed(stage.name()).unwrap_or(f64::INFINITY);
        let seconds =
            rest + tokens / speed + dev * times(keys.evaluate_every_steps, 10) + save * times(keys.save_every_steps, 5);
        let at_most = if is_at_most { "at most " } else { "" };
        let size = format!("{at_most}{steps} steps, {} tokens", terminal::count(tokens));
        parts.push(Part { name: stage.name().to_owned(), size, seconds });
    }
    parts.extend(evaluation(recipe, small.folder())?);
    Ok(parts)
}

/// Tokens and steps of a stage on pairs or right solutions that are not there yet, at most; `plan` is that of its stand-ins.
fn of_rows_to_come(recipe: &Recipe, stage: &Stage, keys: &Optimization, plan: &StagePlan) -> Result<(f64, u64)> {
    let mut num_rows = plan.rows as usize;
    for distillation in &recipe.stage {
        if let Stage::Distill(distillation) = distillation {
            let each = match stage {
                Stage::Train(_) => distillation.right_solutions_per_exercise,
                _ => distillation.pairs_per_exercise + distillation.corrections_per_exercise,
            };
            let num_exercises = distill::exercises(distillation, recipe.folder())?.len();
            num_rows = num_rows.saturating_sub(num_exercises.min(rehearsal::STAND_INS)) + each * num_exercises;
        }
    }
    let tokens_per_step = plan.trained_tokens / plan.steps.max(1) as f64;
    let tokens_per_row = plan.tokens as f64 / plan.rows.max(1) as f64;
    let tokens = match keys.length() {
        Some(Length::Steps(steps)) => return Ok((tokens_per_step * steps as f64, steps)),
        Some(Length::Tokens(tokens)) => tokens as f64,
        Some(Length::Epochs(epochs)) => epochs * tokens_per_row * num_rows as f64,
        None => 0.0,
    };
    Ok((tokens, (tokens / tokens_per_step).ceil() as u64))
}

/// A distillation, from its beginning to its end or to the end of the rehearsal.
fn distillation(
    recipe: &Recipe,
    small: &Recipe,
    stage: &DistillStage,
    watched: &Watched,
    warnings: &mut Vec<String>,
) -> Result<Part> {
    let num_exercises = distill::exercises(stage, recipe.folder())?.len();
    let num_rehearsed = num_exercises.min(rehearsal::EXERCISES);
    let begun = watched.find(|event| matches!(event, Event::StageStarted { stage: name, .. } if *name == stage.name));
    let ended = watched.find(|event| matches!(event, Event::StageFinished { stage: name, .. } if *name == stage.name));
    let seconds = begun.map_or(0.0, |begun| ended.unwrap_or(watched.ended_at).duration_since(begun).as_secs_f64());
    let times = num_exercises as f64 / num_rehearsed as f64;
    let folder = small.folder().join(&stage.name);
    let statistics: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("statistics.json"))?)?;
    let count = |key: &str| statistics[key].as_u64().unwrap_or(0);
    let (solutions, replies) = (count("solutions"), count("judge_replies"));
    for (key, of, what) in [
        ("unread_replies", replies, "replies of the judge could not be read and would make no label"),
        ("cut_off", solutions, "solutions were cut off by `max_new_tokens` and would be chosen in no pair"),
    ] {
        if count(key) > 0 {
            warnings.push(format!("{}: {} of {of} {what}", stage.name, count(key)));
        }
    }
    if let Judge::Remote(_) = stage.judge {
        let usage = llm::recorded_usage(&folder.join("judge.jsonl"))?;
        let tokens = usage.map_or_else(
            || "it does not say how many tokens".to_owned(),
            |usage| {
                let tokens = [usage.prompt_tokens, usage.completion_tokens];
                let [asked, replied] = tokens.map(|tokens| terminal::count(tokens as f64 * times));
                format!("about {asked} tokens in and {replied} out")
            },
        );
        let asked = terminal::count(replies as f64 * times);
        println!("judge: about {asked} requests, {tokens}");
    }
    let size = format!("{num_exercises} exercises, {} solutions", num_exercises * stage.samples_per_exercise);
    Ok(Part { name: stage.name.clone(), size, seconds: seconds * times })
}

/// The evaluation of all models that are measured.
fn evaluation(recipe: &Recipe, small: &Path) -> Result<Option<Part>> {
    let Some(eval) = &recipe.eval else { return Ok(None) };
    let (mut seconds, mut num_questions) = (0.0, 0);
    for stage in eval.stages.iter().flatten() {
        let (_, info, tasks) = load_summaries(&small.join("eval").join(stage))?;
        let asked: usize = tasks.iter().map(|task| task.num_rows).sum();
        let limit =
            |rows: usize, subsets: usize| rows.min(eval.limit.unwrap_or(usize::MAX).saturating_mul(subsets.max(1)));
        let all: usize = tasks.iter().map(|task| limit(task.num_original, task.subsets.len())).sum();
        seconds += info.seconds * all as f64 / asked.max(1) as f64;
        num_questions += all;
    }
    let size = format!("{} questions", terminal::count(num_questions as f64));
    Ok(Some(Part { name: "evaluation".to_owned(), size, seconds }))
}

fn show(recipe: &Recipe, parts: &[Part]) -> Result<()> {
    let clock = |seconds: f64| terminal::clock(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    let row = |part: &Part| vec![part.name.clone(), part.size.clone(), clock(part.seconds)];
    let mut rows: Vec<Vec<String>> = parts.iter().map(row).collect();
    rows.push(vec!["all".to_owned(), String::new(), clock(parts.iter().map(|part| part.seconds).sum())]);
    println!("{}\n", terminal::table(&["part", "size", "about"], &rows));
    let disk = StageDisk::of_all(recipe, &base_config(recipe)?)?;
    let free = folder::free_bytes(recipe.folder()).map_or_else(|| "unknown".to_owned(), terminal::bytes);
    println!("disk: {} for models and checkpoints, free {free}", terminal::bytes(plan::disk_bytes(&disk)));
    if let Some(peak) = peak_memory_bytes() {
        println!("memory: {} at most in the rehearsal", terminal::bytes(peak));
    }
    Ok(())
}

/// The most memory that this process has had, in bytes; `None` where the system does not say.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
