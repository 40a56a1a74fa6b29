//! `findap plan`: what a recipe asks for, before anything is trained.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use findap_data::Length;
use findap_model::Config;
use findap_tensor::{DeviceKind, Dtype, Tensor, ops};
use findap_train::plan::{self, StageDisk, StagePlan};
use findap_train::recipe::{Recipe, Stage};
use findap_train::run::stand_ins;
use findap_train::{distill, folder};

use super::recipe::{Common, LookedAt, RecipeData};
use super::run;
use crate::terminal;

/// Checks a recipe and says what it takes: rows, tokens, memory, operations, time; trains nothing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap plan mine.toml
  findap plan mine.toml --set model.recompute=block
  findap plan mine.toml --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Print the whole recipe with its overrides and defaults, and what its stages take, as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let (_, written) = arguments.common.read()?;
    // A recipe can be looked at on a machine that has neither its model nor its data.
    let (recipe, plans, _looked_at) = match arguments.common.resolve(written.clone()) {
        Ok(recipe) => {
            let looked_at = LookedAt::of(&recipe);
            let plans = plans(&recipe);
            (recipe, plans, looked_at)
        }
        Err(error) => (written, Err(error), None),
    };
    if arguments.json {
        let mut object = serde_json::to_value(&recipe)?;
        let mut found = Vec::new();
        object["plan"] = match plans {
            Ok(plans) => {
                found = problems(&recipe);
                serde_json::to_value(plans)?
            }
            Err(error) => {
                let told = serde_json::json!({ "problem": terminal::error_text(&error) });
                if !is_elsewhere(&recipe) {
                    found.push(error);
                }
                told
            }
        };
        object["problems"] = found.iter().map(terminal::error_text).collect();
        println!("{}", serde_json::to_string_pretty(&object)?);
        return ended_for(&found);
    }
    show_recipe(&recipe, arguments.common.folder(&recipe));
    match plans {
        Ok(plans) => {
            show_plans(&plans, recipe.device_kind());
            show_disk(&recipe)?;
            let problems = problems(&recipe);
            for problem in &problems {
                terminal::print_error(problem);
            }
            ended_for(&problems)?;
        }
        Err(error) if is_elsewhere(&recipe) => {
            let told = terminal::error_text(&error);
            println!("\n{}", terminal::paragraph("Tokens, memory and time cannot be told here: ", &told));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether a recipe is planned where its model is not, such as on a laptop before it is downloaded; what is here and cannot be read would
/// end the run. A path from the root, or one into a folder that is here, is mistyped.
fn is_elsewhere(recipe: &Recipe) -> bool {
    let is_to_come = |path: &&PathBuf| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        path.is_relative() && !path.exists() && parent.is_some_and(|parent| !parent.exists())
    };
    recipe.model.base.iter().chain(&recipe.model.tokenizer).any(|path| is_to_come(&path))
}

fn ended_for(problems: &[anyhow::Error]) -> Result<()> {
    if !problems.is_empty() {
        bail!("the run would end for {}", terminal::counted(problems.len(), "fault", "faults"));
    }
    Ok(())
}

/// Plans of the stages that train; of those whose data the distillation has yet to make, at most.
fn plans(recipe: &Recipe) -> Result<Vec<StagePlan>> {
    let config = findap_train::run::base_config(recipe)?;
    let data = RecipeData::open(recipe)?;
    let mut plans = Vec::new();
    for stage in &recipe.stage {
        let data = data.sources.of(stage)?;
        plans.push(data.map(|data| StagePlan::new(recipe, stage, &config, &data)).transpose()?);
    }
    let is_to_come = |(stage, plan): (&Stage, &Option<StagePlan>)| stage.makes_model() && plan.is_none();
    if recipe.stage.iter().zip(&plans).any(is_to_come) {
        let bounded = plans_to_come(recipe, &config, &mut plans);
        stand_ins::clear(recipe)?;
        bounded?;
    }
    Ok(plans.into_iter().flatten().collect())
}

/// Fills in the plans of stages on what is to come.
fn plans_to_come(recipe: &Recipe, config: &Config, plans: &mut [Option<StagePlan>]) -> Result<()> {
    let distillations = recipe.stage.iter().filter_map(|stage| match stage {
        Stage::Distill(stage) => Some(stage),
        Stage::Train(_) | Stage::Align(_) => None,
    });
    // exercises that cannot be read are told among the problems
    if distillations.map(|stage| distill::exercises(stage, recipe.folder())).any(|exercises| exercises.is_err()) {
        return Ok(());
    }
    let bound = stand_ins::at_most(recipe)?;
    let sources = RecipeData::sources(&bound, findap_train::run::told_time(recipe)?)?;
    for (stage, plan) in bound.stage.iter().zip(plans).filter(|(stage, plan)| stage.makes_model() && plan.is_none()) {
        if let Some(data) = sources.of(stage)? {
            *plan = Some(StagePlan { is_at_most: true, ..StagePlan::new(&bound, stage, config, &data)? });
        }
    }
    Ok(())
}

/// What would end the run though its data can be read: tasks, exercises, judges.
fn problems(recipe: &Recipe) -> Vec<anyhow::Error> {
    let mut problems = Vec::new();
    problems.extend(findap_train::run::refuse_changed(recipe).err().map(anyhow::Error::new));
    if let Some(eval) = &recipe.eval
        && let Err(error) = run::tasks(eval).and_then(|(tasks, _)| findap_eval::prompt::check(&tasks, &eval.data))
    {
        problems.push(anyhow::Error::new(error).context("eval"));
    }
    let judge = recipe.eval.as_ref().and_then(|eval| eval.judge.as_ref());
    problems.extend(
        judge.and_then(|judge| judge.client().err()).map(|error| anyhow::Error::new(error).context("eval.judge")),
    );
    for stage in &recipe.stage {
        if let Stage::Distill(stage) = stage {
            let checks = [distill::exercises(stage, recipe.folder()).map(drop), distill::require_judge(stage)];
            problems.extend(checks.into_iter().filter_map(Result::err).map(anyhow::Error::new));
        }
    }
    problems
}

/// Tells the disk of all stages, of those whose pairs are yet to come, too.
fn show_disk(recipe: &Recipe) -> Result<()> {
    let disk = StageDisk::of_all(recipe, &findap_train::run::base_config(recipe)?)?;
    let models = disk.iter().map(|stage| stage.model_bytes).sum();
    let need = plan::disk_bytes(&disk);
    let free_bytes = folder::free_bytes(recipe.folder());
    let free = free_bytes.map_or_else(|| "unknown".to_owned(), terminal::bytes);
    let is_full = free_bytes.is_some_and(|free| free < need);
    let [need, models] = [need, models].map(terminal::bytes);
    let text = format!("{need} at most beside the data, {models} of it models that stay; free: {free}");
    println!("{}", terminal::paragraph("disk: ", &text));
    if is_full {
        println!("warning: the disk here does not hold that");
    }
    Ok(())
}

fn show_recipe(recipe: &Recipe, folder: PathBuf) {
    let start = match (&recipe.model.base, &recipe.model.init) {
        (Some(base), _) => base.display().to_string(),
        _ => "random weights".to_owned(),
    };
    println!("run {} (seed {}) in {}, from {start}", recipe.run.name, recipe.run.seed, folder.display());
    if let Some(world) = &recipe.world {
        println!(
            "closed world: {} and {} texts, {} and {} conversations (general, finance)",
            world.general_texts, world.finance_texts, world.general_chats, world.finance_chats
        );
    }
    if let Some(eval) = &recipe.eval {
        println!("measured: {}", eval.tasks.join(", "));
    }
    println!();
    let rows: Vec<Vec<String>> = recipe.stage.iter().map(row).collect();
    println!("{}", terminal::table(&["stage", "kind", "data", "length", "peak rate"], &rows));
}

fn row(stage: &Stage) -> Vec<String> {
    let (data, optimization) = match stage {
        Stage::Train(train) => {
            let names: Vec<&str> = train.sources().map(String::as_str).collect();
            (names.join(" "), Some(&train.optimization))
        }
        Stage::Distill(distill) => (distill.exercises.to_string(), None),
        Stage::Align(align) if align.pairs.is_empty() => ("preferences.jsonl".to_owned(), Some(&align.optimization)),
        Stage::Align(align) => (align.pairs.join(" "), Some(&align.optimization)),
    };
    let length = optimization.and_then(|it| it.length()).map_or_else(
        || "-".to_owned(),
        |length| match length {
            Length::Epochs(epochs) => format!("{epochs} epoch{}", if epochs == 1.0 { "" } else { "s" }),
            Length::Tokens(tokens) => format!("{tokens} tokens"),
            Length::Steps(steps) => format!("{steps} steps"),
        },
    );
    let rate = optimization.map_or_else(|| "-".to_owned(), |it| format!("{:e}", it.learning_rate));
    let kind = match (stage.kind(), stage.trained()) {
        ("align", Some((_, loss))) => format!("align ({})", loss.name()),
        (kind, _) => kind.to_owned(),
    };
    vec![stage.name().to_owned(), kind, data, length, rate]
}

fn show_plans(plans: &[StagePlan], kind: DeviceKind) {
    /// The part of a matrix product's speed that a whole training step reaches, in 0..=1.
    const STEP_EFFICIENCY: f64 = 0.6;
    let speed = matmul_flops_per_s();
    let row = |plan: &StagePlan| {
        let seconds = plan.flops / (speed * STEP_EFFICIENCY);
        vec![
            plan.stage.clone(),
            if plan.is_at_most { format!("<={}", plan.rows) } else { plan.rows.to_string() },
            plan.tokens.to_string(),
            plan.loss_tokens.to_string(),
            format!("{:.1}%", 100.0 * plan.fill),
            plan.steps.to_string(),
            terminal::bytes(plan.memory_bytes() as u64),
            terminal::three_digits(plan.flops / 1e12),
            terminal::clock(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
        ]
    };
    let header = ["stage", "rows", "tokens", "with loss", "filled", "steps", "memory", "TFLOP", "about"];
    println!("\n{}", terminal::table(&header, &plans.iter().map(row).collect::<Vec<_>>()));
    if let Some(largest) = plans.iter().max_by_key(|plan| plan.memory_bytes()) {
        let taken = largest.memory.iter().filter(|(_, bytes)| *bytes > 0);
        let parts = taken.map(|(purpose, bytes)| format!("{purpose} {}", terminal::bytes(*bytes as u64)));
        let place = match kind {
            DeviceKind::Cpu => "the CPU",
            DeviceKind::Cuda => "a GPU",
        };
        let parts = terminal::paragraph("  ", &parts.collect::<Vec<_>>().join(", "));
        println!("\nmemory of {} on {place}:\n{parts}", largest.stage);
    }
    for plan in plans.iter().filter(|plan| plan.is_at_most) {
        let told = "its rows are yet to be distilled: rows, tokens, steps and time are those of as many as there can be at most, each as \
                    long as the reference solution";
        println!("\n{}", terminal::paragraph(&format!("{}: ", plan.stage), told));
    }
    for plan in plans.iter().filter(|plan| !plan.is_at_most) {
        println!("\n{}", terminal::lines(&plan.sources.lines(&plan.stage)));
    }
    for plan in plans {
        if let Some(note) = &plan.rate_note {
            println!("{}", terminal::paragraph(&format!("warning: {}: ", plan.stage), note));
        }
        if let Some(note) = &plan.frozen_note {
            let saved = terminal::bytes(plan.memory_saved_bytes as u64);
            let told = format!("{note}; this saves {saved} of memory");
            println!("{}", terminal::paragraph(&format!("{}: ", plan.stage), &told));
        }
    }
    let measured = format!(
        "{:.0} GFLOP/s measured here on a matrix product of the CPU, {:.0}% of it in a step; without evaluation and distillation",
        speed / 1e9,
        100.0 * STEP_EFFICIENCY
    );
    println!("{}", terminal::paragraph("times: ", &measured));
}

/// Floating-point operations per second in the fastest of a few products of 512 x 512 matrices.
fn matmul_flops_per_s() -> f64 {
    const SIZE: usize = 512;
    const TRIES: usize = 8;
    let (a, b) = (Tensor::zeros(Dtype::F32, SIZE, SIZE), Tensor::zeros(Dtype::F32, SIZE, SIZE));
    let mut c = Tensor::zeros(Dtype::F32, SIZE, SIZE);
    let seconds = (0..TRIES).map(|_| {
        let begun = Instant::now();
        ops::linear::forward(c.rows_mut(SIZE), a.rows(SIZE), b.rows(SIZE)).expect("invariant: the shapes fit");
        black_box(&mut c);
        begun.elapsed().as_secs_f64()
    });
    2.0 * (SIZE as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min)
}
