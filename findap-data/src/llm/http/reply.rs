//! The body of a reply: a chat completion, or the server's words why there is none.

use serde_json::Value;

use super::dialect::Refusal;
use crate::llm::{ChatReply, Choice, FinishReason, TokenLogprob, one_line};
use crate::plain_words::plain_words;

/// Why a body is no chat completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoReply {
    /// The body is an error of the server, under whatever HTTP status it came. Gateways send those of the servers behind them with
    /// status 200 and name the true one in the body.
    ServerError { status: Option<u16>, message: String },
    /// It is no JSON, such as the page of a gateway, or cut short.
    NotJson(String),
    /// It is something else.
    Unreadable(String),
}

/// Reads a body that came with status 200.
pub(super) fn parse_reply(bytes: &[u8]) -> Result<ChatReply, NoReply> {
    let unreadable = |detail: &str| NoReply::Unreadable(detail.to_owned());
    let value: Value = serde_json::from_slice(bytes).map_err(|error| {
        let beginning = one_line(&String::from_utf8_lossy(bytes));
        NoReply::NotJson(format!("not JSON ({}); it begins with \"{beginning}\"", plain_words(&error.to_string())))
    })?;
    if let Some(error) = server_error(&value) {
        return Err(error);
    }
    let choices = value["choices"].as_array().ok_or_else(|| unreadable("no list 'choices'"))?;
    if choices.is_empty() {
        return Err(unreadable("'choices' is empty"));
    }
    let choices = choices.iter().map(parse_choice).collect::<Result<Vec<_>, NoReply>>()?;
    // What a server counts is shown to nobody who would miss it.
    Ok(ChatReply { choices, usage: serde_json::from_value(value["usage"].clone()).ok() })
}

/// What a body says of a refused request: its message and the parameter that it names, in the forms of OpenAI, of older servers and of
/// FastAPI, `{"detail": [{"loc": .., "msg": ..}]}`, whose `input` is the request.
pub(super) fn refusal(bytes: &[u8]) -> Refusal {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return Refusal { param: None, message: String::from_utf8_lossy(bytes).into_owned() };
    };
    let error = [&value["error"], &value].into_iter().find(|error| error.is_object() || error.is_string());
    let Some(error) = error else { return Refusal::default() };
    let text = |key: &str| error[key].as_str().filter(|text| !text.is_empty());
    let detail = |detail: &Value| {
        let place = detail["loc"].as_array().and_then(|place| place.last()).and_then(Value::as_str);
        format!("{}: {}", place.unwrap_or_default(), detail["msg"].as_str().unwrap_or_default())
    };
    let details = value["detail"].as_array().into_iter().flatten().map(detail);
    let words = [error.as_str(), text("code"), text("message"), text("detail")].into_iter().flatten();
    let message = words.map(str::to_owned).chain(details).collect::<Vec<_>>().join("; ");
    Refusal { param: text("param").map(str::to_owned), message }
}

fn parse_choice(choice: &Value) -> Result<Choice, NoReply> {
    if let Some(error) = server_error(choice) {
        return Err(error);
    }
    let finish_reason = finish_reason(&choice["finish_reason"]).map_err(NoReply::Unreadable)?;
    let message = &choice["message"];
    let text = match text_of(&message["content"]) {
        Some(text) => text,
        // All tokens went into reasoning, or the filter kept all back.
        None if finish_reason != FinishReason::Stop => String::new(),
        None => {
            let refusal = message["refusal"]
                .as_str()
                .map(|refusal| format!("the model refused to answer: {}", one_line(refusal)));
            return Err(NoReply::Unreadable(refusal.unwrap_or_else(|| "no text 'message.content'".to_owned())));
        }
    };
    let logprobs = choice["logprobs"]["content"].as_array().map(|tokens| tokens.iter().filter_map(token).collect());
    Ok(Choice { text, finish_reason, logprobs })
}

