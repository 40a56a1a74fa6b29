//! Prints what this machine has of CUDA. `cargo run -p findap-kernels --example cuda_probe`

fn main() {
    use std::io::Write;
    // a closed pipe is no reason to panic
    let _ = writeln!(std::io::stdout(), "{:#?}", findap_kernels::cuda::probe());
}
