//! The judge behind a server, as a recipe names it: distillation asks it, and a program's evaluation may, too.

use std::path::Path;

use findap_data::llm::{Cassette, ChatReply, HttpChatModel, HttpOptions, LlmError};
use findap_data::reward_model::has_verdict;
use findap_data::{ChatModel, ChatRequest, Sampling};

use crate::recipe::{JudgeTemperature, RemoteJudge};

impl RemoteJudge {
    /// A client of the server. Nothing is sent.
    ///
    /// # Errors
    /// [`LlmError`] for an address or a key that cannot be used.
    pub fn client(&self) -> Result<HttpChatModel, LlmError> {
        HttpChatModel::new(HttpOptions {
            url: self.url.clone(),
            model: self.model.clone(),
            key_env: self.key_env.clone().filter(|_| self.recorded.is_none()),
            max_tokens_field: self.max_tokens_field,
            sends_temperature: self.temperature.map(|temperature| temperature != JudgeTemperature::Default),
            ..HttpOptions::default()
        })
    }

    /// How its replies are drawn.
    pub fn sampling(&self) -> Sampling {
        let temperature = match self.temperature {
            Some(JudgeTemperature::Number(temperature)) => temperature,
            Some(JudgeTemperature::Default) | None => 0.0,
        };
        Sampling { temperature, max_tokens: self.max_tokens, ..Sampling::default() }
    }

    /// The judge whose replies are kept in the file `own`, those that have a verdict; or that of the recording that the recipe names, and
    /// then nobody is asked.
    ///
    /// # Errors
    /// As [`RemoteJudge::client`]; [`LlmError::BadRecording`].
    pub fn kept_in(&self, own: &Path) -> Result<Box<dyn ChatModel>, LlmError> {
        let client = self.client()?;
        Ok(match &self.recorded {
            Some(recorded) => Box::new(Cassette::open(recorded, Some(Unasked(client)))?.only_useful(has_verdict)),
            None => Box::new(Cassette::open(own, Some(client))?.only_useful(has_verdict)),
        })
    }
}

/// A judge that is not asked: only its recorded replies count.
struct Unasked(HttpChatModel);

impl ChatModel for Unasked {
    fn name(&self) -> String {
        self.0.name()
    }

    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        vec![Err(LlmError::BadRequest { problem: "it is not among the judge's recorded replies" }); requests.len()]
    }
}
