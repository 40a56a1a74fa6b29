//! The parts of the page, top to bottom.

use std::collections::BTreeMap;

use findap_data::Capability;
use serde_json::{Map, Value};

use super::chart::{Chart, Series, XAxis};
use super::folder::{RunFolder, StageLog};
use super::html::{Cell, details, escape, grouped, note, paragraph, section, table};
use crate::compare::{CellDelta, Comparison, Delta};
use crate::results::iso_time;
use crate::table::{ScoreLine, StageScore, StageScores, capability_lines, notes, percent, task_lines};

mod head;
mod pairs;
mod rows;

pub use pairs::{LearntAnswer, learnt_answer};

/// Seconds after which a browser reads the page of a running run again.
const REFRESH_SECONDS: u32 = 60;

/// The whole page. `now` is the time in seconds since 1970 where the run is going on.
pub(super) fn page(run: &RunFolder, now: Option<f64>) -> String {
    let name = run.name();
    let body = [
        head::section_of(run, now),
        scores(run),
        training(&run.logs),
        mixture(&run.logs),
        distillation(run),
        tasks(run),
        pairs::section_of(run),
        reproduce(run),
    ]
    .concat();
    let refresh = match now {
        Some(_) => format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_SECONDS}\">\n"),
        None => String::new(),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{refresh}<title>{} - findap report</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}<footer>Written by findap {}. This page is one file: it loads nothing and runs no script.</footer>\n</main>\n</body>\n</html>\n",
        escape(&name),
        include_str!("../style.css"),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Tokens that a stage was trained on, from the running count in its log.
fn tokens_seen(log: &StageLog) -> u64 {
    log.series("tokens").iter().map(|(_, tokens)| *tokens).fold(0.0, f64::max) as u64
}

fn scores(run: &RunFolder) -> String {
    let stages = &run.scores;
    if stages.is_empty() {
        return String::new();
    }
    let lines = capability_lines(stages);
    let mut body = paragraph(&format!(
        "Each score is the mean of the headline metrics of its tasks, in percent, with its standard error, or Wilson's where that is larger. Under it stands the difference to {} with its 95% interval, which compares the answers to the same questions. A difference whose interval holds 0 is within noise: it is grey and has the mark \u{2248}.",
        stages[0].stage
    ));
    body.push_str(&score_table("Scores by domain and capability, stage by stage", run, &lines));
    body.push_str("<div class=\"charts\">\n");
    for capability in Capability::ALL {
        body.push_str(&capability_chart(capability, stages, &lines));
    }
    body.push_str("</div>\n");
    body.push_str(&note("Bars are one standard error; the dashed line is the score of guessing."));
    if let Some(limit) = stages.iter().find_map(|stage| stage.info.limit) {
        body.push_str(&note(&format!("Only the first {limit} rows of each task were asked.")));
    }
    for stage in stages {
        for told in notes(stage.tasks.iter(), stage.info.max_tokens) {
            body.push_str(&note(&format!("{}: {told}.", stage.stage)));
        }
    }
    run.notes.iter().for_each(|text| body.push_str(&note(text)));
    section("scores", "What changed", &body)
}

fn capability_chart(capability: Capability, stages: &[StageScores], lines: &[ScoreLine]) -> String {
    let of_capability: Vec<&ScoreLine> = lines.iter().filter(|line| line.capability == capability).collect();
    let series = of_capability.iter().map(|line| Series {
        label: line.domain.name().to_owned(),
        class: line.domain.name(),
        points: line
            .stages
            .iter()
            .enumerate()
            .filter_map(|(place, score)| score.map(|score| (place as f64, score.score, score.stderr.unwrap_or(0.0))))
            .collect(),
        has_dots: true,
    });
    let story = |line: &&ScoreLine| {
        let scores: Vec<String> = line.stages.iter().flatten().map(|score| percent(score.score)).collect();
        format!("{}: {}", line.domain.name(), scores.join(", "))
    };
    let stories: Vec<String> = of_capability.iter().map(story).collect();
    Chart {
        title: capitalise(capability.name()),
        description: format!("Score in percent by stage. {}", stories.join("; ")),
        x: XAxis::Places(stages.iter().map(|stage| stage.stage.clone()).collect()),
        y_range: Some((0.0, 1.0)),
        is_percent: true,
        guide: of_capability.first().filter(|line| line.chance > 0.0).map(|line| (line.chance, "chance")),
        series: series.collect(),
    }
    .svg()
}

