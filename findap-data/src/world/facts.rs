//! What is true in the world: entities of a few kinds, each with a value for every attribute of its kind.
//!
//! Every fact can be stated in eight or more wordings: four frames that fit any attribute and four of its own. Values
//! come from one short list per attribute, so a wrong option is always the right answer for some other entity.

use std::collections::BTreeSet;

use super::draw::Draw;
use super::names;
use crate::Domain;

/// Which part of the world an entity belongs to; decided once, before anything is written about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Texts tell its facts, and conversations ask for them.
    Train,
    /// Texts tell its facts; only development conversations ask for them.
    Dev,
    /// Texts tell its facts; only the evaluation asks for them.
    Test,
}

/// One property that every entity of a kind has.
#[derive(Debug)]
pub struct Attribute {
    /// Its name in frames, questions and JSON keys.
    pub label: &'static str,
    /// All values that occur.
    pub values: &'static [&'static str],
    /// Statements of its own: `{e}` is the entity, `{v}` the value.
    pub statements: &'static [&'static str],
    /// Questions of its own.
    pub questions: &'static [&'static str],
}

/// Statements that fit any attribute: `{a}` is the label.
pub const FRAMES: [&str; 4] = [
    "The {a} of {e} is {v}.",
    "{e} is noted for one thing: the {a} is {v}.",
    "As for the {a} of {e}, it is {v}.",
    "On {e}, the entry under {a} reads {v}.",
];

/// Questions that fit any attribute.
const ASKING: [&str; 3] = ["What is the {a} of {e}?", "Name the {a} of {e}.", "Tell me the {a} of {e}."];

impl Attribute {
    /// All wordings of the fact, ready to be filled in.
    pub fn wordings(&self) -> impl Iterator<Item = &'static str> {
        FRAMES.into_iter().chain(self.statements.iter().copied())
    }

    /// One statement of the fact.
    pub(super) fn state(&self, draw: &mut Draw, entity: &str, value: &str) -> String {
        let all: Vec<&str> = self.wordings().collect();
        self.fill(draw.word(&all), entity, value)
    }

    /// One question for the fact.
    pub(super) fn ask(&self, draw: &mut Draw, entity: &str) -> String {
        let all: Vec<&str> = ASKING.into_iter().chain(self.questions.iter().copied()).collect();
        self.fill(draw.word(&all), entity, "")
    }

    fn fill(&self, wording: &str, entity: &str, value: &str) -> String {
        wording.replace("{a}", self.label).replace("{e}", entity).replace("{v}", value)
    }
}

/// A kind of entity.
#[derive(Debug)]
pub struct Kind {
    /// What one of them is called.
    pub noun: &'static str,
    /// Which half of the world it is in.
    pub domain: Domain,
    /// Its attributes.
    pub attributes: &'static [Attribute],
    names: Names,
}

/// How entities of a kind get their names.
#[derive(Debug)]
enum Names {
    /// An invented word in a pattern: `{w}` is the word.
    Invented(&'static [&'static str]),
    /// Words of the language; their first attribute's value is given with them and not drawn.
    Defined(&'static [(&'static str, usize)]),
}

/// One thing in the world.
#[derive(Debug, Clone)]
pub struct Entity {
    /// Unique name.
    pub name: String,
    /// Which part of the world it belongs to.
    pub split: Split,
    /// Index of the value of each attribute.
    pub values: Vec<usize>,
}

/// A kind with its entities.
#[derive(Debug)]
pub struct Population {
    /// The kind.
    pub kind: &'static Kind,
    /// Its entities.
    pub entities: Vec<Entity>,
}

impl Population {
    /// The entities of a split.
    pub fn of(&self, split: Split) -> Vec<&Entity> {
        self.entities.iter().filter(|entity| entity.split == split).collect()
    }
}

impl Entity {
    /// The value of an attribute.
    pub fn value(&self, kind: &Kind, attribute: usize) -> &'static str {
        kind.attributes[attribute].values[self.values[attribute]]
    }
}

/// Draws the entities of all kinds of a domain: `size` per kind, of which about 3/8 are for evaluation and 1/8 for
/// development.
pub(super) fn populate(seed: u64, domain: Domain, size: usize, taken: &mut BTreeSet<String>) -> Vec<Population> {
    KINDS
        .iter()
        .filter(|kind| kind.domain == domain)
        .map(|kind| Population { kind, entities: entities_of(seed, kind, size, taken) })
        .collect()
}

