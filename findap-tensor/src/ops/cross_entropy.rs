//! The head and its loss.

use findap_kernels::cross_entropy::cuda::{Pass, SoftmaxGradient, softmax_gradient};
use findap_kernels::cross_entropy::{self, Backward, Forward};
pub use findap_kernels::cross_entropy::{IGNORE, MAX_CHUNK_ROWS, Sizes};
use findap_kernels::cuda::{Indices, Operand};
use findap_kernels::cuda::{Matrix, Product};
use findap_kernels::preference::{PreferenceStats, cuda as preference};
use findap_kernels::{Dtype, Write, check, embedding, reduce};

use crate::columns::Columns;
use crate::device::{Cuda, Device};
use crate::error::TensorError;
use crate::ops::linear::Weight;
use crate::step_stats::StepStats;
use crate::tensor::{View, ViewMut};

/// The head's results by token, in f64 on the CPU and f32 on a device: log-probabilities of the targets, and the log of the sum of
/// exponentials, which the backward pass needs. An objective may leave token weights beside them
/// ([`preference::token_weights`](super::preference::token_weights)).
#[derive(Debug)]
pub struct Scores {
    pub(super) logp: Vec<f64>,
    lse: Vec<f64>,
    pub(super) weights: Vec<f64>,
    pub(super) placed: Option<Placed>,
}

/// Numbers by token in the memory of a device.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) columns: Columns,
    max_tokens: usize,
    /// Host memory for numbers on their way to or from the device.
    staging: Vec<f32>,
    /// Host memory for the numbers of pairs.
    pub(super) pairs: Vec<[f64; preference::PAIR_LEN]>,
    /// The tokens that bear loss.
    rows: Vec<u32>,
}

#[derive(Clone, Copy)]
pub(super) enum Column {
    Logp,
    Lse,
    Weights,
    Targets,
    Rows,
    /// Where documents begin; at most one number more than there are tokens.
    Bounds,
    /// Three f64 numbers per pair; a pair has two tokens at least, so the last three columns hold them.
    Pairs,
}

const NUM_COLUMNS: usize = 9;

impl Scores {
    /// Makes room for at most `max_tokens` tokens whose hidden states lie on `device`. A device also gets room for a chunk of logits
    /// and, if there will be gradients in the format `dweight`, for their sums.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(
        device: &Device,
        max_tokens: usize,
        sizes: Sizes,
        dweight: Option<Dtype>,
    ) -> Result<Scores, TensorError> {
        let Device::Cuda(cuda) = device else {
            let [logp, lse, weights] = [(); 3].map(|()| vec![0.0; max_tokens]);
            return Ok(Scores { logp, lse, weights, placed: None });
        };
        cuda.with_scratch(device_scratch_bytes(sizes, dweight), |_| Ok(()))?;
        let columns = Columns::new(cuda, "log-probabilities", NUM_COLUMNS, max_tokens + 1)?;
        let (staging, rows) = (vec![0.0; max_tokens], Vec::with_capacity(max_tokens));
        let pairs = Vec::with_capacity(max_tokens / 2);
        let placed = Some(Placed { columns, max_tokens, staging, pairs, rows });
        Ok(Scores { logp: vec![0.0; max_tokens], lse: Vec::new(), weights: Vec::new(), placed })
    }

    /// Reads the log-probabilities `[n]` of the targets given last; 0 where there is no loss. Waits for everything queued on a device.
    ///
    /// # Errors
    /// [`TensorError::Cuda`], also for an earlier op that failed on the device.
    pub fn read(&mut self, n: usize) -> Result<&[f64], TensorError> {
        if let Some(placed) = &mut self.placed {
            placed.columns.read(Column::Logp as usize, bytemuck::cast_slice_mut(&mut placed.staging[..n]))?;
            self.logp.iter_mut().zip(&placed.staging[..n]).for_each(|(logp, &x)| *logp = f64::from(x));
        }
        Ok(&self.logp[..n])
    }

    /// Adds minus the sum of the `n` log-probabilities, divided by `divisor`, to the loss of a step. Does not wait for a device.
    ///
    /// # Errors
    /// [`TensorError::OtherDevice`], [`TensorError::Cuda`].
    pub fn add_loss(&self, stats: &mut StepStats, n: usize, divisor: f64) -> Result<(), TensorError> {
        let Some(placed) = &self.placed else {
            stats.add(-(self.logp[..n].iter().sum::<f64>() / divisor), &PreferenceStats::default());
            return Ok(());
        };
        let device = placed.columns.cuda();
        let loss = stats.on(device)?.loss();
        device.run(&[reduce::cuda::add_sum(
            &loss,
            -1.0 / divisor,
            &placed.columns.operand(Column::Logp as usize, 0, n),
        )?])
    }
}

