//! The parts of the page, top to bottom.

use std::collections::BTreeMap;

use findap_data::{Capability, Domain};
use serde_json::{Map, Value};

use super::chart::{Chart, Series, XAxis};
use super::folder::{RunFolder, StageLog};
use super::html::{Cell, details, escape, note, paragraph, section, table};
use crate::results::iso_time;
use crate::table::{ScoreLine, StageScore, StageScores, capability_lines, cut_note, percent, task_lines};

mod pairs;
mod rows;

/// Tokens that a stage was trained on, from the running count in its log.
fn tokens_seen(log: &StageLog) -> f64 {
    log.series("tokens").iter().map(|(_, tokens)| *tokens).fold(0.0, f64::max)
}

/// The whole page.
pub(super) fn page(run: &RunFolder) -> String {
    let name = run.name();
    let body = [
        header(run),
        scores(&run.scores),
        training(&run.logs),
        mixture(&run.logs),
        distillation(run),
        tasks(&run.scores),
        pairs::section_of(run),
        reproduce(run),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{} - findap report</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{body}<footer>Written by findap {}. This page is one file: it loads nothing and runs no script.</footer>\n</main>\n</body>\n</html>\n",
        escape(&name),
        include_str!("../style.css"),
        env!("CARGO_PKG_VERSION"),
    )
}

fn header(run: &RunFolder) -> String {
    let mut out = format!("<header>\n<p class=\"kicker\">findap run report</p>\n<h1>{}</h1>\n", escape(&run.name()));
    let lines = capability_lines(&run.scores);
    if let (Some(first), Some(last)) = (run.scores.first(), run.scores.last()) {
        let change = |domain: Domain| mean_change(&lines, domain);
        if let (true, Some(finance), Some(general)) =
            (run.scores.len() > 1, change(Domain::Finance), change(Domain::General))
        {
            let text = format!(
                "From {} to {}, the mean finance score went from {} to {} percent; the mean general score went from {} to {} percent.",
                first.stage,
                last.stage,
                percent(finance.0),
                percent(finance.1),
                percent(general.0),
                percent(general.1)
            );
            out.push_str(&format!("<p class=\"lead\">{}</p>\n", escape(&text)));
        }
    }
    out.push_str(&facts(run, &lines));
    out.push_str("</header>\n");
    out
}

