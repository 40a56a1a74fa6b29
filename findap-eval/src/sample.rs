//! From a model's answer to the outcome of a row, and its line in a samples file.

use std::collections::BTreeMap;

use findap_data::files::sha256;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::extract::{answer_to, extract, normalize_number, with_labels};
use crate::flare;
use crate::metrics::{EntityCounts, Outcome, count_entities, is_article, rouge_l, rouge1, rouge2, token_f1};
use crate::model::{Reply, Score, Turn};
use crate::prompt::{Ask, Item, before_next_question};
use crate::task::{Generate, Kind, Metric, Task};
use crate::template::Fields;

/// What a model said to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// One score per choice.
    Scores(Vec<Score>),
    /// A written reply.
    Reply(Reply),
}

impl Answer {
    /// The most tokens that the prompt of a further turn lost at its beginning.
    pub(crate) fn num_cut_tokens(&self) -> usize {
        match self {
            Answer::Scores(_) => 0,
            Answer::Reply(reply) => reply.further.iter().map(|turn| turn.num_cut_tokens).max().unwrap_or(0),
        }
    }
}

/// What a judge said of one turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// 1 for right and 0 for wrong, or the grade divided by the highest one; none where its reply has no verdict.
    pub value: Option<f64>,
    /// Its reason, or why there is no verdict.
    pub why: String,
    /// Tells what the judge was asked: SHA-256, hex.
    #[serde(default)]
    pub prompt_hash: String,
}

/// One question, its answer and its outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Number of the row in the benchmark.
    pub row_id: usize,
    /// The subset it belongs to.
    pub subset: Option<String>,
    /// The row's fields.
    pub fields: Fields,
    /// The text before the answer.
    pub prompt: String,
    /// The texts that were scored; empty for written replies.
    pub continuations: Vec<String>,
    /// The text before each of them, where it is not the prompt but the prompt with the choice put in.
    pub contexts: Vec<String>,
    /// What the model said.
    pub answer: Answer,
    /// What it counts for.
    pub outcome: Outcome,
    /// Tokens that the prompt lost at its beginning, being longer than the model reads; `None` where that was not counted.
    pub num_cut_tokens: Option<usize>,
    /// Tells what the row asked: [`Item::asked_hash`]; `None` in results of versions that did not say it.
    pub asked_hash: Option<String>,
    /// What the judge said of each turn; empty where none was asked.
    pub judgements: Vec<Judgement>,
}

/// Scores one answer; the caller knows whether the prompt was cut.
pub fn grade(task: &Task, item: &Item, answer: Answer) -> Sample {
    let outcome = match (&item.ask, &answer, &task.kind) {
        (Ask::Choices { texts, gold, .. }, Answer::Scores(scores), _) => pick_choice(texts, scores, *gold),
        (
            Ask::Reply { golds, roundings, checks, labels, lines, .. },
            Answer::Reply(reply),
            Kind::Generate(generate),
        ) => {
            let shown = answer_to(&item.prompt, &reply.text);
            let mut outcome = compare_reply(task, generate, &Right { golds, roundings, labels, lines }, &shown);
            let kept = checks.iter().all(|check| check.passes(&shown));
            outcome.values.insert(Metric::Checks, f64::from(u8::from(kept)));
            outcome
        }
        _ => unreachable!("invariant: questions and answers of one task are of one kind"),
    };
    let contexts = match &item.ask {
        Ask::Choices { blank: Some(blank), .. } => blank.contexts.clone(),
        _ => Vec::new(),
    };
    Sample {
        row_id: item.row_id,
        subset: item.subset.clone(),
        fields: item.fields.clone(),
        prompt: item.prompt.clone(),
        continuations: item.scored().into_iter().map(|(_, continuation)| continuation).collect(),
        contexts,
        answer,
        outcome,
        num_cut_tokens: None,
        asked_hash: Some(item.asked_hash.clone()),
        judgements: Vec::new(),
    }
}

