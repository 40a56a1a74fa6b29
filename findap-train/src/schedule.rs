//! Learning-rate schedules.
//!
//! With `w` warm-up steps of `n` steps in all and peak learning rate `p`, step `s` (counted from 0) has the rate
//!
//! - warm-up, `s < w`: `p s / w` ([`Warmup::Zero`], the default) or `p (s + 1) / w` ([`Warmup::FirstStep`]);
//! - then `p f(s)`, linear: `f = (n - s) / (n - w)`; cosine: `f = (1 + cos(pi (s - w) / (n - w))) / 2`; constant: `f = 1`.
//!
//! With [`Warmup::Zero`] these are Hugging Face's `get_linear_schedule_with_warmup` and its relatives: **the first step of a run with
//! warm-up has learning rate 0** and so moves nothing. Adding one to `s` in the warm-up avoids that idle step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The numbers that a schedule is made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleOptions {
    /// How the learning rate falls after the warm-up.
    pub kind: ScheduleKind,
    /// The learning rate at the end of the warm-up.
    pub peak_learning_rate: f64,
    /// The length of the warm-up, over which the learning rate rises.
    pub warmup: WarmupLength,
    /// The learning rate of the first warm-up step.
    pub warmup_from: Warmup,
}

/// The length of a warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WarmupLength {
    /// Count of optimizer steps.
    Steps(u64),
    /// Share of all steps, rounded up to whole steps, as Hugging Face does.
    Ratio(f64),
}

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The learning rate falls in a straight line to 0.
    #[default]
    Linear,
    /// The learning rate falls along half a cosine to 0.
    Cosine,
    /// The learning rate does not fall.
    Constant,
}

/// The learning rate of the first step of a warm-up of `w` steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// 0: step `s` (from 0) has `peak * s / w`, as Hugging Face's schedulers do.
    #[default]
    Zero,
    /// `peak / w`: step `s` has `peak * (s + 1) / w`.
    FirstStep,
}

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    options: ScheduleOptions,
    warmup_steps: u64,
    total_steps: u64,
}

impl Schedule {
    /// Makes the schedule of a stage of `total_steps` steps.
    pub fn new(options: ScheduleOptions, total_steps: u64) -> Self {
        let warmup_steps = match options.warmup {
            WarmupLength::Steps(steps) => steps,
            WarmupLength::Ratio(ratio) => (total_steps as f64 * ratio).ceil() as u64,
        };
        Self { options, warmup_steps, total_steps }
    }

    /// Count of all steps.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.options.peak_learning_rate * self.factor(step)
    }

    /// Whether no step has a learning rate above 0, so that nothing is trained: one step is its own warm-up from 0, by the rule of Hugging
    /// Face.
    pub fn is_idle(&self) -> bool {
        self.total_steps > 0 && (0..self.total_steps).all(|step| self.learning_rate(step) == 0.0)
    }

    /// A sentence on a warm-up that takes the whole stage; `None` where the peak is reached.
    pub fn note(&self) -> Option<String> {
        let (warmup, total) = (self.warmup_steps, self.total_steps);
        if warmup < total || total == 0 {
            return None;
        }
        let took = format!("its warm-up takes {warmup} steps and it has {total}");
        let wants = "shorten the warm-up, take smaller batches, or set warmup_from = \"first_step\"";
        Some(match self.learning_rate(total - 1) {
            0.0 => format!("it trains nothing: {took}, so that the learning rate is 0 throughout; {wants}"),
            highest => format!("its learning rate gets no higher than {highest:.2e}: {took}; {wants}"),
        })
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let reached = match self.options.warmup_from {
                Warmup::Zero => step,
                Warmup::FirstStep => step + 1,
            };
            return reached as f64 / self.warmup_steps as f64;
        }
        let falling = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let left = self.total_steps.saturating_sub(step) as f64 / falling;
        match self.options.kind {
            ScheduleKind::Linear => left,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
            ScheduleKind::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_that_takes_the_whole_stage_is_told() {
        let note = |warmup, warmup_from, total_steps| {
            let kind = ScheduleKind::Linear;
            let options = ScheduleOptions { kind, peak_learning_rate: 1e-3, warmup, warmup_from };
            Schedule::new(options, total_steps).note().unwrap_or_default()
        };
        assert!(note(WarmupLength::Ratio(0.1), Warmup::Zero, 1).contains("trains nothing"));
        assert_eq!(note(WarmupLength::Ratio(0.1), Warmup::FirstStep, 2), "");
        let is_idle = |warmup_from, total_steps| {
            let (kind, warmup) = (ScheduleKind::Linear, WarmupLength::Ratio(0.1));
            let options = ScheduleOptions { kind, peak_learning_rate: 1e-3, warmup, warmup_from };
            Schedule::new(options, total_steps).is_idle()
        };
        assert!(is_idle(Warmup::Zero, 1) && !is_idle(Warmup::Zero, 2) && !is_idle(Warmup::FirstStep, 1));
        assert!(note(WarmupLength::Steps(100), Warmup::Zero, 11).contains("no higher than 1.00e-4"));
        assert_eq!(note(WarmupLength::Ratio(0.1), Warmup::Zero, 20), "");
        assert_eq!(note(WarmupLength::Ratio(0.0), Warmup::Zero, 1), "");
    }

    fn schedule(kind: ScheduleKind, warmup_from: Warmup) -> Schedule {
        let warmup = WarmupLength::Steps(3);
        Schedule::new(ScheduleOptions { kind, peak_learning_rate: 1e-3, warmup, warmup_from }, 12)
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-15, "{got} against {want}");
    }

    #[test]
    fn linear_is_hugging_faces() {
        let linear = schedule(ScheduleKind::Linear, Warmup::Zero);
        for (step, want) in [
            (0, 0.0),
            (1, 1e-3 / 3.0),
            (2, 2e-3 / 3.0),
            (3, 1e-3),
            (4, 8e-3 / 9.0),
            (11, 1e-3 / 9.0),
            (12, 0.0),
            (99, 0.0),
        ] {
            close(linear.learning_rate(step), want);
        }
    }

    #[test]
    fn the_first_step_can_move() {
        let linear = schedule(ScheduleKind::Linear, Warmup::FirstStep);
        close(linear.learning_rate(0), 1e-3 / 3.0);
        close(linear.learning_rate(2), 1e-3);
        close(linear.learning_rate(3), 1e-3);
    }

    #[test]
    fn cosine_and_constant() {
        let cosine = schedule(ScheduleKind::Cosine, Warmup::Zero);
        close(cosine.learning_rate(3), 1e-3);
        close(cosine.learning_rate(6), 0.75e-3);
        close(cosine.learning_rate(9), 0.25e-3);
        close(cosine.learning_rate(12), 0.0);
        close(schedule(ScheduleKind::Constant, Warmup::Zero).learning_rate(11), 1e-3);
    }

    #[test]
    fn ratios_are_rounded_up_and_nothing_divides_by_zero() {
        let schedule = |ratio, total_steps| {
            let (kind, warmup, warmup_from) = (ScheduleKind::Linear, WarmupLength::Ratio(ratio), Warmup::Zero);
            Schedule::new(ScheduleOptions { kind, peak_learning_rate: 1.0, warmup, warmup_from }, total_steps)
        };
        assert_eq!(schedule(0.25, 10).warmup_steps, 3);
        assert!((0..12).all(|step| schedule(1.0, 10).learning_rate(step).is_finite()));
        assert_eq!(schedule(1.0, 0).learning_rate(0), 0.0);
    }
}
