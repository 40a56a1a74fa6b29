//! Exercises with written steps. Every step is one line with one sum, so that a rule can check it and name the first one
//! that is wrong; the last line gives the answer.

use super::draw::Draw;
use super::names::{ITEMS, PEOPLE};
use crate::reward_model::Exercise;

/// The sum in a step: `left operator right = result`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// First number.
    pub left: i64,
    /// `+`, `-`, `*` or `/`.
    pub operator: char,
    /// Second number.
    pub right: i64,
    /// The result as written, right or wrong.
    pub result: i64,
}

impl Sum {
    /// The sum that a line ends with, after an optional label and colon; `None` where there is none.
    pub fn parse(line: &str) -> Option<Self> {
        let sum = line.rsplit(':').next()?.trim().trim_end_matches('.');
        let (expression, result) = sum.split_once('=')?;
        let at = expression.char_indices().skip(1).find(|(_, c)| "+-*/".contains(*c))?.0;
        let (left, rest) = expression.split_at(at);
        let mut rest = rest.chars();
        let operator = rest.next()?;
        let number = |text: &str| text.trim().parse().ok();
        Some(Self { left: number(left)?, operator, right: number(rest.as_str())?, result: number(result)? })
    }

    /// Whether the result follows from the numbers.
    pub fn holds(&self) -> bool {
        let Self { left, operator, right, result } = *self;
        match operator {
            '+' => left.checked_add(right) == Some(result),
            '-' => left.checked_sub(right) == Some(result),
            '*' => left.checked_mul(right) == Some(result),
            '/' => right != 0 && left.checked_rem(right) == Some(0) && left.checked_div(right) == Some(result),
            _ => false,
        }
    }
}

/// Writes the steps of a solution while computing it.
#[derive(Default)]
pub(super) struct Working {
    pub(super) steps: Vec<String>,
}

impl Working {
    pub(super) fn step(&mut self, label: &str, left: i64, operator: char, right: i64) -> i64 {
        let result = match operator {
            '+' => left + right,
            '-' => left - right,
            '*' => left * right,
            _ => left / right,
        };
        let label = if label.is_empty() { String::new() } else { format!("{label}: ") };
        self.steps.push(format!("{label}{left}{operator}{right}={result}"));
        result
    }
}

/// A word problem of everyday life with `num_steps` steps. Some end with options.
pub(super) fn word_problem(draw: &mut Draw, id: String, num_steps: usize) -> Exercise {
    let (question, working, result) =
        if num_steps == 3 && draw.chance(50) { two_boxes(draw) } else { chain(draw, num_steps) };
    if draw.chance(30) {
        with_options(draw, id, question, working, result)
    } else {
        Exercise { id, question, choices: Vec::new(), answer: result.to_string(), steps: working.steps }
    }
}

/// A word problem whose answer is a number, never one of some options: an evaluation file is scored in one way.
pub(super) fn open_word_problem(draw: &mut Draw, id: String, num_steps: usize) -> Exercise {
    loop {
        let exercise = word_problem(draw, id.clone(), num_steps);
        if exercise.choices.is_empty() {
            return exercise;
        }
    }
}

fn chain(draw: &mut Draw, num_steps: usize) -> (String, Working, i64) {
    let (person, friend) = (draw.word(&PEOPLE), draw.word(&PEOPLE));
    let item = draw.word(&ITEMS);
    let mut working = Working::default();
    let mut held = draw.between(3, 25);
    let mut story = format!("{person} has {held} {item}.");
    while working.steps.len() < num_steps {
        let (operator, other) = match draw.below(4) {
            0 => ('+', draw.between(2, 40)),
            1 => ('-', draw.between(2, 30)),
            2 => ('*', draw.between(2, 5)),
            _ => ('/', draw.between(2, 6)),
        };
        let possible = match operator {
            '+' => held + other <= 99,
            '-' => held - other >= 2,
            '*' => held * other <= 99,
            _ => held % other == 0 && held / other >= 2,
        };
        if !possible {
            continue;
        }
        story.push_str(&match operator {
            '+' if draw.chance(50) => format!(" {friend} brings {other} more."),
            '+' => format!(" {person} buys {other} more."),
            '-' if draw.chance(50) => format!(" {person} loses {other}."),
            '-' => format!(" {person} gives away {other}."),
            '*' => format!(" The number grows {other} times."),
            _ => format!(" {person} shares equally among {other} and keeps one part."),
        });
        held = working.step("", held, operator, other);
    }
    (format!("{story} How many {item} are left?"), working, held)
}