/// Picks by log-likelihood, also divided by characters and by bytes of the choice alone (lm-eval's rule: the delimiter
/// does not count). Of equals the first is picked.
fn pick_choice(texts: &[String], scores: &[Score], gold: usize) -> Outcome {
    let best = |length: &dyn Fn(&str) -> f64| {
        let values = texts.iter().zip(scores).map(|(text, score)| score.logp / length(text));
        let better = |best: (usize, f64), next: (usize, f64)| if next.1 > best.1 { next } else { best };
        values.enumerate().reduce(better).map_or(0, |(index, _)| index)
    };
    let picked = best(&|_| 1.0);
    let is_right = |index: usize| f64::from(u8::from(index == gold));
    Outcome {
        values: BTreeMap::from([
            (Metric::Acc, is_right(picked)),
            (Metric::AccNorm, is_right(best(&|text| text.chars().count() as f64))),
            (Metric::AccBytes, is_right(best(&|text| text.len() as f64))),
        ]),
        gold: gold.to_string(),
        predicted: Some(picked.to_string()),
        flare: None,
        entities: None,
    }
}

/// What a reply is held against.
struct Right<'a> {
    golds: &'a [String],
    roundings: &'a [f64],
    labels: &'a [String],
    lines: &'a [String],
}

fn compare_reply(task: &Task, generate: &Generate, right: &Right<'_>, reply: &str) -> Outcome {
    let steps = with_labels(&generate.extract, right.labels);
    let extracted = extract(&steps, before_next_question(task, reply));
    let extracted = extracted.map(|answer| picked_lines(right.lines, &answer).unwrap_or(answer));
    let answer = extracted.as_deref().unwrap_or_default();
    let roundings = right.roundings.iter().copied().chain(std::iter::repeat(0.0));
    let is_right = |(gold, rounding): &(&String, f64)| same_answer(generate, gold, *rounding, answer);
    let matched = right.golds.iter().zip(roundings).find(|gold| extracted.is_some() && is_right(gold));
    let matched = matched.map(|(gold, _)| gold);
    let is_right = f64::from(u8::from(matched.is_some()));
    let shown = match matched {
        Some(gold) => comparable(generate, gold),
        None => right.golds.iter().map(|gold| comparable(generate, gold)).collect::<Vec<_>>().join(" / "),
    };
    let predicted = extracted.as_deref().map(|answer| comparable(generate, answer));
    let nearest = |metric: &dyn Fn(&str) -> f64| right.golds.iter().map(|gold| metric(gold)).fold(0.0, f64::max);
    let by_stem = generate.rouge_stemming;
    let mut values = BTreeMap::from([
        (Metric::Acc, is_right),
        (Metric::ExactMatch, is_right),
        (Metric::Missing, f64::from(u8::from(extracted.is_none()))),
        (Metric::TokenF1, nearest(&|gold| token_f1(gold, answer))),
        (Metric::Rouge1, nearest(&|gold| rouge1(gold, answer, by_stem))),
    ]);
    // These two take long on long texts.
    if task.metrics.contains(&Metric::Rouge2) {
        values.insert(Metric::Rouge2, nearest(&|gold| rouge2(gold, answer, by_stem)));
    }
    if task.metrics.contains(&Metric::RougeL) {
        values.insert(Metric::RougeL, nearest(&|gold| rouge_l(gold, answer, by_stem)));
    }
    let flare = generate.flare.as_ref().and_then(|rule| flare::label(rule, right.labels, reply));
    if generate.flare.is_some() {
        let is_gold = |label: &String| right.golds.iter().any(|gold| gold.eq_ignore_ascii_case(label));
        values.insert(Metric::FlareAcc, f64::from(u8::from(flare.as_ref().is_some_and(is_gold))));
    }
    let entities = || count_entities(right.golds.first().map_or("", String::as_str), answer);
    Outcome {
        values,
        gold: shown,
        predicted,
        flare: flare.map(|label| comparable(generate, &label)),
        entities: task.metrics.contains(&Metric::EntityF1).then(entities),
    }
}

/// The lines that an answer of nothing but 0s and 1s picks; lines beyond its end are not picked.
fn picked_lines(lines: &[String], answer: &str) -> Option<String> {
    let marks: Vec<&str> =
        answer.split(|c: char| c.is_whitespace() || c == ',').filter(|mark| !mark.is_empty()).collect();
    if lines.is_empty() || marks.is_empty() || !marks.iter().all(|mark| matches!(*mark, "0" | "1")) {
        return None;
    }
    let picked = lines.iter().zip(marks).filter(|(_, mark)| *mark == "1").map(|(line, _)| line.as_str());
    Some(picked.collect::<Vec<_>>().join("\n"))
}

