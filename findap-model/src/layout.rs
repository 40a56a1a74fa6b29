//! The tensors of a model, their names in Hugging Face files, and their order in the arena.

use std::sync::Arc;

use findap_tensor::{ArenaSpec, TensorId};

use crate::config::Config;
use crate::linear::{Linear, LowRank};
use crate::lora::{Lora, Target};

/// The id in the arena of each tensor of a model.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) spec: Arc<ArenaSpec>,
    pub(crate) embedding: TensorId,
    pub(crate) blocks: Vec<BlockParams>,
    pub(crate) final_norm: TensorId,
    /// The head; its weight is the embedding where they are tied.
    pub(crate) head: Linear,
    /// The tensors of the adapter, under the names of PEFT's files; none without one.
    pub(crate) adapter: Arc<ArenaSpec>,
}

/// The parameters of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockParams {
    pub(crate) attention_norm: TensorId,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    /// The norms of each head's queries and keys.
    pub(crate) qk_norm: Option<[TensorId; 2]>,
    pub(crate) mlp_norm: TensorId,
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

impl BlockParams {
    /// The linear layers, in the order of [`Target`].
    pub(crate) fn linears(&self) -> [Linear; 7] {
        [self.q, self.k, self.v, self.o, self.gate, self.up, self.down]
    }

    fn linear_mut(&mut self, target: Target) -> &mut Linear {
        match target {
            Target::Q => &mut self.q,
            Target::K => &mut self.k,
            Target::V => &mut self.v,
            Target::O => &mut self.o,
            Target::Gate => &mut self.gate,
            Target::Up => &mut self.up,
            Target::Down => &mut self.down,
        }
    }

    /// All tensors of the block.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = TensorId> {
        let of_linears = self.linears().into_iter().flat_map(|linear| [Some(linear.weight), linear.bias]).flatten();
        let norms = [self.attention_norm, self.mlp_norm].into_iter().chain(self.qk_norm.into_iter().flatten());
        of_linears.chain(norms)
    }
}

impl Layout {
    pub(crate) fn new(config: &Config) -> Layout {
        let mut spec = ArenaSpec::new();
        let (d, f, e) = (config.hidden_size, config.intermediate_size, config.head_dim);
        let (q, kv, biases) = (config.q_width(), config.kv_width(), config.biases);
        let embedding = spec.matrix("model.embed_tokens.weight", config.vocab_size, d);
        let blocks = (0..config.num_layers)
            .map(|l| {
                let name = |part: &str, kind: &str| format!("model.layers.{l}.{part}.{kind}");
                let norm = |spec: &mut ArenaSpec, part, len| spec.vector(name(part, "weight"), len);
                let linear = |spec: &mut ArenaSpec, part, rows, columns, has_bias: bool| Linear {
                    weight: spec.matrix(name(part, "weight"), rows, columns),
                    bias: has_bias.then(|| spec.vector(name(part, "bias"), rows)),
                    low_rank: None,
                };
                let spec = &mut spec;
                BlockParams {
                    attention_norm: norm(spec, "input_layernorm", d),
                    q: linear(spec, "self_attn.q_proj", q, d, biases.qkv),
                    k: linear(spec, "self_attn.k_proj", kv, d, biases.qkv),
                    v: linear(spec, "self_attn.v_proj", kv, d, biases.qkv),
                    o: linear(spec, "self_attn.o_proj", d, q, biases.attention_out),
                    qk_norm: config
                        .has_qk_norm
                        .then(|| ["self_attn.q_norm", "self_attn.k_norm"].map(|part| norm(spec, part, e))),
                    mlp_norm: norm(spec, "post_attention_layernorm", d),
                    gate: linear(spec, "mlp.gate_proj", f, d, biases.mlp),
                    up: linear(spec, "mlp.up_proj", f, d, biases.mlp),
                    down: linear(spec, "mlp.down_proj", d, f, biases.mlp),
                }
            })
            .collect();
        let final_norm = spec.vector("model.norm.weight", d);
        let head = match config.tie_word_embeddings {
            true => embedding,
            false => spec.matrix("lm_head.weight", config.vocab_size, d),
        };
        Layout {
            spec: Arc::new(spec),
            embedding,
            blocks,
            final_norm,
            head: Linear { weight: head, bias: None, low_rank: None },
            adapter: Arc::default(),
        }
    }

    /// The layout with an adapter at the targets of `lora`.
    pub(crate) fn with_adapter(mut self, lora: &Lora) -> Layout {
        let mut spec = ArenaSpec::new();
        for block in &mut self.blocks {
            for target in Target::ALL.into_iter().filter(|target| lora.targets.contains(*target)) {
                let linear = block.linear_mut(target);
                let weight = self.spec.entry(linear.weight);
                let module = weight.name.strip_suffix(".weight").expect("invariant: a matrix is a module's weight");
                let name = |matrix: &str| format!("base_model.model.{module}.lora_{matrix}.weight");
                linear.low_rank = Some(LowRank {
                    a: spec.matrix(name("A"), lora.rank, weight.columns),
                    b: spec.matrix(name("B"), weight.rows, lora.rank),
                });
            }
        }
        self.adapter = Arc::new(spec);
        self
    }

    /// The weights by which matmuls multiply.
    pub(crate) fn multiplied(&self) -> Vec<TensorId> {
        let of_blocks = self.blocks.iter().flat_map(BlockParams::linears);
        of_blocks.chain([self.head]).map(|linear| linear.weight).collect()
    }
}
