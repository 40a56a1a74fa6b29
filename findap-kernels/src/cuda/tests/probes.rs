//! What the Hopper units do, as the emulator has it, held against every executor: where a tensor copy puts the numbers of a box,
//! how descriptors name tiles to wgmma, which thread has which number of a product, and the barriers, fences and bulk additions
//! around them. The emulator rests on a reading of documents; where a device differs, these fail before any kernel's own case.
//! All numbers are small integers or halves of them, so results are exact.

use half::bf16;

use super::cases::on_every_executor;
use crate::cuda::{Arg, Buffer, CudaError, Executor, Launch, Needs, Source, Swizzle, TensorMap};

static PIPELINE: Source = Source {
    file: "emulator/seeded/pipeline_sm90.cu",
    text: include_str!("../../../emulator/seeded/pipeline_sm90.cu"),
    needs: Needs::Hopper,
};

/// `[rows, columns]` of 16-bit numbers, copied in boxes `[box_rows, 64]` with the 128-byte swizzle.
pub(crate) fn map(buffer: &Buffer<'_>, rows: usize, columns: usize, row_stride: usize, box_rows: u32) -> TensorMap {
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

pub(crate) fn run(
    executor: &dyn Executor,
    kernel: &'static str,
    threads: u32,
    blocks: u32,
    shared_bytes: u32,
    args: Vec<Arg>,
) -> Result<(), CudaError> {
    let launch = Launch { source: &PIPELINE, kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes, args };
    // SAFETY: every caller passes what its kernel takes.
    unsafe { executor.launch(&launch) }
}

/// -1, 0 or 1.
fn small(len: usize, by: usize) -> Vec<bf16> {
    (0..len).map(|i| bf16::from_f32((i * by / 7 % 3) as f32 - 1.0)).collect()
}

const TILES: usize = 5;

/// `o <- o / 2 + (q k^T) v` over tiles, with the bug of this number: both operands of wgmma in shared memory, then one in
/// registers, K-major and N-major descriptors.
pub(crate) fn pipeline(executor: &dyn Executor, bug: i32) -> Result<Vec<f32>, CudaError> {
    let q = Buffer::holding(executor, &bf16_bytes(&small(128 * 64, 5)))?;
    let k = Buffer::holding(executor, &bf16_bytes(&small(64 * 64 * TILES, 11)))?;
    let v = Buffer::holding(executor, &bf16_bytes(&small(64 * 64 * TILES, 13)))?;
    let o = Buffer::new(executor, 128 * 64 * 4)?;
    let args = vec![
        Arg::TensorMap(map(&q, 128, 64, 64, 128)),
        Arg::TensorMap(map(&k, 64 * TILES, 64, 64, 64)),
        Arg::TensorMap(map(&v, 64 * TILES, 64, 64, 64)),
        Arg::Address(o.address()),
        Arg::I32(TILES as i32),
        Arg::I32(bug),
    ];
    run(executor, "seeded_pipeline", 384, 1, 128 * 128 + 4 * 64 * 128 + 128 + 1024, args)?;
    Ok(f32s(&o.to_vec()?))
}

pub(crate) fn pipeline_as_it_should_be() -> Vec<f32> {
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

/// `d += p^T x`, with the bug of this number: M-major and N-major descriptors, the sum by bulk additions.
pub(crate) fn transposed(executor: &dyn Executor, bug: i32) -> Result<Vec<f32>, CudaError> {
    let p: Vec<f32> = small(64 * 64 * BLOCKS, 3).iter().map(|x| x.to_f32()).collect();
    let p = Buffer::holding(executor, &f32_bytes(&p))?;
    let x = Buffer::holding(executor, &bf16_bytes(&small(64 * 64 * BLOCKS, 17)))?;
    let d = Buffer::holding(executor, &f32_bytes(&[1.0; 64 * 64]))?;
    let x_map = Arg::TensorMap(map(&x, 64 * BLOCKS, 64, 64, 64));
    let args = vec![Arg::Address(p.address()), x_map, Arg::Address(d.address()), Arg::I32(bug)];
    run(executor, "seeded_transposed", 128, BLOCKS as u32, 2 * 8192 + 16384 + 16 + 1024, args)?;
    Ok(f32s(&d.to_vec()?))
}

pub(crate) fn transposed_as_it_should_be() -> Vec<f32> {
    let (p, x) = (small(64 * 64 * BLOCKS, 3), small(64 * 64 * BLOCKS, 17));
    let entry = |i: usize, j: usize| -> f32 {
        (0..64 * BLOCKS).map(|row| p[row * 64 + i].to_f32() * x[row * 64 + j].to_f32()).sum()
    };
    (0..64 * 64).map(|at| 1.0 + entry(at / 64, at % 64)).collect()
}

fn f32_bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn bf16_bytes(x: &[bf16]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_bits().to_ne_bytes()).collect()
}

/// Fails with the first number that differs.
fn assert_equal(what: &str, got: &[f32], truth: &[f32]) {
    let differ = got.iter().zip(truth).position(|(got, truth)| got != truth);
    let count = got.iter().zip(truth).filter(|(got, truth)| got != truth).count();
    if let Some(at) = differ {
        panic!("{what}: {count} of {} differ, first at {at}: {}, should be {}", truth.len(), got[at], truth[at]);
    }
}

#[test]
fn products_in_a_pipeline_are_exact() {
    on_every_executor(Needs::Hopper, |executor| {
        assert_equal(&executor.name(), &pipeline(executor, 0).unwrap(), &pipeline_as_it_should_be());
    });
}

#[test]
fn transposed_products_and_bulk_additions_are_exact() {
    on_every_executor(Needs::Hopper, |executor| {
        assert_equal(&executor.name(), &transposed(executor, 0).unwrap(), &transposed_as_it_should_be());
    });
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
    let corners = [(0, 0), (64, 8), (64, 30), (-8, -3)];
    on_every_executor(Needs::Hopper, |executor| {
        for (c0, c1) in corners {
            let x = Buffer::holding(executor, &bytes).unwrap();
            let y = Buffer::new(executor, 16 * 128).unwrap();
            let x_map = Arg::TensorMap(map(&x, ROWS as usize, COLUMNS as usize, 104, 16));
            let args = vec![x_map, Arg::Address(y.address()), Arg::I32(16), Arg::I32(c0), Arg::I32(c1)];
            run(executor, "seeded_box", 32, 1, 16 * 128 + 16 + 1024, args).unwrap();
            let got: Vec<u16> = y.to_vec().unwrap().chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]])).collect();
            for (row, column) in (0..16usize).flat_map(|row| (0..64usize).map(move |column| (row, column))) {
                let (y, x) = (c1 + row as i32, c0 + column as i32);
                let is_inside = (0..ROWS).contains(&y) && (0..COLUMNS).contains(&x);
                let place = row * 64 + TABLE[row % 8][column / 8] * 8 + column % 8;
                assert_eq!(
                    got[place],
                    if is_inside { number(y, x) } else { 0 },
                    "({c0}, {c1}) row {row} column {column}"
                );
            }
        }
    });
}
