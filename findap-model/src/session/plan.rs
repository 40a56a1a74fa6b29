//! The plan of a session's memory, with each buffer in one row. Allocation, the report, the forecast and the choice of a layer's slot
//! all read the rows of a [`Plan`].

use findap_tensor::ops::cross_entropy::{self, MAX_CHUNK_ROWS, Sizes};
use findap_tensor::{DeviceKind, Dtype, PackedArena, PackedFormat};

use super::SessionOptions;
use crate::config::Config;
use crate::format::{activation_dtype, statistics_dtype};
use crate::layout::Layout;
use crate::lora::Target;

/// Which activations the backward pass finds in memory, and which it computes again, to the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// Keeps everything except the outputs of norms and of SwiGLU, which are recomputed elementwise.
    None,
    /// Recomputes gate and up, too: halves a block's memory at the cost of two more matmuls beside seven.
    Mlp,
    /// Keeps the input of each block and recomputes the rest.
    Block,
}

impl Recompute {
    /// Every policy, from the most memory to the least.
    pub const ALL: [Recompute; 3] = [Recompute::None, Recompute::Mlp, Recompute::Block];
}

/// A purpose of memory, as users read it.
pub(crate) type Purpose = &'static str;

const RESIDUALS: Purpose = "residual streams";
const BLOCKS: Purpose = "block activations";
const GRADIENTS: Purpose = "activation gradients";
const HEAD: Purpose = "head";
const ROTARY: Purpose = "rotary tables";
const PACKED: Purpose = "packed weights";

const PURPOSES: [Purpose; 6] = [RESIDUALS, BLOCKS, GRADIENTS, HEAD, ROTARY, PACKED];

/// Declares [`Buffers`] with a field for each name.
macro_rules! buffers {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One `T` for each buffer of `[n, columns]` numbers, n the number of tokens: its row in a [`Plan`], or its memory.
        #[derive(Debug)]
        pub(crate) struct Buffers<T> {
            $($(#[doc = $doc])* pub(crate) $name: T,)*
        }

        impl<T> Buffers<T> {
            /// Every buffer under its name.
            pub(crate) fn named(&self) -> Vec<(&'static str, &T)> {
                vec![$((stringify!($name), &self.$name),)*]
            }

            /// Maps every buffer by `f`.
            pub(crate) fn try_map<U, E>(&self, mut f: impl FnMut(&T) -> Result<U, E>) -> Result<Buffers<U>, E> {
                Ok(Buffers { $($name: f(&self.$name)?,)* })
            }
        }
    };
}

buffers! {
    /// The input of each block.
    residual,
    /// The norm factor of each block's input.
    residual_rstd,
    /// The normed input of a block, which the projections of attention read.
    normed,
    /// Queries before their norm, in a model that has such norms.
    q_projected,
    /// The norm factors of each head's queries.
    q_rstd,
    /// Keys before their norm.
    k_projected,
    /// The norm factors of each head's keys.
    k_rstd,
    /// Queries, rotated.
    q,
    /// Keys, rotated.
    k,
    /// Values.
    v,
    /// The result of attention.
    attention_out,
    /// The logarithm of each query's sum of exponentials.
    lse,
    /// The residual after attention.
    post_attention,
    /// The norm factor of the residual after attention.
    post_attention_rstd,
    /// The normed residual after attention, which the MLP reads.
    mlp_normed,
    /// The gate of the MLP.
    gate,
    /// The up projection of the MLP, which the gate multiplies.
    up,
    /// The SwiGLU of gate and up.
    swiglu_out,
    /// The result of attention or of the MLP before it joins the residual.
    sublayer_out,
    /// The low-rank part s x A^T of the adapter of queries.
    q_low,
    /// The low-rank part of the adapter of keys.
    k_low,
    /// The low-rank part of the adapter of values.
    v_low,
    /// The low-rank part of the adapter of the output projection of attention.
    o_low,
    /// The low-rank part of the adapter of the gate.
    gate_low,
    /// The low-rank part of the adapter of the up projection.
    up_low,
    /// The low-rank part of the adapter of the down projection.
    down_low,
    /// The residual after the last block.
    final_residual,
    /// The norm factor of the last residual.
    final_rstd,
    /// The hidden states that the head reads: the norm of the last residual.
    hidden,
    /// Gradient of the residual.
    d_residual,
    /// Gradient of a norm's output.
    d_normed,
    /// Gradient of the result of attention.
    d_attention_out,
    /// Gradient of queries.
    d_q,
    /// Gradient of keys.
    d_k,
    /// Gradient of values.
    d_v,
    /// Gradient of queries before their norm.
    d_q_projected,
    /// Gradient of keys before their norm.
    d_k_projected,
    /// Gradient of the gate.
    d_gate,
    /// Gradient of the up projection.
    d_up,
    /// Gradient of the SwiGLU.
    d_swiglu_out,
    /// Gradient of the low-rank part of one adapter at a time.
    d_low,
}

/// One buffer: `slots` times `[n, columns]` in `dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) purpose: Purpose,
    pub(crate) columns: usize,
    pub(crate) dtype: Dtype,
    /// How many layers have memory of their own; 0 for a buffer that the model or the session does not need.
    pub(crate) slots: usize,
    /// First and end of the layers that have a backward pass; the layers before share the first slot.
    pub(super) trained: (usize, usize),
}

