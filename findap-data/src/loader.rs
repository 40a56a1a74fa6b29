//! Optimizer steps from packed rows.
//!
//! Which rows a step holds is a function of the seed and the step's position alone, so a run is continued by one small
//! value. Rows are shuffled anew in each epoch.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::error::DataError;
use crate::mixture::DocumentRef;
use crate::packer::{Strategy, pack};
use crate::shuffle::permutation;
use crate::store::TokenStore;

/// How steps are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderOptions {
    /// Longest row in tokens.
    pub context_tokens: usize,
    /// Tokens of one optimizer step; `batch_tokens / context_tokens` rows, at least one.
    pub batch_tokens: usize,
    /// Tokens of one forward and backward pass; `micro_batch_tokens / context_tokens` rows, at least one.
    pub micro_batch_tokens: usize,
    /// How rows are filled.
    pub strategy: Strategy,
    /// Decides the order of rows.
    pub seed: u64,
    /// Whether rows are shuffled; packed sources whose order matters are not.
    pub is_shuffled: bool,
    /// How often the data are seen.
    pub epochs: f64,
}

/// Where a loader stands; saved in every checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// Whole passes over the data so far.
    pub epoch: u64,
    /// Rows taken since the start.
    pub position: u64,
    /// The seed of the order.
    pub seed: u64,
}

/// One optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What is passed through the model at once.
    pub micro_batches: Vec<Batch>,
}

impl Step {
    /// Tokens of all micro-batches.
    pub fn num_tokens(&self) -> usize {
        self.micro_batches.iter().map(Batch::num_tokens).sum()
    }

    /// Loss-bearing tokens of all micro-batches: what the loss is divided by.
    pub fn num_loss_tokens(&self) -> usize {
        self.micro_batches.iter().map(Batch::num_loss_tokens).sum()
    }
}

/// Yields the optimizer steps of a stage.
#[derive(Debug)]
pub struct Loader {
    stores: Vec<Arc<TokenStore>>,
    /// Rows of each phase.
    phases: Vec<Vec<Vec<DocumentRef>>>,
    options: LoaderOptions,
    position: u64,
    /// The permutation in use: (phase, epoch, order).
    order: Option<(usize, u64, Vec<u32>)>,
}

impl Loader {
    /// Packs the documents of each phase into rows.
    ///
    /// # Errors
    /// [`DataError::BadOption`] if a size is zero, epochs are not positive, or a document is longer than the context.
    pub fn new(
        stores: Vec<Arc<TokenStore>>,
        phases: &[Vec<DocumentRef>],
        options: LoaderOptions,
    ) -> Result<Loader, DataError> {
        let positive = |option: &'static str, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            Err(DataError::BadOption { option, got: value.to_string(), want: "above 0".into() })
        };
        positive("context_tokens", options.context_tokens as f64)?;
        positive("batch_tokens", options.batch_tokens as f64)?;
        positive("micro_batch_tokens", options.micro_batch_tokens as f64)?;
        positive("epochs", options.epochs)?;
        let rows = phases
            .iter()
            .map(|documents| rows_of(&stores, documents, options.context_tokens, options.strategy))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Loader { stores, phases: rows, options, position: 0, order: None })
    }

    /// Rows in one pass over the data.
    pub fn num_rows(&self) -> usize {
        self.phases.iter().map(Vec::len).sum()
    }

    /// Part of the rows' space that holds tokens, in 0..=1.
    pub fn fill(&self) -> f64 {
        let num_tokens: usize = self.phases.iter().flatten().flatten().map(|at| self.len_of(*at)).sum();
        num_tokens as f64 / (self.num_rows() * self.options.context_tokens).max(1) as f64
    }

    /// Rows of one optimizer step.
    pub fn rows_per_step(&self) -> usize {
        (self.options.batch_tokens / self.options.context_tokens).max(1)
    }

    /// Optimizer steps of all epochs; the last may hold fewer rows.
    pub fn total_steps(&self) -> u64 {
        self.total_rows().div_ceil(self.rows_per_step() as u64)
    }

    /// Optimizer steps taken.
    pub fn steps_taken(&self) -> u64 {
        self.position.div_ceil(self.rows_per_step() as u64)
    }

    /// The next optimizer step, or `None` when all epochs are done.
    pub fn next_step(&mut self) -> Option<Step> {
        let rows_per_micro_batch = (self.options.micro_batch_tokens / self.options.context_tokens).max(1);
        let end = (self.position + self.rows_per_step() as u64).min(self.total_rows());
        if self.position >= end {
            return None;
        }
        let mut micro_batches = Vec::new();
        while self.position < end {
            let num_rows = rows_per_micro_batch.min((end - self.position) as usize);
            let mut batch = Batch::new();
            for _ in 0..num_rows {
                let (phase, row) = self.row_at(self.position);
                push_row(&self.stores, &self.phases[phase][row], &mut batch);
                self.position += 1;
            }
            micro_batches.push(batch);
        }
        Some(Step { micro_batches })
    }

    /// Where the loader stands.
    pub fn state(&self) -> LoaderState {
        LoaderState {
            epoch: self.position / (self.num_rows() as u64).max(1),
            position: self.position,
            seed: self.options.seed,
        }
    }

    /// Continues from a saved place.
    ///
    /// # Errors
    /// [`DataError::BadOption`] if the state belongs to another seed or lies beyond the end.
    pub fn seek(&mut self, state: LoaderState) -> Result<(), DataError> {
        if state.seed != self.options.seed {
            return Err(DataError::BadOption {
                option: "seed",
                got: self.options.seed.to_string(),
                want: format!("{}, the seed of the run that is continued", state.seed),
            });
        }
        if state.position > self.total_rows() {
            return Err(DataError::BadOption {
                option: "epochs",
                got: self.options.epochs.to_string(),
                want: format!("large enough for the {} rows already taken", state.position),
            });
        }
        self.position = state.position;
        Ok(())
    }

    fn total_rows(&self) -> u64 {
        (0..self.phases.len()).map(|phase| self.phase_rows(phase)).sum()
    }

    fn phase_rows(&self, phase: usize) -> u64 {
        (self.phases[phase].len() as f64 * self.options.epochs).ceil() as u64
    }

    fn len_of(&self, at: DocumentRef) -> usize {
        self.stores[at.store as usize].document_len(at.document as usize)
    }

    /// Phase and row at a position of the whole run.
    fn row_at(&mut self, position: u64) -> (usize, usize) {
        let mut rest = position;
        let mut phase = 0;
        while rest >= self.phase_rows(phase) {
            rest -= self.phase_rows(phase);
            phase += 1;
        }
        let num_rows = self.phases[phase].len() as u64;
        let (epoch, index) = (rest / num_rows, (rest % num_rows) as usize);
        if !self.options.is_shuffled {
            return (phase, index);
        }
        let is_current = self.order.as_ref().is_some_and(|(p, e, _)| (*p, *e) == (phase, epoch));
        if !is_current {
            let stream = ((phase as u64 + 1) << 40) | epoch;
            self.order = Some((phase, epoch, permutation(num_rows as usize, self.options.seed, stream)));
        }
        let order = &self.order.as_ref().expect("invariant: set above").2;
        (phase, order[index] as usize)
    }
}

