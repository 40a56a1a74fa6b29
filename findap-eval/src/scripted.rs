//! A model whose answers are functions of the text: for tests of tasks and of the engine, without weights.

use std::cell::Cell;

use findap_data::{Message, Role};

use crate::error::EvalError;
use crate::model::{GenerateRequest, LanguageModel, Reply, Score, ScoreRequest, cut_at_stop};

type LogpRule = Box<dyn Fn(&str, &str) -> f64>;
type ReplyRule = Box<dyn Fn(&str) -> String>;

/// A model that answers by rule.
pub struct ScriptedModel {
    logp: LogpRule,
    reply: ReplyRule,
    /// Requests answered so far.
    pub num_requests: Cell<usize>,
    /// Words that it reads; of longer texts the beginning is cut, which its rules still see.
    pub max_words: usize,
    /// Fails once this many requests were answered, as a crash would.
    pub fail_after: Option<usize>,
}

impl ScriptedModel {
    /// `logp(context, continuation)` scores, `reply(prompt)` writes.
    pub fn new(logp: impl Fn(&str, &str) -> f64 + 'static, reply: impl Fn(&str) -> String + 'static) -> Self {
        Self {
            logp: Box::new(logp),
            reply: Box::new(reply),
            num_requests: Cell::new(0),
            max_words: usize::MAX,
            fail_after: None,
        }
    }

    fn count(&self, more: usize) -> Result<(), EvalError> {
        self.num_requests.set(self.num_requests.get() + more);
        match self.fail_after {
            Some(limit) if self.num_requests.get() > limit => Err(EvalError::Model {
                model: self.name(),
                operation: "answer",
                reason: format!("the script ends after {limit} requests"),
            }),
            _ => Ok(()),
        }
    }
}

impl LanguageModel for ScriptedModel {
    fn name(&self) -> String {
        "scripted".to_owned()
    }

    fn max_tokens(&self) -> usize {
        self.max_words
    }

    fn fingerprint(&self) -> Result<String, EvalError> {
        Ok("scripted".to_owned())
    }

    fn precision(&self) -> String {
        "text".to_owned()
    }

    fn template_date(&self) -> Option<String> {
        None
    }

    fn render_chat(&self, messages: &[Message]) -> Result<String, EvalError> {
        let turn = |message: &Message| {
            let role = match message.role {
                Role::System => "system",
                Role::User => "user",
                Role::Assistant => "assistant",
                _ => "tool",
            };
            format!("<{role}>{}</{role}>", message.content)
        };
        Ok(messages.iter().map(turn).collect::<String>() + "<assistant>")
    }

    fn num_cut_to_score(&self, request: &ScoreRequest) -> Result<usize, EvalError> {
        let words = |text: &str| text.split_whitespace().count();
        Ok((words(&request.context) + words(&request.continuation)).saturating_sub(self.max_words))
    }

    fn num_cut_to_generate(&self, request: &GenerateRequest) -> Result<usize, EvalError> {
        let room = self.max_words.saturating_sub(request.max_new_tokens);
        Ok(request.prompt.split_whitespace().count().saturating_sub(room))
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Score>, EvalError> {
        self.count(requests.len())?;
        let score = |request: &ScoreRequest| Score {
            logp: (self.logp)(&request.context, &request.continuation),
            is_greedy: false,
        };
        Ok(requests.iter().map(score).collect())
    }

    /// A word is a token.
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Reply>, EvalError> {
        self.count(requests.len())?;
        let reply = |request: &GenerateRequest| {
            let reply = (self.reply)(&request.prompt);
            let most = reply.split_inclusive(char::is_whitespace).take(request.max_new_tokens).collect::<String>();
            let cut = cut_at_stop(&most, request);
            let is_cut_off = cut.len() == most.len() && most.len() < reply.len();
            Reply::new(cut, Some(is_cut_off))
        };
        Ok(requests.iter().map(reply).collect())
    }
}
