//! The parameters that servers differ in.
//!
//! Reasoning models want the limit as `max_completion_tokens`, and some take no temperature but their own. What a recipe does not
//! say is found out from the server's refusal.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::HttpOptions;
use crate::llm::ChatRequest;

/// The parameter that limits the tokens of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
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

    /// The dialect that a server wants which refused this one, and what there is to say about it. `None` where the refusal is about
    /// something else, or about what the options fix.
    pub(super) fn after_refusal(
        self,
        options: &HttpOptions,
        status: u16,
        refusal: &str,
    ) -> Option<(Dialect, &'static str)> {
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
        let says = |words: &[&str]| words.iter().any(|word| refusal.to_lowercase().contains(word));
        if !matches!(status, 400 | 422) {
            return None;
        }
        let is_limit = self.max_tokens_field == MaxTokensField::MaxTokens && refusal.contains("max_tokens");
        if options.max_tokens_field.is_none() && is_limit && (says(&UNKNOWN) || says(&["max_completion_tokens"])) {
            let dialect = Dialect { max_tokens_field: MaxTokensField::MaxCompletionTokens, ..self };
            let note = "the server refuses `max_tokens`; it is sent `max_completion_tokens` from now on. \
                        `max_tokens_field = \"max_completion_tokens\"` does so from the beginning";
            return Some((dialect, note));
        }
        let is_temperature = self.sends_temperature && refusal.contains("temperature");
        let is_unfit = says(&UNKNOWN) || says(&["only the default", "strictly positive", "greater than 0", "must be"]);
        if options.sends_temperature.is_none() && is_temperature && is_unfit {
            let note = "the server refuses the temperature 0; it is sent none from now on and takes its own, so that its replies may \
                        differ from run to run. `temperature = \"default\"` does so from the beginning";
            return Some((Dialect { sends_temperature: false, ..self }, note));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: &str =
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    const TEMPERATURE: &str =
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.";

    #[test]
    fn a_refused_parameter_is_told_from_other_refusals() {
        let options = HttpOptions::default();
        let first = Dialect::new(&options);
        let after = |status, refusal: &str| first.after_refusal(&options, status, refusal).map(|(dialect, _)| dialect);
        let limit = Dialect { max_tokens_field: MaxTokensField::MaxCompletionTokens, ..first };
        let temperature = Dialect { sends_temperature: false, ..first };
        for (status, refusal, wanted) in [
            (400, LIMIT, Some(limit)),
            (
                422,
                r#"{"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]}"#,
                Some(limit),
            ),
            (400, TEMPERATURE, Some(temperature)),
            (422, "`temperature` must be strictly positive", Some(temperature)),
            (400, "max_tokens is too large: 1024. This model supports at most 512 completion tokens.", None),
            (400, "This model's maximum context length is 4096 tokens.", None),
            (500, LIMIT, None),
            (401, "Incorrect API key", None),
        ] {
            assert_eq!(after(status, refusal), wanted, "{status} {refusal}");
        }
        assert_eq!(limit.after_refusal(&options, 400, LIMIT), None, "once");
    }

    #[test]
    fn what_the_options_fix_stays() {
        let options = HttpOptions {
            max_tokens_field: Some(MaxTokensField::MaxTokens),
            sends_temperature: Some(true),
            ..HttpOptions::default()
        };
        for refusal in [LIMIT, TEMPERATURE] {
            assert_eq!(Dialect::new(&options).after_refusal(&options, 400, refusal), None);
        }
    }
}
