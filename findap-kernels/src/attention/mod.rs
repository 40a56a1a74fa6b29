//! Causal attention over packed documents, with grouped query heads, without a T x T matrix.
//!
//! Token i of a document sees the tokens j <= i of the same document, or the last `window` of them. For query head h with key head g = h / (heads/kv):
//! s[i, j] = scale * q[i, h] . k[j, g],   lse[i, h] = ln sum_j exp(s[i, j]),   p = exp(s - lse)
//! out[i, h] = sum_j p[i, j] v[j, g]
//!
//! Backward, with delta\[i] = dout\[i, h] . out\[i, h]:
//! dv\[j] += p\[i, j] dout\[i];  ds = p (dout\[i] . v\[j] - delta\[i]);  dq\[i] += scale ds k\[j];  dk\[j] += scale ds q\[i]
//!
//! Saved for the backward pass: `lse`. Probabilities are recomputed tile by tile. Documents are given by their boundaries
//! `cu_seqlens` = `[0, .., n]`; tiles of other documents are never visited, so no document can influence another.
//! Sources: Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4; Ainslie et al. 2023, arXiv:2305.13245.

#[cfg(test)]
mod cases;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(test)]
mod reference;
mod rounded;
mod softmax;
mod tasks;
#[cfg(test)]
mod tests;
mod tiles;

use crate::check;
use crate::dtype::Dtype;
use crate::error::KernelError;
use crate::isa::Bf16Isa;
use crate::matmul::bf16::Kernel;
use crate::slice::{Slice, SliceMut};

/// The heads of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// Multiplies the scores, usually 1 / sqrt(head_dim).
    pub scale: f64,
    /// Tokens that a query sees: itself and the `window - 1` before it; `None` for all before it. Beltagy et al. 2020,
    /// arXiv:2004.05150.
    pub window: Option<usize>,
}

impl Heads {
    /// The first token that a query sees, in a document that begins at `start`.
    pub(crate) fn first_seen(&self, start: usize, query: usize) -> usize {
        self.window.map_or(start, |window| (query + 1).saturating_sub(window).max(start))
    }
}

/// The arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a> {
    /// `[n, num_heads, head_dim]`, written.
    pub out: SliceMut<'a>,
    /// `[n, num_heads]`, written.
    pub lse: SliceMut<'a>,
    /// `[n, num_heads, head_dim]`.
    pub q: Slice<'a>,
    /// `[n, num_kv_heads, head_dim]`.
    pub k: Slice<'a>,
    /// `[n, num_kv_heads, head_dim]`.
    pub v: Slice<'a>,
    /// `[documents + 1]`.
    pub cu_seqlens: &'a [u32],
    /// The heads.
    pub heads: Heads,
    /// Format of the factors of products: that of the arguments, or bf16 beside arguments in f32, with sums in f32.
    pub products: Dtype,
}

/// The arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a> {
    /// As `q`, written.
    pub dq: SliceMut<'a>,
    /// As `k`, written.
    pub dk: SliceMut<'a>,
    /// As `v`, written.
    pub dv: SliceMut<'a>,
    /// As `out`.
    pub dout: Slice<'a>,
    /// From the forward pass.
    pub out: Slice<'a>,
    /// From the forward pass.
    pub lse: Slice<'a>,
    /// `[n, num_heads, head_dim]`.
    pub q: Slice<'a>,
    /// `[n, num_kv_heads, head_dim]`.
    pub k: Slice<'a>,
    /// `[n, num_kv_heads, head_dim]`.
    pub v: Slice<'a>,
    /// `[documents + 1]`.
    pub cu_seqlens: &'a [u32],
    /// The heads.
    pub heads: Heads,
    /// Format of the factors of products: that of the arguments, or bf16 beside arguments in f32, with sums in f32.
    pub products: Dtype,
}

/// The arguments of [`decode`].
#[derive(Debug)]
pub struct Decode<'a> {
    /// `[sequences, num_heads, head_dim]`, written.
    pub out: SliceMut<'a>,
    /// `[sequences, num_heads, head_dim]`: one new token each.
    pub q: Slice<'a>,
    /// `[slots, max_len, num_kv_heads, head_dim]`.
    pub k_cache: Slice<'a>,
    /// `[slots, max_len, num_kv_heads, head_dim]`.
    pub v_cache: Slice<'a>,
    /// `[sequences]`: the slot of each sequence in the caches.
    pub slots: &'a [u32],
    /// `[sequences]`: tokens of each sequence in the caches, the new one included; at least 1.
    pub seq_lens: &'a [u32],
    /// Tokens that a slot can hold.
    pub max_len: usize,
    /// The heads.
    pub heads: Heads,
}

