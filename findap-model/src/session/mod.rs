//! Activations and the passes over them.
//!
//! Dimensions: n tokens, d hidden, h query heads, k key heads, e head dim, f MLP width, v vocabulary, l blocks.
//!
//! ```text
//! let pass = session.forward(&model, tokens)?;              blocks, last norm: hidden states
//! pass.backward(targets, token_weights, &mut gradients)?;   weights known before: head once, blocks in reverse order
//!
//! let scored = session.forward(&model, tokens)?.score(targets)?;
//! scored.backward(token_weights, &mut gradients)?;          weights computed from the log-probabilities
//! ```
//!
//! A [`Pass`] holds what its backward pass needs, the tokens included, and is used up by it.

mod block;
mod buffers;
mod head;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use findap_data::Batch;
use findap_tensor::documents::DocumentMemory;
use findap_tensor::ops::attention::Heads;
use findap_tensor::ops::cross_entropy::Scores;
use findap_tensor::ops::{embedding, rms_norm};
use findap_tensor::{Device, Documents, Dtype, PackedArena, PackedFormat, Tensor};

use self::block::Block;
use self::buffers::Layers;
use self::plan::{Buffers, Plan};
use crate::config::Config;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::format::statistics_dtype;
use crate::layout::Layout;
use crate::linear::Weights;
use crate::lora::Lora;

pub(crate) use self::block::AttentionCall;
pub use self::head::{LogProbs, Scored};
pub use self::plan::{Recompute, memory_bytes};
pub use crate::format::activation_dtype;

/// Packed documents, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Token ids `[n]`.
    pub ids: &'a [u32],
    /// Positions `[n]`, from 0 in each document.
    pub positions: &'a [u32],
    /// `[documents + 1]`: where documents begin, and n.
    pub cu_seqlens: &'a [u32],
}

impl<'a> From<&'a Batch> for Tokens<'a> {
    fn from(batch: &'a Batch) -> Self {
        Tokens { ids: &batch.tokens, positions: &batch.positions, cu_seqlens: &batch.cu_seqlens }
    }
}

/// The sizes and formats that a session is built for.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// Format of arithmetic: f32, bf16 with sums in f32, or, on the CPU, f64. Activations have the same format, except that the CPU
    /// keeps them in f32 beside bf16 and rounds them for matmuls only.
    pub dtype: Dtype,
    /// Tokens of the largest batch.
    pub max_tokens: usize,
    /// Longest document, in tokens.
    pub max_positions: usize,
    /// What the backward pass recomputes instead of keeping it in memory.
    pub recompute: Recompute,
    /// The format of the parameters' gradients, or `None` without a backward pass: that of [`Decoder::zero_gradients`], or bf16 for
    /// bf16 on a device. Each backward pass then adds to them what it has summed in f32, rounding once.
    pub gradients: Option<Dtype>,
    /// Count of frozen blocks from the input on ([`Decoder::frozen_blocks`]). The backward pass ends above them, and none of their
    /// activations are kept for it.
    pub frozen_blocks: usize,
    /// The model's adapter ([`Decoder::lora`]).
    pub lora: Option<Lora>,
}

/// The memory of forward and backward passes over at most `max_tokens` tokens. Everything is allocated here, once.
///
/// A session runs on one device, on which the model and the gradients must lie, too. On a GPU, passes are queued, and only reading
/// a result waits for them.
#[derive(Debug)]
pub struct Session {
    options: SessionOptions,
    plan: Plan,
    buffers: Buffers<Layers>,
    heads: Heads,
    /// How many tokens a query of each block sees; `None` for no limit.
    windows: Vec<Option<usize>>,
    eps: f64,
    vocab: usize,
    /// The rotary tables, cos and sin: `[max_positions, e / 2]` each.
    rope: [Tensor; 2],
    /// The head's scratch memory on the CPU; a device has its own.
    head_scratch: Tensor,
    scores: Scores,
    /// The memory from which a device reads the tokens of the batch.
    documents: Option<Arc<DocumentMemory>>,
    /// The weights packed for matmuls on the CPU: in bf16, or where few rows share a weight.
    packed: Option<PackedArena>,
}

