//! The head and its loss.

use findap_kernels::cross_entropy::cuda::{Pass, Soften, soften};
use findap_kernels::cross_entropy::{self, Backward, Forward};
pub use findap_kernels::cross_entropy::{IGNORE, MAX_CHUNK_ROWS, Sizes};
use findap_kernels::cuda::{Indices, Operand};
use findap_kernels::matmul::cuda::{Matrix, Product};
use findap_kernels::{Dtype, Write, check, reduce};

use crate::device::{Cuda, Device, Memory};
use crate::error::TensorError;
use crate::ops::linear::Weight;
use crate::tensor::{View, ViewMut};

/// What the head says of each token: log-probabilities of the targets, and the log of the sum of exponentials that the backward
/// pass needs. In f64 on the CPU, in f32 on a device.
#[derive(Debug)]
pub struct Scores {
    logp: Vec<f64>,
    lse: Vec<f64>,
    total: f64,
    placed: Option<Placed>,
}

/// Numbers by token in the memory of a device, behind one f64, the total.
#[derive(Debug)]
struct Placed {
    memory: Memory,
    max_tokens: usize,
    /// For numbers on their way.
    staging: Vec<f32>,
}

#[derive(Clone, Copy)]
enum Column {
    Logp,
    Lse,
    Weights,
    Targets,
}

const TOTAL_BYTES: usize = 16;

impl Placed {
    /// Bytes from the start of the memory.
    fn offset(&self, column: Column) -> usize {
        TOTAL_BYTES + 4 * self.max_tokens.next_multiple_of(4) * column as usize
    }

    fn address(&self, column: Column) -> u64 {
        self.memory.address() + self.offset(column) as u64
    }

    fn operand(&self, column: Column, start: usize, len: usize) -> Operand {
        Operand { address: self.address(column) + 4 * start as u64, len, dtype: Dtype::F32 }
    }
}

impl Scores {
    /// For at most `max_tokens` tokens whose hidden states lie on `device`; there, makes room for a chunk of logits, too.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(device: &Device, max_tokens: usize, sizes: Sizes) -> Result<Scores, TensorError> {
        let Device::Cuda(cuda) = device else {
            return Ok(Scores { logp: vec![0.0; max_tokens], lse: vec![0.0; max_tokens], total: 0.0, placed: None });
        };
        cuda.with_scratch(device_scratch_bytes(sizes), |_| Ok(()))?;
        let bytes = TOTAL_BYTES + 4 * 4 * max_tokens.next_multiple_of(4);
        let mut memory = cuda.allocate("log-probabilities", bytes)?;
        memory.clear()?;
        let placed = Some(Placed { memory, max_tokens, staging: vec![0.0; max_tokens] });
        Ok(Scores { logp: vec![0.0; max_tokens], lse: Vec::new(), total: 0.0, placed })
    }

    /// The log-probabilities of the last `n` targets given; 0 where there is no loss. From a device, after everything queued so
    /// far.
    ///
    /// # Errors
    /// [`TensorError::Cuda`], also for an earlier op that failed on the device.
    pub fn read(&mut self, n: usize) -> Result<&[f64], TensorError> {
        if let Some(placed) = &mut self.placed {
            let offset = placed.offset(Column::Logp);
            placed.memory.read(offset, bytemuck::cast_slice_mut(&mut placed.staging[..n]))?;
            self.logp.iter_mut().zip(&placed.staging[..n]).for_each(|(logp, &x)| *logp = f64::from(x));
        }
        Ok(&self.logp[..n])
    }

    /// Adds the mean of the last `n` log-probabilities over `divisor` tokens to the total; on a device, without waiting for it.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    pub fn add_to_total(&mut self, n: usize, divisor: f64) -> Result<(), TensorError> {
        let Some(placed) = &self.placed else {
            self.total += self.logp[..n].iter().sum::<f64>() / divisor;
            return Ok(());
        };
        let total = Operand { address: placed.memory.address(), len: 1, dtype: Dtype::F64 };
        let logp = placed.operand(Column::Logp, 0, n);
        placed.memory.cuda().run(&[reduce::cuda::add_sum(&total, 1.0 / divisor, &logp)?])
    }

    /// The total since it was last taken. From a device, after everything queued so far.
    ///
    /// # Errors
    /// As [`Scores::read`].
    pub fn take_total(&mut self) -> Result<f64, TensorError> {
        let Some(placed) = &mut self.placed else { return Ok(std::mem::take(&mut self.total)) };
        let mut bytes = [0; 8];
        placed.memory.read(0, &mut bytes)?;
        placed.memory.write(0, &[0; 8])?;
        Ok(f64::from_ne_bytes(bytes))
    }
}

