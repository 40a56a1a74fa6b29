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
use findap_tensor::{Device, Dtype, TensorError};

use crate::adapter_folder::text_directory;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::generate::{GenerateRequest, Generated, Generator, Next, StopReason};
use crate::score::{Likelihood, Scorer, longest_read};

/// How much one pass does at most.
struct BatchLimits {
    /// Tokens of one packed scoring pass.
    score_tokens: usize,
    /// Rows of logits.
    logit_rows: usize,
    /// Sequences that are continued at once, where there is memory for them.
    sequences: usize,
}

impl BatchLimits {
    /// Limits that keep a GPU busy; those of the CPU are small, so that activations stay in its caches.
    fn of(device: &Device) -> BatchLimits {
        match device {
            Device::Cpu => BatchLimits { score_tokens: 2048, logit_rows: 64, sequences: 64 },
            Device::Cuda(_) => BatchLimits { score_tokens: 8192, logit_rows: 512, sequences: 128 },
        }
    }
}

/// A model with its tokenizer and chat template, ready for text.
#[derive(Debug)]
pub struct TextModel {
    directory: PathBuf,
    decoder: Decoder,
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

impl TextModel {
    /// Loads a model directory: weights, tokenizer and, where there is one, chat template.
    ///
    /// # Errors
    /// [`ModelError`]; [`ModelError::Data`] for a damaged tokenizer or template.
    pub fn load(directory: &Path, dtype: Dtype) -> Result<TextModel, ModelError> {
        TextModel::load_to(&Device::Cpu, directory, dtype)
    }

    /// Loads a model directory with the weights in the memory of `device`, which computes everything; f32 or bf16 on a GPU.
    ///
    /// # Errors
    /// As [`TextModel::load`]; [`ModelError::Device`].
    pub fn load_to(device: &Device, directory: &Path, dtype: Dtype) -> Result<TextModel, ModelError> {
        let decoder = Decoder::load_to(device, directory, dtype)?;
        let text = text_directory(directory)?;
        let tokenizer = Tokenizer::load(&text)?;
        let template = ChatTemplate::find(&text)?;
        Ok(TextModel { directory: directory.to_owned(), decoder, tokenizer, template, buffers: Mutex::default() })
    }

    /// Sets the time that the chat template tells, in seconds since 1970, as [`ChatTemplate::with_time`] does.
    #[must_use]
    pub fn with_time(mut self, now_seconds: u64) -> TextModel {
        self.template = self.template.map(|template| template.with_time(now_seconds));
        self
    }

    /// The date that the chat template tells, as [`ChatTemplate::date`] writes it; `None` where it tells none.
    pub fn template_date(&self) -> Option<String> {
        self.template.as_ref()?.date()
    }

    /// The directory it was loaded from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The weights.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, where the directory has one.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// Longest sequence, in tokens.
    pub fn max_tokens(&self) -> usize {
        self.decoder.config.max_positions
    }

    /// Scores continuations: computes the log-probability of the continuation for each pair of context and continuation.
    /// Neighbouring pairs with one context read it once; in f32 on the CPU no bit of the result depends on that. A context
    /// has at least one token. `context + continuation` may be one token longer than [`TextModel::max_tokens`], for the last
    /// token is only predicted.
    ///
    /// # Errors
    /// [`ModelError::TooLong`]; [`ModelError::Kernel`] for ids past the vocabulary; [`ModelError::Device`].
    pub fn score(&self, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<Likelihood>, ModelError> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = BatchLimits::of(&self.decoder.params.device());
        let longest = longest_read(pairs);
        if buffers.scorer.as_ref().is_none_or(|scorer| scorer.max_tokens() < longest) {
            buffers.scorer = None; // its memory first
            buffers.scorer = Some(Scorer::new(&self.decoder, longest.max(limits.score_tokens), limits.logit_rows)?);
        }
        buffers.scorer.as_mut().expect("invariant: just built").score(&self.decoder, pairs)
    }

    /// Continues prompts; see [`Generator::generate`]. A prompt and its new tokens are at most [`TextModel::max_tokens`]
    /// together.
    ///
    /// # Errors
    /// [`ModelError::TooLong`], [`ModelError::Kernel`], [`ModelError::Device`].
    pub fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Generated>, ModelError> {
        self.generate_while(requests, &mut |_, _| Next::GoOn)
    }

    /// As [`TextModel::generate`]; a continuation also ends once its text holds one of the texts that `stops` has for its request, and
    /// `is_end` agrees, which sees the number of the request and the text.
    ///
    /// # Errors
    /// As [`TextModel::generate`].
    pub fn generate_until(
        &self,
        requests: &[GenerateRequest],
        stops: &[&[String]],
        is_end: &dyn Fn(usize, &str) -> bool,
    ) -> Result<Vec<Generated>, ModelError> {
        let watch = &mut |request: usize, generated: &Generated| match self
            .text_with_stop(generated, stops[request])
            .is_some_and(|text| is_end(request, &text))
        {
            true => Next::End,
            false => Next::GoOn,
        };
        self.generate_while(requests, watch)
    }

    /// The text of a continuation, if one of these texts has just come to stand in it.
    fn text_with_stop(&self, generated: &Generated, stops: &[String]) -> Option<String> {
        /// Tokens of half a character at the beginning of what is looked at.
        const MARGIN_TOKENS: usize = 4;
        // Most tokens end nothing: of a long text its last tokens are enough to tell, each of which is at least a byte.
        let longest = stops.iter().map(String::len).max()?;
        let last = &generated.ids[generated.ids.len().saturating_sub(longest + MARGIN_TOKENS)..];
        let has_stop = |text: &String| stops.iter().any(|stop| text.contains(stop.as_str()));
        // What cannot be decoded is told once the text is whole.
        let decoded = |ids: &[u32]| self.tokenizer.decode(ids, true).ok();
        decoded(last).filter(has_stop)?;
        decoded(&generated.ids).filter(has_stop)
    }

