//! Attention over packed documents.

use findap_kernels::KernelError;
pub use findap_kernels::attention::Heads;
use findap_kernels::attention::{self, Backward, Decode, Forward};

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

/// out `[n, heads * e]`, lse `[n, heads]`.
///
/// # Errors
/// As [`attention::forward`].
pub fn forward(
    out: ViewMut<'_>,
    lse: ViewMut<'_>,
    qkv: Qkv<'_>,
    cu_seqlens: &[u32],
    heads: Heads,
) -> Result<(), KernelError> {
    let Qkv { q, k, v } = qkv;
    attention::forward(Forward { out: out.data, lse: lse.data, q: q.data, k: k.data, v: v.data, cu_seqlens, heads })
}

/// What the forward pass left: out and lse.
#[derive(Clone, Copy, Debug)]
pub struct Saved<'a> {
    /// `[n, heads * e]`.
    pub out: View<'a>,
    /// `[n, heads]`.
    pub lse: View<'a>,
}

/// The gradients of q, k and v.
///
/// # Errors
/// As [`attention::backward`].
pub fn backward(
    dqkv: [ViewMut<'_>; 3],
    dout: View<'_>,
    saved: Saved<'_>,
    qkv: Qkv<'_>,
    cu_seqlens: &[u32],
    heads: Heads,
) -> Result<(), KernelError> {
    let [dq, dk, dv] = dqkv;
    let Qkv { q, k, v } = qkv;
    attention::backward(Backward {
        dq: dq.data,
        dk: dk.data,
        dv: dv.data,
        dout: dout.data,
        out: saved.out.data,
        lse: saved.lse.data,
        q: q.data,
        k: k.data,
        v: v.data,
        cu_seqlens,
        heads,
    })
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

/// Attention of one new token of each sequence over its slot of the cache.
///
/// # Errors
/// As [`attention::decode`].
pub fn decode(
    out: ViewMut<'_>,
    q: View<'_>,
    cache: Cache<'_>,
    slots: &[u32],
    lens: &[u32],
    heads: Heads,
) -> Result<(), KernelError> {
    attention::decode(Decode {
        out: out.data,
        q: q.data,
        k_cache: cache.k.data,
        v_cache: cache.v.data,
        slots,
        lens,
        max_len: cache.max_len,
        heads,
    })
}
