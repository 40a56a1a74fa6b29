//! The judge behind a server, as a recipe names it: distillation asks it, and a program's evaluation may, too.

use std::path::{Path, PathBuf};

use findap_data::llm::{Cassette, HttpChatModel, HttpOptions, LlmError, Recording};
use findap_data::reward_model::has_verdict;
use findap_data::{ChatModel, Sampling};

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
        Ok(match &self.recorded {
            // Of the `eval` folder of a run: that of the same stage.
            Some(folder) if folder.is_dir() => {
                let place = own.components().rev().take(2).collect::<Vec<_>>().into_iter().rev();
                Box::new(Recording::read(&folder.join(place.collect::<PathBuf>()), &self.model)?)
            }
            Some(recorded) => Box::new(Recording::read(recorded, &self.model)?),
            None => Box::new(Cassette::open(own, Some(self.client()?))?.only_useful(has_verdict)),
        })
    }
}
