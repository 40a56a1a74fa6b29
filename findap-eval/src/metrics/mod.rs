//! From the outcome of each row to the numbers of a task, with their standard errors.

mod rouge;
mod stem;
mod words;

use std::collections::BTreeMap;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use self::rouge::{rouge_l, rouge1, rouge2};
pub(crate) use self::words::is_article;
pub use self::words::{squad_words, token_f1};
use crate::task::Metric;

/// Resamples for the standard error of a metric that is not a mean.
pub const BOOTSTRAP_RESAMPLES: usize = 1000;

/// All that the metrics of a task need to know about one row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// The row's value of each metric that is a mean.
    pub values: BTreeMap<Metric, f64>,
    /// The right answer.
    pub gold: String,
    /// The model's answer as it was extracted; `None` where none could be.
    pub predicted: Option<String>,
    /// The label that FLARE's own scoring reads; `None` where it reads none, and for tasks without that scoring.
    pub flare: Option<String>,
    /// What the row adds to the entity F1.
    pub entities: Option<EntityCounts>,
}

impl Outcome {
    /// What the answer counts as: the right answer where it equals that, however it is spelt.
    pub(crate) fn label(&self) -> Option<&str> {
        let is_right = self.values.get(&Metric::Acc).is_some_and(|value| *value == 1.0);
        if is_right { Some(&self.gold) } else { self.predicted.as_deref() }
    }
}

/// Entities of one row, counted with repetition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EntityCounts {
    /// In the right answer and in the model's.
    pub matched: usize,
    /// In the right answer.
    pub gold: usize,
    /// In the model's answer.
    pub predicted: usize,
}

/// The value of a metric over some rows; 0 for no rows.
pub fn aggregate(metric: Metric, rows: &[&Outcome]) -> f64 {
    if metric.is_mean() {
        return mean(values(metric, rows).into_iter());
    }
    let pairs = || rows.iter().map(|row| (row.gold.as_str(), row.label()));
    let flare = || rows.iter().map(|row| (row.gold.as_str(), row.flare.as_deref()));
    match metric {
        Metric::MacroF1 => macro_f1(pairs()),
        Metric::WeightedF1 => weighted_f1(pairs()),
        Metric::Mcc => mcc(pairs()),
        Metric::FlareMacroF1 => gold_macro_f1(flare()),
        Metric::FlareWeightedF1 => weighted_f1(flare()),
        Metric::FlareMcc => mcc(flare()),
        _ => entity_f1(rows.iter().filter_map(|row| row.entities)),
    }
}

/// The standard error of [`aggregate`]: closed form for means, seeded bootstrap for the rest. `None` for fewer than two
/// rows.
pub fn standard_error(metric: Metric, rows: &[&Outcome], seed: u64) -> Option<f64> {
    if rows.len() < 2 {
        return None;
    }
    if metric.is_mean() {
        let values = values(metric, rows);
        return (values.len() > 1).then(|| mean_standard_error(&values));
    }
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut resample = Vec::with_capacity(rows.len());
    let values: Vec<f64> = (0..BOOTSTRAP_RESAMPLES)
        .map(|_| {
            resample.clear();
            resample.extend(draw(rows.len(), &mut generator).map(|index| rows[index]));
            aggregate(metric, &resample)
        })
        .collect();
    Some(sample_deviation(&values))
}

/// The rows' values of a metric that is a mean; of one that a judge gives, those that there are.
fn values(metric: Metric, rows: &[&Outcome]) -> Vec<f64> {
    let of_row = |row: &&Outcome| match row.values.get(&metric) {
        None if metric.is_judged() => None,
        value => Some(value.copied().unwrap_or(0.0)),
    };
    rows.iter().filter_map(of_row).collect()
}

/// `count` row indices drawn with replacement.
pub(crate) fn draw<R: Rng>(count: usize, generator: &mut R) -> impl Iterator<Item = usize> {
    (0..count).map(move |_| generator.random_range(0..count))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    if count == 0 { 0.0 } else { values.sum::<f64>() / count as f64 }
}

/// Standard error of a mean: the sample deviation (n - 1) over the root of n.
pub fn mean_standard_error(values: &[f64]) -> f64 {
    sample_deviation(values) / (values.len() as f64).sqrt()
}

