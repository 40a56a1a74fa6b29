//! A plain run in bf16: the passes of a session one op after the other on the CPU in f32, with every stored activation and gradient of
//! one rounded to bf16. Logits, log-probabilities and the gradients of weights stay in f32.

use findap_tensor::ops::attention::{self, Heads, Qkv};
use findap_tensor::ops::rope::Tables;
use findap_tensor::ops::{embedding, linear, rms_norm, rope, swiglu};
use findap_tensor::{Device, Documents, Dtype, SliceMut, Tensor, Write};
use half::bf16;

use super::device::{Batch, Results, results};
use crate::llama::Llama;
use crate::session::rope_tables;

fn tensor(rows: usize, columns: usize) -> Tensor {
    Tensor::zeros(Dtype::F32, rows, columns)
}

fn round(tensor: &mut Tensor) {
    let SliceMut::F32(numbers) = tensor.slice_mut() else { unreachable!("made as f32") };
    numbers.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
}

fn add(out: &mut Tensor, x: &Tensor) {
    let sum: Vec<f64> = out.slice().to_f64_vec().iter().zip(x.slice().to_f64_vec()).map(|(a, b)| a + b).collect();
    out.slice_mut().copy_from_f64(&sum);
    round(out);
}

/// A stream, its norm and what the norm leaves for the backward pass.
struct Normed {
    x: Tensor,
    out: Tensor,
    rstd: Tensor,
}

struct Kept {
    entry: Normed,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    lse: Tensor,
    middle: Normed,
    gate: Tensor,
    up: Tensor,
    act: Tensor,
}

