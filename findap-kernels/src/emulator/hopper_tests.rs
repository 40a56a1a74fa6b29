//! Tests of the emulated Hopper units: boxes against the table of the PTX document, a pipeline and a transposed product with
//! exact results, and their seeded mistakes.

use half::bf16;

use super::tests::{bf16_bytes, f32_bytes, f32s};
use super::*;
use crate::cuda::{Arg, Buffer, Needs, Source};

static PIPELINE: Source = Source {
    file: "emulator/seeded/pipeline_sm90.cu",
    text: include_str!("seeded/pipeline_sm90.cu"),
    needs: Needs::Hopper,
};

/// `[rows, columns]` of 16-bit numbers, copied in boxes `[box_rows, 64]` with the 128-byte swizzle.
fn map(buffer: &Buffer<'_>, rows: usize, columns: usize, row_stride: usize, box_rows: u32) -> TensorMap {
    TensorMap {
        address: buffer.address(),
        element_bytes: 2,
        rank: 2,
        dims: [columns as u64, rows as u64, 0, 0, 0],
        strides: [row_stride as u64 * 2, 0, 0, 0],
        box_dims: [64, box_rows, 0, 0, 0],
        swizzle: Swizzle::Bytes128,
    }
}

fn run(
    emulator: &Emulator,
    kernel: &'static str,
    threads: u32,
    blocks: u32,
    shared_bytes: u32,
    args: Vec<Arg>,
) -> Result<(), CudaError> {
    let launch = Launch { source: &PIPELINE, kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes, args };
    // SAFETY: every caller passes what its kernel takes.
    unsafe { emulator.launch(&launch) }
}

/// -1, 0 or 1.
fn small(len: usize, by: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32((i * by / 7 % 3) as f32 - 1.0)).collect()
}

const TILES: usize = 5;

fn pipeline(options: Options, bug: i32) -> Result<Vec<f32>, CudaError> {
    let emulator = Emulator { options };
    let q = Buffer::holding(&emulator, &bf16_bytes(&small(128 * 64, 5)))?;
    let k = Buffer::holding(&emulator, &bf16_bytes(&small(64 * 64 * TILES, 11)))?;
    let v = Buffer::holding(&emulator, &bf16_bytes(&small(64 * 64 * TILES, 13)))?;
    let o = Buffer::new(&emulator, 128 * 64 * 4)?;
    let args = vec![
        Arg::TensorMap(map(&q, 128, 64, 64, 128)),
        Arg::TensorMap(map(&k, 64 * TILES, 64, 64, 64)),
        Arg::TensorMap(map(&v, 64 * TILES, 64, 64, 64)),
        Arg::Address(o.address()),
        Arg::I32(TILES as i32),
        Arg::I32(bug),
    ];
    run(&emulator, "seeded_pipeline", 384, 1, 128 * 128 + 4 * 64 * 128 + 128 + 1024, args)?;
    Ok(f32s(&o.to_vec()?))
}

fn pipeline_as_it_should_be() -> Vec<f32> {
    let (q, k, v) = (small(128 * 64, 5), small(64 * 64 * TILES, 11), small(64 * 64 * TILES, 13));
    let mut o = vec![0.0f32; 128 * 64];
    for tile in 0..TILES {
        o.iter_mut().for_each(|o| *o *= 0.5);
        for row in 0..128 {
            for key in tile * 64..tile * 64 + 64 {
                let score: f32 = (0..64).map(|e| q[row * 64 + e].to_f32() * k[key * 64 + e].to_f32()).sum();
                (0..64).for_each(|e| o[row * 64 + e] += score * v[key * 64 + e].to_f32());
            }
        }
    }
    o
}

const BLOCKS: usize = 3;

