//! Every kernel of this machine, and models of those that it may lack, through the one driver.

use half::bf16;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::matmul::{Factor, Packed, PackedFormat, gemm_in_bf16, reference};
use crate::tolerance::{FORWARD, assert_follows, floor, scale};

mod tile_unit;

const OP: &str = "matmul::gemm";
const TRANSPOSES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn shape(m: usize, n: usize, k: usize, transpose_a: bool, transpose_b: bool, write: Write) -> Shape {
    Shape { m, n, k, transpose_a, transpose_b, write }
}

/// The kernels that this machine runs, and the models of the two that need units of their own.
pub(crate) fn kernels() -> Vec<(String, &'static Kernel)> {
    let here = Bf16Isa::available().map(|isa| (isa.name().to_owned(), Kernel::of(isa)));
    let models = [("model of avx512bf16", &vector::model::PAIRS), ("model of amx", &tile_unit::KERNEL)];
    here.chain(models.map(|(name, kernel)| (name.to_owned(), kernel))).collect()
}

fn round(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

fn widen(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

fn run(kernel: &Kernel, shape: Shape, a: Slice<'_>, b: Factor<'_>, c: &[f32]) -> Vec<f32> {
    let mut c = c.to_vec();
    gemm_in_bf16(OP, kernel, shape, a, b, (&mut c[..]).into()).unwrap();
    c
}

/// One product in all formats, with b packed before and not, by every kernel.
///
/// The truth is the product of the numbers before rounding in f64; the yardstick is the definition in f32 over the rounded ones.
fn check(shape: Shape) {
    let Shape { m, n, k, .. } = shape;
    let (a, b, c) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let mut truth = wide(&c);
    reference::gemm(shape, &wide(&a), &wide(&b), &mut truth);
    let (a16, b16) = (round(&a), round(&b));
    let mut naive = c.clone();
    reference::gemm(shape, &widen(&a16), &b16, &mut naive);
    let mut packed = Packed::zeros(PackedFormat::Bf16, k, n);
    packed.pack((&b[..]).into(), shape.transpose_b).unwrap();
    assert_eq!(packed.bytes(), Packed::bytes_of(PackedFormat::Bf16, k, n));
    // Old contents must not reach a result that replaces them.
    let start = if shape.write == Write::Overwrite { vec![f32::NAN; c.len()] } else { c.clone() };
    let mut of_vectors = None;

    for (name, kernel) in kernels() {
        let what = format!("{name} {shape:?}");
        let got = run(kernel, shape, (&a[..]).into(), Factor::Rounded((&b[..]).into()), &start);
        assert_follows(&what, &got, &naive, &truth, FORWARD, floor(scale(&truth).max(1.0), k));
        let from_bf16 = run(kernel, shape, (&a16[..]).into(), Factor::Rounded((&b16[..]).into()), &start);
        assert_eq!(from_bf16, got, "rounded before: {what}");
        assert_eq!(run(kernel, shape, (&a[..]).into(), Factor::Packed(&packed), &start), got, "packed: {what}");
        if !name.contains("amx") {
            assert_eq!(of_vectors.get_or_insert(got.clone()), &got, "all vectors sum in one order: {what}");
        }
        let start16 = round(&start);
        let mut got16 = start16.clone();
        gemm_in_bf16(OP, kernel, shape, (&a[..]).into(), Factor::Packed(&packed), (&mut got16[..]).into()).unwrap();
        let want = run(kernel, shape, (&a[..]).into(), Factor::Packed(&packed), &widen(&start16));
        assert_eq!(got16, round(&want), "a result in bf16 is rounded once: {what}");
    }
}

/// Sizes on both sides of a tile, of a step, of a task and of a block of k, for all kernels.
const SIZES: [(usize, usize, usize); 9] = [
    (1, 1, 1),
    (3, 5, 7),
    (12, 32, 32),
    (17, 33, 65),
    (1, 300, 64),
    (65, 19, 31),
    (33, 65, 385),
    (61, 514, 129),
    (4, 4, 0),
];

#[test]
fn every_transpose_and_write_mode_obeys_the_rule_of_errors() {
    for (m, n, k) in SIZES {
        for (transpose_a, transpose_b) in TRANSPOSES {
            for write in [Write::Overwrite, Write::Accumulate] {
                check(shape(m, n, k, transpose_a, transpose_b, write));
            }
        }
    }
    check(shape(34, 34, 1100, false, true, Write::Accumulate));
}

#[test]
fn threads_do_not_change_a_bit() {
    let (m, n, k) = (259, 200, 400);
    let (a, b) = (numbers(m * k, 4), numbers(k * n, 5));
    for (name, kernel) in kernels() {
        for (transpose_a, transpose_b) in TRANSPOSES {
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let shape = shape(m, n, k, transpose_a, transpose_b, Write::Overwrite);
                let b = Factor::Rounded((&b[..]).into());
                pool.install(|| run(kernel, shape, (&a[..]).into(), b, &vec![f32::NAN; m * n]))
            };
            let one = with(1);
            assert_eq!(one, with(2), "{name}");
            assert_eq!(one, with(1), "{name}");
        }
    }
}

#[test]
fn an_element_depends_on_its_row_and_column_alone() {
    let (m, n, k) = (70, 96, 600);
    let (mut a, b) = (numbers(m * k, 6), numbers(k * n, 7));
    for (name, kernel) in kernels() {
        let product = |a: &[f32], columns: Range<usize>| {
            let (m, n) = (a.len() / k, columns.len());
            let b = Factor::Rounded((&b[columns.start * k..columns.end * k]).into());
            run(kernel, shape(m, n, k, false, true, Write::Overwrite), a.into(), b, &vec![0.0; m * n])
        };
        let before = product(&a, 0..n);
        for (from, to) in [(0, 1), (7, 9), (30, 43), (60, 70), (3, 67)] {
            assert_eq!(
                product(&a[from * k..to * k], 0..n),
                before[from * n..to * n],
                "{name}: rows {from}..{to} alone"
            );
        }
        for columns in [0..1, 31..33, 40..96] {
            let part = product(&a, columns.clone());
            for (part, whole) in part.chunks(columns.len()).zip(before.chunks(n)) {
                assert_eq!(part, &whole[columns.clone()], "{name}: columns {columns:?} alone");
            }
        }
        let kept = a.clone();
        a[..20 * k].fill(f32::INFINITY);
        let after = product(&a, 0..n);
        assert_eq!(after[20 * n..], before[20 * n..], "{name}");
        assert!(after[..20 * n].iter().all(|x| !x.is_finite()), "{name}");
        a = kept;
    }
}

/// On a machine with AMX or AVX-512 BF16: the units give the bits of their models.
#[test]
#[expect(clippy::print_stdout, reason = "a skipped part says so")]
fn units_of_this_machine_compute_what_their_models_do() {
    let pairs = [(Bf16Isa::Avx512Bf16, &vector::model::PAIRS), (Bf16Isa::Amx, &tile_unit::KERNEL)];
    for (isa, model) in pairs {
        if !Bf16Isa::available().any(|here| here == isa) {
            println!("skipped: this machine does not have {}", isa.name());
            continue;
        }
        let (m, n, k) = (77, 150, 700);
        // with numbers whose products are below the smallest normal one
        let tiny = |x: Vec<f32>| -> Vec<f32> {
            x.into_iter().enumerate().map(|(i, x)| if i % 7 == 0 { x * 1e-22 } else { x }).collect()
        };
        let (a, b, c) = (tiny(numbers(m * k, 8)), tiny(numbers(k * n, 9)), numbers(m * n, 10));
        for (transpose_a, transpose_b) in TRANSPOSES {
            let shape = shape(m, n, k, transpose_a, transpose_b, Write::Accumulate);
            let of = |kernel| run(kernel, shape, (&a[..]).into(), Factor::Rounded((&b[..]).into()), &c);
            assert_eq!(of(Kernel::of(isa)), of(model), "{} {shape:?}", isa.name());
        }
    }
}

#[test]
fn wrong_lengths_and_formats_are_refused() {
    let kernel = Kernel::of(Bf16Isa::Portable);
    let (x, wide) = ([0.0f32; 6], [0.0f64; 6]);
    let shape = shape(2, 2, 3, false, false, Write::Overwrite);
    let mut c = [7.0f32; 4];
    let mut refuse =
        |a: Slice<'_>, b: Factor<'_>| gemm_in_bf16(OP, kernel, shape, a, b, (&mut c[..]).into()).unwrap_err();
    let error = refuse((&x[..]).into(), Factor::Rounded((&x[..5]).into()));
    assert_eq!(error, KernelError::ShapeMismatch { op: OP, arg: "b", want: 6, got: 5 });
    let error = refuse((&x[..]).into(), Factor::Packed(&Packed::zeros(PackedFormat::Bf16, 2, 3)));
    assert_eq!(error, KernelError::ShapeMismatch { op: OP, arg: "b", want: 3, got: 2 });
    for (a, b) in [((&wide[..]).into(), (&x[..]).into()), ((&x[..]).into(), (&wide[..]).into())] {
        assert!(matches!(refuse(a, Factor::Rounded(b)), KernelError::UnsupportedDtype { .. }));
    }
    assert_eq!(c, [7.0; 4]);
    let mut wide_c = [0.0f64; 4];
    let result =
        gemm_in_bf16(OP, kernel, shape, (&x[..]).into(), Factor::Rounded((&x[..]).into()), (&mut wide_c[..]).into());
    assert!(matches!(result, Err(KernelError::UnsupportedDtype { .. })));
    assert!(matches!(
        Packed::zeros(PackedFormat::Bf16, 2, 3).pack((&wide[..]).into(), false),
        Err(KernelError::UnsupportedDtype { .. })
    ));
    let weight = crate::matmul::PackedWeight::zeros(PackedFormat::Bf16, 2, 3, false);
    let refused = crate::matmul::Weight::Packed(&weight).of_backward();
    assert!(matches!(refused, Err(KernelError::BadArgument { arg: "weight", .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_shape_obeys_the_rule_of_errors(m in 0usize..70, n in 0usize..70, k in 0usize..70, ta: bool, tb: bool, add: bool) {
        let write = if add { Write::Accumulate } else { Write::Overwrite };
        check(shape(m, n, k, ta, tb, write));
    }
}
