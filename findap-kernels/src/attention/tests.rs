use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cases::{Case, on_cpu};
use super::*;

const EMPTY: [u32; 2] = [0, 0];

fn case(documents: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Case {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut cu_seqlens = vec![0];
    documents.iter().for_each(|len| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len));
    let n = cu_seqlens[documents.len()] as usize;
    let mut numbers =
        |heads: usize| (0..n * heads * head_dim).map(|_| rng.random_range(-2.0..2.0)).collect::<Vec<f64>>();
    let (q, k, v) = (numbers(num_heads), numbers(num_kv_heads), numbers(num_kv_heads));
    Case {
        dout: vec![0.0; q.len()],
        q,
        k,
        v,
        cu_seqlens,
        heads: Heads { num_heads, num_kv_heads, head_dim, scale: 0.37, window: None },
    }
}

fn run32(c: &Case) -> (Vec<f32>, Vec<f32>) {
    let [out, lse, ..] = on_cpu(c, Dtype::F32);
    (out, lse)
}

fn run64(c: &Case) -> (Vec<f64>, Vec<f64>) {
    let [out, lse, ..] = on_cpu(c, Dtype::F64);
    (out, lse)
}

fn backward32(c: &Case, dout: &[f64]) -> [Vec<f32>; 3] {
    let [_, _, dqkv @ ..] = on_cpu(&Case { dout: dout.to_vec(), ..c.clone() }, Dtype::F32);
    dqkv
}

fn backward64(c: &Case, dout: &[f64]) -> [Vec<f64>; 3] {
    let [_, _, dqkv @ ..] = on_cpu(&Case { dout: dout.to_vec(), ..c.clone() }, Dtype::F64);
    dqkv
}

/// None, a token alone, a few, those of half a tile, of a tile, and more than there are.
const WINDOWS: [Option<usize>; 7] = [None, Some(1), Some(2), Some(17), Some(64), Some(65), Some(1000)];

fn with_window(mut c: Case, window: Option<usize>) -> Case {
    c.heads.window = window;
    c
}

/// f64 within its rounding, f32 within the rounding of scores of magnitude ~10 through exp: 32 units.
fn check(documents: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize) {
    for window in WINDOWS {
        check_case(documents, &with_window(case(documents, num_heads, num_kv_heads, head_dim), window));
    }
}

fn check_case(documents: &[u32], c: &Case) {
    let (out, lse) = reference::forward(&c.q, &c.k, &c.v, &c.cu_seqlens, c.heads);
    let (out64, lse64) = run64(c);
    let (out32, lse32) = run32(c);
    let what = format!("{documents:?}, window {:?}", c.heads.window);
    for i in 0..out.len() {
        assert!((out64[i] - out[i]).abs() < 1e-12, "{what}: f64 out[{i}]");
        assert!((f64::from(out32[i]) - out[i]).abs() < 64.0 * f64::from(f32::EPSILON), "{what}: f32 out[{i}]");
    }
    for i in 0..lse.len() {
        assert!((lse64[i] - lse[i]).abs() < 1e-12);
        assert!((f64::from(lse32[i]) - lse[i]).abs() < 64.0 * f64::from(f32::EPSILON));
    }
}

#[test]
fn packed_documents_of_ragged_lengths_agree_with_the_definition() {
    check(&[1], 1, 1, 1);
    check(&[5, 1, 64, 65, 63], 2, 1, 16);
    check(&[130, 7], 4, 2, 24);
    check(&[0, 3, 0, 200], 3, 3, 8);
    check(&[], 2, 1, 4);
}

#[test]
fn the_gradients_are_those_of_the_definition() {
    WINDOWS.into_iter().for_each(check_gradients);
}

fn check_gradients(window: Option<usize>) {
    let c = with_window(case(&[70, 1, 9], 4, 2, 6), window);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let dout: Vec<f64> = (0..c.q.len()).map(|_| rng.random_range(-1.0..1.0)).collect();
    let loss = |q: &[f64], k: &[f64], v: &[f64]| {
        reference::forward(q, k, v, &c.cu_seqlens, c.heads).0.iter().zip(&dout).map(|(y, d)| y * d).sum::<f64>()
    };
    let gradients = backward64(&c, &dout);
    let narrow = backward32(&c, &dout);
    let inputs = [&c.q, &c.k, &c.v];
    for which in 0..3 {
        for i in (0..inputs[which].len()).step_by(29) {
            let at = |delta: f64| {
                let mut moved = [c.q.clone(), c.k.clone(), c.v.clone()];
                moved[which][i] += delta;
                loss(&moved[0], &moved[1], &moved[2])
            };
            let numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((gradients[which][i] - numeric).abs() < 1e-8, "window {window:?}, input {which} at {i}");
        }
        for (wide, narrow) in gradients[which].iter().zip(&narrow[which]) {
            assert!((wide - f64::from(*narrow)).abs() < 256.0 * f64::from(f32::EPSILON));
        }
    }
}