impl Row {
    /// The slot of layer `l`: the first layers have slots of their own, and all later ones share the last slot.
    pub(crate) fn slot(&self, l: usize) -> usize {
        l.saturating_sub(self.trained.0).min(self.slots.saturating_sub(1))
    }

    /// Whether the backward pass finds the numbers of layer `l` where the forward pass left them.
    pub(crate) fn keeps(&self, l: usize) -> bool {
        let (first, end) = self.trained;
        l + 1 == end || (l >= first && l - first + 1 < self.slots)
    }

    fn bytes(&self, max_tokens: usize) -> usize {
        self.slots * max_tokens * self.columns * self.dtype.size_bytes()
    }
}

/// Everything that a session will allocate.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) rows: Buffers<Row>,
    pub(crate) max_tokens: usize,
    /// The format of activations.
    pub(crate) dtype: Dtype,
    /// The head's chunks of logits.
    pub(crate) head: Sizes,
    /// Count of scratch numbers that the head needs on the CPU; a device has scratch memory of its own.
    pub(crate) head_scratch_len: usize,
    /// Whether the CPU multiplies by packed copies of the weights, because it rounds to bf16.
    pub(crate) packs_weights: bool,
    fixed: [(Purpose, usize); 3],
}

impl Plan {
    /// The plan of a session with these options on a device of this kind.
    pub(crate) fn new(kind: DeviceKind, config: &Config, options: SessionOptions) -> Plan {
        let SessionOptions { max_tokens, recompute, frozen_blocks, .. } = options;
        let dtype = activation_dtype(kind, options.dtype);
        let has_backward = options.gradients.is_some();
        let trained = (frozen_blocks.min(config.num_layers), config.num_layers);
        let num_trained = (trained.1 - trained.0).max(1);

        // How many layers keep a buffer.
        let always = if has_backward { num_trained } else { 1 };
        let unless = |recomputed: &[Recompute]| if recomputed.contains(&recompute) { 1 } else { always };
        let unless_block = unless(&[Recompute::Block]);
        let unless_mlp = unless(&[Recompute::Mlp, Recompute::Block]);
        let once = 1;
        let backward = usize::from(has_backward);
        let of_head_norm = |slots: usize| if config.has_qk_norm { slots } else { 0 };
        // Normed and rotated heads are recomputed in one pass over the projections.
        let rotated = if config.has_qk_norm { once } else { unless_block };

        let activation = |purpose, columns, slots| Row { purpose, columns, dtype, slots, trained };
        let statistic =
            |purpose, columns, slots| Row { purpose, columns, dtype: statistics_dtype(dtype), slots, trained };
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let (h, kv_h) = (config.num_heads, config.num_kv_heads);
        let (q, kv) = (config.q_width(), config.kv_width());
        // As long as the layer's own result; that of the down projection always, because its result is not computed again.
        let low_rank = |target: Target, slots: usize| {
            let lora = options.lora.filter(|lora| lora.targets.contains(target));
            activation(BLOCKS, lora.map_or(0, |lora| lora.rank), if lora.is_some() { slots } else { 0 })
        };
        let rank = options.lora.map_or(0, |lora| lora.rank);
        let rows = Buffers {
            residual: activation(RESIDUALS, d, always),
            residual_rstd: statistic(RESIDUALS, 1, always),
            normed: activation(BLOCKS, d, once),
            q_projected: activation(BLOCKS, q, of_head_norm(unless_block)),
            q_rstd: statistic(BLOCKS, h, of_head_norm(unless_block)),
            k_projected: activation(BLOCKS, kv, of_head_norm(unless_block)),
            k_rstd: statistic(BLOCKS, kv_h, of_head_norm(unless_block)),
            q: activation(BLOCKS, q, rotated),
            k: activation(BLOCKS, kv, rotated),
            v: activation(BLOCKS, kv, unless_block),
            attention_out: activation(BLOCKS, q, unless_block),
            lse: statistic(BLOCKS, h, unless_block),
            post_attention: activation(BLOCKS, d, unless_block),
            post_attention_rstd: statistic(BLOCKS, 1, unless_block),
            mlp_normed: activation(BLOCKS, d, once),
            gate: activation(BLOCKS, f, unless_mlp),
            up: activation(BLOCKS, f, unless_mlp),
            swiglu_out: activation(BLOCKS, f, once),
            sublayer_out: activation(HEAD, d, once),
            q_low: low_rank(Target::Q, unless_block),
            k_low: low_rank(Target::K, unless_block),
            v_low: low_rank(Target::V, unless_block),
            o_low: low_rank(Target::O, unless_block),
            gate_low: low_rank(Target::Gate, unless_mlp),
            up_low: low_rank(Target::Up, unless_mlp),
            down_low: low_rank(Target::Down, always),
            final_residual: activation(RESIDUALS, d, once),
            final_rstd: statistic(RESIDUALS, 1, once),
            hidden: activation(HEAD, d, once),
            d_residual: activation(GRADIENTS, d, backward),
            d_normed: activation(GRADIENTS, d, backward),
            d_attention_out: activation(GRADIENTS, q, backward),
            d_q: activation(GRADIENTS, q, backward),
            d_k: activation(GRADIENTS, kv, backward),
            d_v: activation(GRADIENTS, kv, backward),
            d_q_projected: activation(GRADIENTS, q, of_head_norm(backward)),
            d_k_projected: activation(GRADIENTS, kv, of_head_norm(backward)),
            d_gate: activation(GRADIENTS, f, backward),
            d_up: activation(GRADIENTS, f, backward),
            d_swiglu_out: activation(GRADIENTS, f, backward),
            d_low: activation(GRADIENTS, rank, if rank > 0 { backward } else { 0 }),
        };

        let chunk_rows = head_chunk_rows(kind, options.dtype, config.vocab_size).min(max_tokens.max(1));
        let head = Sizes { dim: d, vocab: config.vocab_size, chunk_rows };
        let (head_scratch_len, head_bytes) = match kind {
            DeviceKind::Cpu => (head.scratch_len(), head.scratch_len() * dtype.size_bytes()),
            DeviceKind::Cuda => (0, cross_entropy::device_scratch_bytes(head, options.gradients)),
        };
        let packs_weights = options.dtype != dtype;
        let packed_bytes = || {
            let layout = Layout::new(config);
            PackedArena::bytes_of(PackedFormat::Bf16, &layout.spec, &layout.multiplied(), has_backward)
        };
        let rotary_bytes = options.max_positions * config.head_dim * statistics_dtype(dtype).size_bytes();
        let fixed =
            [(HEAD, head_bytes), (ROTARY, rotary_bytes), (PACKED, if packs_weights { packed_bytes() } else { 0 })];
        Plan { rows, max_tokens, dtype, head, head_scratch_len, packs_weights, fixed }
    }

