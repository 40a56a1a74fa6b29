//! One stage of training: batches in, weights out, resumable at every checkpoint.
//!
//! A step: forward and backward of each micro-batch with weights normalised over the whole step, the global norm, a check that
//! everything is finite, clipping, AdamW, a line of metrics. Everything that decides the next step's bits is in the checkpoint.
//!
//! A step on a device is queued without waiting for it. Its loss and norm are read and checked once the next step is queued; before a dev
//! loss, before a checkpoint and at the end, no step is left unread. A step that is not finite changes no weight, and neither does the
//! one queued behind it.

mod arrays;
mod options;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use findap_data::{Loader, MicroBatch, RowRef, Step};
use findap_model::session::SessionOptions;
use findap_model::{Decoder, Session};
use findap_tensor::ops::reduce;
use findap_tensor::{Arena, Device, StepStats, Sums};

use crate::checkpoint::{self, State};
use crate::error::{TrainError, io};
use crate::event::{Event, Observer};
use crate::folder;
use crate::identity::{Identity, changes};
use crate::metrics::{JsonlWriter, TensorBoardWriter};
use crate::objective::{Objective, Scratch, StepTotals};
use crate::optimizer::{AdamW, StateFormat};
use crate::schedule::Schedule;
pub use options::TrainOptions;

/// A stage to be trained, and how.
#[derive(Debug)]
pub struct Job<'a> {
    /// The stage's name.
    pub stage: &'a str,
    /// The stage's folder, for metrics, event files and checkpoints.
    pub folder: &'a Path,
    /// How it is trained.
    pub options: TrainOptions,
    /// What must be the same to resume from a checkpoint, key by key.
    pub identity: Identity,
    /// What is minimised.
    pub objective: Objective,
    /// The names of the loader's stores, for messages.
    pub sources: &'a [String],
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// All steps are done, or the dev loss no longer fell.
    Finished {
        /// Steps done.
        step: u64,
        /// Step and dev loss of the weights that the model now has, where a dev loss was measured.
        best: Option<(u64, f64)>,
    },
    /// The stage was stopped on request after a checkpoint.
    Interrupted {
        /// Steps done.
        step: u64,
    },
}

/// Trains the selected parameters of `model`, or the adapter that it already has, on the steps of `loader`, from the newest checkpoint in the folder where there is one.
/// `dev` gives the rows of the dev loss; with it, the weights of the lowest dev loss are put into `model` at the end. `stop` asks for a
/// checkpoint and a return after the current step.
///
/// # Errors
/// [`TrainError::NonFinite`] before the update it would spoil; [`TrainError::Changed`]; [`TrainError::DiskSpace`];
/// [`TrainError::StateNeedsGpu`]; others.
pub fn train(
    model: &mut Decoder,
    loader: &mut Loader,
    dev: Option<&Loader>,
    job: &Job<'_>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainError> {
    model.train_only(&job.options.trainable)?;
    let mut trainer = Trainer::new(model, loader, dev, job, observer)?;
    trainer.resume(model, loader, observer)?;
    trainer.open_metrics()?;
    let steps = trainer.schedule.total_steps();
    let started = Event::StageStarted {
        stage: job.stage.to_owned(),
        kind: job.objective.loss.stage_kind(),
        steps,
        done: trainer.state.step,
    };
    observer.event(started);
    while trainer.state.step < steps && !trainer.should_stop_early() {
        if stop.load(Ordering::Relaxed) {
            trainer.save(model, loader, observer)?;
            return Ok(Outcome::Interrupted { step: trainer.state.step });
        }
        trainer.step(model, loader, observer)?;
        let (step, is_last) = (trainer.state.step, trainer.state.step == steps);
        if !trainer.dev.is_empty() && (step % trainer.evaluate_every == 0 || is_last) {
            trainer.evaluate(model, observer)?;
        }
        if step % trainer.save_every == 0 || is_last || trainer.should_stop_early() {
            trainer.save(model, loader, observer)?;
        }
    }
    trainer.restore_best(model)?;
    Ok(Outcome::Finished { step: trainer.state.step, best: trainer.state.best })
}

