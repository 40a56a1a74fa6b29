//! `findap tasks`: which evaluation tasks there are, and what each asks.

use std::path::PathBuf;

use anyhow::Result;
use findap_eval::Registry;
use findap_eval::task::{Kind, PaperAnswers, RowsRead, Task};

use crate::terminal;

/// Lists evaluation tasks, or describes one
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A task to describe, or names, globs and @groups to list, such as `@finance`, `@finance.reasoning`, `mmlu*`
    names: Vec<String>,
    /// A folder of further task files
    #[arg(long, value_name = "DIR")]
    task_folder: Option<PathBuf>,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let mut registry = Registry::builtin()?;
    if let Some(folder) = &arguments.task_folder {
        registry.add_folder(folder)?;
    }
    let names = arguments.names.iter().map(String::as_str);
    let tasks = if arguments.names.is_empty() { registry.tasks().to_vec() } else { registry.select(names)? };
    if let ([task], [name]) = (&tasks[..], &arguments.names[..])
        && task.name == *name
    {
        describe(task);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = tasks
        .iter()
        .map(|task| {
            vec![
                task.name.clone(),
                task.domain.name().to_owned(),
                task.capability.name().to_owned(),
                if task.refused.is_some() { "not run" } else { task.metrics[0].name() }.to_owned(),
                root(task).to_owned(),
            ]
        })
        .collect();
    println!("{}", terminal::table(&["task", "domain", "capability", "metric", "data"], &rows));
    println!("\n{} tasks; `findap tasks NAME` describes one", tasks.len());
    if arguments.names.is_empty() {
        let groups: Vec<String> = registry.groups().iter().map(|group| format!("@{group}")).collect();
        println!("{}", terminal::paragraph("groups: ", &groups.join(" ")));
    }
    Ok(())
}

/// The name that `--data NAME=DIR` gives a folder for.
fn root(task: &Task) -> &str {
    task.dataset.path.split_once(':').map_or("-", |(root, _)| root)
}

fn describe(task: &Task) {
    let metrics: Vec<&str> = task.metrics.iter().map(|metric| metric.name()).collect();
    let asked = match &task.kind {
        Kind::MultipleChoice(_) => "multiple choice: the choice with the highest log-likelihood".to_owned(),
        Kind::Generate(generate) => format!("a written answer of at most {} tokens", generate.max_new_tokens),
    };
    let places: Vec<&str> =
        std::iter::once(&task.dataset.path).chain(&task.dataset.also_at).map(String::as_str).collect();
    let mut facts = vec![
        ("title", task.title.clone()),
        ("version", task.version.to_string()),
        ("measures", format!("{} {}, a {} task", task.domain.name(), task.capability.name(), task.similarity.name())),
        ("metrics", format!("{}; guessing scores {}", metrics.join(", "), task.chance)),
        ("asked for", asked),
        ("solved examples", task.fewshot.num.to_string()),
        ("prompt goes", if task.chat { "through the chat template" } else { "as plain text" }.to_owned()),
        ("data", format!("{} ({} split)", places.join(" or "), task.dataset.split)),
        ("licence", task.license.clone()),
        ("source", task.source.clone()),
    ];
    if let Some(published) = &task.published {
        let rows = match published.rows {
            RowsRead::Verified => "verified: rows of these files were read",
            RowsRead::Unverified => "unverified: written from a description, no row of these files was read",
        };
        facts.push(("published at", published.at.join("; ")));
        facts.push(("columns", published.columns.join(", ")));
        facts.push(("rows", format!("{}; {rows}", published.num_rows)));
        facts.extend(published.note.clone().map(|note| ("note", note)));
    }
    if let Some(paper) = &task.paper {
        let answers = match paper.answers {
            PaperAnswers::Direct => "direct answers",
            PaperAnswers::ChainOfThought => "chain of thought",
        };
        facts.push(("in the paper", format!("{} rows, {answers}, {}", paper.num_rows, paper.metric)));
        let score = |(model, score): (&String, &f64)| format!("{model} {score}");
        let scores: Vec<String> = paper.scores.iter().map(score).collect();
        facts.push(("its scores", format!("{} (another set-up)", scores.join(", "))));
        facts.extend(paper.doubt.clone().map(|doubt| ("doubtful", doubt)));
    }
    facts.extend(task.refused.clone().map(|reason| ("not run", reason)));
    if !task.dataset.subsets.is_empty() {
        facts.push(("subsets", task.dataset.subsets.len().to_string()));
    }
    if root(task) != "-" && task.refused.is_none() {
        let command = format!("findap eval MODEL --tasks {} --data {}=DIR --output RESULTS", task.name, root(task));
        facts.push(("run it with", command));
    }
    println!("{}", task.name);
    for (name, value) in facts {
        println!("{}", terminal::paragraph(&format!("  {name:<16} "), &value));
    }
    let texts =
        [("system", task.system.as_ref()), ("opens with", task.description.as_ref()), ("prompt", Some(&task.prompt))];
    for (name, template) in texts {
        if let Some(template) = template {
            println!("\n  {name}\n    {}", template.source().replace('\n', "\n    "));
        }
    }
}
