//! Runs the kernels' cases on every executor of this machine, and holds their results against the truth.
//!
//! The truth is the CPU's f64; the yardstick is the plain version in low precision: the CPU's f32 on the same inputs, each
//! result rounded once to the format that is stored. A kernel may have twice the yardstick's error, plus a floor: half a unit in
//! the last place of the stored format, which correct rounding of a slightly other number costs, plus what the case states for
//! its sums (`tolerance::floor`).

#![expect(clippy::print_stdout, reason = "tests say what ran and what was skipped")]

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use half::bf16;

use crate::cuda::{Buffer, CudaError, Executor, Gpu, Indices, Launch, Needs, Operand};
use crate::dtype::Dtype;

/// The first GPU, if there is one that can be used.
static GPU: LazyLock<Option<Gpu>> = LazyLock::new(|| Gpu::open(0).ok());

/// What ran where, and the worst errors: printed when the tests end.
#[derive(Default)]
struct Closing {
    on_emulator: usize,
    on_gpu: usize,
    skipped: usize,
    worst: BTreeMap<&'static str, Worst>,
}

/// The errors of one family: the largest error by the largest error of the yardstick, and the error nearest to its bound.
#[derive(Default)]
struct Worst {
    by_yardstick: f64,
    by_bound: f64,
}

static CLOSING: Mutex<Option<Closing>> = Mutex::new(None);

fn with_closing(change: impl FnOnce(&mut Closing)) {
    static AT_EXIT: Once = Once::new();
    // SAFETY: registers a function that may run at any time.
    AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(print_closing) }, 0));
    change(CLOSING.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
}

extern "C" fn print_closing() {
    let closing = CLOSING.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(Closing { on_emulator, on_gpu, skipped, worst }) = closing.as_ref() else { return };
    for (family, Worst { by_yardstick, by_bound }) in worst {
        println!("kernel errors: {family:<32} {by_yardstick:5.2} of the plain version's, {by_bound:5.2} of the bound");
    }
    println!("kernel cases: {on_emulator} ran on the emulator, {on_gpu} on a GPU, {skipped} skipped");
}

/// Runs a case wherever its kernels run: under every setting of the emulator, if it is compiled in, and on the first GPU.
/// A case that runs nowhere is skipped and says so in the closing line.
pub(crate) fn on_every_executor(needs: Needs, case: impl Fn(&dyn Executor)) {
    #[cfg(feature = "emulator")]
    for options in crate::emulator::Options::ALL {
        case(&crate::emulator::Emulator { options });
    }
    let runs = |gpu: &&Gpu| match needs {
        Needs::Ampere => gpu.compute_capability().0 >= 8,
        Needs::Hopper => gpu.compute_capability() == (9, 0),
    };
    let gpu = GPU.as_ref().filter(runs);
    if let Some(gpu) = gpu {
        case(gpu);
    }
    let is_emulated = cfg!(feature = "emulator");
    if !is_emulated && gpu.is_none() {
        println!("skipped: neither the emulator (feature `emulator`) nor a GPU runs this case");
    }
    with_closing(|closing| {
        closing.on_emulator += usize::from(is_emulated);
        closing.on_gpu += usize::from(gpu.is_some());
        closing.skipped += usize::from(!is_emulated && gpu.is_none());
    });
}

/// Numbers in the memory of an executor, with canaries behind them.
pub(crate) struct Array<'e> {
    buffer: Buffer<'e>,
    len: usize,
    dtype: Dtype,
}

/// Bytes behind each array that no kernel may change.
const CANARY: [u8; 32] = [0xa5; 32];

impl<'e> Array<'e> {
    /// Rounds each number once to the format.
    pub(crate) fn new(executor: &'e dyn Executor, x: &[f64], dtype: Dtype) -> Self {
        let mut bytes: Vec<u8> = match dtype {
            Dtype::F32 => x.iter().flat_map(|&x| (x as f32).to_ne_bytes()).collect(),
            Dtype::F64 => x.iter().flat_map(|&x| x.to_ne_bytes()).collect(),
            Dtype::Bf16 => x.iter().flat_map(|&x| bf16::from_f32(x as f32).to_bits().to_ne_bytes()).collect(),
        };
        bytes.extend(CANARY);
        Self { buffer: Buffer::holding(executor, &bytes).expect("memory for a case"), len: x.len(), dtype }
    }

