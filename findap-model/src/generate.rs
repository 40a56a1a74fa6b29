//! Generation of many sequences at once over a key-value cache.
//!
//! A fixed number of slots; a slot whose sequence has ended is given to the next request at once. New prompts are packed and
//! run through one forward pass that fills their slots; every other pass adds one token to every running sequence.

use findap_tensor::ops::attention::{self, Cache};
use findap_tensor::ops::sample::{Sampling, sample};
use findap_tensor::{Dtype, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::ModelError;
use crate::llama::Llama;
use crate::session::{Recompute, Session, SessionOptions, Tokens, copy};

/// One prompt and how to continue it.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The most tokens to add.
    pub max_new: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The draws of this request depend on this number alone.
    pub seed: u64,
    /// Tokens that end the continuation; the one met is its last token.
    pub stop_ids: Vec<u32>,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop token was drawn.
    Stop,
    /// `max_new` tokens were made, or the cache was full.
    Length,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The new tokens, a stop token included.
    pub ids: Vec<u32>,
    /// The log-probability of each under the model, whatever the temperature.
    pub logprobs: Vec<f64>,
    /// Why it ended.
    pub stop: StopReason,
}

/// The cache and buffers of a generation.
#[derive(Debug)]
pub struct Generator {
    session: Session,
    /// Keys and values by block: `[slots * max_len, k * e]`.
    caches: Vec<[Tensor; 2]>,
    logits: Tensor, // [slots, v]
    max_sequences: usize,
    max_len: usize,
}

/// A sequence in a slot.
struct Running {
    request: usize,
    slot: usize,
    /// Tokens whose keys are cached.
    cached: usize,
    next: u32,
    rng: ChaCha8Rng,
}

impl Generator {
    /// Room for `max_sequences` sequences of `max_len` tokens, prompt included.
    pub fn new(model: &Llama, max_sequences: usize, max_len: usize) -> Generator {
        let config = &model.config;
        let dtype = if model.params.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
        let width = config.num_kv_heads * config.head_dim;
        let options = SessionOptions {
            dtype,
            max_tokens: max_len.max(max_sequences),
            max_positions: max_len,
            recompute: Recompute::None,
            needs_backward: false,
        };
        let cache = || Tensor::zeros(dtype, max_sequences * max_len, width);
        Generator {
            session: Session::new(config, options),
            caches: (0..config.num_layers).map(|_| [cache(), cache()]).collect(),
            logits: Tensor::zeros(dtype, max_sequences, config.vocab_size),
            max_sequences,
            max_len,
        }
    }

    /// Continues every prompt; results in the order of the requests.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] for a prompt that leaves no room for a token; [`ModelError::Kernel`] for ids past the
    /// vocabulary or impossible sampling settings.
    pub fn generate(&mut self, model: &Llama, requests: &[GenerateRequest]) -> Result<Vec<Generated>, ModelError> {
        let mut results: Vec<Generated> = requests
            .iter()
            .map(|_| Generated { ids: Vec::new(), logprobs: Vec::new(), stop: StopReason::Length })
            .collect();
        if let Some(long) = requests.iter().find(|r| r.prompt.len() >= self.max_len) {
            let (got, limit) = (long.prompt.len() + 1, self.max_len);
            return Err(ModelError::TooLong {
                what: "tokens of a prompt and one new one",
                got,
                limit,
                setting: "max_len",
            });
        }
        let mut waiting = (0..requests.len()).filter(|&r| requests[r].max_new > 0 && !requests[r].prompt.is_empty());
        let mut free: Vec<usize> = (0..self.max_sequences).rev().collect();
        let mut running: Vec<Running> = Vec::new();
        let mut held_back = waiting.next();
        loop {
            let mut admitted: Vec<Running> = Vec::new();
            let mut tokens = 0;
            while let Some(request) = held_back {
                let len = requests[request].prompt.len();
                if free.is_empty() || tokens + len > self.session.options().max_tokens {
                    break;
                }
                let slot = free.pop().expect("invariant: a slot is free");
                let rng = ChaCha8Rng::seed_from_u64(requests[request].seed);
                admitted.push(Running { request, slot, cached: 0, next: 0, rng });
                tokens += len;
                held_back = waiting.next();
            }
            if !admitted.is_empty() {
                self.prefill(model, requests, &mut admitted)?;
                self.choose(requests, &mut admitted, &mut results)?;
                running.append(&mut admitted);
            } else if !running.is_empty() {
                self.decode(model, &mut running)?;
                self.choose(requests, &mut running, &mut results)?;
            } else {
                return Ok(results);
            }
            running.retain(|r| {
                let result = &results[r.request];
                let stopped = result.stop == StopReason::Stop;
                let full = result.ids.len() >= requests[r.request].max_new || r.cached + 1 >= self.max_len;
                if stopped || full {
                    free.push(r.slot);
                }
                !(stopped || full)
            });
        }
    }