/// A forward pass whose hidden states are in the session.
#[derive(Debug)]
pub struct Pass<'a> {
    session: &'a mut Session,
    model: &'a Decoder,
    tokens: Tokens<'a>,
}

impl Session {
    /// Builds a session on the CPU.
    pub fn new(config: &Config, options: SessionOptions) -> Session {
        Session::on(&Device::Cpu, config, options).expect("invariant: the CPU's memory is not asked for")
    }

    /// Builds a session on `device`.
    ///
    /// # Errors
    /// [`ModelError::Device`] with the purpose and size of what does not fit.
    pub fn on(device: &Device, config: &Config, options: SessionOptions) -> Result<Session, ModelError> {
        let plan = Plan::new(device.kind(), config, options);
        let packed = plan.packs_weights.then(|| {
            let layout = Layout::new(config);
            PackedArena::new(PackedFormat::Bf16, &layout.spec, &layout.multiplied(), options.gradients.is_some())
        });
        Ok(Session {
            options,
            buffers: Buffers::new(device, &plan)?,
            heads: Heads {
                num_heads: config.num_heads,
                num_kv_heads: config.num_kv_heads,
                head_dim: config.head_dim,
                scale: 1.0 / (config.head_dim as f64).sqrt(),
                window: None,
            },
            windows: config.windows.clone(),
            eps: config.rms_norm_eps,
            vocab: config.vocab_size,
            rope: rope_tables(device, config, statistics_dtype(plan.dtype), options.max_positions)?,
            head_scratch: Tensor::zeros(plan.dtype, 1, plan.head_scratch_len),
            scores: Scores::new(device, options.max_tokens, plan.head, options.gradients)?,
            documents: match device {
                Device::Cpu => None,
                Device::Cuda(cuda) => Some(Arc::new(DocumentMemory::new(cuda, options.max_tokens)?)),
            },
            packed,
            plan,
        })
    }

    /// Keeps a packed copy of a small model's weights, for a session on the CPU in f32 without a backward pass. In passes of few
    /// tokens, packing weights each time takes longer than the matmuls. The copy is as large as the weights, so large models
    /// have none. Results are bit-identical with and without it.
    #[must_use]
    pub(crate) fn packing_weights(mut self, config: &Config) -> Session {
        const MAX_BYTES: usize = 1 << 29;
        let layout = Layout::new(config);
        let (format, ids) = (PackedFormat::F32, layout.multiplied());
        if PackedArena::bytes_of(format, &layout.spec, &ids, false) <= MAX_BYTES {
            self.packed = Some(PackedArena::new(format, &layout.spec, &ids, false));
        }
        self
    }

    /// The options that this session was built with.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Bytes of memory by purpose.
    pub fn memory(&self) -> Vec<(&'static str, usize)> {
        let buffers = self.buffers.named().into_iter().map(|(_, layers)| (layers.row.purpose, layers.bytes()));
        self.plan.memory_of(buffers, self.packed.as_ref().map_or(0, PackedArena::bytes))
    }