/// What a session computes from these weights, which bf16 has.
pub(super) fn passes(model: &Llama, batch: &Batch) -> Results {
    let (config, layout, params) = (&model.config, &model.layout, &model.params);
    let (n, d, f) = (batch.ids.len(), config.hidden_size, config.intermediate_size);
    let (q_width, kv_width) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let documents = &Documents::on_host(&batch.ids, &batch.positions, &batch.cu_seqlens);
    let [cos, sin] = rope_tables(&Device::Cpu, config, Dtype::F32, 32).unwrap();
    let tables = Tables { cos: cos.all(), sin: sin.all() };
    let heads = Heads {
        num_heads: config.num_heads,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
        scale: 1.0 / (config.head_dim as f64).sqrt(),
    };
    let product = |x: &Tensor, weight, columns| {
        let mut y = tensor(n, columns);
        linear::forward(y.all_mut(), x.all(), params.get(weight)).unwrap();
        round(&mut y);
        y
    };
    let normed = |x: Tensor, weight| {
        let (mut out, mut rstd) = (tensor(n, d), tensor(n, 1));
        rms_norm::forward(out.all_mut(), rstd.all_mut(), x.all(), params.get(weight), config.rms_norm_eps).unwrap();
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
    for p in &layout.blocks {
        let entry = normed(x, p.attention_norm);
        let q = rotated(product(&entry.out, p.q, q_width), false);
        let k = rotated(product(&entry.out, p.k, kv_width), false);
        let v = product(&entry.out, p.v, kv_width);
        let (mut attended, mut lse) = (tensor(n, q_width), tensor(n, config.num_heads));
        let qkv = Qkv { q: q.all(), k: k.all(), v: v.all() };
        attention::forward(attended.all_mut(), lse.all_mut(), qkv, documents, heads, Dtype::F32).unwrap();
        round(&mut attended);
        let mut middle = product(&attended, p.o, d);
        add(&mut middle, &entry.x);
        let middle = normed(middle, p.mlp_norm);
        let (gate, up) = (product(&middle.out, p.gate, f), product(&middle.out, p.up, f));
        let mut act = tensor(n, f);
        swiglu::forward(act.all_mut(), gate.all(), up.all()).unwrap();
        round(&mut act);
        x = product(&act, p.down, d);
        add(&mut x, &middle.x);
        blocks.push(Kept { entry, q, k, v, attended, lse, middle, gate, up, act });
    }
    let last = normed(x, layout.final_norm);

    let mut grads = model.zero_gradients().unwrap();
    let mut dlogits = tensor(n, config.vocab_size);
    linear::forward(dlogits.all_mut(), last.out.all(), params.get(layout.head)).unwrap();
    let logp = softmax_gradient(&mut dlogits, batch);
    round(&mut dlogits);
    let input_gradient = |dx: &mut Tensor, write, dy: &Tensor, weight| {
        linear::backward_input(dx.all_mut(), write, dy.all(), params.get(weight)).unwrap();
        round(dx);
    };
    let (mut stream, mut dnormed, mut dattended) = (tensor(n, d), tensor(n, d), tensor(n, q_width));
    let (mut dq, mut dk, mut dv) = (tensor(n, q_width), tensor(n, kv_width), tensor(n, kv_width));
    let (mut dgate, mut dup, mut dact) = (tensor(n, f), tensor(n, f), tensor(n, f));
    macro_rules! norm_gradient {
        ($write:expr, $normed:expr, $weight:expr) => {
            let saved = rms_norm::Saved { x: $normed.x.all(), rstd: $normed.rstd.all(), weight: params.get($weight) };
            rms_norm::backward(stream.all_mut(), $write, grads.get_mut($weight), dnormed.all(), saved).unwrap();
            round(&mut stream);
        };
    }
    let (overwrite, accumulate) = (Write::Overwrite, Write::Accumulate);
    input_gradient(&mut dnormed, overwrite, &dlogits, layout.head);
    linear::backward_weight(grads.get_mut(layout.head), dlogits.all(), last.out.all()).unwrap();
    norm_gradient!(overwrite, last, layout.final_norm);
    for (p, kept) in layout.blocks.iter().zip(&blocks).rev() {
        input_gradient(&mut dact, overwrite, &stream, p.down);
        linear::backward_weight(grads.get_mut(p.down), stream.all(), kept.act.all()).unwrap();
        swiglu::backward(dgate.all_mut(), dup.all_mut(), dact.all(), kept.gate.all(), kept.up.all()).unwrap();
        round(&mut dgate);
        round(&mut dup);
        for (dy, weight, write) in [(&dgate, p.gate, overwrite), (&dup, p.up, accumulate)] {
            linear::backward_weight(grads.get_mut(weight), dy.all(), kept.middle.out.all()).unwrap();
            input_gradient(&mut dnormed, write, dy, weight);
        }
        norm_gradient!(accumulate, kept.middle, p.mlp_norm);
        input_gradient(&mut dattended, overwrite, &stream, p.o);
        linear::backward_weight(grads.get_mut(p.o), stream.all(), kept.attended.all()).unwrap();
        let saved = attention::Saved { out: kept.attended.all(), lse: kept.lse.all() };
        let qkv = Qkv { q: kept.q.all(), k: kept.k.all(), v: kept.v.all() };
        let outputs = [dq.all_mut(), dk.all_mut(), dv.all_mut()];
        attention::backward(outputs, dattended.all(), saved, qkv, documents, heads, Dtype::F32).unwrap();
        for gradient in [&mut dq, &mut dk, &mut dv] {
            round(gradient);
        }
        (dq, dk) = (rotated(dq, true), rotated(dk, true));
        for (dy, weight, write) in [(&dq, p.q, overwrite), (&dk, p.k, accumulate), (&dv, p.v, accumulate)] {
            linear::backward_weight(grads.get_mut(weight), dy.all(), kept.entry.out.all()).unwrap();
            input_gradient(&mut dnormed, write, dy, weight);
        }
        norm_gradient!(accumulate, kept.entry, p.attention_norm);
    }
    embedding::backward(grads.get_mut(layout.embedding), stream.all(), documents).unwrap();
    results(&logp, &grads)
}

/// Log-probabilities of the targets; logits become the gradients of the loss.
fn softmax_gradient(logits: &mut Tensor, batch: &Batch) -> Vec<f64> {
    let v = logits.columns();
    let SliceMut::F32(numbers) = logits.slice_mut() else { unreachable!("made as f32") };
    let rows = numbers.chunks_exact_mut(v).zip(batch.targets.iter().zip(&batch.weights));
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