#[test]
fn other_documents_and_the_future_change_no_bit() {
    let documents = [40, 90, 30];
    let c = case(&documents, 4, 2, 16);
    let before = run32(&c);
    let dout: Vec<f64> = c.q.iter().map(|x| x.sin()).collect();
    let gradients = backward32(&c, &dout);
    let mut moved = case(&documents, 4, 2, 16);
    let (row_q, row_k) = (4 * 16, 2 * 16);
    for token in 40..130 {
        moved.q[token * row_q..][..row_q].fill(3.0);
        moved.k[token * row_k..][..row_k].fill(-2.0);
        moved.v[token * row_k..][..row_k].fill(1e20);
    }
    let after = run32(&moved);
    let gradients_after = backward32(&moved, &dout);
    for range in [0..40, 130..160] {
        let rows = |x: &[f32], width: usize| x[range.start * width..range.end * width].to_vec();
        assert_eq!(rows(&before.0, row_q), rows(&after.0, row_q));
        assert_eq!(rows(&gradients[0], row_q), rows(&gradients_after[0], row_q));
        assert_eq!(rows(&gradients[1], row_k), rows(&gradients_after[1], row_k));
        assert_eq!(rows(&gradients[2], row_k), rows(&gradients_after[2], row_k));
    }
    let mut future = case(&documents, 4, 2, 16);
    future.k[39 * row_k..40 * row_k].fill(9.0);
    let past = run32(&future);
    assert_eq!(before.0[..39 * row_q], past.0[..39 * row_q]);
    assert_ne!(before.0[39 * row_q..40 * row_q], past.0[39 * row_q..40 * row_q]);
}

#[test]
fn what_a_window_hides_changes_no_bit() {
    for window in [1, 2, 17, 64, 65] {
        let c = with_window(case(&[200], 4, 2, 16), Some(window));
        let (row_q, row_k) = (4 * 16, 2 * 16);
        let mut moved = c.clone();
        let hidden = 150 - window + 1;
        moved.k[..hidden * row_k].fill(9.0);
        moved.v[..hidden * row_k].fill(-1e20);
        for products in [Dtype::F32, Dtype::Bf16] {
            let [before, after] = [&c, &moved].map(|c| on_cpu::<f32>(c, products));
            assert_eq!(before[0][150 * row_q..], after[0][150 * row_q..], "window {window}, {products:?}");
            assert_ne!(before[0][149 * row_q..150 * row_q], after[0][149 * row_q..150 * row_q]);
            assert_eq!(before[2][150 * row_q..], after[2][150 * row_q..], "dq, window {window}, {products:?}");
        }
    }
}

#[test]
fn a_window_that_hides_nothing_changes_no_bit() {
    for products in [Dtype::F32, Dtype::Bf16] {
        let mut c = case(&[130, 1, 97], 4, 2, 16);
        c.dout = c.q.iter().map(|x| x.cos()).collect();
        let [none, wide] = [None, Some(130)].map(|window| on_cpu::<f32>(&with_window(c.clone(), window), products));
        assert!(none == wide, "{products:?}");
    }
}