    fn generate_while(
        &self,
        requests: &[GenerateRequest],
        watch: &mut dyn FnMut(usize, &Generated) -> Next,
    ) -> Result<Vec<Generated>, ModelError> {
        let needed = requests.iter().map(|request| request.prompt.len() + request.max_new + 1).max().unwrap_or(0);
        let length = needed.min(self.max_tokens());
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.generator.as_ref().is_none_or(|(_, built_for)| *built_for < length) {
            buffers.generator = None; // its memory first
            buffers.generator = Some((self.generator(length)?, length));
        }
        let (generator, _) = buffers.generator.as_mut().expect("invariant: just built");
        generator.generate_while(&self.decoder, requests, watch)
    }

    /// Makes a generator for as many sequences as the device has memory for.
    fn generator(&self, max_len: usize) -> Result<Generator, ModelError> {
        let mut sequences = BatchLimits::of(&self.decoder.params.device()).sequences;
        loop {
            match Generator::new(&self.decoder, sequences, max_len) {
                Err(ModelError::Device(TensorError::OutOfMemory { .. })) if sequences > 1 => sequences /= 2,
                other => return other,
            }
        }
    }

    /// Encodes a conversation up to where the reply begins.
    ///
    /// # Errors
    /// [`ModelError::NoChatTemplate`]; [`ModelError::Data`] where the template refuses the conversation.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, ModelError> {
        Ok(self.chat_template()?.encode_prompt(&self.tokenizer, messages)?)
    }

    /// Renders a conversation as text up to where the reply begins.
    ///
    /// # Errors
    /// As [`TextModel::encode_chat`].
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, ModelError> {
        Ok(self.chat_template()?.render_prompt(messages)?)
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

impl ChatModel for TextModel {
    fn name(&self) -> String {
        self.directory.display().to_string()
    }

    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let failed = |error: &dyn Display| LlmError::Model { model: ChatModel::name(self), detail: error.to_string() };
        let mut continuations = Vec::new();
        let mut stops = Vec::new();
        let mut begun = Vec::with_capacity(requests.len());
        for (index, request) in requests.iter().enumerate() {
            let first = match self.continuation(request, index as u64) {
                Ok(first) => first,
                Err(error) => {
                    begun.push(Err(failed(&error)));
                    continue;
                }
            };
            begun.push(Ok(first.prompt.len() as u64));
            continuations.extend((0..request.sampling.n.max(1)).map(|sample| GenerateRequest {
                seed: first.seed.wrapping_add((sample as u64) << 32),
                ..first.clone()
            }));
            stops.resize(continuations.len(), request.sampling.stop.as_slice());
        }
        let mut generated = match self.generate_until(&continuations, &stops, &|_, _| true) {
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
    /// Answers one request, of which it draws one sample. `goes_on` sees the text so far after each token, and ends the reply with
    /// that text by returning `false`.
    ///
    /// # Errors
    /// As [`TextModel::encode_chat`] and [`TextModel::generate`]; [`ModelError::TooLong`].
    pub fn reply_while(
        &self,
        request: &ChatRequest,
        goes_on: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Choice, ModelError> {
        let continuation = self.continuation(request, 0)?;
        let mut failure = None;
        let generated = self.generate_while(&[continuation], &mut |_, generated| match self.decode(generated) {
            Ok(text) if !goes_on(&text) => Next::EndAll,
            Ok(text) if request.sampling.stop.iter().any(|stop| text.contains(stop.as_str())) => Next::End,
            Ok(_) => Next::GoOn,
            Err(error) => {
                failure = Some(error);
                Next::EndAll
            }
        })?;
        match failure {
            Some(error) => Err(error),
            None => self.choice(request, &generated[0]),
        }
    }

    /// What a request asks of the generator, for its first sample. Without a seed of its own it has `default_seed`, so that
    /// requests of one call differ from each other.
    fn continuation(&self, request: &ChatRequest, default_seed: u64) -> Result<GenerateRequest, ModelError> {
        let prompt = self.encode_chat(&request.messages)?;
        if prompt.len() >= self.max_tokens() {
            return Err(ModelError::TooLong {
                what: "tokens in a conversation",
                got: prompt.len(),
                limit: self.max_tokens() - 1,
                setting: "max_position_embeddings of the model",
            });
        }
        let wanted = &request.sampling;
        let sampling = Sampling {
            temperature: wanted.temperature,
            top_k: wanted.top_k.map_or(0, |top_k| top_k as usize),
            top_p: wanted.top_p.unwrap_or(1.0),
        };
        let max_new = wanted.max_tokens.min(self.max_tokens() - prompt.len());
        let seed = wanted.seed.unwrap_or(default_seed);
        Ok(GenerateRequest { prompt, max_new, sampling, seed, stop_ids: self.tokenizer.stop_ids().to_vec() })
    }

    fn choice(&self, request: &ChatRequest, generated: &Generated) -> Result<Choice, ModelError> {
        let mut text = self.decode(generated)?;
        let cut = request.sampling.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let is_stopped = cut.is_some() || generated.stop == StopReason::Stop;
        text.truncate(cut.unwrap_or(text.len()));
        let logprobs = request.sampling.logprobs.then(|| {
            // The token with which the text ends is the last one.
            let covers = |len: &usize| {
                self.tokenizer.decode(&generated.ids[..*len], true).is_ok_and(|begun| begun.len() >= text.len())
            };
            let of_text = cut.and_then(|_| (0..generated.ids.len()).find(covers));
            let tokens = generated.ids.iter().zip(&generated.logprobs).take(of_text.unwrap_or(usize::MAX));
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
