//! Text in, text out: a model directory with its tokenizer and chat template.
//!
//! [`TextModel`] takes `&self`: its buffers are behind a lock, so it can be shared as a judge, a sampler and a model under
//! evaluation. Answers depend on each request alone, not on how requests are grouped.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use findap_data::llm::{ChatModel, ChatReply, ChatRequest, Choice, FinishReason, LlmError, TokenLogprob, Usage};
use findap_data::{ChatTemplate, Message, Tokenizer};
use findap_tensor::ops::sample::{Logits, Sampling};
use findap_tensor::{Device, Dtype, Indices, TensorError};

use crate::cache::{Cache, NextToken};
use crate::error::ModelError;
use crate::generate::{GenerateRequest, Generated, Generator, StopReason};
use crate::llama::Llama;
use crate::session::{Recompute, Session, SessionOptions, Tokens, statistics_dtype};

/// How much is done at once.
struct Portions {
    /// Tokens of one packed scoring pass.
    score_tokens: usize,
    /// Rows of logits.
    logit_rows: usize,
    /// Sequences that are continued at once, where there is memory for them.
    sequences: usize,
}

impl Portions {
    /// As many as keep the device busy; on the CPU few, so that they stay in its caches.
    fn of(device: &Device) -> Portions {
        match device {
            Device::Cpu => Portions { score_tokens: 2048, logit_rows: 64, sequences: 64 },
            Device::Cuda(_) => Portions { score_tokens: 8192, logit_rows: 512, sequences: 128 },
        }
    }
}

/// A model directory, ready for text.
#[derive(Debug)]
pub struct TextModel {
    directory: PathBuf,
    llama: Llama,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    buffers: Mutex<Buffers>,
}

#[derive(Debug, Default)]
struct Buffers {
    scorer: Option<Scorer>,
    /// The generator and the length it was built for.
    generator: Option<(Generator, usize)>,
}

#[derive(Debug)]
struct Scorer {
    session: Session,
    /// The contexts of a pass that have several continuations, and the length of its slots.
    cache: Option<(Cache, usize)>,
    logits: Logits,
    /// Rows of hidden states that predict the tokens asked for.
    rows: Indices,
}

/// The log-probability of some tokens after others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Sum of the log-probabilities, natural logarithm.
    pub logp: f64,
    /// Whether each token is the most probable at its place.
    pub is_greedy: bool,
}

impl TextModel {
    /// Loads weights, tokenizer and, where there is one, chat template of a model directory.
    ///
    /// # Errors
    /// [`ModelError`]; [`ModelError::Data`] for a damaged tokenizer or template.
    pub fn load(directory: &Path, dtype: Dtype) -> Result<TextModel, ModelError> {
        TextModel::load_to(&Device::Cpu, directory, dtype)
    }

    /// [`TextModel::load`] with the weights in the memory of `device`, which computes everything; f32 or bf16 on a GPU.
    ///
    /// # Errors
    /// As [`TextModel::load`]; [`ModelError::Device`].
    pub fn load_to(device: &Device, directory: &Path, dtype: Dtype) -> Result<TextModel, ModelError> {
        let llama = Llama::load_to(device, directory, dtype)?;
        let tokenizer = Tokenizer::load(directory)?;
        let template = ChatTemplate::find(directory)?;
        Ok(TextModel { directory: directory.to_owned(), llama, tokenizer, template, buffers: Mutex::default() })
    }

    /// Lets the chat template tell this time, in seconds since 1970, as [`ChatTemplate::with_time`].
    #[must_use]
    pub fn with_time(mut self, now_seconds: u64) -> TextModel {
        self.template = self.template.map(|template| template.with_time(now_seconds));
        self
    }