#[test]
fn every_instruction_set_agrees_with_f64() {
    #[cfg(target_arch = "x86_64")]
    use crate::lanes::{Avx2, Avx512};
    use crate::{isa::Isa, lanes::Portable};
    for (documents, num_heads, kv, e, window) in [
        (&[49, 1, 97][..], 2, 1, 16, None),
        (&[33, 130], 3, 3, 20, Some(40)),
        (&[60], 50, 1, 7, Some(3)),
        (&[60], 50, 1, 7, None),
    ] {
        let c = with_window(case(documents, num_heads, kv, e), window);
        let dout: Vec<f64> = c.q.iter().map(|x| x.cos()).collect();
        let (out64, lse64) = run64(&c);
        let gradients64 = backward64(&c, &dout);
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let [q, k, v, dout] = [&c.q, &c.k, &c.v, &dout].map(|x| narrow(x));
        for isa in Isa::available() {
            let (mut out, mut lse) = (vec![f32::NAN; out64.len()], vec![f32::NAN; lse64.len()]);
            let run = match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => tiles::forward_with::<Avx512>,
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => tiles::forward_with::<Avx2>,
                _ => tiles::forward_with::<Portable>,
            };
            run(&mut out, &mut lse, &q, &k, &v, &c.cu_seqlens, c.heads);
            let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]);
            let run = match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => tiles::backward_with::<Avx512>,
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => tiles::backward_with::<Avx2>,
                _ => tiles::backward_with::<Portable>,
            };
            let saved = cpu::Saved { dout: &dout, out: &out, lse: &lse, q: &q, k: &k, v: &v };
            run(&mut dq, &mut dk, &mut dv, saved, &c.cu_seqlens, c.heads);
            let [wide_q, wide_k, wide_v] = &gradients64;
            for (name, narrow, wide, units) in [
                ("out", &out, &out64, 64.0),
                ("lse", &lse, &lse64, 64.0),
                ("dq", &dq, wide_q, 512.0),
                ("dk", &dk, wide_k, 512.0),
                ("dv", &dv, wide_v, 512.0),
            ] {
                for (i, (x, y)) in narrow.iter().zip(wide).enumerate() {
                    let error = (f64::from(*x) - y).abs();
                    assert!(
                        error <= units * f64::from(f32::EPSILON) * y.abs().max(1.0),
                        "{isa:?} {name}[{i}]: {x} {y}"
                    );
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for window in [None, Some(50)] {
        let mut c = with_window(case(&[100, 33, 64, 328], 4, 2, 16), window);
        c.dout = c.q.iter().map(|x| x.cos()).collect();
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| on_cpu::<f32>(&c, Dtype::F32))
        };
        assert!(on(1) == on(2), "window {window:?}");
    }
}

#[test]
fn decoding_a_token_is_the_last_row_of_the_forward_pass() {
    WINDOWS.into_iter().for_each(check_decoding);
}

fn check_decoding(window: Option<usize>) {
    let c = with_window(case(&[13], 4, 2, 8), window);
    let (out, _) = run64(&c);
    let (slot_len, row) = (20 * 2 * 8, 4 * 8);
    let cache = |x: &[f64]| {
        let mut cache = vec![f64::NAN; 3 * slot_len];
        cache[2 * slot_len..][..x.len()].copy_from_slice(x);
        cache[..x.len()].copy_from_slice(x);
        cache
    };
    let q: Vec<f64> = [&c.q[12 * row..], &c.q[4 * row..5 * row]].concat();
    let mut decoded = vec![f64::NAN; 2 * row];
    decode(Decode {
        out: (&mut decoded[..]).into(),
        q: (&q[..]).into(),
        k_cache: (&cache(&c.k)[..]).into(),
        v_cache: (&cache(&c.v)[..]).into(),
        slots: &[2, 0],
        seq_lens: &[13, 5],
        max_len: 20,
        heads: c.heads,
    })
    .unwrap();
    let want = [&out[12 * row..], &out[4 * row..5 * row]].concat();
    assert!(decoded.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-13));
}

#[test]
fn decoding_in_f32_is_bit_equal_to_the_forward_pass() {
    let shapes = [(1, 1, 1, 4), (33, 4, 2, 16), (100, 6, 2, 24)];
    for ((len, num_heads, kv, e), window) in shapes.into_iter().flat_map(|shape| WINDOWS.map(|window| (shape, window)))
    {
        let c = with_window(case(&[len], num_heads, kv, e), window);
        let (out, _) = run32(&c);
        let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let (q, k, v) = (narrow(&c.q), narrow(&c.k), narrow(&c.v));
        for tokens in 1..=len {
            let row = (tokens as usize - 1) * num_heads * e..tokens as usize * num_heads * e;
            let mut decoded = vec![f32::NAN; num_heads * e];
            decode(Decode {
                out: (&mut decoded[..]).into(),
                q: (&q[row.clone()]).into(),
                k_cache: (&k[..]).into(),
                v_cache: (&v[..]).into(),
                slots: &[0],
                seq_lens: &[tokens],
                max_len: len as usize,
                heads: c.heads,
            })
            .unwrap();
            assert_eq!(decoded, out[row], "{tokens} of {len}, window {window:?}");
        }
    }
}

