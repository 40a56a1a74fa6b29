//! Activations and the passes over them.
//!
//! Dimensions: n tokens, d hidden, h query heads, k key heads, e head dim, f MLP width, v vocabulary, l blocks.
//!
//! One block, with the residual stream x:
//! a = norm(x);  q, k, v = rope(a Wq), rope(a Wk), a Wv;  m = x + attention(q, k, v) Wo
//! b = norm(m);  y = swiglu(b Wgate, b Wup) Wdown;  the next x = m + y
//! Both additions are fused with the norm that follows, across the border between blocks.

use findap_tensor::ops::attention::{self, Heads, Qkv};
use findap_tensor::ops::cross_entropy::{self, Head, MAX_CHUNK_ROWS, Sizes};
use findap_tensor::ops::rope::Tables;
use findap_tensor::ops::{embedding, linear, rms_norm, rope, swiglu};
use findap_tensor::{Arena, Dtype, Tensor, Write};

use crate::config::Config;
use crate::error::ModelError;
use crate::llama::{BlockParams, Llama};

/// What the backward pass finds in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Every activation.
    None,
    /// The input of each block; the rest is computed again, to the same bits.
    Block,
}

/// Packed documents, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// `[n]`.
    pub ids: &'a [u32],
    /// `[n]`, from 0 in each document.
    pub positions: &'a [u32],
    /// `[documents + 1]`: where documents begin, and n.
    pub cu_seqlens: &'a [u32],
}

/// What a session is built for.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Format of activations and arithmetic: f32 or f64.
    pub dtype: Dtype,
    /// Tokens of the largest batch.
    pub max_tokens: usize,
    /// Longest document, in tokens.
    pub max_positions: usize,
    /// What the backward pass finds in memory.
    pub recompute: Recompute,
    /// Whether there will be a backward pass.
    pub needs_backward: bool,
}

/// The memory of forward and backward passes over at most `max_tokens` tokens. Everything is allocated here, once.
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    heads: Heads,
    eps: f64,
    /// cos and sin: `[max_positions, e / 2]`.
    rope: [Tensor; 2],
    /// Inputs of the blocks: `[n, d]` each; one shared where nothing is kept.
    streams: Vec<Stream>,
    /// The inner activations of each block, or one shared set.
    blocks: Vec<BlockSaved>,
    /// Output of a block's MLP before it joins the stream: `[n, d]`.
    branch: Tensor,
    /// The last stream, its norm and rstd.
    last: Stream,
    hidden: Tensor,
    gradients: Option<Gradients>,
    head_scratch: Tensor,
    chunk_rows: usize,
    logp: Vec<f64>,
    lse: Vec<f64>,
    num_tokens: usize,
}

/// A residual stream and the norm factor taken of it.
#[derive(Debug)]
struct Stream {
    x: Tensor,    // [n, d]
    rstd: Tensor, // [n, 1]
}

/// The activations inside one block.
#[derive(Debug)]
struct BlockSaved {
    normed: Tensor,     // [n, d]
    q: Tensor,          // [n, h * e], rotated
    k: Tensor,          // [n, k * e], rotated
    v: Tensor,          // [n, k * e]
    attended: Tensor,   // [n, h * e]
    lse: Tensor,        // [n, h]
    middle: Stream,     // after attention
    mlp_normed: Tensor, // [n, d]
    gate: Tensor,       // [n, f]
    up: Tensor,         // [n, f]
    act: Tensor,        // [n, f]
}

/// Gradients of activations; each is overwritten in every block.
#[derive(Debug)]
struct Gradients {
    stream: Tensor,   // [n, d]
    normed: Tensor,   // [n, d]
    attended: Tensor, // [n, h * e]
    q: Tensor,        // [n, h * e]
    k: Tensor,        // [n, k * e]
    v: Tensor,        // [n, k * e]
    gate: Tensor,     // [n, f]
    up: Tensor,       // [n, f]
    act: Tensor,      // [n, f]
}