/// The inputs of the head for n tokens.
#[derive(Debug)]
pub struct Head<'a> {
    /// `[n, d]`.
    pub hidden: View<'a>,
    /// `[v, d]`.
    pub weight: Weight<'a>,
    /// `[n]`, or [`IGNORE`].
    pub targets: &'a [u32],
    /// Rows of logits computed at a time; on the CPU at most [`MAX_CHUNK_ROWS`].
    pub chunk_rows: usize,
    /// On the CPU, at least `Sizes::scratch_len` numbers; elsewhere not looked at.
    pub scratch: ViewMut<'a>,
}

impl<'a> Head<'a> {
    fn sizes(&self) -> Sizes {
        let (vocab, dim) = self.weight.shape();
        Sizes { dim, vocab, chunk_rows: self.chunk_rows }
    }

    fn kernel(self, scores: &'a mut Scores) -> Result<Forward<'a>, TensorError> {
        let (sizes, n) = (self.sizes(), self.targets.len());
        Ok(Forward {
            logp: &mut scores.logp[..n],
            lse: &mut scores.lse[..n],
            hidden: self.hidden.host()?,
            weight: self.weight.host()?,
            targets: self.targets,
            sizes,
            scratch: self.scratch.host()?,
        })
    }
}

/// Log-probabilities only.
///
/// # Errors
/// As [`cross_entropy::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(scores: &mut Scores, head: Head<'_>) -> Result<(), TensorError> {
    match head.hidden.cuda() {
        Some(device) => on_device(device, scores, &head, Pass::Forward, None),
        None => Ok(cross_entropy::forward(head.kernel(scores)?)?),
    }
}

/// The gradients of a head: dhidden `[n, d]` is replaced, dweight `[v, d]` added to.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[n]`: dLoss / dlogp.
    pub token_weights: &'a [f64],
    /// `[n, d]`, written; 0 for rows without loss.
    pub dhidden: ViewMut<'a>,
    /// `[v, d]`, added to; in f32 for the others in bf16.
    pub dweight: ViewMut<'a>,
}

/// Gradients for weights that were computed from the log-probabilities of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(scores: &mut Scores, head: Head<'_>, gradients: Gradients<'_>) -> Result<(), TensorError> {
    if let Some(device) = head.hidden.cuda() {
        return on_device(device, scores, &head, Pass::Backward, Some(gradients));
    }
    let Gradients { token_weights, dhidden, dweight } = gradients;
    let (dhidden, dweight) = (dhidden.host()?, Some(dweight.host()?));
    Ok(cross_entropy::backward(Backward { token_weights, dhidden, dweight, forward: head.kernel(scores)? })?)
}

/// Both at once, for weights known beforehand.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(scores: &mut Scores, head: Head<'_>, gradients: Gradients<'_>) -> Result<(), TensorError> {
    if let Some(device) = head.hidden.cuda() {
        return on_device(device, scores, &head, Pass::ForwardBackward, Some(gradients));
    }
    let Gradients { token_weights, dhidden, dweight } = gradients;
    let (dhidden, dweight) = (dhidden.host()?, Some(dweight.host()?));
    Ok(cross_entropy::forward_backward(Backward { token_weights, dhidden, dweight, forward: head.kernel(scores)? })?)
}

/// Numbers from row to row of the logits on a device.
fn pitch(vocab: usize) -> usize {
    vocab.next_multiple_of(8)
}

/// Bytes of a chunk on a device: its logits in f32, and their gradients in bf16 where that is the format of the product.
pub fn device_scratch_bytes(sizes: Sizes) -> usize {
    6 * sizes.chunk_rows * pitch(sizes.vocab)
}

