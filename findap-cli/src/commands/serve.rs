//! `findap serve`: the model behind the OpenAI chat protocol.
//!
//! It serves `POST /v1/chat/completions` (also with `stream: true`) and `GET /v1/models`. Requests are answered one after another; a
//! few threads read and write, so that a slow client does not hold up the next one. Put a reverse proxy in front before exposing it to
//! untrusted clients.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io::Read;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use findap_data::Message;
use findap_data::llm::{ChatModel, ChatReply, ChatRequest, Sampling, TokenLogprob};
use findap_data::plain_words::plain_words;
use serde::Deserialize;
use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

use super::device::DeviceArguments;

/// Longest request body; a longer one is refused unread.
const MAX_BODY_BYTES: u64 = 16 << 20;
const THREADS: usize = 16;

/// Serves a model over HTTP in the OpenAI chat protocol, with streaming
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    model: PathBuf,
    /// Address to listen at; 0.0.0.0 opens it to the network
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen at; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    #[command(flatten)]
    device: DeviceArguments,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let model = arguments.device.load(&arguments.model)?;
    let name =
        arguments.model.file_name().map_or_else(|| "findap".to_owned(), |name| name.to_string_lossy().into_owned());
    let server = Server::http((arguments.host.as_str(), arguments.port))
        .map_err(|error| anyhow!("{error}"))
        .with_context(|| format!("cannot listen at {}:{}: is the port taken?", arguments.host, arguments.port))?;
    println!("http://{}/v1", server.server_addr());
    eprintln!("serving {name}; Ctrl-C stops");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    answer(request, &model, &name);
                }
            });
        }
    });
    Ok(())
}

/// Answers one request. A failure to write the answer is ignored: the client has gone away.
fn answer(mut request: Request, model: &dyn ChatModel, name: &str) {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let response = match (request.method().clone(), path.as_str()) {
        (Method::Get, "/v1/models") => json_response(
            200,
            &json!({"object": "list", "data": [{"id": name, "object": "model", "created": now(), "owned_by": "findap"}]}),
        ),
        (Method::Post, "/v1/chat/completions") => match complete(&mut request, model, name) {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        },
        (_, "/v1/models" | "/v1/chat/completions") => {
            Refusal::new(405, "this method is not served here").into_response()
        }
        _ => Refusal::new(404, "served are POST /v1/chat/completions and GET /v1/models").into_response(),
    };
    request.respond(response).ok();
}

type Body = Response<std::io::Cursor<Vec<u8>>>;

struct Refusal {
    status: u16,
    message: String,
}

impl Refusal {
    fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    fn into_response(self) -> Body {
        let kind = if self.status < 500 { "invalid_request_error" } else { "server_error" };
        json_response(
            self.status,
            &json!({"error": {"message": self.message, "type": kind, "code": null, "param": null}}),
        )
    }
}

/// The fields of a chat completion request. Unknown fields are ignored, as other servers of this protocol do.
#[derive(Deserialize)]
struct Wire {
    messages: Vec<Message>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<u32>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    n: Option<usize>,
    seed: Option<u64>,
    stop: Option<Stop>,
    logprobs: Option<bool>,
    #[serde(default)]
    stream: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

fn complete(request: &mut Request, model: &dyn ChatModel, name: &str) -> Result<Body, Refusal> {
    let mut body = Vec::new();
    request
        .as_reader()
        .take(MAX_BODY_BYTES + 1)
        .read_to_end(&mut body)
        .map_err(|error| Refusal::new(400, format!("the body ended early: {error}")))?;
    if body.len() as u64 > MAX_BODY_BYTES {
        return Err(Refusal::new(413, format!("the body is longer than {MAX_BODY_BYTES} bytes")));
    }
    let wire: Wire =
        serde_json::from_slice(&body).map_err(|error| Refusal::new(400, plain_words(&error.to_string())))?;
    let is_stream = wire.stream;
    let request = to_request(wire)?;
    let reply = model.chat_one(&request).map_err(|error| Refusal::new(400, plain_words(&error.to_string())))?;
    let id = format!("chatcmpl-{:x}", SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos()));
    if is_stream {
        return Ok(response(200, "text/event-stream", events(&reply, &id, name)));
    }
    Ok(json_response(200, &completion(&reply, &id, name)))
}

