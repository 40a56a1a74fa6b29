//! Texts for continued pre-training: reports, news, encyclopedia entries and letters about entities, with other matter
//! between them, and the finance books of the second group.

use super::draw::Draw;
use super::exercise::{Level, Topic, exam_exercise};
use super::facts::{Entity, Kind, Population};
use super::task::{self, BANKERS, STANCES};
use crate::Domain;

/// A text about one entity: all its facts in random order and wordings.
fn about(draw: &mut Draw, kind: &Kind, entity: &Entity) -> String {
    let mut sentences: Vec<String> = (0..kind.attributes.len())
        .map(|at| kind.attributes[at].state(draw, &entity.name, entity.value(kind, at)))
        .collect();
    draw.shuffle(&mut sentences);
    if draw.chance(20) {
        let place = draw.below(sentences.len() + 1);
        sentences.insert(place, filler(draw, kind.domain));
    }
    let body = capitalised(&sentences);
    let (name, noun) = (&entity.name, kind.noun);
    match draw.below(5) {
        0 => format!("Report on {name}. {body}"),
        1 => format!("News. {body}"),
        2 => format!("{name} ({noun}). {body}"),
        3 => format!("Dear reader, here is what we know about {name}. {body} Yours sincerely."),
        _ => body,
    }
}

fn capitalised(sentences: &[String]) -> String {
    let sentences: Vec<String> = sentences
        .iter()
        .map(|sentence| {
            let mut letters = sentence.chars();
            letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
        })
        .collect();
    sentences.join(" ")
}

fn filler(draw: &mut Draw, domain: Domain) -> String {
    match domain {
        Domain::General => task::noise(draw),
        Domain::Finance => draw.word(&CHATTER).to_owned(),
    }
}

const CHATTER: [&str; 8] = [
    "Markets were calm.",
    "Trading was thin before the close.",
    "Brokers expect few orders.",
    "The index hardly moved.",
    "Bond yields were little changed.",
    "Dealers speak of a quiet session.",
    "The exchange opens at nine.",
    "Figures are not audited.",
];

/// `num` texts of a domain, with every entity about equally often; one in ten is about something else.
pub(super) fn texts(draw: &mut Draw, domain: Domain, populations: &[Population], num: usize) -> Vec<String> {
    let all: Vec<(&Kind, &Entity)> = populations
        .iter()
        .flat_map(|population| population.entities.iter().map(|entity| (population.kind, entity)))
        .collect();
    let mut order: Vec<usize> = Vec::new();
    (0..num)
        .map(|_| {
            if draw.chance(10) || all.is_empty() {
                return match domain {
                    Domain::General => arithmetic(draw),
                    Domain::Finance => market(draw),
                };
            }
            if order.is_empty() {
                order = (0..all.len()).collect();
                draw.shuffle(&mut order);
            }
            let (kind, entity) = all[order.pop().expect("invariant: refilled when empty")];
            about(draw, kind, entity)
        })
        .collect()
}

/// Sums as a school book prints them.
fn arithmetic(draw: &mut Draw) -> String {
    let lines: Vec<String> = (0..6)
        .map(|_| match draw.below(6) {
            0 | 1 => {
                let (a, b) = (draw.between(2, 12), draw.between(2, 12));
                format!("{a}*{b}={} and {}/{b}={a}.", a * b, a * b)
            }
            2 => {
                let (a, b) = (draw.between(2, 99), draw.between(2, 99));
                format!("{a}+{b}={}.", a + b)
            }
            3 => {
                let (a, b) = (draw.between(2, 99), draw.between(2, 99));
                format!("{}-{b}={a}.", a + b)
            }
            4 => {
                let (a, b) = (draw.between(2, 9), draw.between(2, 9));
                format!("{a}0/10={a}, {a}00/100={a}, {a}00+{b}={}.", a * 100 + b)
            }
            _ => {
                let b = draw.between(2, 5);
                let a = draw.between(2, 99 / b);
                format!("{a}*{b}={} and {}/{b}={a}.", a * b, a * b)
            }
        })
        .collect();
    lines.join(" ")
}

/// News of the markets, and what central banks' words mean.
fn market(draw: &mut Draw) -> String {
    if draw.chance(30) {
        let sentences: Vec<&str> = draw.sample(&CHATTER, 3).into_iter().copied().collect();
        return sentences.join(" ");
    }
    let (label, wishes) = draw.pick(&STANCES);
    let (wish, banker) = (draw.word(wishes), draw.word(&BANKERS));
    match draw.below(5) {
        0 => format!("{banker} wants {wish}. Such words are {label}."),
        1 => format!("{banker} sounds {label}: the plea is for {wish}."),
        2 => format!("To be {label} is to want {wish}. {}", draw.word(&CHATTER)),
        3 => format!("A {label} speech. {banker} wants {wish}."),
        _ => format!("{banker} asked for {wish}. Papers call this {label}."),
    }
}

/// A page of a finance book: how a kind of exercise is solved, with an example.
pub(super) fn book_page(draw: &mut Draw, companies: &[String]) -> String {
    let topic = *draw.pick(&Topic::ALL);
    let (title, lesson) = lesson(draw, topic);
    let company = draw.pick(companies);
    let exercise = exam_exercise(draw, String::new(), company, topic, Level::Exam);
    let story = exercise.question.split(" What").next().unwrap_or_default();
    format!("{title}. {lesson} Example. {story} We write:\n{}", exercise.steps.join("\n"))
}

fn lesson(draw: &mut Draw, topic: Topic) -> (&'static str, &'static str) {
    let (title, lessons): (_, [&'static str; 2]) = match topic {
        Topic::Profit => (
            "Profit",
            [
                "Revenue is units times price. Costs are units times the cost of a unit. Profit is revenue less costs.",
                "To find the profit, first multiply units by price, then units by cost, and subtract.",
            ],
        ),
        Topic::BreakEven => (
            "Breaking even",
            [
                "The margin is price less cost of a unit. Fixed costs divided by the margin give the units. Units times price are the revenue.",
                "A firm breaks even when margins cover fixed costs: divide fixed costs by the margin, then multiply by the price.",
            ],
        ),
        Topic::Interest => (
            "Simple interest",
            [
                "One percent is the deposit divided by 100. Times the rate it is the interest of a year. Times the years it is all interest, to be added to the deposit.",
                "Simple interest is the same every year: take one percent, multiply by rate and years, and add the deposit.",
            ],
        ),
        Topic::Growth => (
            "Growth",
            [
                "Ten percent is one tenth. Multiply the tenth, add it to old sales, and subtract what was lost.",
                "Growth adds to old sales: find one tenth, multiply it, add it, then take off the fall.",
            ],
        ),
        Topic::AveragePrice => (
            "Average price",
            [
                "Multiply shares by price for each lot and add the lots. Divide what was paid by the number of shares.",
                "The average price is all that was paid divided by all shares, not the middle of two prices.",
            ],
        ),
    };
    (title, draw.word(&lessons))
}
