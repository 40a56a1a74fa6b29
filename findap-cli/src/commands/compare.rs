//! `findap compare`: what changed between two evaluations.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use findap_eval::Results;
use findap_eval::compare::{CompareOptions, Delta, compare};
use findap_eval::require::{self, Requirement, RequirementError, Verdict};
use findap_eval::results::results_files;
use findap_eval::table::percent;
use serde_json::json;

use crate::terminal;

/// Shows what changed from one evaluation to another, with paired intervals
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  findap compare scores/base scores/adapted
  findap compare runs/demo/eval/base runs/demo/eval/align \\
      --require \"finance >= +3, general >= -1\"")]
pub(crate) struct Arguments {
    /// Folder of the first evaluation (`findap eval --output`, or `eval/<stage>` of a run)
    before: PathBuf,
    /// Folder of the second
    after: PathBuf,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
    /// Least changes in points that the intervals must support, such as "finance >= +3, general >= -1"; else the exit code is 1.
    /// Each is of a domain, a domain and capability ("finance reasoning"), a task's name, or "all"
    #[arg(long, value_name = "CHANGES", value_parser = parse_requirements)]
    require: Option<Requirements>,
}

/// The requirements of one `--require`.
#[derive(Clone)]
struct Requirements(Vec<Requirement>);

fn parse_requirements(text: &str) -> Result<Requirements, RequirementError> {
    require::parse(text).map(Requirements)
}

/// Says that a folder holds several evaluations, of which the newest is compared.
fn tell_earlier(folder: &Path) {
    // A folder that cannot be read is refused where it is.
    if let Ok(files) = results_files(folder)
        && let [earlier @ .., newest] = files.as_slice()
        && !earlier.is_empty()
    {
        let count = terminal::counted(earlier.len(), "earlier evaluation is", "earlier evaluations are");
        eprintln!("{}: the newest is compared, {count} not", newest.display());
    }
}

pub(crate) fn execute(arguments: &Arguments) -> Result<u8> {
    let load = |folder: &PathBuf| {
        tell_earlier(folder);
        Results::load(folder).with_context(|| format!("cannot read the evaluation in {}", folder.display()))
    };
    let options = CompareOptions::default();
    let comparison = compare(&load(&arguments.before)?, &load(&arguments.after)?, options)?;
    let required = arguments.require.iter().flat_map(|requirements| &requirements.0);
    let checked = required.map(|requirement| requirement.check(&comparison)).collect::<Result<Vec<_>, _>>()?;
    let exit_code = u8::from(checked.iter().any(|checked| checked.verdict != Verdict::Supported));
    let unpaired: Vec<&str> = comparison.unpaired.iter().map(|task| task.name.as_str()).collect();

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
                    "metric": task.metric.name(), "delta": numbers(&task.delta), "rows_only_in_one": task.unpaired_rows,
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
        let required: Vec<_> = checked
            .iter()
            .map(|checked| {
                json!({
                    "requirement": checked.requirement.text, "verdict": checked.verdict.name(),
                    "delta": numbers(&checked.delta),
                })
            })
            .collect();
        let value = json!({
            "coverage": options.coverage, "tasks": tasks, "capabilities": cells, "only_in_one": unpaired,
            "required": required,
            "different_prompts": comparison.prompts.iter().map(|difference| json!({
                "task": difference.task, "rows": difference.num_rows, "different": difference.num_different,
                "before": difference.before, "after": difference.after })).collect::<Vec<_>>(),
            "different_settings": comparison.settings.iter().map(|difference| json!({
                "task": difference.task, "setting": difference.setting, "before": difference.before,
                "after": difference.after })).collect::<Vec<_>>(),
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(exit_code);
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
    if !unpaired.is_empty() {
        println!("\nonly in one of the two: {}", unpaired.join(", "));
    }
    for difference in &comparison.settings {
        println!("\nthe two differ in more than the model: {difference}");
    }
    for difference in &comparison.prompts {
        println!("\n{difference}");
    }
    let partial = comparison.tasks.iter().filter(|task| task.unpaired_rows > 0);
    for task in partial {
        println!("\n{}: {} rows are in one of the two only and are left out", task.name, task.unpaired_rows);
    }
    if !checked.is_empty() {
        let rows: Vec<_> = checked
            .iter()
            .map(|checked| {
                let Delta { low, high, .. } = checked.delta;
                let interval = format!("{:+.1} .. {:+.1}", 100.0 * low, 100.0 * high);
                vec![checked.requirement.text.clone(), interval, checked.verdict.name().to_owned()]
            })
            .collect();
        println!("\n{}", terminal::table(&["required", &interval, ""], &rows));
    }
    Ok(exit_code)
}
