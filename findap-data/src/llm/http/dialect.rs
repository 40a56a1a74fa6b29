//! The parameters that servers differ in.
//!
//! Reasoning models want the limit as `max_completion_tokens`, and some take no temperature but their own. What a recipe does not
//! say is found out from the server's refusal, and holds once a request without the parameter is answered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::HttpOptions;
use crate::llm::ChatRequest;

/// The parameter that limits the tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// `max_tokens`.
    #[default]
    MaxTokens,
    /// `max_completion_tokens`.
    MaxCompletionTokens,
}

impl MaxTokensField {
    fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// How requests are put to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dialect {
    max_tokens_field: MaxTokensField,
    sends_temperature: bool,
}

impl Dialect {
    pub(super) fn new(options: &HttpOptions) -> Dialect {
        Dialect {
            max_tokens_field: options.max_tokens_field.unwrap_or_default(),
            sends_temperature: options.sends_temperature.unwrap_or(true),
        }
    }

    pub(super) fn body_of(self, model: &str, request: &ChatRequest) -> Value {
        let sampling = &request.sampling;
        let mut body = json!({ "model": model, "messages": request.messages });
        body[self.max_tokens_field.name()] = sampling.max_tokens.into();
        if self.sends_temperature {
            body["temperature"] = sampling.temperature.into();
        }
        // One answer is what every server gives, also those that do not know `n`.
        if sampling.n != 1 {
            body["n"] = sampling.n.into();
        }
        if let Some(top_p) = sampling.top_p {
            body["top_p"] = top_p.into();
        }
        if let Some(top_k) = sampling.top_k {
            body["top_k"] = top_k.into();
        }
        if let Some(seed) = sampling.seed {
            body["seed"] = seed.into();
        }
        if !sampling.stop.is_empty() {
            body["stop"] = sampling.stop.clone().into();
        }
        if sampling.logprobs {
            body["logprobs"] = true.into();
            body["top_logprobs"] = 20.into();
        }
        body
    }

    /// The dialect that a server may want which refused this one. `None` where the refusal is about something else, or about what
    /// the options fix.
    pub(super) fn after_refusal(self, options: &HttpOptions, status: u16, refusal: &Refusal) -> Option<Dialect> {
        if !matches!(status, 400 | 422) {
            return None;
        }
        let sends_max_tokens = self.max_tokens_field == MaxTokensField::MaxTokens;
        if options.max_tokens_field.is_none() && sends_max_tokens && refusal.is_of("max_tokens", &[]) {
            return Some(Dialect { max_tokens_field: MaxTokensField::MaxCompletionTokens, ..self });
        }
        let unfit = ["only the default", "strictly positive", "greater than 0", "must be"];
        if options.sends_temperature.is_none() && self.sends_temperature && refusal.is_of("temperature", &unfit) {
            return Some(Dialect { sends_temperature: false, ..self });
        }
        None
    }

    /// Takes over what `answered` does otherwise; gives what there is to say about each change.
    pub(super) fn adopt(&mut self, answered: Dialect) -> Vec<&'static str> {
        let mut notes = Vec::new();
        let (own, other) = (&mut self.max_tokens_field, answered.max_tokens_field);
        if *own == MaxTokensField::MaxTokens && other == MaxTokensField::MaxCompletionTokens {
            notes.push(
                "the server refuses `max_tokens`; it is sent `max_completion_tokens` from now on. \
                 `max_tokens_field = \"max_completion_tokens\"` does so from the beginning",
            );
            *own = other;
        }
        if self.sends_temperature && !answered.sends_temperature {
            notes.push(
                "the server refuses the temperature 0; it is sent none from now on and takes its own, so that its replies may differ \
                 from run to run. `temperature = \"default\"` does so from the beginning",
            );
            self.sends_temperature = false;
        }
        notes
    }
}

