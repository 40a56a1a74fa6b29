//! Optimizer steps from packed rows.
//!
//! A *row* is what stays together: one document, the documents of a row that was packed elsewhere, or the two answers of a
//! preference pair. Rows are packed into *contexts* once, without cutting any; contexts are ordered anew in each epoch and fill
//! optimizer steps, which are divided into micro-batches. The order follows from (seed, phase, epoch) alone, so a position is a small
//! value ([`LoaderState`]) whatever the number of threads. A step never reaches into the next epoch, so an epoch's last may be smaller.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::DataError;
use crate::mixture::RowRef;
use crate::packer::{Strategy, pack};
use crate::shuffle::permutation;
use crate::store::TokenStore;

/// What one optimizer step, or one forward and backward pass, holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// At most so many tokens, and at least one context.
    Tokens(usize),
    /// So many contexts.
    Contexts(usize),
}

/// How long a stage is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Passes over the data.
    Epochs(f64),
    /// Tokens seen.
    Tokens(u64),
    /// Optimizer steps.
    Steps(u64),
}

/// How steps are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderOptions {
    /// Longest context in tokens.
    pub context_tokens: usize,
    /// What an optimizer step holds.
    pub batch: Fill,
    /// What a micro-batch holds.
    pub micro_batch: Fill,
    /// How contexts are filled; `None`: each row is a context of its own. Rows that a source gave are never packed with others.
    pub packing: Option<Strategy>,
    /// Decides the order of contexts.
    pub seed: u64,
    /// Whether contexts are shuffled.
    pub is_shuffled: bool,
    /// When the last step is.
    pub length: Length,
}

/// Where a loader stands; saved in every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LoaderState {
    /// The phase, from 0.
    pub phase: usize,
    /// Steps of this phase so far, over all its epochs.
    pub phase_steps: u64,
    /// Whole passes over the phase so far.
    pub epoch: u64,
    /// Steps of this epoch so far.
    pub epoch_steps: u64,
}

/// What is passed through the model at once.
#[derive(Debug, Clone, PartialEq)]
pub struct MicroBatch {
    /// The documents.
    pub batch: Batch,
    /// The rows they came from, in order.
    pub rows: Vec<RowRef>,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is passed through the model at once.
    pub micro_batches: Vec<MicroBatch>,
}

impl Step {
    /// Tokens of all micro-batches.
    pub fn num_tokens(&self) -> usize {
        self.micro_batches.iter().map(|micro| micro.batch.num_tokens()).sum()
    }

    /// Loss-bearing tokens of all micro-batches: what the loss is divided by.
    pub fn num_loss_tokens(&self) -> usize {
        self.micro_batches.iter().map(|micro| micro.batch.num_loss_tokens()).sum()
    }
}

/// Rows packed together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    rows: Vec<RowRef>,
    tokens: usize,
}

#[derive(Debug)]
struct Phase {
    contexts: Vec<Context>,
    steps: u64,
}

/// The order of one epoch of one phase: for each step, its contexts.
#[derive(Debug)]
struct EpochPlan {
    phase: usize,
    epoch: u64,
    steps: Vec<Vec<u32>>,
}

/// Yields the optimizer steps of a stage.
#[derive(Debug)]
pub struct Loader {
    stores: Vec<Arc<TokenStore>>,
    phases: Vec<Phase>,
    options: LoaderOptions,
    state: LoaderState,
    plan: Option<EpochPlan>,
}

