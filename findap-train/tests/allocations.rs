//! No allocation after a session is built: a step of cross-entropy training asks the allocator for nothing.
//!
//! The test has a binary of its own, because it counts every allocation of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use findap_data::Batch;
use findap_model::session::SessionOptions;
use findap_model::{Decoder, Dtype, Recompute, Session};
use findap_tensor::ops::reduce;
use findap_tensor::{Device, StepStats};
use findap_train::objective::cross_entropy_weights;
use findap_train::optimizer::{AdamW, AdamWOptions, StateFormat};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_allocates_nothing() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    let cases = [(Recompute::None, Dtype::F32), (Recompute::Block, Dtype::F32), (Recompute::None, Dtype::Bf16)];
    for (recompute, dtype) in cases {
        let counts = pool.install(|| steps(recompute, dtype));
        // A thread makes its scratch memory when it first has a part in an operation, which may be in any step.
        let without = counts.iter().filter(|count| **count == 0).count();
        assert!(without >= 3, "allocations of each step with {recompute:?} in {dtype}: {counts:?}");
    }
}

/// Allocations of each of several steps.
fn steps(recompute: Recompute, dtype: Dtype) -> Vec<usize> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let mut model = Decoder::load(folder, dtype).expect("the golden model");
    let lengths = [100, 37, 63];
    let n: usize = lengths.iter().sum();
    let mut ids = (0..n as u32).map(|t| 7 + t * 31 % 1000);
    let mut batch = Batch::new();
    for length in lengths {
        batch.push_unmasked(&ids.by_ref().take(length).collect::<Vec<u32>>());
    }
    let gradients = Some(Dtype::F32);
    let options =
        SessionOptions { dtype, max_tokens: n, max_positions: 100, recompute, gradients, frozen_blocks: 0, lora: None };
    let mut session = Session::new(&model.config, options);
    let mut gradients = model.zero_gradients().expect("memory");
    let mut optimizer =
        AdamW::new(&model.params, gradients.spec(), AdamWOptions::default(), StateFormat::Full).expect("memory");
    let mut stats = StepStats::new(&Device::Cpu).expect("memory");
    let mut weights = Vec::with_capacity(n);
    let mut counts = Vec::with_capacity(8);
    for step in 1..=8 {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        stats.begin().expect("zeros");
        reduce::clear(gradients.tensor_mut()).expect("zeros");
        cross_entropy_weights(&batch.targets, n - lengths.len(), &mut weights);
        let pass = session.forward(&model, (&batch).into()).expect("a pass");
        let log_probs = pass.backward(&batch.targets, &weights, &mut gradients).expect("a step");
        log_probs.add_loss(&mut stats, 1.0).expect("a loss");
        optimizer.step(&mut model.params, &gradients, &mut stats, step, 1e-3).expect("an update");
        stats.close().expect("a step");
        assert!(stats.read().expect("its sums").are_finite());
        counts.push(ALLOCATIONS.load(Ordering::Relaxed) - before);
    }
    counts
}