/// The inputs of the head for n tokens.
#[derive(Debug)]
pub struct Head<'a> {
    /// `[n, d]`.
    pub hidden: View<'a>,
    /// `[v, d]`.
    pub weight: Weight<'a>,
    /// `[n]`: the next token, or [`IGNORE`] where there is no loss.
    pub targets: &'a [u32],
    /// Rows of logits computed at a time; on the CPU at most [`MAX_CHUNK_ROWS`].
    pub chunk_rows: usize,
    /// On the CPU, at least `Sizes::scratch_len` numbers; a device does not use it.
    pub scratch: ViewMut<'a>,
}

impl<'a> Head<'a> {
    fn sizes(&self) -> Sizes {
        let (vocab, dim) = self.weight.shape();
        Sizes { dim, vocab, chunk_rows: self.chunk_rows }
    }

    /// The kernel's arguments, and the token weights that an objective has left.
    fn kernel(self, scores: &'a mut Scores) -> Result<(Forward<'a>, &'a [f64]), TensorError> {
        let (sizes, n) = (self.sizes(), self.targets.len());
        let forward = Forward {
            logp: &mut scores.logp[..n],
            lse: &mut scores.lse[..n],
            hidden: self.hidden.host()?,
            weight: self.weight.host()?,
            targets: self.targets,
            sizes,
            scratch: self.scratch.host()?,
        };
        Ok((forward, &scores.weights[..n]))
    }
}

/// Computes the log-probabilities only.
///
/// # Errors
/// As [`cross_entropy::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(scores: &mut Scores, head: Head<'_>) -> Result<(), TensorError> {
    match head.hidden.cuda() {
        Some(device) => on_device(device, scores, &head, Pass::Forward, None),
        None => Ok(cross_entropy::forward(head.kernel(scores)?.0)?),
    }
}

/// The gradients of a head: dhidden `[n, d]` is replaced, dweight `[v, d]` added to.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// `[n]`: dLoss / dlogp; `None` for those that [`preference::token_weights`](super::preference::token_weights) has left in the scores.
    pub token_weights: Option<&'a [f64]>,
    /// `[n, d]`, written; 0 for rows without loss.
    pub dhidden: ViewMut<'a>,
    /// `[v, d]`, added to; `None` for a frozen weight. Where the others are bf16 it is f32, or on a device bf16: the sum in f32 is then
    /// rounded once.
    pub dweight: Option<ViewMut<'a>>,
}

/// Computes the gradients for token weights that depend on the log-probabilities of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(scores: &mut Scores, head: Head<'_>, gradients: Gradients<'_>) -> Result<(), TensorError> {
    if let Some(device) = head.hidden.cuda() {
        return on_device(device, scores, &head, Pass::Backward, Some(gradients));
    }
    Ok(cross_entropy::backward(on_host(scores, head, gradients)?)?)
}

/// Computes log-probabilities and gradients in one pass, for token weights known beforehand.
///
/// # Errors
/// As [`forward`].
pub fn forward_backward(scores: &mut Scores, head: Head<'_>, gradients: Gradients<'_>) -> Result<(), TensorError> {
    if let Some(device) = head.hidden.cuda() {
        return on_device(device, scores, &head, Pass::ForwardBackward, Some(gradients));
    }
    Ok(cross_entropy::forward_backward(on_host(scores, head, gradients)?)?)
}