impl Loader {
    /// Packs the rows of each phase into contexts.
    ///
    /// # Errors
    /// [`DataError::BadOption`] if a size is zero, the length is not positive, or a row is longer than the context.
    pub fn new(
        stores: Vec<Arc<TokenStore>>,
        phases: &[Vec<RowRef>],
        options: LoaderOptions,
    ) -> Result<Loader, DataError> {
        let positive = |option: &'static str, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(DataError::BadOption { option, got: value.to_string(), want: "above 0".into() })
        };
        positive("context_tokens", options.context_tokens as f64)?;
        for (option, fill) in [("batch", options.batch), ("micro_batch", options.micro_batch)] {
            let (Fill::Tokens(size) | Fill::Contexts(size)) = fill;
            positive(option, size as f64)?;
        }
        match options.length {
            Length::Epochs(epochs) => positive("epochs", epochs)?,
            Length::Tokens(tokens) => positive("tokens", tokens as f64)?,
            Length::Steps(steps) => positive("steps", steps as f64)?,
        }
        let contexts = phases
            .iter()
            .enumerate()
            .map(|(phase, rows)| {
                let mut rows = rows.clone();
                if options.is_shuffled {
                    // Sources and lengths are mixed before rows are packed: a context is a small sample of the phase.
                    let order = permutation(rows.len(), options.seed, !(phase as u64));
                    rows = order.into_iter().map(|at| rows[at as usize]).collect();
                }
                contexts_of(&stores, &rows, options.context_tokens, options.packing)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let phases = contexts.into_iter().filter(|contexts| !contexts.is_empty());
        let phases = phases.map(|contexts| Phase { contexts, steps: 0 }).collect();
        let mut loader = Loader { stores, phases, options, state: LoaderState::default(), plan: None };
        loader.share_out_steps();
        Ok(loader)
    }

    /// Gives each phase its steps: by epochs, or in proportion to the tokens it has.
    fn share_out_steps(&mut self) {
        let steps: Vec<f64> =
            (0..self.phases.len()).map(|phase| self.plan_epoch(phase, 0).steps.len() as f64).collect();
        let tokens: f64 =
            self.phases.iter().flat_map(|phase| &phase.contexts).map(|context| context.tokens as f64).sum();
        let epoch_steps: f64 = steps.iter().sum();
        let epochs = match self.options.length {
            Length::Epochs(epochs) => epochs,
            Length::Tokens(wanted) => wanted as f64 / tokens.max(1.0),
            Length::Steps(wanted) => wanted as f64 / epoch_steps.max(1.0),
        };
        // A product that is whole but for rounding must not become one step more.
        let rounded_up = |steps: f64| (steps - 1e-9).ceil() as u64;
        // A number of steps is met exactly: rounded where each phase ends. Otherwise each phase is rounded, so that none is lost.
        let is_exact = matches!(self.options.length, Length::Steps(_));
        let (mut share, mut end) = (0.0, 0);
        for (phase, steps) in self.phases.iter_mut().zip(steps) {
            share += steps;
            phase.steps = if is_exact { rounded_up(epochs * share) - end } else { rounded_up(epochs * steps) };
            end += phase.steps;
        }
    }

    /// Contexts in one pass over the data.
    pub fn num_contexts(&self) -> usize {
        self.phases.iter().map(|phase| phase.contexts.len()).sum()
    }

    /// Part of the contexts' space that holds tokens, in 0..=1.
    pub fn fill(&self) -> f64 {
        let num_tokens: usize =
            self.phases.iter().flat_map(|phase| &phase.contexts).map(|context| context.tokens).sum();
        num_tokens as f64 / (self.num_contexts() * self.options.context_tokens).max(1) as f64
    }

    /// Optimizer steps of one pass over the data.
    pub fn epoch_steps(&self) -> u64 {
        (0..self.phases.len()).map(|phase| self.plan_epoch(phase, 0).steps.len() as u64).sum()
    }

    /// Optimizer steps of the whole length.
    pub fn total_steps(&self) -> u64 {
        self.phases.iter().map(|phase| phase.steps).sum()
    }

    /// Tokens of the largest micro-batch and of the longest document that any epoch can give: what buffers are made for.
    pub fn limits(&self) -> (usize, usize) {
        let contexts = || self.phases.iter().flat_map(|phase| &phase.contexts);
        let largest = contexts().map(|context| context.tokens).max().unwrap_or(0);
        let all: usize = contexts().map(|context| context.tokens).sum();
        let limit = |fill| match fill {
            Fill::Tokens(tokens) => largest.max(tokens),
            Fill::Contexts(contexts) => largest.saturating_mul(contexts),
        };
        let documents = contexts().flat_map(|context| &context.rows).flat_map(|row| {
            let store = &self.stores[row.store as usize];
            store.row(row.row as usize).map(|document| store.document_len(document))
        });
        let longest = documents.max().unwrap_or(0);
        (limit(self.options.micro_batch).min(limit(self.options.batch)).min(all), longest)
    }

    /// The next optimizer step, or `None` at the end.
    pub fn next_step(&mut self) -> Option<Step> {
        while self.state.phase_steps >= self.phases.get(self.state.phase)?.steps {
            if self.state.phase + 1 == self.phases.len() {
                return None;
            }
            self.state = LoaderState { phase: self.state.phase + 1, ..LoaderState::default() };
        }
        if self.state.epoch_steps >= self.current_plan().len() as u64 {
            self.state.epoch += 1;
            self.state.epoch_steps = 0;
        }
        let next = self.state.epoch_steps as usize;
        let contexts = self.current_plan()[next].clone();
        self.state.epoch_steps += 1;
        self.state.phase_steps += 1;
        let contexts: Vec<&Context> =
            contexts.iter().map(|index| &self.phases[self.state.phase].contexts[*index as usize]).collect();
        let groups = grouped(contexts, |context| context.tokens, self.options.micro_batch);
        Some(Step { micro_batches: groups.iter().map(|group| self.micro_batch(group)).collect() })
    }

    /// All contexts once, in the order of the first epoch, at most about `max_tokens` tokens of them: for the dev loss. Each
    /// micro-batch is made when it is asked for.
    pub fn one_pass(&self, max_tokens: usize) -> impl Iterator<Item = MicroBatch> {
        let mut contexts = self.contexts_in_order();
        contexts.truncate(Loader::num_taken(&contexts, max_tokens));
        let groups = grouped(contexts, |context| context.tokens, self.options.micro_batch);
        groups.into_iter().map(|group| self.micro_batch(&group))
    }

    /// The rows that no step comes to, because the length is below one pass over the data.
    pub fn rows_not_reached(&self) -> Vec<RowRef> {
        let of_phase = |(number, phase): (usize, &Phase)| {
            let steps = self.plan_epoch(number, 0).steps.into_iter().skip(phase.steps as usize);
            let rows = move |context: u32| phase.contexts[context as usize].rows.clone();
            steps.flatten().flat_map(rows).collect::<Vec<_>>()
        };
        self.phases.iter().enumerate().flat_map(of_phase).collect()
    }

    /// The rows that [`Loader::one_pass`] of at most `max_tokens` tokens leaves out.
    pub fn rows_beyond(&self, max_tokens: usize) -> Vec<RowRef> {
        let contexts = self.contexts_in_order();
        let num_taken = Loader::num_taken(&contexts, max_tokens);
        contexts[num_taken..].iter().flat_map(|context| context.rows.iter().copied()).collect()
    }

    /// Where the loader stands.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Goes to a saved place.
    ///
    /// # Errors
    /// [`DataError::BadOption`] if the state lies beyond the end: it belongs to other data or another length.
    pub fn seek(&mut self, state: LoaderState) -> Result<(), DataError> {
        let phase_steps = self.phases.get(state.phase).map_or(0, |phase| phase.steps);
        if state.phase_steps > phase_steps || state.epoch_steps > state.phase_steps {
            return Err(DataError::BadOption {
                option: "length",
                got: format!("{} steps in phase {}", phase_steps, state.phase + 1),
                want: format!("at least the {} steps that were taken", state.phase_steps),
            });
        }
        self.state = state;
        Ok(())
    }

    /// All contexts in the order of the first epoch.
    fn contexts_in_order(&self) -> Vec<&Context> {
        let of_phase = |phase: usize| {
            let contexts = &self.phases[phase].contexts;
            self.order(phase, 0).into_iter().map(move |index| &contexts[index as usize])
        };
        (0..self.phases.len()).flat_map(of_phase).collect()
    }

    /// How many of these contexts begin before `max_tokens` tokens.
    fn num_taken(contexts: &[&Context], max_tokens: usize) -> usize {
        let begins = contexts.iter().scan(0, |tokens: &mut usize, context| {
            let begin = *tokens;
            *tokens += context.tokens;
            Some(begin)
        });
        begins.take_while(|begin| *begin < max_tokens).count()
    }

    /// The steps of the epoch the state is in.
    fn current_plan(&mut self) -> &[Vec<u32>] {
        let (phase, epoch) = (self.state.phase, self.state.epoch);
        let plan = match self.plan.take() {
            Some(plan) if (plan.phase, plan.epoch) == (phase, epoch) => plan,
            _ => self.plan_epoch(phase, epoch),
        };
        &self.plan.insert(plan).steps
    }

    /// The contexts of a phase as an epoch sees them.
    fn order(&self, phase: usize, epoch: u64) -> Vec<u32> {
        let num_contexts = self.phases[phase].contexts.len();
        if self.options.is_shuffled {
            permutation(num_contexts, self.options.seed, ((phase as u64 + 1) << 40) | epoch)
        } else {
            (0..num_contexts as u32).collect()
        }
    }

    fn plan_epoch(&self, phase: usize, epoch: u64) -> EpochPlan {
        let contexts = &self.phases[phase].contexts;
        let order = self.order(phase, epoch);
        let steps = grouped(order, |index| contexts[*index as usize].tokens, self.options.batch);
        EpochPlan { phase, epoch, steps }
    }

    fn micro_batch(&self, contexts: &[&Context]) -> MicroBatch {
        let mut micro = MicroBatch { batch: Batch::new(), rows: Vec::new() };
        let mut mask = Vec::new();
        for row in contexts.iter().flat_map(|context| &context.rows) {
            let store = &self.stores[row.store as usize];
            for document in store.row(row.row as usize) {
                store.mask(document, &mut mask);
                micro.batch.push_document(store.ids(document), &mask);
            }
            micro.rows.push(*row);
        }
        micro
    }
}

/// Cuts `items` into runs that hold what `fill` says.
fn grouped<T>(items: impl IntoIterator<Item = T>, tokens_of: impl Fn(&T) -> usize, fill: Fill) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut tokens = 0;
    for item in items {
        let more = tokens_of(&item);
        let group = groups.last_mut().filter(|group| match fill {
            Fill::Contexts(contexts) => group.len() < contexts,
            Fill::Tokens(limit) => tokens + more <= limit,
        });
        match group {
            Some(group) => {
                group.push(item);
                tokens += more;
            }
            None => {
                groups.push(vec![item]);
                tokens = more;
            }
        }
    }
    groups
}