fn sample_deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let centre = mean(values.iter().copied());
    let squares: f64 = values.iter().map(|value| (value - centre).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

#[derive(Default)]
struct LabelCounts {
    matched: usize,
    gold: usize,
    predicted: usize,
}

impl LabelCounts {
    fn f1(&self) -> f64 {
        f1(self.matched, self.gold, self.predicted)
    }
}

/// F1 from counts; 0 where there is nothing to match.
fn f1(matched: usize, gold: usize, predicted: usize) -> f64 {
    if gold + predicted == 0 { 0.0 } else { 2.0 * matched as f64 / (gold + predicted) as f64 }
}

/// How many elements two lists share, counted with repetition.
fn num_shared<T: Ord>(one: impl Iterator<Item = T>, other: impl Iterator<Item = T>) -> usize {
    let mut left: BTreeMap<T, usize> = BTreeMap::new();
    for element in one {
        *left.entry(element).or_default() += 1;
    }
    let mut take = |element: &T| left.get_mut(element).filter(|left| **left > 0).map(|left| *left -= 1).is_some();
    other.filter(|element| take(element)).count()
}

/// A missing answer misses its gold label and is no label of its own.
fn count_labels<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> BTreeMap<&'a str, LabelCounts> {
    let mut counts: BTreeMap<&str, LabelCounts> = BTreeMap::new();
    for (gold, predicted) in pairs {
        counts.entry(gold).or_default().gold += 1;
        if let Some(label) = predicted {
            counts.entry(label).or_default().predicted += 1;
            if label == gold {
                counts.entry(label).or_default().matched += 1;
            }
        }
    }
    counts
}

/// Mean of the F1 of every label that is gold or predicted somewhere (scikit-learn's `average="macro"`).
pub fn macro_f1<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> f64 {
    let counts = count_labels(pairs);
    mean(counts.values().map(LabelCounts::f1))
}

/// Mean of the F1 of every gold label, whatever else is predicted (scikit-learn's `average="macro"` with the gold labels as
/// `labels`).
pub fn gold_macro_f1<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> f64 {
    let counts = count_labels(pairs);
    let of_gold: Vec<f64> = counts.values().filter(|count| count.gold > 0).map(LabelCounts::f1).collect();
    mean(of_gold.into_iter())
}

/// Mean of the F1 of every gold label, weighted by its count (scikit-learn's `average="weighted"`).
pub fn weighted_f1<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> f64 {
    let counts = count_labels(pairs);
    let total: usize = counts.values().map(|count| count.gold).sum();
    if total == 0 {
        return 0.0;
    }
    counts.values().map(|count| count.f1() * count.gold as f64).sum::<f64>() / total as f64
}

/// Matthews correlation for any number of labels; a missing answer counts as a label that is never gold. 0 where all gold
/// or all predicted labels are the same.
///
/// # Source
/// Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient".
pub fn mcc<'a>(pairs: impl Iterator<Item = (&'a str, Option<&'a str>)>) -> f64 {
    // Of each label, how often it is gold and how often it is predicted.
    let mut counts: BTreeMap<Option<&str>, (f64, f64)> = BTreeMap::new();
    let (mut total, mut matched) = (0.0, 0.0);
    for (gold, predicted) in pairs {
        total += 1.0;
        matched += f64::from(u8::from(predicted == Some(gold)));
        counts.entry(Some(gold)).or_default().0 += 1.0;
        counts.entry(predicted).or_default().1 += 1.0;
    }
    let products: f64 = counts.values().map(|(gold, predicted)| gold * predicted).sum();
    let gold_squares: f64 = counts.values().map(|(gold, _)| gold * gold).sum();
    let predicted_squares: f64 = counts.values().map(|(_, predicted)| predicted * predicted).sum();
    let scale = ((total * total - predicted_squares) * (total * total - gold_squares)).sqrt();
    if scale == 0.0 { 0.0 } else { (matched * total - products) / scale }
}

/// F1 over all entities of all rows (micro average).
pub fn entity_f1(rows: impl Iterator<Item = EntityCounts>) -> f64 {
    let (mut matched, mut gold, mut predicted) = (0, 0, 0);
    for row in rows {
        matched += row.matched;
        gold += row.gold;
        predicted += row.predicted;
    }
    f1(matched, gold, predicted)
}

/// Counts the `name, TYPE` lines of two answers. Case of the name, spacing, bullets and emphasis do not matter, and types may
/// be written out (`Organization`); other lines are ignored.
pub fn count_entities(gold: &str, predicted: &str) -> EntityCounts {
    let (gold, predicted) = (entities(gold), entities(predicted));
    EntityCounts { matched: num_shared(gold.iter(), predicted.iter()), gold: gold.len(), predicted: predicted.len() }
}

fn entities(answer: &str) -> Vec<(String, String)> {
    let is_wrapping = |c: char| c.is_whitespace() || matches!(c, '*' | '_' | '`' | '"');
    let parse = |line: &str| {
        let (name, kind) = without_bullet(line).trim_matches(is_wrapping).rsplit_once(',')?;
        let name = name.trim_matches(is_wrapping).split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        let kind = kind.trim_matches(|c| is_wrapping(c) || matches!(c, '.' | '(' | ')')).to_uppercase();
        let kind = match kind.as_str() {
            "ORGANIZATION" | "ORGANISATION" => "ORG".to_owned(),
            "PERSON" => "PER".to_owned(),
            "LOCATION" => "LOC".to_owned(),
            "MISCELLANEOUS" => "MISC".to_owned(),
            _ => kind,
        };
        (!name.is_empty() && !kind.is_empty()).then_some((name, kind))
    };
    answer.lines().filter_map(parse).collect()
}