impl Session {
    /// Allocates everything for batches of at most `options.max_tokens` tokens.
    pub fn new(config: &Config, options: SessionOptions) -> Session {
        let SessionOptions { dtype, max_tokens: n, max_positions, recompute, needs_backward } = options;
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let tensor = |columns| Tensor::zeros(dtype, n, columns);
        let stream = || Stream { x: tensor(d), rstd: tensor(1) };
        let block = || BlockSaved {
            normed: tensor(d),
            q: tensor(q),
            k: tensor(kv),
            v: tensor(kv),
            attended: tensor(q),
            lse: tensor(config.num_heads),
            middle: stream(),
            mlp_normed: tensor(d),
            gate: tensor(f),
            up: tensor(f),
            act: tensor(f),
        };
        let (kept_streams, kept_blocks) = kept(config, recompute, needs_backward);
        let gradients = needs_backward.then(|| Gradients {
            stream: tensor(d),
            normed: tensor(d),
            attended: tensor(q),
            q: tensor(q),
            k: tensor(kv),
            v: tensor(kv),
            gate: tensor(f),
            up: tensor(f),
            act: tensor(f),
        });
        let chunk_rows = head_chunk_rows(config.vocab_size).min(n.max(1));
        let scratch = Sizes { dim: d, vocab: config.vocab_size, chunk_rows }.scratch_len();
        let scale = 1.0 / (config.head_dim as f64).sqrt();
        Session {
            options,
            heads: Heads {
                num_heads: config.num_heads,
                num_kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                scale,
            },
            eps: config.rms_norm_eps,
            rope: rope_tables(config, dtype, max_positions),
            streams: (0..kept_streams).map(|_| stream()).collect(),
            blocks: (0..kept_blocks).map(|_| block()).collect(),
            branch: tensor(d),
            last: stream(),
            hidden: tensor(d),
            gradients,
            head_scratch: Tensor::zeros(dtype, 1, scratch),
            chunk_rows,
            logp: vec![0.0; n],
            lse: vec![0.0; n],
            num_tokens: 0,
        }
    }

