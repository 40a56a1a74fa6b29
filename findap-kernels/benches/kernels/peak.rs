//! What this machine can do at all: multiply-adds in registers, and copying through memory. The other benches are held against it.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use rayon::prelude::*;

use crate::support::{bytes, group, measure};

/// Independent chains of multiply-adds: enough to hide their latency on two units, and few enough for the registers.
const CHAINS: usize = 12;
const LANES: usize = 16;
const ROUNDS: usize = 1 << 20;

pub(crate) fn benches(c: &mut Criterion) {
    let threads = rayon::current_num_threads();
    let operations = 2 * LANES * CHAINS * ROUNDS * threads;
    let mut arithmetic = group(c, "peak", Throughput::Elements(operations as u64));
    measure(&mut arithmetic, "multiply-adds", || {
        (0..threads).into_par_iter().map(|_| chains(black_box(0.999))).sum::<f32>()
    });
    arithmetic.finish();

    let n = 1 << 25;
    let (from, mut to) = (vec![1.0f32; n], vec![0.0f32; n]);
    let part = n.div_ceil(threads);
    let mut memory = group(c, "peak", bytes(2 * n));
    measure(&mut memory, "copy", || {
        to.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| to.copy_from_slice(black_box(from)));
    });
    memory.finish();
    assert!(to.iter().all(|x| *x == 1.0));
}

fn chains(factor: f32) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: found just above.
            return unsafe { x86::avx512(factor) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: found just above.
            return unsafe { x86::avx2(factor) };
        }
    }
    let mut sums = [[0.5f32; LANES]; CHAINS];
    for _ in 0..ROUNDS {
        sums.iter_mut().flatten().for_each(|x| *x = *x * factor + factor);
    }
    sums.iter().flatten().sum()
}

// By name: left to the compiler, a multiply-add may become a call.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHAINS, ROUNDS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(factor: f32) -> f32 {
        let factor = _mm512_set1_ps(factor);
        let mut sums = [_mm512_set1_ps(0.5); CHAINS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, factor);
            }
        }
        let mut total = _mm512_setzero_ps();
        for sum in sums {
            total = _mm512_add_ps(total, sum);
        }
        _mm512_reduce_add_ps(total)
    }

    /// Half as many lanes, twice as often.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(factor: f32) -> f32 {
        let factor = _mm256_set1_ps(factor);
        let mut sums = [_mm256_set1_ps(0.5); CHAINS];
        for _ in 0..2 * ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        let mut total = _mm256_setzero_ps();
        for sum in sums {
            total = _mm256_add_ps(total, sum);
        }
        _mm256_cvtss_f32(total)
    }
}