    /// The directory it was loaded from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The weights.
    pub fn llama(&self) -> &Llama {
        &self.llama
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, where the directory has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Tokens of the longest sequence.
    pub fn max_tokens(&self) -> usize {
        self.llama.config.max_positions
    }

    /// Scores continuations: for each pair of context and continuation the log-probability of the continuation. Neighbouring
    /// pairs of one context share its reading; in f32 on the CPU no bit of the result depends on that. Contexts
    /// hold at least one token; `context + continuation` may be one token longer than [`TextModel::max_tokens`], for
    /// the last token is only predicted.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Kernel`] for ids past the vocabulary; [`ModelError::Device`].
    pub fn score(&self, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<Likelihood>, ModelError> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = pairs.iter().map(|(context, continuation)| num_read(context, continuation)).max().unwrap_or(0);
        let capacity = longest.max(Portions::of(&self.llama.params.device()).score_tokens);
        let is_large_enough =
            buffers.scorer.as_ref().is_some_and(|scorer| scorer.session.options().max_tokens >= capacity);
        if !is_large_enough {
            buffers.scorer = None; // its memory first
            buffers.scorer = Some(self.scorer(capacity)?);
        }
        let scorer = buffers.scorer.as_mut().expect("invariant: just built");
        let mut scores = vec![Likelihood { logp: 0.0, is_greedy: true }; pairs.len()];
        let groups = groups(pairs);
        // Contexts that are read once lie in slots of one length.
        let has_turns = groups.iter().any(|group| group.num_turns() > 1);
        let slot_len = longest.next_multiple_of(64).clamp(1, capacity);
        let max_groups = if has_turns { capacity / slot_len } else { usize::MAX };
        let mut rest = &groups[..];
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take(max_groups).take_while(|group| {
                tokens += group.num_read();
                tokens <= capacity
            });
            let (pass, later) = rest.split_at(fits.count());
            self.score_pass(scorer, pass, slot_len, &mut scores)?;
            rest = later;
        }
        Ok(scores)
    }

    fn scorer(&self, max_tokens: usize) -> Result<Scorer, ModelError> {
        let (config, device, dtype) = (&self.llama.config, &self.llama.params.device(), self.llama.activation_dtype());
        let max_positions = self.max_tokens();
        let options = SessionOptions { dtype, max_tokens, max_positions, recompute: Recompute::None, gradients: None };
        let logit_rows = Portions::of(device).logit_rows;
        Ok(Scorer {
            session: Session::on(device, config, options)?,
            cache: None,
            logits: Logits::new(device, statistics_dtype(dtype), logit_rows, config.vocab_size)?,
            rows: Indices::new(device, logit_rows)?,
        })
    }