/// All rows by chunks. Logits are f32 whatever the format of hidden states and weights.
fn on_device(
    device: &Cuda,
    scores: &mut Scores,
    head: &Head<'_>,
    pass: Pass,
    gradients: Option<Gradients<'_>>,
) -> Result<(), TensorError> {
    const OP: &str = "cross_entropy";
    let (n, sizes) = (head.targets.len(), head.sizes());
    let Sizes { dim, vocab, chunk_rows } = sizes;
    let pitch = pitch(vocab);
    let Weight::Plain(weight) = head.weight else { return Err(device.is_missing()) };
    let (hidden, weight) = (head.hidden.on(device)?, weight.on(device)?);
    let placed = scores.placed.as_mut().filter(|placed| placed.memory.cuda().is(device));
    let Some(placed) = placed else {
        return Err(device.is_missing());
    };
    let dhidden_len =
        gradients.as_ref().map_or(n * dim, |gradients| gradients.dhidden.rows * gradients.dhidden.columns);
    for (arg, got, want) in
        [("hidden", hidden.len, n * dim), ("dhidden", dhidden_len, n * dim), ("targets", n, n.min(placed.max_tokens))]
    {
        check::length(OP, arg, got, want)?;
    }
    cross_entropy::check_targets(OP, head.targets, vocab)?;
    let offset = placed.offset(Column::Targets);
    placed.memory.write(offset, bytemuck::cast_slice(head.targets))?;
    let gradients = match gradients {
        None => None,
        Some(Gradients { token_weights, dhidden, dweight }) => {
            check::length(OP, "token_weights", token_weights.len(), n)?;
            placed.staging.iter_mut().zip(token_weights).for_each(|(x, &weight)| *x = weight as f32);
            let offset = placed.offset(Column::Weights);
            placed.memory.write(offset, bytemuck::cast_slice(&placed.staging[..n]))?;
            Some((dhidden.on(device)?, dweight.on(device)?))
        }
    };
    device.with_scratch(device_scratch_bytes(sizes), |address| {
        for start in (0..n).step_by(chunk_rows) {
            let rows = chunk_rows.min(n - start);
            let logits = Operand { address, len: rows * pitch, dtype: Dtype::F32 };
            let hidden = part(hidden, start * dim, rows * dim);
            let plain = |numbers| Matrix { numbers, pitch: dim };
            device.multiply(&Product {
                m: rows,
                n: vocab,
                k: dim,
                a: plain(hidden),
                transpose_a: false,
                b: plain(weight),
                transpose_b: true,
                c: Matrix { numbers: logits, pitch },
                write: Write::Overwrite,
            })?;
            let of_tokens = |column| placed.operand(column, start, rows);
            device.run(&[soften(&Soften {
                logits,
                logp: of_tokens(Column::Logp),
                lse: of_tokens(Column::Lse),
                targets: Indices { address: of_tokens(Column::Targets).address, len: rows },
                weights: (pass != Pass::Forward).then(|| of_tokens(Column::Weights)),
                vocab,
                pitch,
                pass,
            })?])?;
            let Some((dhidden, dweight)) = gradients else { continue };
            let mut dlogits = logits;
            if hidden.dtype == Dtype::Bf16 {
                let address = address + 4 * (chunk_rows * pitch) as u64;
                dlogits = Operand { address, dtype: Dtype::Bf16, ..logits };
                device.run(&[reduce::cuda::cast(&dlogits, &logits, reduce::cuda::Rounding::Nearest)?])?;
            }
            let dlogits = Matrix { numbers: dlogits, pitch };
            device.multiply(&Product {
                m: rows,
                n: dim,
                k: vocab,
                a: dlogits,
                transpose_a: false,
                b: plain(weight),
                transpose_b: false,
                c: plain(part(dhidden, start * dim, rows * dim)),
                write: Write::Overwrite,
            })?;
            device.multiply(&Product {
                m: vocab,
                n: dim,
                k: rows,
                a: dlogits,
                transpose_a: true,
                b: plain(hidden),
                transpose_b: false,
                c: plain(dweight),
                write: Write::Accumulate,
            })?;
        }
        Ok(())
    })
}

/// Some numbers of an operand; lengths were checked.
fn part(operand: Operand, start: usize, len: usize) -> Operand {
    Operand { address: operand.address + (start * operand.dtype.size_bytes()) as u64, len, ..operand }
}