/// Packs rows; those that a source gave are kept, whole and in order, before the others.
fn contexts_of(
    stores: &[Arc<TokenStore>],
    rows: &[RowRef],
    context_tokens: usize,
    packing: Option<Strategy>,
) -> Result<Vec<Context>, DataError> {
    let tokens_of = |row: &RowRef| stores[row.store as usize].row_tokens(row.row as usize);
    let is_given = |row: &&RowRef| packing.is_none() || stores[row.store as usize].has_given_rows();
    let given = rows.iter().filter(is_given).map(|row| Context { rows: vec![*row], tokens: tokens_of(row) });
    let mut contexts: Vec<Context> = given.collect();
    let loose: Vec<RowRef> = rows.iter().filter(|row| !is_given(row)).copied().collect();
    let lengths: Vec<usize> = loose.iter().map(tokens_of).collect();
    for members in pack(&lengths, context_tokens, packing.unwrap_or_default())? {
        let rows: Vec<RowRef> = members.into_iter().map(|index| loose[index as usize]).collect();
        contexts.push(Context { tokens: rows.iter().map(tokens_of).sum(), rows });
    }
    Ok(contexts)
}

/// Every row of the stores.
pub fn all_rows(stores: &[Arc<TokenStore>]) -> Vec<RowRef> {
    let of_store = |(store, rows): (usize, usize)| (0..rows as u32).map(move |row| RowRef { store: store as u32, row });
    stores.iter().map(|store| store.num_rows()).enumerate().flat_map(of_store).collect()
}

#[cfg(test)]
mod tests;