/// A text, or the texts of a list of parts together. Reasoning is no part of the answer, wherever it stands.
fn text_of(content: &Value) -> Option<String> {
    let Value::Array(parts) = content else { return content.as_str().map(str::to_owned) };
    let text_of_part = |part: &Value| {
        let is_text = part["type"].as_str().is_none_or(|kind| matches!(kind, "text" | "output_text"));
        part.as_str().or_else(|| part["text"].as_str().filter(|_| is_text)).map(str::to_owned)
    };
    let texts: Vec<String> = parts.iter().filter_map(text_of_part).collect();
    (!texts.is_empty()).then(|| texts.concat())
}

/// Why the answer ended, in the words of several servers. A reason that nobody knows does not say that the answer is whole.
fn finish_reason(value: &Value) -> Result<FinishReason, String> {
    let Some(reason) = value.as_str() else { return Ok(FinishReason::Stop) };
    match reason.to_lowercase().as_str() {
        "" | "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence" | "tool_calls" | "function_call" => {
            Ok(FinishReason::Stop)
        }
        "length" | "max_tokens" | "max_output_tokens" | "model_length" | "model_context_window_exceeded" => {
            Ok(FinishReason::Length)
        }
        "content_filter" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "refusal" => {
            Ok(FinishReason::ContentFilter)
        }
        _ => Err(format!("the answer ended with the finish_reason '{}'", one_line(reason))),
    }
}

fn token(value: &Value) -> Option<TokenLogprob> {
    let pair = |value: &Value| Some((value["token"].as_str()?.to_string(), value["logprob"].as_f64()?));
    let (token, logprob) = pair(value)?;
    let top = value["top_logprobs"].as_array().map(|top| top.iter().filter_map(pair).collect());
    Some(TokenLogprob { token, logprob, top: top.unwrap_or_default() })
}

/// The error in a body: `{"error": ..}`, or what older servers send, `{"object": "error", ..}`.
fn server_error(value: &Value) -> Option<NoReply> {
    let error = match &value["error"] {
        Value::Null | Value::Bool(false) => Some(value).filter(|value| value["object"] == "error")?,
        error => error,
    };
    if error.as_str() == Some("") {
        return None;
    }
    let message = [&error["message"], error].into_iter().find_map(Value::as_str);
    let keys = ["code", "status", "status_code", "type"];
    let status = keys.iter().find_map(|key| named_status(&error[*key])).or_else(|| named_status(&value["code"]));
    Some(NoReply::ServerError { status, message: message.map_or_else(|| error.to_string(), str::to_owned) })
}