    /// NaN everywhere.
    pub(crate) fn poisoned(executor: &'e dyn Executor, len: usize, dtype: Dtype) -> Self {
        Self::new(executor, &vec![f64::NAN; len], dtype)
    }

    pub(crate) fn operand(&self) -> Operand {
        Operand { address: self.buffer.address(), len: self.len, dtype: self.dtype }
    }

    /// The numbers as they are now.
    pub(crate) fn read(&self) -> Vec<f64> {
        let bytes = self.buffer.to_vec().expect("the launches before have run");
        let (bytes, canary) = bytes.split_at(bytes.len() - CANARY.len());
        assert_eq!(canary, CANARY, "a kernel wrote past the end of an array");
        match self.dtype {
            Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::F64 => bytes.chunks_exact(8).map(|b| f64::from_ne_bytes(b.try_into().unwrap())).collect(),
            Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes(b.try_into().unwrap()).to_f64()).collect(),
        }
    }
}

/// `u32` numbers in the memory of an executor.
pub(crate) struct IndexArray<'e> {
    buffer: Buffer<'e>,
    len: usize,
}

impl<'e> IndexArray<'e> {
    pub(crate) fn new(executor: &'e dyn Executor, x: &[u32]) -> Self {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
        Self { buffer: Buffer::holding(executor, &bytes).expect("memory for a case"), len: x.len() }
    }

    pub(crate) fn indices(&self) -> Indices {
        Indices { address: self.buffer.address(), len: self.len }
    }

    pub(crate) fn read(&self) -> Vec<u32> {
        let bytes = self.buffer.to_vec().expect("the launches before have run");
        bytes.chunks_exact(4).map(|b| u32::from_ne_bytes(b.try_into().unwrap())).collect()
    }
}

/// Runs launches in order; a report names the executor and the kernel.
pub(crate) fn run(executor: &dyn Executor, launches: &[Launch]) {
    for launch in launches {
        // SAFETY: launches come from the families' checked arguments over arrays of this executor.
        let result: Result<(), CudaError> = unsafe { executor.launch(launch) };
        result.unwrap_or_else(|error| panic!("{}: {error}", executor.name()));
    }
}

/// The number that a format stores.
pub(crate) fn rounded(x: &[f64], dtype: Dtype) -> Vec<f64> {
    x.iter()
        .map(|&x| match dtype {
            Dtype::F64 => x,
            Dtype::F32 => f64::from(x as f32),
            Dtype::Bf16 => bf16::from_f32(x as f32).to_f64(),
        })
        .collect()
}

pub(crate) fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Uniform in -1..1, the same on every machine.
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f64> {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// The rule of the module's comment, elementwise. `family` is what the closing lines count under; `naive` is in f32 and is
/// rounded here.
pub(crate) fn assert_follows(
    family: &'static str,
    what: &str,
    dtype: Dtype,
    got: &[f64],
    naive: &[f64],
    truth: &[f64],
    floor: f64,
) {
    // f32 rounds by 2^-24 of a number, bf16, with 8 significant bits, by 2^-8
    let unit = if dtype == Dtype::Bf16 { 1.0 / 256.0 } else { 1.0 / f64::from(1u32 << 24) };
    let naive = rounded(naive, dtype);
    assert_eq!((got.len(), naive.len()), (truth.len(), truth.len()), "{family}: {what}");
    let (mut worst_error, mut worst_yardstick, mut by_bound) = (0.0f64, 0.0f64, 0.0f64);
    for (i, ((&got, &naive), &truth)) in got.iter().zip(&naive).zip(truth).enumerate() {
        let (error, yardstick) = ((got - truth).abs(), (naive - truth).abs());
        let bound = 2.0 * yardstick + unit * truth.abs() + floor;
        // written so that NaN fails
        let holds = error <= bound;
        assert!(holds, "{family}: {what}[{i}]: {got}, plain {naive}, truth {truth}: off by {error:e}, bound {bound:e}");
        worst_error = worst_error.max(error);
        worst_yardstick = worst_yardstick.max(yardstick);
        by_bound = by_bound.max(if bound > 0.0 { error / bound } else { 0.0 });
    }
    with_closing(|closing| {
        let worst = closing.worst.entry(family).or_default();
        worst.by_bound = worst.by_bound.max(by_bound);
        if worst_yardstick > 0.0 {
            worst.by_yardstick = worst.by_yardstick.max(worst_error / worst_yardstick);
        }
    });
}
