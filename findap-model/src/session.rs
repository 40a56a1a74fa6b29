//! Activations and the passes over them.
//!
//! Dimensions: n tokens, d hidden, h query heads, k key heads, e head dim, f MLP width, v vocabulary, l blocks.
//!
//! One block, with the residual stream x:
//! a = norm(x);  q, k, v = rope(a Wq), rope(a Wk), a Wv;  m = x + attention(q, k, v) Wo
//! b = norm(m);  y = swiglu(b Wgate, b Wup) Wdown;  the next x = m + y
//! Both additions are fused with the norm that follows, across the border between blocks.

use std::sync::Arc;

use findap_data::Batch;
use findap_tensor::documents::DocumentMemory;
use findap_tensor::ops::attention::{self, Heads, Qkv};
use findap_tensor::ops::cross_entropy::{self, Head, MAX_CHUNK_ROWS, Scores, Sizes};
use findap_tensor::ops::linear::Weight;
use findap_tensor::ops::rope::Tables;
use findap_tensor::ops::sample::Logits;
use findap_tensor::ops::{embedding, linear, rms_norm, rope, swiglu};
use findap_tensor::{
    Arena, Device, DeviceKind, Documents, Dtype, Indices, PackedArena, PackedFormat, StepStats, Tensor, TensorError,
    TensorId, View, ViewMut, Write,
};

use crate::config::Config;
use crate::error::ModelError;
use crate::llama::{BlockParams, Layout, Llama};

/// What the backward pass finds in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Every activation but the results of norms and of the gated unit, which one pass over what is kept gives again.
    None,
    /// As `None` without the gate and up projections, half of what a block keeps: two products of seven are computed again, to the same
    /// bits.
    Mlp,
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

impl<'a> From<&'a Batch> for Tokens<'a> {
    fn from(batch: &'a Batch) -> Self {
        Tokens { ids: &batch.tokens, positions: &batch.positions, cu_seqlens: &batch.cu_seqlens }
    }
}

/// What a session is built for.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Format of arithmetic: f32, bf16 with sums in f32, or, on the CPU, f64. Activations have it, too; but beside bf16 they are f32 on
    /// the CPU, which rounds them for products only.
    pub dtype: Dtype,
    /// Tokens of the largest batch.
    pub max_tokens: usize,
    /// Longest document, in tokens.
    pub max_positions: usize,
    /// What the backward pass finds in memory.
    pub recompute: Recompute,
    /// The format of the parameters' gradients, if there will be a backward pass: that of [`Llama::zero_gradients`], or on a device
    /// bf16 for bf16. Each backward pass then adds to it what it has summed in f32, rounding once.
    pub gradients: Option<Dtype>,
}

/// The memory of forward and backward passes over at most `max_tokens` tokens. Everything is allocated here, once.
///
/// It runs on one device, on which the model and the gradients must lie, too. There, passes are queued, and only reading a result
/// waits for them.
#[derive(Debug)]
pub struct Session {
    device: Device,
    options: SessionOptions,
    heads: Heads,
    eps: f64,
    vocab: usize,
    /// cos and sin: `[max_positions, e / 2]`.
    rope: [Tensor; 2],
    /// Inputs of the blocks: `[n, d]` each; one shared where nothing is kept.
    streams: Vec<Stream>,
    /// The inner activations of each block, or one shared set.
    blocks: Vec<BlockSaved>,
    /// What enters their gated units, or one shared set.
    gated: Vec<Gated>,
    /// Those of the last block that was computed.
    passing: Passing,
    /// Output of a block's MLP before it joins the stream: `[n, d]`.
    branch: Tensor,
    /// The last stream, its norm and rstd.
    last: Stream,
    hidden: Tensor,
    gradients: Option<Gradients>,
    /// On the CPU; a device has its own.
    head_scratch: Tensor,
    chunk_rows: usize,
    scores: Scores,
    /// Where a device reads the tokens of the batch.
    documents: Option<Arc<DocumentMemory>>,
    /// The weights packed for products on the CPU: in bf16, or where few rows share a weight.
    packed: Option<PackedArena>,
    num_tokens: usize,
}

