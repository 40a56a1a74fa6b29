//! The head of the page: what came out, how far the run is, and its size in a few numbers.

use findap_data::Domain;

use super::{points, tokens_seen};
use crate::compare::{Comparison, Delta};
use crate::report::folder::{RunFolder, StageState};
use crate::report::html::{escape, grouped};
use crate::results::iso_time;

pub(super) fn section_of(run: &RunFolder, now: Option<f64>) -> String {
    let mut out = format!("<header>\n<p class=\"kicker\">findap run report</p>\n<h1>{}</h1>\n", escape(&run.name()));
    if let Some(text) = state(run, now) {
        out.push_str(&format!("<p class=\"state\">{}</p>\n", escape(&text)));
    }
    let changes = changes(run);
    if let (Some(first), Some(last), false) = (run.scores.first(), run.scores.last(), changes.is_empty()) {
        let told: Vec<String> =
            changes.iter().map(|(domain, num_tasks, delta)| told(*domain, *num_tasks, delta)).collect();
        let text = format!("From {} to {}, {}.", first.stage, last.stage, told.join("; "));
        out.push_str(&format!("<p class=\"lead\">{}</p>\n", escape(&text)));
    }
    out.push_str(&facts(run, &changes));
    out.push_str("</header>\n");
    out
}

/// What changed from the first to the last evaluated stage in each domain: the mean over its tasks.
fn changes(run: &RunFolder) -> Vec<(Domain, usize, Delta)> {
    let Some(Some(comparison)) = run.changes.last() else { return Vec::new() };
    let of_domain = |domain: Domain| {
        let tasks = tasks_of(comparison, domain);
        Some((domain, tasks.len(), comparison.mean(&tasks)?))
    };
    [Domain::Finance, Domain::General].into_iter().filter_map(of_domain).collect()
}

fn tasks_of(comparison: &Comparison, domain: Domain) -> Vec<usize> {
    (0..comparison.tasks.len()).filter(|&task| comparison.tasks[task].domain == domain).collect()
}

/// A change in words. One whose interval holds 0 is no rise and no fall.
fn told(domain: Domain, num_tasks: usize, delta: &Delta) -> String {
    let (name, tasks) = (domain.name(), if num_tasks == 1 { "1 task" } else { &format!("mean of {num_tasks} tasks") });
    let interval = format!("95% interval {} to {}, {tasks}", points(delta.low), points(delta.high));
    let size = format!("{:.1} points", 100.0 * delta.difference().abs());
    match (delta.is_clear(), delta.low > 0.0) {
        (false, _) => format!("{name} shows no clear change ({interval})"),
        (true, true) => format!("{name} rose by {size} ({interval})"),
        (true, false) => format!("{name} fell by {size} ({interval})"),
    }
}

/// How far a run is that is not finished, or that a process works on; `None` for a finished one, and for a folder without a recipe.
fn state(run: &RunFolder, now: Option<f64>) -> Option<String> {
    if now.is_none() && run.is_finished() {
        return None;
    }
    let opening = match now {
        Some(now) => {
            format!("As of {} UTC, running", iso_time(now).replace('T', " ").chars().take(16).collect::<String>())
        }
        None => "Unfinished".to_owned(),
    };
    let mut parts: Vec<String> = run.stages.iter().map(stage_told).collect();
    if !run.not_evaluated.is_empty() {
        parts.push(format!("not evaluated yet: {}", run.not_evaluated.join(", ")));
    }
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join("; ")) };
    Some(format!("{opening}{parts}."))
}

fn stage_told(state: &StageState) -> String {
    let done = grouped(state.num_done);
    match (state.is_done, state.num_done, state.num_all) {
        (true, _, _) => format!("{} is done", state.stage),
        (_, 0, _) => format!("{} is to come", state.stage),
        (_, _, Some(all)) => format!("{} is at step {done} of {}", state.stage, grouped(all)),
        _ if state.kind == "distill" => format!("{} has sampled {done} exercises", state.stage),
        _ => format!("{} is at step {done}", state.stage),
    }
}

/// The numbers below the headline.
fn facts(run: &RunFolder, changes: &[(Domain, usize, Delta)]) -> String {
    let mut facts: Vec<(String, String, String)> = Vec::new();
    for (domain, _, delta) in changes {
        let mark = if delta.is_clear() { "" } else { "\u{2248} " };
        let value = format!("{mark}{}", points(delta.difference()));
        let unit = format!("points, {} to {}", points(delta.low), points(delta.high));
        facts.push((format!("{} score", domain.name()), value, unit));
    }
    let steps: usize = run.logs.iter().map(|log| log.series("loss").len()).sum();
    if steps > 0 {
        let stages = if run.logs.len() == 1 { "1 stage" } else { &format!("{} stages", run.logs.len()) };
        facts.push(("training".to_owned(), grouped(steps as u64), format!("steps in {stages}")));
    }
    let tokens: u64 = run.logs.iter().map(tokens_seen).sum();
    if tokens > 0 {
        facts.push(("trained on".to_owned(), grouped(tokens), "tokens".to_owned()));
    }
    if !run.preferences.is_empty() {
        facts.push(("preferences".to_owned(), grouped(run.preferences.len() as u64), "pairs, distilled".to_owned()));
    }
    if let Some(stage) = run.scores.last() {
        let rows: usize = stage.tasks.iter().map(|task| task.num_rows).sum();
        let tasks = format!("questions in {} tasks", stage.tasks.len());
        facts.push(("evaluation".to_owned(), grouped(rows as u64), tasks));
    }
    let item = |(name, value, unit): &(String, String, String)| {
        format!("<div><dt>{}</dt><dd>{} <small>{}</small></dd></div>\n", escape(name), escape(value), escape(unit))
    };
    match facts.is_empty() {
        true => String::new(),
        false => format!("<dl class=\"facts\">\n{}</dl>\n", facts.iter().map(item).collect::<String>()),
    }
}
