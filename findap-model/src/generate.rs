//! Generation of many sequences at once over a key-value cache.
//!
//! There is a fixed number of slots; a slot whose sequence has ended is given to the next request at once. New prompts are packed and
//! run through one forward pass that fills their slots; every other pass adds one token to every running sequence.
//!
//! Everything happens on the model's device. There, keys and values never leave it, and one copy a pass brings the chosen tokens
//! and their log-probabilities.

use findap_tensor::ops::sample::{Logits, Sampling};
use findap_tensor::{Device, Dtype, Indices};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cache::{Cache, NextTokens};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::format::statistics_dtype;
use crate::session::{Recompute, Session, SessionOptions, Tokens};

/// One prompt and how to continue it.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt; at least one token.
    pub prompt: Vec<u32>,
    /// The most tokens to add.
    pub max_new: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Seed of the uniform numbers that draw this request's tokens: one per token, from ChaCha8, the same on every device. Tokens
    /// also depend on the logits, which a GPU's library may round differently when other requests run beside this one.
    pub seed: u64,
    /// Tokens that end the continuation, which then includes the one drawn.
    pub stop_ids: Vec<u32>,
}

/// Why a continuation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop token was drawn, or who watched ended it.
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

/// Whether a generation goes on after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    GoOn,
    /// The continuation that has the token ends with it, as with a stop token.
    End,
    /// All continuations end where they are.
    EndAll,
}

/// The cache and buffers of a generation.
#[derive(Debug)]
pub struct Generator {
    session: Session,
    cache: Cache,
    logits: Logits, // [slots, v]
    /// Rows of the hidden states from which tokens are chosen.
    rows: Indices,
    max_sequences: usize,
    max_len: usize,
}

/// A running sequence and its slot.
struct Running {
    request: usize,
    slot: usize,
    /// Tokens whose keys are cached.
    cached: usize,
    next: u32,
    rng: ChaCha8Rng,
}

impl Generator {
    /// Makes room for `max_sequences` sequences of `max_len` tokens, prompt included, on the model's device.
    ///
    /// # Errors
    /// [`ModelError::Device`] with the purpose and size of what does not fit.
    pub fn new(model: &Decoder, max_sequences: usize, max_len: usize) -> Result<Generator, ModelError> {
        let (config, device, dtype) = (&model.config, &model.params.device(), model.activation_dtype());
        let options = SessionOptions {
            dtype,
            max_tokens: max_len.max(max_sequences),
            max_positions: max_len,
            recompute: Recompute::None,
            gradients: None,
            frozen_blocks: 0,
            lora: model.lora(),
        };
        let mut session = Session::on(device, config, options)?;
        // Who takes weights in bf16 wants to save memory.
        if *device == Device::Cpu && model.params.dtype() == Dtype::F32 {
            session = session.packing_weights(config);
        }
        Ok(Generator {
            session,
            cache: Cache::new(model, max_sequences, max_len, options.max_tokens)?,
            logits: Logits::new(device, statistics_dtype(dtype), max_sequences, config.vocab_size)?,
            rows: Indices::new(device, max_sequences)?,
            max_sequences,
            max_len,
        })
    }

    /// Continues every prompt; results are in the order of the requests.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] for a prompt that leaves no room for a token; [`ModelError::Kernel`] for ids past the
    /// vocabulary or impossible sampling settings; [`ModelError::Device`].
    pub fn generate(&mut self, model: &Decoder, requests: &[GenerateRequest]) -> Result<Vec<Generated>, ModelError> {
        self.generate_while(model, requests, &mut |_, _| Next::GoOn)
    }

    /// As [`Generator::generate`]; after each token `watch` sees the number of the request and what there is of its continuation, and
    /// says whether to go on.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn generate_while(
        &mut self,
        model: &Decoder,
        requests: &[GenerateRequest],
        watch: &mut dyn FnMut(usize, &Generated) -> Next,
    ) -> Result<Vec<Generated>, ModelError> {
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
            let goes_on = if !admitted.is_empty() {
                self.prefill(model, requests, &mut admitted)?;
                self.choose(requests, &mut admitted, &mut results)?;
                let goes_on = watch_newest(&admitted, &mut results, watch);
                running.append(&mut admitted);
                goes_on
            } else if !running.is_empty() {
                self.decode(model, &mut running)?;
                self.choose(requests, &mut running, &mut results)?;
                watch_newest(&running, &mut results, watch)
            } else {
                false
            };
            if !goes_on {
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
    fn prefill(
        &mut self,
        model: &Decoder,
        requests: &[GenerateRequest],
        new: &mut [Running],
    ) -> Result<(), ModelError> {
        let (mut ids, mut positions, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        for running in new.iter_mut() {
            let prompt = &requests[running.request].prompt;
            ids.extend_from_slice(prompt);
            positions.extend(0..prompt.len() as u32);
            cu_seqlens.push(ids.len() as u32);
            running.cached = prompt.len();
        }
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        let mut pass = self.cache.prefill(&mut self.session, model, tokens, new.iter().map(|r| r.slot))?;
        self.rows.set(cu_seqlens[1..].iter().map(|&end| end - 1))?;
        pass.logits(&self.rows, &mut self.logits)
    }

    /// Adds the chosen token of each running sequence to the caches and computes the next logits.
    fn decode(&mut self, model: &Decoder, running: &mut [Running]) -> Result<(), ModelError> {
        let mut next = NextTokens::new();
        for r in running {
            next.push(r.next, r.slot, r.cached);
            r.cached += 1;
        }
        let mut pass = self.cache.extend(&mut self.session, model, &next)?;
        self.rows.set(0..next.len() as u32)?;
        pass.logits(&self.rows, &mut self.logits)
    }

    /// Draws the next token of each sequence from its row of logits.
    fn choose(
        &mut self,
        requests: &[GenerateRequest],
        running: &mut [Running],
        results: &mut [Generated],
    ) -> Result<(), ModelError> {
        let samplings: Vec<Sampling> = running.iter().map(|r| requests[r.request].sampling).collect();
        let uniform: Vec<f64> = running.iter_mut().map(|r| r.rng.random()).collect();
        let drawn = self.logits.draw(&samplings, &uniform)?;
        for (r, (&id, &logp)) in running.iter_mut().zip(drawn.tokens.iter().zip(drawn.logp)) {
            let result = &mut results[r.request];
            result.ids.push(id);
            result.logprobs.push(logp);
            if requests[r.request].stop_ids.contains(&id) {
                result.stop = StopReason::Stop;
            }
            r.next = id;
        }
        Ok(())
    }
}

/// Shows the continuations that have a new token to `watch`; `false` ends the generation.
fn watch_newest(
    newest: &[Running],
    results: &mut [Generated],
    watch: &mut dyn FnMut(usize, &Generated) -> Next,
) -> bool {
    for Running { request, .. } in newest {
        match watch(*request, &results[*request]) {
            Next::GoOn => {}
            Next::End => results[*request].stop = StopReason::Stop,
            Next::EndAll => return false,
        }
    }
    true
}
