//! Every kernel of this machine, and models of those that it may lack.

use super::*;
use crate::Dtype;
use crate::attention::cases::{Case, NAMES, Outputs, assert_right, case, plain, truth};
use crate::cuda::tests::cases::{narrow, numbers, wide};
use crate::matmul::bf16::tests::kernels;

fn run(kernel: &Kernel, c: &Case) -> Outputs<f32> {
    let [q, k, v, dout] = [&c.q, &c.k, &c.v, &c.dout].map(|x| narrow(x));
    // old contents must not reach a result
    let poisoned = |len| vec![f32::NAN; len];
    let (mut out, mut lse) = (poisoned(q.len()), poisoned(q.len() / c.heads.head_dim));
    let (mut dq, mut dk, mut dv) = (poisoned(q.len()), poisoned(k.len()), poisoned(v.len()));
    poison_memory();
    forward(kernel, &mut out, &mut lse, [&q, &k, &v], &c.cu_seqlens, c.heads);
    let saved = Saved { dout: &dout, out: &out, lse: &lse, q: &q, k: &k, v: &v };
    poison_memory();
    backward(kernel, [&mut dq, &mut dk, &mut dv], saved, &c.cu_seqlens, c.heads);
    [out, lse, dq, dk, dv]
}

/// Neither must what an earlier call left in the memory of a thread.
fn poison_memory() {
    rayon::broadcast(|_| with_scratch(1 << 18, |numbers: &mut [f32]| numbers.fill(f32::NAN)));
}

/// Numbers that bf16 does not have, so that every factor is rounded.
fn uneven(documents: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Case {
    let mut c = case(documents, num_heads, num_kv_heads, head_dim);
    for (seed, x) in [&mut c.q, &mut c.k, &mut c.v, &mut c.dout].into_iter().enumerate() {
        // as f32 has them, for the truth sees the same inputs
        *x = numbers(x.len(), 7 + seed as u64).iter().map(|x| f64::from((2.0 * x) as f32)).collect();
    }
    c
}

#[test]
fn every_kernel_is_at_most_twice_as_far_from_the_truth_as_plain_bf16() {
    for (documents, num_heads, num_kv_heads, head_dim) in [
        (&[1][..], 1, 1, 1),
        // shorter and longer than tiles of queries and keys, and none
        (&[31, 0, 1, 97, 200], 2, 1, 64),
        (&[130, 33], 3, 3, 40),
        // more than a span of queries
        (&[560], 2, 2, 16),
        // a tile that one token's heads fill, and more than fill
        (&[50, 7], 64, 1, 8),
        (&[40], 70, 1, 20),
        // longer sums than a kernel takes at once
        (&[40], 1, 1, 600),
    ] {
        let c = uneven(documents, num_heads, num_kv_heads, head_dim);
        let (truth, plain) = (truth(&c), plain(&c));
        let mut of_vectors: Option<Outputs<f32>> = None;
        for (name, kernel) in kernels() {
            let got = run(kernel, &c);
            for i in 0..5 {
                let what = format!("{} of {documents:?}, {num_heads}/{num_kv_heads} of {head_dim}, {name}", NAMES[i]);
                assert_right("attention rounded", &what, Dtype::Bf16, &wide(&got[i]), &plain[i], &truth[i]);
            }
            // kernels of vectors sum in one order, that of tiles in its own
            if !name.contains("amx") {
                let first = of_vectors.get_or_insert_with(|| got.clone());
                assert!(*first == got, "{name} has other bits: {documents:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let c = uneven(&[100, 33, 64, 560], 4, 2, 16);
    for (name, kernel) in kernels() {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| run(kernel, &c))
        };
        assert!(on(1) == on(2), "{name}");
    }
}

#[test]
fn other_documents_and_the_future_change_no_bit() {
    let documents = [70, 150, 110];
    let c = uneven(&documents, 4, 2, 16);
    let mut others = c.clone();
    let mut future = c.clone();
    for (x, row) in [(0, 4 * 16), (1, 2 * 16), (2, 2 * 16)] {
        let numbers = |c: &mut Case| -> *mut Vec<f64> { [&raw mut c.q, &raw mut c.k, &raw mut c.v][x] };
        // SAFETY: fields of cases that are alive.
        unsafe {
            (&mut *numbers(&mut others))[70 * row..220 * row].fill(1e18);
            (&mut *numbers(&mut future))[200 * row..220 * row].fill(-3.0);
        }
    }
    for (name, kernel) in kernels() {
        let before = run(kernel, &c);
        let after = run(kernel, &others);
        for i in 0..5 {
            let row = before[i].len() / 330;
            for rows in [0..70, 220..330] {
                let range = rows.start * row..rows.end * row;
                assert!(before[i][range.clone()] == after[i][range], "{} by {name}", NAMES[i]);
            }
        }
        let after = run(kernel, &future);
        for i in 0..2 {
            let row = before[i].len() / 330;
            assert!(before[i][..200 * row] == after[i][..200 * row], "{} by {name}", NAMES[i]);
            assert!(before[i][..220 * row] != after[i][..220 * row], "{} by {name}", NAMES[i]);
        }
    }
}
