//! Attention over packed documents.

use findap_kernels::Dtype;
pub use findap_kernels::attention::Heads;
use findap_kernels::attention::{self, Backward, Decode, Forward, cuda};
use findap_kernels::cuda::Operand;

use crate::documents::Documents;
use crate::error::TensorError;
use crate::indices::Indices;
use crate::tensor::{View, ViewMut};

/// The rotated projections: q `[n, heads * e]`, k and v `[n, kv heads * e]`.
#[derive(Clone, Copy, Debug)]
pub struct Qkv<'a> {
    /// Queries.
    pub q: View<'a>,
    /// Keys.
    pub k: View<'a>,
    /// Values.
    pub v: View<'a>,
}

/// Computes out `[n, heads * e]` and lse `[n, heads]`; lse is f32 where the others are bf16. `products` is the format of the products'
/// factors: on the CPU as [`attention::Forward::products`], on a device always that of q.
///
/// # Errors
/// As [`attention::forward`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn forward(
    out: ViewMut<'_>,
    lse: ViewMut<'_>,
    qkv: Qkv<'_>,
    documents: &Documents<'_>,
    heads: Heads,
    products: Dtype,
) -> Result<(), TensorError> {
    let Qkv { q, k, v } = qkv;
    if let Some(device) = out.cuda() {
        let args = cuda::Forward {
            out: out.on(device)?,
            out_f32: None,
            lse: lse.on(device)?,
            q: q.on(device)?,
            k: k.on(device)?,
            v: v.on(device)?,
            tiles: documents.on(device)?.tiles,
            heads,
            target: device.target(),
        };
        return device.run(&if is_plain(q, heads) { cuda::plain::forward(&args)? } else { cuda::forward(&args)? });
    }
    Ok(attention::forward(Forward {
        out: out.host()?,
        lse: lse.host()?,
        q: q.host()?,
        k: k.host()?,
        v: v.host()?,
        cu_seqlens: documents.cu_seqlens,
        heads,
        products,
    })?)
}

/// Whether a device has no tensor-core kernels for this format and head dim.
fn is_plain(q: View<'_>, heads: Heads) -> bool {
    q.dtype() != Dtype::Bf16 || ![64, 128].contains(&heads.head_dim)
}

/// The results of the forward pass that the backward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[n, heads * e]`.
    pub out: View<'a>,
    /// `[n, heads]`.
    pub lse: View<'a>,
}

/// Computes the gradients of q, k and v; `products` is as in [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward(
    dqkv: [ViewMut<'_>; 3],
    dout: View<'_>,
    saved: Saved<'_>,
    qkv: Qkv<'_>,
    documents: &Documents<'_>,
    heads: Heads,
    products: Dtype,
) -> Result<(), TensorError> {
    let [dq, dk, dv] = dqkv;
    let Qkv { q, k, v } = qkv;
    if let Some(device) = dq.cuda() {
        let tiles = documents.on(device)?.tiles;
        let len = cuda::statistics_len(q.rows, heads);
        let (dq, dk, dv, dout) = (dq.on(device)?, dk.on(device)?, dv.on(device)?, dout.on(device)?);
        let (out, lse, is_plain) = (saved.out.on(device)?, saved.lse.on(device)?, is_plain(q, heads));
        let (q, k, v) = (q.on(device)?, k.on(device)?, v.on(device)?);
        return device.with_scratch(4 * len, |address| {
            let statistics = Operand { address, len, dtype: Dtype::F32 };
            let target = device.target();
            let args = cuda::Backward { dq, dk, dv, dout, out, lse, q, k, v, statistics, tiles, heads, target };
            device.run(&if is_plain { cuda::plain::backward(&args)? } else { cuda::backward(&args)? })
        });
    }
    Ok(attention::backward(Backward {
        dq: dq.host()?,
        dk: dk.host()?,
        dv: dv.host()?,
        dout: dout.host()?,
        out: saved.out.host()?,
        lse: saved.lse.host()?,
        q: q.host()?,
        k: k.host()?,
        v: v.host()?,
        cu_seqlens: documents.cu_seqlens,
        heads,
        products,
    })?)
}

/// The caches of one layer: `[slots * max_len, kv heads * e]` each.
#[derive(Clone, Copy, Debug)]
pub struct Cache<'a> {
    /// Keys.
    pub k: View<'a>,
    /// Values.
    pub v: View<'a>,
    /// Tokens that a slot holds.
    pub max_len: usize,
}

/// Computes attention of one new token per sequence over the first `seq_lens` tokens of its slot of the cache.
///
/// # Errors
/// As [`attention::decode`]; [`TensorError::OtherDevice`], [`TensorError::Cuda`].
pub fn decode(
    out: ViewMut<'_>,
    q: View<'_>,
    cache: Cache<'_>,
    slots: &Indices,
    seq_lens: &Indices,
    heads: Heads,
) -> Result<(), TensorError> {
    let Cache { k, v, max_len } = cache;
    if let Some(device) = out.cuda() {
        attention::check_sequences(slots.values(), seq_lens.values(), k.rows / max_len.max(1), max_len)?;
        let args = |scratch| {
            Ok::<_, TensorError>(cuda::Decode {
                out: out.on(device)?,
                q: q.on(device)?,
                k_cache: k.on(device)?,
                v_cache: v.on(device)?,
                table: slots.on(device)?,
                seq_lens: seq_lens.on(device)?,
                page_tokens: max_len,
                scratch,
                heads,
            })
        };
        let len = if is_plain(q, heads) { 0 } else { cuda::decode_scratch_len(q.rows, 1, max_len, heads) };
        return device.with_scratch(4 * len, |address| {
            let args = args(Operand { address, len, dtype: Dtype::F32 })?;
            device.run(&if is_plain(q, heads) { cuda::plain::decode(&args)? } else { cuda::decode(&args)? })
        });
    }
    Ok(attention::decode(Decode {
        out: out.host()?,
        q: q.host()?,
        k_cache: k.host()?,
        v_cache: v.host()?,
        slots: slots.values(),
        seq_lens: seq_lens.values(),
        max_len,
        heads,
    })?)
}
