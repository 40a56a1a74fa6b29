//! Tests of the tester: right kernels pass under every setting, and each seeded mistake is found in at least one.

use half::bf16;

use super::*;
use crate::cuda::{Arg, Buffer, Needs, Source};

static PRIMITIVES: Source = Source {
    file: "emulator/seeded/primitives.cu",
    text: include_str!("../../emulator/seeded/primitives.cu"),
    needs: Needs::Ampere,
};

fn f32_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bf16_bytes(x: &[bf16]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_bits().to_ne_bytes()).collect()
}

/// `seeded_sum` over two blocks, with the bug of this number.
fn sum(options: Options, bug: i32) -> Result<Vec<f32>, CudaError> {
    let emulator = Emulator { options };
    let x: Vec<f32> = (0..256).map(|i| (i % 13) as f32).collect();
    let (x, y) = (Buffer::holding(&emulator, &f32_bytes(&x))?, Buffer::new(&emulator, 256 * 4)?);
    let launch = Launch {
        source: &PRIMITIVES,
        kernel: "seeded_sum",
        grid: [2, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 0,
        args: vec![Arg::Address(x.address()), Arg::Address(y.address()), Arg::I32(bug)],
    };
    // SAFETY: the kernel takes two arrays of one number a thread, and a number.
    unsafe { emulator.launch(&launch)? };
    Ok(f32s(&y.to_vec()?))
}

fn sums_as_they_should_be() -> Vec<f32> {
    let total = |block: usize| (block * 128..block * 128 + 128).map(|i| (i % 13) as f32).sum::<f32>();
    (0..256).map(|i| total(i / 128) + (i % 32) as f32).collect()
}

/// `seeded_product` over three steps, with the bug of this number.
fn product(options: Options, bug: i32) -> Result<(Vec<f32>, Statistics), CudaError> {
    const STEPS: usize = 3;
    let emulator = Emulator { options };
    let (a, b) = product_operands(STEPS);
    let a = Buffer::holding(&emulator, &bf16_bytes(&a))?;
    let b = Buffer::holding(&emulator, &bf16_bytes(&b))?;
    let d = Buffer::new(&emulator, 64 * 64 * 4)?;
    let launch = Launch {
        source: &PRIMITIVES,
        kernel: "seeded_product",
        grid: [1, 1, 1],
        block: [128, 1, 1],
        shared_bytes: 2 * 2 * 64 * 72 * 2,
        args: vec![
            Arg::Address(a.address()),
            Arg::Address(b.address()),
            Arg::Address(d.address()),
            Arg::I32(STEPS as i32),
            Arg::I32(bug),
        ],
    };
    // SAFETY: the kernel takes three arrays of the sizes made above, and two numbers.
    let statistics = unsafe { emulator.launch_counted(&launch)? };
    Ok((f32s(&d.to_vec()?), statistics))
}

/// Small integers, so that every sum is exact in any order.
fn product_operands(steps: usize) -> (Vec<bf16>, Vec<bf16>) {
    let numbers = |len: usize, by: usize| (0..len).map(|i| bf16::from_f32((i * by % 17) as f32 - 8.0)).collect();
    (numbers(64 * 64 * steps, 7), numbers(64 * 64 * steps, 5))
}

fn product_as_it_should_be() -> Vec<f32> {
    let (a, b) = product_operands(3);
    let entry = |i: usize, j: usize| (0..192).map(|k| a[i * 192 + k].to_f32() * b[k * 64 + j].to_f32()).sum::<f32>();
    (0..64 * 64).map(|at| entry(at / 64, at % 64)).collect()
}

#[test]
fn right_kernels_pass_under_every_setting() {
    for options in Options::ALL {
        assert_eq!(sum(options, 0).unwrap(), sums_as_they_should_be(), "{options:?}");
        let (d, statistics) = product(options, 0).unwrap();
        assert_eq!(d, product_as_it_should_be(), "{options:?}");
        // 4 warps, 3 steps, 4 slices of 16, 8 tiles of 8 columns; 1 + 4 loads a slice, whose padded rows meet no conflict
        assert_eq!((statistics.matrix_products, statistics.matrix_loads), (4 * 3 * 4 * 8, 4 * 3 * 4 * 5));
        assert_eq!(statistics.bank_conflicts, 0);
    }
}

/// What each seeded mistake of `primitives.cu` shows as: words of the report, or wrong numbers.
const SEEDED: [(i32, &str, &str); 16] = [
    (1, "MISSING_BARRIER", "race"),
    (2, "MISSING_WARP_BARRIER", "race"),
    (3, "WEAK_COPY_WAIT", "wrong numbers"),
    (4, "EARLY_OVERWRITE", "race"),
    (5, "STORE_PAST_THE_END", "past the end of a buffer of 1024"),
    (6, "LOAD_PAST_THE_END", "past the end of a buffer of 1024"),
    (7, "SHARED_PAST_THE_END", "outside every array"),
    (8, "DIVERGENT_BARRIER", "different __syncthreads"),
    (9, "BARRIER_AFTER_EXIT", "exit"),
    (10, "DIVERGENT_SHUFFLE", "deadlock"),
    (11, "UNWRITTEN_SHARED", "wrong numbers"),
    (12, "TWO_BLOCKS_WRITE", "another block has written"),
    (13, "BLOCK_READS_BLOCK", "another block has written"),
    (14, "WRONG_FRAGMENT", "wrong numbers"),
    (15, "MISALIGNED_STORE", "not aligned"),
    (16, "LOCAL_INDEX", "outside of its array"),
];

#[test]
fn every_seeded_mistake_is_found() {
    let sums = sums_as_they_should_be();
    let products = product_as_it_should_be();
    for (bug, name, want) in SEEDED {
        let found: Vec<String> = Options::ALL
            .iter()
            .filter_map(|&options| {
                let is_right = if matches!(bug, 3 | 4 | 14) {
                    product(options, bug).map(|(d, _)| d == products)
                } else {
                    sum(options, bug).map(|y| y == sums)
                };
                match is_right {
                    Ok(true) => None,
                    Ok(false) => Some("wrong numbers".to_owned()),
                    Err(error) => Some(error.to_string()),
                }
            })
            .collect();
        assert!(found.iter().any(|text| text.contains(want)), "{name}: wanted `{want}`, found {found:?}");
    }
}

#[test]
fn a_launch_is_the_same_from_run_to_run() {
    let options = Options { order: Order::Random, seed: 9, ..Options::PLAIN };
    assert_eq!(product(options, 0).unwrap(), product(options, 0).unwrap());
}

#[test]
fn what_no_device_could_run_is_refused() {
    let emulator = Emulator { options: Options::PLAIN };
    let right = vec![Arg::Address(0), Arg::Address(0), Arg::I32(0)];
    let launch_with = |kernel, block, shared_bytes, args| {
        let launch = Launch { source: &PRIMITIVES, kernel, grid: [1, 1, 1], block: [block, 1, 1], shared_bytes, args };
        // SAFETY: none of these launches begins.
        unsafe { emulator.launch(&launch) }.unwrap_err().to_string()
    };
    let launch = |kernel, block, shared_bytes| launch_with(kernel, block, shared_bytes, right.clone());
    assert!(launch("no_such_kernel", 32, 0).contains("no kernel of this name"));
    assert!(launch("seeded_sum", 2048, 0).contains("1024 is the limit"));
    assert!(
        launch("seeded_sum", 128, 300_000).contains("300000 bytes of shared memory in a block, the device has 232448")
    );
    assert!(launch_with("seeded_sum", 128, 0, right[..2].to_vec()).contains("has 3 parameters; the launch has 2"));
    let wide = vec![Arg::Address(0), Arg::Address(0), Arg::I64(0)];
    assert!(launch_with("seeded_sum", 128, 0, wide).contains("parameter 2 of the kernel is an integer of 4 bytes"));
}