    /// What this session was built for.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Bytes by purpose.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        let stream = |s: &Stream| s.x.bytes() + s.rstd.bytes();
        let block = |b: &BlockSaved| {
            let tensors = [&b.normed, &b.q, &b.k, &b.v, &b.attended, &b.lse, &b.mlp_normed, &b.gate, &b.up, &b.act];
            tensors.iter().map(|t| t.bytes()).sum::<usize>() + stream(&b.middle)
        };
        let gradients = self.gradients.as_ref().map_or(0, |g| {
            let tensors = [&g.stream, &g.normed, &g.attended, &g.q, &g.k, &g.v, &g.gate, &g.up, &g.act];
            tensors.iter().map(|t| t.bytes()).sum()
        });
        vec![
            ("residual streams", self.streams.iter().map(stream).sum::<usize>() + stream(&self.last)),
            ("block activations", self.blocks.iter().map(block).sum()),
            ("activation gradients", gradients),
            ("head", self.head_scratch.bytes() + self.hidden.bytes() + self.branch.bytes()),
            ("rotary tables", self.rope[0].bytes() + self.rope[1].bytes()),
        ]
    }

    /// Computes the hidden states of packed documents; they stay in the session.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Kernel`] for an id past the vocabulary or wrong boundaries.
    pub fn forward(&mut self, model: &Llama, tokens: Tokens<'_>) -> Result<(), ModelError> {
        let cu_seqlens = tokens.cu_seqlens;
        self.forward_with(model, tokens, |_, heads, call| {
            attention::forward(call.out, call.lse, call.qkv, cu_seqlens, heads).map_err(ModelError::from)
        })
    }

    /// [`Session::forward`] with the attention of each block done by `attend(block, heads, call)`.
    pub(crate) fn forward_with(
        &mut self,
        model: &Llama,
        tokens: Tokens<'_>,
        mut attend: impl FnMut(usize, Heads, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let n = self.check(tokens)?;
        let params = &model.params;
        embedding::forward(self.streams[0].x.rows_mut(n), params.get(model.layout.embedding), tokens.ids)?;
        for (l, p) in model.layout.blocks.iter().enumerate() {
            self.enter_block(model, p, l, n)?;
            self.block_forward(model, p, l, tokens, &mut attend)?;
        }
        let middle = &self.blocks[(model.layout.blocks.len() - 1).min(self.blocks.len() - 1)].middle;
        rms_norm::forward_add(
            self.hidden.rows_mut(n),
            self.last.x.rows_mut(n),
            self.last.rstd.rows_mut(n),
            self.branch.rows(n),
            middle.x.rows(n),
            params.get(model.layout.final_norm),
            self.eps,
        )?;
        self.num_tokens = n;
        Ok(())
    }

    /// Log-probabilities of `targets`, 0 where the target is `IGNORE`, for the hidden states of the last forward pass.
    ///
    /// # Errors
    /// [`ModelError::Kernel`] for a target past the vocabulary or a wrong number of targets.
    pub fn logp(&mut self, model: &Llama, targets: &[u32]) -> Result<&[f64], ModelError> {
        let n = self.num_tokens;
        cross_entropy::forward(Head {
            logp: &mut self.logp[..n],
            lse: &mut self.lse[..n],
            hidden: self.hidden.rows(n),
            weight: model.params.get(model.layout.head),
            targets,
            chunk_rows: self.chunk_rows,
            scratch: self.head_scratch.rows_mut(1),
        })?;
        Ok(&self.logp[..n])
    }

    /// Adds to `grads` the gradients of a loss with dLoss / dlogp = `token_weights`, after [`Session::forward`] and
    /// [`Session::logp`].
    ///
    /// # Errors
    /// [`ModelError::Kernel`] if lengths disagree.
    ///
    /// # Panics
    /// If the session was built without a backward pass.
    pub fn backward(
        &mut self,
        model: &Llama,
        tokens: Tokens<'_>,
        targets: &[u32],
        token_weights: &[f64],
        grads: &mut Arena,
    ) -> Result<(), ModelError> {
        self.head_backward(model, targets, token_weights, grads, false)?;
        self.body_backward(model, tokens, grads)
    }

    /// Forward and backward in one, for weights that do not depend on the log-probabilities; returns those.
    ///
    /// # Errors
    /// As [`Session::forward`] and [`Session::backward`].
    ///
    /// # Panics
    /// If the session was built without a backward pass.
    pub fn forward_backward(
        &mut self,
        model: &Llama,
        tokens: Tokens<'_>,
        targets: &[u32],
        token_weights: &[f64],
        grads: &mut Arena,
    ) -> Result<&[f64], ModelError> {
        self.forward(model, tokens)?;
        self.head_backward(model, targets, token_weights, grads, true)?;
        self.body_backward(model, tokens, grads)?;
        Ok(&self.logp[..self.num_tokens])
    }

    /// The logits of chosen rows of the last forward pass: `[rows, v]`.
    pub(crate) fn logits(&mut self, model: &Llama, rows: &[usize], out: &mut Tensor) -> Result<(), ModelError> {
        let d = self.hidden.columns();
        for (i, &row) in rows.iter().enumerate() {
            let hidden = self.hidden.slice().sub(row * d..(row + 1) * d);
            let mut target = self.branch.slice_mut().sub(i * d..(i + 1) * d);
            copy(&mut target, hidden);
        }
        Ok(linear::forward(
            out.rows_mut(rows.len()),
            self.branch.rows(rows.len()),
            model.params.get(model.layout.head),
        )?)
    }

    fn check(&self, tokens: Tokens<'_>) -> Result<usize, ModelError> {
        let (n, limit) = (tokens.ids.len(), self.options.max_tokens);
        if n > limit {
            return Err(ModelError::TooLong { what: "tokens in a batch", got: n, limit, setting: "max_tokens" });
        }
        let longest = tokens.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let limit = self.options.max_positions;
        if longest > limit {
            return Err(ModelError::TooLong {
                what: "tokens in a document",
                got: longest,
                limit,
                setting: "max_positions",
            });
        }
        Ok(n)
    }

    /// x of block `l` and its norm: the embedding for the first, the sum of stream and branch for the others.
    fn enter_block(&mut self, model: &Llama, p: &BlockParams, l: usize, n: usize) -> Result<(), ModelError> {
        let weight = model.params.get(p.attention_norm);
        let stream = l.min(self.streams.len() - 1);
        let Stream { x, rstd } = &mut self.streams[stream];
        if l == 0 {
            let normed = self.blocks[0].normed.rows_mut(n);
            rms_norm::forward(normed, rstd.rows_mut(n), x.rows(n), weight, self.eps)?;
            return Ok(());
        }
        let (normed, middle) = match self.blocks.as_mut_slice() {
            [only] => (&mut only.normed, &only.middle),
            all => {
                let (before, here) = all.split_at_mut(l);
                (&mut here[0].normed, &before[l - 1].middle)
            }
        };
        let (normed, x, rstd) = (normed.rows_mut(n), x.rows_mut(n), rstd.rows_mut(n));
        rms_norm::forward_add(normed, x, rstd, self.branch.rows(n), middle.x.rows(n), weight, self.eps)?;
        Ok(())
    }

    /// From the normed input of block `l` to its branch.
    fn block_forward(
        &mut self,
        model: &Llama,
        p: &BlockParams,
        l: usize,
        tokens: Tokens<'_>,
        attend: &mut impl FnMut(usize, Heads, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let n = tokens.ids.len();
        let weight = |id| model.params.get(id);
        let (stream, block) = (l.min(self.streams.len() - 1), l.min(self.blocks.len() - 1));
        let tables =
            Tables { cos: self.rope[0].rows(self.rope[0].num_rows()), sin: self.rope[1].rows(self.rope[1].num_rows()) };
        let saved = &mut self.blocks[block];
        linear::forward(saved.q.rows_mut(n), saved.normed.rows(n), weight(p.q))?;
        linear::forward(saved.k.rows_mut(n), saved.normed.rows(n), weight(p.k))?;
        linear::forward(saved.v.rows_mut(n), saved.normed.rows(n), weight(p.v))?;
        rope::forward(saved.q.rows_mut(n), tables, tokens.positions)?;
        rope::forward(saved.k.rows_mut(n), tables, tokens.positions)?;
        let qkv = Qkv { q: saved.q.rows(n), k: saved.k.rows(n), v: saved.v.rows(n) };
        attend(l, self.heads, AttentionCall { out: saved.attended.rows_mut(n), lse: saved.lse.rows_mut(n), qkv })?;
        linear::forward(self.branch.rows_mut(n), saved.attended.rows(n), weight(p.o))?;
        rms_norm::forward_add(
            saved.mlp_normed.rows_mut(n),
            saved.middle.x.rows_mut(n),
            saved.middle.rstd.rows_mut(n),
            self.branch.rows(n),
            self.streams[stream].x.rows(n),
            weight(p.mlp_norm),
            self.eps,
        )?;
        linear::forward(saved.gate.rows_mut(n), saved.mlp_normed.rows(n), weight(p.gate))?;
        linear::forward(saved.up.rows_mut(n), saved.mlp_normed.rows(n), weight(p.up))?;
        swiglu::forward(saved.act.rows_mut(n), saved.gate.rows(n), saved.up.rows(n))?;
        linear::forward(self.branch.rows_mut(n), saved.act.rows(n), weight(p.down))?;
        Ok(())
    }

    /// Gradient of the last stream from the head, with the head's own.
    fn head_backward(
        &mut self,
        model: &Llama,
        targets: &[u32],
        token_weights: &[f64],
        grads: &mut Arena,
        fused: bool,
    ) -> Result<(), ModelError> {
        let n = self.num_tokens;
        let g = self.gradients.as_mut().expect("invariant: the session was built for a backward pass");
        let head = Head {
            logp: &mut self.logp[..n],
            lse: &mut self.lse[..n],
            hidden: self.hidden.rows(n),
            weight: model.params.get(model.layout.head),
            targets,
            chunk_rows: self.chunk_rows,
            scratch: self.head_scratch.rows_mut(1),
        };
        let dweight = Some(grads.get_mut(model.layout.head));
        if fused {
            cross_entropy::forward_backward(head, token_weights, g.normed.rows_mut(n), dweight)?;
        } else {
            cross_entropy::backward(head, token_weights, g.normed.rows_mut(n), dweight)?;
        }
        rms_norm::backward(
            g.stream.rows_mut(n),
            Write::Overwrite,
            grads.get_mut(model.layout.final_norm),
            g.normed.rows(n),
            rms_norm::Saved {
                x: self.last.x.rows(n),
                rstd: self.last.rstd.rows(n),
                weight: model.params.get(model.layout.final_norm),
            },
        )?;
        Ok(())
    }

    /// All blocks, last to first, and the embedding.
    fn body_backward(&mut self, model: &Llama, tokens: Tokens<'_>, grads: &mut Arena) -> Result<(), ModelError> {
        let n = self.num_tokens;
        for (l, p) in model.layout.blocks.iter().enumerate().rev() {
            self.restore(model, p, l, tokens)?;
            self.block_backward(model, p, l, tokens, grads)?;
        }
        let g = self.gradients.as_ref().expect("invariant: the session was built for a backward pass");
        embedding::backward(grads.get_mut(model.layout.embedding), g.stream.rows(n), tokens.ids)?;
        Ok(())
    }

    /// Computes again what was not kept of block `l`. The last block is still in memory.
    fn restore(&mut self, model: &Llama, p: &BlockParams, l: usize, tokens: Tokens<'_>) -> Result<(), ModelError> {
        if self.blocks.len() > 1 || l + 1 == model.layout.blocks.len() {
            return Ok(());
        }
        let n = tokens.ids.len();
        let Stream { x, rstd } = &mut self.streams[l];
        let weight = model.params.get(p.attention_norm);
        rms_norm::forward(self.blocks[0].normed.rows_mut(n), rstd.rows_mut(n), x.rows(n), weight, self.eps)?;
        self.block_forward(model, p, l, tokens, &mut |_, heads, call| {
            attention::forward(call.out, call.lse, call.qkv, tokens.cu_seqlens, heads).map_err(ModelError::from)
        })
    }

    fn block_backward(
        &mut self,
        model: &Llama,
        p: &BlockParams,
        l: usize,
        tokens: Tokens<'_>,
        grads: &mut Arena,
    ) -> Result<(), ModelError> {
        let n = tokens.ids.len();
        let weight = |id| model.params.get(id);
        let saved = &self.blocks[l.min(self.blocks.len() - 1)];
        let stream = &self.streams[l];
        let tables =
            Tables { cos: self.rope[0].rows(self.rope[0].num_rows()), sin: self.rope[1].rows(self.rope[1].num_rows()) };
        let g = self.gradients.as_mut().expect("invariant: the session was built for a backward pass");

        // MLP: the gradient of the branch is that of the stream
        linear::backward_input(g.act.rows_mut(n), Write::Overwrite, g.stream.rows(n), weight(p.down))?;
        linear::backward_weight(grads.get_mut(p.down), g.stream.rows(n), saved.act.rows(n))?;
        swiglu::backward(g.gate.rows_mut(n), g.up.rows_mut(n), g.act.rows(n), saved.gate.rows(n), saved.up.rows(n))?;
        linear::backward_weight(grads.get_mut(p.gate), g.gate.rows(n), saved.mlp_normed.rows(n))?;
        linear::backward_weight(grads.get_mut(p.up), g.up.rows(n), saved.mlp_normed.rows(n))?;
        linear::backward_input(g.normed.rows_mut(n), Write::Overwrite, g.gate.rows(n), weight(p.gate))?;
        linear::backward_input(g.normed.rows_mut(n), Write::Accumulate, g.up.rows(n), weight(p.up))?;
        rms_norm::backward(
            g.stream.rows_mut(n),
            Write::Accumulate,
            grads.get_mut(p.mlp_norm),
            g.normed.rows(n),
            rms_norm::Saved { x: saved.middle.x.rows(n), rstd: saved.middle.rstd.rows(n), weight: weight(p.mlp_norm) },
        )?;

        // attention
        linear::backward_input(g.attended.rows_mut(n), Write::Overwrite, g.stream.rows(n), weight(p.o))?;
        linear::backward_weight(grads.get_mut(p.o), g.stream.rows(n), saved.attended.rows(n))?;
        let qkv = Qkv { q: saved.q.rows(n), k: saved.k.rows(n), v: saved.v.rows(n) };
        let kept = attention::Saved { out: saved.attended.rows(n), lse: saved.lse.rows(n) };
        let outputs = [g.q.rows_mut(n), g.k.rows_mut(n), g.v.rows_mut(n)];
        attention::backward(outputs, g.attended.rows(n), kept, qkv, tokens.cu_seqlens, self.heads)?;
        rope::backward(g.q.rows_mut(n), tables, tokens.positions)?;
        rope::backward(g.k.rows_mut(n), tables, tokens.positions)?;
        for (id, gradient, write) in
            [(p.q, &g.q, Write::Overwrite), (p.k, &g.k, Write::Accumulate), (p.v, &g.v, Write::Accumulate)]
        {
            linear::backward_weight(grads.get_mut(id), gradient.rows(n), saved.normed.rows(n))?;
            linear::backward_input(g.normed.rows_mut(n), write, gradient.rows(n), weight(id))?;
        }
        rms_norm::backward(
            g.stream.rows_mut(n),
            Write::Accumulate,
            grads.get_mut(p.attention_norm),
            g.normed.rows(n),
            rms_norm::Saved { x: stream.x.rows(n), rstd: stream.rstd.rows(n), weight: weight(p.attention_norm) },
        )?;
        Ok(())
    }
}

/// The outputs and inputs of one attention.
pub(crate) struct AttentionCall<'a> {
    pub(crate) out: findap_tensor::ViewMut<'a>,
    pub(crate) lse: findap_tensor::ViewMut<'a>,
    pub(crate) qkv: Qkv<'a>,
}

