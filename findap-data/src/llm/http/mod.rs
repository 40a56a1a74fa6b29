//! A client of any server that speaks the OpenAI chat protocol.
//!
//! Connection errors, timeouts and the statuses 408, 409, 429 and 5xx are tried again with growing pauses, longer where the server
//! asks for it; other statuses are final. An error in the body of a reply with status 200 counts as the status that it names, and
//! a body that is no JSON as a fault of the server.
//! Redirects are not followed, so the key goes to no other host. Replies have a size limit. Neither the key nor what the address
//! holds of secrets appears in an error.

mod address;
mod dialect;
mod reply;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use ureq::http::HeaderMap;

use self::address::Address;
use self::dialect::Dialect;
pub use self::dialect::MaxTokensField;
use self::reply::{NoReply, parse_reply, refusal};
use super::{ChatModel, ChatReply, ChatRequest, LlmError, one_line};

/// How to reach a server.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpOptions {
    /// Base address, such as `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name at the server.
    pub model: String,
    /// The environment variable that holds the key; `None` sends none.
    pub key_env: Option<String>,
    /// The parameter that limits the tokens of an answer. `None` sends `max_tokens`, and the other once the server refuses that.
    pub max_tokens_field: Option<MaxTokensField>,
    /// Whether a request's temperature is sent. `None` sends it until the server refuses it.
    pub sends_temperature: Option<bool>,
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
            max_tokens_field: None,
            sends_temperature: None,
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
    address: Address,
    /// The key, where there is one.
    key: Option<String>,
    agent: ureq::Agent,
    /// Changes when the server refuses a parameter.
    dialect: Mutex<Dialect>,
    notes: Mutex<Vec<String>>,
}

enum Attempt {
    Done(ChatReply),
    Retry {
        error: LlmError,
        after: Option<Duration>,
    },
    /// The server refused the request as it was put, and may want it so.
    Reword(Dialect),
    Failed(LlmError),
}

/// No panic happens while one of the client's locks is held.
const LOCK: &str = "invariant: no panic holds the lock";

