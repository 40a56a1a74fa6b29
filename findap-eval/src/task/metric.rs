//! The numbers that a task reports.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// F1 of the words of an answer with those of the right answer that is nearest to it, as SQuAD counts them.
    TokenF1,
    /// Overlap F1 of the words of each answer with those of its right answer.
    Rouge1,
    /// Overlap F1 of the pairs of words of each answer with those of its right answer.
    Rouge2,
    /// F1 of the longest sequence of words that each answer shares with its right answer.
    RougeL,
    /// Share of rows whose reply keeps all its rules.
    Checks,
    /// Share of rows where no answer could be extracted; lower is better.
    Missing,
    /// Share of rows whose reply the judge calls right.
    JudgedRight,
    /// Mean of the judge's grades of all turns, divided by the highest one: 0.73 is 7.3 of 10.
    Grade,
    /// As `acc`, with the label that FLARE's own scoring reads in the reply: see `generate.flare`.
    FlareAcc,
    /// Mean of the F1 of each gold label, of the labels that FLARE's own scoring reads.
    FlareMacroF1,
    /// As `weighted_f1`, of the labels that FLARE's own scoring reads.
    FlareWeightedF1,
    /// As `mcc`, of the labels that FLARE's own scoring reads.
    FlareMcc,
}

impl Metric {
    const ALL: [Self; 20] = [
        Self::Acc,
        Self::AccNorm,
        Self::AccBytes,
        Self::ExactMatch,
        Self::MacroF1,
        Self::WeightedF1,
        Self::Mcc,
        Self::EntityF1,
        Self::TokenF1,
        Self::Rouge1,
        Self::Rouge2,
        Self::RougeL,
        Self::Checks,
        Self::Missing,
        Self::JudgedRight,
        Self::Grade,
        Self::FlareAcc,
        Self::FlareMacroF1,
        Self::FlareWeightedF1,
        Self::FlareMcc,
    ];

    /// The metrics of multiple choice.
    pub(super) const OF_CHOICES: [Self; 6] =
        [Self::Acc, Self::AccNorm, Self::AccBytes, Self::MacroF1, Self::WeightedF1, Self::Mcc];

    /// The metrics that count the labels that FLARE's own scoring reads.
    pub(crate) const OF_FLARE: [Self; 4] = [Self::FlareAcc, Self::FlareMacroF1, Self::FlareWeightedF1, Self::FlareMcc];

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
            Self::TokenF1 => "token_f1",
            Self::Rouge1 => "rouge1",
            Self::Rouge2 => "rouge2",
            Self::RougeL => "rouge_l",
            Self::Checks => "checks",
            Self::Missing => "missing",
            Self::JudgedRight => "judged_right",
            Self::Grade => "grade",
            Self::FlareAcc => "flare_acc",
            Self::FlareMacroF1 => "flare_macro_f1",
            Self::FlareWeightedF1 => "flare_weighted_f1",
            Self::FlareMcc => "flare_mcc",
        }
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        self != Self::Missing
    }

    /// Whether the metric is a mean over rows (else it is one number computed from all rows together).
    pub fn is_mean(self) -> bool {
        !self.compares_labels() && self != Self::EntityF1
    }

    /// Whether a judge gives it. Of rows without a verdict it has no value.
    pub fn is_judged(self) -> bool {
        matches!(self, Self::JudgedRight | Self::Grade)
    }

    /// Whether it is a share of rows: a mean of zeros and ones.
    pub(crate) fn is_share(self) -> bool {
        !matches!(self, Self::TokenF1 | Self::Rouge1 | Self::Rouge2 | Self::RougeL | Self::Grade) && self.is_mean()
    }

    /// Whether it is computed from the labels of all rows together, of which each row has one that is right.
    pub(crate) fn compares_labels(self) -> bool {
        let strict = matches!(self, Self::MacroF1 | Self::WeightedF1 | Self::Mcc);
        strict || matches!(self, Self::FlareMacroF1 | Self::FlareWeightedF1 | Self::FlareMcc)
    }

    /// The metrics of written answers.
    pub(super) fn of_replies() -> Vec<Self> {
        Self::ALL.into_iter().filter(|metric| !matches!(metric, Self::AccNorm | Self::AccBytes)).collect()
    }
}