// Purposes of memory.
const STREAMS: &str = "residual streams";
const BLOCKS: &str = "block activations";
const GRADIENTS: &str = "activation gradients";
const HEAD: &str = "head";
const PACKED: &str = "packed weights";

/// A residual stream and the norm factor taken of it.
#[derive(Debug)]
struct Stream {
    x: Tensor,    // [n, d]
    rstd: Tensor, // [n, 1]
}

/// The activations inside one block that its backward pass needs.
#[derive(Debug)]
struct BlockSaved {
    q: Tensor,        // [n, h * e], rotated
    k: Tensor,        // [n, k * e], rotated
    v: Tensor,        // [n, k * e]
    attended: Tensor, // [n, h * e]
    lse: Tensor,      // [n, h]
    middle: Stream,   // after attention
}

/// What enters the gated unit of a block.
#[derive(Debug)]
struct Gated {
    gate: Tensor, // [n, f]
    up: Tensor,   // [n, f]
}

/// The activations inside one block that one pass over its others gives: a third of all, were they kept.
#[derive(Debug)]
struct Passing {
    normed: Tensor,     // [n, d]
    mlp_normed: Tensor, // [n, d]
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
    /// Allocates everything on the CPU for batches of at most `options.max_tokens` tokens.
    pub fn new(config: &Config, options: SessionOptions) -> Session {
        Session::on(&Device::Cpu, config, options).expect("invariant: the CPU's memory is not asked for")
    }

    /// Allocates everything on `device`.
    ///
    /// # Errors
    /// [`ModelError::Device`] with the purpose and size of what does not fit.
    pub fn on(device: &Device, config: &Config, options: SessionOptions) -> Result<Session, ModelError> {
        let SessionOptions { max_tokens: n, max_positions, .. } = options;
        let dtype = activation_dtype(device.kind(), options.dtype);
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
        let tensor = |purpose, columns| Tensor::zeros_on(device, purpose, dtype, n, columns);
        let statistic = |purpose, columns| Tensor::zeros_on(device, purpose, statistics_dtype(dtype), n, columns);
        let stream = |purpose| Ok::<_, TensorError>(Stream { x: tensor(purpose, d)?, rstd: statistic(purpose, 1)? });
        let block = || {
            let tensor = |columns| tensor(BLOCKS, columns);
            Ok::<_, TensorError>(BlockSaved {
                q: tensor(q)?,
                k: tensor(kv)?,
                v: tensor(kv)?,
                attended: tensor(q)?,
                lse: statistic(BLOCKS, config.num_heads)?,
                middle: stream(BLOCKS)?,
            })
        };
        let gated = || Ok::<_, TensorError>(Gated { gate: tensor(BLOCKS, f)?, up: tensor(BLOCKS, f)? });
        let Kept { streams: kept_streams, blocks: kept_blocks, gated: kept_gated } = kept(config, options);
        let gradients = || {
            let tensor = |columns| tensor(GRADIENTS, columns);
            Ok::<_, TensorError>(Gradients {
                stream: tensor(d)?,
                normed: tensor(d)?,
                attended: tensor(q)?,
                q: tensor(q)?,
                k: tensor(kv)?,
                v: tensor(kv)?,
                gate: tensor(f)?,
                up: tensor(f)?,
                act: tensor(f)?,
            })
        };
        let chunk_rows = head_chunk_rows(device.kind(), options.dtype, config.vocab_size).min(n.max(1));
        let sizes = Sizes { dim: d, vocab: config.vocab_size, chunk_rows };
        let scratch = if *device == Device::Cpu { sizes.scratch_len() } else { 0 };
        let scale = 1.0 / (config.head_dim as f64).sqrt();
        Ok(Session {
            device: device.clone(),
            options,
            heads: Heads {
                num_heads: config.num_heads,
                num_kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                scale,
            },
            eps: config.rms_norm_eps,
            vocab: config.vocab_size,
            rope: rope_tables(device, config, statistics_dtype(dtype), max_positions)?,
            streams: (0..kept_streams).map(|_| stream(STREAMS)).collect::<Result<_, _>>()?,
            blocks: (0..kept_blocks).map(|_| block()).collect::<Result<_, _>>()?,
            gated: (0..kept_gated).map(|_| gated()).collect::<Result<_, _>>()?,
            passing: Passing { normed: tensor(BLOCKS, d)?, mlp_normed: tensor(BLOCKS, d)?, act: tensor(BLOCKS, f)? },
            branch: tensor(HEAD, d)?,
            last: stream(STREAMS)?,
            hidden: tensor(HEAD, d)?,
            gradients: options.gradients.map(|_| gradients()).transpose()?,
            head_scratch: Tensor::zeros(dtype, 1, scratch),
            chunk_rows,
            scores: Scores::new(device, n, sizes, options.gradients)?,
            documents: match device {
                Device::Cpu => None,
                Device::Cuda(cuda) => Some(Arc::new(DocumentMemory::new(cuda, n)?)),
            },
            packed: (options.dtype != dtype).then(|| {
                let (spec, layout) = Layout::new(config);
                PackedArena::new(PackedFormat::Bf16, &spec, &layout.multiplied(), options.gradients.is_some())
            }),
            num_tokens: 0,
        })
    }

