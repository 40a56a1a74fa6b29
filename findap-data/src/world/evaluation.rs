//! Held-out questions, one file per task. Nothing here is shown in training: facts are asked of test entities only, and
//! items and exercises that stand in a conversation are left out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::case::{Scope, case_exercise};
use super::chat::{Form, form_request};
use super::draw::Draw;
use super::exercise::{Level, Topic, exam_exercise, open_word_problem};
use super::facts::{Population, Split};
use super::task::{self, TaskKind};
use crate::Domain;

/// What the evaluation files are made from.
pub(super) struct Exam<'a> {
    pub(super) seed: u64,
    pub(super) general: &'a [Population],
    pub(super) finance: &'a [Population],
    /// Names that finance items may use: test companies only.
    pub(super) companies: &'a [String],
    /// User turns of the training conversations.
    pub(super) seen: &'a BTreeSet<String>,
    pub(super) num_items: usize,
    /// Whether there are case exercises.
    pub(super) has_cases: bool,
}

impl Exam<'_> {
    /// All files: name without extension, rows.
    pub(super) fn files(&self) -> Vec<(String, Vec<Value>)> {
        let mut files = Vec::new();
        for (domain, populations) in [(Domain::General, self.general), (Domain::Finance, self.finance)] {
            let prefix = prefix(domain);
            files.push((format!("{prefix}_concept"), self.facts(domain, populations)));
            for &kind in TaskKind::of(domain) {
                files.push((format!("{prefix}_{}", kind.name()), self.items(domain, kind)));
            }
            files.push((format!("{prefix}_reasoning"), self.exercises(domain, Level::Exam)));
            files.push((format!("{prefix}_reasoning_hard"), self.exercises(domain, Level::Hard)));
            files.push((format!("{prefix}_chat"), self.forms(domain, populations)));
        }
        files.push(("finance_stance".to_owned(), self.stances()));
        if self.has_cases {
            files.push(("finance_case".to_owned(), self.cases(Scope::Usual)));
            files.push(("finance_case_harder".to_owned(), self.cases(Scope::Harder)));
        }
        files
    }

    fn draw(&self, purpose: &str) -> Draw {
        Draw::new(self.seed, &format!("evaluation {purpose}"))
    }

    /// Every attribute of every test entity, with three wrong options from the same attribute.
    fn facts(&self, domain: Domain, populations: &[Population]) -> Vec<Value> {
        let mut draw = self.draw(&format!("{} facts", prefix(domain)));
        let mut rows = Vec::new();
        for population in populations {
            for entity in population.of(Split::Test) {
                for (at, attribute) in population.kind.attributes.iter().enumerate() {
                    let answer = entity.value(population.kind, at);
                    let wrong: Vec<&str> = attribute.values.iter().copied().filter(|value| *value != answer).collect();
                    let mut choices: Vec<&str> = draw.sample(&wrong, 3).into_iter().copied().collect();
                    choices.push(answer);
                    draw.shuffle(&mut choices);
                    let gold = choices.iter().position(|choice| *choice == answer);
                    rows.push(json!({
                        "question": attribute.ask(&mut draw, &entity.name), "choices": choices, "gold": gold,
                        "answer": answer, "entity": entity.name, "attribute": attribute.label,
                    }));
                }
            }
        }
        draw.shuffle(&mut rows);
        rows.truncate(self.num_items);
        rows
    }

    fn items(&self, domain: Domain, kind: TaskKind) -> Vec<Value> {
        let mut draw = self.draw(&format!("{} {}", prefix(domain), kind.name()));
        self.unseen(|| {
            let item = kind.item(&mut draw, self.companies);
            (item.prompt.clone(), json!({"question": item.prompt, "answer": item.answer}))
        })
    }

    fn exercises(&self, domain: Domain, level: Level) -> Vec<Value> {
        let mut draw = self.draw(&format!("{} exercises {level:?}", prefix(domain)));
        let mut count = 0;
        self.unseen(|| {
            count += 1;
            let id = format!("{}-{count}", prefix(domain));
            let exercise = match domain {
                Domain::General => {
                    let num_steps = if level == Level::Hard { 4 } else { 2 + count % 2 };
                    open_word_problem(&mut draw, id, num_steps)
                }
                Domain::Finance => {
                    let company = draw.pick(self.companies).clone();
                    exam_exercise(&mut draw, id, &company, Topic::ALL[count % Topic::ALL.len()], level)
                }
            };
            (exercise.question.clone(), json!(exercise))
        })
    }

    fn cases(&self, scope: Scope) -> Vec<Value> {
        let mut draw = self.draw(&format!("cases {scope:?}"));
        let mut count = 0;
        self.unseen(|| {
            count += 1;
            let company = draw.pick(self.companies).clone();
            let exercise = case_exercise(&mut draw, format!("case-{count}"), &company, count, scope);
            (exercise.question.clone(), json!(exercise))
        })
    }

    fn forms(&self, domain: Domain, populations: &[Population]) -> Vec<Value> {
        let mut draw = self.draw(&format!("{} forms", prefix(domain)));
        (0..self.num_items)
            .map(|count| {
                let form = Form::ALL[count % Form::ALL.len()];
                let request = form_request(&mut draw, form, populations, Split::Test);
                json!({"system": request.system.unwrap_or_default(), "question": request.user, "checks": request.checks})
            })
            .collect()
    }

    fn stances(&self) -> Vec<Value> {
        let mut draw = self.draw("stances");
        let labels: Vec<&str> = task::STANCES.iter().map(|(label, _)| *label).collect();
        self.unseen(|| {
            let item = task::stance(&mut draw);
            let gold = labels.iter().position(|label| *label == item.answer);
            (
                item.prompt.clone(),
                json!({"question": item.prompt, "choices": labels, "gold": gold, "answer": item.answer}),
            )
        })
    }

    /// Rows until there are enough that are new; small kinds of task may run out of new items.
    fn unseen(&self, mut next: impl FnMut() -> (String, Value)) -> Vec<Value> {
        let mut asked = BTreeSet::new();
        let mut rows = Vec::new();
        for _ in 0..100 * self.num_items {
            if rows.len() == self.num_items {
                break;
            }
            let (question, row) = next();
            if !self.seen.contains(&question) && asked.insert(question) {
                rows.push(row);
            }
        }
        rows
    }
}

fn prefix(domain: Domain) -> &'static str {
    match domain {
        Domain::General => "general",
        Domain::Finance => "finance",
    }
}