fn two_boxes(draw: &mut Draw) -> (String, Working, i64) {
    let (person, item) = (draw.word(&PEOPLE), draw.word(&ITEMS));
    let mut working = Working::default();
    loop {
        let [a, b, c, d] = [draw.between(2, 9), draw.between(2, 12), draw.between(2, 9), draw.between(2, 12)];
        if draw.chance(50) {
            let first = working.step("", a, '*', b);
            let second = working.step("", c, '*', d);
            let all = working.step("", first, '+', second);
            let story = format!("{person} fills {a} boxes with {b} {item} each and {c} bags with {d} {item} each.");
            return (format!("{story} How many {item} are there?"), working, all);
        }
        if a * b > c * d + 1 {
            let first = working.step("", a, '*', b);
            let second = working.step("", c, '*', d);
            let rest = working.step("", first, '-', second);
            let story = format!("{person} has {a} boxes with {b} {item} each and sells {c} bags with {d} {item} each.");
            return (format!("{story} How many {item} are left?"), working, rest);
        }
    }
}

/// The kinds of finance exercise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Profit,
    BreakEven,
    Interest,
    Growth,
    AveragePrice,
}

impl Topic {
    pub(super) const ALL: [Self; 5] = [Self::Profit, Self::BreakEven, Self::Interest, Self::Growth, Self::AveragePrice];
}

/// How large the numbers of a finance exercise are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// As in training.
    Exam,
    /// One step more than in training.
    Hard,
}

/// A finance exercise with options A to C and three to five steps; one more on the hard level.
pub(super) fn exam_exercise(draw: &mut Draw, id: String, company: &str, topic: Topic, level: Level) -> Exercise {
    let (mut question, mut working, mut result) = story(draw, company, topic);
    if level == Level::Hard {
        let fee = draw.between(2, 9);
        question = question.replacen(" What", &format!(" A fee of {fee} is added at the end. What"), 1);
        result = working.step("with fee", result, '+', fee);
    }
    // The answer is the option's number: an exam asks for finance, not for the letters.
    let options = options(draw, &working, result);
    let choices: Vec<String> = options.iter().map(ToString::to_string).collect();
    let question = format!("{question}\n{}", lettered(&choices));
    Exercise { id, question, choices, answer: result.to_string(), steps: working.steps }
}

/// The question of a finance exercise without options, its steps and the result.
pub(super) fn story(draw: &mut Draw, company: &str, topic: Topic) -> (String, Working, i64) {
    match topic {
        Topic::Profit => profit(draw, company),
        Topic::BreakEven => break_even(draw, company),
        Topic::Interest => interest(draw, company),
        Topic::Growth => growth(draw, company),
        Topic::AveragePrice => average_price(draw, company),
    }
}

fn profit(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let (units, price, cost) = (draw.between(3, 9), draw.between(5, 12), draw.between(2, 4));
    let mut working = Working::default();
    let revenue = working.step("revenue", units, '*', price);
    let costs = working.step("costs", units, '*', cost);
    let profit = working.step("profit", revenue, '-', costs);
    let question = format!(
        "{company} sells {units} units at a price of {price}. Each unit costs {cost} to make. What is the profit?"
    );
    (question, working, profit)
}

fn break_even(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let (price, margin, units) = (draw.between(6, 12), draw.between(2, 5), draw.between(3, 9));
    let (cost, fixed) = (price - margin, margin * units);
    let mut working = Working::default();
    let margin = working.step("margin", price, '-', cost);
    let units = working.step("units", fixed, '/', margin);
    let revenue = working.step("revenue", units, '*', price);
    let question = format!(
        "{company} sells a unit for {price} and pays {cost} for it. Fixed costs are {fixed}. What revenue breaks even?"
    );
    (question, working, revenue)
}

