//! Text models behind one seam.
//!
//! Judges, samplers and filters take a [`ChatModel`]: the local model, a server that speaks the OpenAI protocol, a recording, or a
//! rule that knows the answers. None of them knows which it talks to.

mod cassette;
#[cfg(feature = "http")]
mod http;
mod recording;

pub use cassette::{Cassette, recorded_usage};
#[cfg(feature = "http")]
pub use http::{HttpChatModel, HttpOptions, MaxTokensField};
pub use recording::Recording;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::Message;

/// How to draw an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 takes the most likely token each time.
    pub temperature: f64,
    /// Only the `top_k` most likely tokens are drawn from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub top_k: Option<u32>,
    /// Only the most likely tokens that together reach this probability are drawn from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub top_p: Option<f64>,
    /// Upper limit of new tokens per answer.
    pub max_tokens: usize,
    /// The answer ends before any of these texts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stop: Vec<String>,
    /// Makes sampling repeatable where the model supports it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seed: Option<u64>,
    /// Number of answers.
    pub n: usize,
    /// Whether token log-probabilities are wanted.
    #[serde(default)]
    pub logprobs: bool,
}

impl Default for Sampling {
    /// One greedy answer of at most 256 tokens.
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: None,
            top_p: None,
            max_tokens: 256,
            stop: Vec::new(),
            seed: None,
            n: 1,
            logprobs: false,
        }
    }
}

/// One question to a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The conversation so far; the answer is the assistant's next turn.
    pub messages: Vec<Message>,
    /// How to draw it.
    pub sampling: Sampling,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended its turn, or a stop text came up.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// The server withheld it.
    ContentFilter,
}

/// One token of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token's text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// The most likely tokens at this place, the most likely first.
    #[serde(default)]
    pub top: Vec<(String, f64)>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The text of the assistant's turn.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Its tokens, where the model gives them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub logprobs: Option<Vec<TokenLogprob>>,
}

/// The answers to one question, `sampling.n` of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    /// At least one.
    pub choices: Vec<Choice>,
    /// What it took, where the model says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub usage: Option<Usage>,
}

/// The size of a request and its reply, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the conversation as the template renders it.
    pub prompt_tokens: u64,
    /// Tokens of all choices, each with its end of turn.
    pub completion_tokens: u64,
}

impl ChatReply {
    /// A reply of one finished text without log-probabilities.
    pub fn of_text(text: impl Into<String>) -> ChatReply {
        let choice = Choice { text: text.into(), finish_reason: FinishReason::Stop, logprobs: None };
        ChatReply { choices: vec![choice], usage: None }
    }

    /// The first answer's text.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }
}

/// Anything that continues a conversation.
pub trait ChatModel {
    /// A name for reports and fingerprints, such as the model's folder or `gpt-4o@host`.
    fn name(&self) -> String;

    /// Answers the requests, in their order, each for itself: one that cannot be answered costs no other its reply.
    /// Implementations may work on several at once.
    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>>;

    /// What there is to say about the model that no reply says, such as a parameter that its server refuses. Each is said once.
    fn take_notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Answers one request.
    ///
    /// # Errors
    /// Why it could not be answered.
    fn chat_one(&self, request: &ChatRequest) -> Result<ChatReply, LlmError> {
        let reply = self.chat(std::slice::from_ref(request)).into_iter().next();
        reply.expect("invariant: there is a reply for each request")
    }
}

/// The beginning of a text, in one line and without characters that change a terminal.
pub fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let escaped = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        _ => c.escape_debug().to_string(),
    };
    let mut line: String = text.trim().chars().take(MAX_CHARS).map(escaped).collect();
    if text.trim().chars().nth(MAX_CHARS).is_some() {
        line.push_str("...");
    }
    line
}

/// Why a model gave no usable answer.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LlmError {
    /// The address is unusable.
    #[error("bad endpoint '{url}': {problem}; give the server's base address, such as http://localhost:8000/v1")]
    BadEndpoint {
        /// The address given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The environment variable that should hold the key does not.
    #[error("the environment variable {name} with the API key is not set")]
    MissingKey {
        /// Its name.
        name: String,
    },
    /// No connection, or it broke, after all attempts.
    #[error("{url}: {detail} (after {attempts} attempts)")]
    Transport {
        /// The address.
        url: String,
        /// What happened.
        detail: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server answered with an error.
    #[error("{url}: HTTP status {status} (after {attempts} attempts): {body}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The server answered with something else than a chat completion.
    #[error("{url}: not a chat completion: {detail}")]
    BadReply {
        /// The address.
        url: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The answer is larger than allowed.
    #[error("{url}: the reply is larger than the limit of {limit_bytes} bytes")]
    ReplyTooLarge {
        /// The address.
        url: String,
        /// Size allowed.
        limit_bytes: u64,
    },
    /// A recording has no answer to this request.
    #[error("the recording {path} has no reply to request {key}; record it again with the model at hand")]
    NotRecorded {
        /// The recording's file.
        path: String,
        /// The request's key.
        key: String,
    },
    /// A recording cannot be read or written.
    #[error("the recording {path}: {detail}")]
    BadRecording {
        /// The recording's file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The local model failed.
    #[error("the local model '{model}' failed: {detail}")]
    Model {
        /// Its name.
        model: String,
        /// What it said.
        detail: String,
    },
    /// A request no model can answer.
    #[error("bad request: {problem}")]
    BadRequest {
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl LlmError {
    /// Whether the fault lies in this one request: others to the same model may well be answered.
    pub fn is_of_request(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 400 | 413 | 422),
            Self::BadReply { .. } | Self::ReplyTooLarge { .. } | Self::Model { .. } | Self::BadRequest { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_text_is_short_and_changes_no_terminal() {
        assert_eq!(one_line(" a \"b\"\n\u{1b}[31m\u{202e}c\\d "), "a \"b\"\\n\\u{1b}[31m\\u{202e}c\\d");
        assert_eq!(one_line(&"x".repeat(1000)).len(), 303);
    }
}