/// Attention of every token over the earlier tokens of its document.
///
/// # Numerics
/// Online softmax in the format of the arguments, also where the factors of products are rounded: queries times `scale`, keys, values
/// and e^(score - largest so far), whose sum is taken before. The bits of a document do not depend on the other documents, and
/// those of a token not on later ones that are finite.
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::BadOffsets`], [`KernelError::BadArgument`] if the heads do not divide,
/// [`KernelError::UnsupportedDtype`], [`KernelError::MissingInstructions`] for rounded products where the environment asks for too
/// much.
pub fn forward(args: Forward<'_>) -> Result<(), KernelError> {
    const OP: &str = "attention::forward";
    let Forward { out, lse, q, k, v, cu_seqlens, heads, products } = args;
    let n = check_heads(OP, heads, q.len(), k.len(), v.len())?;
    check::length(OP, "out", out.len(), q.len())?;
    check::length(OP, "lse", lse.len(), n * heads.num_heads)?;
    check::offsets(OP, "cu_seqlens", cu_seqlens, n)?;
    let dtypes = [
        ("out", out.dtype()),
        ("lse", lse.dtype()),
        ("q", q.dtype()),
        ("k", k.dtype()),
        ("v", v.dtype()),
        ("products", products),
    ];
    use {Slice as S, SliceMut as M};
    match (products, out, lse, q, k, v) {
        (Dtype::F32, M::F32(out), M::F32(lse), S::F32(q), S::F32(k), S::F32(v)) => {
            tiles::forward(out, lse, q, k, v, cu_seqlens, heads)
        }
        (Dtype::Bf16, M::F32(out), M::F32(lse), S::F32(q), S::F32(k), S::F32(v)) => {
            rounded::forward(Kernel::of(Bf16Isa::current()?), out, lse, [q, k, v], cu_seqlens, heads)
        }
        (Dtype::F64, M::F64(out), M::F64(lse), S::F64(q), S::F64(k), S::F64(v)) => {
            cpu::forward(out, lse, q, k, v, cu_seqlens, heads)
        }
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// The gradients of [`forward`].
///
/// # Numerics
/// Deterministic: dk and dv are summed over query heads and tokens in one order. Rounded factors are those of the forward pass, `dout`,
/// p and ds.
/// # Cost
/// With rounded products each thread keeps the keys and values of a document and their gradients in its own memory: about 14 bytes for
/// each of their numbers.
/// # Errors
/// As [`forward`].
pub fn backward(args: Backward<'_>) -> Result<(), KernelError> {
    const OP: &str = "attention::backward";
    let Backward { dq, dk, dv, dout, out, lse, q, k, v, cu_seqlens, heads, products } = args;
    let n = check_heads(OP, heads, q.len(), k.len(), v.len())?;
    for (arg, got, want) in [
        ("dq", dq.len(), q.len()),
        ("dk", dk.len(), k.len()),
        ("dv", dv.len(), v.len()),
        ("dout", dout.len(), q.len()),
        ("out", out.len(), q.len()),
        ("lse", lse.len(), n * heads.num_heads),
    ] {
        check::length(OP, arg, got, want)?;
    }
    check::offsets(OP, "cu_seqlens", cu_seqlens, n)?;
    let dtypes =
        [("dq", dq.dtype()), ("dout", dout.dtype()), ("q", q.dtype()), ("k", k.dtype()), ("products", products)];
    use {Slice as S, SliceMut as M};
    match (products, dq, dk, dv, dout, out, lse, q, k, v) {
        (
            Dtype::F32 | Dtype::Bf16,
            M::F32(dq),
            M::F32(dk),
            M::F32(dv),
            S::F32(dout),
            S::F32(out),
            S::F32(lse),
            S::F32(q),
            S::F32(k),
            S::F32(v),
        ) => {
            let saved = cpu::Saved { dout, out, lse, q, k, v };
            if products == Dtype::F32 {
                tiles::backward(dq, dk, dv, saved, cu_seqlens, heads);
            } else {
                rounded::backward(Kernel::of(Bf16Isa::current()?), [dq, dk, dv], saved, cu_seqlens, heads);
            }
        }
        (
            Dtype::F64,
            M::F64(dq),
            M::F64(dk),
            M::F64(dv),
            S::F64(dout),
            S::F64(out),
            S::F64(lse),
            S::F64(q),
            S::F64(k),
            S::F64(v),
        ) => cpu::backward(dq, dk, dv, cpu::Saved { dout, out, lse, q, k, v }, cu_seqlens, heads),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Attention of one new token per sequence over its cached keys and values.
///
/// # Numerics
/// In f32, bit for bit the last row of [`forward`] with products in f32 over the whole sequence.
/// # Cost
/// Reads the keys and values of each sequence once.
/// # Errors
/// As [`forward`]; [`KernelError::IdOutOfRange`] for a slot past the caches or a length past `max_len`.
pub fn decode(args: Decode<'_>) -> Result<(), KernelError> {
    const OP: &str = "attention::decode";
    let Decode { out, q, k_cache, v_cache, slots, seq_lens, max_len, heads } = args;
    check_heads(
        OP,
        heads,
        q.len(),
        q.len() / heads.num_heads.max(1) * heads.num_kv_heads,
        k_cache.len().min(v_cache.len()),
    )
    .or_else(|error| match error {
        KernelError::ShapeMismatch { arg: "v", .. } => Ok(0),
        other => Err(other),
    })?;
    let slot_len = max_len * heads.num_kv_heads * heads.head_dim;
    check::length(OP, "q", q.len(), seq_lens.len() * heads.num_heads * heads.head_dim)?;
    check::length(OP, "out", out.len(), q.len())?;
    check::length(OP, "v_cache", v_cache.len(), k_cache.len())?;
    check_sequences(slots, seq_lens, k_cache.len() / slot_len.max(1), max_len)?;
    let dtypes = [("out", out.dtype()), ("q", q.dtype()), ("k_cache", k_cache.dtype()), ("v_cache", v_cache.dtype())];
    use {Slice as S, SliceMut as M};
    match (out, q, k_cache, v_cache) {
        (M::F32(out), S::F32(q), S::F32(k), S::F32(v)) => tiles::decode(out, q, k, v, slots, seq_lens, slot_len, heads),
        (M::F64(out), S::F64(q), S::F64(k), S::F64(v)) => cpu::decode(out, q, k, v, slots, seq_lens, slot_len, heads),
        _ => return Err(check::unsupported(OP, dtypes)),
    }
    Ok(())
}

/// Refuses sequences that reach past their slots, before a device meets them.
///
/// # Errors
/// [`KernelError::ShapeMismatch`], [`KernelError::IdOutOfRange`], [`KernelError::BadArgument`].
pub fn check_sequences(slots: &[u32], seq_lens: &[u32], num_slots: usize, max_len: usize) -> Result<(), KernelError> {
    const OP: &str = "attention::decode";
    check::length(OP, "slots", slots.len(), seq_lens.len())?;
    check::ids(OP, "slots", slots, num_slots)?;
    check::ids(OP, "seq_lens", seq_lens, max_len + 1)?;
    check::holds(OP, "seq_lens", 0.0, !seq_lens.contains(&0), "at least 1 everywhere")
}

/// The number of tokens, if the heads divide and the lengths agree.
fn check_heads(op: &'static str, heads: Heads, q: usize, k: usize, v: usize) -> Result<usize, KernelError> {
    let Heads { num_heads, num_kv_heads, head_dim, .. } = heads;
    check::holds(op, "head_dim", head_dim as f64, head_dim > 0, "at least 1")?;
    check_window(op, heads)?;
    let divides = num_kv_heads > 0 && num_heads > 0 && num_heads.is_multiple_of(num_kv_heads);
    check::holds(op, "num_kv_heads", num_kv_heads as f64, divides, "a divisor of num_heads")?;
    let n = q / (num_heads * head_dim);
    check::length(op, "q", q, n * num_heads * head_dim)?;
    check::length(op, "k", k, n * num_kv_heads * head_dim)?;
    check::length(op, "v", v, n * num_kv_heads * head_dim)?;
    Ok(n)
}

fn check_window(op: &'static str, heads: Heads) -> Result<(), KernelError> {
    check::holds(op, "window", 0.0, heads.window != Some(0), "at least 1: a token sees itself")
}
