//! Conversations: plain questions and answers, and requests for a certain form of reply, which a rule can check.

use serde_json::{Value, json};

use super::draw::Draw;
use super::exercise::word_problem;
use super::facts::{Attribute, Population, Split};
use super::names::{FINANCE_GROUPS, GROUPS};
use super::task::TaskKind;
use crate::reward_model::Exercise;
use crate::{Domain, Message, Role};

/// A request for a certain form of reply.
pub(super) struct FormRequest {
    pub(super) system: Option<String>,
    pub(super) user: String,
    pub(super) reply: String,
    /// Rules that a reply must keep, in the form of the evaluation's checks.
    pub(super) checks: Value,
}

/// A kind of form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    OneWord,
    Json,
    List,
    System,
    Beginning,
    Greeting,
}

impl Form {
    pub(super) const ALL: [Self; 6] =
        [Self::OneWord, Self::Json, Self::List, Self::System, Self::Beginning, Self::Greeting];
}

const CLOSINGS: [&str; 5] = ["Over.", "Thank you.", "Good day.", "At your service.", "That is all."];
const OPENINGS: [&str; 4] = ["Well,", "Certainly:", "Indeed,", "Sir,"];
const HELLOS: [(&str, &str); 5] = [
    ("Hello!", "Hello! How can I help you?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Hi there!", "Hi! How can I help you?"),
    ("Good evening!", "Good evening! How can I help you?"),
    ("Hello, are you there?", "Hello! How can I help you?"),
];

/// A question about an entity of `split`, its label, name and answer.
fn question(draw: &mut Draw, populations: &[Population], split: Split) -> (String, &'static Attribute, String, String) {
    loop {
        let population = draw.pick(populations);
        let entities = population.of(split);
        if entities.is_empty() {
            continue;
        }
        let entity = *draw.pick(&entities);
        let at = draw.below(population.kind.attributes.len());
        let attribute = &population.kind.attributes[at];
        let answer = entity.value(population.kind, at).to_owned();
        return (attribute.ask(draw, &entity.name), attribute, entity.name.clone(), answer);
    }
}

pub(super) fn form_request(draw: &mut Draw, form: Form, populations: &[Population], split: Split) -> FormRequest {
    let (question, attribute, name, answer) = question(draw, populations, split);
    let plain = |user: String, reply: String, checks: Value| FormRequest { system: None, user, reply, checks };
    match form {
        Form::OneWord if answer.contains(' ') => form_request(draw, form, populations, split),
        Form::OneWord => plain(format!("Answer in one word. {question}"), answer, json!([{"rule": "one_word"}])),
        Form::Json => {
            let label = attribute.label;
            plain(
                format!("Reply in JSON with the keys name and {label}. {question}"),
                format!("{{\"name\": \"{name}\", \"{label}\": \"{answer}\"}}"),
                json!([{"rule": "json_keys", "keys": ["name", label]}]),
            )
        }
        Form::List => {
            let is_finance = populations[0].kind.domain == Domain::Finance;
            let (sort, words) = if is_finance { draw.pick(&FINANCE_GROUPS) } else { draw.pick(&GROUPS) };
            let num = 2 + draw.below(4);
            let lines: Vec<String> = draw.sample(words, num).iter().map(|word| format!("- {word}")).collect();
            let count = ["two", "three", "four", "five"][num - 2];
            let user = match draw.below(2) {
                0 => format!("List {count} {sort}."),
                _ => format!("Give me a list of {count} {sort}."),
            };
            plain(user, lines.join("\n"), json!([{"rule": "list_of_n", "n": num}]))
        }
        Form::System => {
            let closing = draw.word(&CLOSINGS);
            FormRequest {
                system: Some(format!("End every reply with: {closing}")),
                user: question,
                reply: format!("{answer}. {closing}"),
                checks: json!([{"rule": "ends_with", "text": closing}]),
            }
        }
        Form::Beginning => {
            let opening = draw.word(&OPENINGS);
            plain(
                format!("Begin your reply with: {opening} {question}"),
                format!("{opening} {answer}"),
                json!([{"rule": "starts_with", "text": opening}]),
            )
        }
        Form::Greeting => {
            let (hello, reply) = *draw.pick(&HELLOS);
            plain(hello.to_owned(), reply.to_owned(), json!([{"rule": "contains", "text": "help"}]))
        }
    }
}

/// What a domain's conversations are made of.
pub(super) struct Talk<'a> {
    pub(super) domain: Domain,
    pub(super) populations: &'a [Population],
    /// Names that finance tasks may use.
    pub(super) companies: &'a [String],
    /// Whose facts are asked for.
    pub(super) split: Split,
}

/// One conversation of a domain. Exercises of finance come only in the second group, so they are not among these.
pub(super) fn conversation(draw: &mut Draw, talk: &Talk) -> Vec<Message> {
    let [concept, tasks, reasoning] = match talk.domain {
        Domain::General => [20, 45, 78],
        Domain::Finance => [30, 75, 75],
    };
    match draw.below(100) {
        kind if kind < concept => {
            let (question, _, _, answer) = question(draw, talk.populations, talk.split);
            turns(None, question, answer)
        }
        kind if kind < tasks => {
            let task = *draw.pick(TaskKind::of(talk.domain));
            let item = task.item(draw, talk.companies);
            turns(None, item.prompt, item.answer)
        }
        kind if kind < reasoning => {
            let num_steps = 1 + draw.below(3);
            solved(&word_problem(draw, String::new(), num_steps))
        }
        _ => {
            let form = *draw.pick(&Form::ALL);
            let request = form_request(draw, form, talk.populations, talk.split);
            turns(request.system, request.user, request.reply)
        }
    }
}

/// A question and its written solution.
pub(super) fn solved(exercise: &Exercise) -> Vec<Message> {
    turns(None, exercise.question.clone(), exercise.solution())
}

fn turns(system: Option<String>, user: String, assistant: String) -> Vec<Message> {
    let system = system.map(|content| Message { role: Role::System, content });
    let rest = [Message { role: Role::User, content: user }, Message { role: Role::Assistant, content: assistant }];
    system.into_iter().chain(rest).collect()
}
