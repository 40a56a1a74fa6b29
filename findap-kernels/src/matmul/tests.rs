use half::bf16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn call(shape: Shape, a: Slice<'_>, b: Slice<'_>, c: SliceMut<'_>) -> Result<(), KernelError> {
    let Shape { m, n, k, transpose_a, transpose_b, write } = shape;
    gemm(Gemm { m, n, k, a, transpose_a, b, transpose_b, c, write })
}

/// One product in f32, f64 and with a bf16 weight against the definition in f64.
fn check(m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool, write: Write) {
    let shape = Shape { m, n, k, transpose_a, transpose_b, write };
    let (a, b, c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (a64, b64) = (wide(&a), wide(&b));
    let mut truth = wide(&c);
    reference::gemm(shape, &a64, &b64, &mut truth);
    // Recursive summation of k products of numbers below 1: error at most (k + 1) u k, and sqrt(k) u k in practice.
    let bound = |unit: f64| 4.0 * unit * (k as f64 + 1.0) * (k as f64).sqrt().max(1.0);

    let mut c32 = c.clone();
    call(shape, (&a[..]).into(), (&b[..]).into(), (&mut c32[..]).into()).unwrap();
    let mut c64 = wide(&c);
    call(shape, (&a64[..]).into(), (&b64[..]).into(), (&mut c64[..]).into()).unwrap();
    for i in 0..m * n {
        assert!((f64::from(c32[i]) - truth[i]).abs() <= bound(f64::from(f32::EPSILON) / 2.0), "f32 {m} {n} {k} at {i}");
        assert!((c64[i] - truth[i]).abs() <= bound(f64::EPSILON / 2.0), "f64 {m} {n} {k} at {i}");
    }

    let b16: Vec<bf16> = b.iter().map(|&x| bf16::from_f32(x)).collect();
    let rounded: Vec<f32> = b16.iter().map(|x| x.to_f32()).collect();
    let (mut narrow, mut widened) = (c.clone(), c.clone());
    call(shape, (&a[..]).into(), (&b16[..]).into(), (&mut narrow[..]).into()).unwrap();
    call(shape, (&a[..]).into(), (&rounded[..]).into(), (&mut widened[..]).into()).unwrap();
    assert_eq!(narrow, widened, "widening bf16 is exact");
}

#[test]
fn every_transpose_and_write_mode_agrees_with_the_definition() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (1, 300, 64), (257, 19, 31), (130, 514, 129), (4, 4, 0)] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            for write in [Write::Overwrite, Write::Accumulate] {
                check(m, n, k, ta, tb, write);
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (515, 200, 129);
    let (a, b) = (numbers(m * k, 4), numbers(k * n, 5));
    let run = |threads| {
        let mut c = vec![f32::NAN; m * n];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (a, b) = ((&a[..]).into(), (&b[..]).into());
        pool.install(|| {
            let c = (&mut c[..]).into();
            gemm(Gemm { m, n, k, a, transpose_a: false, b, transpose_b: true, c, write: Write::Overwrite }).unwrap();
        });
        c
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn a_row_depends_on_no_other_row() {
    let (m, n, k) = (200, 96, 64);
    let (mut a, b) = (numbers(m * k, 6), numbers(k * n, 7));
    let run = |a: &[f32]| {
        let mut c = vec![0.0f32; m * n];
        let (a, b, c_out) = (a.into(), (&b[..]).into(), (&mut c[..]).into());
        gemm(Gemm { m, n, k, a, transpose_a: false, b, transpose_b: true, c: c_out, write: Write::Overwrite }).unwrap();
        c
    };
    let before = run(&a);
    a[..50 * k].fill(1e30);
    let after = run(&a);
    assert_eq!(before[50 * n..], after[50 * n..]);
}

#[test]
fn wrong_lengths_and_formats_are_refused() {
    let (a, b) = (vec![0.0f32; 6], vec![0.0f64; 6]);
    let mut c = vec![0.0f32; 4];
    let result = gemm(Gemm {
        m: 2,
        n: 2,
        k: 2,
        a: (&a[..]).into(),
        transpose_a: false,
        b: (&b[..4]).into(),
        transpose_b: false,
        c: (&mut c[..]).into(),
        write: Write::Overwrite,
    });
    assert!(matches!(result, Err(KernelError::ShapeMismatch { arg: "a", want: 4, got: 6, .. })));
    let result = gemm(Gemm {
        m: 2,
        n: 2,
        k: 3,
        a: (&a[..]).into(),
        transpose_a: false,
        b: (&b[..]).into(),
        transpose_b: false,
        c: (&mut c[..]).into(),
        write: Write::Overwrite,
    });
    assert!(matches!(result, Err(KernelError::UnsupportedDtype { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_shape_agrees_with_the_definition(m in 0usize..70, n in 0usize..70, k in 0usize..70, ta: bool, tb: bool, add: bool) {
        check(m, n, k, ta, tb, if add { Write::Accumulate } else { Write::Overwrite });
    }
}
