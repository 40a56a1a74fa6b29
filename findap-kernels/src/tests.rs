//! Tests across families: every refusal, and that a refusal leaves the outputs alone.

use half::bf16;

use crate::{Dtype, KernelError, Slice, SliceMut, Write};
use crate::{adamw, attention, cross_entropy, embedding, matmul, reduce, rms_norm, rope, sample, swiglu};

const CANARY: f32 = 12345.0;

/// A short argument, a wrong format, an id past the table, boundaries out of order and a number outside its domain are each
/// refused with their own variant, whose text names the kernel and the argument.
#[test]
fn every_refusal_names_its_argument_and_writes_nothing() {
    let x = [0.5f32; 8];
    let wide = [0.5f64; 8];
    let mut out = [CANARY; 8];
    let mut refuse = |run: &mut dyn FnMut(&mut [f32]) -> Result<(), KernelError>, op: &str, arg: &str| {
        let error = run(&mut out).unwrap_err();
        assert!(out.iter().all(|&x| x == CANARY), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(op) && text.contains(arg), "{text}");
        error
    };
    let error = refuse(
        &mut |out| {
            let (out, gate, up) = (out.into(), (&x[..7]).into(), (&x[..]).into());
            swiglu::forward(swiglu::Forward { out, gate, up })
        },
        "swiglu::forward",
        "gate",
    );
    assert_eq!(error, KernelError::ShapeMismatch { op: "swiglu::forward", arg: "gate", want: 8, got: 7 });
    let error = refuse(
        &mut |out| {
            let (out, gate, up) = (out.into(), (&wide[..]).into(), (&x[..]).into());
            swiglu::forward(swiglu::Forward { out, gate, up })
        },
        "swiglu::forward",
        "gate: f64",
    );
    let KernelError::UnsupportedDtype { dtypes, .. } = error else { panic!("{error}") };
    assert_eq!(dtypes, [("out", Dtype::F32), ("gate", Dtype::F64), ("up", Dtype::F32)]);
    let error = refuse(
        &mut |out| {
            let (out, table) = (out.into(), (&x[..]).into());
            embedding::forward(embedding::Forward { out, table, ids: &[0, 1, 4, 0], dim: 2 })
        },
        "embedding::forward",
        "ids[2]",
    );
    assert!(matches!(error, KernelError::IdOutOfRange { index: 2, id: 4, limit: 4, .. }));
    let heads = attention::Heads { num_heads: 2, num_kv_heads: 1, head_dim: 1, scale: 1.0, window: None };
    let error = refuse(
        &mut |out| {
            let mut lse = [0.0f32; 8];
            attention::forward(attention::Forward {
                out: out.into(),
                lse: (&mut lse[..]).into(),
                q: (&x[..]).into(),
                k: (&x[..4]).into(),
                v: (&x[..4]).into(),
                cu_seqlens: &[0, 3, 2, 4],
                heads,
                products: Dtype::F32,
            })
        },
        "attention::forward",
        "cu_seqlens[2]",
    );
    assert!(matches!(error, KernelError::BadOffsets { index: 2, got: 2, .. }));
    let error = refuse(
        &mut |out| {
            let (x, cos, sin) = (out.into(), (&x[..]).into(), (&x[..]).into());
            rope::forward(rope::Apply { x, cos, sin, positions: &[0; 8], heads: 1, head_dim: 1 })
        },
        "rope::forward",
        "head_dim",
    );
    assert!(matches!(error, KernelError::BadArgument { arg: "head_dim", .. }));
}

#[test]
fn mixed_formats_are_refused_by_every_family() {
    let refused = |result: Result<(), KernelError>| matches!(result, Err(KernelError::UnsupportedDtype { .. }));
    let (x, wide, narrow) = ([0.5f32; 4], [0.5f64; 4], [bf16::ONE; 4]);
    let (x, wide, narrow) = (Slice::from(&x[..]), Slice::from(&wide[..]), Slice::from(&narrow[..]));
    let (mut a, mut b, mut c) = ([0.0f32; 4], [0.0f32; 4], [0.0f32; 4]);
    let (mut a, mut b, mut c) = (SliceMut::from(&mut a[..]), SliceMut::from(&mut b[..]), SliceMut::from(&mut c[..]));
    assert!(refused(matmul::gemm(matmul::Gemm {
        m: 2,
        n: 2,
        k: 2,
        a: narrow,
        transpose_a: false,
        b: x.into(),
        transpose_b: false,
        c: a.reborrow(),
        write: Write::Overwrite,
    })));
    let (out, rstd) = (a.reborrow(), b.reborrow().sub(0..2));
    assert!(refused(rms_norm::forward(rms_norm::Forward {
        out,
        rstd,
        x: wide,
        weight: x.sub(0..2),
        rows: 2,
        dim: 2,
        eps: 0.1
    })));
    assert!(refused(embedding::backward(embedding::Backward {
        dtable: a.reborrow(),
        dout: wide,
        ids: &[0, 1],
        dim: 2
    })));
    assert!(refused(rope::forward(rope::Apply {
        x: a.reborrow(),
        cos: wide.sub(0..1),
        sin: x.sub(0..1),
        positions: &[0, 0],
        heads: 1,
        head_dim: 2
    })));
    assert!(refused(reduce::add(a.reborrow(), wide)));
    assert!(refused(adamw::step(adamw::Step {
        params: a.reborrow(),
        grads: narrow,
        first_moment: b.reborrow(),
        second_moment: c.reborrow(),
        segments: &[],
        rule: adamw::AdamWStep { lr: 0.1, beta1: 0.9, beta2: 0.9, eps: 1e-8, step: 1, grad_scale: 1.0 },
    })));
    let sizes = cross_entropy::Sizes { dim: 2, vocab: 2, chunk_rows: 1 };
    let mut scratch = vec![0.0f32; sizes.scratch_len()];
    assert!(refused(cross_entropy::forward(cross_entropy::Forward {
        logp: &mut [0.0; 2],
        lse: &mut [0.0; 2],
        hidden: wide,
        weight: wide.into(),
        targets: &[0, 1],
        sizes,
        scratch: (&mut scratch[..]).into(),
    })));
    assert!(matches!(sample::argmax(narrow), Err(KernelError::UnsupportedDtype { .. })));
}
