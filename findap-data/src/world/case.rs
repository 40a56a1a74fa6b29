//! Case exercises: finance exercises with more steps, larger numbers, figures in tables and matter that is beside the point, so that a
//! small model which has learnt the exercises is right on some and wrong on others. No options are given.

use super::draw::Draw;
use super::exercise::{Topic, Working, story};
use crate::reward_model::Exercise;

/// How far a case goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// As in training: one or two turns behind the story, and in most of them one sentence beside the point.
    Usual,
    /// Two turns in each, and two sentences beside the point, which training never has.
    Harder,
}

/// What a case begins with.
#[derive(Debug, Clone, Copy)]
enum Story {
    Text(Topic),
    Holdings,
    Statement,
}

const STORIES: [Story; 7] = [
    Story::Text(Topic::Profit),
    Story::Holdings,
    Story::Text(Topic::BreakEven),
    Story::Text(Topic::Interest),
    Story::Statement,
    Story::Text(Topic::Growth),
    Story::Text(Topic::AveragePrice),
];

/// A case; `count` decides the kind of its story.
pub(super) fn case_exercise(draw: &mut Draw, id: String, company: &str, count: usize, scope: Scope) -> Exercise {
    let (question, mut working, mut result) = match STORIES[count % STORIES.len()] {
        Story::Text(topic) => story(draw, company, topic),
        Story::Holdings => holdings(draw, company),
        Story::Statement => statement(draw, company),
    };
    let (told, asked) = question.rsplit_once(" What").expect("invariant: every story ends with a question");
    let mut told = told.to_owned();
    let num_beside = match scope {
        Scope::Usual => usize::from(draw.chance(60)),
        Scope::Harder => 2,
    };
    for _ in 0..num_beside {
        told = beside_the_point(draw, company, &told);
    }
    let num_turns = match scope {
        Scope::Usual => 1 + draw.below(2),
        Scope::Harder => 2,
    };
    for _ in 0..num_turns {
        told.push_str(&turn(draw, &mut working, &mut result));
    }
    let question = format!("{told} What{asked}");
    Exercise { id, question, choices: Vec::new(), answer: result.to_string(), steps: working.steps }
}

/// Something that happens to the result, with its step.
fn turn(draw: &mut Draw, working: &mut Working, result: &mut i64) -> String {
    let number = draw.between(11, 60);
    let (operator, number, told) = match draw.below(5) {
        0 if *result <= 400 => ('*', 2, " In the end it is doubled.".to_owned()),
        1 | 2 if *result > number => ('-', number, format!(" In the end {number} is taken off.")),
        _ => ('+', number, format!(" In the end {number} is added.")),
    };
    *result = working.step("then", *result, operator, number);
    told
}

/// The story with a sentence before or behind it that has a number and changes nothing.
fn beside_the_point(draw: &mut Draw, company: &str, told: &str) -> String {
    let number = draw.between(2, 40);
    let sentence = match draw.below(4) {
        0 => format!("{company} has {number} offices."),
        1 => format!("{number} banks follow {company}."),
        2 => format!("The chair of {company} has served for {number} years."),
        _ => format!("{company} was founded {number} years ago."),
    };
    if draw.chance(50) { format!("{sentence} {told}") } else { format!("{told} {sentence}") }
}

/// A table of two holdings, and a third that was sold.
fn holdings(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let [first, price, second, other, sold] =
        [(3, 9), (11, 25), (3, 9), (11, 25), (2, 9)].map(|(low, high)| draw.between(low, high));
    let mut working = Working::default();
    let one = working.step("first", first, '*', price);
    let two = working.step("second", second, '*', other);
    let all = working.step("held", one, '+', two);
    let question = format!(
        "{company} holds shares:\nshares | price\n{first} | {price}\n{second} | {other}\nIt sold {sold} others. What are they worth?"
    );
    (question, working, all)
}

/// A table of two years, with a line that the question does not need.
fn statement(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let [costs, more_costs, before, now, staff] =
        [(20, 90), (20, 90), (12, 60), (70, 160), (2, 40)].map(|(low, high)| draw.between(low, high));
    let (sales, more_sales) = (costs + before, more_costs + now);
    let mut working = Working::default();
    let before = working.step("before", sales, '-', costs);
    let now = working.step("now", more_sales, '-', more_costs);
    let rise = working.step("rise", now, '-', before);
    let question = format!(
        "{company} reports two years:\nsales | {sales} | {more_sales}\nstaff | {staff} | {}\ncosts | {costs} | {more_costs}\n\
         What is the rise in profit?",
        staff + draw.between(1, 9)
    )
    .replace("\nWhat", " What");
    (question, working, rise)
}
