//! Benches of the kernels: `cargo bench -p findap-kernels [-- FILTER]`; threads by `RAYON_NUM_THREADS`.
//!
//! One file per family. Each case checks its result against plain loops in f64 before it is timed, and each family times a
//! plain f32 loop beside the kernel. Throughput is bytes of the arrays read and written for the kernels that move memory,
//! and floating-point operations (criterion's `elem`) for attention and the head.

mod adamw;
mod attention;
mod bias;
mod cross_entropy;
mod embedding;
mod matmul;
mod peak;
mod reduce;
mod rms_norm;
mod rope;
mod sample;
mod support;
mod swiglu;

criterion::criterion_group!(
    benches,
    peak::benches,
    matmul::benches,
    attention::benches,
    cross_entropy::benches,
    rms_norm::benches,
    bias::benches,
    rope::benches,
    swiglu::benches,
    adamw::benches,
    reduce::benches,
    embedding::benches,
    sample::benches
);
criterion::criterion_main!(benches);
