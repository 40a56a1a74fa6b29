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
            let _ = write!(stream, "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&body);
        }
        seen
    });
    (url, server)
}

fn model(options: HttpOptions) -> HttpChatModel {
    HttpChatModel::new(HttpOptions {
        model: "judge".into(),
        max_attempts: 3,
        first_pause: Duration::from_millis(1),
        max_pause: Duration::from_millis(300),
        timeout: Duration::from_secs(5),
        max_reply_bytes: 10_000,
        ..options
    })
    .expect("client")
}

fn request() -> ChatRequest {
    ChatRequest { messages: vec![Message::user("2 + 2?")], sampling: Sampling::default() }
}

fn ask(script: Vec<(&'static str, Vec<u8>)>) -> (Result<ChatReply, LlmError>, Vec<String>, Duration) {
    let (url, server) = serve(script);
    let model = model(HttpOptions { url, ..HttpOptions::default() });
    let started = Instant::now();
    let reply = model.chat_one(&request());
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
fn a_server_that_wants_no_pause_does_not_use_up_the_tries_at_once() {
    let busy = || ("429 X\r\nretry-after: 0", vec![]);
    let (url, server) = serve(vec![busy(), busy(), ("200 OK", GOOD.into())]);
    let model =
        HttpChatModel::new(HttpOptions { url, first_pause: Duration::from_millis(40), ..HttpOptions::default() });
    let started = Instant::now();
    model.expect("client").chat_one(&request()).expect("reply");
    assert!(started.elapsed() >= Duration::from_millis(120), "40 ms, then 80: {:?}", started.elapsed());
    server.join().expect("server");
}

#[test]
fn the_pause_is_read_in_all_its_forms() {
    let pause = |name: &'static str, value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        wished_pause(&headers).map(|pause| pause.as_secs_f64())
    };
    assert_eq!(pause("retry-after-ms", "1500"), Some(1.5));
    assert_eq!(pause("retry-after", " 2 "), Some(2.0));
    assert_eq!(pause("retry-after", "1e300"), Some(86_400.0));
    assert!(pause("retry-after", "Fri, 31 Dec 9999 23:59:59 GMT").is_some_and(|seconds| seconds > 1e4));
    for value in ["-1", "nan", "soon", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        assert_eq!(pause("retry-after", value), None, "{value}");
    }
}

/// What gateways send of the servers behind them.
#[test]
fn an_error_in_the_body_counts_as_the_status_it_names() {
    let error =
        |code: &str| ("200 OK", format!("{{\"error\": {{\"message\": \"behind\", \"code\": {code}}}}}").into_bytes());
    for code in ["502", "429", "\"server_error\"", "null"] {
        let (reply, seen, _) = ask(vec![error(code), error(code), ("200 OK", GOOD.into())]);
        assert_eq!((reply.expect(code).text(), seen.len()), ("four", 3));
        let (reply, seen, _) = ask(vec![error(code), error(code), error(code)]);
        assert!(reply.is_err_and(|error| error.to_string().contains("behind")), "{code}");
        assert_eq!(seen.len(), 3, "{code}");
    }
    for (code, wanted) in [("400", 400), ("401", 401), ("\"context_length_exceeded\"", 400)] {
        let (reply, seen, _) = ask(vec![error(code)]);
        assert!(matches!(reply, Err(LlmError::Status { status, .. }) if status == wanted), "{code}: {reply:?}");
        assert_eq!(seen.len(), 1);
    }
}

#[test]
fn a_refused_parameter_is_changed_once_and_for_all_requests() {
    let refused = |message: &str| ("400 Bad", format!("{{\"error\": {{\"message\": \"{message}\"}}}}").into_bytes());
    let good = || ("200 OK", GOOD.as_bytes().to_vec());
    let script = vec![
        refused("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refused("Unsupported value: 'temperature' does not support 0 with this model."),
        good(),
        good(),
    ];
    let (url, server) = serve(script);
    let model = model(HttpOptions { url, max_attempts: 1, ..HttpOptions::default() });
    for _ in 0..2 {
        model.chat_one(&request()).expect("a change is no failed try");
    }
    let notes = model.take_notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].contains("max_completion_tokens") && notes[1].contains("temperature"), "{notes:?}");
    assert!(model.take_notes().is_empty(), "said once");
    let seen = server.join().expect("server");
    let has = |index: usize, field: &str| seen[index].contains(&format!("\"{field}\":"));
    let fields = |index: usize| ["max_tokens", "max_completion_tokens", "temperature"].map(|field| has(index, field));
    assert_eq!(fields(0), [true, false, true]);
    assert_eq!(fields(1), [false, true, true]);
    assert_eq!(fields(2), [false, true, false]);
    assert_eq!(fields(3), [false, true, false]);
}