/// Every document once, in order, for measuring a loss: batches of at most `micro_batch_tokens` (or one row).
///
/// # Errors
/// As [`Loader::new`].
pub fn evaluation_batches(
    stores: &[Arc<TokenStore>],
    documents: &[DocumentRef],
    context_tokens: usize,
    micro_batch_tokens: usize,
) -> Result<Vec<Batch>, DataError> {
    let rows = rows_of(stores, documents, context_tokens, Strategy::BestFit)?;
    let rows_per_batch = (micro_batch_tokens / context_tokens.max(1)).max(1);
    Ok(rows
        .chunks(rows_per_batch)
        .map(|rows| {
            let mut batch = Batch::new();
            for row in rows {
                push_row(stores, row, &mut batch);
            }
            batch
        })
        .collect())
}

/// Every document of the stores.
pub fn all_documents(stores: &[Arc<TokenStore>]) -> Vec<DocumentRef> {
    let of_store = |(store, documents): (usize, usize)| {
        (0..documents as u32).map(move |document| DocumentRef { store: store as u32, document })
    };
    stores.iter().map(|store| store.num_documents()).enumerate().flat_map(of_store).collect()
}

/// Packs documents; rows that a source gave are kept, whole and in order, before the others.
fn rows_of(
    stores: &[Arc<TokenStore>],
    documents: &[DocumentRef],
    context_tokens: usize,
    strategy: Strategy,
) -> Result<Vec<Vec<DocumentRef>>, DataError> {
    let mut rows = Vec::new();
    let mut loose = Vec::new();
    for (index, store) in stores.iter().enumerate() {
        let of_store: Vec<DocumentRef> = documents.iter().copied().filter(|at| at.store as usize == index).collect();
        let mut given = store.given_rows().peekable();
        if given.peek().is_none() {
            loose.extend(of_store);
            continue;
        }
        let wanted: std::collections::HashSet<u32> = of_store.iter().map(|at| at.document).collect();
        for range in given {
            let row: Vec<DocumentRef> = range
                .map(|document| document as u32)
                .filter(|document| wanted.contains(document))
                .map(|document| DocumentRef { store: index as u32, document })
                .collect();
            if !row.is_empty() {
                rows.push(row);
            }
        }
    }
    let lengths: Vec<usize> =
        loose.iter().map(|at| stores[at.store as usize].document_len(at.document as usize)).collect();
    for row in pack(&lengths, context_tokens, strategy)? {
        rows.push(row.into_iter().map(|index| loose[index as usize]).collect());
    }
    Ok(rows)
}

fn push_row(stores: &[Arc<TokenStore>], row: &[DocumentRef], batch: &mut Batch) {
    let mut mask = Vec::new();
    for at in row {
        let store = &stores[at.store as usize];
        store.mask(at.document as usize, &mut mask);
        batch.push_document(store.ids(at.document as usize), &mask);
    }
}

#[cfg(test)]
mod tests;