    /// Bytes of memory by purpose.
    pub(crate) fn memory(&self) -> Vec<(Purpose, usize)> {
        let rows = self.rows.named().into_iter().map(|(_, row)| (row.purpose, row.bytes(self.max_tokens)));
        by_purpose(rows.chain(self.fixed))
    }

    /// Bytes by purpose as in [`Plan::memory`], but with the true sizes of buffers and packed weights.
    pub(crate) fn memory_of(
        &self,
        buffers: impl Iterator<Item = (Purpose, usize)>,
        packed: usize,
    ) -> Vec<(Purpose, usize)> {
        let [head, rotary, _] = self.fixed;
        by_purpose(buffers.chain([head, rotary, (PACKED, packed)]))
    }
}

/// Sums bytes by purpose, in the order of [`PURPOSES`].
fn by_purpose(parts: impl Iterator<Item = (Purpose, usize)>) -> Vec<(Purpose, usize)> {
    let mut sums = PURPOSES.map(|purpose| (purpose, 0));
    for (purpose, bytes) in parts {
        let sum = sums.iter_mut().find(|(name, _)| *name == purpose);
        sum.expect("invariant: every purpose is in the list").1 += bytes;
    }
    sums.to_vec()
}

/// Forecasts [`super::Session::memory`] of a session on a device of this kind without building it, in bytes.
pub fn memory_bytes(kind: DeviceKind, config: &Config, options: SessionOptions) -> Vec<(&'static str, usize)> {
    Plan::new(kind, config, options).memory()
}

/// Rows of logits computed at a time. On the CPU about 2^23 logits (32 MiB), because each chunk packs the whole head anew; in bf16
/// whole tiles of 32 rows. On a device about 2^27 logits (512 MiB), so that matmuls are large.
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