/// White space around an answer never counts; inside it does, as in lm-eval's `exact_match`, unless articles are left out.
fn comparable(generate: &Generate, text: &str) -> String {
    let text = text.trim();
    let text = if generate.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let text = if generate.ignore_punctuation { text.replace(|c: char| c.is_ascii_punctuation(), "") } else { text };
    if generate.ignore_articles {
        text.split_whitespace().filter(|word| !is_article(word)).collect::<Vec<_>>().join(" ")
    } else {
        text
    }
}

fn same_answer(generate: &Generate, gold: &str, rounding: f64, answer: &str) -> bool {
    if comparable(generate, gold) == comparable(generate, answer) {
        return true;
    }
    if generate.tolerance == 0.0 && rounding == 0.0 {
        return false;
    }
    let (gold, answer) = (normalize_number(gold), normalize_number(answer));
    matches!((gold.parse::<f64>(), answer.parse::<f64>()), (Ok(gold), Ok(answer))
        if (gold - answer).abs() <= rounding.max(generate.tolerance * gold.abs()))
}

impl Sample {
    /// Takes the mean of the judge's values of all turns for the value of its metric; none where one of them is missing.
    pub(crate) fn count_judgements(&mut self, metric: Metric) {
        let values: Option<Vec<f64>> = self.judgements.iter().map(|judgement| judgement.value).collect();
        if let Some(values) = values.filter(|values| !values.is_empty()) {
            self.outcome.values.insert(metric, values.iter().sum::<f64>() / values.len() as f64);
        }
    }

    /// Whether its reply ends at the most tokens that it may have; `None` where there is no reply, and where that is not known.
    pub fn is_cut_off(&self) -> Option<bool> {
        match &self.answer {
            Answer::Reply(reply) => reply
                .further
                .iter()
                .fold(reply.is_cut_off, |is_cut_off, turn| is_cut_off.zip(turn.is_cut_off).map(|(a, b)| a || b)),
            Answer::Scores(_) => None,
        }
    }

    /// The text of a choice for readers: what was scored, and with a blank what stands before it, too.
    pub fn choice(&self, index: usize) -> Option<String> {
        let continuation = self.continuations.get(index)?;
        Some(format!("{}{continuation}", self.contexts.get(index).map_or("", String::as_str)))
    }

    /// The line of a samples file, in lm-eval's keys (plus `subset`, `gold`, `predicted`, `flare`, `entities`, `num_cut_tokens`, `asked_hash`,
    /// `is_cut_off`, `judgements`, `further`, and `prompt` where the arguments hold it with the choices put in).
    pub fn to_json(&self, metrics: &[Metric], gen_kwargs: &Value) -> Value {
        let argument = |index: usize, second: Value| {
            let first = self.contexts.get(index).unwrap_or(&self.prompt);
            (format!("gen_args_{index}"), json!({ "arg_0": first, "arg_1": second }))
        };
        let (arguments, resps, filtered): (serde_json::Map<_, _>, Value, Value) = match &self.answer {
            Answer::Scores(scores) => (
                self.continuations.iter().enumerate().map(|(index, text)| argument(index, json!(text))).collect(),
                scores.iter().map(|score| json!([[score.logp, score.is_greedy]])).collect(),
                scores.iter().map(|score| json!([score.logp, score.is_greedy])).collect(),
            ),
            Answer::Reply(reply) => (
                std::iter::once(argument(0, gen_kwargs.clone()))
                    .chain(reply.further.iter().enumerate().map(|(index, turn)| {
                        let argument = json!({ "arg_0": turn.prompt, "arg_1": gen_kwargs });
                        (format!("gen_args_{}", index + 1), argument)
                    }))
                    .collect(),
                std::iter::once(&reply.text)
                    .chain(reply.further.iter().map(|turn| &turn.text))
                    .map(|text| json!([text]))
                    .collect(),
                json!([self.outcome.predicted.as_deref().unwrap_or("[missing]")]),
            ),
        };
        let doc = Value::Object(self.fields.clone());
        let mut line = json!({
            "doc_id": self.row_id,
            "doc": doc,
            "target": self.outcome.gold,
            "arguments": arguments,
            "resps": resps,
            "filtered_resps": filtered,
            "filter": "none",
            "metrics": metrics.iter().map(|metric| metric.name()).collect::<Vec<_>>(),
            "doc_hash": sha256(doc.to_string().as_bytes()),
            "prompt_hash": sha256(self.prompt.as_bytes()),
            "target_hash": sha256(self.outcome.gold.as_bytes()),
            "subset": self.subset,
            "gold": self.outcome.gold,
            "predicted": self.outcome.predicted,
            "flare": self.outcome.flare,
            "entities": self.outcome.entities,
            "num_cut_tokens": self.num_cut_tokens,
            "asked_hash": self.asked_hash,
        });
        if !self.judgements.is_empty() {
            line["judgements"] = json!(self.judgements);
        }
        if let Answer::Reply(reply) = &self.answer {
            line["is_cut_off"] = json!(reply.is_cut_off);
            if !reply.further.is_empty() {
                line["further"] = json!(reply.further);
            }
        }
        if !self.contexts.is_empty() {
            line["prompt"] = json!(self.prompt);
        }
        for (metric, value) in &self.outcome.values {
            line[metric.name()] = json!(value);
        }
        line
    }

