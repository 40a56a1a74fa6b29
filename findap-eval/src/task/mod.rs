//! What a benchmark is, as data: one TOML file per benchmark, no inheritance, no code.
//!
//! ```toml
//! schema = 1
//! name = "company_sector"
//! version = 1
//! title = "Sectors of companies"
//! capability = "concept"            # concept | task | reasoning | chat
//! domain = "finance"                # general | finance
//! similarity = "similar"            # similar | novel: was this kind of task seen in instruction tuning?
//! groups = ["world"]                # beside the groups that every task is in: see `registry`
//! license = "Apache-2.0"
//! source = "made by the world generator"
//! chance = 0.25                     # score of guessing, in the units of the first metric
//! metrics = ["acc", "acc_norm"]     # the first is the headline
//! chat = true                       # through the model's chat template, or as plain text
//! system = "You are an analyst."    # optional; a template
//! prompt = "Which sector is {company} in?"
//! num_fewshot = 0
//!
//! [dataset]
//! path = "world:eval/company_sector.jsonl"   # ROOT:PATH; `{subset}` where there are subsets
//! format = "jsonl"                  # jsonl | json | csv | parquet | conll | tatqa
//!
//! [multiple_choice]                 # exactly one of [multiple_choice] and [generate]
//! choices_from = "choices"          # a list in the row, or: choices = ["{A}", "{B}"]
//! gold = "answer"
//! gold_is = "index"                 # index | letter | text
//! answer_prefix = " "               # between prompt and choice in plain text; nothing in chat
//! ```
//!
//! and for generated answers:
//!
//! ```toml
//! [generate]
//! gold = "{answer}"                 # a template; absent where only rules are checked
//! gold_extract = []                 # steps run on the rendered gold
//! extract = ["answer", "stated_number", "normalize_number"]   # see `extract`
//! stop = ["\n\n"]
//! max_new_tokens = 64
//! ignore_case = true                # how answers are compared; white space around them never counts
//! ignore_punctuation = false
//! tolerance = 0.0                   # numbers within this relative distance are equal
//! tolerance_rounding = false        # numbers that round to a right answer with decimals are equal to it
//! checks = [{ rule = "one_word" }]  # rules for every reply, see `check`
//! checks_from = "checks"            # a field with one rule or a list of rules per row
//! ```

use std::collections::BTreeMap;

use findap_data::plain_words::plain_words;
use findap_data::spelling::nearest;
use findap_data::{Capability, Domain};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::Check;
use crate::error::EvalError;
use crate::extract::Step;
use crate::template::Template;

/// The schema version this crate reads.
pub const SCHEMA: u32 = 1;

/// A benchmark that is ready to be run.
#[derive(Debug, Clone)]
pub struct Task {
    /// Unique name; letters, digits and `_ - .`.
    pub name: String,
    /// Raised whenever prompt, data or scoring change.
    pub version: u32,
    /// Name for readers; the task's name where not given.
    pub title: String,
    /// What it measures.
    pub capability: Capability,
    /// Where it measures it.
    pub domain: Domain,
    /// Whether this kind of task was seen in instruction tuning.
    pub similarity: Similarity,
    /// Its own groups, without `@`.
    pub groups: Vec<String>,
    /// Licence of the data.
    pub license: String,
    /// Where the data comes from: paper or maker.
    pub source: String,
    /// Score of guessing, in the units of the headline metric.
    pub chance: f64,
    /// Metrics to report; the first is the headline.
    pub metrics: Vec<Metric>,
    /// Whether prompts go through the model's chat template.
    pub chat: bool,
    /// System message.
    pub system: Option<Template>,
    /// The question.
    pub prompt: Template,
    /// Where solved examples come from, if any are shown.
    pub fewshot: Fewshot,
    /// The rows.
    pub dataset: Dataset,
    /// How the model is asked and scored.
    pub kind: Kind,
    /// SHA-256 of the task file, hex.
    pub hash: String,
}