    /// Computes the hidden states of packed documents.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Kernel`] for an id past the vocabulary or wrong boundaries.
    pub fn forward<'a>(&'a mut self, model: &'a Decoder, tokens: Tokens<'a>) -> Result<Pass<'a>, ModelError> {
        self.forward_with(model, tokens, |_, call| call.among_themselves())
    }

    /// Computes [`Session::forward`] with the attention of each block done by `attend(block, call)`.
    pub(crate) fn forward_with<'a>(
        &'a mut self,
        model: &'a Decoder,
        tokens: Tokens<'a>,
        mut attend: impl FnMut(usize, AttentionCall<'_>) -> Result<(), ModelError>,
    ) -> Result<Pass<'a>, ModelError> {
        let n = self.check(model, tokens)?;
        if let Some(packed) = &mut self.packed {
            packed.update(&model.params)?;
        }
        if let Some(memory) = &mut self.documents {
            let memory = Arc::get_mut(memory).expect("invariant: only a pass of this session reads it");
            let Tokens { ids, positions, cu_seqlens } = tokens;
            memory.write(ids, positions, cu_seqlens, self.vocab, self.options.max_positions)?;
        }
        let documents = &self.documents(tokens);
        let (params, layout) = (&model.params, &model.layout);
        embedding::forward(self.buffers.residual.rows_mut(0, n), params.get(layout.embedding), documents)?;
        for (l, block) in layout.blocks.iter().enumerate() {
            let b = &mut self.buffers;
            let (normed, rstd) = (b.normed.rows_mut(l, n), b.residual_rstd.rows_mut(l, n));
            let weight = params.get(block.attention_norm);
            if l == 0 {
                rms_norm::forward(normed, rstd, b.residual.rows(l, n), weight, self.eps)?;
            } else {
                let (sublayer_out, post_attention) = (b.sublayer_out.shared(n), b.post_attention.rows(l - 1, n));
                let residual = b.residual.rows_mut(l, n);
                rms_norm::forward_add(normed, residual, rstd, sublayer_out, post_attention, weight, self.eps)?;
            }
            let (block, buffers) = self.block(model, l, documents);
            block.forward(buffers, &mut attend)?;
        }
        let b = &mut self.buffers;
        rms_norm::forward_add(
            b.hidden.shared_mut(n),
            b.final_residual.shared_mut(n),
            b.final_rstd.shared_mut(n),
            b.sublayer_out.shared(n),
            b.post_attention.rows(layout.blocks.len() - 1, n),
            params.get(layout.final_norm),
            self.eps,
        )?;
        Ok(Pass { session: self, model, tokens })
    }

    /// Block `l` of the model, and the buffers it works on.
    fn block<'s>(
        &'s mut self,
        model: &'s Decoder,
        l: usize,
        documents: &'s Documents<'_>,
    ) -> (Block<'s>, &'s mut Buffers<Layers>) {
        let block = Block {
            l,
            params: &model.layout.blocks[l],
            weights: Weights { params: &model.params, packed: self.packed.as_ref(), adapter: model.adapter_weights() },
            documents,
            heads: Heads { window: self.windows[l], ..self.heads },
            rope: &self.rope,
            eps: self.eps,
            products: self.options.dtype,
        };
        (block, &mut self.buffers)
    }

    /// The tokens of a pass, in the memory that its ops read.
    fn documents<'t>(&self, tokens: Tokens<'t>) -> Documents<'t> {
        let Tokens { ids, positions, cu_seqlens } = tokens;
        match &self.documents {
            None => Documents::on_host(ids, positions, cu_seqlens),
            Some(memory) => Documents::on_device(ids, positions, cu_seqlens, memory),
        }
    }

    fn check(&self, model: &Decoder, tokens: Tokens<'_>) -> Result<usize, ModelError> {
        if model.lora() != self.options.lora {
            let reason = "the session was built for another one than the model has; build it with `Decoder::lora`";
            return Err(ModelError::Adapter { reason: reason.into() });
        }
        let too_long = |what, got, limit, setting| Err(ModelError::TooLong { what, got, limit, setting });
        let (n, limit) = (tokens.ids.len(), self.options.max_tokens);
        if n > limit {
            return too_long("tokens in a batch", n, limit, "max_tokens");
        }
        let longest = tokens.positions.iter().max().map_or(0, |&p| p as usize + 1);
        let limit = self.options.max_positions;
        if longest > limit {
            return too_long("tokens in a document", longest, limit, "max_positions");
        }
        Ok(n)
    }
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