fn to_request(wire: Wire) -> Result<ChatRequest, Refusal> {
    let refuse = |field: &str, want: &str| Err(Refusal::new(400, format!("{field}: {want}")));
    let temperature = wire.temperature.unwrap_or(1.0);
    if !(0.0..=100.0).contains(&temperature) {
        return refuse("temperature", "a number from 0 to 100");
    }
    if wire.top_p.is_some_and(|p| !(p > 0.0 && p <= 1.0)) {
        return refuse("top_p", "a number above 0, at most 1");
    }
    if wire.n.is_some_and(|n| !(1..=64).contains(&n)) {
        return refuse("n", "a number from 1 to 64");
    }
    if wire.messages.is_empty() {
        return refuse("messages", "at least one message");
    }
    let stop = match wire.stop {
        None => Vec::new(),
        Some(Stop::One(text)) => vec![text],
        Some(Stop::Many(texts)) => texts,
    };
    if stop.iter().any(String::is_empty) {
        return refuse("stop", "texts of at least one character");
    }
    let sampling = Sampling {
        temperature,
        top_k: wire.top_k,
        top_p: wire.top_p,
        max_tokens: wire.max_completion_tokens.or(wire.max_tokens).unwrap_or(256),
        stop,
        seed: Some(wire.seed.unwrap_or_else(fresh_seed)),
        n: wire.n.unwrap_or(1),
        logprobs: wire.logprobs.unwrap_or(false),
    };
    Ok(ChatRequest { messages: wire.messages, sampling })
}

/// A seed for a request without one, so that equal requests have different answers.
fn fresh_seed() -> u64 {
    // The standard library's hash tables have keys that the system draws.
    RandomState::new().hash_one(0)
}

fn completion(reply: &ChatReply, id: &str, name: &str) -> Value {
    let choices: Vec<Value> = reply
        .choices
        .iter()
        .enumerate()
        .map(|(index, choice)| {
            json!({
                "index": index,
                "message": {"role": "assistant", "content": choice.text},
                "finish_reason": choice.finish_reason,
                "logprobs": choice.logprobs.as_deref().map(logprobs),
            })
        })
        .collect();
    let usage = reply.usage.map(|usage| {
        json!({
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        })
    });
    json!({"id": id, "object": "chat.completion", "created": now(), "model": name, "choices": choices, "usage": usage})
}

fn logprobs(tokens: &[TokenLogprob]) -> Value {
    let entry = |token: &TokenLogprob| json!({"token": token.token, "logprob": token.logprob, "bytes": token.token.as_bytes(), "top_logprobs": []});
    json!({"content": tokens.iter().map(entry).collect::<Vec<_>>()})
}

/// The reply as server-sent events: a role, the text word by word, the reason of the end, `[DONE]`.
fn events(reply: &ChatReply, id: &str, name: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut send = |index: usize, delta: Value, finish_reason: Value| {
        let chunk = json!({
            "id": id, "object": "chat.completion.chunk", "created": now(), "model": name,
            "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}],
        });
        stream.extend_from_slice(format!("data: {chunk}\n\n").as_bytes());
    };
    for (index, choice) in reply.choices.iter().enumerate() {
        send(index, json!({"role": "assistant", "content": ""}), Value::Null);
        for word in choice.text.split_inclusive(char::is_whitespace) {
            send(index, json!({"content": word}), Value::Null);
        }
        send(index, json!({}), json!(choice.finish_reason));
    }
    stream.extend_from_slice(b"data: [DONE]\n\n");
    stream
}

fn json_response(status: u16, value: &Value) -> Body {
    response(status, "application/json", value.to_string().into_bytes())
}

fn response(status: u16, content_type: &str, body: Vec<u8>) -> Body {
    let header = Header::from_bytes("Content-Type", content_type).expect("invariant: the header is plain ASCII");
    Response::from_data(body).with_status_code(status).with_header(header)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
