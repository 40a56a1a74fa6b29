//! The events of a run while it works. The library never prints; its caller listens.

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A stage begins, or resumes from a checkpoint.
    StageStarted {
        /// The stage.
        stage: String,
        /// `train`, `distill` or `align`.
        kind: &'static str,
        /// Steps (or exercises) in all.
        steps: u64,
        /// Steps done before.
        done: u64,
    },
    /// An optimizer step is done.
    Step {
        /// The stage.
        stage: String,
        /// The step, from 1.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Loss of the step, per loss token (or per pair).
        loss: f64,
        /// Learning rate of the step.
        learning_rate: f64,
        /// Speed over this step.
        tokens_per_s: f64,
    },
    /// Work other than optimizer steps progressed: exercises sampled, reference log-probabilities computed.
    Progress {
        /// The stage.
        stage: String,
        /// What is counted.
        what: &'static str,
        /// Done so far.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// The dev loss was measured.
    DevLoss {
        /// The stage.
        stage: String,
        /// The step after which.
        step: u64,
        /// The loss, per loss token (or per pair).
        loss: f64,
        /// Whether it is the lowest so far.
        is_best: bool,
    },
    /// A checkpoint was committed.
    Saved {
        /// The stage.
        stage: String,
        /// The step after which.
        step: u64,
    },
    /// A stage is done.
    StageFinished {
        /// The stage.
        stage: String,
        /// Wall time of this process in the stage, in seconds.
        seconds: f64,
    },
    /// A stage was done before.
    StageSkipped {
        /// The stage.
        stage: String,
    },
    /// A model is being evaluated.
    Evaluating {
        /// `base` or the stage.
        stage: String,
    },
    /// Something worth reading.
    Note(String),
}

/// Listens to a run.
pub trait Observer {
    /// Receives `event` as it happens.
    fn event(&mut self, event: Event);
}

impl<F: FnMut(Event)> Observer for F {
    fn event(&mut self, event: Event) {
        self(event);
    }
}