/// Whether a kind of task was seen in instruction tuning (FinDAP paper, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Similarity {
    /// The kind was seen, the data was not.
    Similar,
    /// Neither was seen.
    Novel,
}

/// A number that a task reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of rows answered right: the likeliest choice, or the extracted answer, is the gold one.
    Acc,
    /// As `acc`, with each choice's log-likelihood divided by its length in characters.
    AccNorm,
    /// As `acc`, with each choice's log-likelihood divided by its length in UTF-8 bytes.
    AccBytes,
    /// Share of rows whose extracted answer equals the gold answer.
    ExactMatch,
    /// Mean of the F1 of each gold or predicted label.
    MacroF1,
    /// Mean of the F1 of each gold label, weighted by its count.
    WeightedF1,
    /// Matthews correlation coefficient over all labels.
    Mcc,
    /// F1 over all `name, TYPE` lines of all rows.
    EntityF1,
    /// Unigram overlap F1 of each answer with its gold answer.
    Rouge1,
    /// Share of rows whose reply keeps all its rules.
    Checks,
    /// Share of rows where no answer could be extracted; lower is better.
    Missing,
}

impl Metric {
    /// The name in results and task files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::ExactMatch => "exact_match",
            Self::MacroF1 => "macro_f1",
            Self::WeightedF1 => "weighted_f1",
            Self::Mcc => "mcc",
            Self::EntityF1 => "entity_f1",
            Self::Rouge1 => "rouge1",
            Self::Checks => "checks",
            Self::Missing => "missing",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        const ALL: [Metric; 11] = [
            Metric::Acc,
            Metric::AccNorm,
            Metric::AccBytes,
            Metric::ExactMatch,
            Metric::MacroF1,
            Metric::WeightedF1,
            Metric::Mcc,
            Metric::EntityF1,
            Metric::Rouge1,
            Metric::Checks,
            Metric::Missing,
        ];
        ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        self != Self::Missing
    }

    /// Whether the metric is a mean over rows (else it is one number computed from all rows together).
    pub fn is_mean(self) -> bool {
        !matches!(self, Self::MacroF1 | Self::WeightedF1 | Self::Mcc | Self::EntityF1)
    }
}

/// How the model is asked and scored.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The likeliest of some continuations.
    MultipleChoice(MultipleChoice),
    /// A written answer.
    Generate(Generate),
}

/// The likeliest of some continuations.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MultipleChoice {
    /// The choices, as templates.
    pub choices: Option<Vec<Template>>,
    /// The field that holds the list of choices.
    pub choices_from: Option<String>,
    /// The field that says which choice is right.
    pub gold: String,
    /// How that field says it. Default `index`.
    #[serde(default)]
    pub gold_is: GoldIs,
    /// Between prompt and choice in plain text; in chat there is nothing between them.
    #[serde(default = "one_space")]
    pub answer_prefix: String,
}

/// How a field names the right choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GoldIs {
    /// Its 0-based index, as a number or as digits.
    #[default]
    Index,
    /// Its letter, A being the first.
    Letter,
    /// Its text; case matters, white space around it does not.
    Text,
}

/// A written answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// The right answer.
    pub gold: Option<Template>,
    /// Steps run on the rendered right answer.
    #[serde(default)]
    pub gold_extract: Vec<Step>,
    /// What solved examples show as the answer; the right answer where absent.
    pub fewshot_answer: Option<Template>,
    /// Between prompt and answer of solved examples in plain text.
    #[serde(default = "one_space")]
    pub answer_prefix: String,
    /// From reply to answer.
    #[serde(default)]
    pub extract: Vec<Step>,
    /// The reply ends before the first of these.
    #[serde(default)]
    pub stop: Vec<String>,
    /// The reply ends after this many tokens.
    pub max_new_tokens: usize,
    /// Answers are compared in lower case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Answers are compared without ASCII punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// Two numbers within this relative distance are equal; 0 compares text.
    #[serde(default)]
    pub tolerance: f64,
    /// A number that rounds to a right answer with decimals is equal to it.
    #[serde(default)]
    pub tolerance_rounding: bool,
    /// Rules for every reply.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The field with the rules of a row: one rule or a list of them.
    pub checks_from: Option<String>,
}

