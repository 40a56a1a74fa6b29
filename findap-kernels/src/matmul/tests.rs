use half::bf16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn shape(m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool) -> Shape {
    Shape { m, n, k, transpose_a, transpose_b, write: Write::Overwrite }
}

fn call(shape: Shape, a: Slice<'_>, b: Slice<'_>, c: SliceMut<'_>) -> Result<(), KernelError> {
    let Shape { m, n, k, transpose_a, transpose_b, write } = shape;
    gemm(Gemm { m, n, k, a, transpose_a, b: b.into(), transpose_b, c, write })
}

/// Largest error allowed in a sum of k products of numbers below 1 in any order, each operation with unit roundoff `unit`:
/// the bound k u sum |a b| <= k u k (Higham, Accuracy and Stability, 3.1), with sqrt(k) for one k because roundings are of
/// either sign, times 4, plus one rounding of the addition to c.
fn bound(k: usize, unit: f64) -> f64 {
    4.0 * unit * (k as f64 + 1.0) * (k as f64).sqrt().max(1.0)
}

/// One product in f32, f64 and with a bf16 weight, on every instruction set of this machine, against the definition in f64.
fn check(shape: Shape) {
    let Shape { m, n, k, .. } = shape;
    let (a, b, c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (a64, b64) = (wide(&a), wide(&b));
    let mut truth = wide(&c);
    reference::gemm(shape, &a64, &b64, &mut truth);
    let b16: Vec<bf16> = b.iter().map(|&x| bf16::from_f32(x)).collect();
    let rounded: Vec<f32> = b16.iter().map(|x| x.to_f32()).collect();
    // Old contents must not reach a result that replaces them.
    let start = |c: &[f32]| if shape.write == Write::Overwrite { vec![f32::NAN; c.len()] } else { c.to_vec() };

    for isa in Isa::available() {
        let (mut c32, mut c64) = (start(&c), wide(&start(&c)));
        cpu::gemm(isa, shape, &a, &b, &mut c32);
        cpu::gemm(isa, shape, &a64, &b64, &mut c64);
        for i in 0..m * n {
            let (error32, error64) = ((f64::from(c32[i]) - truth[i]).abs(), (c64[i] - truth[i]).abs());
            assert!(error32 <= bound(k, f64::from(f32::EPSILON) / 2.0), "{isa:?} f32 {shape:?} at {i}: {error32:e}");
            assert!(error64 <= bound(k, f64::EPSILON / 2.0), "{isa:?} f64 {shape:?} at {i}: {error64:e}");
        }
        let mut panels = cpu::Panels::zeros(isa, k, n);
        panels.pack(&b, shape.transpose_b, [k, n]);
        assert_eq!(panels.numbers.len(), cpu::Panels::len_of(isa, k, n));
        let mut packed = start(&c);
        cpu::gemm_packed(shape, &a, &panels, &mut packed);
        assert_eq!(packed, c32, "packed before: {isa:?} {shape:?}");
        let (mut narrow, mut widened) = (c.clone(), c.clone());
        cpu::gemm(isa, shape, &a, &b16, &mut narrow);
        cpu::gemm(isa, shape, &a, &rounded, &mut widened);
        assert_eq!(narrow, widened, "widening bf16 is exact: {isa:?} {shape:?}");
    }
}

/// Sizes on both sides of a tile, of a group of panels, of a task and of a block of k.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (3, 5, 7),
    (14, 32, 16),
    (17, 33, 65),
    (1, 300, 64),
    (257, 19, 31),
    (61, 65, 385),
    (130, 514, 129),
    (4, 4, 0),
];
const TRANSPOSES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn every_transpose_and_write_mode_agrees_with_the_definition() {
    for (m, n, k) in SIZES {
        for (transpose_a, transpose_b) in TRANSPOSES {
            for write in [Write::Overwrite, Write::Accumulate] {
                check(Shape { write, ..shape(m, n, k, transpose_a, transpose_b) });
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (515, 200, 400);
    let (a, b) = (numbers(m * k, 4), numbers(k * n, 5));
    for (transpose_a, transpose_b) in TRANSPOSES {
        let run = |threads| {
            let mut c = vec![f32::NAN; m * n];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let shape = shape(m, n, k, transpose_a, transpose_b);
            pool.install(|| call(shape, (&a[..]).into(), (&b[..]).into(), (&mut c[..]).into()).unwrap());
            c
        };
        assert_eq!(run(1), run(2));
    }
}

#[test]
fn a_row_depends_neither_on_other_rows_nor_on_their_number() {
    let (m, n, k) = (200, 96, 500);
    let (mut a, b) = (numbers(m * k, 6), numbers(k * n, 7));
    for transpose_b in [false, true] {
        let run = |a: &[f32]| {
            let m = a.len() / k;
            let mut c = vec![0.0f32; m * n];
            call(shape(m, n, k, false, transpose_b), a.into(), (&b[..]).into(), (&mut c[..]).into()).unwrap();
            c
        };
        let before = run(&a);
        for (from, to) in [(0, 1), (7, 9), (50, 63), (190, 200), (3, 130)] {
            assert_eq!(run(&a[from * k..to * k]), before[from * n..to * n], "rows {from}..{to} alone");
        }
        a[..50 * k].fill(1e30);
        assert_eq!(run(&a)[50 * n..], before[50 * n..]);
    }
}

#[test]
fn a_packed_factor_changes_no_bit_on_any_number_of_threads() {
    let (n, k) = (333, 1000);
    let (a, b) = (numbers(40 * k, 8), numbers(n * k, 9));
    let mut packed = Packed::zeros(PackedFormat::F32, k, n);
    packed.pack((&b[..]).into(), true).unwrap();
    assert_eq!(packed.bytes(), Packed::bytes_of(PackedFormat::F32, k, n));
    for m in [1, 5, 40] {
        let run = |threads, b: Factor<'_>| {
            let mut c = vec![f32::NAN; m * n];
            let (a, c_slice) = ((&a[..m * k]).into(), (&mut c[..]).into());
            let args =
                Gemm { m, n, k, a, transpose_a: false, b, transpose_b: true, c: c_slice, write: Write::Overwrite };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| gemm(args).unwrap());
            c
        };
        let stored = run(1, (&b[..]).into());
        assert_eq!(run(1, Factor::Packed(&packed)), stored, "{m} rows");
        assert_eq!(run(2, Factor::Packed(&packed)), stored, "{m} rows");
    }
    // bf16 as it is widened
    let b16: Vec<bf16> = b.iter().map(|&x| bf16::from_f32(x)).collect();
    packed.pack((&b16[..]).into(), true).unwrap();
    let (mut got, mut want) = (vec![0.0f32; n], vec![0.0f32; n]);
    call(shape(1, n, k, false, true), (&a[..k]).into(), (&b16[..]).into(), (&mut want[..]).into()).unwrap();
    let (a, c) = ((&a[..k]).into(), (&mut got[..]).into());
    let b = Factor::Packed(&packed);
    gemm(Gemm { m: 1, n, k, a, transpose_a: false, b, transpose_b: true, c, write: Write::Overwrite }).unwrap();
    assert_eq!(got, want);
}

#[test]
fn wrong_lengths_and_formats_are_refused() {
    let (a, b) = ([0.0f32; 6], [0.0f64; 6]);
    let mut c = [0.0f32; 4];
    let result = call(shape(2, 2, 2, false, false), (&a[..]).into(), (&b[..4]).into(), (&mut c[..]).into());
    assert!(matches!(result, Err(KernelError::ShapeMismatch { arg: "a", want: 4, got: 6, .. })));
    let result = call(shape(2, 2, 3, false, false), (&a[..]).into(), (&b[..]).into(), (&mut c[..]).into());
    assert!(matches!(result, Err(KernelError::UnsupportedDtype { .. })));
    let mut packed = Packed::zeros(PackedFormat::F32, 3, 2);
    assert!(matches!(packed.pack((&b[..]).into(), false), Err(KernelError::UnsupportedDtype { .. })));
    assert!(matches!(packed.pack((&a[..5]).into(), false), Err(KernelError::ShapeMismatch { want: 6, got: 5, .. })));
    let mut multiply = |m, n, k, a: Slice<'_>| {
        let (b, c) = (Factor::Packed(&packed), (&mut c[..]).into());
        gemm(Gemm { m, n, k, a, transpose_a: false, b, transpose_b: false, c, write: Write::Overwrite })
    };
    let result = multiply(2, 2, 2, (&a[..4]).into());
    assert!(matches!(result, Err(KernelError::ShapeMismatch { arg: "b", want: 4, got: 6, .. })));
    let result = multiply(1, 3, 2, (&a[..2]).into());
    assert!(matches!(result, Err(KernelError::ShapeMismatch { .. })));
    let result = multiply(2, 2, 3, (&b[..]).into());
    assert!(matches!(result, Err(KernelError::UnsupportedDtype { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_shape_agrees_with_the_definition(m in 0usize..70, n in 0usize..70, k in 0usize..70, ta: bool, tb: bool, add: bool) {
        let write = if add { Write::Accumulate } else { Write::Overwrite };
        check(Shape { write, ..shape(m, n, k, ta, tb) });
    }
}