/// Mean score of a domain in the first and in the last stage, over the capabilities that both have.
fn mean_change(lines: &[ScoreLine], domain: Domain) -> Option<(f64, f64)> {
    let both: Vec<(f64, f64)> = lines
        .iter()
        .filter(|line| line.domain == domain)
        .filter_map(|line| Some((line.stages.first()?.as_ref()?.score, line.stages.last()?.as_ref()?.score)))
        .collect();
    let count = both.len() as f64;
    let sums = both.iter().fold((0.0, 0.0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    (!both.is_empty()).then(|| (sums.0 / count, sums.1 / count))
}

fn facts(run: &RunFolder, lines: &[ScoreLine]) -> String {
    let mut facts: Vec<(String, String, String)> = Vec::new();
    if run.scores.len() > 1 {
        for domain in [Domain::Finance, Domain::General] {
            if let Some((before, after)) = mean_change(lines, domain) {
                let value = format!("{:+.1}", 100.0 * (after - before));
                facts.push((format!("{} score", domain.name()), value, "points".to_owned()));
            }
        }
    }
    let steps: usize = run.logs.iter().map(|log| log.series("loss").len()).sum();
    if steps > 0 {
        facts.push(("training".to_owned(), steps.to_string(), format!("steps in {} stages", run.logs.len())));
    }
    let tokens: f64 = run.logs.iter().map(tokens_seen).sum();
    if tokens > 0.0 {
        facts.push(("tokens trained on".to_owned(), format!("{:.2}", tokens / 1e6), "million".to_owned()));
    }
    if !run.preferences.is_empty() {
        facts.push(("preference pairs".to_owned(), run.preferences.len().to_string(), "distilled".to_owned()));
    }
    if let Some(stage) = run.scores.last() {
        let rows: usize = stage.tasks.iter().map(|task| task.num_rows).sum();
        facts.push(("evaluation".to_owned(), rows.to_string(), format!("questions in {} tasks", stage.tasks.len())));
    }
    let item = |(name, value, unit): &(String, String, String)| {
        format!("<div><dt>{}</dt><dd>{} <small>{}</small></dd></div>\n", escape(name), escape(value), escape(unit))
    };
    match facts.is_empty() {
        true => String::new(),
        false => format!("<dl class=\"facts\">\n{}</dl>\n", facts.iter().map(item).collect::<String>()),
    }
}

fn scores(stages: &[StageScores]) -> String {
    if stages.is_empty() {
        return String::new();
    }
    let lines = capability_lines(stages);
    let mut body = paragraph(
        "Each score is the mean of the headline metrics of its tasks, in percent. Under it stand the difference to the first stage, coloured where it is more than two standard errors, and the standard error.",
    );
    body.push_str(&score_table("Scores by capability and domain, stage by stage", stages, &lines));
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
        if let Some(told) = cut_note(stage.tasks.iter(), stage.info.max_tokens) {
            body.push_str(&note(&format!("{}: {told}.", stage.stage)));
        }
    }
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

fn score_table(caption: &str, stages: &[StageScores], lines: &[ScoreLine]) -> String {
    let is_by_task = lines.iter().all(|line| line.metric != "score");
    let mut header = vec![("domain", false), ("capability", false), ("measure", false), ("n", true), ("chance", true)];
    header.extend(stages.iter().map(|stage| (stage.stage.as_str(), true)));
    let rows: Vec<Vec<Cell>> = lines
        .iter()
        .map(|line| {
            let measure = match (is_by_task, line.num_tasks) {
                (true, _) => Cell::html("", format!("{} <small>{}</small>", escape(&line.title), escape(&line.metric))),
                (false, 1) => Cell::text("1 task"),
                (false, count) => Cell::text(&format!("{count} tasks")),
            };
            let mut row = vec![
                Cell::text(line.domain.name()),
                Cell::row_name(line.capability.name()),
                measure,
                Cell::number(&line.num_rows.to_string()),
                Cell::number(&percent(line.chance)),
            ];
            let first = line.stages.iter().flatten().next();
            row.extend(line.stages.iter().map(|score| score_cell(score.as_ref(), first)));
            row
        })
        .collect();
    table(caption, &header, &rows)
}

fn score_cell(score: Option<&StageScore>, first: Option<&StageScore>) -> Cell {
    let Some(score) = score else { return Cell::number("-") };
    let error = score.stderr.map_or(String::new(), |error| format!(" <small>&plusmn;{}</small>", percent(error)));
    let change = match score.difference {
        None => String::new(),
        Some(difference) => {
            let is_clear = first.and_then(|first| score.is_clear(first)).unwrap_or(false);
            let class = match (is_clear, difference > 0.0) {
                (false, _) => "same",
                (true, true) => "up",
                (true, false) => "down",
            };
            format!("<br><span class=\"{class}\">{:+.1}</span>", 100.0 * difference)
        }
    };
    Cell::html("num", format!("{}{error}{change}", percent(score.score)))
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
            "Reward margin is the mean of the chosen minus the rejected answers' implicit rewards; reward accuracy is the share of pairs where it is positive."
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
        Cell::number(&loss.len().to_string()),
        Cell::number(&format!("{tokens:.0}")),
        number(loss.first().map(|(_, loss)| *loss)),
        number(loss.last().map(|(_, loss)| *loss)),
        number(dev),
        Cell::number(&speeds.get(speeds.len() / 2).map_or("-".to_owned(), |speed| format!("{speed:.0}"))),
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
        x: XAxis::Numbers("step"),
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
                    Cell::number(&format!("{:.0}", count(source, "rows"))),
                    Cell::number(&format!("{:.0}", count(source, "tokens"))),
                    Cell::number(&format!("{:.0}", count(source, "loss_tokens"))),
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
    if body.is_empty() { body } else { section("mixture", "Data as it was mixed", &body) }
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
        kinds.into_iter().map(|(kind, count)| (format!("{kind} pairs"), count.to_string())).collect();
    facts.extend(run.distillation.iter().map(|(key, value)| (key.replace('_', " "), plain(value))));
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
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or(f64::NAN)),
        value => value.to_string(),
    }
}

fn fact_table(caption: &str, facts: &[(String, String)]) -> String {
    let rows: Vec<Vec<Cell>> =
        facts.iter().map(|(name, value)| vec![Cell::row_name(name), Cell::text(value)]).collect();
    table(caption, &[("what", false), ("value", false)], &rows)
}

fn tasks(stages: &[StageScores]) -> String {
    if stages.is_empty() {
        return String::new();
    }
    let body = score_table("Headline metric of every task, in percent, stage by stage", stages, &task_lines(stages));
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
                    Cell::number(&format!("{} of {}", task.num_rows, task.num_original)),
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