/// A line of a list without its bullet or number.
fn without_bullet(line: &str) -> &str {
    let line = line.trim_start();
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match numbered.len() < line.len() {
        true => numbered.strip_prefix(['.', ')']),
        false => line.strip_prefix(['-', '*', '\u{2022}', '+']),
    };
    rest.filter(|rest| rest.starts_with(char::is_whitespace)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLD: [&str; 10] = ["a", "a", "a", "a", "b", "b", "b", "c", "c", "c"];
    const PREDICTED: [&str; 10] = ["a", "a", "b", "c", "b", "b", "a", "c", "b", "d"];

    fn pairs() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
        GOLD.into_iter().zip(PREDICTED.into_iter().map(Some))
    }

    fn near(found: f64, want: f64) {
        assert!((found - want).abs() < 1e-12, "{found} is not {want}");
    }

    // scikit-learn 1.x on the same lists: f1_score(average="macro"), f1_score(average="weighted"), matthews_corrcoef.
    #[test]
    fn label_metrics_equal_scikit_learn() {
        near(macro_f1(pairs()), 0.3857142857142857);
        near(weighted_f1(pairs()), 0.52);
        near(mcc(pairs()), 0.29424494316824984);
        // f1_score(average="macro", labels=["a", "b", "c"])
        near(gold_macro_f1(pairs()), 0.5142857142857142);
    }

    #[test]
    fn binary_mcc_equals_its_formula() {
        // tp 3, fn 1, fp 2, tn 4
        let gold = ["1", "1", "1", "1", "0", "0", "0", "0", "0", "0"];
        let predicted = ["1", "1", "1", "0", "1", "1", "0", "0", "0", "0"];
        let want = (3.0 * 4.0 - 2.0) / (5.0f64 * 4.0 * 6.0 * 5.0).sqrt();
        near(mcc(gold.into_iter().zip(predicted.into_iter().map(Some))), want);
    }

    #[test]
    fn constant_answers_have_no_correlation() {
        near(mcc([("a", Some("a")), ("b", Some("a"))].into_iter()), 0.0);
        near(mcc(std::iter::empty()), 0.0);
    }

    #[test]
    fn missing_answers_cost_recall_and_are_no_label() {
        let pairs = || [("a", Some("a")), ("a", None), ("b", Some("b"))].into_iter();
        near(macro_f1(pairs()), (2.0 / 3.0 + 1.0) / 2.0);
        near(weighted_f1(pairs()), (2.0 / 3.0 * 2.0 + 1.0) / 3.0);
        assert!(mcc(pairs()) < 1.0);
    }

    #[test]
    fn entities_match_by_name_and_type() {
        let counts =
            count_entities("Acme Inc, ORG\nParis, LOC\nParis, LOC", "acme  inc , org.\nParis, LOC\nBob, PER\nnoise");
        assert_eq!(counts, EntityCounts { matched: 2, gold: 3, predicted: 3 });
        near(entity_f1([counts].into_iter()), 2.0 / 3.0);
        for line in [
            "- Acme Inc, ORG",
            "* **Acme Inc**, ORG",
            "1. Acme Inc, Organization",
            "2) `Acme Inc, ORG`",
            "\u{2022} Acme Inc, organisation.",
            "**Acme Inc, ORG**",
        ] {
            let all = EntityCounts { matched: 1, gold: 1, predicted: 1 };
            assert_eq!(count_entities("Acme Inc, ORG", line), all, "{line}");
        }
        let written_out = "Bob, Person\nParis, Location\n3M, Miscellaneous";
        assert_eq!(count_entities("Bob, PER\nParis, LOC\n3M, MISC", written_out).matched, 3);
        assert_eq!(count_entities("", "none"), EntityCounts::default());
        near(entity_f1([EntityCounts::default()].into_iter()), 0.0);
    }

    #[test]
    fn standard_errors_shrink_with_rows_and_repeat_by_seed() {
        near(mean_standard_error(&[0.0, 1.0, 1.0, 1.0]), 0.25);
        let rows: Vec<Outcome> = pairs()
            .map(|(gold, predicted)| Outcome {
                gold: gold.to_owned(),
                predicted: predicted.map(str::to_owned),
                ..Outcome::default()
            })
            .collect();
        let once: Vec<&Outcome> = rows.iter().collect();
        let many: Vec<&Outcome> = rows.iter().cycle().take(400).collect();
        let small = standard_error(Metric::MacroF1, &many, 1).expect("many rows");
        let large = standard_error(Metric::MacroF1, &once, 1).expect("ten rows");
        assert!(small < large / 3.0 && small > 0.0, "{small} {large}");
        assert_eq!(standard_error(Metric::MacroF1, &many, 1), Some(small));
        assert_eq!(standard_error(Metric::Mcc, &once[..1], 1), None);
    }
}
