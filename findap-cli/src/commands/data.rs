//! `findap data`: the data of a recipe, before anything is trained on them.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use console::style;
use findap_data::Kind;
use findap_data::inspect::{self, ShownDocument};
use findap_data::mixture::Proportion;
use findap_data::world::WorldConfig;
use findap_train::recipe::{Recipe, Stage};
use findap_train::sources::StageData;
use serde::Deserialize;

use super::recipe::{Common, LookedAt, RecipeData};
use crate::terminal;

/// Makes, packs and shows the data of a recipe
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap data stats mine.toml
  findap data inspect mine.toml --stage group1 --rows 3
  findap data synth world --set finance_texts=4000")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(clap::Subcommand)]
enum DataCommand {
    /// Write a closed world: texts, conversations, exercises, held-out questions
    Synth {
        /// Folder to write to
        folder: PathBuf,
        /// A size: finance_texts=4000; may be given several times
        #[arg(long = "set", value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Also train a tokenizer on its texts and conversations, with this many entries, into FOLDER/tokenizer
        #[arg(long, value_name = "N")]
        tokenizer: Option<usize>,
    },
    /// Tokenise and pack the data of every stage of a recipe, as a run would
    Pack {
        #[command(flatten)]
        common: Common,
    },
    /// Show the first rows of a stage in the order in which they are packed: tokens, loss mask (green, or in marks), where each document
    /// ends
    Inspect {
        #[command(flatten)]
        common: Common,
        /// The stage; default: the first that trains
        #[arg(long, value_name = "NAME")]
        stage: Option<String>,
        /// How many rows
        #[arg(long, value_name = "N", default_value_t = 2)]
        rows: usize,
    },
    /// Show what each stage's mixture comes to in one pass over the data: rows, tokens, tokens with loss
    Stats {
        #[command(flatten)]
        common: Common,
        /// Print one JSON object instead of tables
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        DataCommand::Synth { folder, set, tokenizer } => synth(folder, set, *tokenizer),
        DataCommand::Pack { common } => pack(common),
        DataCommand::Inspect { common, stage, rows } => show(common, stage.as_deref(), *rows),
        DataCommand::Stats { common, json } => stats(common, *json),
    }
}

fn synth(folder: &std::path::Path, set: &[String], tokenizer: Option<usize>) -> Result<()> {
    let table: toml::Table = set.join("\n").parse().context("--set takes KEY=NUMBER")?;
    let config = WorldConfig::deserialize(table).context("--set")?;
    for path in findap_data::world::generate(&config, folder)? {
        println!("{}", path.display());
    }
    if let Some(vocab_size) = tokenizer {
        let place = folder.join("tokenizer");
        findap_data::world::train_tokenizer(&findap_data::world::files(&config)?, vocab_size, &place)?;
        println!("{}", place.display());
    }
    Ok(())
}

/// The stages of a recipe that have data, each with its data.
fn stages(recipe: &Recipe, data: &RecipeData<'_>) -> Result<Vec<(String, StageData)>> {
    let mut found = Vec::new();
    for stage in &recipe.stage {
        found.extend(data.sources.of(stage)?.map(|data| (stage.name().to_owned(), data)));
    }
    if found.is_empty() {
        bail!("no stage has data to show");
    }
    Ok(found)
}

fn pack(common: &Common) -> Result<()> {
    let (_, recipe) = common.load()?;
    let stages = stages(&recipe, &RecipeData::open(&recipe)?)?;
    let row = |(name, data): &(String, StageData)| {
        let (rows, tokens, loss_tokens) = data.mixture.totals();
        vec![
            name.clone(),
            rows.to_string(),
            tokens.to_string(),
            loss_tokens.to_string(),
            data.loader.num_contexts().to_string(),
            format!("{:.1}%", 100.0 * data.loader.fill()),
            data.loader.total_steps().to_string(),
        ]
    };
    let header = ["stage", "rows", "tokens", "with loss", "contexts", "filled", "steps"];
    println!("{}", terminal::table(&header, &stages.iter().map(row).collect::<Vec<_>>()));
    for (name, data) in &stages {
        println!("\n{}", terminal::lines(&data.rows.lines(name)));
    }
    println!("\n{}", recipe.folder().join("data").join("tokens").display());
    Ok(())
}

