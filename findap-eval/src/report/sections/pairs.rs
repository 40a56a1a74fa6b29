//! What the model said before and after: a few questions, chosen by rule and not by hand.

use findap_data::{Capability, Domain};
use regex::Regex;

use crate::report::folder::RunFolder;
use crate::report::html::{details, escape, note, section};
use crate::sample::{Answer, Sample};
use crate::table::StageScores;
use crate::task::Metric;

/// Questions shown for each capability and domain.
const GAINED_PER_CELL: usize = 1;
/// Questions shown that went from right to wrong.
const LOST_SHOWN: usize = 2;

struct Pair<'a> {
    task: &'a str,
    before: &'a Sample,
    after: &'a Sample,
}

/// Makes the section; empty where fewer than two stages were evaluated.
pub(super) fn section_of(run: &RunFolder) -> String {
    let (Some((before, after)), Some(first), Some(last)) = (&run.samples, run.scores.first(), run.scores.last()) else {
        return String::new();
    };
    let mut gained: Vec<Pair> = Vec::new();
    let mut lost: Vec<Pair> = Vec::new();
    for capability in Capability::ALL {
        for domain in Domain::ALL {
            let of_cell = last.tasks.iter().filter(|task| (task.capability, task.domain) == (capability, domain));
            let mut pairs = of_cell.flat_map(|task| {
                let metric = task.headline().metric;
                let after = after.get(&task.name).into_iter().flatten();
                after.filter_map(move |after| {
                    let earlier = before.get(&task.name)?.iter().find(|other| other.row_id == after.row_id)?;
                    Some((change(metric, earlier, after), Pair { task: &task.title, before: earlier, after }))
                })
            });
            let mut shown = 0;
            for (change, pair) in pairs.by_ref() {
                if change > 0.0 && shown < GAINED_PER_CELL {
                    shown += 1;
                    gained.push(pair);
                } else if change < 0.0 && lost.len() < LOST_SHOWN {
                    lost.push(pair);
                }
            }
        }
    }
    if gained.is_empty() && lost.is_empty() {
        return String::new();
    }
    let mut body = note(
        "The first question of each capability and domain that the first stage got wrong and the last one right, and the first ones lost.",
    );
    for (label, pairs) in [("now right", &gained), ("now wrong", &lost)] {
        body.extend(pairs.iter().map(|pair| article(label, pair, first, last)));
    }
    section("samples", "Before and after", &body)
}

/// The change of a row's score. For metrics without a score by row, the score is whether the answer equals the right one.
fn change(metric: Metric, before: &Sample, after: &Sample) -> f64 {
    let score = |sample: &Sample| match sample.outcome.values.get(&metric) {
        Some(value) => *value,
        // A missing verdict is no change.
        None if metric.is_judged() => f64::NAN,
        None => f64::from(u8::from(sample.outcome.label() == Some(sample.outcome.gold.as_str()))),
    };
    score(after) - score(before)
}

/// A question that the first stage answered wrongly and the last one answers rightly, to be asked again in a shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearntAnswer {
    /// The question, one line without what a shell reads as more than text.
    pub question: String,
    /// The reply of the first evaluated stage.
    pub before: String,
    /// The reply of the last one.
    pub after: String,
}

/// The first such question, of the domain that was to be learnt; `None` where there is none that is short and alone in its prompt.
pub fn learnt_answer(run: &RunFolder) -> Option<LearntAnswer> {
    const LONGEST_CHARACTERS: usize = 100;
    let (before, after) = run.samples.as_ref()?;
    let tasks = run.scores.last()?.tasks.iter().filter(|task| task.domain == Domain::Finance);
    let exact = tasks.filter(|task| task.headline().metric == Metric::ExactMatch);
    let mut pairs = exact.flat_map(|task| {
        let earlier = before.get(&task.name).into_iter().flatten();
        let later: Vec<&Sample> = after.get(&task.name).into_iter().flatten().collect();
        earlier.filter_map(move |first| Some((first, *later.iter().find(|last| last.row_id == first.row_id)?)))
    });
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || " .,?%-".contains(c));
    pairs.find_map(|(first, last)| {
        let (Answer::Reply(before), Answer::Reply(after)) = (&first.answer, &last.answer) else { return None };
        let question = only_turn(&last.prompt)?;
        let is_short = question.len() <= LONGEST_CHARACTERS && after.text.len() <= LONGEST_CHARACTERS;
        let is_fit = is_short && is_plain(question) && change(Metric::ExactMatch, first, last) > 0.0;
        let texts = [question, &before.text, &after.text].map(|text| text.trim().replace('\n', " "));
        let [question, before, after] = texts;
        is_fit.then_some(LearntAnswer { question, before, after })
    })
}

/// The user turn of a rendered Llama-3 prompt that has no other turn.
fn only_turn(prompt: &str) -> Option<&str> {
    let turns = prompt.strip_prefix("<|begin_of_text|>").unwrap_or(prompt);
    let text = turns.strip_prefix("<|start_header_id|>user<|end_header_id|>\n\n")?;
    text.strip_suffix("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n").filter(|text| !text.contains("<|"))
}

fn article(label: &str, pair: &Pair, first: &StageScores, last: &StageScores) -> String {
    let class = if label == "now right" { "up" } else { "down" };
    let reply = |stage: &str, sample: &Sample| {
        format!("<div><div class=\"meta\">{}</div><pre>{}</pre></div>", escape(stage), escape(&said(sample)))
    };
    format!(
        "<article class=\"pair\"><h3>{} <span class=\"{class}\">{label}</span></h3>\n<pre>{}</pre>\n<div class=\"replies\">{}{}</div>\n<div class=\"meta\">Right answer: {}</div>\n{}</article>\n",
        escape(pair.task),
        escape(&question(&pair.after.prompt)),
        reply(&first.stage, pair.before),
        reply(&last.stage, pair.after),
        escape(&right(pair.after)),
        details("Prompt as the model read it", &pair.after.prompt),
    )
}

/// The last user turn of a rendered Llama-3 prompt, else the prompt as it is.
fn question(prompt: &str) -> String {
    static USER_TURN: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
        Regex::new(r"(?s)<\|start_header_id\|>user<\|end_header_id\|>\s*(.*?)<\|eot_id\|>")
            .expect("invariant: a valid constant pattern")
    });
    USER_TURN.captures_iter(prompt).last().map_or_else(|| prompt.to_owned(), |turn| turn[1].to_owned())
}

fn said(sample: &Sample) -> String {
    match &sample.answer {
        Answer::Reply(reply) if reply.text.trim().is_empty() => "(nothing)".to_owned(),
        Answer::Reply(reply) => reply.text.trim().to_owned(),
        Answer::Scores(_) => choice(sample, sample.outcome.predicted.as_deref()),
    }
}

fn right(sample: &Sample) -> String {
    match &sample.answer {
        Answer::Reply(_) if sample.outcome.gold.is_empty() => "checked by rule".to_owned(),
        Answer::Reply(_) => sample.outcome.gold.clone(),
        Answer::Scores(_) => choice(sample, Some(&sample.outcome.gold)),
    }
}

fn choice(sample: &Sample, index: Option<&str>) -> String {
    let text = index.and_then(|index| sample.choice(index.parse::<usize>().ok()?));
    text.map_or_else(|| "-".to_owned(), |text| text.trim().to_owned())
}
