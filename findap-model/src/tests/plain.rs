//! A plain run in bf16: the passes of a session, op by op on the CPU in f32, with every stored activation and activation gradient
//! rounded to bf16. Logits, log-probabilities and the gradients of weights stay in f32.

use findap_tensor::ops::attention::{self, Heads, Qkv};
use findap_tensor::ops::rope::Tables;
use findap_tensor::ops::{bias, embedding, linear, rms_norm, rope, swiglu};
use findap_tensor::{Arena, Device, Documents, Dtype, SliceMut, Tensor, Write};
use half::bf16;

use super::WeightedBatch;
use super::device::{Results, results};
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::session::{Tokens, rope_tables};

fn tensor(rows: usize, columns: usize) -> Tensor {
    Tensor::zeros(Dtype::F32, rows, columns)
}

fn round(tensor: &mut Tensor) {
    let SliceMut::F32(numbers) = tensor.slice_mut() else { unreachable!("made as f32") };
    numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
}

fn copy(x: &Tensor) -> Tensor {
    let mut copy = tensor(x.num_rows(), x.columns());
    copy.slice_mut().copy_from_f64(&x.slice().to_f64_vec());
    copy
}

fn take(x: &mut Tensor) -> Tensor {
    std::mem::replace(x, tensor(0, 0))
}

fn add(out: &mut Tensor, x: &Tensor) {
    let sum: Vec<f64> = out.slice().to_f64_vec().iter().zip(x.slice().to_f64_vec()).map(|(a, b)| a + b).collect();
    out.slice_mut().copy_from_f64(&sum);
    round(out);
}

/// Numbers, their norm and what the norm leaves for the backward pass.
struct Normed {
    x: Tensor,
    out: Tensor,
    rstd: Tensor,
}

struct Kept {
    entry: Normed,
    /// The norms of queries and keys, where the model has them.
    qk_norms: Option<[Normed; 2]>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attention_out: Tensor,
    lse: Tensor,
    post_attention: Normed,
    gate: Tensor,
    up: Tensor,
    swiglu_out: Tensor,
}