impl HttpChatModel {
    /// Prepares the client; sends nothing yet.
    ///
    /// # Errors
    /// [`LlmError::BadEndpoint`] if the address is not http or https; [`LlmError::MissingKey`].
    pub fn new(options: HttpOptions) -> Result<HttpChatModel, LlmError> {
        let address = Address::new(&options.url).map_err(|(url, problem)| LlmError::BadEndpoint { url, problem })?;
        let key = match &options.key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_owned()),
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
        let (dialect, notes) = (Mutex::new(Dialect::new(&options)), Mutex::default());
        Ok(HttpChatModel { address, key, agent: config.into(), dialect, notes, options })
    }

    fn ask(&self, request: &ChatRequest) -> Result<ChatReply, LlmError> {
        let mut pause = self.options.first_pause;
        let mut attempts = 0;
        let mut dialect = *self.dialect.lock().expect(LOCK);
        loop {
            match self.attempt(dialect, request, attempts + 1) {
                Attempt::Done(reply) => {
                    self.adopt(dialect);
                    return Ok(reply);
                }
                Attempt::Failed(error) => return Err(error),
                // Each parameter is changed once at most, so this ends.
                Attempt::Reword(other) => dialect = other,
                Attempt::Retry { error, after } => {
                    attempts += 1;
                    if attempts >= self.options.max_attempts {
                        return Err(error);
                    }
                    // A server that wants no pause must not use up all tries at once.
                    std::thread::sleep(after.unwrap_or(pause).max(pause).min(self.options.max_pause));
                    pause = pause.saturating_mul(2);
                }
            }
        }
    }

    fn attempt(&self, dialect: Dialect, request: &ChatRequest, attempts: u32) -> Attempt {
        let url = || self.address.shown.clone();
        let transport = |error: ureq::Error| Attempt::Retry {
            error: LlmError::Transport { url: url(), detail: self.without_secrets(&error.to_string()), attempts },
            after: None,
        };
        let mut post = self.agent.post(&self.address.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let mut response = match post.send(dialect.body_of(&self.options.model, request).to_string()) {
            Ok(response) => response,
            Err(error) => return transport(error),
        };
        let status = response.status().as_u16();
        let after = wished_pause(response.headers());
        let bytes = match response.body_mut().with_config().limit(self.options.max_reply_bytes).read_to_vec() {
            Ok(bytes) => bytes,
            Err(ureq::Error::BodyExceedsLimit(limit_bytes)) => {
                return Attempt::Failed(LlmError::ReplyTooLarge { url: url(), limit_bytes });
            }
            Err(error) => return transport(error),
        };
        let (status, message) = match (status, parse_reply(&bytes)) {
            (200, Ok(reply)) => return Attempt::Done(reply),
            (200, Err(NoReply::Unreadable(detail))) => {
                let detail = self.without_secrets(&detail);
                return Attempt::Failed(LlmError::BadReply { url: url(), detail });
            }
            (200, Err(NoReply::NotJson(detail))) => {
                let detail = format!("{} (after {attempts} attempts){}", self.without_secrets(&detail), self.hint());
                return Attempt::Retry { error: LlmError::BadReply { url: url(), detail }, after };
            }
            (200, Err(NoReply::ServerError { status: None, message })) => {
                let detail = format!("an error of the server: {}", one_line(&self.without_secrets(&message)));
                return Attempt::Retry { error: LlmError::BadReply { url: url(), detail }, after };
            }
            (200, Err(NoReply::ServerError { status: Some(named), message })) => (named, message),
            _ => (status, String::from_utf8_lossy(&bytes).into_owned()),
        };
        if let Some(other) = dialect.after_refusal(&self.options, status, &refusal(&bytes)) {
            return Attempt::Reword(other);
        }
        let hint = if matches!(status, 404 | 405) { self.hint() } else { "" };
        let body = format!("{}{hint}", one_line(&self.without_secrets(&message)));
        let error = LlmError::Status { url: url(), status, body, attempts };
        match status {
            408 | 409 | 429 | 500..=599 => Attempt::Retry { error, after },
            _ => Attempt::Failed(error),
        }
    }

    /// Keeps to what a request was answered with. What there is to say about it is said once, whichever thread found it out.
    fn adopt(&self, answered: Dialect) {
        let changes = self.dialect.lock().expect(LOCK).adopt(answered);
        let notes = changes.into_iter().map(|note| format!("{}: {note}", self.name()));
        self.notes.lock().expect(LOCK).extend(notes);
    }

    /// What to do where nothing answers that speaks the protocol.
    fn hint(&self) -> &'static str {
        if self.address.has_path { "" } else { "; most servers want an address that ends with /v1" }
    }

    /// A server may repeat the key that it refuses, and an error of the connection the whole address.
    fn without_secrets(&self, text: &str) -> String {
        let text = text.replace(&self.address.url, &self.address.shown);
        match &self.key {
            Some(key) => text.replace(key, "(key)"),
            None => text,
        }
    }
}

/// The pause that a server asks for: `retry-after-ms`, or `retry-after` in seconds or as a date.
fn wished_pause(headers: &HeaderMap) -> Option<Duration> {
    /// What is longer is cut by `max_pause` anyway; here it only must not overflow.
    const LONGEST_SECONDS: f64 = 86_400.0;
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let number = |name: &str| text(name)?.parse::<f64>().ok();
    let until = || {
        let date = DateTime::parse_from_rfc2822(text("retry-after")?).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(date.timestamp() as f64 - now.as_secs_f64())
    };
    let seconds = number("retry-after-ms").map(|ms| ms / 1e3).or_else(|| number("retry-after")).or_else(until)?;
    (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_SECONDS)))
}

impl ChatModel for HttpChatModel {
    fn name(&self) -> String {
        format!("{}@{}", self.options.model, self.address.shown_base)
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().expect(LOCK))
    }

    /// Once the server itself has failed, the requests that have not been sent fail with the same error.
    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let next = AtomicUsize::new(0);
        let replies: Mutex<Vec<Option<Result<ChatReply, LlmError>>>> = Mutex::new(vec![None; requests.len()]);
        let server_error: Mutex<Option<LlmError>> = Mutex::new(None);
        let work = || {
            while let index = next.fetch_add(1, Ordering::Relaxed)
                && let Some(request) = requests.get(index)
            {
                let failed = server_error.lock().expect(LOCK).clone();
                let reply = failed.map_or_else(|| self.ask(request), Err);
                if let Err(error) = &reply
                    && !error.is_of_request()
                {
                    server_error.lock().expect(LOCK).get_or_insert_with(|| error.clone());
                }
                replies.lock().expect(LOCK)[index] = Some(reply);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.options.num_parallel.clamp(1, requests.len().max(1)) {
                scope.spawn(work);
            }
        });
        let replies = replies.into_inner().expect(LOCK);
        replies.into_iter().map(|reply| reply.expect("invariant: every index was taken once")).collect()
    }
}