/// The HTTP status that a field names, as a number or by a word of OpenAI, Anthropic or gRPC.
fn named_status(value: &Value) -> Option<u16> {
    if let Some(number) = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok()) {
        return u16::try_from(number).ok().filter(|status| (400..600).contains(status));
    }
    match value.as_str()?.to_lowercase().as_str() {
        "rate_limit_exceeded" | "rate_limit_error" | "rate_limited" | "resource_exhausted" | "too_many_requests" => {
            Some(429)
        }
        "server_error"
        | "internal_error"
        | "internal_server_error"
        | "internalservererror"
        | "api_error"
        | "internal" => Some(500),
        "bad_gateway" => Some(502),
        "overloaded_error" | "overloaded" | "unavailable" | "service_unavailable" => Some(503),
        "timeout" | "timeout_error" | "deadline_exceeded" | "gateway_timeout" => Some(504),
        "invalid_request_error"
        | "badrequesterror"
        | "invalid_argument"
        | "bad_request"
        | "context_length_exceeded" => Some(400),
        "invalid_api_key" | "authentication_error" | "unauthenticated" | "unauthorized" => Some(401),
        "insufficient_quota" | "billing_error" => Some(402),
        "permission_error" | "permission_denied" | "forbidden" => Some(403),
        "not_found_error" | "not_found" | "model_not_found" | "notfounderror" => Some(404),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<ChatReply, NoReply> {
        parse_reply(value.to_string().as_bytes())
    }

    #[test]
    fn text_is_read_from_parts_and_reasoning_is_left_out() {
        for (message, wanted) in [
            (json!({"content": "yes"}), "yes"),
            (json!({"content": "yes", "reasoning_content": "no", "reasoning": "no"}), "yes"),
            (json!({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}), "yes"),
            (
                json!({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "yes"}]}),
                "yes",
            ),
            (json!({"content": [{"type": "reasoning", "text": "no"}, {"text": "yes"}]}), "yes"),
            (json!({"content": ["y", "es"]}), "yes"),
            (json!({"content": ""}), ""),
        ] {
            let reply = read(&json!({"error": null, "choices": [{"message": message, "finish_reason": "stop"}]}));
            assert_eq!(reply.expect("a reply").text(), wanted, "{message}");
        }
        for message in [
            json!({}),
            json!({"content": null}),
            json!({"content": []}),
            json!({"content": null, "reasoning_content": "no"}),
        ] {
            assert!(
                matches!(read(&json!({"choices": [{"message": message}]})), Err(NoReply::Unreadable(_))),
                "{message}"
            );
        }
        let refused = read(&json!({"choices": [{"message": {"content": null, "refusal": "I do\nnot"}}]}));
        assert_eq!(refused, Err(NoReply::Unreadable("the model refused to answer: I do\\nnot".to_owned())));
    }

    #[test]
    fn an_answer_is_whole_only_where_the_server_says_so() {
        let reason = |reason: Value| {
            read(&json!({"choices": [{"message": {"content": null}, "finish_reason": reason}]}))
                .map(|reply| reply.choices[0].finish_reason)
        };
        for word in ["length", "LENGTH", "max_tokens", "MAX_TOKENS"] {
            assert_eq!(reason(json!(word)), Ok(FinishReason::Length), "{word}");
        }
        assert_eq!(reason(json!("content_filter")), Ok(FinishReason::ContentFilter));
        for word in [json!("stop"), json!(null), json!("abort"), json!("error")] {
            assert!(reason(word.clone()).is_err(), "{word}: no text");
        }
        let with_text =
            |reason: &str| read(&json!({"choices": [{"message": {"content": "a"}, "finish_reason": reason}]}));
        assert!(with_text("end_turn").is_ok() && with_text("abort").is_err());
    }

    #[test]
    fn a_refusal_is_what_the_server_says_and_not_what_it_repeats() {
        let echo = json!({"temperature": 0.0, "messages": ["unsupported"]});
        for (body, param, message) in [
            (json!({"error": {"message": "m", "param": "p"}, "request": echo}), Some("p"), "m"),
            (json!({"error": {"message": "m", "code": "c", "param": null, "request": echo}}), None, "c; m"),
            (json!({"error": "m", "request": echo}), None, "m"),
            (json!({"object": "error", "message": "m", "request": echo}), None, "m"),
            (json!({"detail": "m", "body": echo}), None, "m"),
            (json!({"detail": [{"loc": ["body", "p"], "msg": "m", "input": echo}]}), None, "p: m"),
            (json!([echo]), None, ""),
        ] {
            let wanted = Refusal { param: param.map(str::to_owned), message: message.to_owned() };
            assert_eq!(refusal(body.to_string().as_bytes()), wanted, "{body}");
        }
        assert_eq!(refusal(b"m").message, "m");
    }

    #[test]
    fn errors_in_the_body_name_their_status() {
        for (body, status) in [
            (json!({"error": {"message": "m", "code": 502}}), Some(502)),
            (json!({"error": {"message": "m", "code": "429"}}), Some(429)),
            (json!({"error": {"message": "m", "code": "rate_limit_exceeded"}}), Some(429)),
            (json!({"error": {"message": "m", "code": null, "type": "server_error"}}), Some(500)),
            (json!({"error": {"message": "m", "status": "UNAVAILABLE"}, "choices": []}), Some(503)),
            (json!({"error": {"message": "m", "type": "overloaded_error"}}), Some(503)),
            (json!({"object": "error", "message": "m", "code": 400}), Some(400)),
            (json!({"choices": [{"error": {"code": 502, "message": "m"}, "finish_reason": "error"}]}), Some(502)),
            (json!({"error": "m"}), None),
            (json!({"error": {"message": "m", "code": 7}}), None),
        ] {
            assert_eq!(read(&body), Err(NoReply::ServerError { status, message: "m".to_owned() }), "{body}");
        }
    }
}