fn on_host<'a>(scores: &'a mut Scores, head: Head<'a>, gradients: Gradients<'a>) -> Result<Backward<'a>, TensorError> {
    let Gradients { token_weights, dhidden, dweight } = gradients;
    let (forward, left) = head.kernel(scores)?;
    let token_weights = token_weights.unwrap_or(left);
    Ok(Backward { token_weights, dhidden: dhidden.host()?, dweight: dweight.map(ViewMut::host).transpose()?, forward })
}

/// Distance between rows of the logits on a device, in numbers.
fn pitch(vocab: usize) -> usize {
    vocab.next_multiple_of(8)
}

/// Bytes that a head needs on a device beside its weight's gradient in `dweight`: a chunk, and for bf16 the sum over chunks in f32.
pub fn device_scratch_bytes(sizes: Sizes, dweight: Option<Dtype>) -> usize {
    let sums = if dweight == Some(Dtype::Bf16) { 4 * sizes.vocab * sizes.dim } else { 0 };
    chunk_bytes(sizes) + sums
}

/// Bytes of a chunk on a device: logits in f32, their gradients in bf16 where products are bf16, hidden states and their gradients.
fn chunk_bytes(sizes: Sizes) -> usize {
    sizes.chunk_rows * (6 * pitch(sizes.vocab) + 8 * sizes.dim)
}

