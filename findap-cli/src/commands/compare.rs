//! `findap compare`: what changed between two evaluations.

use std::path::PathBuf;

use anyhow::{Context, Result};
use findap_eval::Results;
use findap_eval::compare::{CompareOptions, Delta, compare};
use findap_eval::table::percent;
use serde_json::json;

use crate::terminal;

/// Shows what changed from one evaluation to another, with paired bootstrap intervals
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of the first evaluation (`findap eval --output`, or `eval/<stage>` of a run)
    before: PathBuf,
    /// Folder of the second
    after: PathBuf,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let load = |folder: &PathBuf| {
        Results::load(folder).with_context(|| format!("cannot read the evaluation in {}", folder.display()))
    };
    let options = CompareOptions::default();
    let comparison = compare(&load(&arguments.before)?, &load(&arguments.after)?, options)?;

    if arguments.json {
        let numbers = |delta: &Delta| {
            json!({
                "before": delta.before, "after": delta.after, "difference": delta.difference(),
                "low": delta.low, "high": delta.high, "n": delta.num_rows,
            })
        };
        let tasks: Vec<_> = comparison
            .tasks
            .iter()
            .map(|task| {
                json!({
                    "task": task.name, "domain": task.domain.name(), "capability": task.capability.name(),
                    "metric": task.metric.name(), "delta": numbers(&task.delta),
                })
            })
            .collect();
        let cells: Vec<_> = comparison
            .cells
            .iter()
            .map(|cell| {
                json!({
                    "domain": cell.domain.name(), "capability": cell.capability.name(), "tasks": cell.num_tasks,
                    "delta": numbers(&cell.delta),
                })
            })
            .collect();
        let value = json!({
            "coverage": options.coverage, "tasks": tasks, "capabilities": cells, "only_in_one": comparison.unpaired,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }

    let interval = format!("{:.0}% interval", 100.0 * options.coverage);
    let header = ["", "n", "before", "after", "change", &interval, "clear"];
    let row = |name: String, delta: &Delta| {
        vec![
            name,
            delta.num_rows.to_string(),
            percent(delta.before),
            percent(delta.after),
            format!("{:+.1}", 100.0 * delta.difference()),
            format!("{:+.1} .. {:+.1}", 100.0 * delta.low, 100.0 * delta.high),
            if delta.is_clear() { "yes" } else { "no" }.to_owned(),
        ]
    };
    let cells: Vec<_> = comparison
        .cells
        .iter()
        .map(|cell| row(format!("{} {}", cell.domain.name(), cell.capability.name()), &cell.delta))
        .collect();
    let tasks: Vec<_> = comparison
        .tasks
        .iter()
        .map(|task| row(format!("{} ({})", task.name, task.metric.name()), &task.delta))
        .collect();
    println!("{}\n\n{}", terminal::table(&header, &cells), terminal::table(&header, &tasks));
    if !comparison.unpaired.is_empty() {
        println!("\nonly in one of the two: {}", comparison.unpaired.join(", "));
    }
    Ok(())
}