struct Trainer<'a> {
    job: &'a Job<'a>,
    session: Session,
    grads: Arena,
    optimizer: AdamW,
    stats: StepStats,
    /// The step that was queued and is not read yet.
    queued: Option<Queued>,
    /// The time when a step was last read.
    read_at: Instant,
    schedule: Schedule,
    dev: Vec<MicroBatch>,
    evaluate_every: u64,
    save_every: u64,
    state: State,
    /// The step of the newest checkpoint.
    saved_step: Option<u64>,
    scratch: Scratch,
    checkpoint_bytes: u64,
    metrics: Option<(JsonlWriter, TensorBoardWriter)>,
}

/// What the host knows of a step as soon as it is queued.
struct Queued {
    step: u64,
    /// Tokens of all steps up to this one.
    tokens_so_far: u64,
    learning_rate: f64,
    rows: Vec<RowRef>,
    begun: Instant,
    totals: StepTotals,
}

impl<'a> Trainer<'a> {
    fn new(
        model: &Decoder,
        loader: &Loader,
        dev: Option<&Loader>,
        job: &'a Job<'a>,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        if matches!(job.options.state, StateFormat::Bf16 { .. }) && model.params.device() == Device::Cpu {
            return Err(TrainError::StateNeedsGpu { why_not_gpu: None });
        }
        let total_steps = loader.total_steps();
        if total_steps == 0 {
            let problem = "its sources hold no row; look at them with `findap data inspect`".to_owned();
            return Err(TrainError::NothingToTrain { stage: job.stage.to_owned(), problem });
        }
        let dev_batches: Vec<MicroBatch> =
            dev.map_or_else(Vec::new, |dev| dev.one_pass(job.options.dev_tokens).collect());
        let (tokens, positions) = loader.limits();
        let dev_tokens = dev_batches.iter().map(|micro| micro.batch.num_tokens()).max().unwrap_or(0);
        let dev_positions = dev.map_or(0, |dev| dev.limits().1);
        let gradients = job.options.state.dtype(model.trained_params().dtype());
        let session = Session::on(
            &model.params.device(),
            &model.config,
            SessionOptions {
                dtype: model.params.dtype(),
                max_tokens: tokens.max(dev_tokens),
                max_positions: positions.max(dev_positions),
                recompute: job.options.recompute,
                gradients: Some(gradients),
                frozen_blocks: model.frozen_blocks(),
                lora: model.lora(),
            },
        )?;
        std::fs::create_dir_all(job.folder).map_err(io("make the folder", job.folder))?;
        let grads = model.zero_gradients_in(gradients)?;
        let optimizer = AdamW::new(model.trained_params(), grads.spec(), job.options.adamw, job.options.state)?;
        let checkpoint_bytes = optimizer.checkpoint_bytes() as u64;
        for prefix in ["checkpoint", "best"] {
            checkpoint::remove_unfinished(job.folder, prefix);
        }
        let arenas = [&model.params, &grads, &optimizer.first_moment, &optimizer.second_moment];
        let adapter = model.lora().map(|_| model.trained_params());
        let arenas = arenas.into_iter().chain(&optimizer.master).chain(adapter).map(|arena| arena.tensor().bytes());
        let memory: usize = session.memory().iter().map(|(_, bytes)| *bytes).chain(arenas).sum();
        observer.event(Event::Note(format!("{}: {total_steps} steps, {} MiB of memory", job.stage, memory >> 20)));
        Ok(Self {
            job,
            session,
            grads,
            optimizer,
            stats: StepStats::new(&model.params.device())?,
            queued: None,
            read_at: Instant::now(),
            schedule: Schedule::new(job.options.schedule, total_steps),
            dev: dev_batches,
            evaluate_every: job.options.evaluate_every_steps.unwrap_or(total_steps.div_ceil(10)).max(1),
            save_every: job.options.save_every_steps.unwrap_or(total_steps.div_ceil(5)).max(1),
            state: State {
                step: 0,
                tokens: 0,
                loader: loader.state(),
                metrics_bytes: 0,
                best: None,
                evaluations_since_best: 0,
                identity: job.identity.clone(),
            },
            saved_step: None,
            scratch: Scratch::default(),
            checkpoint_bytes,
            metrics: None,
        })
    }