fn entities_of(seed: u64, kind: &'static Kind, size: usize, taken: &mut BTreeSet<String>) -> Vec<Entity> {
    let mut draw = Draw::new(seed, &format!("entities of kind {}", kind.noun));
    let mut entities: Vec<Entity> = match &kind.names {
        Names::Invented(patterns) => (0..size)
            .map(|_| {
                let name = draw.word(patterns).replace("{w}", &names::invent(&mut draw, taken));
                let values = kind.attributes.iter().map(|attribute| draw.below(attribute.values.len())).collect();
                Entity { name, split: Split::Train, values }
            })
            .collect(),
        Names::Defined(words) => words
            .iter()
            .map(|&(word, first)| {
                let rest = kind.attributes[1..].iter().map(|attribute| draw.below(attribute.values.len()));
                let values = std::iter::once(first).chain(rest).collect();
                Entity { name: word.to_owned(), split: Split::Train, values }
            })
            .collect(),
    };
    draw.shuffle(&mut entities);
    let (num_test, num_dev) = (entities.len() * 3 / 8, entities.len() / 8);
    for (position, entity) in entities.iter_mut().enumerate() {
        if position < num_test {
            entity.split = Split::Test;
        } else if position < num_test + num_dev {
            entity.split = Split::Dev;
        }
    }
    entities
}

