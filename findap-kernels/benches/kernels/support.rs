//! What the benches share.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers in [-1, 1), the same for the same seed.
pub(crate) fn numbers(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// A group whose cases take a second each.
pub(crate) fn group<'a>(c: &'a mut Criterion, name: &str, throughput: Throughput) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.warm_up_time(std::time::Duration::from_millis(300));
    group.measurement_time(std::time::Duration::from_secs(1));
    group.throughput(throughput);
    group
}

/// Times `run`, which runs once in any case: what is checked behind it is there also where a filter leaves the case out.
pub(crate) fn measure<R>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: impl Into<String>,
    mut run: impl FnMut() -> R,
) {
    run();
    group.bench_function(name.into(), |bench| bench.iter(&mut run));
}

/// Bytes of `numbers` f32 numbers.
pub(crate) fn bytes(numbers: usize) -> Throughput {
    Throughput::Bytes(4 * numbers as u64)
}

/// Fails the bench if any number is further from the truth than `limit`.
pub(crate) fn assert_near(got: &[f32], truth: impl IntoIterator<Item = f64>, limit: f64) {
    for (i, (got, truth)) in got.iter().zip(truth).enumerate() {
        assert!((f64::from(*got) - truth).abs() <= limit, "[{i}]: {got}, but the truth is {truth}");
    }
}