    fn resume(
        &mut self,
        model: &mut Decoder,
        loader: &mut Loader,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let mut notes = Vec::new();
        let found = checkpoint::find_latest(self.job.folder, "checkpoint", &mut notes)?;
        notes.into_iter().for_each(|note| observer.event(Event::Note(note)));
        let Some((state, path)) = found else { return Ok(()) };
        let changes = changes(&state.identity, &self.job.identity);
        if !changes.is_empty() {
            return Err(TrainError::Changed {
                folder: self.job.folder.into(),
                stage: self.job.stage.to_owned(),
                changes,
            });
        }
        arrays::load(&path, model.trained_params_mut(), &mut self.optimizer)?;
        loader.seek(state.loader)?;
        observer.event(Event::Note(format!("{}: resuming from {}", self.job.stage, path.display())));
        self.saved_step = Some(state.step);
        self.state = state;
        Ok(())
    }

    fn open_metrics(&mut self) -> Result<(), TrainError> {
        if self.metrics.is_none() && (self.state.step < self.schedule.total_steps() || self.state.step == 0) {
            let lines = JsonlWriter::open(&self.job.folder.join("metrics.jsonl"), self.state.metrics_bytes)?;
            self.metrics = Some((lines, TensorBoardWriter::create(self.job.folder, self.state.step)?));
        }
        Ok(())
    }

    fn row_name(&self, row: RowRef) -> String {
        let source = self.job.sources.get(row.store as usize).map_or("?", String::as_str);
        format!("{source}:{}", row.row + 1)
    }

    fn should_stop_early(&self) -> bool {
        self.job.options.early_stop_patience.is_some_and(|patience| self.state.evaluations_since_best >= patience)
    }

    /// Queues the next step and reads the one before it. On the CPU it reads the new step, too.
    fn step(
        &mut self,
        model: &mut Decoder,
        loader: &mut Loader,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let queued = self.queue_step(model, loader);
        // an error of the step before comes first
        self.settle(observer)?;
        self.queued = Some(queued?);
        if model.params.device() == Device::Cpu {
            self.settle(observer)?;
        }
        Ok(())
    }

    fn queue_step(&mut self, model: &mut Decoder, loader: &mut Loader) -> Result<Queued, TrainError> {
        let begun = Instant::now();
        let Some(Step { micro_batches }) = loader.next_step() else {
            let problem = "its loader ended before its last step".to_owned();
            return Err(TrainError::NothingToTrain { stage: self.job.stage.to_owned(), problem });
        };
        let totals = self.forward_backward(model, &micro_batches)?;
        let learning_rate = self.schedule.learning_rate(self.state.step);
        self.state.step += 1;
        self.state.tokens += totals.tokens as u64;
        self.state.loader = loader.state();
        self.optimizer.step(
            model.trained_params_mut(),
            &self.grads,
            &mut self.stats,
            self.state.step,
            learning_rate,
        )?;
        self.stats.close()?;
        Ok(Queued {
            step: self.state.step,
            tokens_so_far: self.state.tokens,
            learning_rate,
            rows: micro_batches.iter().flat_map(|micro| micro.rows.iter().copied()).collect(),
            begun,
            totals,
        })
    }

    /// Reads the step that was queued last, if it is not read yet; checks that it is finite, and records its metrics.
    fn settle(&mut self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let Some(queued) = self.queued.take() else { return Ok(()) };
        let sums = self.stats.read()?;
        for (what, value) in [("loss", sums.loss), ("gradient", sums.norm())] {
            if !value.is_finite() {
                let rows: Vec<String> = queued.rows.iter().map(|row| self.row_name(*row)).collect();
                let (stage, step) = (self.job.stage.to_owned(), queued.step);
                return Err(TrainError::NonFinite { stage, step, what, rows: rows.join(", ") });
            }
        }
        // until the step before was read, the device was busy with it
        let seconds = queued.begun.max(self.read_at).elapsed().as_secs_f64().max(1e-9);
        self.read_at = Instant::now();
        let tokens_per_s = queued.totals.tokens as f64 / seconds;
        self.record(&queued, sums, tokens_per_s)?;
        observer.event(Event::Step {
            stage: self.job.stage.to_owned(),
            step: queued.step,
            steps: self.schedule.total_steps(),
            loss: sums.loss,
            learning_rate: queued.learning_rate,
            tokens_per_s,
        });
        Ok(())
    }

