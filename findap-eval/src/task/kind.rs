//! How a model is asked and scored.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::check::Check;
use crate::extract::Step;
use crate::model::TokenBorder;
use crate::template::Template;

/// How the model is asked and scored.
#[derive(Debug, Clone)]
pub enum Kind {
    /// The likeliest of some continuations.
    MultipleChoice(MultipleChoice),
    /// A written answer.
    Generate(Box<Generate>),
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
    /// The labels of the choices in their order, for `gold_is = "label"`.
    pub labels: Option<Vec<String>>,
    /// The field with the list of these labels, where they differ from row to row.
    pub labels_from: Option<String>,
    /// Each choice is put into the prompt in the place of this text, and what follows it there is scored: WinoGrande's `_`. Not
    /// where absent: then the choice itself is scored, after the prompt.
    pub blank: Option<String>,
    /// Where a choice begins, if a token spans the border to the prompt. Default `joint`.
    #[serde(default)]
    pub token_border: TokenBorder,
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
    /// Its number, 1 being the first, as a number or as digits.
    Number,
    /// Its letter, A being the first.
    Letter,
    /// Its text; case matters, white space around it does not.
    Text,
    /// Its label, one of `labels` or `labels_from`; white space around it does not matter.
    Label,
}

/// A written answer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    /// The right answer.
    pub gold: Option<Template>,
    /// The field with a list of right answers, in place of `gold`: what equals one of them is right.
    pub gold_from: Option<String>,
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
    /// What the user says after the reply, and after that to it, each a template: the conversation goes on. Only a judge looks at what is
    /// replied then. Default `[]`.
    #[serde(default)]
    pub follow_ups: Vec<Template>,
    /// The reply ends after this many tokens.
    pub max_new_tokens: usize,
    /// Answers are compared in lower case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Answers are compared without ASCII punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
    /// Answers are compared without the words `a`, `an` and `the`, and with one space between words. With the two before it this is
    /// how SQuAD compares.
    #[serde(default)]
    pub ignore_articles: bool,
    /// Two numbers within this relative distance are equal; 0 compares text.
    #[serde(default)]
    pub tolerance: f64,
    /// A number that rounds to a right answer with decimals is equal to it.
    #[serde(default)]
    pub tolerance_rounding: bool,
    /// The field with the labels of a row, for `label` steps without labels of their own and for `flare`.
    pub labels_from: Option<String>,
    /// A reply of nothing but 0s and 1s stands for those lines of this field that have a 1; any other reply stands for itself.
    pub lines_from: Option<String>,
    /// Whether ROUGE compares words by their stem (Porter's). Default `false`.
    #[serde(default)]
    pub rouge_stemming: bool,
    /// How FLARE's own program reads a label, for the metrics `flare_acc`, `flare_macro_f1`, `flare_weighted_f1` and `flare_mcc`: the
    /// first label in their order that stands anywhere in the reply, also inside another word; reasoning in marks is left out before.
    pub flare: Option<FlareRule>,
    /// Rules for every reply.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// The field with the rules of a row: one rule or a list of them.
    pub checks_from: Option<String>,
}

/// How FLARE's own program (PIXIU) reads a label: the first label in their order that stands anywhere in the reply, also inside
/// another word. Published scores were counted this way; `not positive` counts as positive. Reasoning in marks is left out before.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlareRule {
    /// The labels in their order; where there are none, those of `generate.labels_from`. Default `[]`.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Texts that count as a label, too. Default `{}`.
    #[serde(default)]
    pub synonyms: BTreeMap<String, Vec<String>>,
    /// The label of a reply in which none is found; such a reply is missing where absent.
    pub default: Option<String>,
    /// Whether case counts. Default `false`.
    #[serde(default)]
    pub match_case: bool,
}

fn one_space() -> String {
    " ".to_owned()
}