fn interest(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let mut working = Working::default();
    let (hundreds, rate, years) = loop {
        let drawn = (draw.between(2, 9), draw.between(2, 9), draw.between(2, 5));
        if drawn.0 * drawn.1 * drawn.2 <= 99 {
            break drawn;
        }
    };
    let deposit = hundreds * 100;
    let percent = working.step("one percent", deposit, '/', 100);
    let yearly = working.step("a year", percent, '*', rate);
    let all = working.step("interest", yearly, '*', years);
    let value = working.step("value", deposit, '+', all);
    let question = format!(
        "{company} deposits {deposit} at {rate} percent simple interest for {years} years. What is the deposit worth?"
    );
    (question, working, value)
}

fn growth(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let (tens, tenths) = (draw.between(3, 9), draw.between(2, 9));
    let mut working = Working::default();
    let sales = tens * 10;
    let tenth = working.step("one tenth", sales, '/', 10);
    let more = working.step("growth", tenth, '*', tenths);
    let grown = working.step("new sales", sales, '+', more);
    let fall = draw.between(2, 20);
    let left = working.step("after fall", grown, '-', fall);
    let question = format!(
        "Sales of {company} were {sales}. They grew by {tenths}0 percent, then fell by {fall}. What are sales now?"
    );
    (question, working, left)
}

fn average_price(draw: &mut Draw, company: &str) -> (String, Working, i64) {
    let [first, price, second, other] = loop {
        let drawn = [draw.between(2, 8), draw.between(2, 12), draw.between(2, 8), draw.between(2, 12)];
        let [a, b, c, d] = drawn;
        if b != d && (a * b + c * d) % (a + c) == 0 {
            break drawn;
        }
    };
    let mut working = Working::default();
    let one = working.step("first lot", first, '*', price);
    let two = working.step("second lot", second, '*', other);
    let paid = working.step("paid", one, '+', two);
    let shares = working.step("shares", first, '+', second);
    let average = working.step("average", paid, '/', shares);
    let question = format!(
        "A fund buys {first} shares of {company} at {price} and {second} shares at {other}. What is the average price?"
    );
    (question, working, average)
}

/// Three options: the result and two numbers that come from a likely slip.
fn options(draw: &mut Draw, working: &Working, result: i64) -> Vec<i64> {
    let mut slips: Vec<i64> = working.steps.iter().filter_map(|step| Sum::parse(step)).map(|sum| sum.result).collect();
    slips.pop();
    slips.extend([result + 1, result - 1, result + 10, result + draw.between(2, 9), result - draw.between(2, 9)]);
    slips.retain(|&slip| slip != result && slip > 0);
    draw.shuffle(&mut slips);
    let mut options = vec![result];
    for slip in slips {
        if options.len() < 3 && !options.contains(&slip) {
            options.push(slip);
        }
    }
    draw.shuffle(&mut options);
    options
}

/// Asks for the letter of the right option. The last step finds the result among them.
fn with_options(draw: &mut Draw, id: String, question: String, mut working: Working, result: i64) -> Exercise {
    let options = options(draw, &working, result);
    let place =
        options.iter().position(|option| *option == result).expect("invariant: the result is among the options");
    let shown = |place: usize| format!("{} ({})", options[place], LETTERS[place]);
    let lines: Vec<String> = (0..options.len()).map(shown).collect();
    working.steps.push(format!("option: {}", lines[place]));
    Exercise {
        id,
        question: format!("{question}\n{}", lines.join("\n")),
        choices: options.iter().map(ToString::to_string).collect(),
        answer: LETTERS[place].to_owned(),
        steps: working.steps,
    }
}

/// Letters of options, in order.
pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// One option per line, with its letter.
pub(super) fn lettered(choices: &[String]) -> String {
    let lines: Vec<String> =
        choices.iter().zip(LETTERS).map(|(choice, letter)| format!("{letter}. {choice}")).collect();
    lines.join("\n")
}
