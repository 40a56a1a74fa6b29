//! One block of the decoder, forward and backward. With the residual x:
//! a = norm(x);  q, k, v = a Wq, a Wk, a Wv (each head of q and k normed, where the model has such norms), q and k rotated;
//! m = x + attention(q, k, v) Wo;  b = norm(m);  y = swiglu(b Wgate, b Wup) Wdown;  the next x = m + y.
//! Both additions are fused with the norm that follows, across the border between blocks.

use findap_tensor::ops::attention::{self, Heads, Qkv};
use findap_tensor::ops::rope::Tables;
use findap_tensor::ops::{rms_norm, rope, swiglu};
use findap_tensor::{Documents, Dtype, Tensor, View, ViewMut, Write};

use super::buffers::Layers;
use super::plan::Buffers;
use crate::error::ModelError;
use crate::layout::BlockParams;
use crate::linear::{Gradients, Weights};

/// The outputs and inputs of one block's attention.
pub(crate) struct AttentionCall<'a> {
    pub(crate) out: ViewMut<'a>,
    pub(crate) lse: ViewMut<'a>,
    pub(crate) qkv: Qkv<'a>,
    pub(crate) documents: &'a Documents<'a>,
    pub(crate) heads: Heads,
    pub(crate) products: Dtype,
}

impl AttentionCall<'_> {
    /// Computes attention among the tokens of the pass.
    pub(crate) fn among_themselves(self) -> Result<(), ModelError> {
        let AttentionCall { out, lse, qkv, documents, heads, products } = self;
        Ok(attention::forward(out, lse, qkv, documents, heads, products)?)
    }
}

/// Block `l` of a model, with all that its passes read besides activations.
#[derive(Clone, Copy)]
pub(super) struct Block<'a> {
    pub(super) l: usize,
    pub(super) params: &'a BlockParams,
    pub(super) weights: Weights<'a>,
    pub(super) documents: &'a Documents<'a>,
    pub(super) heads: Heads,
    /// The rotary tables, cos and sin.
    pub(super) rope: &'a [Tensor; 2],
    pub(super) eps: f64,
    /// The format in which attention multiplies.
    pub(super) products: Dtype,
}