fn one_space() -> String {
    " ".to_owned()
}

/// Solved examples before the question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fewshot {
    /// How many.
    pub num: usize,
    /// As earlier turns of the conversation instead of one long message.
    pub as_multiturn: bool,
    /// Which rows.
    pub rule: FewshotRule,
}

/// Which rows become solved examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FewshotRule {
    /// The first ones of the few-shot file, the same for every question.
    #[default]
    First,
    /// Drawn for each question from the seed.
    Sampled,
}

/// Where rows come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// `ROOT:PATH`, where the root is given at run time, or a plain path. `{subset}` stands for the subset.
    pub path: String,
    /// The file with solved examples; the questions' own file, without the question, where absent.
    pub fewshot_path: Option<String>,
    /// The file's format. Default `jsonl`.
    #[serde(default)]
    pub format: Format,
    /// Column names of a CSV file without header.
    pub columns: Option<Vec<String>>,
    /// New field name = name in the file.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Keep only the first row of each value of this field (FLARE files repeat a text under ten prompts).
    pub unique_by: Option<String>,
    /// Keep only rows whose field has one of these values.
    #[serde(default)]
    pub keep: BTreeMap<String, Vec<String>>,
    /// Which split the file is, for the record.
    #[serde(default = "test_split")]
    pub split: String,
    /// Parts of the benchmark with a file each.
    #[serde(default)]
    pub subsets: Vec<String>,
    /// How the score over subsets is formed.
    #[serde(default)]
    pub subset_mean: SubsetMean,
}

fn test_split() -> String {
    "test".to_owned()
}

/// File format of a dataset; `dataset` describes the fields that each one yields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// One JSON object per line.
    #[default]
    Jsonl,
    /// A JSON array of objects.
    Json,
    /// CSV with a header line, or without one where `columns` is given.
    Csv,
    /// CoNLL columns, one token per line, blank line between sentences.
    Conll,
    /// The TAT-QA release: tables, paragraphs and questions.
    Tatqa,
    /// Apache Parquet, as data sets on the Hugging Face hub are stored.
    Parquet,
}

/// How the score over subsets is formed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubsetMean {
    /// Over all rows: large subsets count more.
    #[default]
    Micro,
    /// Over subsets: each counts the same.
    Macro,
}

/// The JSON Schema of a task file: its keys with their types, defaults and meanings, which are the doc comments of this module.
pub fn schema() -> Value {
    findap_data::schema::of::<TaskFile>("findap evaluation task")
}

/// The file as written; [`Task`] is the file as meant.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    /// The version of the format: 1. Required.
    schema: u32,
    /// A unique name: letters, digits, `-`, `_`, `.`. Required.
    name: String,
    /// Raised whenever prompt, data or scoring change: scores of two versions are not compared. Required.
    version: u32,
    /// The name for readers. Default: `name`.
    title: Option<String>,
    /// What it measures. Required.
    capability: Capability,
    /// Where it measures it. Required.
    domain: Domain,
    /// Whether this kind of task was seen in instruction tuning. Required.
    similarity: Similarity,
    /// Groups that it is in, without `@`, beside those of its domain and capability.
    #[serde(default)]
    groups: Vec<String>,
    /// The licence of the data. Required.
    license: String,
    /// Where the data comes from: a paper or a maker. Required.
    source: String,
    /// The score of guessing, in the units of the first metric: 0.25 for four choices. Required.
    chance: f64,
    /// What is reported; the first is the headline. Required.
    metrics: Vec<Metric>,
    /// Whether prompts go through the model's chat template, or as plain text. Required.
    chat: bool,
    /// The system turn, a template as `prompt`.
    system: Option<Template>,
    /// The question: a template with the row's fields as `{field}`, `{field?}` where it may be absent, `{list:lines}`,
    /// `{list:commas}`, `{list:letters}` or `{list:numbers}` for lists, `{{` and `}}` for braces. Required.
    prompt: Template,
    /// How many solved examples stand before the question.
    #[serde(default)]
    num_fewshot: usize,
    /// Whether solved examples are earlier turns of the conversation instead of one long message.
    #[serde(default)]
    fewshot_as_multiturn: bool,
    /// Which rows become solved examples. Default `first`.
    #[serde(default)]
    fewshot_rule: FewshotRule,
    /// Where the rows come from. Required.
    dataset: Dataset,
    /// The likeliest of some continuations. Exactly one of `multiple_choice`, `generate`.
    multiple_choice: Option<MultipleChoice>,
    /// A written answer. Exactly one of `multiple_choice`, `generate`.
    generate: Option<Generate>,
}

