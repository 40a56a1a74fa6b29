//! The change of one task with its interval.

use std::collections::BTreeMap;

use findap_data::files::seed_of;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::interval::{Arms, arms_of_pairs};
use crate::metrics::{Outcome, aggregate, draw};
use crate::results::TaskSummary;
use crate::sample::Sample;
use crate::task::{Metric, SubsetMean};

/// How intervals are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompareOptions {
    /// Resamples of the rows, for metrics that are no share of rows.
    pub num_resamples: usize,
    /// Probability with which an interval holds the change of all rows that there could be.
    pub coverage: f64,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { num_resamples: 2000, coverage: 0.95, seed: 0 }
    }
}

/// A difference, after minus before.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delta {
    /// Score of the first run, on the rows that both have.
    pub before: f64,
    /// Score of the second run, on the rows that both have.
    pub after: f64,
    /// Lower end of the interval of `after - before`.
    pub low: f64,
    /// Upper end of that interval.
    pub high: f64,
    /// Rows that both runs have.
    pub num_rows: usize,
}

impl Delta {
    /// After minus before.
    pub fn difference(&self) -> f64 {
        self.after - self.before
    }

    /// Whether the interval leaves out zero.
    pub fn is_clear(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// The change of the mean of independent tasks; none for no task.
    pub(super) fn of_mean(deltas: &[Delta]) -> Option<Delta> {
        let mean = |value: &dyn Fn(&Delta) -> f64| deltas.iter().map(value).sum::<f64>() / deltas.len() as f64;
        let arms =
            |delta: &Delta| Arms { below: delta.difference() - delta.low, above: delta.high - delta.difference() };
        match deltas {
            [] => None,
            [one] => Some(*one),
            several => {
                let arms = Arms::of_mean(&several.iter().map(arms).collect::<Vec<_>>());
                let scores = [mean(&|delta| delta.before), mean(&|delta| delta.after)];
                Some(Delta::new(scores, arms, several.iter().map(|delta| delta.num_rows).sum()))
            }
        }
    }

    fn new([before, after]: [f64; 2], arms: Arms, num_rows: usize) -> Delta {
        let change = after - before;
        Delta { before, after, low: change - arms.below, high: change + arms.above, num_rows }
    }
}

/// The answers of both runs to one question.
pub(super) type Pair<'a> = (&'a Sample, &'a Sample);

/// The change of a task between the answers of two runs.
pub(super) fn delta_of(summary: &TaskSummary, pairs: &[Pair<'_>], options: CompareOptions) -> Delta {
    let metric = summary.headline().metric;
    let (first, second): (Vec<&Sample>, Vec<&Sample>) = pairs.iter().copied().unzip();
    let scores = [first, second].map(|samples| score(metric, summary.subset_mean, &samples));
    let arms = match shares(metric, summary.subset_mean, pairs) {
        Some(subsets) => {
            let arms = subsets.iter().map(|[rows, lost, won]| arms_of_pairs(*rows, *lost, *won, options.coverage));
            Arms::of_mean(&arms.collect::<Vec<_>>())
        }
        None => resampled_arms(summary, pairs, scores, options),
    };
    Delta::new(scores, arms, pairs.len())
}

/// Rows, those that became wrong, and those that became right, of each subset that counts alone; none where the metric is no share of
/// rows.
fn shares(metric: Metric, subset_mean: SubsetMean, pairs: &[Pair<'_>]) -> Option<Vec<[usize; 3]>> {
    let is_right = |sample: &Sample| sample.outcome.values.get(&metric).is_some_and(|value| *value == 1.0);
    if !metric.is_share() {
        return None;
    }
    let mut subsets: BTreeMap<Option<&str>, [usize; 3]> = BTreeMap::new();
    for (first, second) in pairs {
        let subset = first.subset.as_deref().filter(|_| subset_mean != SubsetMean::Micro);
        let (was, now) = (is_right(first), is_right(second));
        let counts = subsets.entry(subset).or_default();
        for (count, is_counted) in counts.iter_mut().zip([true, was && !now, !was && now]) {
            *count += usize::from(is_counted);
        }
    }
    Some(subsets.into_values().collect())
}

/// The percentiles of resampled changes. Both models answered the same rows, so rows are drawn together: how hard a row is cancels
/// out. The interval is no narrower than what may have changed unseen, and no wider than what is possible.
///
/// # Source
/// Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13 (percentile intervals); Koehn 2004, "Statistical
/// significance tests for machine translation evaluation" (paired use).
fn resampled_arms(
    summary: &TaskSummary,
    pairs: &[Pair<'_>],
    [before, after]: [f64; 2],
    options: CompareOptions,
) -> Arms {
    let metric = summary.headline().metric;
    let score = |samples: &[&Sample]| score(metric, summary.subset_mean, samples);
    // Each task has draws of its own: those of tasks with equally many rows would else hide or double each other's spread.
    let mut generator = ChaCha8Rng::seed_from_u64(seed_of(&format!("{}\u{1}{}", options.seed, summary.name)));
    let (mut drawn_first, mut drawn_second) = (Vec::new(), Vec::new());
    let mut changes: Vec<f64> = (0..options.num_resamples)
        .map(|_| {
            drawn_first.clear();
            drawn_second.clear();
            for index in draw(pairs.len(), &mut generator) {
                drawn_first.push(pairs[index].0);
                drawn_second.push(pairs[index].1);
            }
            score(&drawn_second) - score(&drawn_first)
        })
        .collect();
    changes.sort_by(f64::total_cmp);
    let change = after - before;
    let at = |share: f64| match changes.len() {
        0 => change,
        count => changes[((count as f64 * share) as usize).min(count - 1)],
    };
    let outside = (1.0 - options.coverage) / 2.0;
    let unseen = unseen_change(pairs.len());
    // correlations go from -1 to 1, all other scores from 0 to 1
    let most = if matches!(metric, Metric::Mcc | Metric::FlareMcc) { 2.0 } else { 1.0 };
    let low = at(outside).min(change - unseen).max(-most);
    let high = at(1.0 - outside).max(change + unseen).min(most);
    Arms { below: (change - low).max(0.0), above: (high - change).max(0.0) }
}

/// By how much the score of all rows that there are may have changed though none of `num_rows` drawn ones shows it: the rule of three
/// (Hanley and Lippman-Hand 1983, "If nothing goes wrong, is everything all right?"), 3 / n with a confidence of 95 %.
fn unseen_change(num_rows: usize) -> f64 {
    3.0 / num_rows as f64
}

/// The metric as the task's summary reports it.
fn score(metric: Metric, subset_mean: SubsetMean, samples: &[&Sample]) -> f64 {
    let whole = |samples: &[&Sample]| {
        let outcomes: Vec<&Outcome> = samples.iter().map(|sample| &sample.outcome).collect();
        aggregate(metric, &outcomes)
    };
    if subset_mean == SubsetMean::Micro {
        return whole(samples);
    }
    let mut subsets: BTreeMap<Option<&str>, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        subsets.entry(sample.subset.as_deref()).or_default().push(sample);
    }
    subsets.values().map(|samples| whole(samples)).sum::<f64>() / subsets.len().max(1) as f64
}