    /// Reads a line of a samples file.
    ///
    /// # Errors
    /// The key that is absent or of the wrong type.
    pub fn from_json(line: &Value) -> Result<Self, &'static str> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let fields = line["doc"].as_object().ok_or("doc")?.clone();
        let row_id = line["doc_id"].as_u64().and_then(|id| usize::try_from(id).ok()).ok_or("doc_id")?;
        let arguments = line["arguments"].as_object().ok_or("arguments")?;
        let before: Option<Vec<String>> = arguments.values().map(|argument| text(argument.get("arg_0"))).collect();
        let contexts = before.ok_or("arguments.gen_args_0.arg_0")?;
        let (prompt, contexts) = match text(line.get("prompt")) {
            Some(prompt) => (prompt, contexts),
            None => (contexts.into_iter().next().ok_or("arguments.gen_args_0.arg_0")?, Vec::new()),
        };
        let resps = line["resps"].as_array().ok_or("resps")?;
        let is_reply = resps.first().is_some_and(|resp| resp[0].is_string());
        let (continuations, answer) = if is_reply {
            let text = text(resps[0].get(0)).ok_or("resps")?;
            let further: Vec<Turn> = listed(line, "further")?;
            (Vec::new(), Answer::Reply(Reply { text, is_cut_off: line["is_cut_off"].as_bool(), further }))
        } else {
            let score = |resp: &Value| Some(Score { logp: resp[0][0].as_f64()?, is_greedy: resp[0][1].as_bool()? });
            let scores = resps.iter().map(score).collect::<Option<Vec<_>>>().ok_or("resps")?;
            let texts = arguments.values().map(|argument| text(argument.get("arg_1"))).collect::<Option<Vec<_>>>();
            (texts.ok_or("arguments.gen_args_0.arg_1")?, Answer::Scores(scores))
        };
        let object = line.as_object().ok_or("line")?;
        let values = object
            .iter()
            .filter_map(|(key, value)| Some((Metric::from_name(key)?, value.as_f64()?)))
            .collect::<BTreeMap<_, _>>();
        let entities: Option<EntityCounts> =
            serde_json::from_value(line["entities"].clone()).map_err(|_| "entities")?;
        let outcome = Outcome {
            values,
            gold: text(line.get("gold")).ok_or("gold")?,
            predicted: text(line.get("predicted")),
            flare: text(line.get("flare")),
            entities,
        };
        let num_cut_tokens: Option<usize> =
            serde_json::from_value(line["num_cut_tokens"].clone()).map_err(|_| "num_cut_tokens")?;
        let subset = text(line.get("subset"));
        let asked_hash = text(line.get("asked_hash"));
        let judgements = listed(line, "judgements")?;
        Ok(Self {
            row_id,
            subset,
            fields,
            prompt,
            continuations,
            contexts,
            answer,
            outcome,
            num_cut_tokens,
            asked_hash,
            judgements,
        })
    }
}

/// A list of a line that need not be there.
fn listed<T: DeserializeOwned>(line: &Value, key: &'static str) -> Result<Vec<T>, &'static str> {
    line.get(key).map_or(Ok(Vec::new()), |value| serde_json::from_value(value.clone()).map_err(|_| key))
}
