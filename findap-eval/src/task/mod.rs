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
//! path = "world:eval/company_sector.jsonl"   # ROOT:PATH, also a pattern; `{subset}` where there are subsets
//! format = "jsonl"                  # jsonl | json | csv | parquet | conll | tatqa; by the file's name where absent
//!
//! [multiple_choice]                 # exactly one of [multiple_choice] and [generate]
//! choices_from = "choices"          # a list in the row, or: choices = ["{A}", "{B}"]
//! gold = "answer"
//! gold_is = "index"                 # index | number | letter | text | label
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

mod judge;
mod kind;
mod metric;
mod published;
mod source;

use findap_data::plain_words::plain_words;
use findap_data::spelling::nearest;
use findap_data::{Capability, Domain};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::judge::{Asks, JudgeRule};
pub use self::kind::{FlareRule, Generate, GoldIs, Kind, MultipleChoice};
pub use self::metric::Metric;
pub use self::published::{Paper, PaperAnswers, Published, RowsRead};
pub use self::source::{Dataset, Format, ListPattern, SubsetMean};
use crate::error::EvalError;
use crate::extract::{Step, empty_label, parse_regex};
use crate::template::Template;

/// Why a task with a judge is not run without one.
pub(crate) const NEEDS_JUDGE: &str =
    "a judge has to read its replies; name one by `judge` of [eval], or by --judge or --judge-url of `findap eval`";

const NEEDS_OF_TURNS: &str = "they need a judge, the chat template, and no solved examples";

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
    /// Text before the first solved example, or before the question where there is none.
    pub description: Option<Template>,
    /// The question.
    pub prompt: Template,
    /// What is replaced in rendered prompts, choices and answers of solved examples.
    pub replace: Vec<Replace>,
    /// Where solved examples come from, if any are shown.
    pub fewshot: Fewshot,
    /// The rows.
    pub dataset: Dataset,
    /// How the model is asked and scored.
    pub kind: Kind,
    /// How a judge is asked about the replies.
    pub judge: Option<JudgeRule>,
    /// Where the rows are published.
    pub published: Option<Published>,
    /// What the FinDAP paper says of the benchmark.
    pub paper: Option<Paper>,
    /// Why no score of it can be given; such a task is described but not run.
    pub refused: Option<String>,
    /// SHA-256 of the task file, hex.
    pub hash: String,
}

impl Similarity {
    /// The name in task files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Similar => "similar",
            Self::Novel => "novel",
        }
    }
}