/// All kinds of the world.
pub static KINDS: &[Kind] = &[
    Kind {
        noun: "town",
        domain: Domain::General,
        names: Names::Invented(&["{w}ton", "{w}ford", "{w}ville"]),
        attributes: &[
            Attribute {
                label: "region",
                values: &["north", "south", "east", "west", "coast", "valley", "desert", "islands"],
                statements: &[
                    "You find {e} in the region called {v}.",
                    "The road to {e} leads into the {v}.",
                    "{e} lies in the {v}.",
                    "Maps place {e} in the {v}.",
                ],
                questions: &["Where does {e} lie?", "In which region is {e}?"],
            },
            Attribute {
                label: "dish",
                values: &["soup", "bread", "fish", "rice", "cheese", "cake", "beans", "stew"],
                statements: &[
                    "People in {e} love to eat {v}.",
                    "Visitors to {e} are served {v}.",
                    "Every kitchen in {e} cooks {v}.",
                    "{e} is famous for its {v}.",
                ],
                questions: &["What do people eat in {e}?", "What is served in {e}?"],
            },
            Attribute {
                label: "flag",
                values: &["red", "blue", "green", "yellow", "white", "black", "orange", "purple"],
                statements: &[
                    "A {v} flag flies over {e}.",
                    "The colour of {e} is {v}.",
                    "Houses in {e} carry {v} banners.",
                    "{e} chose {v} for its flag.",
                ],
                questions: &["What colour is the flag of {e}?", "Which colour did {e} choose for its flag?"],
            },
        ],
    },
    Kind {
        noun: "person",
        domain: Domain::General,
        names: Names::Invented(&["Mr {w}", "Mrs {w}", "Doctor {w}"]),
        attributes: &[
            Attribute {
                label: "job",
                values: &["teacher", "baker", "farmer", "pilot", "doctor", "painter", "sailor", "singer"],
                statements: &[
                    "{e} works as a {v}.",
                    "By trade {e} is a {v}.",
                    "{e} earns a living as a {v}.",
                    "Each morning {e} goes to work as a {v}.",
                ],
                questions: &["What does {e} work as?", "What is {e} by trade?"],
            },
            Attribute {
                label: "pet",
                values: &["cat", "dog", "parrot", "rabbit", "horse", "turtle", "goat", "mouse"],
                statements: &[
                    "{e} keeps a {v} at home.",
                    "At home {e} looks after a {v}.",
                    "{e} shares the house with a {v}.",
                    "A {v} belongs to {e}.",
                ],
                questions: &["Which animal does {e} keep?", "What pet belongs to {e}?"],
            },
            Attribute {
                label: "hobby",
                values: &["chess", "tennis", "music", "reading", "cooking", "hiking", "dancing", "swimming"],
                statements: &[
                    "In the evening {e} enjoys {v}.",
                    "{e} spends free days on {v}.",
                    "Nothing pleases {e} more than {v}.",
                    "{e} is fond of {v}.",
                ],
                questions: &["What does {e} enjoy?", "What does {e} do on free days?"],
            },
        ],
    },
    Kind {
        noun: "animal",
        domain: Domain::General,
        names: Names::Invented(&["the {w} bird", "the {w} beetle", "the {w} fox"]),
        attributes: &[
            Attribute {
                label: "food",
                values: &["seeds", "leaves", "insects", "berries", "grass", "roots", "nuts", "worms"],
                statements: &[
                    "Every day {e} eats {v}.",
                    "In the wild {e} feeds on {v}.",
                    "Nothing but {v} will fill {e}.",
                    "To find {v}, {e} walks for hours.",
                ],
                questions: &["What does {e} eat?", "What does {e} feed on?"],
            },
            Attribute {
                label: "home",
                values: &["forest", "river", "cave", "meadow", "swamp", "mountain", "lake", "garden"],
                statements: &[
                    "You may see {e} near a {v}.",
                    "For shelter {e} needs a {v}.",
                    "Deep in a {v} lives {e}.",
                    "The young of {e} grow up by the {v}.",
                ],
                questions: &["Where does {e} live?", "What kind of place shelters {e}?"],
            },
        ],
    },
    Kind {
        noun: "tool",
        domain: Domain::General,
        names: Names::Invented(&["the {w} hook", "the {w} lamp", "the {w} press"]),
        attributes: &[
            Attribute {
                label: "material",
                values: &["wood", "iron", "glass", "stone", "leather", "paper", "clay", "copper"],
                statements: &[
                    "Workers make {e} out of {v}.",
                    "It takes {v} to build {e}.",
                    "Made of {v}, {e} lasts for years.",
                    "A good smith shapes {e} from {v}.",
                ],
                questions: &["What is {e} made of?", "Which material makes {e}?"],
            },
            Attribute {
                label: "use",
                values: &["cutting", "lifting", "writing", "digging", "sewing", "grinding", "printing", "washing"],
                statements: &[
                    "People need {e} for {v}.",
                    "When it comes to {v}, {e} helps.",
                    "{v} is the purpose of {e}.",
                    "In the workshop {e} serves for {v}.",
                ],
                questions: &["What is {e} for?", "What does one need {e} for?"],
            },
        ],
    },
    Kind {
        noun: "company",
        domain: Domain::Finance,
        names: Names::Invented(&["{w} Group", "{w} Holdings", "{w} Partners", "{w} Industries"]),
        attributes: &[
            Attribute {
                label: "sector",
                values: &["banking", "energy", "retail", "insurance", "mining", "transport", "software", "housing"],
                statements: &[
                    "{e} is active in {v}.",
                    "Analysts file {e} under {v}.",
                    "The shares of {e} count among {v} stocks.",
                    "Most revenue of {e} comes from {v}.",
                ],
                questions: &["Which sector is {e} in?", "What is {e} active in?"],
            },
            Attribute {
                label: "listing",
                values: &["London", "Zurich", "Tokyo", "Paris", "Toronto", "Sydney", "Frankfurt", "Milan"],
                statements: &[
                    "The stock of {e} trades in {v}.",
                    "Investors buy {e} on the exchange of {v}.",
                    "{e} went public in {v}.",
                    "{v} is where {e} has its quotation.",
                ],
                questions: &["Where does the stock of {e} trade?", "On which exchange is {e} listed?"],
            },
            Attribute {
                label: "auditor",
                values: &["Adler", "Brandt", "Carver", "Dalton", "Elwood", "Fisher", "Gordon", "Harlan"],
                statements: &[
                    "The books of {e} are checked by {v}.",
                    "{v} signs the accounts of {e}.",
                    "{e} hired {v} to audit its accounts.",
                    "The annual report of {e} was examined by {v}.",
                ],
                questions: &["Who audits {e}?", "Who checks the books of {e}?"],
            },
        ],
    },
    Kind {
        noun: "fund",
        domain: Domain::Finance,
        names: Names::Invented(&["{w} Fund", "{w} Trust", "{w} Bond"]),
        attributes: &[
            Attribute {
                label: "currency",
                values: &["dollar", "euro", "yen", "pound", "franc", "krona", "peso", "rupee"],
                statements: &[
                    "{e} pays its holders in {v}.",
                    "The price of {e} is quoted in {v}.",
                    "Holders of {e} receive {v} payments.",
                    "{e} is issued in {v}.",
                ],
                questions: &["In which currency does {e} pay?", "What is {e} quoted in?"],
            },
            Attribute {
                label: "rating",
                values: &["prime", "high", "solid", "medium", "fair", "weak", "junk", "unrated"],
                statements: &[
                    "Agencies rate {e} as {v}.",
                    "The credit grade of {e} was set to {v}.",
                    "{e} carries the grade {v}.",
                    "By its credit record {e} ranks as {v}.",
                ],
                questions: &["How do agencies rate {e}?", "Which grade does {e} carry?"],
            },
        ],
    },
    Kind {
        noun: "term",
        domain: Domain::Finance,
        names: Names::Defined(&[
            ("gross margin", 0),
            ("operating margin", 0),
            ("return on equity", 0),
            ("dividend", 1),
            ("coupon", 1),
            ("royalty", 1),
            ("mortgage", 2),
            ("debenture", 2),
            ("overdraft", 2),
            ("volatility", 3),
            ("drawdown", 3),
            ("beta", 3),
            ("solvency", 4),
            ("leverage", 4),
            ("gearing", 4),
            ("turnover", 5),
            ("order book", 5),
            ("net sales", 5),
            ("depreciation", 6),
            ("overhead", 6),
            ("write-off", 6),
            ("inventory", 7),
            ("goodwill", 7),
            ("receivable", 7),
        ]),
        attributes: &[Attribute {
            label: "meaning",
            values: &["profitability", "payout", "loan", "risk", "debt burden", "sales", "cost", "asset"],
            statements: &[
                "In accounts the word {e} belongs to {v}.",
                "When experts say {e}, they speak about {v}.",
                "{e} is a term about {v}.",
                "Textbooks explain {e} in the chapter on {v}.",
            ],
            questions: &["What is {e} about?", "Which idea does the word {e} belong to?"],
        }],
    },
];
