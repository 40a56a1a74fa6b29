//! What became of the rows of each source of a stage.

use findap_data::store::rows::{RowsReport, Use};
use serde::Deserialize;

use super::super::folder::StageLog;
use super::super::html::{Cell, note, table};

/// What became of every row of a stage's sources; empty for a stage of a program that did not note it.
pub(super) fn of_sources(log: &StageLog) -> String {
    let noted = log.mixture.as_ref().and_then(|mixture| mixture.get("rows"));
    let Some(report) = noted.and_then(|rows| RowsReport::deserialize(rows).ok()) else { return String::new() };
    let mut rows = Vec::new();
    for source in &report.sources {
        let dev = if source.purpose == Use::Dev { " (dev loss)" } else { "" };
        let mut line = |name: &str, what: &str, count: u64, tokens: Option<u64>| {
            let tokens = tokens.map_or_else(|| "-".to_owned(), |tokens| tokens.to_string());
            rows.push(vec![
                Cell::row_name(name),
                Cell::text(what),
                Cell::number(&count.to_string()),
                Cell::number(&tokens),
            ]);
        };
        line(&format!("{}{dev}", source.source), "rows read", source.read, None);
        for part in source.parts() {
            line("", &part.what, part.rows, part.tokens);
        }
    }
    let header = [("source", false), ("of its rows", false), ("rows", true), ("tokens", true)];
    let advice = report.sources.iter().filter_map(|source| Some(format!("{}: {}", source.source, source.advice()?)));
    let notes: String = advice.chain(report.notes.iter().cloned()).map(|text| note(&text)).collect();
    table(&format!("Stage {}: what became of the rows of its sources", log.stage), &header, &rows) + &notes
}
