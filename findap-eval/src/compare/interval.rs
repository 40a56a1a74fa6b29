//! Intervals of shares, and of their change where the same rows were asked twice.
//!
//! A share of `n` rows has Wilson's score interval, and the change of one, where `b` rows became wrong and `c` right, Tango's, which is
//! Wilson's for pairs: neither is empty where no row or every row counts, and neither leaves the possible. Changes of independent tasks
//! are joined by their distances to the ends of their intervals.
//!
//! # Source
//! Wilson 1927, "Probable inference, the law of succession, and statistical inference"; Tango 1998, "Equivalence test and confidence
//! interval for the difference in proportions for the paired-sample design"; Zou and Donner 2008, "Construction of confidence limits
//! about effect measures: a general approach".

/// How far the ends of an interval are from its estimate, below and above; both at least 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Arms {
    pub(super) below: f64,
    pub(super) above: f64,
}

impl Arms {
    /// The arms of the mean of independent estimates.
    pub(super) fn of_mean(arms: &[Arms]) -> Arms {
        let joined = |arm: &dyn Fn(&Arms) -> f64| match arms {
            [one] => arm(one),
            several => several.iter().map(|arms| arm(arms).powi(2)).sum::<f64>().sqrt() / several.len() as f64,
        };
        Arms { below: joined(&|arms| arms.below), above: joined(&|arms| arms.above) }
    }
}

/// Tango's interval of the change of a share of `num_rows` rows, of which `num_lost` became wrong and `num_won` right.
pub(super) fn arms_of_pairs(num_rows: usize, num_lost: usize, num_won: usize, coverage: f64) -> Arms {
    let [n, lost, won] = [num_rows, num_lost, num_won].map(|count| count as f64);
    let change = (won - lost) / n;
    // the score statistic of a change: 0 at the estimate, falling
    let statistic = |delta: f64| {
        let b = (2.0 * n - won + lost) * delta - lost - won;
        let root = (b * b + 8.0 * n * lost * delta * (1.0 - delta)).max(0.0).sqrt();
        // the likeliest share of rows that became wrong, if the change were this one
        let share_lost = (root - b) / (4.0 * n);
        let variance = n * (2.0 * share_lost + delta * (1.0 - delta));
        let distance = won - lost - n * delta;
        if variance <= 0.0 { distance.signum() * f64::INFINITY } else { distance / variance.sqrt() }
    };
    let z = normal_quantile((1.0 + coverage) / 2.0);
    let low = bisect(-1.0, change, |delta| statistic(delta) > z);
    let high = bisect(change, 1.0, |delta| statistic(delta) > -z);
    Arms { below: change - low, above: high - change }
}

/// The distance of a share of `num_rows` rows from the further end of its interval by Wilson, in units of the normal deviation: a
/// standard error that is not 0 where no row or every row counts.
pub(crate) fn wilson_error(share: f64, num_rows: usize) -> f64 {
    const Z: f64 = 1.96;
    let n = num_rows as f64;
    let shrink = 1.0 + Z * Z / n;
    let centre = (share + Z * Z / (2.0 * n)) / shrink;
    let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt() / shrink;
    ((centre - share).abs() + half) / Z
}

/// Where `is_below`, true at `low` and false at `high`, changes.
fn bisect(mut low: f64, mut high: f64, is_below: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        match is_below(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    f64::midpoint(low, high)
}

/// The number below which a standard normal variable is with this probability, at least one half.
fn normal_quantile(probability: f64) -> f64 {
    const STEPS: usize = 400;
    let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
    // Simpson's rule from 0
    let cumulative = |x: f64| {
        let step = x / STEPS as f64;
        let weight = |index: usize| match index {
            0 | STEPS => 1.0,
            index if index % 2 == 1 => 4.0,
            _ => 2.0,
        };
        0.5 + (0..=STEPS).map(|index| weight(index) * density(index as f64 * step)).sum::<f64>() * step / 3.0
    };
    bisect(0.0, 10.0, |x| cumulative(x) < probability)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, want: f64) {
        assert!((found - want).abs() < 1e-4, "{found} is not {want}");
    }

    #[test]
    fn the_quantile_of_ninety_five_percent_is_the_usual_number() {
        near(normal_quantile(0.975), 1.959_964);
        near(normal_quantile(0.5), 0.0);
    }

    /// Where rows change in one way only, the statistic can be solved by hand: with `c = n` it is `sqrt(n (1 - d) / (1 + d))`, and with
    /// `b = c = 0` it is `sqrt(n d / (1 - d))`.
    #[test]
    fn intervals_of_pairs_solve_tangos_equation_and_are_never_empty() {
        let z2 = 1.959_964_f64.powi(2);
        for n in [1, 2, 12, 200] {
            let size = n as f64;
            let all = arms_of_pairs(n, 0, n, 0.95);
            near(1.0 - all.below, (size - z2) / (size + z2));
            near(all.above, 0.0);
            let mirrored = arms_of_pairs(n, n, 0, 0.95);
            near(mirrored.above, all.below);
            let none = arms_of_pairs(n, 0, 0, 0.95);
            near(none.above, z2 / (size + z2));
            near(none.below, none.above);
        }
        // Both ways: (c - b - n d)^2 = z^2 n (2 q + d (1 - d)) at both ends, with the likeliest q.
        let (n, lost, won) = (50.0, 4.0, 13.0);
        let arms = arms_of_pairs(50, 4, 13, 0.95);
        for delta in [9.0 / n - arms.below, 9.0 / n + arms.above] {
            let b: f64 = (2.0 * n - won + lost) * delta - lost - won;
            let q = ((b * b + 8.0 * n * lost * delta * (1.0 - delta)).sqrt() - b) / (4.0 * n);
            near((won - lost - n * delta).powi(2), z2 * n * (2.0 * q + delta * (1.0 - delta)));
        }
        assert!(arms.below > 0.1 && arms.above > 0.1 && arms.below < 0.2 && arms.above < 0.2, "{arms:?}");
    }

    /// Wilson's interval of 0 of 20 ends at `z^2 / (n + z^2)`.
    #[test]
    fn a_share_of_no_row_has_an_error() {
        let z2 = 1.96 * 1.96;
        near(wilson_error(0.0, 20), z2 / (20.0 + z2) / 1.96);
        near(wilson_error(1.0, 20), wilson_error(0.0, 20));
        near(wilson_error(0.5, 10_000), 0.005);
    }

    #[test]
    fn errors_of_independent_tasks_add_as_squares() {
        let arms = |below, above| Arms { below, above };
        let mean = Arms::of_mean(&[arms(0.3, 0.0), arms(0.4, 0.1)]);
        near(mean.below, 0.25);
        near(mean.above, 0.05);
        assert_eq!(Arms::of_mean(&[arms(0.1, 0.2)]), arms(0.1, 0.2));
    }
}