    /// Runs new prompts through the model, packed, and caches their keys and values.
    fn prefill(&mut self, model: &Llama, requests: &[GenerateRequest], new: &mut [Running]) -> Result<(), ModelError> {
        let (mut ids, mut positions, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        for running in new.iter_mut() {
            let prompt = &requests[running.request].prompt;
            ids.extend_from_slice(prompt);
            positions.extend(0..prompt.len() as u32);
            cu_seqlens.push(ids.len() as u32);
            running.cached = prompt.len();
        }
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        let (caches, max_len) = (&mut self.caches, self.max_len);
        self.session.forward_with(model, tokens, |l, heads, call| {
            for (cache, source) in caches[l].iter_mut().zip([call.qkv.k, call.qkv.v]) {
                let width = cache.columns();
                for (running, document) in new.iter().zip(cu_seqlens.windows(2)) {
                    let len = (document[1] - document[0]) as usize;
                    let from = source.host()?.sub(document[0] as usize * width..document[1] as usize * width);
                    let start = running.slot * max_len * width;
                    copy(&mut cache.slice_mut().sub(start..start + len * width), from);
                }
            }
            Ok(attention::forward(call.out, call.lse, call.qkv, call.documents, heads)?)
        })?;
        let last: Vec<usize> = cu_seqlens[1..].iter().map(|&end| end as usize - 1).collect();
        self.session.logits(model, &last, &mut self.logits)
    }

    /// Adds the chosen token of each running sequence to the caches and computes the next logits.
    fn decode(&mut self, model: &Llama, running: &mut [Running]) -> Result<(), ModelError> {
        let ids: Vec<u32> = running.iter().map(|r| r.next).collect();
        let positions: Vec<u32> = running.iter().map(|r| r.cached as u32).collect();
        let lens: Vec<u32> = positions.iter().map(|p| p + 1).collect();
        let slots: Vec<u32> = running.iter().map(|r| r.slot as u32).collect();
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &[] };
        let (caches, max_len) = (&mut self.caches, self.max_len);
        self.session.forward_with(model, tokens, |l, heads, call| {
            for (cache, source) in caches[l].iter_mut().zip([call.qkv.k, call.qkv.v]) {
                let width = cache.columns();
                for (i, r) in running.iter().enumerate() {
                    let start = (r.slot * max_len + r.cached) * width;
                    let from = source.host()?.sub(i * width..(i + 1) * width);
                    copy(&mut cache.slice_mut().sub(start..start + width), from);
                }
            }
            let [k, v] = &caches[l];
            let cache = Cache { k: k.rows(k.num_rows()), v: v.rows(v.num_rows()), max_len };
            Ok(attention::decode(call.out, call.qkv.q, cache, &slots, &lens, heads)?)
        })?;
        running.iter_mut().for_each(|r| r.cached += 1);
        let rows: Vec<usize> = (0..running.len()).collect();
        self.session.logits(model, &rows, &mut self.logits)
    }

    /// Draws the next token of each sequence from its row of logits.
    fn choose(
        &mut self,
        requests: &[GenerateRequest],
        running: &mut [Running],
        results: &mut [Generated],
    ) -> Result<(), ModelError> {
        let v = self.logits.columns();
        for (row, r) in running.iter_mut().enumerate() {
            let request = &requests[r.request];
            let logits = self.logits.slice().sub(row * v..(row + 1) * v);
            let (id, logp) = sample(logits, request.sampling, r.rng.random())?;
            let result = &mut results[r.request];
            result.ids.push(id);
            result.logprobs.push(logp);
            if request.stop_ids.contains(&id) {
                result.stop = StopReason::Stop;
            }
            r.next = id;
        }
        Ok(())
    }
}