/// A server's words why it refuses a request. What it repeats of the request is no word of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The parameter that it names.
    pub(super) param: Option<String>,
    pub(super) message: String,
}

impl Refusal {
    /// Whether a parameter is refused as unknown, or with one of `words`. They stand near its name: elsewhere they are about
    /// something else.
    fn is_of(&self, param: &str, words: &[&str]) -> bool {
        /// A number that is too large is no unknown parameter: these words tell them apart.
        const UNKNOWN: [&str; 9] = [
            "unsupported",
            "not support",
            "unrecognized",
            "unknown",
            "unexpected",
            "not allowed",
            "not permitted",
            "extra",
            "deprecated",
        ];
        const NEAR_CHARS: usize = 60;
        if self.param.as_deref().is_some_and(|named| named != param) {
            return false;
        }
        let message = self.message.to_lowercase();
        let says = |text: &str| UNKNOWN.iter().chain(words).any(|word| text.contains(word));
        if self.param.is_some() {
            return says(&message);
        }
        message.match_indices(param).any(|(at, _)| {
            let before: Vec<char> = message[..at].chars().rev().take(NEAR_CHARS).collect();
            let before: String = before.into_iter().rev().collect();
            let after: String = message[at + param.len()..].chars().take(NEAR_CHARS).collect();
            // `"temperature": 0` is what was asked.
            let is_echo =
                after.trim_start_matches(['"', '\'', '\\', ' ']).starts_with(':') && before.ends_with(['"', '\'']);
            !is_echo && (says(&before) || says(&after))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: &str =
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    const TEMPERATURE: &str =
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.";

    const TOO_LARGE: &str = "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 \
                             tokens and your request has 500 input tokens";

    #[test]
    fn a_refused_parameter_is_told_from_other_refusals() {
        let options = HttpOptions::default();
        let first = Dialect::new(&options);
        let refusal = |message: &str| Refusal { param: None, message: message.to_owned() };
        let after = |status, message: &str| first.after_refusal(&options, status, &refusal(message));
        let limit = Dialect { max_tokens_field: MaxTokensField::MaxCompletionTokens, ..first };
        let temperature = Dialect { sends_temperature: false, ..first };
        for (status, refusal, wanted) in [
            (400, LIMIT, Some(limit)),
            (422, "max_tokens: Extra inputs are not permitted", Some(limit)),
            (400, TEMPERATURE, Some(temperature)),
            (422, "`temperature` must be strictly positive", Some(temperature)),
            (400, "max_tokens is too large: 1024. This model supports at most 512 completion tokens.", None),
            (400, "This model's maximum context length is 4096 tokens.", None),
            (400, TOO_LARGE, None),
            (400, "Unknown role 'judge' in {\"messages\": [], \"temperature\": 0.0}", None),
            (
                400,
                "Images are not supported by this model, whatever else the request may hold. It was asked at a temperature",
                None,
            ),
            (500, LIMIT, None),
            (401, "Incorrect API key", None),
        ] {
            assert_eq!(after(status, refusal), wanted, "{status} {refusal}");
        }
        assert_eq!(limit.after_refusal(&options, 400, &refusal(LIMIT)), None, "once");
        for (param, wanted) in [("temperature", Some(temperature)), ("messages", None)] {
            let message = "Unsupported value in a request with temperature".to_owned();
            assert_eq!(first.after_refusal(&options, 400, &Refusal { param: Some(param.to_owned()), message }), wanted);
        }
    }

    #[test]
    fn what_the_options_fix_stays() {
        let options = HttpOptions {
            max_tokens_field: Some(MaxTokensField::MaxTokens),
            sends_temperature: Some(true),
            ..HttpOptions::default()
        };
        for message in [LIMIT, TEMPERATURE] {
            let refusal = Refusal { param: None, message: message.to_owned() };
            assert_eq!(Dialect::new(&options).after_refusal(&options, 400, &refusal), None);
        }
    }
}
