//! How fast the CUDA kernels are on the first GPU: one JSON object a line. Each result is held against a known answer before it is
//! timed. `cargo run --release -p findap-kernels --example bench_cuda [-- --small | --device]`; `--device` only names the GPU.
//!
//! Times are medians of 20 runs after 3 for warming up, by the device's clock. Attention counts 4 h d n^2 / 2 operations for each
//! document of n tokens going forward, h heads of dim d, and 2.5 times as many going backward, as published tables do; a product counts
//! 2 m n k. What moves numbers counts every array that has to be read or written once; decoding counts the cache. Without a GPU, a build with the feature `emulator` checks small
//! sizes and times nothing; other builds say why they cannot and exit with 3.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use findap_kernels::adamw::{AdamWStep, Segment, cuda as adamw};
use findap_kernels::attention::Heads;
use findap_kernels::attention::cuda::{self as attention, Target, Tiles};
use findap_kernels::cross_entropy::cuda as cross_entropy;
use findap_kernels::cuda::{
    Buffer, CudaError, Executor, Gpu, GpuInfo, Indices, Launch, Matrix, Operand, Probe, Product, probe,
};
use findap_kernels::matmul::cuda as matmul;
use findap_kernels::rms_norm::cuda as rms_norm;
use findap_kernels::swiglu::cuda as swiglu;
use findap_kernels::{Dtype, Write as Mode};
use half::bf16;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const WARM: usize = 3;
const RUNS: usize = 20;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--device") {
        return name_device();
    }
    let asks_small = std::env::args().any(|argument| argument == "--small");
    let result = match Gpu::open(0) {
        Ok(gpu) => Bench { executor: &gpu, gpu: Some(&gpu), is_small: asks_small }.run(),
        Err(error) => match without_gpu() {
            Some(result) => result,
            None => {
                say(&format!(r#"{{"skipped": "{}"}}"#, escape(&error.to_string())));
                return ExitCode::from(3);
            }
        },
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!(r#"{{"error": "{}"}}"#, escape(&error.to_string())));
            ExitCode::FAILURE
        }
    }
}

/// The first GPU and the CUDA of its driver, or why there is none.
fn name_device() -> ExitCode {
    let (device, (major, minor)) = match probe() {
        Probe::Ready { driver_version, devices } => match devices.into_iter().next() {
            Some(device) => (device, driver_version),
            None => return ExitCode::from(3),
        },
        Probe::Absent(reason) => {
            say(&reason.to_string());
            return ExitCode::from(3);
        }
    };
    let GpuInfo { name, memory_bytes, compute_capability: capability, multiprocessors, .. } = device;
    say(&format!(
        r#"{{"device": "{}", "compute_capability": "{}.{}", "multiprocessors": {multiprocessors}, "memory_bytes": {memory_bytes}, "driver_cuda": "{major}.{minor}"}}"#,
        escape(&name),
        capability.0,
        capability.1
    ));
    ExitCode::SUCCESS
}

#[cfg(feature = "emulator")]
fn without_gpu() -> Option<Outcome<bool>> {
    let executor = findap_kernels::emulator::Emulator { options: findap_kernels::emulator::Options::PLAIN };
    Some(Bench { executor: &executor, gpu: None, is_small: true }.run())
}

#[cfg(not(feature = "emulator"))]
fn without_gpu() -> Option<Outcome<bool>> {
    None
}

/// One line, at once: a later kernel may take the process down.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // a closed pipe is no reason to panic
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn escape(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { ' ' } else { c }.escape_default())
        .collect::<String>()
        .replace("\\'", "'")
}

struct Bench<'e> {
    executor: &'e dyn Executor,
    gpu: Option<&'e Gpu>,
    is_small: bool,
}

/// A product of bf16.
#[derive(Clone, Copy)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
    transpose_a: bool,
    transpose_b: bool,
    to_f32: bool,
}

/// What the work of one run is counted in.
#[derive(Clone, Copy)]
enum Count {
    Operations(f64),
    Bytes(f64),
}

