//! The key-value cache: later tokens of a sequence need only their own pass.

use findap_tensor::ops::{attention, embedding};
use findap_tensor::{Indices, Tensor};

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::session::{AttentionCall, Pass, Session, Tokens};

/// Slots of a fixed length, one for each sequence, on the model's device.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Keys and values by block: `[slots * slot_len, k * e]`.
    layers: Vec<[Tensor; 2]>,
    slot_len: usize,
    /// Three numbers for each token of a pass: its row of the layers, its slot, and how many tokens of the slot it sees.
    indices: Indices,
    slots: Indices,
    seq_lens: Indices,
}

/// New tokens of cached sequences, each with its slot.
#[derive(Debug)]
pub(crate) struct NextTokens {
    ids: Vec<u32>,
    slots: Vec<u32>,
    positions: Vec<u32>,
    /// Document boundaries; each token is a document of its own.
    cu_seqlens: Vec<u32>,
}

impl NextTokens {
    /// Makes an empty list.
    pub(crate) fn new() -> NextTokens {
        NextTokens { ids: Vec::new(), slots: Vec::new(), positions: Vec::new(), cu_seqlens: vec![0] }
    }

    /// Adds a token at `position` of its sequence. The tokens before it must be in the slot already, or be added first.
    pub(crate) fn push(&mut self, id: u32, slot: usize, position: usize) {
        self.ids.push(id);
        self.slots.push(slot as u32);
        self.positions.push(position as u32);
        self.cu_seqlens.push(self.ids.len() as u32);
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

impl Cache {
    /// Makes room for `num_slots` sequences of `slot_len` tokens, filled by passes of at most `max_tokens`.
    pub(crate) fn new(
        model: &Decoder,
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
            indices: Indices::new(device, max_tokens)?,
            slots: Indices::new(device, max_tokens)?,
            seq_lens: Indices::new(device, max_tokens)?,
        })
    }

    /// Runs packed sequences through the model from their beginning; sequence i fills slot `slots[i]`.
    pub(crate) fn prefill<'a>(
        &mut self,
        session: &'a mut Session,
        model: &'a Decoder,
        tokens: Tokens<'a>,
        slots: impl Iterator<Item = usize>,
    ) -> Result<Pass<'a>, ModelError> {
        let Cache { layers, slot_len, indices, .. } = self;
        let sequences = tokens.cu_seqlens.windows(2).zip(slots);
        indices.set(sequences.flat_map(|(sequence, slot)| {
            let first = (slot * *slot_len) as u32;
            first..first + sequence[1] - sequence[0]
        }))?;
        session.forward_with(model, tokens, |l, call| {
            store(&mut layers[l], &call, indices)?;
            call.among_themselves()
        })
    }

    /// Runs new tokens of cached sequences through the model and adds them to their slots. In f32 on the CPU, hidden states are
    /// bit-identical to those of a pass over the whole sequences.
    pub(crate) fn extend<'a>(
        &mut self,
        session: &'a mut Session,
        model: &'a Decoder,
        next: &'a NextTokens,
    ) -> Result<Pass<'a>, ModelError> {
        let Cache { layers, slot_len, indices, slots, seq_lens } = self;
        let NextTokens { ids, slots: their_slots, positions, cu_seqlens } = next;
        let rows = their_slots.iter().zip(positions).map(|(slot, position)| slot * *slot_len as u32 + position);
        indices.set(rows)?;
        slots.set(their_slots.iter().copied())?;
        seq_lens.set(positions.iter().map(|position| position + 1))?;
        let tokens = Tokens { ids, positions, cu_seqlens };
        session.forward_with(model, tokens, |l, call| {
            store(&mut layers[l], &call, indices)?;
            let [k, v] = &layers[l];
            let cache = attention::Cache { k: k.all(), v: v.all(), max_len: *slot_len };
            Ok(attention::decode(call.out, call.qkv.q, cache, slots, seq_lens, call.heads)?)
        })
    }
}

/// Puts the keys and values of a pass at these rows of a layer.
fn store(layer: &mut [Tensor; 2], call: &AttentionCall<'_>, indices: &Indices) -> Result<(), ModelError> {
    for (cached, source) in layer.iter_mut().zip([call.qkv.k, call.qkv.v]) {
        embedding::scatter(cached.all_mut(), source, indices)?;
    }
    Ok(())
}
