//! Every kernel of this machine, and models of those that it may lack.

use super::*;
use crate::attention::cases::{Case, NAMES, Outputs, case, plain, root_mean_square, truth};
use crate::cuda::tests::cases::{numbers, to_f32, wide};
use crate::matmul::bf16::tests::kernels;
use crate::tolerance::floor;

fn run(kernel: &Kernel, c: &Case) -> Outputs<f32> {
    let [q, k, v, dout] = [&c.q, &c.k, &c.v, &c.dout].map(|x| to_f32(x));
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

fn with_window(mut c: Case, window: Option<usize>) -> Case {
    c.heads.window = window;
    c
}

/// At most twice as far from the truth as the plain version, at the worst number and in the mean, but for what a result that should be 0
/// may keep of sums in f32.
fn assert_right(what: &str, got: &[f64], plain: &[f64], truth: &[f64], head_dim: usize) {
    let worst = |x: &[f64]| x.iter().zip(truth).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    for (rule, error, yardstick) in [
        ("at the worst", worst(got), worst(plain)),
        ("in the mean", root_mean_square(got, truth), root_mean_square(plain, truth)),
    ] {
        // written so that NaN fails
        let holds = error <= 2.0 * yardstick + floor(4.0, head_dim);
        assert!(holds, "{what}: {rule} off by {error:e}, the plain version by {yardstick:e}");
    }
}

#[test]
fn every_kernel_is_at_most_twice_as_far_from_the_truth_as_plain_bf16() {
    for (documents, num_heads, num_kv_heads, head_dim, window) in [
        (&[1][..], 1, 1, 1, None),
        // shorter and longer than tiles of queries and keys, and none
        (&[31, 0, 1, 97, 200], 2, 1, 64, None),
        (&[130, 33], 3, 3, 40, None),
        // lanes that do not fill their panels
        (&[130], 6, 2, 24, None),
        // more than a span of queries
        (&[560], 2, 2, 16, None),
        // a tile that one token's heads fill, and more than fill
        (&[50, 7], 64, 1, 8, None),
        (&[40], 70, 1, 20, None),
        // longer sums than a kernel takes at once
        (&[40], 1, 1, 600, None),
        // windows: the token alone, a few, less than a tile of keys, a tile, more than a tile, more than the longest document
        (&[31, 0, 1, 97, 200], 2, 1, 16, Some(1)),
        (&[31, 0, 1, 97, 200], 2, 1, 16, Some(2)),
        (&[130, 33], 3, 3, 40, Some(31)),
        (&[31, 0, 1, 97, 200], 2, 1, 16, Some(KEYS)),
        (&[560], 6, 2, 16, Some(129)),
        (&[130, 33], 3, 3, 40, Some(1000)),
        (&[40], 70, 1, 20, Some(7)),
    ] {
        let c = with_window(uneven(documents, num_heads, num_kv_heads, head_dim), window);
        let (truth, plain) = (truth(&c), plain(&c));
        let mut of_vectors: Option<Outputs<f32>> = None;
        for (name, kernel) in kernels() {
            let got = run(kernel, &c);
            for i in 0..5 {
                let heads = format!("{num_heads}/{num_kv_heads} of {head_dim}, window {window:?}");
                let what = format!("{} of {documents:?}, {heads}, {name}", NAMES[i]);
                assert_right(&what, &wide(&got[i]), &plain[i], &truth[i], head_dim);
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
    for c in [None, Some(50)].map(|window| with_window(c.clone(), window)) {
        for (name, kernel) in kernels() {
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| run(kernel, &c))
            };
            assert!(on(1) == on(2), "{name}, window {:?}", c.heads.window);
        }
    }
}

#[test]
fn other_documents_and_the_future_change_no_bit() {
    let documents = [70, 150, 110];
    let c = uneven(&documents, 4, 2, 16);
    let (mut others, mut future) = (c.clone(), c.clone());
    for (c, tokens, number) in [(&mut others, 70..220, 1e18), (&mut future, 200..220, -3.0)] {
        for (x, heads) in [(&mut c.q, 4), (&mut c.k, 2), (&mut c.v, 2)] {
            x[tokens.start * heads * 16..tokens.end * heads * 16].fill(number);
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
