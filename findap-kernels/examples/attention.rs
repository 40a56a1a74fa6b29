//! Two documents packed into one call: neither sees the other. `cargo run -p findap-kernels --example attention`

use std::io::Write;

use findap_kernels::attention::{Forward, Heads, forward};
use findap_kernels::{Dtype, KernelError};

fn main() -> Result<(), KernelError> {
    // Five tokens, documents of two and three; four query heads share two key heads.
    let heads = Heads { num_heads: 4, num_kv_heads: 2, head_dim: 8, scale: 1.0 / 8f64.sqrt(), window: None };
    let cu_seqlens = [0, 2, 5];
    let wave = |len: usize, speed: f32| (0..len).map(|i| (i as f32 * speed).sin()).collect::<Vec<f32>>();
    let (q, k, v) = (wave(5 * 4 * 8, 0.3), wave(5 * 2 * 8, 0.5), wave(5 * 2 * 8, 0.7));

    let (mut out, mut lse) = (vec![0.0f32; q.len()], vec![0.0f32; 5 * 4]);
    forward(Forward {
        out: (&mut out[..]).into(),
        lse: (&mut lse[..]).into(),
        q: (&q[..]).into(),
        k: (&k[..]).into(),
        v: (&v[..]).into(),
        cu_seqlens: &cu_seqlens,
        heads,
        products: Dtype::F32,
    })?;

    // The first token of a document sees itself alone: its output is its value.
    assert_eq!(out[2 * 4 * 8..][..8], v[2 * 2 * 8..][..8]);

    // Wrong sizes are an error that says what to change.
    let refused = forward(Forward {
        out: (&mut out[..]).into(),
        lse: (&mut lse[..]).into(),
        q: (&q[..]).into(),
        k: (&k[..]).into(),
        v: (&v[..]).into(),
        cu_seqlens: &[0, 2, 4],
        heads,
        products: Dtype::F32,
    });
    let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
    // a closed pipe is no reason to panic
    let _ = writeln!(std::io::stdout(), "lse of the last token, by head: {:.4?}\nrefused: {text}", &lse[16..]);
    Ok(())
}