impl Block<'_> {
    fn num_tokens(&self) -> usize {
        self.documents.ids.len()
    }

    fn tables(&self) -> Tables<'_> {
        let [cos, sin] = self.rope;
        Tables { cos: cos.all(), sin: sin.all() }
    }

    /// Computes the block from its normed input to the result of the MLP, which `sublayer_out` then holds.
    pub(super) fn forward(
        &self,
        b: &mut Buffers<Layers>,
        attend: &mut impl FnMut(usize, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let (l, n, p) = (self.l, self.num_tokens(), self.params);
        self.project(b)?;
        self.rotate(b)?;
        self.attend(b, attend)?;
        self.add_attention(b)?;
        self.gate_and_up(b)?;
        swiglu::forward(b.swiglu_out.rows_mut(l, n), b.gate.rows(l, n), b.up.rows(l, n))?;
        let low = b.down_low.rows_mut_if_any(l, n);
        p.down.forward(b.sublayer_out.shared_mut(n), b.swiglu_out.rows(l, n), self.weights, low)?;
        Ok(())
    }

    /// Computes queries, keys and values of the normed input; queries and keys before their norm, where there is one.
    fn project(&self, b: &mut Buffers<Layers>) -> Result<(), ModelError> {
        let (l, n, p) = (self.l, self.num_tokens(), self.params);
        let (q, k) = match p.qk_norm {
            None => (&mut b.q, &mut b.k),
            Some(_) => (&mut b.q_projected, &mut b.k_projected),
        };
        for (linear, y, low) in [(p.q, q, &mut b.q_low), (p.k, k, &mut b.k_low), (p.v, &mut b.v, &mut b.v_low)] {
            linear.forward(y.rows_mut(l, n), b.normed.rows(l, n), self.weights, low.rows_mut_if_any(l, n))?;
        }
        Ok(())
    }

    /// Norms each head of queries and keys, where the model does that, and rotates them by their positions.
    fn rotate(&self, b: &mut Buffers<Layers>) -> Result<(), ModelError> {
        let (l, n, e) = (self.l, self.num_tokens(), self.heads.head_dim);
        if let Some([q_norm, k_norm]) = self.params.qk_norm {
            for (out, rstd, x, norm) in
                [(&mut b.q, &mut b.q_rstd, &b.q_projected, q_norm), (&mut b.k, &mut b.k_rstd, &b.k_projected, k_norm)]
            {
                let rows = n * x.row.columns / e;
                let (out, rstd) = (out.rows_mut(l, n).reshaped(rows, e), rstd.rows_mut(l, n).reshaped(rows, 1));
                let (x, weight) = (x.rows(l, n).reshaped(rows, e), self.weights.stored(norm));
                rms_norm::forward(out, rstd, x, weight, self.eps)?;
            }
        }
        rope::forward(b.q.rows_mut(l, n), self.tables(), self.documents)?;
        rope::forward(b.k.rows_mut(l, n), self.tables(), self.documents)?;
        Ok(())
    }

    fn attend(
        &self,
        b: &mut Buffers<Layers>,
        attend: &mut impl FnMut(usize, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let (l, n) = (self.l, self.num_tokens());
        let (out, lse) = (b.attention_out.rows_mut(l, n), b.lse.rows_mut(l, n));
        let qkv = Qkv { q: b.q.rows(l, n), k: b.k.rows(l, n), v: b.v.rows(l, n) };
        let Block { documents, heads, products, .. } = *self;
        attend(l, AttentionCall { out, lse, qkv, documents, heads, products })
    }

    /// Computes the residual after attention, and its norm.
    fn add_attention(&self, b: &mut Buffers<Layers>) -> Result<(), ModelError> {
        let (l, n, p) = (self.l, self.num_tokens(), self.params);
        let low = b.o_low.rows_mut_if_any(l, n);
        p.o.forward(b.sublayer_out.shared_mut(n), b.attention_out.rows(l, n), self.weights, low)?;
        rms_norm::forward_add(
            b.mlp_normed.rows_mut(l, n),
            b.post_attention.rows_mut(l, n),
            b.post_attention_rstd.rows_mut(l, n),
            b.sublayer_out.shared(n),
            b.residual.rows(l, n),
            self.weights.stored(p.mlp_norm),
            self.eps,
        )?;
        Ok(())
    }

    fn gate_and_up(&self, b: &mut Buffers<Layers>) -> Result<(), ModelError> {
        let (l, n, p) = (self.l, self.num_tokens(), self.params);
        for (linear, y, low) in [(p.gate, &mut b.gate, &mut b.gate_low), (p.up, &mut b.up, &mut b.up_low)] {
            linear.forward(y.rows_mut(l, n), b.mlp_normed.rows(l, n), self.weights, low.rows_mut_if_any(l, n))?;
        }
        Ok(())
    }

    /// Computes again what was not kept. The last block is still in memory and needs nothing.
    pub(super) fn restore(&self, b: &mut Buffers<Layers>) -> Result<(), ModelError> {
        let (l, n, p) = (self.l, self.num_tokens(), self.params);
        let norm = |out: &mut Layers, rstd: &mut Layers, x: &Layers, weight| {
            let weight = self.weights.stored(weight);
            rms_norm::forward(out.rows_mut(l, n), rstd.rows_mut(l, n), x.rows(l, n), weight, self.eps)
        };
        if !b.normed.row.keeps(l) {
            norm(&mut b.normed, &mut b.residual_rstd, &b.residual, p.attention_norm)?;
        }
        if !b.v.row.keeps(l) {
            self.project(b)?;
        }
        if !b.q.row.keeps(l) {
            self.rotate(b)?;
        }
        if !b.attention_out.row.keeps(l) {
            self.attend(b, &mut |_, call| call.among_themselves())?;
        }
        if !b.post_attention.row.keeps(l) {
            self.add_attention(b)?;
        } else if !b.mlp_normed.row.keeps(l) {
            norm(&mut b.mlp_normed, &mut b.post_attention_rstd, &b.post_attention, p.mlp_norm)?;
        }
        if !b.gate.row.keeps(l) {
            self.gate_and_up(b)?;
        }
        if !b.swiglu_out.row.keeps(l) {
            swiglu::forward(b.swiglu_out.rows_mut(l, n), b.gate.rows(l, n), b.up.rows(l, n))?;
        }
        Ok(())
    }

    /// Turns the gradient of the block's output, in `d_residual`, into that of its input, and adds to `gradients`.
    pub(super) fn backward(&self, b: &mut Buffers<Layers>, gradients: &mut Gradients<'_>) -> Result<(), ModelError> {
        let (l, n, p, weights) = (self.l, self.num_tokens(), self.params, self.weights);
        use Write::{Accumulate, Overwrite};

        // The MLP: the gradient of its result is that of the residual.
        let (dy, x) = (b.d_residual.shared(n), b.swiglu_out.rows(l, n));
        let low = low_rank(&b.down_low, &mut b.d_low, l, n);
        p.down.backward((b.d_swiglu_out.shared_mut(n), Overwrite), dy, x, weights, gradients, low)?;
        swiglu::backward(
            b.d_gate.shared_mut(n),
            b.d_up.shared_mut(n),
            b.d_swiglu_out.shared(n),
            b.gate.rows(l, n),
            b.up.rows(l, n),
        )?;
        for (linear, dy, write, low) in
            [(p.gate, &b.d_gate, Overwrite, &b.gate_low), (p.up, &b.d_up, Accumulate, &b.up_low)]
        {
            let (dx, low) = ((b.d_normed.shared_mut(n), write), low_rank(low, &mut b.d_low, l, n));
            linear.backward(dx, dy.shared(n), b.mlp_normed.rows(l, n), weights, gradients, low)?;
        }
        rms_norm::backward(
            b.d_residual.shared_mut(n),
            Accumulate,
            gradients.get(p.mlp_norm),
            b.d_normed.shared(n),
            rms_norm::Saved {
                x: b.post_attention.rows(l, n),
                rstd: b.post_attention_rstd.rows(l, n),
                weight: weights.stored(p.mlp_norm),
            },
        )?;

        // Attention: the gradient of its result is that of the residual, too.
        let (dy, x) = (b.d_residual.shared(n), b.attention_out.rows(l, n));
        let low = low_rank(&b.o_low, &mut b.d_low, l, n);
        p.o.backward((b.d_attention_out.shared_mut(n), Overwrite), dy, x, weights, gradients, low)?;
        let qkv = Qkv { q: b.q.rows(l, n), k: b.k.rows(l, n), v: b.v.rows(l, n) };
        let saved = attention::Saved { out: b.attention_out.rows(l, n), lse: b.lse.rows(l, n) };
        let outputs = [b.d_q.shared_mut(n), b.d_k.shared_mut(n), b.d_v.shared_mut(n)];
        let dout = b.d_attention_out.shared(n);
        attention::backward(outputs, dout, saved, qkv, self.documents, self.heads, self.products)?;
        rope::backward(b.d_q.shared_mut(n), self.tables(), self.documents)?;
        rope::backward(b.d_k.shared_mut(n), self.tables(), self.documents)?;
        let (d_q, d_k) = match p.qk_norm {
            None => (&b.d_q, &b.d_k),
            Some([q_norm, k_norm]) => {
                let e = self.heads.head_dim;
                for (dx, dy, x, rstd, norm) in [
                    (&mut b.d_q_projected, &b.d_q, &b.q_projected, &b.q_rstd, q_norm),
                    (&mut b.d_k_projected, &b.d_k, &b.k_projected, &b.k_rstd, k_norm),
                ] {
                    let rows = n * x.row.columns / e;
                    let saved = rms_norm::Saved {
                        x: x.rows(l, n).reshaped(rows, e),
                        rstd: rstd.rows(l, n).reshaped(rows, 1),
                        weight: weights.stored(norm),
                    };
                    let (dx, dy) = (dx.shared_mut(n).reshaped(rows, e), dy.shared(n).reshaped(rows, e));
                    rms_norm::backward(dx, Overwrite, gradients.get(norm), dy, saved)?;
                }
                (&b.d_q_projected, &b.d_k_projected)
            }
        };
        for (linear, dy, write, low) in
            [(p.q, d_q, Overwrite, &b.q_low), (p.k, d_k, Accumulate, &b.k_low), (p.v, &b.d_v, Accumulate, &b.v_low)]
        {
            let (dx, low) = ((b.d_normed.shared_mut(n), write), low_rank(low, &mut b.d_low, l, n));
            linear.backward(dx, dy.shared(n), b.normed.rows(l, n), weights, gradients, low)?;
        }
        rms_norm::backward(
            b.d_residual.shared_mut(n),
            Accumulate,
            gradients.get(p.attention_norm),
            b.d_normed.shared(n),
            rms_norm::Saved {
                x: b.residual.rows(l, n),
                rstd: b.residual_rstd.rows(l, n),
                weight: weights.stored(p.attention_norm),
            },
        )?;
        Ok(())
    }
}

/// The low-rank part of a layer's adapter and the memory for its gradient; none without an adapter.
fn low_rank<'a>(low: &'a Layers, d_low: &'a mut Layers, l: usize, n: usize) -> Option<(View<'a>, ViewMut<'a>)> {
    Some((low.rows_if_any(l, n)?, d_low.shared_mut(n)))
}