    /// Scores the continuations of some contexts that fit the session together. Each context is read once, with its first
    /// continuation behind it; the other continuations then take turns behind the cached context.
    fn score_pass(
        &self,
        scorer: &mut Scorer,
        groups: &[Group<'_>],
        slot_len: usize,
        scores: &mut [Likelihood],
    ) -> Result<(), ModelError> {
        let (mut ids, mut positions, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        let mut wanted = Vec::new();
        for group in groups {
            let (context, continuation) = &group.pairs[0];
            let (start, read) = (ids.len(), group.num_read());
            ids.extend(context.iter().chain(continuation).take(read));
            positions.extend(0..read as u32);
            if read > 0 {
                cu_seqlens.push(ids.len() as u32);
            }
            let first = start + context.len() - usize::from(!context.is_empty());
            wanted.extend(continuation.iter().enumerate().map(|(at, &token)| (first + at, token, group.first_pair)));
            // what comes right behind the context is predicted by its last token
            let others = group.pairs.iter().enumerate().skip(1);
            wanted.extend(others.filter_map(|(at, (_, other))| Some((first, *other.first()?, group.first_pair + at))));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let tokens = Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens };
        let num_turns = groups.iter().map(Group::num_turns).max().unwrap_or(1);
        if num_turns == 1 {
            scorer.session.forward(&self.llama, tokens)?;
            return self.score_tokens(scorer, &wanted, scores);
        }
        let max_tokens = scorer.session.options().max_tokens;
        if scorer.cache.as_ref().is_none_or(|(_, built_for)| *built_for != slot_len) {
            scorer.cache = None; // its memory first
            scorer.cache = Some((Cache::new(&self.llama, max_tokens / slot_len, slot_len, max_tokens)?, slot_len));
        }
        let Scorer { session, cache: Some((cache, _)), .. } = scorer else { unreachable!("invariant: just built") };
        let slots = (0..groups.len()).filter(|&slot| groups[slot].num_read() > 0);
        cache.prefill(session, &self.llama, tokens, slots)?;
        self.score_tokens(scorer, &wanted, scores)?;
        for turn in 1..num_turns {
            let (mut tokens, mut wanted) = (Vec::new(), Vec::new());
            for (slot, group) in groups.iter().enumerate() {
                let Some((context, continuation)) = group.pairs.get(turn) else { continue };
                for (at, pair) in continuation.windows(2).enumerate() {
                    wanted.push((tokens.len(), pair[1], group.first_pair + turn));
                    tokens.push(NextToken { id: pair[0], slot, position: context.len() + at });
                }
            }
            if tokens.is_empty() {
                continue;
            }
            let Scorer { session, cache: Some((cache, _)), .. } = scorer else { unreachable!("invariant: built") };
            cache.extend(session, &self.llama, &tokens)?;
            self.score_tokens(scorer, &wanted, scores)?;
        }
        Ok(())
    }

    /// Adds the log-probabilities of tokens to the scores of their pairs: the row of hidden states that predicts it, the
    /// token, the pair.
    fn score_tokens(
        &self,
        scorer: &mut Scorer,
        wanted: &[(usize, u32, usize)],
        scores: &mut [Likelihood],
    ) -> Result<(), ModelError> {
        let Scorer { session, logits, rows, .. } = scorer;
        for chunk in wanted.chunks(logits.max_rows()) {
            rows.set(chunk.iter().map(|(row, ..)| *row as u32))?;
            session.logits(&self.llama, rows, logits)?;
            let targets: Vec<u32> = chunk.iter().map(|(_, token, _)| *token).collect();
            let scored = logits.score_tokens(&targets)?;
            for ((_, token, pair), (best, logp)) in chunk.iter().zip(scored.tokens.iter().zip(scored.logp)) {
                scores[*pair].logp += logp;
                scores[*pair].is_greedy &= best == token;
            }
        }
        Ok(())
    }

    /// Continues prompts; see [`Generator::generate`]. Prompts of at most [`TextModel::max_tokens`] tokens with the new
    /// ones.
    ///
    /// # Errors
    /// [`ModelError::TooLong`], [`ModelError::Kernel`], [`ModelError::Device`].
    pub fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Generated>, ModelError> {
        let needed = requests.iter().map(|request| request.prompt.len() + request.max_new + 1).max().unwrap_or(0);
        let length = needed.min(self.max_tokens());
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.generator.as_ref().is_none_or(|(_, built_for)| *built_for < length) {
            buffers.generator = None; // its memory first
            buffers.generator = Some((self.generator(length)?, length));
        }
        let (generator, _) = buffers.generator.as_mut().expect("invariant: just built");
        generator.generate(&self.llama, requests)
    }

    /// For as many sequences as the device has memory for.
    fn generator(&self, max_len: usize) -> Result<Generator, ModelError> {
        let mut sequences = Portions::of(&self.llama.params.device()).sequences;
        loop {
            match Generator::new(&self.llama, sequences, max_len) {
                Err(ModelError::Device(TensorError::OutOfMemory { .. })) if sequences > 1 => sequences /= 2,
                other => return other,
            }
        }
    }

    /// Ids of a conversation up to where the reply begins.
    ///
    /// # Errors
    /// [`ModelError::NoChatTemplate`]; [`ModelError::Data`] where the template refuses the conversation.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        Ok(self.chat_template()?.encode_prompt(&self.tokenizer, messages)?)
    }

    /// Text of a conversation up to where the reply begins.
    ///
    /// # Errors
    /// As [`TextModel::encode_chat`].
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, ModelError> {
        Ok(self.chat_template()?.render(messages, true)?)
    }

    /// The text of generated tokens, without special tokens.
    ///
    /// # Errors
    /// [`ModelError::Data`] for ids past the vocabulary.
    pub fn decode(&self, generated: &Generated) -> Result<String, ModelError> {
        Ok(self.tokenizer.decode(&generated.ids, true)?)
    }

    fn chat_template(&self) -> Result<&ChatTemplate, ModelError> {
        self.template.as_ref().ok_or_else(|| ModelError::NoChatTemplate { directory: self.directory.clone() })
    }
}

/// Neighbouring pairs of one context.
struct Group<'a> {
    pairs: &'a [(Vec<u32>, Vec<u32>)],
    /// Where they begin among all pairs.
    first_pair: usize,
}