impl<'e> Bench<'e> {
    /// Whether every answer was right.
    fn run(&self) -> Outcome<bool> {
        let mut all_right = true;
        let mut note = |what: &str, outcome: Outcome<bool>| {
            all_right &= outcome.unwrap_or_else(|error| {
                say(&format!(r#"{{"kernel": "{what}", "error": "{}"}}"#, escape(&error.to_string())));
                false
            });
        };
        note("copy", self.copy());
        note("adamw", self.adamw(Dtype::Bf16));
        note("adamw", self.adamw(Dtype::F32));
        note("rms_norm", self.rms_norm());
        note("swiglu", self.swiglu());
        note("cross_entropy", self.cross_entropy());
        for shape in self.product_shapes() {
            note("matmul", self.matmul(shape));
        }
        for (sequences, len) in if self.is_small { vec![(3, 600)] } else { vec![(1, 8192), (8, 8192), (64, 2048)] } {
            note("attention_decode", self.decode(sequences, len));
        }
        for (heads, documents) in self.attention_shapes() {
            note("attention", self.attention(heads, &documents));
        }
        Ok(all_right)
    }

    fn size(&self, full: usize, small: usize) -> usize {
        if self.is_small { small } else { full }
    }

    /// Says what a kernel came to: times it if its answer was right.
    fn report(
        &self,
        kernel: &str,
        shape: &str,
        check: Result<(), String>,
        count: Count,
        run: impl Fn() -> Result<(), CudaError>,
    ) -> Outcome<bool> {
        let head = format!(r#"{{"kernel": "{kernel}", "shape": "{shape}""#);
        if let Err(wrong) = &check {
            say(&format!(r#"{head}, "check": "FAILED: {}"}}"#, escape(wrong)));
            return Ok(false);
        }
        let Some(gpu) = self.gpu else {
            say(&format!(r#"{head}, "check": "passed", "executor": "{}"}}"#, escape(&self.executor.name())));
            return Ok(true);
        };
        for _ in 0..WARM {
            run()?;
        }
        let mut seconds = (0..RUNS).map(|_| gpu.seconds(&run)).collect::<Result<Vec<f64>, CudaError>>()?;
        seconds.sort_by(f64::total_cmp);
        let median = f64::midpoint(seconds[RUNS / 2 - 1], seconds[RUNS / 2]);
        let rate = match count {
            Count::Operations(operations) => format!(r#""tflops": {:.2}"#, operations / median / 1e12),
            Count::Bytes(bytes) => format!(r#""gb_per_s": {:.1}"#, bytes / median / 1e9),
        };
        let (least, most) = (seconds[0], seconds[RUNS - 1]);
        say(&format!(
            r#"{head}, "check": "passed", "median_s": {median:.9}, "least_s": {least:.9}, "most_s": {most:.9}, "runs": {RUNS}, {rate}}}"#
        ));
        Ok(true)
    }

    fn launch(&self, launches: &[Launch]) -> Result<(), CudaError> {
        // SAFETY: the launches come from the families' checked arguments over arrays of this executor.
        launches.iter().try_for_each(|launch| unsafe { self.executor.launch(launch) })
    }

    fn array(&self, x: &[bf16]) -> Outcome<Array<'e>> {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_bits().to_ne_bytes()).collect();
        Ok(Array { buffer: Buffer::holding(self.executor, &bytes)?, len: x.len(), dtype: Dtype::Bf16 })
    }

    fn array_f32(&self, x: &[f32]) -> Outcome<Array<'e>> {
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
        Ok(Array { buffer: Buffer::holding(self.executor, &bytes)?, len: x.len(), dtype: Dtype::F32 })
    }

    fn empty(&self, len: usize, dtype: Dtype) -> Outcome<Array<'e>> {
        Ok(Array { buffer: Buffer::new(self.executor, len * dtype.size_bytes())?, len, dtype })
    }

    // ---- What moves numbers ----

    /// The denominator: what the device copies, both ways counted.
    fn copy(&self) -> Outcome<bool> {
        let Some(gpu) = self.gpu else { return Ok(true) };
        let len = self.size(1 << 30, 1 << 20);
        let from = Buffer::holding(self.executor, &(0..len).map(|i| (i % 251) as u8).collect::<Vec<u8>>())?;
        let to = Buffer::new(self.executor, len)?;
        gpu.copy(&to, &from)?;
        let right = to.to_vec()?.iter().enumerate().all(|(i, x)| *x == (i % 251) as u8);
        let check = if right { Ok(()) } else { Err("the copy differs".to_owned()) };
        self.report("copy", &format!("{len} bytes"), check, Count::Bytes(2.0 * len as f64), || gpu.copy(&to, &from))
    }

    fn adamw(&self, moments: Dtype) -> Outcome<bool> {
        let n = self.size(1 << 27, 1 << 14);
        let [p, g, m] = [1, 2, 3].map(|seed| numbers(n, seed));
        let v: Vec<bf16> = numbers(n, 4).iter().map(|x| bf16::from_f32(x.to_f32().abs())).collect();
        let moment = |x: &[bf16]| match moments {
            Dtype::Bf16 => self.array(x),
            _ => self.array_f32(&x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>()),
        };
        let (params, grads, first, second) = (self.array(&p)?, self.array(&g)?, moment(&m)?, moment(&v)?);
        let tiles =
            adamw::tiles(&[Segment { start: 0, state_start: 0, len: n, weight_decay: 0.1 }]).expect("one segment");
        let table = Buffer::holding(self.executor, &tiles.bytes)?;
        let (lr, beta1, beta2, eps, step) = (1e-2, 0.9, 0.95, 1e-8, 3);
        let launch = adamw::step(&adamw::Step {
            params: params.operand(),
            master: None,
            grads: grads.operand(),
            first_moment: first.operand(),
            second_moment: second.operand(),
            tiles: &tiles,
            tiles_address: table.address(),
            norm: None,
            rule: AdamWStep { lr, beta1, beta2, eps, step, grad_scale: 1.0 },
            stochastic_seed: None,
        })?;
        let launches = [launch];
        self.launch(&launches)?;
        let got = params.numbers()?;
        let check = samples(n, 4096).into_iter().try_for_each(|i| {
            let [p, g, m, v] = [p[i], g[i], m[i], v[i]].map(|x| x.to_f64());
            let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
            let bias = |beta: f64| 1.0 - beta.powf(step as f64);
            let p = p * (1.0 - lr * 0.1) - lr / bias(beta1) * m / ((v / bias(beta2)).sqrt() + eps);
            near(&format!("params[{i}]"), got[i], p, BF16 * p.abs() + 1e-6)
        });
        let bytes = (3 * 2 + 4 * moments.size_bytes()) as f64 * n as f64;
        let shape = format!("{n} parameters, bf16, moments {moments:?}");
        self.report("adamw", &shape, check, Count::Bytes(bytes), || self.launch(&launches))
    }

    fn rms_norm(&self) -> Outcome<bool> {
        let (rows, dim, eps) = (self.size(16384, 40), self.size(4096, 256), 1e-5);
        let [x, dy] = [1, 2].map(|seed| numbers(rows * dim, seed));
        let weight = numbers(dim, 3);
        let [x_at, dy_at, weight_at] = [self.array(&x)?, self.array(&dy)?, self.array(&weight)?];
        let [out, dx] = [self.empty(rows * dim, Dtype::Bf16)?, self.empty(rows * dim, Dtype::Bf16)?];
        let (rstd, dweight) = (self.empty(rows, Dtype::F32)?, self.array_f32(&vec![0.0; dim])?);
        let scratch = self.empty(rms_norm::scratch_len(rows, dim), Dtype::F32)?;
        let forward = [rms_norm::forward(&rms_norm::Forward {
            out: out.operand(),
            rstd: rstd.operand(),
            x: x_at.operand(),
            add: None,
            weight: weight_at.operand(),
            rows,
            dim,
            eps,
        })?];
        let backward = rms_norm::backward(&rms_norm::Backward {
            dx: dx.operand(),
            write_dx: Mode::Overwrite,
            dweight: Some(dweight.operand()),
            dy: dy_at.operand(),
            x: x_at.operand(),
            weight: weight_at.operand(),
            rstd: rstd.operand(),
            scratch: scratch.operand(),
            rows,
            dim,
        })?;
        self.launch(&forward)?;
        self.launch(&backward)?;
        let [got_out, got_dx, got_dweight, got_rstd] =
            [out.numbers()?, dx.numbers()?, dweight.numbers()?, rstd.numbers()?];
        let row = |x: &[bf16], r: usize| x[r * dim..][..dim].iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
        let w = row(&weight, 0);
        let check_forward = samples(rows, 16).into_iter().try_for_each(|r| {
            let x = row(&x, r);
            let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + eps).sqrt();
            (0..dim).try_for_each(|i| {
                let truth = x[i] * rstd * w[i];
                near(&format!("out[{r}, {i}]"), got_out[r * dim + i], truth, BF16 * truth.abs() + 1e-6)
            })
        });
        let check_backward = samples(rows, 16)
            .into_iter()
            .try_for_each(|r| {
                let (x, dy) = (row(&x, r), row(&dy, r));
                let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / dim as f64 + eps).sqrt();
                let mean = (0..dim).map(|i| dy[i] * w[i] * x[i]).sum::<f64>() / dim as f64;
                (0..dim).try_for_each(|i| {
                    let truth = rstd * (dy[i] * w[i] - x[i] * rstd * rstd * mean);
                    near(&format!("dx[{r}, {i}]"), got_dx[r * dim + i], truth, BF16 * truth.abs() + 1e-5)
                })
            })
            .and_then(|()| {
                samples(dim, 8).into_iter().try_for_each(|i| {
                    let terms = || (0..rows).map(|r| dy[r * dim + i].to_f64() * x[r * dim + i].to_f64() * got_rstd[r]);
                    let scale: f64 = terms().map(f64::abs).sum();
                    near(&format!("dweight[{i}]"), got_dweight[i], terms().sum(), 1e-5 * scale)
                })
            });
        let shape = format!("{rows} rows of {dim}, bf16");
        let bytes = |arrays: usize| Count::Bytes((arrays * 2 * rows * dim) as f64);
        let is_right = self.report("rms_norm_forward", &shape, check_forward, bytes(2), || self.launch(&forward))?;
        Ok(self.report("rms_norm_backward", &shape, check_backward, bytes(3), || self.launch(&backward))? && is_right)
    }

    fn swiglu(&self) -> Outcome<bool> {
        let n = self.size(8192 * 14336, 5000);
        let [gate, up, dout] = [1, 2, 3].map(|seed| numbers(n, seed));
        let [gate_at, up_at, dout_at] = [self.array(&gate)?, self.array(&up)?, self.array(&dout)?];
        let [out, dgate, dup] = [self.empty(n, Dtype::Bf16)?, self.empty(n, Dtype::Bf16)?, self.empty(n, Dtype::Bf16)?];
        let forward =
            [swiglu::forward(&swiglu::Forward { out: out.operand(), gate: gate_at.operand(), up: up_at.operand() })?];
        let backward = [swiglu::backward(&swiglu::Backward {
            dgate: dgate.operand(),
            dup: dup.operand(),
            dout: dout_at.operand(),
            gate: gate_at.operand(),
            up: up_at.operand(),
        })?];
        self.launch(&forward)?;
        self.launch(&backward)?;
        let [got_out, got_dgate, got_dup] = [out.numbers()?, dgate.numbers()?, dup.numbers()?];
        let truth = |i: usize| {
            let [gate, up, dout] = [gate[i], up[i], dout[i]].map(|x| x.to_f64());
            let s = 1.0 / (1.0 + (-gate).exp());
            [gate * s * up, dout * up * s * (1.0 + gate * (1.0 - s)), dout * gate * s]
        };
        let check = |name: &str, which: usize, got: &[f64]| {
            samples(n, 4096).into_iter().try_for_each(|i| {
                let truth = truth(i)[which];
                near(&format!("{name}[{i}]"), got[i], truth, BF16 * truth.abs() + 1e-6)
            })
        };
        let check_forward = check("out", 0, &got_out);
        let check_backward = check("dgate", 1, &got_dgate).and_then(|()| check("dup", 2, &got_dup));
        let shape = format!("{n} numbers, bf16");
        let bytes = |arrays: usize| Count::Bytes((arrays * 2 * n) as f64);
        let is_right = self.report("swiglu_forward", &shape, check_forward, bytes(3), || self.launch(&forward))?;
        Ok(self.report("swiglu_backward", &shape, check_backward, bytes(5), || self.launch(&backward))? && is_right)
    }

    fn cross_entropy(&self) -> Outcome<bool> {
        let (rows, vocab) = (self.size(4096, 6), self.size(128_256, 1003));
        let pitch = vocab.next_multiple_of(8);
        let logits = numbers(rows * pitch, 1);
        let targets: Vec<u32> = (0..rows).map(|r| (mix(r as u64) % vocab as u64) as u32).collect();
        let target_bytes: Vec<u8> = targets.iter().flat_map(|x| x.to_ne_bytes()).collect();
        let targets_at = Buffer::holding(self.executor, &target_bytes)?;
        let logits_at = self.array(&logits)?;
        let [logp, lse] = [self.empty(rows, Dtype::F32)?, self.empty(rows, Dtype::F32)?];
        let weights = self.array_f32(&vec![-1.0; rows])?;
        let launch = |pass| {
            cross_entropy::softmax_gradient(&cross_entropy::SoftmaxGradient {
                logits: logits_at.operand(),
                logp: logp.operand(),
                lse: lse.operand(),
                targets: Indices { address: targets_at.address(), len: rows },
                weights: Some(weights.operand()),
                tokens: None,
                vocab,
                pitch,
                pass,
            })
        };
        let forward = [launch(cross_entropy::Pass::Forward)?];
        let both = [launch(cross_entropy::Pass::ForwardBackward)?];
        self.launch(&both)?;
        let [got_logits, got_logp, got_lse] = [logits_at.numbers()?, logp.numbers()?, lse.numbers()?];
        let check = samples(rows, 8).into_iter().try_for_each(|r| {
            let x: Vec<f64> = logits[r * pitch..][..vocab].iter().map(|x| x.to_f64()).collect();
            let lse = x.iter().map(|x| x.exp()).sum::<f64>().ln();
            let target = targets[r] as usize;
            near(&format!("lse[{r}]"), got_lse[r], lse, 1e-5 * lse)?;
            near(&format!("logp[{r}]"), got_logp[r], x[target] - lse, 1e-5 * lse)?;
            (0..vocab).try_for_each(|j| {
                let truth = (x[j] - lse).exp() - if j == target { 1.0 } else { 0.0 };
                near(&format!("dlogits[{r}, {j}]"), got_logits[r * pitch + j], truth, BF16 * truth.abs() + 1e-8)
            })
        });
        let shape = format!("{rows} rows of {vocab}, bf16");
        let bytes = |arrays: usize| Count::Bytes((arrays * 2 * rows * pitch) as f64);
        let is_right = self.report("cross_entropy_both", &shape, check.clone(), bytes(2), || self.launch(&both))?;
        Ok(self.report("cross_entropy_forward", &shape, check, bytes(1), || self.launch(&forward))? && is_right)
    }

    // ---- Products ----

    /// The matmuls of a step of an 8B Llama over 8192 tokens, and of one new token for each of 64 sequences.
    fn product_shapes(&self) -> Vec<Shape> {
        let forward = |m, n, k| Shape { m, n, k, transpose_a: false, transpose_b: true, to_f32: false };
        let input_gradient = |m, n, k| Shape { transpose_b: false, ..forward(m, n, k) };
        let weight_gradient =
            |m, n, k| Shape { transpose_a: true, transpose_b: false, to_f32: true, ..forward(m, n, k) };
        if self.is_small {
            return vec![forward(70, 136, 96), input_gradient(33, 64, 200), weight_gradient(64, 72, 130)];
        }
        vec![
            forward(8192, 4096, 4096),
            forward(8192, 14336, 4096),
            forward(8192, 4096, 14336),
            input_gradient(8192, 4096, 14336),
            weight_gradient(14336, 4096, 8192),
            Shape { to_f32: true, ..forward(1024, 128_256, 4096) },
            forward(64, 4096, 4096),
            forward(64, 14336, 4096),
        ]
    }

    /// By the device's library, where there is one, and by our own kernel.
    fn matmul(&self, shape: Shape) -> Outcome<bool> {
        let Shape { m, n, k, transpose_a, transpose_b, to_f32 } = shape;
        let [a, b] = [numbers(m * k, 1), numbers(k * n, 2)];
        let [a_at, b_at] = [self.array(&a)?, self.array(&b)?];
        let matrix = |array: &Array<'_>, pitch| Matrix { elements: array.operand(), pitch };
        let mut all_right = true;
        for is_own in [false, true] {
            // fresh, so that neither is checked by the other's result
            let c = self.empty(m * n, if to_f32 { Dtype::F32 } else { Dtype::Bf16 })?;
            let product = Product {
                m,
                n,
                k,
                a: matrix(&a_at, if transpose_a { m } else { k }),
                transpose_a,
                b: matrix(&b_at, if transpose_b { k } else { n }),
                transpose_b,
                c: matrix(&c, n),
                write: Mode::Overwrite,
            };
            let own = [matmul::launch(&product)?];
            let multiply = || {
                if is_own {
                    return Some(self.launch(&own));
                }
                // SAFETY: the operands are arrays of this executor, and the launcher has found them right.
                unsafe { self.executor.multiply(&product) }
            };
            let Some(done) = multiply() else { continue };
            done?;
            let got = c.numbers()?;
            let check = samples(m * n, 256).into_iter().try_for_each(|at| {
                let (i, j) = (at / n, at % n);
                let a = |p: usize| a[if transpose_a { p * m + i } else { i * k + p }].to_f64();
                let b = |p: usize| b[if transpose_b { j * k + p } else { p * n + j }].to_f64();
                let truth: f64 = (0..k).map(|p| a(p) * b(p)).sum();
                // k terms of at most 4 in f32, and the rounding of what is stored
                let sum = 8.0 * 4.0 * (k as f64).sqrt() / f64::from(1 << 24);
                near(&format!("c[{i}, {j}]"), got[at], truth, sum + if to_f32 { 0.0 } else { BF16 * truth.abs() })
            });
            let name = if is_own { "matmul_own" } else { "matmul_cublaslt" };
            let transposes = match (transpose_a, transpose_b) {
                (false, true) => "a b^T",
                (true, false) => "a^T b",
                _ => "a b",
            };
            let what = format!("{m} x {n} x {k}, {transposes}, bf16{}", if to_f32 { " to f32" } else { "" });
            let count = Count::Operations(2.0 * (m * n) as f64 * k as f64);
            let run = || multiply().unwrap_or(Ok(()));
            all_right &= self.report(name, &what, check, count, run)?;
        }
        Ok(all_right)
    }

    // ---- Attention ----

    /// One new token of each sequence, with the heads of an 8B Llama.
    fn decode(&self, sequences: usize, len: usize) -> Outcome<bool> {
        let (num_heads, num_kv_heads, e) = (self.size(32, 4), self.size(8, 2), self.size(128, 64));
        let heads = Heads { num_heads, num_kv_heads, head_dim: e, scale: 1.0 / (e as f64).sqrt(), window: None };
        let q = numbers(sequences * num_heads * e, 1);
        let [k, v] = [2, 3].map(|seed| numbers(sequences * len * num_kv_heads * e, seed));
        let [q_at, k_at, v_at] = [self.array(&q)?, self.array(&k)?, self.array(&v)?];
        let out = self.empty(q.len(), Dtype::Bf16)?;
        let scratch = self.empty(attention::decode_scratch_len(sequences, 1, len, heads), Dtype::F32)?;
        // a slot for each sequence, last first; the newest has the fewest tokens
        let slot = |sequence: usize| sequences - 1 - sequence;
        let length = |sequence: usize| len - sequence;
        let words = |of: &dyn Fn(usize) -> usize| -> Vec<u8> {
            (0..sequences).flat_map(|sequence| (of(sequence) as u32).to_ne_bytes()).collect()
        };
        let [table, lens] =
            [Buffer::holding(self.executor, &words(&slot))?, Buffer::holding(self.executor, &words(&length))?];
        let launches = attention::decode(&attention::Decode {
            out: out.operand(),
            q: q_at.operand(),
            k_cache: k_at.operand(),
            v_cache: v_at.operand(),
            table: Indices { address: table.address(), len: sequences },
            seq_lens: Indices { address: lens.address(), len: sequences },
            page_tokens: len,
            scratch: scratch.operand(),
            heads,
        })?;
        self.launch(&launches)?;
        let got = out.numbers()?;
        let wide = |x: &[bf16]| x.iter().map(|x| x.to_f64()).collect::<Vec<f64>>();
        let check = samples(sequences * num_heads, 6).into_iter().try_for_each(|row| {
            let (sequence, head) = (row / num_heads, row % num_heads);
            let key_head = head / (num_heads / num_kv_heads);
            let at = |token: usize| ((slot(sequence) * len + token) * num_kv_heads + key_head) * e;
            let query = wide(&q[row * e..][..e]);
            let scores: Vec<f64> =
                (0..length(sequence)).map(|t| heads.scale * dot(&query, &wide(&k[at(t)..][..e]))).collect();
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - best).exp()).sum();
            let mut truth = vec![0.0; e];
            scores
                .iter()
                .enumerate()
                .for_each(|(t, s)| add(&mut truth, (s - best).exp() / total, &wide(&v[at(t)..][..e])));
            rows_near(&format!("out[{sequence}, {head}]"), &got[row * e..][..e], &truth)
        });
        let tokens: usize = (0..sequences).map(length).sum();
        let shape = format!("{sequences} sequences of {len}, {num_heads}/{num_kv_heads} heads of {e}, bf16");
        let bytes = Count::Bytes((2 * 2 * tokens * num_kv_heads * e) as f64);
        self.report("attention_decode", &shape, check, bytes, || self.launch(&launches))
    }

    /// Heads and the lengths of documents: 16k tokens at each length as the published tables have them, then the heads of an
    /// 8B Llama alone and packed. The same as in `bench/peers/attention_torch.py`.
    fn attention_shapes(&self) -> Vec<(Heads, Vec<usize>)> {
        let heads = |num_heads, num_kv_heads, head_dim: usize| Heads {
            num_heads,
            num_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            window: None,
        };
        if self.is_small {
            return vec![(heads(2, 1, 64), vec![70, 130]), (heads(1, 1, 128), vec![140])];
        }
        let mut shapes = Vec::new();
        for (head_dim, num_heads) in [(128, 16), (64, 32)] {
            for length in [1024, 2048, 4096, 8192, 16384] {
                shapes.push((heads(num_heads, num_heads, head_dim), vec![length; 16384 / length]));
            }
        }
        let packed = vec![3000, 57, 1200, 13, 700, 333, 128, 1501, 64, 410, 5, 781];
        shapes.push((heads(32, 8, 128), vec![8192]));
        shapes.push((heads(32, 8, 128), packed));
        shapes
    }

    fn attention(&self, heads: Heads, documents: &[usize]) -> Outcome<bool> {
        let Heads { num_heads, num_kv_heads, head_dim: e, .. } = heads;
        let n: usize = documents.iter().sum();
        let mut cu_seqlens = vec![0u32];
        documents.iter().for_each(|len| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + *len as u32));
        let [queries, keys] = [num_heads, num_kv_heads].map(|heads| n * heads * e);
        let case = Case {
            q: numbers(queries, 1),
            k: numbers(keys, 2),
            v: numbers(keys, 3),
            dout: numbers(queries, 4),
            cu_seqlens: &cu_seqlens,
            heads,
        };
        let [q, k, v, dout] =
            [self.array(&case.q)?, self.array(&case.k)?, self.array(&case.v)?, self.array(&case.dout)?];
        let tiles = Tiles::new(&cu_seqlens)?;
        let word_bytes: Vec<u8> = tiles.words().iter().flat_map(|x| x.to_ne_bytes()).collect();
        let words = Buffer::holding(self.executor, &word_bytes)?;
        let placed = tiles.placed_at(Indices { address: words.address(), len: tiles.words().len() })?;
        let multiprocessors = self.gpu.map_or(2, |gpu| gpu.device().multiprocessors);
        let (capability, shared_bytes) = (self.executor.compute_capability(), self.executor.max_shared_bytes());
        let targets = match Target::of(capability, multiprocessors, shared_bytes) {
            best @ Target::Hopper { .. } => vec![Target::Ampere, best],
            best => vec![best],
        };
        let mut all_right = true;
        for target in targets {
            // fresh ones, so that no kernel is checked by another's results
            let [out, dq] = [self.empty(queries, Dtype::Bf16)?, self.empty(queries, Dtype::Bf16)?];
            let [dk, dv] = [self.empty(keys, Dtype::Bf16)?, self.empty(keys, Dtype::Bf16)?];
            let lse = self.empty(n * num_heads, Dtype::F32)?;
            let statistics = self.empty(attention::statistics_len(n, heads), Dtype::F32)?;
            let forward = attention::forward(&attention::Forward {
                out: out.operand(),
                out_f32: None,
                lse: lse.operand(),
                q: q.operand(),
                k: k.operand(),
                v: v.operand(),
                tiles: placed,
                heads,
                target,
            })?;
            let backward = attention::backward(&attention::Backward {
                dq: dq.operand(),
                dk: dk.operand(),
                dv: dv.operand(),
                dout: dout.operand(),
                out: out.operand(),
                lse: lse.operand(),
                q: q.operand(),
                k: k.operand(),
                v: v.operand(),
                statistics: statistics.operand(),
                tiles: placed,
                heads,
                target,
            })?;
            self.launch(&forward)?;
            self.launch(&backward)?;
            let (out, lse) = (out.numbers()?, lse.numbers()?);
            let check_forward = case.check_forward(&out, &lse);
            let check_backward = check_forward
                .clone()
                .and_then(|()| case.check_backward(&out, &lse, &dq.numbers()?, [&dk.numbers()?, &dv.numbers()?]));
            let operations: f64 = documents.iter().map(|&len| (2 * num_heads * e * len * len) as f64).sum();
            let name = if matches!(target, Target::Hopper { .. }) { "sm90" } else { "sm80" };
            let lengths = match documents {
                [len, rest @ ..] if rest.iter().all(|other| other == len) => format!("{} x {len}", documents.len()),
                _ => format!("{n} tokens in {} documents", documents.len()),
            };
            let shape = format!("{lengths}, {num_heads}/{num_kv_heads} heads of {e}, causal");
            let [forward_count, backward_count] = [1.0, 2.5].map(|times| Count::Operations(times * operations));
            all_right &=
                self.report(&format!("attention_forward_{name}"), &shape, check_forward, forward_count, || {
                    self.launch(&forward)
                })?;
            all_right &=
                self.report(&format!("attention_backward_{name}"), &shape, check_backward, backward_count, || {
                    self.launch(&backward)
                })?;
        }
        Ok(all_right)
    }
}

/// Attention over given numbers, whose truth is computed for a few rows in f64.
struct Case<'c> {
    q: Vec<bf16>,
    k: Vec<bf16>,
    v: Vec<bf16>,
    dout: Vec<bf16>,
    cu_seqlens: &'c [u32],
    heads: Heads,
}