    /// Lets a session on the CPU in f32 that has no backward pass keep a packed copy of the weights, as large as they are: for passes
    /// of few tokens, where packing them each time takes longer than the products. Only of small models, whose memory nobody misses.
    /// No bit of a result depends on it.
    #[must_use]
    pub(crate) fn packing_weights(mut self, config: &Config) -> Session {
        const MAX_BYTES: usize = 1 << 29;
        let (spec, layout) = Layout::new(config);
        let (format, ids) = (PackedFormat::F32, layout.multiplied());
        if PackedArena::bytes_of(format, &spec, &ids, false) <= MAX_BYTES {
            self.packed = Some(PackedArena::new(format, &spec, &ids, false));
        }
        self
    }

    /// What this session was built for.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Bytes by purpose.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        let stream = |s: &Stream| s.x.bytes() + s.rstd.bytes();
        let block = |b: &BlockSaved| {
            let tensors = [&b.q, &b.k, &b.v, &b.attended, &b.lse];
            tensors.iter().map(|t| t.bytes()).sum::<usize>() + stream(&b.middle)
        };
        let Passing { normed, mlp_normed, act } = &self.passing;
        let gated: usize = self.gated.iter().map(|g| g.gate.bytes() + g.up.bytes()).sum();
        let passing = normed.bytes() + mlp_normed.bytes() + act.bytes();
        let gradients = self.gradients.as_ref().map_or(0, |g| {
            let tensors = [&g.stream, &g.normed, &g.attended, &g.q, &g.k, &g.v, &g.gate, &g.up, &g.act];
            tensors.iter().map(|t| t.bytes()).sum()
        });
        let on_device = match self.device {
            Device::Cpu => 0,
            Device::Cuda(_) => {
                let vocab = self.vocab;
                let sizes = Sizes { dim: self.hidden.columns(), vocab, chunk_rows: self.chunk_rows };
                cross_entropy::device_scratch_bytes(sizes, self.options.gradients)
            }
        };
        vec![
            (STREAMS, self.streams.iter().map(stream).sum::<usize>() + stream(&self.last)),
            (BLOCKS, self.blocks.iter().map(block).sum::<usize>() + gated + passing),
            (GRADIENTS, gradients),
            (HEAD, self.head_scratch.bytes() + on_device + self.hidden.bytes() + self.branch.bytes()),
            ("rotary tables", self.rope[0].bytes() + self.rope[1].bytes()),
            (PACKED, self.packed.as_ref().map_or(0, PackedArena::bytes)),
        ]
    }

    /// Computes the hidden states of packed documents; they stay in the session.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Kernel`] for an id past the vocabulary or wrong boundaries.
    pub fn forward(&mut self, model: &Llama, tokens: Tokens<'_>) -> Result<(), ModelError> {
        self.forward_with(model, tokens, |_, heads, call| {
            Ok(attention::forward(call.out, call.lse, call.qkv, call.documents, heads, call.products)?)
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
        if let Some(packed) = &mut self.packed {
            packed.update(&model.params)?;
        }
        if let Some(memory) = &mut self.documents {
            let memory = Arc::get_mut(memory).expect("invariant: only a pass of this session reads it");
            let Tokens { ids, positions, cu_seqlens } = tokens;
            memory.write(ids, positions, cu_seqlens, self.vocab, self.options.max_positions)?;
        }
        let documents = &self.documents(tokens);
        let params = &model.params;
        embedding::forward(self.streams[0].x.rows_mut(n), params.get(model.layout.embedding), documents)?;
        for (l, p) in model.layout.blocks.iter().enumerate() {
            self.enter_block(model, p, l, n)?;
            self.block_forward(model, p, l, documents, &mut attend)?;
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
        self.score(model, targets)?;
        self.last_logp()
    }

    /// [`Session::logp`] that leaves them in the session, without waiting for a device.
    ///
    /// # Errors
    /// As [`Session::logp`].
    pub fn score(&mut self, model: &Llama, targets: &[u32]) -> Result<(), ModelError> {
        let n = self.num_tokens;
        let head = Head {
            hidden: self.hidden.rows(n),
            weight: matrix(self.packed.as_ref(), model, model.layout.head),
            targets,
            chunk_rows: self.chunk_rows,
            scratch: self.head_scratch.rows_mut(1),
        };
        Ok(cross_entropy::forward(&mut self.scores, head)?)
    }

    /// The log-probabilities of the last pass that computed them.
    ///
    /// # Errors
    /// [`ModelError::Device`], also for an earlier pass that failed on the device.
    pub fn last_logp(&mut self) -> Result<&[f64], ModelError> {
        Ok(self.scores.read(self.num_tokens)?)
    }

    /// Adds minus the log-probabilities of the last pass, divided by `divisor`, to the loss of a step, without waiting for a
    /// device.
    ///
    /// # Errors
    /// [`ModelError::Device`], also for statistics that lies elsewhere.
    pub fn add_loss(&self, stats: &mut StepStats, divisor: f64) -> Result<(), ModelError> {
        Ok(self.scores.add_loss(stats, self.num_tokens, divisor)?)
    }

    /// What the head has said of the tokens of the last pass, for an objective that weighs them.
    pub fn scores_mut(&mut self) -> &mut Scores {
        &mut self.scores
    }

    /// Adds to `grads` the gradients of a loss with dLoss / dlogp = `token_weights`, after [`Session::forward`] and
    /// [`Session::score`]; with `None`, those that an objective has left in [`Session::scores_mut`].
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
        token_weights: Option<&[f64]>,
        grads: &mut Arena,
    ) -> Result<(), ModelError> {
        self.head_backward(model, targets, token_weights, grads, false)?;
        self.body_backward(model, tokens, grads)
    }

    /// Forward and backward in one, for weights that do not depend on the log-probabilities; [`Session::last_logp`] has those.
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
    ) -> Result<(), ModelError> {
        self.forward(model, tokens)?;
        self.head_backward(model, targets, Some(token_weights), grads, true)?;
        self.body_backward(model, tokens, grads)
    }

    /// The tokens of a pass, where its ops read them.
    fn documents<'t>(&self, tokens: Tokens<'t>) -> Documents<'t> {
        let Tokens { ids, positions, cu_seqlens } = tokens;
        match &self.documents {
            None => Documents::on_host(ids, positions, cu_seqlens),
            Some(memory) => Documents::on_device(ids, positions, cu_seqlens, memory),
        }
    }

    /// The logits of chosen rows of the last forward pass.
    pub(crate) fn logits(&mut self, model: &Llama, rows: &Indices, out: &mut Logits) -> Result<(), ModelError> {
        let n = rows.values().len();
        embedding::gather(self.branch.rows_mut(n), self.hidden.rows(self.num_tokens), rows)?;
        let head = matrix(self.packed.as_ref(), model, model.layout.head);
        Ok(linear::forward(out.rows_mut(n), self.branch.rows(n), head)?)
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
        let (normed, rstd) = (self.passing.normed.rows_mut(n), rstd.rows_mut(n));
        if l == 0 {
            rms_norm::forward(normed, rstd, x.rows(n), weight, self.eps)?;
        } else {
            let middle = self.blocks[(l - 1).min(self.blocks.len() - 1)].middle.x.rows(n);
            rms_norm::forward_add(normed, x.rows_mut(n), rstd, self.branch.rows(n), middle, weight, self.eps)?;
        }
        Ok(())
    }

    /// From the normed input of block `l` to its branch.
    fn block_forward(
        &mut self,
        model: &Llama,
        p: &BlockParams,
        l: usize,
        documents: &Documents<'_>,
        attend: &mut impl FnMut(usize, Heads, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let n = documents.ids.len();
        let packed = self.packed.as_ref();
        let weight = |id| matrix(packed, model, id);
        let (stream, block) = (l.min(self.streams.len() - 1), l.min(self.blocks.len() - 1));
        let tables =
            Tables { cos: self.rope[0].rows(self.rope[0].num_rows()), sin: self.rope[1].rows(self.rope[1].num_rows()) };
        let (saved, passing) = (&mut self.blocks[block], &mut self.passing);
        linear::forward(saved.q.rows_mut(n), passing.normed.rows(n), weight(p.q))?;
        linear::forward(saved.k.rows_mut(n), passing.normed.rows(n), weight(p.k))?;
        linear::forward(saved.v.rows_mut(n), passing.normed.rows(n), weight(p.v))?;
        rope::forward(saved.q.rows_mut(n), tables, documents)?;
        rope::forward(saved.k.rows_mut(n), tables, documents)?;
        let qkv = Qkv { q: saved.q.rows(n), k: saved.k.rows(n), v: saved.v.rows(n) };
        let (out, lse) = (saved.attended.rows_mut(n), saved.lse.rows_mut(n));
        attend(l, self.heads, AttentionCall { out, lse, qkv, documents, products: self.options.dtype })?;
        linear::forward(self.branch.rows_mut(n), saved.attended.rows(n), weight(p.o))?;
        rms_norm::forward_add(
            passing.mlp_normed.rows_mut(n),
            saved.middle.x.rows_mut(n),
            saved.middle.rstd.rows_mut(n),
            self.branch.rows(n),
            self.streams[stream].x.rows(n),
            model.params.get(p.mlp_norm),
            self.eps,
        )?;
        self.gated_forward(model, p, l, n)?;
        let weight = matrix(self.packed.as_ref(), model, p.down);
        linear::forward(self.branch.rows_mut(n), self.passing.act.rows(n), weight)?;
        Ok(())
    }

    /// From the normed stream in the middle of block `l` to the result of the gated unit.
    fn gated_forward(&mut self, model: &Llama, p: &BlockParams, l: usize, n: usize) -> Result<(), ModelError> {
        let packed = self.packed.as_ref();
        let kept = self.gated.len() - 1;
        let (Gated { gate, up }, Passing { mlp_normed, act, .. }) = (&mut self.gated[l.min(kept)], &mut self.passing);
        linear::forward(gate.rows_mut(n), mlp_normed.rows(n), matrix(packed, model, p.gate))?;
        linear::forward(up.rows_mut(n), mlp_normed.rows(n), matrix(packed, model, p.up))?;
        swiglu::forward(act.rows_mut(n), gate.rows(n), up.rows(n))?;
        Ok(())
    }

    /// Gradient of the last stream from the head, with the head's own.
    fn head_backward(
        &mut self,
        model: &Llama,
        targets: &[u32],
        token_weights: Option<&[f64]>,
        grads: &mut Arena,
        fused: bool,
    ) -> Result<(), ModelError> {
        let n = self.num_tokens;
        let g = self.gradients.as_mut().expect("invariant: the session was built for a backward pass");
        let head = Head {
            hidden: self.hidden.rows(n),
            weight: matrix(self.packed.as_ref(), model, model.layout.head),
            targets,
            chunk_rows: self.chunk_rows,
            scratch: self.head_scratch.rows_mut(1),
        };
        let (dhidden, dweight) = (g.normed.rows_mut(n), grads.get_mut(model.layout.head));
        let gradients = cross_entropy::Gradients { token_weights, dhidden, dweight };
        if fused {
            cross_entropy::forward_backward(&mut self.scores, head, gradients)?;
        } else {
            cross_entropy::backward(&mut self.scores, head, gradients)?;
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
        let documents = &self.documents(tokens);
        for (l, p) in model.layout.blocks.iter().enumerate().rev() {
            self.restore(model, p, l, documents)?;
            self.block_backward(model, p, l, documents, grads)?;
        }
        let g = self.gradients.as_ref().expect("invariant: the session was built for a backward pass");
        embedding::backward(grads.get_mut(model.layout.embedding), g.stream.rows(n), documents)?;
        Ok(())
    }

    /// Computes again what was not kept of block `l`. The last block is still in memory.
    fn restore(
        &mut self,
        model: &Llama,
        p: &BlockParams,
        l: usize,
        documents: &Documents<'_>,
    ) -> Result<(), ModelError> {
        if l + 1 == model.layout.blocks.len() {
            return Ok(());
        }
        let n = documents.ids.len();
        let norm = |id| model.params.get(id);
        let Stream { x, rstd } = &mut self.streams[l];
        let normed = self.passing.normed.rows_mut(n);
        rms_norm::forward(normed, rstd.rows_mut(n), x.rows(n), norm(p.attention_norm), self.eps)?;
        if self.blocks.len() == 1 {
            return self.block_forward(model, p, l, documents, &mut |_, heads, call| {
                Ok(attention::forward(call.out, call.lse, call.qkv, call.documents, heads, call.products)?)
            });
        }
        let saved = &mut self.blocks[l];
        let Stream { x, rstd } = &mut saved.middle;
        let normed = self.passing.mlp_normed.rows_mut(n);
        rms_norm::forward(normed, rstd.rows_mut(n), x.rows(n), norm(p.mlp_norm), self.eps)?;
        if self.gated.len() == 1 {
            return self.gated_forward(model, p, l, n);
        }
        let Gated { gate, up } = &self.gated[l];
        swiglu::forward(self.passing.act.rows_mut(n), gate.rows(n), up.rows(n))?;
        Ok(())
    }

    fn block_backward(
        &mut self,
        model: &Llama,
        p: &BlockParams,
        l: usize,
        documents: &Documents<'_>,
        grads: &mut Arena,
    ) -> Result<(), ModelError> {
        let n = documents.ids.len();
        let packed = self.packed.as_ref();
        let weight = |id| matrix(packed, model, id);
        let norm = |id| model.params.get(id);
        let backward_weight: fn(ViewMut<'_>, View<'_>, View<'_>) -> Result<(), TensorError> =
            if packed.is_some() { linear::backward_weight_in_bf16 } else { linear::backward_weight };
        let (saved, passing) = (&self.blocks[l.min(self.blocks.len() - 1)], &self.passing);
        let Gated { gate, up } = &self.gated[l.min(self.gated.len() - 1)];
        let stream = &self.streams[l];
        let tables =
            Tables { cos: self.rope[0].rows(self.rope[0].num_rows()), sin: self.rope[1].rows(self.rope[1].num_rows()) };
        let g = self.gradients.as_mut().expect("invariant: the session was built for a backward pass");

        // MLP: the gradient of the branch is that of the stream
        linear::backward_input(g.act.rows_mut(n), Write::Overwrite, g.stream.rows(n), weight(p.down))?;
        backward_weight(grads.get_mut(p.down), g.stream.rows(n), passing.act.rows(n))?;
        swiglu::backward(g.gate.rows_mut(n), g.up.rows_mut(n), g.act.rows(n), gate.rows(n), up.rows(n))?;
        backward_weight(grads.get_mut(p.gate), g.gate.rows(n), passing.mlp_normed.rows(n))?;
        backward_weight(grads.get_mut(p.up), g.up.rows(n), passing.mlp_normed.rows(n))?;
        linear::backward_input(g.normed.rows_mut(n), Write::Overwrite, g.gate.rows(n), weight(p.gate))?;
        linear::backward_input(g.normed.rows_mut(n), Write::Accumulate, g.up.rows(n), weight(p.up))?;
        rms_norm::backward(
            g.stream.rows_mut(n),
            Write::Accumulate,
            grads.get_mut(p.mlp_norm),
            g.normed.rows(n),
            rms_norm::Saved { x: saved.middle.x.rows(n), rstd: saved.middle.rstd.rows(n), weight: norm(p.mlp_norm) },
        )?;

        // attention
        linear::backward_input(g.attended.rows_mut(n), Write::Overwrite, g.stream.rows(n), weight(p.o))?;
        backward_weight(grads.get_mut(p.o), g.stream.rows(n), saved.attended.rows(n))?;
        let qkv = Qkv { q: saved.q.rows(n), k: saved.k.rows(n), v: saved.v.rows(n) };
        let kept = attention::Saved { out: saved.attended.rows(n), lse: saved.lse.rows(n) };
        let outputs = [g.q.rows_mut(n), g.k.rows_mut(n), g.v.rows_mut(n)];
        attention::backward(outputs, g.attended.rows(n), kept, qkv, documents, self.heads, self.options.dtype)?;
        rope::backward(g.q.rows_mut(n), tables, documents)?;
        rope::backward(g.k.rows_mut(n), tables, documents)?;
        for (id, gradient, write) in
            [(p.q, &g.q, Write::Overwrite), (p.k, &g.k, Write::Accumulate), (p.v, &g.v, Write::Accumulate)]
        {
            backward_weight(grads.get_mut(id), gradient.rows(n), passing.normed.rows(n))?;
            linear::backward_input(g.normed.rows_mut(n), write, gradient.rows(n), weight(id))?;
        }
        rms_norm::backward(
            g.stream.rows_mut(n),
            Write::Accumulate,
            grads.get_mut(p.attention_norm),
            g.normed.rows(n),
            rms_norm::Saved { x: stream.x.rows(n), rstd: stream.rstd.rows(n), weight: norm(p.attention_norm) },
        )?;
        Ok(())
    }
}

/// A weight as the products of a session read it.
fn matrix<'a>(packed: Option<&'a PackedArena>, model: &'a Llama, id: TensorId) -> Weight<'a> {
    match packed {
        Some(packed) => Weight::Packed(packed.get(id)),
        None => Weight::Plain(model.params.get(id)),
    }
}

/// The outputs and inputs of one attention.
pub(crate) struct AttentionCall<'a> {
    pub(crate) out: findap_tensor::ViewMut<'a>,
    pub(crate) lse: findap_tensor::ViewMut<'a>,
    pub(crate) qkv: Qkv<'a>,
    pub(crate) documents: &'a Documents<'a>,
    pub(crate) products: Dtype,
}

/// What [`Session::memory`] of a session on a device of this kind will say, without building one.
pub fn memory_bytes(kind: DeviceKind, config: &Config, options: SessionOptions) -> Vec<(&'static str, usize)> {
    let SessionOptions { max_tokens: n, max_positions, .. } = options;
    let needs_backward = options.gradients.is_some();
    let dtype = activation_dtype(kind, options.dtype);
    let (number, statistic) = (dtype.size_bytes(), statistics_dtype(dtype).size_bytes());
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim);
    let Kept { streams, blocks, gated } = kept(config, options);
    let stream = d * number + statistic;
    let block = (2 * q + 2 * kv) * number + config.num_heads * statistic + stream;
    let passing = (2 * d + f) * number;
    let gradients = if needs_backward { (2 * d + 2 * q + 2 * kv + 3 * f) * number } else { 0 };
    let chunk_rows = head_chunk_rows(kind, options.dtype, config.vocab_size).min(n.max(1));
    let sizes = Sizes { dim: d, vocab: config.vocab_size, chunk_rows };
    let chunk = match kind {
        DeviceKind::Cpu => sizes.scratch_len() * number,
        DeviceKind::Cuda => cross_entropy::device_scratch_bytes(sizes, options.gradients),
    };
    let packed = || {
        let (spec, layout) = Layout::new(config);
        PackedArena::bytes_of(PackedFormat::Bf16, &spec, &layout.multiplied(), needs_backward)
    };
    vec![
        (STREAMS, n * stream * (streams + 1)),
        (BLOCKS, n * (block * blocks + 2 * f * number * gated + passing)),
        (GRADIENTS, n * gradients),
        (HEAD, chunk + 2 * n * d * number),
        ("rotary tables", max_positions * config.head_dim * statistic),
        (PACKED, if options.dtype == dtype { 0 } else { packed() }),
    ]
}

