//! A client of any server that speaks the OpenAI chat protocol.
//!
//! Connection errors, timeouts and the statuses 408, 409, 429 and 5xx are tried again with growing pauses, or after the time that
//! the server names; other statuses are final. Redirects are not followed, so the key goes to no other host. Replies have a size
//! limit. The key appears in no error.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ChatModel, ChatReply, ChatRequest, Choice, FinishReason, LlmError, TokenLogprob};

/// How to reach a server.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    /// Base address, such as `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name at the server.
    pub model: String,
    /// The environment variable that holds the key; `None` sends none.
    pub key_env: Option<String>,
    /// Tries per request, the first included.
    pub max_attempts: u32,
    /// Pause before the second try; doubled each time.
    pub first_pause: Duration,
    /// Longest pause, whatever the server asks for.
    pub max_pause: Duration,
    /// Time for one try.
    pub timeout: Duration,
    /// Largest reply in bytes.
    pub max_reply_bytes: u64,
    /// Requests in flight at once.
    pub num_parallel: usize,
}

impl Default for HttpOptions {
    fn default() -> HttpOptions {
        HttpOptions {
            url: String::new(),
            model: String::new(),
            key_env: None,
            max_attempts: 4,
            first_pause: Duration::from_millis(500),
            max_pause: Duration::from_secs(30),
            timeout: Duration::from_secs(600),
            max_reply_bytes: 16 << 20,
            num_parallel: 4,
        }
    }
}

/// A model behind an OpenAI-compatible server.
pub struct HttpChatModel {
    options: HttpOptions,
    address: String,
    authorization: Option<String>,
    agent: ureq::Agent,
}

enum Attempt {
    Done(ChatReply),
    Retry { error: LlmError, after: Option<Duration> },
    Failed(LlmError),
}

impl HttpChatModel {
    /// Prepares the client; sends nothing yet.
    ///
    /// # Errors
    /// [`LlmError::BadEndpoint`] if the address is not http or https; [`LlmError::MissingKey`].
    pub fn new(options: HttpOptions) -> Result<HttpChatModel, LlmError> {
        if !options.url.starts_with("http://") && !options.url.starts_with("https://") {
            return Err(LlmError::BadEndpoint {
                url: options.url,
                problem: "it does not begin with http:// or https://",
            });
        }
        let authorization = match &options.key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(format!("Bearer {}", key.trim())),
                _ => return Err(LlmError::MissingKey { name: name.clone() }),
            },
        };
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(5).min(options.timeout)))
            .timeout_global(Some(options.timeout))
            .build();
        Ok(HttpChatModel {
            address: format!("{}/chat/completions", options.url.trim_end_matches('/')),
            authorization,
            agent: config.into(),
            options,
        })
    }

    fn ask(&self, request: &ChatRequest) -> Result<ChatReply, LlmError> {
        let body = self.body_of(request).to_string();
        let mut pause = self.options.first_pause;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.attempt(&body, attempts) {
                Attempt::Done(reply) => return Ok(reply),
                Attempt::Failed(error) => return Err(error),
                Attempt::Retry { error, after } => {
                    if attempts >= self.options.max_attempts {
                        return Err(error);
                    }
                    std::thread::sleep(after.unwrap_or(pause).min(self.options.max_pause));
                    pause *= 2;
                }
            }
        }
    }

    fn attempt(&self, body: &str, attempts: u32) -> Attempt {
        let transport = |error: ureq::Error| Attempt::Retry {
            error: LlmError::Transport { url: self.address.clone(), detail: error.to_string(), attempts },
            after: None,
        };
        let mut post = self.agent.post(&self.address).header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            post = post.header("authorization", authorization);
        }
        let mut response = match post.send(body) {
            Ok(response) => response,
            Err(error) => return transport(error),
        };
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
        let after = header("retry-after-ms").map(|ms| ms / 1e3).or_else(|| header("retry-after"));
        let after = after.filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        // An absurd wish is cut by `max_pause` later; here it only must not overflow.
        let after = after.map(|seconds| Duration::from_secs_f64(seconds.min(86_400.0)));
        let bytes = match response.body_mut().with_config().limit(self.options.max_reply_bytes).read_to_vec() {
            Ok(bytes) => bytes,
            Err(ureq::Error::BodyExceedsLimit(limit_bytes)) => {
                return Attempt::Failed(LlmError::ReplyTooLarge { url: self.address.clone(), limit_bytes });
            }
            Err(error) => return transport(error),
        };
        if status != 200 {
            const MAX_SHOWN: usize = 300;
            let text = String::from_utf8_lossy(&bytes);
            let error = LlmError::Status {
                url: self.address.clone(),
                status,
                body: text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect(),
                attempts,
            };
            return match status {
                408 | 409 | 429 | 500..=599 => Attempt::Retry { error, after },
                _ => Attempt::Failed(error),
            };
        }
        match parse_reply(&bytes) {
            Ok(reply) => Attempt::Done(reply),
            Err(detail) => Attempt::Failed(LlmError::BadReply { url: self.address.clone(), detail }),
        }
    }

    fn body_of(&self, request: &ChatRequest) -> Value {
        let sampling = &request.sampling;
        let mut body = json!({
            "model": self.options.model,
            "messages": request.messages,
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "n": sampling.n,
        });
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
}