/// What [`Session::memory`] of a session for these options will say, without building one.
pub fn memory_bytes(config: &Config, options: SessionOptions) -> Vec<(&'static str, usize)> {
    let SessionOptions { dtype, max_tokens: n, max_positions, recompute, needs_backward } = options;
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let (streams, blocks) = kept(config, recompute, needs_backward);
    let stream = d + 1;
    let block = 2 * d + 2 * q + 2 * kv + config.num_heads + stream + 3 * f;
    let gradients = if needs_backward { 2 * d + 2 * q + 2 * kv + 3 * f } else { 0 };
    let chunk_rows = head_chunk_rows(config.vocab_size).min(n.max(1));
    let scratch = Sizes { dim: d, vocab: config.vocab_size, chunk_rows }.scratch_len();
    let numbers = [
        ("residual streams", n * stream * (streams + 1)),
        ("block activations", n * block * blocks),
        ("activation gradients", n * gradients),
        ("head", scratch + 2 * n * d),
        ("rotary tables", max_positions * config.head_dim),
    ];
    numbers.map(|(purpose, numbers)| (purpose, numbers * dtype.size_bytes())).to_vec()
}

/// Residual streams and blocks whose activations are kept.
fn kept(config: &Config, recompute: Recompute, needs_backward: bool) -> (usize, usize) {
    match (needs_backward, recompute) {
        (true, Recompute::None) => (config.num_layers, config.num_layers),
        (true, Recompute::Block) => (config.num_layers, 1),
        (false, _) => (1, 1),
    }
}