fn stats(common: &Common, json: bool) -> Result<()> {
    let (_, recipe) = common.load()?;
    let _looked_at = LookedAt::of(&recipe);
    let stages = stages(&recipe, &RecipeData::open(&recipe)?)?;
    if json {
        let object: serde_json::Map<String, serde_json::Value> = stages
            .iter()
            .map(|(name, data)| {
                let mut object = serde_json::to_value(&data.mixture)?;
                object["rows"] = serde_json::to_value(&data.rows)?;
                object["steps"] = data.loader.total_steps().into();
                object["steps_of_one_pass"] = data.loader.epoch_steps().into();
                Ok((name.clone(), object))
            })
            .collect::<Result<_>>()?;
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    for (name, data) in &stages {
        println!("{}", terminal::paragraph(&format!("{name}: "), &passes(data)));
        let groups = [
            ("source", data.mixture.by_set()),
            ("kind", data.mixture.by_kind()),
            ("domain", data.mixture.by_domain()),
            ("capability", data.mixture.by_capability()),
        ];
        for (what, proportions) in groups {
            let cell = |(count, part): (u64, f64)| format!("{count} ({:.1}%)", 100.0 * part);
            let row = |p: &Proportion| vec![p.name.clone(), cell(p.rows), cell(p.tokens), cell(p.loss_tokens)];
            let rows: Vec<Vec<String>> = proportions.iter().map(row).collect();
            println!("{}\n", terminal::table(&[what, "rows", "tokens", "with loss"], &rows));
        }
        println!("{}\n", terminal::lines(&data.rows.lines(name)));
    }
    Ok(())
}

/// What the numbers of a stage are, beside what it trains on: the tables are of one pass over its data.
fn passes(data: &StageData) -> String {
    let (steps, of_pass) = (data.loader.total_steps(), data.loader.epoch_steps());
    let told = match steps.cmp(&of_pass) {
        std::cmp::Ordering::Less => "so that only the first of these rows are trained on",
        std::cmp::Ordering::Equal => "which is one pass",
        std::cmp::Ordering::Greater => "so that rows are trained on several times",
    };
    format!("one pass over its data is {of_pass} steps; the stage has {steps}, {told}")
}

fn show(common: &Common, stage: Option<&str>, rows: usize) -> Result<()> {
    let (_, recipe) = common.load()?;
    let _looked_at = LookedAt::of(&recipe);
    let all = RecipeData::open(&recipe)?;
    let is_asked_for = |candidate: &&Stage| match stage {
        Some(name) => candidate.name() == name,
        None => candidate.makes_model(),
    };
    let stage = recipe.stage.iter().find(is_asked_for).context("the recipe has no such stage")?;
    let name = stage.name();
    let data = all.sources.of(stage)?.with_context(|| format!("stage `{name}` has no data to show"))?;
    let tokenizer = all.sources.tokenizer();
    let has_colours = console::colors_enabled();
    if has_colours {
        println!("{}", style("tokens in green bear loss").green());
    } else {
        println!("tokens between {} and {} bear loss", MARKS.0, MARKS.1);
    }
    let mut shown = 0;
    for micro in data.loader.one_pass(usize::MAX) {
        let documents = inspect::documents(&micro.batch, tokenizer)?;
        let mut documents = documents.iter();
        for row in &micro.rows {
            if shown == rows {
                return Ok(());
            }
            let source = &data.sources[row.store as usize];
            let store = &data.stores[row.store as usize];
            println!("{}", style(format!("--- {name}: {} row {}", source.name, row.row + 1)).dim());
            let labels: &[&str] = if source.kind == Kind::Preference { &["chosen: ", "rejected: "] } else { &[] };
            let num_documents = store.row(row.row as usize).len();
            for (index, document) in documents.by_ref().take(num_documents).enumerate() {
                println!("{}", shown_text(document, has_colours));
                let label = labels.get(index).copied().unwrap_or_default();
                let facts =
                    format!("[{label}{} tokens, {} with loss]", document.tokens.len(), document.num_loss_tokens());
                println!("{}", style(facts).dim());
            }
            shown += 1;
        }
    }
    Ok(())
}

/// What stands around tokens that bear loss where there are no colours.
const MARKS: (&str, &str) = ("\u{27e6}", "\u{27e7}");

/// A document's text with its loss mask: in green, or between [`MARKS`].
fn shown_text(document: &ShownDocument, has_colours: bool) -> String {
    let mut line = String::new();
    let mut was_target = false;
    for token in &document.tokens {
        let text = if token.is_special { token.text.clone() } else { token.text.replace('\n', "\u{23ce}\n") };
        if !has_colours {
            match (was_target, token.is_target) {
                (false, true) => line.push_str(MARKS.0),
                (true, false) => line.push_str(MARKS.1),
                _ => {}
            }
            was_target = token.is_target;
        }
        let styled = match (token.is_target, token.is_special) {
            (true, false) => style(text).green(),
            (true, true) => style(text).green().bold(),
            (false, true) => style(text).dim(),
            (false, false) => style(text),
        };
        let _ = write!(line, "{styled}");
    }
    if was_target {
        line.push_str(MARKS.1);
    }
    line
}