impl ChatModel for HttpChatModel {
    fn name(&self) -> String {
        format!("{}@{}", self.options.model, self.options.url)
    }

    /// Once the server itself has failed, the requests that have not been sent fail with the same error.
    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let next = AtomicUsize::new(0);
        let replies: Mutex<Vec<Option<Result<ChatReply, LlmError>>>> = Mutex::new(vec![None; requests.len()]);
        let server_error: Mutex<Option<LlmError>> = Mutex::new(None);
        let lock = "invariant: no panic holds the lock";
        let work = || {
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && let Some(request) = requests.get(index)
            {
                let failed = server_error.lock().expect(lock).clone();
                let reply = failed.map_or_else(|| self.ask(request), Err);
                if let Err(error) = &reply
                    && !error.is_of_request()
                {
                    server_error.lock().expect(lock).get_or_insert_with(|| error.clone());
                }
                replies.lock().expect(lock)[index] = Some(reply);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.num_parallel.clamp(1, requests.len().max(1)) {
                scope.spawn(work);
            }
        });
        let replies = replies.into_inner().expect(lock);
        replies.into_iter().map(|reply| reply.expect("invariant: every index was taken once")).collect()
    }
}

fn parse_reply(bytes: &[u8]) -> Result<ChatReply, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    let choices = value["choices"].as_array().ok_or("no list 'choices'")?;
    if choices.is_empty() {
        return Err("'choices' is empty".into());
    }
    let choices = choices
        .iter()
        .map(|choice| {
            let message = &choice["message"];
            let text = message["content"].as_str().ok_or_else(|| match message["refusal"].as_str() {
                Some(_) => "the model refused to answer".to_string(),
                None => "no text 'message.content'".to_string(),
            })?;
            let finish_reason = match choice["finish_reason"].as_str() {
                Some("length") => FinishReason::Length,
                Some("content_filter") => FinishReason::ContentFilter,
                _ => FinishReason::Stop,
            };
            let logprobs =
                choice["logprobs"]["content"].as_array().map(|tokens| tokens.iter().filter_map(token).collect());
            Ok(Choice { text: text.to_string(), finish_reason, logprobs })
        })
        .collect::<Result<Vec<_>, String>>()?;
    Ok(ChatReply { choices, usage: serde_json::from_value(value["usage"].clone()).ok() })
}

