//! What this machine can do at all: multiply-adds in registers, and copying through memory. The other benches are held against it.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use rayon::prelude::*;

use crate::support::{bytes, group};

/// Independent chains of multiply-adds: enough to hide their latency in vectors of 16 on two units.
const CHAINS: usize = 12;
const LANES: usize = 16;
const ROUNDS: usize = 1 << 20;

pub(crate) fn benches(c: &mut Criterion) {
    let threads = rayon::current_num_threads();
    let operations = 2 * LANES * CHAINS * ROUNDS * threads;
    let mut arithmetic = group(c, "peak", Throughput::Elements(operations as u64));
    arithmetic.bench_function("multiply-adds", |bench| {
        bench.iter(|| (0..threads).into_par_iter().map(|_| chains(black_box(0.999))).sum::<f32>());
    });
    arithmetic.finish();

    let n = 1 << 25;
    let (from, mut to) = (vec![1.0f32; n], vec![0.0f32; n]);
    let part = n.div_ceil(threads);
    let mut memory = group(c, "peak", bytes(2 * n));
    memory.bench_function("copy", |bench| {
        bench.iter(|| {
            to.par_chunks_mut(part)
                .zip(from.par_chunks(part))
                .for_each(|(to, from)| to.copy_from_slice(black_box(from)));
        });
    });
    memory.finish();
    assert!(to.iter().all(|x| *x == 1.0));
}

fn chains(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(factor: f32) -> f32 {
            rounds(factor)
        }
        #[target_feature(enable = "avx2,fma")]
        fn narrow(factor: f32) -> f32 {
            rounds(factor)
        }
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: found just above.
            return unsafe { wide(factor) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: found just above.
            return unsafe { narrow(factor) };
        }
    }
    rounds(factor)
}

#[inline(always)]
fn rounds(factor: f32) -> f32 {
    let mut sums = [[0.5f32; LANES]; CHAINS];
    for _ in 0..ROUNDS {
        for chain in &mut sums {
            for x in chain {
                *x = x.mul_add(factor, factor);
            }
        }
    }
    sums.iter().flatten().sum()
}