/// Computes what a session would from these weights, each of which is exact in bf16.
pub(super) fn passes(model: &Decoder, batch: &WeightedBatch) -> Results {
    let (config, layout, params) = (&model.config, &model.layout, &model.params);
    let (n, d, f) = (batch.documents.num_tokens(), config.hidden_size, config.intermediate_size);
    let (q_width, kv_width, e) = (config.q_width(), config.kv_width(), config.head_dim);
    let Tokens { ids, positions, cu_seqlens } = batch.tokens();
    let documents = &Documents::on_host(ids, positions, cu_seqlens);
    let [cos, sin] = rope_tables(&Device::Cpu, config, Dtype::F32, 32).unwrap();
    let tables = Tables { cos: cos.all(), sin: sin.all() };
    let heads = |l: usize| Heads {
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
        head_dim: e,
        scale: 1.0 / (e as f64).sqrt(),
        window: config.windows[l],
    };
    let matmul = |x: &Tensor, linear: Linear, columns| {
        let mut y = tensor(n, columns);
        linear::forward(y.all_mut(), x.all(), params.get(linear.weight)).unwrap();
        if let Some(id) = linear.bias {
            bias::forward(y.all_mut(), params.get(id)).unwrap();
        }
        round(&mut y);
        y
    };
    // Rows of d numbers, or of e in each head.
    let normed = |x: Tensor, weight, dim: usize| {
        let rows = x.len() / dim;
        let (mut out, mut rstd) = (tensor(n, x.columns()), tensor(rows, 1));
        let (of, eps) = (params.get(weight), config.rms_norm_eps);
        rms_norm::forward(out.all_mut().reshaped(rows, dim), rstd.all_mut(), x.all().reshaped(rows, dim), of, eps)
            .unwrap();
        round(&mut out);
        Normed { x, out, rstd }
    };
    let rotated = |mut x: Tensor, backward: bool| {
        let rotate = if backward { rope::backward } else { rope::forward };
        rotate(x.all_mut(), tables, documents).unwrap();
        round(&mut x);
        x
    };

    let mut x = tensor(n, d);
    embedding::forward(x.all_mut(), params.get(layout.embedding), documents).unwrap();
    let mut blocks = Vec::new();
    for (l, p) in layout.blocks.iter().enumerate() {
        let entry = normed(x, p.attention_norm, d);
        let (mut q, mut k) = (matmul(&entry.out, p.q, q_width), matmul(&entry.out, p.k, kv_width));
        let qk_norms = p.qk_norm.map(|[q_norm, k_norm]| {
            let norms = [normed(take(&mut q), q_norm, e), normed(take(&mut k), k_norm, e)];
            (q, k) = (copy(&norms[0].out), copy(&norms[1].out));
            norms
        });
        let (q, k) = (rotated(q, false), rotated(k, false));
        let v = matmul(&entry.out, p.v, kv_width);
        let (mut attention_out, mut lse) = (tensor(n, q_width), tensor(n, config.num_heads));
        let qkv = Qkv { q: q.all(), k: k.all(), v: v.all() };
        attention::forward(attention_out.all_mut(), lse.all_mut(), qkv, documents, heads(l), Dtype::F32).unwrap();
        round(&mut attention_out);
        let mut post_attention = matmul(&attention_out, p.o, d);
        add(&mut post_attention, &entry.x);
        let post_attention = normed(post_attention, p.mlp_norm, d);
        let (gate, up) = (matmul(&post_attention.out, p.gate, f), matmul(&post_attention.out, p.up, f));
        let mut swiglu_out = tensor(n, f);
        swiglu::forward(swiglu_out.all_mut(), gate.all(), up.all()).unwrap();
        round(&mut swiglu_out);
        x = matmul(&swiglu_out, p.down, d);
        add(&mut x, &post_attention.x);
        blocks.push(Kept { entry, qk_norms, q, k, v, attention_out, lse, post_attention, gate, up, swiglu_out });
    }
    let last = normed(x, layout.final_norm, d);

    let mut grads = model.zero_gradients().unwrap();
    let mut dlogits = tensor(n, config.vocab_size);
    linear::forward(dlogits.all_mut(), last.out.all(), params.get(layout.head.weight)).unwrap();
    let logp = softmax_gradient(&mut dlogits, batch);
    round(&mut dlogits);
    let input_gradient = |dx: &mut Tensor, write, dy: &Tensor, linear: Linear| {
        linear::backward_input(dx.all_mut(), write, dy.all(), params.get(linear.weight)).unwrap();
        round(dx);
    };
    let weight_gradient = |grads: &mut Arena, dy: &Tensor, x: &Tensor, linear: Linear| {
        linear::backward_weight(grads.get_mut(linear.weight), dy.all(), x.all()).unwrap();
        if let Some(id) = linear.bias {
            bias::backward(grads.get_mut(id), dy.all()).unwrap();
        }
    };
    let (mut stream, mut dnormed, mut dattention_out) = (tensor(n, d), tensor(n, d), tensor(n, q_width));
    let (mut dq, mut dk, mut dv) = (tensor(n, q_width), tensor(n, kv_width), tensor(n, kv_width));
    let (mut dgate, mut dup, mut dswiglu_out) = (tensor(n, f), tensor(n, f), tensor(n, f));
    macro_rules! norm_gradient {
        ($write:expr, $normed:expr, $weight:expr) => {
            let saved = rms_norm::Saved { x: $normed.x.all(), rstd: $normed.rstd.all(), weight: params.get($weight) };
            rms_norm::backward(stream.all_mut(), $write, Some(grads.get_mut($weight)), dnormed.all(), saved).unwrap();
            round(&mut stream);
        };
    }
    let (overwrite, accumulate) = (Write::Overwrite, Write::Accumulate);
    input_gradient(&mut dnormed, overwrite, &dlogits, layout.head);
    weight_gradient(&mut grads, &dlogits, &last.out, layout.head);
    norm_gradient!(overwrite, last, layout.final_norm);
    for (l, (p, kept)) in layout.blocks.iter().zip(&blocks).enumerate().rev() {
        input_gradient(&mut dswiglu_out, overwrite, &stream, p.down);
        weight_gradient(&mut grads, &stream, &kept.swiglu_out, p.down);
        swiglu::backward(dgate.all_mut(), dup.all_mut(), dswiglu_out.all(), kept.gate.all(), kept.up.all()).unwrap();
        round(&mut dgate);
        round(&mut dup);
        for (dy, weight, write) in [(&dgate, p.gate, overwrite), (&dup, p.up, accumulate)] {
            weight_gradient(&mut grads, dy, &kept.post_attention.out, weight);
            input_gradient(&mut dnormed, write, dy, weight);
        }
        norm_gradient!(accumulate, kept.post_attention, p.mlp_norm);
        input_gradient(&mut dattention_out, overwrite, &stream, p.o);
        weight_gradient(&mut grads, &stream, &kept.attention_out, p.o);
        let saved = attention::Saved { out: kept.attention_out.all(), lse: kept.lse.all() };
        let qkv = Qkv { q: kept.q.all(), k: kept.k.all(), v: kept.v.all() };
        let outputs = [dq.all_mut(), dk.all_mut(), dv.all_mut()];
        attention::backward(outputs, dattention_out.all(), saved, qkv, documents, heads(l), Dtype::F32).unwrap();
        for gradient in [&mut dq, &mut dk, &mut dv] {
            round(gradient);
        }
        (dq, dk) = (rotated(dq, true), rotated(dk, true));
        if let (Some(norms), Some(weights)) = (&kept.qk_norms, p.qk_norm) {
            for ((dy, norm), weight) in [&mut dq, &mut dk].into_iter().zip(norms).zip(weights) {
                let (mut dx, rows) = (tensor(n, dy.columns()), dy.len() / e);
                let saved = rms_norm::Saved {
                    x: norm.x.all().reshaped(rows, e),
                    rstd: norm.rstd.all(),
                    weight: params.get(weight),
                };
                let (into, of) = (dx.all_mut().reshaped(rows, e), dy.all().reshaped(rows, e));
                rms_norm::backward(into, overwrite, Some(grads.get_mut(weight)), of, saved).unwrap();
                round(&mut dx);
                *dy = dx;
            }
        }
        for (dy, weight, write) in [(&dq, p.q, overwrite), (&dk, p.k, accumulate), (&dv, p.v, accumulate)] {
            weight_gradient(&mut grads, dy, &kept.entry.out, weight);
            input_gradient(&mut dnormed, write, dy, weight);
        }
        norm_gradient!(accumulate, kept.entry, p.attention_norm);
    }
    embedding::backward(grads.get_mut(layout.embedding), stream.all(), documents).unwrap();
    results(&logp, &grads)
}

/// Computes the log-probabilities of the targets, and turns the logits into their gradients.
fn softmax_gradient(logits: &mut Tensor, batch: &WeightedBatch) -> Vec<f64> {
    let v = logits.columns();
    let SliceMut::F32(numbers) = logits.slice_mut() else { unreachable!("made as f32") };
    let rows = numbers.chunks_exact_mut(v).zip(batch.documents.targets.iter().zip(&batch.weights));
    rows.map(|(row, (&target, &weight))| {
        let Some(logit) = row.get(target as usize).copied() else {
            row.fill(0.0);
            return 0.0;
        };
        let lse = row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        row.iter_mut().enumerate().for_each(|(j, x)| {
            let p = (f64::from(*x) - lse).exp();
            *x = (weight * (f64::from(u8::from(j == target as usize)) - p)) as f32;
        });
        f64::from(logit) - lse
    })
    .collect()
}
