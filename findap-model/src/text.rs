//! Text in, text out: a model directory with its tokenizer and chat template.
//!
//! [`TextModel`] takes `&self`: its buffers are behind a lock, so it can be shared as a judge, a sampler and a model under
//! evaluation. Answers depend on each request alone, not on how requests are grouped.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use findap_data::llm::{ChatModel, ChatReply, ChatRequest, Choice, FinishReason, LlmError, TokenLogprob, Usage};
use findap_data::{ChatTemplate, Message, Tokenizer};
use findap_tensor::ops::sample::Sampling;
use findap_tensor::{Dtype, Slice, Tensor};

use crate::error::ModelError;
use crate::generate::{GenerateRequest, Generated, Generator, StopReason};
use crate::llama::Llama;
use crate::session::{Recompute, Session, SessionOptions, Tokens};

/// Tokens of one packed scoring pass.
const SCORE_TOKENS: usize = 2048;
/// Rows of logits held at once.
const LOGIT_ROWS: usize = 64;
/// Sequences that are continued at once.
const SEQUENCES: usize = 32;

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
    scorer: Option<(Session, Tensor)>,
    /// The generator and the length it was built for.
    generator: Option<(Generator, usize)>,
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
        let llama = Llama::load(directory, dtype)?;
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

    /// Scores continuations: for each pair of context and continuation the log-probability of the continuation. Contexts
    /// hold at least one token; `context + continuation` may be one token longer than [`TextModel::max_tokens`], for
    /// the last token is only predicted.
    ///
    /// # Errors
    /// [`ModelError::TooLong`].
    pub fn score(&self, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<Likelihood>, ModelError> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = pairs.iter().map(|(context, continuation)| num_read(context, continuation)).max().unwrap_or(0);
        let capacity = longest.max(SCORE_TOKENS);
        let is_large_enough =
            buffers.scorer.as_ref().is_some_and(|(session, _)| session.options().max_tokens >= capacity);
        if !is_large_enough {
            let options = SessionOptions {
                dtype: self.compute_dtype(),
                max_tokens: capacity,
                max_positions: self.max_tokens(),
                recompute: Recompute::None,
                needs_backward: false,
            };
            let logits = Tensor::zeros(options.dtype, LOGIT_ROWS, self.llama.config.vocab_size);
            buffers.scorer = Some((Session::new(&self.llama.config, options), logits));
        }
        let (session, logits) = buffers.scorer.as_mut().expect("invariant: just built");
        let mut scores = Vec::with_capacity(pairs.len());
        let mut rest = pairs;
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|(context, continuation)| {
                tokens += num_read(context, continuation);
                tokens <= capacity
            });
            let (pass, later) = rest.split_at(fits.count());
            self.score_pass(session, logits, pass, &mut scores)?;
            rest = later;
        }
        Ok(scores)
    }

    fn score_pass(
        &self,
        session: &mut Session,
        logits: &mut Tensor,
        pairs: &[(Vec<u32>, Vec<u32>)],
        scores: &mut Vec<Likelihood>,
    ) -> Result<(), ModelError> {
        let (mut ids, mut positions, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        // Row of the logits that predict a token, the token, and the pair it belongs to.
        let mut wanted: Vec<(usize, u32, usize)> = Vec::new();
        for (pair, (context, continuation)) in pairs.iter().enumerate() {
            let start = ids.len();
            let read = num_read(context, continuation);
            ids.extend(context.iter().chain(continuation).take(read));
            positions.extend(0..read as u32);
            if ids.len() > start {
                cu_seqlens.push(ids.len() as u32);
            }
            let first = start + context.len() - usize::from(!context.is_empty());
            wanted.extend(continuation.iter().enumerate().map(|(at, token)| (first + at, *token, pair)));
        }
        let base = scores.len();
        scores.extend(pairs.iter().map(|_| Likelihood { logp: 0.0, is_greedy: true }));
        if wanted.is_empty() {
            return Ok(());
        }
        session.forward(&self.llama, Tokens { ids: &ids, positions: &positions, cu_seqlens: &cu_seqlens })?;
        for chunk in wanted.chunks(LOGIT_ROWS) {
            let rows: Vec<usize> = chunk.iter().map(|(row, _, _)| *row).collect();
            session.logits(&self.llama, &rows, logits)?;
            let width = logits.columns();
            for (at, (_, token, pair)) in chunk.iter().enumerate() {
                let (logp, is_best) = log_probability(logits.slice().sub(at * width..(at + 1) * width), *token);
                let score = &mut scores[base + pair];
                score.logp += logp;
                score.is_greedy &= is_best;
            }
        }
        Ok(())
    }

    /// Continues prompts; see [`Generator::generate`]. Prompts of at most [`TextModel::max_tokens`] tokens with the new
    /// ones.
    ///
    /// # Errors
    /// [`ModelError::TooLong`], [`ModelError::Kernel`].
    pub fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Generated>, ModelError> {
        let needed = requests.iter().map(|request| request.prompt.len() + request.max_new + 1).max().unwrap_or(0);
        let length = needed.min(self.max_tokens());
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.generator.as_ref().is_none_or(|(_, built_for)| *built_for < length) {
            buffers.generator = Some((Generator::new(&self.llama, SEQUENCES, length), length));
        }
        let (generator, _) = buffers.generator.as_mut().expect("invariant: just built");
        generator.generate(&self.llama, requests)
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

    fn compute_dtype(&self) -> Dtype {
        if self.llama.params.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
    }
}

/// Tokens that are read to score a continuation: all but the last.
fn num_read(context: &[u32], continuation: &[u32]) -> usize {
    (context.len() + continuation.len()).saturating_sub(1)
}

/// log softmax(logits)[token] in f64, and whether no logit is larger (of equals the first counts as the largest).
fn log_probability(logits: Slice<'_>, token: u32) -> (f64, bool) {
    fn of(values: impl Iterator<Item = f64> + Clone, token: usize) -> (f64, bool) {
        let (mut best, mut largest) = (0, f64::NEG_INFINITY);
        for (at, value) in values.clone().enumerate() {
            if value > largest {
                (best, largest) = (at, value);
            }
        }
        let sum: f64 = values.clone().map(|value| (value - largest).exp()).sum();
        let chosen = values.clone().nth(token).unwrap_or(f64::NEG_INFINITY);
        (chosen - largest - sum.ln(), best == token)
    }
    match logits {
        Slice::F32(values) => of(values.iter().map(|value| f64::from(*value)), token as usize),
        Slice::F64(values) => of(values.iter().copied(), token as usize),
        Slice::Bf16(values) => of(values.iter().map(|value| value.to_f64()), token as usize),
    }
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
