//! Small tasks with a short, checkable answer: those of everyday language and those of finance.

use super::draw::Draw;
use super::names::{GROUPS, PEOPLE};
use crate::Domain;

/// One item of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// What is asked.
    pub(super) prompt: String,
    /// The right answer.
    pub(super) answer: String,
}

/// A kind of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TaskKind {
    /// Which of four topics a sentence has.
    SentenceTopic,
    /// Which of four words is of another sort.
    OddWord,
    /// Who is named in a sentence.
    NameInSentence,
    /// Which of three words is of a sort.
    ChooseSort,
    /// Whether news about a company are good.
    Sentiment,
    /// What a headline reports.
    Headline,
    /// Names and their types in a sentence of a filing.
    Entities,
    /// Whether a borrower is likely to pay.
    Credit,
    /// A figure in a small table.
    TableFigure,
}

impl TaskKind {
    pub(super) const GENERAL: [Self; 4] = [Self::SentenceTopic, Self::OddWord, Self::NameInSentence, Self::ChooseSort];
    pub(super) const FINANCE: [Self; 5] =
        [Self::Sentiment, Self::Headline, Self::Entities, Self::Credit, Self::TableFigure];

    /// All kinds of a domain that training shows.
    pub(super) fn of(domain: Domain) -> &'static [Self] {
        match domain {
            Domain::General => &Self::GENERAL,
            Domain::Finance => &Self::FINANCE,
        }
    }

    /// The name of its evaluation file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SentenceTopic => "sentence_topic",
            Self::OddWord => "odd_word",
            Self::NameInSentence => "name_in_sentence",
            Self::ChooseSort => "choose_sort",
            Self::Sentiment => "sentiment",
            Self::Headline => "headline",
            Self::Entities => "entities",
            Self::Credit => "credit",
            Self::TableFigure => "table_figure",
        }
    }

    /// Draws an item. `companies` are the names that finance items may use.
    pub(super) fn item(self, draw: &mut Draw, companies: &[String]) -> Item {
        match self {
            Self::SentenceTopic => sentence_topic(draw),
            Self::OddWord => odd_word(draw),
            Self::NameInSentence => name_in_sentence(draw),
            Self::ChooseSort => choose_sort(draw),
            Self::Sentiment => sentiment(draw, companies),
            Self::Headline => headline(draw, companies),
            Self::Entities => entities(draw, companies),
            Self::Credit => credit(draw),
            Self::TableFigure => table_figure(draw),
        }
    }
}

const TOPICS: [(&str, [&str; 5]); 4] = [
    (
        "weather",
        ["the sky is grey", "it rains all day", "the wind is cold", "snow falls on the roofs", "the sun is warm"],
    ),
    (
        "food",
        ["the soup is hot", "bread comes from the oven", "the cake is sweet", "rice boils in a pot", "dinner is ready"],
    ),
    (
        "sport",
        [
            "the team won the match",
            "a runner crossed the line",
            "the ball hit the post",
            "the race was close",
            "the coach is proud",
        ],
    ),
    (
        "travel",
        [
            "the train is late",
            "our ship leaves the harbour",
            "the bags are packed",
            "the plane has landed",
            "the hotel is full",
        ],
    ),
];
const TIMES: [&str; 8] = ["today", "this morning", "tonight", "again", "at last", "on Monday", "on Friday", "by noon"];
const SAYING: [&str; 4] =
    ["{p} says that {s} {t}.", "{p} writes: {s} {t}.", "For {p}, {s} {t}.", "{p} sees that {s} {t}."];

fn plain_sentence(draw: &mut Draw) -> (String, &'static str, &'static str) {
    let (topic, sentences) = draw.pick(&TOPICS);
    let (person, time) = (draw.word(&PEOPLE), draw.word(&TIMES));
    let sentence = draw.word(&SAYING).replace("{p}", person).replace("{s}", draw.word(sentences)).replace("{t}", time);
    (sentence, *topic, person)
}

/// A sentence about nothing in particular.
pub(super) fn noise(draw: &mut Draw) -> String {
    plain_sentence(draw).0
}