impl Group<'_> {
    /// Passes until every continuation was read: the first goes with the context, one-token ones are never read.
    fn num_turns(&self) -> usize {
        1 + self.pairs.iter().skip(1).rposition(|(_, continuation)| continuation.len() > 1).map_or(0, |last| last + 1)
    }

    /// Tokens of the first pass: those of the first pair, and the whole context for the others.
    fn num_read(&self) -> usize {
        let (context, continuation) = &self.pairs[0];
        let has_others = self.pairs[1..].iter().any(|(_, other)| !other.is_empty());
        num_read(context, continuation).max(if has_others { context.len() } else { 0 })
    }
}

fn groups(pairs: &[(Vec<u32>, Vec<u32>)]) -> Vec<Group<'_>> {
    let mut first_pair = 0;
    let of_one_context = pairs.chunk_by(|(a, _), (b, _)| !a.is_empty() && a == b);
    of_one_context
        .map(|pairs| {
            first_pair += pairs.len();
            Group { pairs, first_pair: first_pair - pairs.len() }
        })
        .collect()
}

/// Tokens that are read to score a continuation: all but the last.
fn num_read(context: &[u32], continuation: &[u32]) -> usize {
    (context.len() + continuation.len()).saturating_sub(1)
}

impl ChatModel for TextModel {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let failed = |error: &dyn Display| LlmError::Model { model: ChatModel::name(self), detail: error.to_string() };
        let mut continuations = Vec::new();
        let mut begun = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let prompt = match self.encode_chat(&request.messages) {
                Ok(prompt) if prompt.len() >= self.max_tokens() => Err(ModelError::TooLong {
                    what: "tokens in a conversation",
                    got: prompt.len(),
                    limit: self.max_tokens() - 1,
                    setting: "max_position_embeddings of the model",
                }),
                other => other,
            };
            let prompt = match prompt {
                Ok(prompt) => prompt,
                Err(error) => {
                    begun.push(Err(failed(&error)));
                    continue;
                }
            };
            begun.push(Ok(prompt.len() as u64));
            let wanted = &request.sampling;
            let sampling = Sampling {
                temperature: wanted.temperature,
                top_k: wanted.top_k.map_or(0, |top_k| top_k as usize),
                top_p: wanted.top_p.unwrap_or(1.0),
            };
            let room = self.max_tokens().saturating_sub(prompt.len());
            continuations.extend((0..wanted.n.max(1)).map(|sample| GenerateRequest {
                prompt: prompt.clone(),
                max_new: wanted.max_tokens.min(room),
                sampling,
                // Without a seed, requests of one call still differ from each other.
                seed: wanted.seed.unwrap_or(index as u64).wrapping_add((sample as u64) << 32),
                stop_ids: self.tokenizer.stop_ids().to_vec(),
            }));
        }
        let mut generated = match self.generate(&continuations) {
            Ok(generated) => generated.into_iter(),
            Err(error) => return vec![Err(failed(&error)); requests.len()],
        };
        let reply_to = |(request, prompt_tokens): (&ChatRequest, Result<u64, LlmError>)| {
            let prompt_tokens = prompt_tokens?;
            let made: Vec<Generated> = generated.by_ref().take(request.sampling.n.max(1)).collect();
            let completion_tokens = made.iter().map(|generated| generated.ids.len() as u64).sum();
            let choices: Result<_, ModelError> = made.iter().map(|generated| self.choice(request, generated)).collect();
            let choices = choices.map_err(|error| failed(&error))?;
            Ok(ChatReply { choices, usage: Some(Usage { prompt_tokens, completion_tokens }) })
        };
        requests.iter().zip(begun).map(reply_to).collect()
    }
}

impl TextModel {
    fn choice(&self, request: &ChatRequest, generated: &Generated) -> Result<Choice, ModelError> {
        let mut text = self.decode(generated)?;
        let cut = request.sampling.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let is_stopped = cut.is_some() || generated.stop == StopReason::Stop;
        text.truncate(cut.unwrap_or(text.len()));
        let logprobs = request.sampling.logprobs.then(|| {
            let tokens = generated.ids.iter().zip(&generated.logprobs);
            let entry = |(id, logprob): (&u32, &f64)| TokenLogprob {
                token: self.tokenizer.decode(&[*id], false).unwrap_or_default(),
                logprob: *logprob,
                top: Vec::new(),
            };
            tokens.map(entry).collect()
        });
        let finish_reason = if is_stopped { FinishReason::Stop } else { FinishReason::Length };
        Ok(Choice { text, finish_reason, logprobs })
    }
}