impl Task {
    /// Reads a task from the text of its file.
    ///
    /// # Errors
    /// [`EvalError::TaskSyntax`] with the line, and the nearest known key for an unknown one; [`EvalError::TaskInvalid`]
    /// for impossible combinations.
    pub fn parse(file: &str, text: &str) -> Result<Self, EvalError> {
        let written: TaskFile = toml::from_str(text).map_err(|error| syntax_error(file, text, &error))?;
        let name = written.name.clone();
        let invalid = |field: &'static str, problem: String| EvalError::TaskInvalid {
            file: file.to_owned(),
            task: name.clone(),
            field,
            problem,
        };
        let kind = match (written.multiple_choice, written.generate) {
            (Some(choice), None) => Kind::MultipleChoice(choice),
            (None, Some(generate)) => Kind::Generate(generate),
            _ => {
                return Err(invalid("kind", "exactly one of [multiple_choice] and [generate] is needed".to_owned()));
            }
        };
        let task = Self {
            title: written.title.unwrap_or_else(|| written.name.clone()),
            name: written.name,
            version: written.version,
            capability: written.capability,
            domain: written.domain,
            similarity: written.similarity,
            groups: written.groups,
            license: written.license,
            source: written.source,
            chance: written.chance,
            metrics: written.metrics,
            chat: written.chat,
            system: written.system,
            prompt: written.prompt,
            fewshot: Fewshot {
                num: written.num_fewshot,
                as_multiturn: written.fewshot_as_multiturn,
                rule: written.fewshot_rule,
            },
            dataset: written.dataset,
            kind,
            hash: findap_data::files::sha256(text.as_bytes()),
        };
        if written.schema != SCHEMA {
            return Err(invalid("schema", format!("is {}, this version reads {SCHEMA}", written.schema)));
        }
        task.check().map_err(|(field, problem)| invalid(field, problem))?;
        Ok(task)
    }

    /// The metric that stands for the task in tables.
    pub fn headline(&self) -> Metric {
        self.metrics[0]
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        };
        if !is_name(&self.name) {
            return Err(("name", format!("{:?} may hold letters, digits and _ - . only", self.name)));
        }
        if self.metrics.is_empty() {
            return Err(("metrics", "name at least one; the first is the headline".to_owned()));
        }
        if !self.chance.is_finite() {
            return Err(("chance", format!("{} is not a score", self.chance)));
        }
        if self.fewshot.as_multiturn && !self.chat {
            return Err(("fewshot_as_multiturn", "needs chat = true".to_owned()));
        }
        if self.system.is_some() && !self.chat {
            return Err(("system", "needs chat = true".to_owned()));
        }
        if self.dataset.subsets.is_empty() == self.dataset.path.contains("{subset}") {
            return Err(("dataset.path", "{subset} and the list of subsets go together".to_owned()));
        }
        if let Some(name) = self.dataset.subsets.iter().find(|name| !is_name(name)) {
            return Err(("dataset.subsets", format!("{name:?} may hold letters, digits and _ - . only")));
        }
        if self.dataset.columns.is_some() && self.dataset.format != Format::Csv {
            return Err(("dataset.columns", "only CSV files have columns".to_owned()));
        }
        match &self.kind {
            Kind::MultipleChoice(choice) => self.check_multiple_choice(choice),
            Kind::Generate(generate) => self.check_generate(generate),
        }
    }

    fn check_multiple_choice(&self, choice: &MultipleChoice) -> Result<(), (&'static str, String)> {
        if choice.choices.is_some() == choice.choices_from.is_some() {
            return Err(("multiple_choice.choices", "give exactly one of choices and choices_from".to_owned()));
        }
        if choice.choices.as_ref().is_some_and(Vec::is_empty) {
            return Err(("multiple_choice.choices", "the list is empty".to_owned()));
        }
        let allowed =
            [Metric::Acc, Metric::AccNorm, Metric::AccBytes, Metric::MacroF1, Metric::WeightedF1, Metric::Mcc];
        self.check_metrics(&allowed)
    }

    fn check_generate(&self, generate: &Generate) -> Result<(), (&'static str, String)> {
        let allowed = [
            Metric::Acc,
            Metric::ExactMatch,
            Metric::MacroF1,
            Metric::WeightedF1,
            Metric::Mcc,
            Metric::EntityF1,
            Metric::Rouge1,
            Metric::Checks,
            Metric::Missing,
        ];
        self.check_metrics(&allowed)?;
        if generate.max_new_tokens == 0 {
            return Err(("generate.max_new_tokens", "is 0".to_owned()));
        }
        if generate.stop.iter().any(String::is_empty) {
            return Err(("generate.stop", "an empty stop string would end every reply at once".to_owned()));
        }
        if !(0.0..1.0).contains(&generate.tolerance) {
            return Err(("generate.tolerance", format!("{} is not in [0, 1)", generate.tolerance)));
        }
        let has_checks = !generate.checks.is_empty() || generate.checks_from.is_some();
        if self.metrics.contains(&Metric::Checks) && !has_checks {
            return Err(("metrics", "`checks` needs generate.checks or generate.checks_from".to_owned()));
        }
        let needs_gold = |metric: &&Metric| !matches!(metric, Metric::Checks | Metric::Missing);
        match (&generate.gold, self.metrics.iter().find(needs_gold)) {
            (None, Some(metric)) => {
                Err(("generate.gold", format!("the metric `{}` needs a right answer", metric.name())))
            }
            (None, None) if self.fewshot.num > 0 && generate.fewshot_answer.is_none() => {
                Err(("generate.fewshot_answer", "solved examples need an answer to show".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn check_metrics(&self, allowed: &[Metric]) -> Result<(), (&'static str, String)> {
        match self.metrics.iter().find(|metric| !allowed.contains(metric)) {
            None => Ok(()),
            Some(metric) => {
                let names = allowed.iter().map(|metric| metric.name()).collect::<Vec<_>>().join(", ");
                Err(("metrics", format!("`{}` does not apply to this kind of task, which has {names}", metric.name())))
            }
        }
    }
}

/// serde names the unknown key and all known ones; this adds the line and the likeliest spelling.
fn syntax_error(file: &str, text: &str, error: &toml::de::Error) -> EvalError {
    let line = error.span().map_or(0, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    let nearest = match quoted.split_first() {
        Some((unknown, known)) if error.message().starts_with("unknown ") => nearest(unknown, known.iter().copied()),
        _ => None,
    };
    // the nearest key is told once, by the error
    let plain = plain_words(error.message());
    let problem = plain.split("; did you mean").next().unwrap_or_default().to_owned();
    EvalError::TaskSyntax { file: file.to_owned(), line, problem, nearest }
}

#[cfg(test)]
mod tests;