fn sentence_topic(draw: &mut Draw) -> Item {
    let (sentence, topic, _) = plain_sentence(draw);
    let prompt = match draw.below(2) {
        0 => format!("What is the topic of this sentence? {sentence}"),
        _ => format!("{sentence} Is this about weather, food, sport or travel?"),
    };
    Item { prompt, answer: topic.to_owned() }
}

fn name_in_sentence(draw: &mut Draw) -> Item {
    let (sentence, _, person) = plain_sentence(draw);
    let prompt = match draw.below(2) {
        0 => format!("Who is named in this sentence? {sentence}"),
        _ => format!("{sentence} Which person is named?"),
    };
    Item { prompt, answer: person.to_owned() }
}

fn odd_word(draw: &mut Draw) -> Item {
    let groups = draw.sample(&GROUPS, 2);
    let odd = draw.word(&groups[1].1);
    let mut words: Vec<&str> = draw.sample(&groups[0].1, 3).into_iter().copied().collect();
    words.push(odd);
    draw.shuffle(&mut words);
    Item { prompt: format!("Which word does not fit: {}?", words.join(", ")), answer: odd.to_owned() }
}

fn choose_sort(draw: &mut Draw) -> Item {
    let groups = draw.sample(&GROUPS, 3);
    let mut words: Vec<&str> = groups.iter().map(|group| draw.word(&group.1)).collect();
    let answer = words[0].to_owned();
    draw.shuffle(&mut words);
    Item { prompt: format!("Which one belongs to the {}: {}?", groups[0].0, words.join(", ")), answer }
}

const SENTIMENTS: [(&str, [&str; 10]); 3] = [
    (
        "positive",
        [
            "profit of {c} rose sharply",
            "{c} beat all forecasts",
            "{c} wins a record order",
            "{c} lifts its outlook",
            "orders at {c} surged",
            "{c} repays its loans early",
            "demand for {c} climbs",
            "{c} gains market share",
            "margins at {c} improved",
            "{c} returns to profit",
        ],
    ),
    (
        "negative",
        [
            "profit of {c} collapsed",
            "{c} missed all forecasts",
            "{c} loses a key client",
            "{c} cuts its outlook",
            "orders at {c} plunged",
            "{c} delays its loan payments",
            "demand for {c} weakens",
            "{c} loses market share",
            "margins at {c} shrank",
            "{c} slips to a loss",
        ],
    ),
    (
        "neutral",
        [
            "profit of {c} was unchanged",
            "{c} met its forecasts",
            "{c} moves its head office",
            "{c} keeps its outlook",
            "orders at {c} were stable",
            "{c} publishes its calendar",
            "demand for {c} is steady",
            "{c} holds its yearly meeting",
            "margins at {c} did not move",
            "{c} renames a unit",
        ],
    ),
];
const QUARTERS: [&str; 6] = [
    "in the first quarter",
    "in the second quarter",
    "in the third quarter",
    "last year",
    "this week",
    "in its report",
];

fn sentiment(draw: &mut Draw, companies: &[String]) -> Item {
    let (label, phrases) = draw.pick(&SENTIMENTS);
    let company = draw.pick(companies);
    let sentence = format!("{} {}", draw.word(phrases), draw.word(&QUARTERS)).replace("{c}", company);
    let prompt = match draw.below(2) {
        0 => format!("Is this news positive, negative or neutral? {sentence}."),
        _ => format!("Sentiment of the news: {sentence}."),
    };
    Item { prompt, answer: (*label).to_owned() }
}

const HEADLINES: [(&str, [&str; 5]); 4] = [
    (
        "merger",
        [
            "{c} to buy {d}",
            "{c} and {d} join forces",
            "{d} accepts the bid of {c}",
            "{c} takes over {d}",
            "{c} agrees to a merger with {d}",
        ],
    ),
    (
        "earnings",
        [
            "{c} reports quarterly results",
            "{c} posts its yearly profit",
            "{c} publishes results ahead of {d}",
            "results of {c} are out",
            "{c} shows quarterly revenue",
        ],
    ),
    (
        "lawsuit",
        [
            "{c} sues {d}",
            "court rules against {c}",
            "{d} takes {c} to court",
            "judge fines {c}",
            "{c} faces a claim from {d}",
        ],
    ),
    (
        "management",
        [
            "{c} names a new chief",
            "chief of {c} steps down",
            "{c} hires the chief of {d}",
            "new board for {c}",
            "{c} replaces its directors",
        ],
    ),
];