#[test]
fn boundaries_and_heads_are_checked() {
    let x = [0.0f32; 12];
    let call = |cu_seqlens: &[u32], num_kv_heads, window| {
        let (mut out, mut lse) = ([0.0f32; 12], [0.0f32; 6]);
        forward(Forward {
            out: (&mut out[..]).into(),
            lse: (&mut lse[..]).into(),
            q: (&x[..]).into(),
            k: (&x[..6 * num_kv_heads]).into(),
            v: (&x[..6 * num_kv_heads]).into(),
            cu_seqlens,
            heads: Heads { num_heads: 2, num_kv_heads, head_dim: 2, scale: 1.0, window },
            products: Dtype::F32,
        })
    };
    assert!(matches!(call(&[0, 3], 0, None), Err(KernelError::BadArgument { arg: "num_kv_heads", .. })));
    assert!(matches!(call(&[0, 3], 1, Some(0)), Err(KernelError::BadArgument { arg: "window", .. })));
    for bad in [&[0, 2][..], &[1, 3], &[0, 2, 1, 3], &EMPTY] {
        assert!(matches!(call(bad, 1, None), Err(KernelError::BadOffsets { .. })), "{bad:?}");
    }
    assert_eq!([None, Some(1), Some(usize::MAX)].map(|window| call(&[0, 3], 1, window)), [Ok(()), Ok(()), Ok(())]);
}

/// The plain tiles in f32 are the yardstick of the vector ones.
fn check_precision(documents: &[u32], num_heads: usize, num_kv_heads: usize, head_dim: usize, window: Option<usize>) {
    use crate::tolerance::{BACKWARD, FORWARD, assert_follows, floor, scale};
    // rounded to f32 first, so that all three see the same inputs
    let mut c = with_window(case(documents, num_heads, num_kv_heads, head_dim), window);
    for x in [&mut c.q, &mut c.k, &mut c.v] {
        x.iter_mut().for_each(|x| *x = f64::from(*x as f32));
    }
    let dout: Vec<f64> = c.q.iter().map(|x| f64::from(x.cos() as f32)).collect();
    let longest = documents.iter().max().map_or(0, |&len| len as usize) + head_dim;
    let (out64, lse64) = run64(&c);
    let (out32, lse32) = run32(&c);
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
    let [q, k, v, dout32] = [&c.q, &c.k, &c.v, &dout].map(|x| narrow(x));
    let (mut out, mut lse) = (vec![f32::NAN; q.len()], vec![f32::NAN; lse64.len()]);
    cpu::forward(&mut out, &mut lse, &q, &k, &v, &c.cu_seqlens, c.heads);
    // scores of magnitude s have errors of magnitude u s before the exponential
    let spread = 1.0 + scale(&lse64);
    assert_follows("out", &out32, &out, &out64, FORWARD, floor(spread * scale(&out64), longest));
    assert_follows("lse", &lse32, &lse, &lse64, FORWARD, floor(spread, longest));
    let [dq64, dk64, dv64] = backward64(&c, &dout);
    let [dq32, dk32, dv32] = backward32(&c, &dout);
    let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]);
    let saved = cpu::Saved { dout: &dout32, out: &out, lse: &lse, q: &q, k: &k, v: &v };
    cpu::backward(&mut dq, &mut dk, &mut dv, saved, &c.cu_seqlens, c.heads);
    for (what, got, naive, truth) in [("dq", &dq32, &dq, &dq64), ("dk", &dk32, &dk, &dk64), ("dv", &dv32, &dv, &dv64)] {
        assert_follows(what, got, naive, truth, BACKWARD, floor(spread * scale(truth), longest));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_packing_is_as_precise_as_plain_loops(
        documents in prop::collection::vec(0u32..120, 0..5), group in 1usize..4, kv in 1usize..3, e in 1usize..36,
        // with a window of 1 the gradient of a score is 0 but for rounding, which the truth's size does not bound
        window in prop::option::of(2usize..130)
    ) {
        check_precision(&documents, group * kv, kv, e, window);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_packing_agrees(documents in prop::collection::vec(0u32..80, 0..5), group in 1usize..4, kv in 1usize..3, e in 1usize..20) {
        check(&documents, group * kv, kv, e);
    }
}
