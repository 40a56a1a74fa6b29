//! `findap plan`: what a recipe asks for, before anything runs.

use std::path::PathBuf;

use anyhow::Result;
use findap_data::Length;
use findap_train::recipe::{self, Stage};

use crate::terminal;

/// Checks a recipe and says what would be run; runs nothing
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Recipe (TOML)
    recipe: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
    /// Print the whole recipe with its overrides and defaults as one JSON object
    #[arg(long)]
    json: bool,
}

/// Values changed for one run.
#[derive(clap::Args)]
pub(crate) struct Overrides {
    /// Change one value: stage.group1.learning_rate=1e-4; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    pub(crate) set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let recipe = recipe::load(&arguments.recipe, &arguments.overrides.set)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&recipe)?);
        return Ok(());
    }
    let start = match (&recipe.model.base, &recipe.model.init) {
        (Some(base), _) => base.display().to_string(),
        _ => "random weights".to_owned(),
    };
    let folder = recipe.run.folder.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.run.name));
    println!("run {} (seed {}) in {}, from {start}", recipe.run.name, recipe.run.seed, folder.display());
    if let Some(world) = &recipe.world {
        let sizes: Vec<String> = world.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        println!("closed world: {}", if sizes.is_empty() { "default sizes".to_owned() } else { sizes.join(", ") });
    }
    println!();
    let rows: Vec<Vec<String>> = recipe.stage.iter().map(row).collect();
    println!("{}", terminal::table(&["stage", "kind", "data", "length", "peak rate"], &rows));
    if let Some(eval) = &recipe.eval {
        println!("\nmeasured: {}", eval.tasks.join(", "));
    }
    Ok(())
}

fn row(stage: &Stage) -> Vec<String> {
    let (data, optimization) = match stage {
        Stage::Train(train) => {
            let names: Vec<&str> =
                train.text.iter().chain(&train.chat).chain(&train.rows).map(String::as_str).collect();
            (names.join(" "), Some(&train.optimization))
        }
        Stage::Distill(distill) => (distill.exercises.display().to_string(), None),
        Stage::Align(align) if align.pairs.is_empty() => ("preferences.jsonl".to_owned(), Some(&align.optimization)),
        Stage::Align(align) => (align.pairs.join(" "), Some(&align.optimization)),
    };
    let length = optimization.and_then(|it| it.length()).map_or_else(
        || "-".to_owned(),
        |length| match length {
            Length::Epochs(epochs) => format!("{epochs} epochs"),
            Length::Tokens(tokens) => format!("{tokens} tokens"),
            Length::Steps(steps) => format!("{steps} steps"),
        },
    );
    let rate = optimization.map_or_else(|| "-".to_owned(), |it| format!("{:e}", it.learning_rate));
    vec![stage.name().to_owned(), stage.kind().to_owned(), data, length, rate]
}