/// A refusal that repeats the request, or names the temperature beside its true reason.
#[test]
fn a_parameter_whose_loss_does_not_help_is_kept() {
    let bad = |body: &str| ("400 Bad", body.as_bytes().to_vec());
    let good = || ("200 OK", GOOD.as_bytes().to_vec());
    let echo = r#"{"error": {"message": "Unknown role"}, "request": {"temperature": 0.0, "max_tokens": 256}}"#;
    let beside = r#"{"error": {"message": "The role of turn 1 and the temperature are not supported"}}"#;
    let (url, server) = serve(vec![bad(echo), bad(beside), bad(beside), good()]);
    let model = model(HttpOptions { url, max_attempts: 1, ..HttpOptions::default() });
    for _ in 0..2 {
        assert!(matches!(model.chat_one(&request()), Err(LlmError::Status { status: 400, .. })));
    }
    model.chat_one(&request()).expect("a reply");
    assert!(model.take_notes().is_empty());
    let sent: Vec<bool> =
        server.join().expect("server").iter().map(|request| request.contains("\"temperature\":")).collect();
    assert_eq!(sent, [true, true, false, true]);
}

#[test]
fn a_body_that_is_no_json_is_asked_for_again_and_then_shown() {
    let page = || ("200 OK", b"<html>\n<h1>Starting".to_vec());
    let cut = || ("200 OK", GOOD.as_bytes()[..40].to_vec());
    let (reply, seen, _) = ask(vec![page(), cut(), ("200 OK", GOOD.into())]);
    assert_eq!((reply.expect("reply").text(), seen.len()), ("four", 3));
    let (reply, seen, _) = ask(vec![page(), cut(), page()]);
    let error = reply.expect_err("a page").to_string();
    assert!(error.contains("it begins with \"<html>\\n<h1>Starting\" (after 3 attempts)"), "{error}");
    assert_eq!(seen.len(), 3);
}

#[test]
fn an_address_without_v1_is_named_where_nothing_answers() {
    for (end, is_named) in [("", true), ("/v1", false)] {
        let (url, server) = serve(vec![("404 Not Found", b"{\"detail\": \"Not Found\"}".to_vec())]);
        let url = url.replace("/v1", end);
        let error = model(HttpOptions { url, ..HttpOptions::default() }).chat_one(&request()).expect_err("404");
        assert_eq!(error.to_string().contains("ends with /v1"), is_named, "{error}");
        server.join().expect("server");
    }
}

#[test]
fn a_parameter_that_is_fixed_is_not_changed() {
    let refused = ("400 Bad", b"{\"error\": {\"message\": \"'max_tokens' is not supported\"}}".to_vec());
    let (url, server) = serve(vec![refused]);
    let model = model(HttpOptions { url, max_tokens_field: Some(MaxTokensField::MaxTokens), ..HttpOptions::default() });
    assert!(matches!(model.chat_one(&request()), Err(LlmError::Status { status: 400, .. })));
    assert!(model.take_notes().is_empty());
    server.join().expect("server");
}

#[test]
fn no_secret_is_shown() {
    // A variable that every process has: setting one in a test would race with the other tests.
    let key = std::env::var("PATH").expect("PATH");
    let echo = format!("{{\"error\": \"no such key: {}\"}}", key.trim());
    let (url, server) = serve(vec![("401 No", echo.into_bytes())]);
    let url = format!("{}?api=s3cret", url.replace("http://", "http://me:s3cret@"));
    let model = model(HttpOptions { url, key_env: Some("PATH".into()), ..HttpOptions::default() });
    let error = model.chat_one(&request()).expect_err("refused");
    let seen = server.join().expect("server");
    assert!(seen[0].contains(key.trim()) && seen[0].contains("/v1/chat/completions?api=s3cret"), "{}", seen[0]);
    let refused = HttpOptions {
        url: "http://me:s3cret@127.0.0.1:1/v1?k=s3cret".into(),
        max_attempts: 1,
        ..HttpOptions::default()
    };
    let unreachable = HttpChatModel::new(refused).expect("client").chat_one(&request()).expect_err("nobody listens");
    for shown in [error.to_string(), format!("{error:?}"), unreachable.to_string(), model.name()] {
        assert!(!shown.contains(key.trim()) && !shown.contains("s3cret"), "{shown}");
    }
    assert!(error.to_string().contains("no such key: (key)"), "{error}");
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
    for body in [b"{\"choices\": []}".to_vec(), b"{\"choices\": [{\"message\": {\"content\": null}}]}".to_vec()] {
        let (reply, _, _) = ask(vec![("200 OK", body)]);
        assert!(matches!(reply, Err(LlmError::BadReply { .. })), "{reply:?}");
    }
    for body in [vec![], deep] {
        let (reply, _, _) = ask(vec![("200 OK", body); 3]);
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
    assert!(replies.iter().all(|reply| matches!(reply, Err(LlmError::Transport { attempts: 2, .. }))), "{replies:?}");
    assert!(matches!(
        HttpChatModel::new(HttpOptions { url: "file:///x".into(), ..HttpOptions::default() }),
        Err(LlmError::BadEndpoint { .. })
    ));
    let keyless =
        HttpOptions { url: "http://x".into(), key_env: Some("FINDAP_NO_SUCH_KEY".into()), ..HttpOptions::default() };
    assert!(matches!(HttpChatModel::new(keyless), Err(LlmError::MissingKey { .. })));
}