fn transposed(options: Options, bug: i32) -> Result<Vec<f32>, CudaError> {
    let emulator = Emulator { options };
    let p: Vec<f32> = small(64 * 64 * BLOCKS, 3).iter().map(|x| x.to_f32()).collect();
    let p = Buffer::holding(&emulator, &f32_bytes(&p))?;
    let x = Buffer::holding(&emulator, &bf16_bytes(&small(64 * 64 * BLOCKS, 17)))?;
    let d = Buffer::holding(&emulator, &f32_bytes(&[1.0; 64 * 64]))?;
    let x_map = Arg::TensorMap(map(&x, 64 * BLOCKS, 64, 64, 64));
    let args = vec![Arg::Address(p.address()), x_map, Arg::Address(d.address()), Arg::I32(bug)];
    run(&emulator, "seeded_transposed", 128, BLOCKS as u32, 2 * 8192 + 16384 + 16 + 1024, args)?;
    Ok(f32s(&d.to_vec()?))
}

fn transposed_as_it_should_be() -> Vec<f32> {
    let (p, x) = (small(64 * 64 * BLOCKS, 3), small(64 * 64 * BLOCKS, 17));
    let entry = |i: usize, j: usize| -> f32 {
        (0..64 * BLOCKS).map(|row| p[row * 64 + i].to_f32() * x[row * 64 + j].to_f32()).sum()
    };
    (0..64 * 64).map(|at| 1.0 + entry(at / 64, at % 64)).collect()
}

/// The settings under which a mistake must show in at least one.
fn settings(breaks_rules: u32) -> Vec<Options> {
    let mut settings = Vec::from(Options::ALL);
    settings.push(Options { order: Order::Forward, copies: Pace::Late, ..Options::PLAIN });
    settings.push(Options {
        order: Order::Random,
        copies: Pace::Late,
        products: Pace::Late,
        seed: 11,
        ..Options::PLAIN
    });
    settings.iter_mut().for_each(|options| options.breaks_rules = breaks_rules);
    settings
}

#[test]
fn right_kernels_are_exact_under_every_setting() {
    for options in settings(0) {
        assert_eq!(pipeline(options, 0).unwrap(), pipeline_as_it_should_be(), "{options:?}");
        assert_eq!(transposed(options, 0).unwrap(), transposed_as_it_should_be(), "{options:?}");
    }
}

/// PTX ISA, section "Swizzling modes": where 16-byte chunk c of row r of 128 bytes goes under the 128-byte swizzle.
const TABLE: [[usize; 8]; 8] = [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [1, 0, 3, 2, 5, 4, 7, 6],
    [2, 3, 0, 1, 6, 7, 4, 5],
    [3, 2, 1, 0, 7, 6, 5, 4],
    [4, 5, 6, 7, 0, 1, 2, 3],
    [5, 4, 7, 6, 1, 0, 3, 2],
    [6, 7, 4, 5, 2, 3, 0, 1],
    [7, 6, 5, 4, 3, 2, 1, 0],
];

#[test]
fn boxes_land_as_the_table_says_with_zeros_outside_the_tensor() {
    const ROWS: i32 = 37;
    const COLUMNS: i32 = 100;
    let number = |y: i32, x: i32| (1 + y * COLUMNS + x) as u16;
    let mut bytes = vec![0u8; (ROWS * 104 * 2) as usize];
    for (y, x) in (0..ROWS).flat_map(|y| (0..COLUMNS).map(move |x| (y, x))) {
        bytes[((y * 104 + x) * 2) as usize..][..2].copy_from_slice(&number(y, x).to_ne_bytes());
    }
    for (options, (c0, c1)) in
        settings(0).into_iter().flat_map(|o| [(0, 0), (64, 8), (64, 30), (-8, -3)].map(|c| (o, c)))
    {
        let emulator = Emulator { options };
        let x = Buffer::holding(&emulator, &bytes).unwrap();
        let y = Buffer::new(&emulator, 16 * 128).unwrap();
        let x_map = Arg::TensorMap(map(&x, ROWS as usize, COLUMNS as usize, 104, 16));
        let args = vec![x_map, Arg::Address(y.address()), Arg::I32(16), Arg::I32(c0), Arg::I32(c1)];
        run(&emulator, "seeded_box", 32, 1, 16 * 128 + 16 + 1024, args).unwrap();
        let got: Vec<u16> = y.to_vec().unwrap().chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect();
        for (row, column) in (0..16usize).flat_map(|row| (0..64usize).map(move |column| (row, column))) {
            let (y, x) = (c1 + row as i32, c0 + column as i32);
            let is_inside = (0..ROWS).contains(&y) && (0..COLUMNS).contains(&x);
            let place = row * 64 + TABLE[row % 8][column / 8] * 8 + column % 8;
            assert_eq!(got[place], if is_inside { number(y, x) } else { 0 }, "({c0}, {c1}) row {row} column {column}");
        }
    }
}

