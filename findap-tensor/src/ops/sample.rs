//! Tokens from logits: drawn, or scored.

pub use findap_kernels::sample::Sampling;
use findap_kernels::sample::{self, cuda};
use findap_kernels::{Dtype, check};

use crate::columns::Columns;
use crate::device::Device;
use crate::error::TensorError;
use crate::tensor::{Tensor, ViewMut};

/// Rows of logits and the answers computed from them. On a device the logits stay there; one copy brings the answers of all rows.
#[derive(Debug)]
pub struct Logits {
    /// `[rows, v]`; on a device, rows begin at multiples of 8 numbers.
    elements: Tensor,
    vocab: usize,
    tokens: Vec<u32>,
    logp: Vec<f64>,
    placed: Option<Placed>,
}

/// A token and a log-probability for each row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answers<'a> {
    /// `[rows]`.
    pub tokens: &'a [u32],
    /// `[rows]`, natural logarithms.
    pub logp: &'a [f64],
}

/// Numbers by row in the memory of a device.
#[derive(Debug)]
struct Placed {
    columns: Columns,
    /// Host memory for numbers on their way to or from the device.
    staging: Vec<u32>,
}

#[derive(Clone, Copy)]
enum Column {
    Tokens,
    Logp,
    Uniform,
    Targets,
}

/// The largest f32 below 1.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

impl Logits {
    /// Makes room for `max_rows` rows in the memory of `device`, where `dtype` is f32 unless it is the CPU.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(device: &Device, dtype: Dtype, max_rows: usize, vocab: usize) -> Result<Logits, TensorError> {
        let columns = if *device == Device::Cpu { vocab } else { vocab.next_multiple_of(8) };
        let placed = match device {
            Device::Cpu => None,
            Device::Cuda(cuda) => {
                let columns = Columns::new(cuda, "choices of tokens", 4, max_rows)?;
                let staging = vec![0; 2 * columns.stride()];
                Some(Placed { columns, staging })
            }
        };
        Ok(Logits {
            elements: Tensor::zeros_on(device, "logits", dtype, max_rows, columns)?,
            vocab,
            tokens: vec![0; max_rows],
            logp: vec![0.0; max_rows],
            placed,
        })
    }

    /// How many rows there is room for.
    pub fn max_rows(&self) -> usize {
        self.elements.num_rows()
    }

    /// The first `n` rows, to be written.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn rows_mut(&mut self, n: usize) -> ViewMut<'_> {
        self.elements.rows_mut(n)
    }

    /// Draws a token for each of the first rows, by its own settings and uniform number in [0, 1). The log-probabilities are those
    /// under the unmodified logits. A device rounds the number to f32 and weights to 2^-40: next to the border between two
    /// tokens it may choose the other one.
    ///
    /// # Errors
    /// As [`sample::sample`]; [`TensorError::Cuda`], also for an earlier op that failed on the device.
    pub fn draw(&mut self, samplings: &[Sampling], uniform: &[f64]) -> Result<Answers<'_>, TensorError> {
        let n = samplings.len();
        check::length("sample::draw", "uniform", uniform.len(), n)?;
        let Some(placed) = &mut self.placed else {
            sample::sample_rows(self.on_host(n), samplings, uniform)?;
            return Ok(self.answers(n));
        };
        placed.staging.iter_mut().zip(uniform).for_each(|(x, &u)| *x = (u as f32).min(BELOW_ONE).to_bits());
        placed.columns.write(Column::Uniform as usize, bytemuck::cast_slice(&placed.staging[..n]))?;
        let mut start = 0;
        for alike in samplings.chunk_by(|a, b| a == b) {
            self.launch(start, alike.len(), alike[0], false)?;
            start += alike.len();
        }
        self.read(n)
    }

    /// Computes the log-probability of a given token for each of the first rows, and the most probable token.
    ///
    /// # Errors
    /// As [`sample::score_tokens`]; [`TensorError::Cuda`], also for an earlier op that failed on the device.
    pub fn score_tokens(&mut self, targets: &[u32]) -> Result<Answers<'_>, TensorError> {
        let n = targets.len();
        let Some(placed) = &mut self.placed else {
            sample::score_rows(self.on_host(n), targets)?;
            return Ok(self.answers(n));
        };
        check::ids("sample::rate", "targets", targets, self.vocab)?;
        placed.columns.write(Column::Targets as usize, bytemuck::cast_slice(targets))?;
        self.launch(0, n, Sampling::GREEDY, true)?;
        self.read(n)
    }

    /// The first `n` rows of logits in this process's memory, with room for their answers.
    fn on_host(&mut self, n: usize) -> sample::Rows<'_> {
        let logits = self.elements.slice().sub(0..n * self.vocab);
        sample::Rows { tokens: &mut self.tokens[..n], logp: &mut self.logp[..n], logits }
    }

    fn launch(&self, start: usize, rows: usize, sampling: Sampling, has_targets: bool) -> Result<(), TensorError> {
        let placed = self.placed.as_ref().expect("invariant: on a device only");
        let (columns, pitch) = (&placed.columns, self.elements.columns());
        let device = columns.cuda();
        let logits = self.elements.part(start * pitch, rows, pitch).on(device)?;
        device.run(&[cuda::sample(&cuda::Sample {
            tokens: columns.indices(Column::Tokens as usize, start, rows),
            logp: columns.operand(Column::Logp as usize, start, rows),
            logits,
            uniform: columns.operand(Column::Uniform as usize, start, rows),
            targets: has_targets.then(|| columns.indices(Column::Targets as usize, start, rows)),
            vocab: self.vocab,
            pitch,
            sampling,
        })?])
    }

    /// Copies the answers from the device.
    fn read(&mut self, n: usize) -> Result<Answers<'_>, TensorError> {
        let placed = self.placed.as_mut().expect("invariant: on a device only");
        // tokens and log-probabilities are the first two columns
        placed.columns.read(Column::Tokens as usize, bytemuck::cast_slice_mut(&mut placed.staging))?;
        let (tokens, logp) = placed.staging.split_at(placed.columns.stride());
        self.tokens[..n].copy_from_slice(&tokens[..n]);
        self.logp.iter_mut().zip(&logp[..n]).for_each(|(y, &x)| *y = f64::from(f32::from_bits(x)));
        Ok(self.answers(n))
    }

    fn answers(&self, n: usize) -> Answers<'_> {
        Answers { tokens: &self.tokens[..n], logp: &self.logp[..n] }
    }
}