/// Runs the head over the rows that bear loss, chunk by chunk. Logits are f32 whatever the format of hidden states and weights.
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
    let placed = scores.placed.as_mut().filter(|placed| placed.columns.cuda().is(device));
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
    let token_weights = gradients.as_ref().and_then(|gradients| gradients.token_weights);
    check::length(OP, "token_weights", token_weights.map_or(n, <[f64]>::len), n)?;
    place_tokens(placed, head.targets, token_weights, pass)?;
    let gradients = gradients.map(|Gradients { dhidden, dweight, .. }| {
        let dweight = dweight.map(|dweight| dweight.on(device)).transpose()?;
        Ok::<_, TensorError>((dhidden.on(device)?, dweight))
    });
    let gradients = gradients.transpose()?;
    if let Some((dhidden, _)) = &gradients {
        device.clear(dhidden)?;
    }
    let (num_rows, all_rows) = (placed.rows.len(), placed.columns.address(Column::Rows as usize, 0));
    let dweight_dtype = gradients.and_then(|(_, dweight)| dweight).map(|dweight| dweight.dtype);
    device.with_scratch(device_scratch_bytes(sizes, dweight_dtype), |address| {
        // a gradient in bf16 would be rounded, and lose what is small, with every chunk
        let sums = Operand { address: address + chunk_bytes(sizes) as u64, len: vocab * dim, dtype: Dtype::F32 };
        let is_summed_apart = dweight_dtype == Some(Dtype::Bf16);
        for start in (0..num_rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(num_rows - start);
            let tokens = Indices { address: all_rows + 4 * start as u64, len: rows };
            // in this order: logits, their gradients in bf16, hidden states, their gradients
            let logits = Operand { address, len: rows * pitch, dtype: Dtype::F32 };
            let [chosen, dchosen] = [6 * pitch, 6 * pitch + 4 * dim].map(|before| Operand {
                address: address + (chunk_rows * before) as u64,
                len: rows * dim,
                dtype: hidden.dtype,
            });
            let plain = |elements| Matrix { elements, pitch: dim };
            let choose = embedding::cuda::Forward { out: chosen, table: hidden, ids: tokens, dim };
            device.run(&[embedding::cuda::forward(&choose)?])?;
            device.multiply(&Product {
                m: rows,
                n: vocab,
                k: dim,
                a: plain(chosen),
                transpose_a: false,
                b: plain(weight),
                transpose_b: true,
                c: Matrix { elements: logits, pitch },
                write: Write::Overwrite,
            })?;
            device.run(&[softmax_gradient(&SoftmaxGradient {
                logits,
                logp: placed.columns.operand(Column::Logp as usize, 0, n),
                lse: placed.columns.operand(Column::Lse as usize, 0, n),
                targets: placed.columns.indices(Column::Targets as usize, 0, n),
                weights: (pass != Pass::Forward).then(|| placed.columns.operand(Column::Weights as usize, 0, n)),
                tokens: Some(tokens),
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
            let dlogits = Matrix { elements: dlogits, pitch };
            device.multiply(&Product {
                m: rows,
                n: dim,
                k: vocab,
                a: dlogits,
                transpose_a: false,
                b: plain(weight),
                transpose_b: false,
                c: plain(dchosen),
                write: Write::Overwrite,
            })?;
            let scatter = embedding::cuda::Scatter { out: dhidden, x: dchosen, indices: tokens, dim };
            device.run(&[embedding::cuda::scatter(&scatter)?])?;
            let Some(dweight) = dweight else { continue };
            device.multiply(&Product {
                m: vocab,
                n: dim,
                k: rows,
                a: dlogits,
                transpose_a: true,
                b: plain(chosen),
                transpose_b: false,
                c: plain(if is_summed_apart { sums } else { dweight }),
                write: if is_summed_apart && start == 0 { Write::Overwrite } else { Write::Accumulate },
            })?;
        }
        match gradients {
            Some((_, Some(dweight))) if is_summed_apart && num_rows > 0 => {
                device.run(&[reduce::cuda::add(&dweight, &sums)?])
            }
            _ => Ok(()),
        }
    })
}

/// Sends targets, weights and the list of rows that bear loss to the device. For a pass that computes log-probabilities it sets them to
/// 0 first.
fn place_tokens(
    placed: &mut Placed,
    targets: &[u32],
    token_weights: Option<&[f64]>,
    pass: Pass,
) -> Result<(), TensorError> {
    let Placed { columns, staging, rows, .. } = placed;
    let backward_weights = token_weights.filter(|_| pass == Pass::Backward);
    rows.clear();
    rows.extend(cross_entropy::loss_rows(targets, backward_weights).map(|t| t as u32));
    columns.write(Column::Targets as usize, bytemuck::cast_slice(targets))?;
    if let Some(weights) = token_weights {
        staging.iter_mut().zip(weights).for_each(|(x, &weight)| *x = weight as f32);
        columns.write(Column::Weights as usize, bytemuck::cast_slice(&staging[..weights.len()]))?;
    }
    columns.write(Column::Rows as usize, bytemuck::cast_slice(rows))?;
    if pass != Pass::Backward {
        // log-probabilities and log-sums are the columns before the weights
        columns.clear_first(Column::Weights as usize)?;
    }
    Ok(())
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use findap_kernels::emulator::Options;

    use super::*;
    use crate::tensor::Tensor;

    const TOKENS: usize = 23;
    const DIM: usize = 16;
    const VOCAB: usize = 37;

    /// Numbers spread over -1..1, the same on every machine and each exact in bf16.
    fn numbers(len: usize, seed: usize) -> Vec<f64> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 129) as f64 / 64.0 - 1.0).collect()
    }

    fn tensor(device: &Device, dtype: Dtype, rows: usize, x: &[f64]) -> Tensor {
        let mut host = Tensor::zeros(dtype, rows, x.len() / rows);
        host.slice_mut().copy_from_f64(x);
        let mut tensor = Tensor::zeros_on(device, "a test", dtype, rows, x.len() / rows).unwrap();
        tensor.write(0, host.slice()).unwrap();
        tensor
    }

    fn read(tensor: &Tensor) -> Vec<f64> {
        tensor.to_host().unwrap().slice().to_f64_vec()
    }

    #[derive(Clone)]
    struct Case {
        hidden: Vec<f64>,
        targets: Vec<u32>,
        weights: Vec<f64>,
        /// The value of every dweight before the pass adds to it.
        dweight: f64,
    }

    /// logp, dhidden, dweight: in one pass, or in two; with formats of the numbers and of dweight.
    fn run(device: &Device, [dtype, sums]: [Dtype; 2], case: &Case, is_one_pass: bool) -> [Vec<f64>; 3] {
        run_trained(device, dtype, Some(sums), case, is_one_pass)
    }

    /// [`run`] for a weight that is frozen where `sums` is none; the last result is then empty.
    fn run_trained(
        device: &Device,
        dtype: Dtype,
        sums: Option<Dtype>,
        case: &Case,
        is_one_pass: bool,
    ) -> [Vec<f64>; 3] {
        // chunks that are full and one that is not
        let sizes = Sizes { dim: DIM, vocab: VOCAB, chunk_rows: 4 };
        let hidden = tensor(device, dtype, TOKENS, &case.hidden);
        let weight = tensor(device, dtype, VOCAB, &numbers(VOCAB * DIM, 2));
        let mut dhidden = tensor(device, dtype, TOKENS, &[7.0; TOKENS * DIM]);
        let mut dweight = sums.map(|sums| tensor(device, sums, VOCAB, &[case.dweight; VOCAB * DIM]));
        let mut scratch = Tensor::zeros(dtype, 1, if *device == Device::Cpu { sizes.scratch_len() } else { 0 });
        let mut scores = Scores::new(device, TOKENS + 3, sizes, sums).unwrap();
        let head = Head {
            hidden: hidden.all(),
            weight: weight.all().into(),
            targets: &case.targets,
            chunk_rows: sizes.chunk_rows,
            scratch: scratch.all_mut(),
        };
        let gradients = Gradients {
            token_weights: Some(&case.weights),
            dhidden: dhidden.all_mut(),
            dweight: dweight.as_mut().map(Tensor::all_mut),
        };
        if is_one_pass {
            forward_backward(&mut scores, head, gradients).unwrap();
        } else {
            let Head { hidden, weight, targets, chunk_rows, mut scratch } = head;
            forward(&mut scores, Head { hidden, weight, targets, chunk_rows, scratch: scratch.reborrow() }).unwrap();
            backward(&mut scores, Head { hidden, weight, targets, chunk_rows, scratch }, gradients).unwrap();
        }
        let logp = scores.read(TOKENS).unwrap().to_vec();
        [logp, read(&dhidden), dweight.as_ref().map_or_else(Vec::new, read)]
    }

    #[test]
    fn rows_without_loss_are_not_multiplied() {
        let bears_loss = |t: usize| t % 3 != 1 && t != 5;
        let targets = (0..TOKENS).map(|t| if bears_loss(t) { (t * 11 % VOCAB) as u32 } else { IGNORE }).collect();
        // a token of weight 0 has a log-probability all the same
        let weights = (0..TOKENS).map(|t| if t == 6 { 0.0 } else { 0.125 * (t % 4) as f64 - 0.5 }).collect();
        let mut case = Case { hidden: numbers(TOKENS * DIM, 1), targets, weights, dweight: 0.5 };
        let truth = run(&Device::Cpu, [Dtype::F64; 2], &case, true);
        // a product with any of these is NaN, with a weight of 0, too
        let unread: Vec<usize> = (0..TOKENS).filter(|&t| !bears_loss(t)).collect();
        unread.iter().for_each(|t| case.hidden[t * DIM..][..DIM].fill(f64::NAN));
        let devices = Options::ALL.map(Device::emulated).into_iter().chain(Device::gpu(0));
        for device in devices {
            let formats = [[Dtype::F32, Dtype::F32], [Dtype::Bf16, Dtype::F32], [Dtype::Bf16, Dtype::Bf16]];
            for ([dtype, sums], is_one_pass) in formats.into_iter().flat_map(|it| [(it, true), (it, false)]) {
                let got = run(&device, [dtype, sums], &case, is_one_pass);
                if sums == Dtype::Bf16 {
                    let from_zero = Case { dweight: 0.0, ..case.clone() };
                    let [_, _, sum] = run(&device, [dtype, Dtype::F32], &from_zero, is_one_pass);
                    let rounded = |x: &f64| f64::from(half::bf16::from_f32(0.5 + *x as f32));
                    assert_eq!(
                        got[2],
                        sum.iter().map(rounded).collect::<Vec<f64>>(),
                        "the sum over chunks, rounded once"
                    );
                    continue;
                }
                // logits are exact, and up to 16: f32 rounds exponents by 1e-6. Gradients of logits, whose sizes add up to 1 in a
                // row, and dhidden are rounded by bf16, too. dweight is a sum over 14 rows of weights up to 0.5
                let unit = if dtype == Dtype::Bf16 { 1.0 / 512.0 } else { 4e-6 };
                for ((got, truth), (what, bound)) in
                    got.iter().zip(&truth).zip([("logp", 1e-5), ("dhidden", 2.5 * unit), ("dweight", 8.0 * unit)])
                {
                    let worst = got.iter().zip(truth).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
                    let holds = got.iter().all(|x| x.is_finite()) && worst <= bound;
                    assert!(holds, "{what} {dtype}: off by {worst:e}, {bound:e} allowed, on {}", device.name());
                }
                for t in &unread {
                    assert_eq!((got[0][*t], &got[1][t * DIM..][..DIM]), (0.0, &[0.0; DIM][..]));
                }
            }
        }
    }

    #[test]
    fn a_frozen_weight_changes_no_bit_and_needs_no_sum() {
        let sizes = Sizes { dim: DIM, vocab: VOCAB, chunk_rows: 4 };
        let bytes_beside_frozen = |sums| device_scratch_bytes(sizes, Some(sums)) - device_scratch_bytes(sizes, None);
        assert_eq!([Dtype::F32, Dtype::Bf16].map(bytes_beside_frozen), [0, 4 * VOCAB * DIM]);
        let targets = (0..TOKENS).map(|t| if t % 3 == 1 { IGNORE } else { (t * 11 % VOCAB) as u32 }).collect();
        let weights = (0..TOKENS).map(|t| 0.125 * (t % 4) as f64 - 0.5).collect();
        let case = Case { hidden: numbers(TOKENS * DIM, 1), targets, weights, dweight: 0.5 };
        let on_cpu = (Device::Cpu, [Dtype::F32, Dtype::F64]);
        let devices = [Device::emulated(Options::ALL[2])].into_iter().chain(Device::gpu(0));
        let on_devices = devices.map(|device| (device, [Dtype::F32, Dtype::Bf16]));
        for (device, dtypes) in [on_cpu].into_iter().chain(on_devices) {
            for (dtype, is_one_pass) in dtypes.into_iter().flat_map(|dtype| [(dtype, true), (dtype, false)]) {
                let [trained, frozen] =
                    [Some(dtype), None].map(|sums| run_trained(&device, dtype, sums, &case, is_one_pass));
                assert_eq!(frozen[..2], trained[..2], "{dtype} on {}", device.name());
                assert!(trained[2].iter().any(|x| *x != 0.5), "the weight has a gradient where it is trained");
            }
        }
    }

    #[test]
    fn a_batch_without_loss_has_no_gradient() {
        let case = Case {
            hidden: vec![f64::NAN; TOKENS * DIM],
            targets: vec![IGNORE; TOKENS],
            weights: vec![1.0; TOKENS],
            dweight: 0.5,
        };
        for is_one_pass in [true, false] {
            for sums in [Dtype::F32, Dtype::Bf16] {
                let got = run(&Device::emulated(Options::PLAIN), [Dtype::Bf16, sums], &case, is_one_pass);
                assert_eq!(got, [vec![0.0; TOKENS], vec![0.0; TOKENS * DIM], vec![0.5; VOCAB * DIM]]);
            }
        }
    }
}