/// A clean-up of rendered texts.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// A regular expression (the `regex` crate's syntax). Required.
    #[serde(deserialize_with = "parse_regex")]
    #[schemars(with = "String")]
    pub pattern: Regex,
    /// What every match becomes; `$1` is its first group. Required.
    pub with: String,
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
    /// Text before the first solved example, or before the question where there is none, a template as `prompt`. In chat it ends the
    /// system turn, as in lm-eval.
    description: Option<Template>,
    /// The question: a template with the row's fields as `{field}`, `{field?}` where it may be absent, `{list:lines}`,
    /// `{list:commas}`, `{list:letters}` or `{list:numbers}` for lists, `{list.*.key:lines}` for lists of objects,
    /// `{text:stripped}` without white space at its ends, `{text:capitalized}` with its first letter alone as a capital, `{{` and `}}`
    /// for braces. Required.
    prompt: Template,
    /// Regular expressions and what takes the place of their matches, one after another, in every rendered prompt and choice, and in the
    /// answers of solved examples.
    /// Default `[]`.
    #[serde(default)]
    replace: Vec<Replace>,
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
    /// How a judge is asked about the replies. Without one no judge is.
    judge: Option<JudgeRule>,
    /// Where the rows are published, and what is known of them.
    published: Option<Published>,
    /// What the FinDAP paper says of this benchmark.
    paper: Option<Paper>,
    /// Why no score of it can be given, for a task that is described but not run. It runs where absent.
    refused: Option<String>,
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
            (None, Some(generate)) => Kind::Generate(Box::new(generate)),
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
            description: written.description,
            prompt: written.prompt,
            replace: written.replace,
            fewshot: Fewshot {
                num: written.num_fewshot,
                as_multiturn: written.fewshot_as_multiturn,
                rule: written.fewshot_rule,
            },
            dataset: written.dataset,
            kind,
            judge: written.judge,
            published: written.published,
            paper: written.paper,
            refused: written.refused,
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

    /// # Errors
    /// [`EvalError::TaskRefused`] for a task that is described only; [`EvalError::NoJudge`] for one that needs a judge where there is
    /// none.
    pub fn refuse(&self, has_judge: bool) -> Result<(), EvalError> {
        let task = self.name.clone();
        match &self.refused {
            Some(reason) => Err(EvalError::TaskRefused { task, reason: reason.clone() }),
            None if self.judge.is_some() && !has_judge => Err(EvalError::NoJudge { task }),
            None => Ok(()),
        }
    }

    /// # Errors
    /// [`EvalError::TaskInvalid`] where a conversation of several turns is to be asked in plain text, or behind solved examples.
    pub(crate) fn check_turns(&self, chat: Option<bool>, num_fewshot: usize) -> Result<(), EvalError> {
        let has_turns = matches!(&self.kind, Kind::Generate(generate) if !generate.follow_ups.is_empty());
        if has_turns && (chat == Some(false) || num_fewshot > 0) {
            let (file, task) = (format!("{}.toml", self.name), self.name.clone());
            let problem = format!("{NEEDS_OF_TURNS}, whatever the command says");
            return Err(EvalError::TaskInvalid { file, task, field: "generate.follow_ups", problem });
        }
        Ok(())
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
        let mut places = std::iter::once(&self.dataset.path).chain(&self.dataset.also_at);
        if places.any(|place| self.dataset.subsets.is_empty() == place.contains("{subset}")) {
            return Err(("dataset.path", "{subset} and the list of subsets go together".to_owned()));
        }
        if let Some(name) = self.dataset.subsets.iter().find(|name| !is_name(name)) {
            return Err(("dataset.subsets", format!("{name:?} may hold letters, digits and _ - . only")));
        }
        if self.dataset.columns.is_some() && self.dataset.format != Format::Csv {
            return Err(("dataset.columns", "only CSV files have columns".to_owned()));
        }
        self.check_judge()?;
        match &self.kind {
            Kind::MultipleChoice(choice) => self.check_multiple_choice(choice),
            Kind::Generate(generate) => self.check_generate(generate),
        }
    }

    fn check_judge(&self) -> Result<(), (&'static str, String)> {
        let of_judge = self.metrics.iter().find(|metric| metric.is_judged());
        let problem = |field, problem: &str| Err((field, problem.to_owned()));
        let Some(rule) = &self.judge else {
            return match of_judge {
                Some(metric) => Err(("judge", format!("the metric `{}` needs a [judge] table", metric.name()))),
                None => Ok(()),
            };
        };
        let Kind::Generate(generate) = &self.kind else {
            return problem("judge", "only written answers are judged");
        };
        if !self.metrics.contains(&rule.asks.metric()) {
            return Err((
                "metrics",
                format!("the judge gives `{}`, which is not among them", rule.asks.metric().name()),
            ));
        }
        if rule.follow_up_references.len() > generate.follow_ups.len() {
            return problem("judge.follow_up_references", "there are more than generate.follow_ups");
        }
        if rule.asks == Asks::Agreement && rule.reference.is_none() {
            return problem("judge.reference", "an agreement needs a right answer to agree with");
        }
        if rule.asks == Asks::Agreement && !generate.follow_ups.is_empty() {
            return problem("generate.follow_ups", "a final answer stands in one reply; take `asks = \"grade\"`");
        }
        Ok(())
    }

    fn check_multiple_choice(&self, choice: &MultipleChoice) -> Result<(), (&'static str, String)> {
        if choice.choices.is_some() == choice.choices_from.is_some() {
            return Err(("multiple_choice.choices", "give exactly one of choices and choices_from".to_owned()));
        }
        if choice.choices.as_ref().is_some_and(Vec::is_empty) {
            return Err(("multiple_choice.choices", "the list is empty".to_owned()));
        }
        let num_labels = usize::from(choice.labels.is_some()) + usize::from(choice.labels_from.is_some());
        if num_labels != usize::from(choice.gold_is == GoldIs::Label) {
            let problem =
                "gold_is = \"label\" needs one of labels and labels_from, and nothing else has them".to_owned();
            return Err(("multiple_choice.labels", problem));
        }
        if choice.blank.as_ref().is_some_and(String::is_empty) {
            return Err(("multiple_choice.blank", "is empty".to_owned()));
        }
        let by_length = |metric: &&Metric| matches!(metric, Metric::AccNorm | Metric::AccBytes);
        match self.metrics.iter().find(by_length).filter(|_| choice.blank.is_some()) {
            Some(metric) => {
                let problem = format!("`{}` says nothing here: with a blank the same text is scored", metric.name());
                Err(("metrics", problem))
            }
            None => self.check_metrics(&Metric::OF_CHOICES),
        }
    }

    fn check_generate(&self, generate: &Generate) -> Result<(), (&'static str, String)> {
        self.check_metrics(&Metric::of_replies())?;
        if generate.max_new_tokens == 0 {
            return Err(("generate.max_new_tokens", "is 0".to_owned()));
        }
        if !generate.follow_ups.is_empty() && (self.judge.is_none() || !self.chat || self.fewshot.num > 0) {
            return Err(("generate.follow_ups", NEEDS_OF_TURNS.to_owned()));
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
        let is_rouge = |metric: &Metric| matches!(metric, Metric::Rouge1 | Metric::Rouge2 | Metric::RougeL);
        if generate.rouge_stemming && !self.metrics.iter().any(is_rouge) {
            return Err(("generate.rouge_stemming", "no metric of the task is a ROUGE".to_owned()));
        }
        self.check_steps(generate)?;
        self.check_labels(generate)?;
        self.check_gold(generate)
    }

    /// Steps can do what they say, and read numbers of replies as those of right answers.
    fn check_steps(&self, generate: &Generate) -> Result<(), (&'static str, String)> {
        let of = |field: &'static str, steps: &[Step]| {
            steps.iter().find_map(Step::problem).map_or(Ok(()), |problem| Err((field, problem)))
        };
        of("generate.extract", &generate.extract)?;
        of("generate.gold_extract", &generate.gold_extract)?;
        if let Some(problem) = generate.flare.as_ref().and_then(|rule| empty_label(&rule.labels)) {
            return Err(("generate.flare", problem));
        }
        let counts_scale = |step: &Step| matches!(step, Step::Number(step) if step.scale);
        if generate.gold_extract.iter().any(counts_scale) && generate.extract.iter().any(Step::leaves_scale_out) {
            let problem = "a step takes numbers without the scale words that generate.gold_extract counts; write it as \
                           `{ number = { scale = true } }`";
            return Err(("generate.extract", problem.to_owned()));
        }
        Ok(())
    }

    /// Who looks for labels knows which.
    fn check_labels(&self, generate: &Generate) -> Result<(), (&'static str, String)> {
        let is_open = |step: &Step| matches!(step, Step::Label(step) if step.labels.is_empty());
        let steps = generate.extract.iter().filter(|step| is_open(step)).count();
        let flare = generate.flare.as_ref().filter(|rule| rule.labels.is_empty());
        let num_open = steps + usize::from(flare.is_some());
        if (num_open > 0) != generate.labels_from.is_some() {
            let problem = "labels_from goes with a label step, or a flare rule, without labels of its own".to_owned();
            return Err(("generate.labels_from", problem));
        }
        let of_flare = self.metrics.iter().find(|metric| Metric::OF_FLARE.contains(metric));
        match (of_flare, &generate.flare) {
            (Some(metric), None) => Err(("generate.flare", format!("the metric `{}` needs it", metric.name()))),
            (None, Some(_)) => Err(("generate.flare", "no metric of the task needs it".to_owned())),
            _ => Ok(()),
        }
    }

    fn check_gold(&self, generate: &Generate) -> Result<(), (&'static str, String)> {
        if generate.gold.is_some() && generate.gold_from.is_some() {
            return Err(("generate.gold_from", "give one of gold and gold_from".to_owned()));
        }
        let has_gold = generate.gold.is_some() || generate.gold_from.is_some();
        let needs_gold = |metric: &&Metric| !metric.is_judged() && !matches!(metric, Metric::Checks | Metric::Missing);
        if let Some(metric) = self.metrics.iter().find(needs_gold).filter(|_| !has_gold) {
            return Err(("generate.gold", format!("the metric `{}` needs a right answer", metric.name())));
        }
        let needs_one = |metric: &&Metric| metric.compares_labels() || **metric == Metric::EntityF1;
        if let Some(metric) = self.metrics.iter().find(needs_one).filter(|_| generate.gold_from.is_some()) {
            return Err((
                "generate.gold_from",
                format!("the metric `{}` needs one right answer, by gold", metric.name()),
            ));
        }
        if !has_gold && self.fewshot.num > 0 && generate.fewshot_answer.is_none() {
            return Err(("generate.fewshot_answer", "solved examples need an answer to show".to_owned()));
        }
        Ok(())
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
