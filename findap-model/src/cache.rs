//! Keys and values of tokens that were read, so that later tokens of the same sequences need only their own pass.

use findap_tensor::ops::{attention, embedding};
use findap_tensor::{Indices, Tensor};

use crate::error::ModelError;
use crate::llama::Llama;
use crate::session::{Session, Tokens};

/// Slots of a fixed length, one for each sequence, where the model lies.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Keys and values by block: `[slots * slot_len, k * e]`.
    layers: Vec<[Tensor; 2]>,
    slot_len: usize,
    /// Of the tokens of a pass: their rows of the layers, their slots, how many tokens of those they see.
    places: Indices,
    slots: Indices,
    seq_lens: Indices,
}

/// A token that goes on where a slot has got to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextToken {
    pub(crate) id: u32,
    pub(crate) slot: usize,
    /// Its place in its sequence; the slot holds the tokens before it, or they are in the same pass.
    pub(crate) position: usize,
}

impl Cache {
    /// Room for `num_slots` sequences of `slot_len` tokens, filled by passes of at most `max_tokens`.
    pub(crate) fn new(
        model: &Llama,
        num_slots: usize,
        slot_len: usize,
        max_tokens: usize,
    ) -> Result<Cache, ModelError> {
        let (config, device, dtype) = (&model.config, &model.params.device(), model.activation_dtype());
        let width = config.num_kv_heads * config.head_dim;
        let layer = || Tensor::zeros_on(device, "keys and values", dtype, num_slots * slot_len, width);
        Ok(Cache {
            layers: (0..config.num_layers).map(|_| Ok([layer()?, layer()?])).collect::<Result<_, ModelError>>()?,
            slot_len,
            places: Indices::new(device, max_tokens)?,
            slots: Indices::new(device, max_tokens)?,
            seq_lens: Indices::new(device, max_tokens)?,
        })
    }

    /// Runs packed sequences through the model from their beginning; sequence i fills slot `slots[i]`.
    pub(crate) fn prefill(
        &mut self,
        session: &mut Session,
        model: &Llama,
        tokens: Tokens<'_>,
        slots: impl Iterator<Item = usize>,
    ) -> Result<(), ModelError> {
        let Cache { layers, slot_len, places, .. } = self;
        let sequences = tokens.cu_seqlens.windows(2).zip(slots);
        places.set(sequences.flat_map(|(sequence, slot)| {
            let first = (slot * *slot_len) as u32;
            first..first + sequence[1] - sequence[0]
        }))?;
        session.forward_with(model, tokens, |l, heads, call| {
            for (layer, source) in layers[l].iter_mut().zip([call.qkv.k, call.qkv.v]) {
                embedding::scatter(layer.all_mut(), source, places)?;
            }
            Ok(attention::forward(call.out, call.lse, call.qkv, call.documents, heads, call.products)?)
        })
    }

    /// Runs tokens through the model that go on from their slots, whose tokens they become. In f32 on the CPU the hidden states are
    /// to the last bit those of a pass over the whole sequences.
    pub(crate) fn extend(
        &mut self,
        session: &mut Session,
        model: &Llama,
        tokens: &[NextToken],
    ) -> Result<(), ModelError> {
        let Cache { layers, slot_len, places, slots, seq_lens } = self;
        places.set(tokens.iter().map(|token| (token.slot * *slot_len + token.position) as u32))?;
        slots.set(tokens.iter().map(|token| token.slot as u32))?;
        seq_lens.set(tokens.iter().map(|token| token.position as u32 + 1))?;
        let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
        let positions: Vec<u32> = tokens.iter().map(|token| token.position as u32).collect();
        let cu_seqlens: Vec<u32> = (0..=tokens.len() as u32).collect();
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        session.forward_with(model, tokens, |l, heads, call| {
            for (layer, source) in layers[l].iter_mut().zip([call.qkv.k, call.qkv.v]) {
                embedding::scatter(layer.all_mut(), source, places)?;
            }
            let [k, v] = &layers[l];
            let cache = attention::Cache { k: k.all(), v: v.all(), max_len: *slot_len };
            Ok(attention::decode(call.out, call.qkv.q, cache, slots, seq_lens, heads)?)
        })
    }
}