fn token(value: &Value) -> Option<TokenLogprob> {
    let pair = |value: &Value| Some((value["token"].as_str()?.to_string(), value["logprob"].as_f64()?));
    let (token, logprob) = pair(value)?;
    let top = value["top_logprobs"].as_array().map(|top| top.iter().filter_map(pair).collect());
    Some(TokenLogprob { token, logprob, top: top.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::llm::Sampling;
    use crate::message::Message;

    const GOOD: &str = r#"{"choices": [{"message": {"role": "assistant", "content": "four"}, "finish_reason": "stop",
        "logprobs": {"content": [{"token": "four", "logprob": -0.5, "top_logprobs": [{"token": "four", "logprob": -0.5}]}]}}]}"#;

    /// Answers the connections one after the other with the given heads and bodies, then hands back the requests it saw.
    fn serve(script: Vec<(&'static str, Vec<u8>)>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/v1", listener.local_addr().expect("address"));
        let server = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for (head, body) in script {
                let (mut stream, _) = listener.accept().expect("accept");
                let mut reader = BufReader::new(stream.try_clone().expect("clone"));
                let (mut text, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).expect("line");
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().expect("length");
                    }
                    text.push_str(&line);
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut content = vec![0; length];
                reader.read_exact(&mut content).expect("body");
                text.push_str(&String::from_utf8_lossy(&content));
                seen.push(text);
                let _ =
                    write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(&body);
            }
            seen
        });
        (url, server)
    }

    fn ask(script: Vec<(&'static str, Vec<u8>)>) -> (Result<ChatReply, LlmError>, Vec<String>, Duration) {
        let (url, server) = serve(script);
        let model = HttpChatModel::new(HttpOptions {
            url,
            model: "judge".into(),
            max_attempts: 3,
            first_pause: Duration::from_millis(1),
            max_pause: Duration::from_millis(300),
            timeout: Duration::from_secs(5),
            max_reply_bytes: 10_000,
            ..HttpOptions::default()
        })
        .expect("client");
        let request = ChatRequest { messages: vec![Message::user("2 + 2?")], sampling: Sampling::default() };
        let started = Instant::now();
        let reply = model.chat_one(&request);
        (reply, server.join().expect("server"), started.elapsed())
    }

    #[test]
    fn busy_servers_are_asked_again() {
        let script = vec![("429 Too Many", b"{}".to_vec()), ("500 Oops", b"<html>".to_vec()), ("200 OK", GOOD.into())];
        let (reply, seen, _) = ask(script);
        let reply = reply.expect("reply");
        assert_eq!((reply.text(), seen.len()), ("four", 3));
        assert_eq!(reply.choices[0].logprobs.as_ref().expect("logprobs")[0].top[0].1, -0.5);
        assert!(seen[0].contains("/v1/chat/completions") && seen[0].contains("\"model\":\"judge\""), "{}", seen[0]);
    }

    #[test]
    fn the_server_names_the_pause_within_a_limit() {
        let (reply, _, elapsed) = ask(vec![("429 X\r\nretry-after-ms: 60", vec![]), ("200 OK", GOOD.into())]);
        assert!(reply.is_ok() && elapsed >= Duration::from_millis(60), "{elapsed:?}");
        let (reply, _, elapsed) = ask(vec![("503 X\r\nretry-after: 1000000000", vec![]), ("200 OK", GOOD.into())]);
        assert!(reply.is_ok() && elapsed < Duration::from_secs(4), "{elapsed:?}");
    }

    #[test]
    fn refused_requests_are_not_repeated() {
        for status in ["400 Bad", "401 No", "403 No", "404 No", "422 No", "302 Found\r\nlocation: file:///etc/passwd"] {
            let (reply, seen, _) = ask(vec![(status, b"{\"error\": \"no\"}".to_vec())]);
            assert!(matches!(reply, Err(LlmError::Status { attempts: 1, .. })), "{status}: {reply:?}");
            assert_eq!(seen.len(), 1);
        }
    }

    #[test]
    fn unusable_bodies_are_typed_errors() {
        let deep = "[".repeat(100_000).into_bytes()[..9000].to_vec();
        for body in [
            b"<html>".to_vec(),
            vec![],
            b"{\"choices\": [{\"mess".to_vec(),
            b"{\"choices\": []}".to_vec(),
            b"{\"choices\": [{\"message\": {\"content\": null}}]}".to_vec(),
            deep,
        ] {
            let (reply, _, _) = ask(vec![("200 OK", body)]);
            assert!(matches!(reply, Err(LlmError::BadReply { .. })), "{reply:?}");
        }
        let (reply, _, _) = ask(vec![("200 OK", vec![b' '; 20_000])]);
        assert!(matches!(reply, Err(LlmError::ReplyTooLarge { .. })), "{reply:?}");
        let refused = HttpChatModel::new(HttpOptions {
            url: "http://127.0.0.1:1/v1".into(),
            max_attempts: 2,
            first_pause: Duration::ZERO,
            ..HttpOptions::default()
        })
        .expect("client");
        let request = ChatRequest { messages: vec![], sampling: Sampling::default() };
        let replies = refused.chat(&[request.clone(), request]);
        assert!(
            replies.iter().all(|reply| matches!(reply, Err(LlmError::Transport { attempts: 2, .. }))),
            "{replies:?}"
        );
        assert!(matches!(
            HttpChatModel::new(HttpOptions { url: "file:///x".into(), ..HttpOptions::default() }),
            Err(LlmError::BadEndpoint { .. })
        ));
        let keyless = HttpOptions {
            url: "http://x".into(),
            key_env: Some("FINDAP_NO_SUCH_KEY".into()),
            ..HttpOptions::default()
        };
        assert!(matches!(HttpChatModel::new(keyless), Err(LlmError::MissingKey { .. })));
    }
}