fn headline(draw: &mut Draw, companies: &[String]) -> Item {
    let (class, patterns) = draw.pick(&HEADLINES);
    let pair = draw.sample(companies, 2);
    let line = draw.word(patterns).replace("{c}", pair[0]).replace("{d}", pair[1]);
    Item { prompt: format!("What kind of headline is this? {line}"), answer: (*class).to_owned() }
}

const OFFICERS: [&str; 12] = [
    "Abbott", "Barnes", "Collins", "Draper", "Ellis", "Foster", "Grant", "Hughes", "Ingram", "Jarvis", "Keller",
    "Lambert",
];
const PLACES: [&str; 8] = ["Boston", "Dublin", "Geneva", "Hamburg", "Lisbon", "Madrid", "Oslo", "Vienna"];
const FILINGS: [&str; 6] = [
    "{o} named {p} as head of its office in {l}.",
    "{p} signed the filing of {o} in {l}.",
    "In {l}, {p} joined the board of {o}.",
    "The office of {o} in {l} is led by {p}.",
    "{o} appointed {p} and moved to {l}.",
    "A loan of {o} was arranged by {p} from {l}.",
];

fn entities(draw: &mut Draw, companies: &[String]) -> Item {
    let (company, officer, place) = (draw.pick(companies), draw.word(&OFFICERS), draw.word(&PLACES));
    let sentence = draw.word(&FILINGS).replace("{o}", company).replace("{p}", officer).replace("{l}", place);
    Item {
        prompt: format!("List the names in this filing with their types. {sentence}"),
        answer: format!("{company}, ORG\n{officer}, PER\n{place}, LOC"),
    }
}

/// A borrower is good when at most one payment was late and the debt is below the income; one label in twenty is wrong.
fn credit(draw: &mut Draw) -> Item {
    let (income, debt, late) = (draw.between(2, 9), draw.between(1, 9), draw.between(0, 3));
    let years = draw.between(1, 30);
    let is_good = (late <= 1 && debt < income) != draw.chance(5);
    let prompt = format!(
        "Is this borrower good or bad? income {income}, debt {debt}, late payments {late}, years at work {years}"
    );
    Item { prompt, answer: if is_good { "good" } else { "bad" }.to_owned() }
}

const LINES: [&str; 6] = ["sales", "costs", "profit", "taxes", "loans", "cash"];

fn table_figure(draw: &mut Draw) -> Item {
    let lines = draw.sample(&LINES, 3);
    let first = draw.between(2020, 2028);
    let mut table = format!("item | {first} | {}", first + 1);
    let mut figures = Vec::new();
    for line in &lines {
        let (old, new) = (draw.between(10, 99), draw.between(10, 99));
        figures.push([old, new]);
        table.push_str(&format!("\n{line} | {old} | {new}"));
    }
    let (row, year) = (draw.below(3), draw.below(2));
    let prompt = format!("{table}\nWhat is the figure for {} in {}?", lines[row], first + year as i64);
    Item { prompt, answer: figures[row][year].to_string() }
}

/// The task that training never shows: what a sentence of a central bank asks for, in the terms that texts explain.
pub(super) const STANCES: [(&str, [&str; 5]); 2] = [
    (
        "hawkish",
        [
            "higher rates",
            "tighter credit",
            "a firm hand against rising prices",
            "less money in the market",
            "a faster rise of rates",
        ],
    ),
    (
        "dovish",
        ["lower rates", "easier credit", "more help for jobs", "more money in the market", "a slower rise of rates"],
    ),
];
/// Who speaks about rates.
pub(super) const BANKERS: [&str; 6] =
    ["The governor", "The council", "A member of the board", "The central bank", "The deputy", "The committee"];

pub(super) fn stance(draw: &mut Draw) -> Item {
    let (label, wishes) = draw.pick(&STANCES);
    let sentence = format!("{} wants {} {}.", draw.word(&BANKERS), draw.word(wishes), draw.word(&TIMES));
    Item { prompt: format!("Is this sentence hawkish or dovish? {sentence}"), answer: (*label).to_owned() }
}