/// The error allowed, as a part of a row's largest number: probabilities and gradients of scores are rounded to bf16, whose errors of 2^-9 add up like a random
/// walk as their terms do; a wrong tile or factor is off by the size of the numbers.
const OF_ROW: f64 = 0.03;

impl Case<'_> {
    /// `[token, head]` of an array with that many heads.
    fn row(&self, x: &[bf16], token: usize, num_heads: usize, head: usize) -> Vec<f64> {
        let e = self.heads.head_dim;
        x[(token * num_heads + head) * e..][..e].iter().map(|x| x.to_f64()).collect()
    }

    fn query_row(&self, x: &[bf16], token: usize, head: usize) -> Vec<f64> {
        self.row(x, token, self.heads.num_heads, head)
    }

    /// The first number of the key head that a query head reads.
    fn key_row(&self, x: &[bf16], token: usize, head: usize) -> Vec<f64> {
        let Heads { num_heads, num_kv_heads, .. } = self.heads;
        self.row(x, token, num_kv_heads, head / (num_heads / num_kv_heads))
    }

    /// Tokens with the bounds of their documents, and heads: random ones, and the last of each of the first documents.
    fn sampled(&self) -> Vec<(usize, usize, usize, usize)> {
        let n = self.cu_seqlens[self.cu_seqlens.len() - 1] as usize;
        let mut tokens = samples(n, 6);
        tokens.extend(self.cu_seqlens[1..].iter().take(3).map(|end| *end as usize - 1));
        let bounds = |token: usize| {
            let next = self.cu_seqlens.partition_point(|start| *start as usize <= token);
            (self.cu_seqlens[next - 1] as usize, self.cu_seqlens[next] as usize)
        };
        let tokens = tokens.into_iter().enumerate();
        tokens.map(|(i, token)| (token, bounds(token).0, bounds(token).1, i * 5 % self.heads.num_heads)).collect()
    }

    fn check_forward(&self, out: &[f64], lse: &[f64]) -> Result<(), String> {
        let Heads { num_heads, head_dim: e, scale, .. } = self.heads;
        self.sampled().into_iter().try_for_each(|(i, start, _, head)| {
            let q = self.query_row(&self.q, i, head);
            let scores: Vec<f64> = (start..=i).map(|j| scale * dot(&q, &self.key_row(&self.k, j, head))).collect();
            let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let truth_lse = best + scores.iter().map(|s| (s - best).exp()).sum::<f64>().ln();
            near(&format!("lse[{i}, {head}]"), lse[i * num_heads + head], truth_lse, 1e-3)?;
            let mut truth = vec![0.0; e];
            for (j, s) in (start..=i).zip(&scores) {
                add(&mut truth, (s - truth_lse).exp(), &self.key_row(&self.v, j, head));
            }
            rows_near(&format!("out[{i}, {head}]"), &out[(i * num_heads + head) * e..][..e], &truth)
        })
    }

    /// With the log-sums and outputs of the device, which [`Case::check_forward`] has seen to.
    fn check_backward(&self, out: &[f64], lse: &[f64], dq: &[f64], [dk, dv]: [&[f64]; 2]) -> Result<(), String> {
        let Heads { num_heads, num_kv_heads, head_dim: e, scale, .. } = self.heads;
        let group = num_heads / num_kv_heads;
        // the probability and the gradient of the score of query i with key j
        let pair = |i: usize, j: usize, head: usize| {
            let at = i * num_heads + head;
            let dout = self.query_row(&self.dout, i, head);
            let score = scale * dot(&self.query_row(&self.q, i, head), &self.key_row(&self.k, j, head));
            let p = (score - lse[at]).exp();
            (p, p * (dot(&dout, &self.key_row(&self.v, j, head)) - dot(&dout, &out[at * e..][..e])))
        };
        self.sampled().into_iter().try_for_each(|(i, start, end, head)| {
            let mut truth = vec![0.0; e];
            for j in start..=i {
                add(&mut truth, scale * pair(i, j, head).1, &self.key_row(&self.k, j, head));
            }
            rows_near(&format!("dq[{i}, {head}]"), &dq[(i * num_heads + head) * e..][..e], &truth)?;
            let (j, key_head) = (i, head / group);
            let [mut truth_dk, mut truth_dv] = [vec![0.0; e], vec![0.0; e]];
            for (i, head) in (j..end).flat_map(|i| (key_head * group..(key_head + 1) * group).map(move |h| (i, h))) {
                let (p, ds) = pair(i, j, head);
                add(&mut truth_dk, scale * ds, &self.query_row(&self.q, i, head));
                add(&mut truth_dv, p, &self.query_row(&self.dout, i, head));
            }
            let at = (j * num_kv_heads + key_head) * e;
            rows_near(&format!("dk[{j}, {key_head}]"), &dk[at..][..e], &truth_dk)?;
            rows_near(&format!("dv[{j}, {key_head}]"), &dv[at..][..e], &truth_dv)
        })
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn add(sum: &mut [f64], factor: f64, x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
}

fn rows_near(what: &str, got: &[f64], truth: &[f64]) -> Result<(), String> {
    // the last part: a row of nothing but cancelled roundings
    let allowed = OF_ROW * truth.iter().fold(0.0f64, |most, x| most.max(x.abs())) + 5e-4;
    got.iter()
        .zip(truth)
        .enumerate()
        .try_for_each(|(i, (got, truth))| near(&format!("{what}[{i}]"), *got, *truth, allowed))
}

// ---- Numbers ----

/// A result in bf16 may be off by one unit in the last place: half of one by rounding, the rest where f32 lands on the other side.
const BF16: f64 = 1.0 / 128.0;

fn near(what: &str, got: f64, truth: f64, allowed: f64) -> Result<(), String> {
    // written so that NaN fails
    let holds = (got - truth).abs() <= allowed;
    if holds { Ok(()) } else { Err(format!("{what} is {got}, but the truth is {truth}; {allowed:e} are allowed")) }
}

struct Array<'e> {
    buffer: Buffer<'e>,
    len: usize,
    dtype: Dtype,
}

impl Array<'_> {
    fn operand(&self) -> Operand {
        Operand { address: self.buffer.address(), len: self.len, dtype: self.dtype }
    }

    fn numbers(&self) -> Result<Vec<f64>, String> {
        let bytes = self.buffer.to_vec().map_err(|error| error.to_string())?;
        Ok(match self.dtype {
            Dtype::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_ne_bytes([b[0], b[1]]).to_f64()).collect(),
            _ => bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]).into()).collect(),
        })
    }
}

/// Steele, Lea and Flood 2014, SplitMix64: fast enough for a billion numbers.
fn mix(i: u64) -> u64 {
    let z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in -2..2, so that some probabilities are large.
fn numbers(len: usize, seed: u64) -> Vec<bf16> {
    let number = |i: usize| (mix((seed << 40) + i as u64 + 1) >> 40) as f32 / (1u64 << 22) as f32 - 2.0;
    (0..len).map(|i| bf16::from_f32(number(i))).collect()
}

/// That many places below `len`, and the last.
fn samples(len: usize, count: usize) -> Vec<usize> {
    (0..count).map(|i| (mix(i as u64 + 77) % len as u64) as usize).chain([len - 1]).collect()
}