fn capitalise(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

fn score_table(caption: &str, run: &RunFolder, lines: &[ScoreLine]) -> String {
    let mut header = vec![("measured", false), ("questions", true), ("chance", true)];
    header.extend(run.scores.iter().map(|stage| (stage.stage.as_str(), true)));
    let rows: Vec<Vec<Cell>> = lines
        .iter()
        .map(|line| {
            let of_tasks = if line.num_tasks == 1 { "1 task" } else { &format!("{} tasks", line.num_tasks) };
            let (name, small) = match line.name.as_str() {
                "" => (format!("{} {}", line.domain.name(), line.capability.name()), of_tasks.to_owned()),
                _ => {
                    (line.title.clone(), format!("{} {}, {}", line.domain.name(), line.capability.name(), line.metric))
                }
            };
            let name = format!("{}<br><small>{}</small>", escape(&name), escape(&small));
            let mut row = vec![
                Cell { is_header: true, ..Cell::html("", name) },
                Cell::number(&grouped(line.num_rows as u64)),
                Cell::number(&percent(line.chance)),
            ];
            let changes = run.changes.iter().map(|change| change_of(change.as_ref()?, line));
            row.extend(line.stages.iter().zip(changes).map(|(score, change)| score_cell(score.as_ref(), change)));
            row
        })
        .collect();
    table(caption, &header, &rows)
}

/// The change that a line of a table shows.
fn change_of(comparison: &Comparison, line: &ScoreLine) -> Option<Delta> {
    match line.name.as_str() {
        "" => {
            let is_wanted = |cell: &&CellDelta| (cell.capability, cell.domain) == (line.capability, line.domain);
            comparison.cells.iter().find(is_wanted).map(|cell| cell.delta)
        }
        name => comparison.tasks.iter().find(|task| task.name == name).map(|task| task.delta),
    }
}

fn score_cell(score: Option<&StageScore>, change: Option<Delta>) -> Cell {
    let Some(score) = score else { return Cell::number("-") };
    let error = score.stderr.map_or(String::new(), |error| format!(" <small>&plusmn;{}</small>", percent(error)));
    let change = match (change, score.difference) {
        (Some(delta), _) => {
            let (class, mark) = match (delta.is_clear(), delta.low > 0.0) {
                (false, _) => ("same", "&asymp; "),
                (true, true) => ("up", ""),
                (true, false) => ("down", ""),
            };
            let [difference, low, high] = [delta.difference(), delta.low, delta.high].map(points);
            format!("<br><span class=\"{class}\">{mark}{difference}</span> <small>{low} to {high}</small>")
        }
        (None, Some(difference)) => format!("<br><span class=\"same\">{}</span>", points(difference)),
        (None, None) => String::new(),
    };
    Cell::html("num", format!("{}{error}{change}", percent(score.score)))
}

/// A difference of scores in points of a percent, with its sign.
fn points(difference: f64) -> String {
    format!("{:+.1}", 100.0 * difference)
}

fn training(logs: &[StageLog]) -> String {
    let mut charts = String::new();
    for log in logs {
        charts.push_str(&step_chart(
            &format!("{}: loss", log.stage),
            log,
            &[("loss", "train", "a"), ("dev_loss", "dev", "b")],
            None,
        ));
        let margin = [("reward_margin", "margin", "a")];
        charts.push_str(&step_chart(&format!("{}: reward margin", log.stage), log, &margin, None));
        let accuracy = [("reward_accuracy", "accuracy", "a")];
        charts.push_str(&step_chart(&format!("{}: reward accuracy", log.stage), log, &accuracy, Some((0.5, "chance"))));
    }
    if charts.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<Cell>> = logs.iter().map(training_row).collect();
    let header = [
        ("stage", false),
        ("minimised", false),
        ("steps", true),
        ("tokens", true),
        ("first loss", true),
        ("last loss", true),
        ("best dev loss", true),
        ("tokens/s", true),
    ];
    let body = format!(
        "{}<div class=\"charts\">\n{charts}</div>\n{}",
        table("Training by stage", &header, &rows),
        note(
            "Reward margin is the mean of the chosen minus the rejected answers' rewards: beta times the log-probability over the reference's, or its mean over tokens where the loss has no reference. Reward accuracy is the share of pairs where it is positive."
        )
    );
    section("training", "Training", &body)
}

fn training_row(log: &StageLog) -> Vec<Cell> {
    let loss = log.series("loss");
    let number = |value: Option<f64>| {
        Cell::number(&value.filter(|v| v.is_finite()).map_or("-".to_owned(), |v| format!("{v:.3}")))
    };
    let tokens = tokens_seen(log);
    let mut speeds: Vec<f64> = log.series("tokens_per_s").iter().map(|(_, speed)| *speed).collect();
    speeds.sort_by(f64::total_cmp);
    let dev = log.series("dev_loss").iter().map(|(_, loss)| *loss).reduce(f64::min);
    vec![
        Cell::row_name(&log.stage),
        Cell::text(log.loss.as_deref().unwrap_or("-")),
        Cell::number(&grouped(loss.len() as u64)),
        Cell::number(&grouped(tokens)),
        number(loss.first().map(|(_, loss)| *loss)),
        number(loss.last().map(|(_, loss)| *loss)),
        number(dev),
        Cell::number(&speeds.get(speeds.len() / 2).map_or("-".to_owned(), |speed| grouped(*speed as u64))),
    ]
}

fn step_chart(
    title: &str,
    log: &StageLog,
    keys: &[(&str, &str, &'static str)],
    guide: Option<(f64, &'static str)>,
) -> String {
    let series: Vec<Series> = keys
        .iter()
        .map(|(key, label, class)| {
            let points: Vec<(f64, f64, f64)> =
                log.series(key).into_iter().map(|(step, value)| (step, value, 0.0)).collect();
            Series { label: (*label).to_owned(), class, has_dots: points.len() <= 30, points }
        })
        .collect();
    let ends = |series: &Series| {
        let (first, last) = (series.points.first()?.1, series.points.last()?.1);
        Some(format!("{} from {first:.3} to {last:.3}", series.label))
    };
    let story: Vec<String> = series.iter().filter_map(ends).collect();
    Chart {
        title: title.to_owned(),
        description: format!("{title} by step: {}", story.join(", ")),
        x: XAxis::Whole("step"),
        y_range: guide.map(|_| (0.0, 1.0)),
        is_percent: guide.is_some(),
        guide,
        series,
    }
    .svg()
}

/// Realised proportions: one row per source of each stage.
fn mixture(logs: &[StageLog]) -> String {
    let mut body = String::new();
    for log in logs {
        let sources = match &log.mixture {
            Some(Value::Object(object)) => object.get("sources").and_then(Value::as_array),
            Some(Value::Array(sources)) => Some(sources),
            _ => None,
        };
        let Some(sources) = sources.filter(|sources| !sources.is_empty()) else { continue };
        let count = |source: &Value, key: &str| source.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let total: f64 = sources.iter().map(|source| count(source, "tokens")).sum();
        let rows: Vec<Vec<Cell>> = sources
            .iter()
            .map(|source| {
                let share = if total > 0.0 { count(source, "tokens") / total } else { 0.0 };
                let domain = source.get("domain").and_then(Value::as_str).unwrap_or_default();
                let class = if domain == "general" { "bar general" } else { "bar" };
                let bar = format!(
                    "<span class=\"{class}\" style=\"width:{:.0}px\"></span> {}%",
                    1.0 + 160.0 * share,
                    percent(share)
                );
                vec![
                    Cell::row_name(source.get("name").and_then(Value::as_str).unwrap_or("?")),
                    Cell::text(domain),
                    Cell::number(&grouped(count(source, "rows") as u64)),
                    Cell::number(&grouped(count(source, "tokens") as u64)),
                    Cell::number(&grouped(count(source, "loss_tokens") as u64)),
                    Cell::html("", bar),
                ]
            })
            .collect();
        let header = [
            ("source", false),
            ("domain", false),
            ("rows", true),
            ("tokens", true),
            ("loss tokens", true),
            ("share of tokens", false),
        ];
        body.push_str(&table(&format!("Stage {}", log.stage), &header, &rows));
        body.push_str(&rows::of_sources(log));
    }
    if body.is_empty() {
        return body;
    }
    body.push_str(&note(
        "What one pass over the mixed data holds. How many tokens were trained on, the table of the training says.",
    ));
    section("mixture", "Data as it was mixed", &body)
}

fn distillation(run: &RunFolder) -> String {
    if run.preferences.is_empty() && run.distillation.is_empty() {
        return String::new();
    }
    let mut body = paragraph(
        "Pairs come from the model's own answers to exercises: a right final answer over a wrong one (FAP), and the correction of the first wrong step over that step (SCP).",
    );
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for pair in &run.preferences {
        let kind =
            ["kind", "method", "source", "type"].iter().find_map(|key| pair.get(*key)?.as_str()).unwrap_or("pair");
        *kinds.entry(kind.to_uppercase()).or_default() += 1;
    }
    let mut facts: Vec<(String, String)> =
        kinds.iter().map(|(kind, count)| (format!("{kind} pairs"), grouped(*count as u64))).collect();
    // Pairs that were counted by their file are not told again.
    let is_new = |key: &str| key.strip_suffix("_pairs").is_none_or(|kind| !kinds.contains_key(&kind.to_uppercase()));
    let others = run.distillation.iter().filter(|(key, _)| is_new(key));
    facts.extend(others.map(|(key, value)| (key.replace('_', " "), plain(value))));
    body.push_str(&fact_table("What the distillation made", &facts));
    for pair in run.preferences.iter().take(1) {
        let part = |key: &str| pair.get(key).map(conversation).filter(|text| !text.is_empty());
        if let (Some(prompt), Some(chosen), Some(rejected)) = (part("prompt"), part("chosen"), part("rejected")) {
            body.push_str(&details(
                "One pair: prompt, chosen, rejected",
                &format!("{prompt}\n\n--- chosen ---\n{chosen}\n\n--- rejected ---\n{rejected}"),
            ));
        }
    }
    section("distillation", "Preference distillation", &body)
}

/// The HTML of a text, or of the turns of a conversation.
fn conversation(value: &Value) -> String {
    match value {
        Value::Array(turns) => {
            turns.iter().filter_map(|turn| turn.get("content")?.as_str()).collect::<Vec<_>>().join("\n")
        }
        value => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_u64() => grouped(number.as_u64().unwrap_or_default()),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or(f64::NAN)),
        value => value.to_string(),
    }
}

fn fact_table(caption: &str, facts: &[(String, String)]) -> String {
    let rows: Vec<Vec<Cell>> =
        facts.iter().map(|(name, value)| vec![Cell::row_name(name), Cell::text(value)]).collect();
    table(caption, &[("what", false), ("value", false)], &rows)
}

fn tasks(run: &RunFolder) -> String {
    if run.scores.is_empty() {
        return String::new();
    }
    let lines = task_lines(&run.scores);
    let body = score_table("Headline metric of every task, in percent, stage by stage", run, &lines);
    section("tasks", "Task by task", &body)
}

fn reproduce(run: &RunFolder) -> String {
    let mut facts: Vec<(String, String)> = Vec::new();
    flatten("", &run.provenance, &mut facts);
    for stage in &run.scores {
        let info = &stage.info;
        let text = format!(
            "{} (fingerprint {}), seed {}, started {} UTC, {:.1} s",
            info.model_name,
            info.model_fingerprint.chars().take(16).collect::<String>(),
            info.seed,
            iso_time(info.started_unix).chars().take(19).collect::<String>(),
            info.seconds
        );
        facts.push((format!("evaluation of {}", stage.stage), text));
    }
    let mut body = if facts.is_empty() { String::new() } else { fact_table("What was run", &facts) };
    if let Some(stage) = run.scores.last() {
        let rows: Vec<Vec<Cell>> = stage
            .tasks
            .iter()
            .map(|task| {
                vec![
                    Cell::row_name(&task.name),
                    Cell::number(&task.version.to_string()),
                    Cell::number(&task.num_fewshot.to_string()),
                    Cell::number(&format!(
                        "{} of {}",
                        grouped(task.num_rows as u64),
                        grouped(task.num_original as u64)
                    )),
                    Cell::text(&task.hash.chars().take(16).collect::<String>()),
                ]
            })
            .collect();
        let header =
            [("task", false), ("version", true), ("shots", true), ("rows", true), ("hash of the task file", false)];
        body.push_str(&table("Tasks", &header, &rows));
    }
    if let Some(resolved) = &run.resolved {
        body.push_str(&details("The recipe as it ran (resolved.toml)", resolved));
    }
    if body.is_empty() { body } else { section("reproduce", "How to reproduce this", &body) }
}

fn flatten(prefix: &str, object: &Map<String, Value>, facts: &mut Vec<(String, String)>) {
    for (key, value) in object {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner) => flatten(&name, inner, facts),
            value => facts.push((name, plain(value))),
        }
    }
}