#[test]
fn a_map_that_the_hardware_refuses_is_refused_with_the_rule() {
    let emulator = Emulator { options: Options::PLAIN };
    let x = Buffer::new(&emulator, 4096).unwrap();
    let wide = TensorMap { box_dims: [128, 8, 0, 0, 0], ..map(&x, 16, 128, 128, 8) };
    let error = run(&emulator, "seeded_box", 32, 1, 4096, vec![Arg::TensorMap(wide)]).unwrap_err();
    assert!(matches!(error, CudaError::BadTensorMap { index: 0, rule, .. } if rule.contains("wider")), "{error}");
}

/// Number and name of each seeded mistake, whether it is in `seeded_transposed`, and whether it shows even without reports of
/// broken rules, by wrong numbers or a deadlock.
const SEEDED: [(i32, &str, bool, bool); 26] = [
    (1, "DESCRIPTOR_WITHOUT_SWIZZLE", false, true),
    (2, "FULL_PARITY", false, true),
    (3, "EMPTY_PARITY", false, true),
    (4, "NO_PRODUCT_WAIT", false, true),
    (5, "EXPECT_LESS", false, true),
    (6, "EXPECT_MORE", false, true),
    (7, "NO_EMPTY_WAIT", false, true),
    (8, "FIRST_RELEASED_EARLY", false, true),
    (9, "V_NOT_TRANSPOSED", false, true),
    (10, "V_STRIDES_SWAPPED", false, true),
    (11, "NO_PRODUCT_FENCE", false, false),
    (12, "SCALED_IN_FLIGHT", false, true),
    (13, "EMPTY_COUNT", false, true),
    (14, "NOT_ALIGNED", false, false),
    (15, "NO_SYNC_AFTER_INIT", false, true),
    (16, "NO_FULL_WAIT", false, true),
    (17, "NO_ASYNC_FENCE", true, true),
    (18, "NO_BULK_WAIT", true, true),
    (19, "BARRIER_COUNT", true, true),
    (20, "K_STEP", false, true),
    (21, "WAIT_TOO_WEAK", false, true),
    (22, "V_RELEASED_EARLY", false, true),
    (23, "V_PARITY_CONSTANT", false, true),
    (24, "WRONG_EXCHANGE", true, true),
    (25, "ONE_FENCES_FOR_ALL", true, true),
    (26, "NO_INIT_FENCE", false, false),
];

#[test]
fn every_seeded_mistake_is_found() {
    let (pipeline_right, transposed_right) = (pipeline_as_it_should_be(), transposed_as_it_should_be());
    for (bug, name, is_transposed, shows_without_rules) in SEEDED {
        let is_found = |breaks_rules| {
            settings(breaks_rules).into_iter().any(|options| match is_transposed {
                true => transposed(options, bug).ok().as_ref() != Some(&transposed_right),
                false => pipeline(options, bug).ok().as_ref() != Some(&pipeline_right),
            })
        };
        assert!(is_found(0), "{name} is not found");
        assert_eq!(is_found(1), shows_without_rules, "{name} without reports of broken rules");
    }
}