    /// Computes the gradients of a step, and adds its loss to the step statistics.
    fn forward_backward(&mut self, model: &Decoder, micro_batches: &[MicroBatch]) -> Result<StepTotals, TrainError> {
        self.stats.begin()?;
        reduce::clear(self.grads.tensor_mut())?;
        let totals = StepTotals::of(micro_batches);
        let Self { job, session, scratch, stats, grads, .. } = self;
        for micro in micro_batches {
            let pass = session.forward(model, (&micro.batch).into())?;
            job.objective.backward(pass, micro, &totals, scratch, stats, grads)?;
        }
        Ok(totals)
    }

    fn record(&mut self, queued: &Queued, sums: Sums, tokens_per_s: f64) -> Result<(), TrainError> {
        let Queued { step, tokens_so_far, learning_rate, totals, .. } = queued;
        let mut fields = vec![
            ("step", *step as f64),
            ("loss", sums.loss),
            ("grad_norm", sums.norm()),
            ("lr", *learning_rate),
            ("tokens", *tokens_so_far as f64),
            ("loss_tokens", totals.loss_tokens as f64),
            ("tokens_per_s", tokens_per_s),
        ];
        fields.extend(self.job.objective.loss.metrics(totals, &sums.terms));
        let (lines, board) = self.metrics.as_mut().expect("invariant: opened before the first step");
        lines.write(&fields)?;
        board.write(*step, &fields[1..])
    }

    fn evaluate(&mut self, model: &mut Decoder, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.settle(observer)?;
        let totals = StepTotals::of(&self.dev);
        self.stats.begin()?;
        let Self { job, session, scratch, stats, dev, .. } = self;
        for micro in dev.iter() {
            let pass = session.forward(model, (&micro.batch).into())?;
            job.objective.add_dev_loss(pass, micro, &totals, scratch, stats)?;
        }
        self.stats.close()?;
        let loss = self.stats.read()?.loss;
        let is_best = loss.is_finite() && self.state.best.is_none_or(|(_, best)| loss < best);
        let (lines, board) = self.metrics.as_mut().expect("invariant: opened before the first step");
        lines.write(&[("step", self.state.step as f64), ("dev_loss", loss)])?;
        board.write(self.state.step, &[("dev_loss", loss)])?;
        if is_best {
            self.state.best = Some((self.state.step, loss));
            self.state.evaluations_since_best = 0;
            arrays::save_best(self.job.folder, &self.state, model.trained_params(), self.optimizer.trained())?;
        } else {
            self.state.evaluations_since_best += 1;
        }
        observer.event(Event::DevLoss { stage: self.job.stage.to_owned(), step: self.state.step, loss, is_best });
        Ok(())
    }

    fn save(&mut self, model: &Decoder, loader: &Loader, observer: &mut dyn Observer) -> Result<(), TrainError> {
        self.settle(observer)?;
        if self.saved_step == Some(self.state.step) {
            return Ok(());
        }
        folder::require_space(self.job.folder, self.checkpoint_bytes)?;
        let (lines, board) = self.metrics.as_mut().expect("invariant: opened before the first step");
        self.state.metrics_bytes = lines.sync()?;
        board.sync()?;
        self.state.loader = loader.state();
        let keep = self.job.options.keep_checkpoints;
        arrays::save(self.job.folder, &self.state, model.trained_params(), &self.optimizer, keep)?;
        self.saved_step = Some(self.state.step);
        observer.event(Event::Saved { stage: self.job.stage.to_owned(), step: self.state.step });
        Ok(())
    }

    /// Puts the weights of the lowest dev loss into the model.
    fn restore_best(&self, model: &mut Decoder) -> Result<(), TrainError> {
        if let Some((step, _)) = self.state.best.filter(|(step, _)| *step != self.state.step) {
            let path = self.job.folder.join(format!("best-{step}"));
            arrays::load_best(&path, model.trained_params_mut(), self.optimizer.trained())?;
        }
        Ok(())
    }
}