/// Rows of logits computed at a time: about 2^21 logits, so that a chunk stays in the last-level cache.
fn head_chunk_rows(vocab_size: usize) -> usize {
    ((1 << 21) / vocab_size.max(1)).clamp(16, MAX_CHUNK_ROWS)
}

fn rope_tables(config: &Config, dtype: Dtype, max_positions: usize) -> [Tensor; 2] {
    let frequencies = config.inverse_frequencies();
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f64> = (0..max_positions)
            .flat_map(|position| frequencies.iter().map(move |&w| (position, w)))
            .map(|(position, w)| match dtype {
                // transformers multiplies and takes the cosine in f32
                Dtype::F32 | Dtype::Bf16 => f(f64::from(position as f32 * w)),
                Dtype::F64 => f(position as f64 * f64::from(w)),
            })
            .collect();
        let mut tensor = Tensor::zeros(dtype, max_positions, frequencies.len());
        tensor.slice_mut().copy_from_f64(&values);
        tensor
    };
    [table(f64::cos), table(f64::sin)]
}

/// Copies numbers of one format.
pub(crate) fn copy(out: &mut findap_tensor::SliceMut<'_>, x: findap_tensor::Slice<'_>) {
    use findap_tensor::{Slice, SliceMut};
    match (out, x) {
        (SliceMut::F32(y), Slice::F32(x)) => y.copy_from_slice(x),
        (SliceMut::F64(y), Slice::F64(x)) => y.copy_from_slice(x),
        (SliceMut::Bf16(y), Slice::Bf16(x)) => y.copy_from_slice(x),
        (y, x) => y.copy_from_f64(&x.to_f64_vec()),
    }
}