/// The format of activations beside products in `dtype`.
pub(crate) fn activation_dtype(kind: DeviceKind, dtype: Dtype) -> Dtype {
    if kind == DeviceKind::Cpu && dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}

/// How many blocks keep what.
struct Kept {
    streams: usize,
    blocks: usize,
    gated: usize,
}

fn kept(config: &Config, options: SessionOptions) -> Kept {
    let all = config.num_layers;
    match (options.gradients, options.recompute) {
        (Some(_), Recompute::None) => Kept { streams: all, blocks: all, gated: all },
        (Some(_), Recompute::Mlp) => Kept { streams: all, blocks: all, gated: 1 },
        (Some(_), Recompute::Block) => Kept { streams: all, blocks: 1, gated: 1 },
        (None, _) => Kept { streams: 1, blocks: 1, gated: 1 },
    }
}

/// Rows of logits computed at a time. CPU: about 2^23 logits (32 MiB), for every chunk packs the whole head anew, and whole tiles of 32
/// rows in bf16; a device: about 2^27 (512 MiB), so that products are large.
fn head_chunk_rows(kind: DeviceKind, dtype: Dtype, vocab_size: usize) -> usize {
    let of_logits = |logits: usize| logits / vocab_size.max(1);
    match kind {
        DeviceKind::Cpu => {
            let rows = of_logits(1 << 23).clamp(16, MAX_CHUNK_ROWS);
            if dtype == Dtype::Bf16 { rows.next_multiple_of(32) } else { rows }
        }
        DeviceKind::Cuda => of_logits(1 << 27).clamp(128, 8192),
    }
}

/// The format of norm factors, log-sums, rotary tables and logits beside activations in `dtype`, and of gradients beside such weights.
pub(crate) fn statistics_dtype(dtype: Dtype) -> Dtype {
    if dtype == Dtype::Bf16 { Dtype::F32 } else { dtype }
}

pub(crate) fn rope_tables(
    device: &Device,
    config: &Config,
    dtype: Dtype,
    max_positions: usize,
) -> Result<[Tensor; 2], ModelError> {
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
        let mut host = Tensor::zeros(dtype, max_positions, frequencies.len());
        host.slice_mut().copy_from_f64(&values);
        if *device == Device::Cpu {
            return Ok(host);
        }
        let mut tensor = Tensor::zeros_on(device, "rotary tables", dtype, max_positions, frequencies.len())?;
        tensor.write(0, host.slice())?;
        Ok::<_, ModelError>(tensor)
    };
    Ok([table(f64::cos)?, table(f64::sin)?])
}
