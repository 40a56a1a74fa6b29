//! Learning-rate schedules.
//!
//! With `w` warm-up steps of `n` steps in all and peak rate `p`, step `s` (counted from 0) has
//!
//! - warm-up, `s < w`: `p s / w` ([`Warmup::Zero`], the default) or `p (s + 1) / w` ([`Warmup::FirstStep`]);
//! - then `p f(s)`, linear: `f = (n - s) / (n - w)`; cosine: `f = (1 + cos(pi (s - w) / (n - w))) / 2`; constant: `f = 1`.
//!
//! With [`Warmup::Zero`] these are Hugging Face's `get_linear_schedule_with_warmup` and its relatives: **the first step of a run with
//! warm-up has rate 0** and so moves nothing. Adding one to `s` in the warm-up avoids that idle step.

use crate::recipe::{Optimization, ScheduleKind, Warmup};

/// A schedule over a known number of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// How the rate falls.
    pub kind: ScheduleKind,
    /// Peak rate.
    pub peak: f64,
    /// Warm-up steps.
    pub warmup_steps: u64,
    /// The rate of the first warm-up step.
    pub warmup_from: Warmup,
    /// Steps in all.
    pub total_steps: u64,
}

impl Schedule {
    /// The schedule of a stage of `total_steps`; a warm-up ratio is rounded up to whole steps, as Hugging Face does.
    pub fn new(keys: &Optimization, total_steps: u64) -> Self {
        let warmup_steps = match (keys.warmup_steps, keys.warmup_ratio) {
            (Some(steps), _) => steps,
            (None, Some(ratio)) => (total_steps as f64 * ratio).ceil() as u64,
            (None, None) => 0,
        };
        Self { kind: keys.schedule, peak: keys.learning_rate, warmup_steps, warmup_from: keys.warmup_from, total_steps }
    }

    /// The rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            let reached = match self.warmup_from {
                Warmup::Zero => step,
                Warmup::FirstStep => step + 1,
            };
            return reached as f64 / self.warmup_steps as f64;
        }
        let falling = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let left = self.total_steps.saturating_sub(step) as f64 / falling;
        match self.kind {
            ScheduleKind::Linear => left,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
            ScheduleKind::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup_from: Warmup) -> Schedule {
        Schedule { kind, peak: 1e-3, warmup_steps: 3, warmup_from, total_steps: 12 }
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
            close(linear.rate(step), want);
        }
    }

    #[test]
    fn the_first_step_can_move() {
        let linear = schedule(ScheduleKind::Linear, Warmup::FirstStep);
        close(linear.rate(0), 1e-3 / 3.0);
        close(linear.rate(2), 1e-3);
        close(linear.rate(3), 1e-3);
    }

    #[test]
    fn cosine_and_constant() {
        let cosine = schedule(ScheduleKind::Cosine, Warmup::Zero);
        close(cosine.rate(3), 1e-3);
        close(cosine.rate(6), 0.75e-3);
        close(cosine.rate(9), 0.25e-3);
        close(cosine.rate(12), 0.0);
        close(schedule(ScheduleKind::Constant, Warmup::Zero).rate(11), 1e-3);
    }

    #[test]
    fn ratios_are_rounded_up_and_nothing_divides_by_zero() {
        let keys = Optimization { warmup_ratio: Some(0.25), learning_rate: 1.0, ..Optimization::default() };
        assert_eq!(Schedule::new(&keys, 10).warmup_steps, 3);
        let all = Optimization { warmup_ratio: Some(1.0), learning_rate: 1.0, ..Optimization::default() };
        assert!((0..12).all(|step| Schedule::new(&all, 10).rate(step).is_finite()));
        assert_eq!(Schedule::new(&all, 0).rate(0), 0.0);
    }
}
