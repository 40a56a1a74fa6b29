//! Text in, text out: generate, chat, serve, eval and data through the binary.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::tool::{findap, golden, run};

fn tiny() -> String {
    golden("models/tiny").display().to_string()
}

#[test]
fn generate_is_greedy_and_the_same_each_time() {
    let ask =
        || run(["generate", &tiny(), "--prompt", "What is a bond?", "--max-tokens", "12", "--json"]).success().stdout;
    let first = ask();
    let reply: Value = serde_json::from_str(&first).expect("one JSON object");
    assert!(reply.to_string().len() > 2 && first == ask());
    run(["generate", "no/such/model", "--prompt", "a"]).refusal(&["no/such/model"]);
    assert_eq!(run(["generate", &tiny(), "--temperature", "warm"]).code, Some(2));
}

#[test]
fn a_device_is_taken_or_refused_by_name() {
    let ask = |device: &str| {
        run(["generate", &tiny(), "--prompt", "What is a bond?", "--max-tokens", "6", "--device", device])
    };
    assert!(!ask("cpu").success().stdout.is_empty());
    assert_eq!(ask("gpu").code, Some(2));
    let refused = ask("cuda:99").refusal(&[]).stderr;
    let says = ["there is no CUDA device 99", "run on a machine with an NVIDIA GPU"];
    assert!(says.iter().any(|words| refused.contains(words)), "{refused}");
}

#[test]
fn chat_answers_each_line() {
    let mut child = findap()
        .args(["chat", &tiny(), "--max-tokens", "4"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("stdin").write_all(b"hello\n/new\nhello\n/quit\nnever\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let half = text.len() / 2;
    assert_eq!(text[..half], text[half..], "a new conversation is answered as the first was");
}

/// A program whose standard streams are a terminal, as a person has it.
struct AtTerminal {
    child: std::process::Child,
    keyboard: fs::File,
    screen: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl AtTerminal {
    fn start(arguments: &[&str]) -> Self {
        let (mut ours, mut theirs) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: the two numbers are written to; no name, no settings and no size are asked for.
        let opened = unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
        assert_eq!(opened, 0, "a pseudo-terminal");
        // SAFETY: both descriptors were just opened and belong to nobody else.
        let (keyboard, terminal) = unsafe { (fs::File::from_raw_fd(ours), fs::File::from_raw_fd(theirs)) };
        let stream = || Stdio::from(terminal.try_clone().expect("a copy of the terminal"));
        let mut command = findap();
        command.args(arguments).env("TERM", "xterm").stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: both calls may be made between fork and exec; the terminal is the program's standard input.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("the binary starts");
        let mut reader = keyboard.try_clone().expect("a copy of the terminal");
        let (sender, screen) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 1024];
            while let Ok(count) = reader.read(&mut bytes) {
                if count == 0 || sender.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { child, keyboard, screen, seen: String::new() }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until the screen shows a text, and returns what was shown up to it since the last call.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let bytes = self.screen.recv_timeout(Duration::from_secs(60));
            let bytes = bytes.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn at_a_terminal_ctrl_c_stops_a_reply_or_clears_a_line_and_ctrl_d_leaves() {
    let mut chat = AtTerminal::start(&["chat", &tiny(), "--max-tokens", "100000", "--temperature", "5"]);
    chat.wait_for("> ");
    chat.press("/help\r");
    chat.wait_for("/system TEXT");
    chat.wait_for("> ");
    chat.press("not said\x03");
    chat.wait_for("> ");
    chat.press("/nonsense\r");
    chat.wait_for("there is no command /nonsense");
    // The arrow up brings back the line before.
    chat.press("\x1b[A\r");
    chat.wait_for("there is no command /nonsense");
    chat.wait_for("> ");
    chat.press("hello\r");
    chat.wait_for("hello");
    // The editor gives the terminal back, and with it the meaning of Ctrl-C.
    chat.wait_for("\x1b[?2004l");
    chat.press("\x03");
    let shown = chat.wait_for("\x1b[K> ");
    assert!(shown.contains("(stopped)") || shown.contains("ends here"), "{shown}");
    chat.press("\x04");
    assert!(chat.child.wait().expect("it ends").success());
}

#[test]
fn a_conversation_beyond_the_context_says_what_is_dropped() {
    let mut child = findap()
        .args(["chat", &tiny(), "--max-tokens", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let long = "bond ".repeat(300);
    let lines = format!("{long}\n").repeat(8);
    child.stdin.take().expect("stdin").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !told.contains("error"), "{told}");
    assert!(told.contains("tokens of the model: its 2 oldest turns are dropped"), "{told}");
    assert!(told.contains("because of --max-tokens"), "{told}");
}

/// A server on a free port; it is killed when dropped.
struct Serving {
    child: std::process::Child,
    address: String,
}

impl Serving {
    fn start() -> Self {
        let mut child = findap()
            .args(["serve", &tiny(), "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("it says where it is");
        let address = line.trim().trim_start_matches("http://").trim_end_matches("/v1").to_owned();
        Self { child, address }
    }

    /// Status and body of one request.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("the server answers");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("the request is sent");
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("the reply comes");
        let status = reply.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        (status, reply.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn the_server_speaks_the_chat_protocol_and_refuses_the_rest() {
    let server = Serving::start();
    let (status, models) = server.ask("GET", "/v1/models", "");
    assert!(status == 200 && models.contains("\"tiny\""), "{models}");
    let request = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "logprobs": true});
    let (status, reply) = server.ask("POST", "/v1/chat/completions", &request.to_string());
    let reply: Value = serde_json::from_str(&reply).unwrap_or_else(|_| panic!("{reply}"));
    assert_eq!((status, &reply["choices"][0]["finish_reason"]), (200, &json!("length")));
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    let logprobs = reply["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert!(logprobs.len() == 4 && logprobs.iter().all(|token| token["logprob"].as_f64().is_some_and(|p| p <= 0.0)));
    let drawn = |seed: Option<u64>| {
        let message = json!({"role": "user", "content": "hello"});
        let request = json!({"messages": [message], "max_tokens": 24, "temperature": 2.0, "seed": seed});
        let (_, reply) = server.ask("POST", "/v1/chat/completions", &request.to_string());
        serde_json::from_str::<Value>(&reply).expect("JSON")["choices"].clone()
    };
    assert_ne!(drawn(None), drawn(None), "without a seed, each request has its own");
    assert_eq!(drawn(Some(5)), drawn(Some(5)));
    let streamed = json!({"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": true});
    let (status, events) = server.ask("POST", "/v1/chat/completions", &streamed.to_string());
    assert!(status == 200 && events.contains("chat.completion.chunk") && events.contains("[DONE]"), "{events}");
    for (method, path, body, want) in [
        ("POST", "/v1/chat/completions", "{", 400),
        ("POST", "/v1/chat/completions", "{\"messages\": []}", 400),
        ("POST", "/v1/chat/completions", "{\"messages\": [{\"role\": \"oracle\", \"content\": \"x\"}]}", 400),
        (
            "POST",
            "/v1/chat/completions",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"stop\": \"\"}",
            400,
        ),
        ("GET", "/v1/chat/completions", "", 405),
        ("GET", "/etc/passwd", "", 404),
    ] {
        let (status, body) = server.ask(method, path, body);
        assert!(status == want && body.contains("error"), "{method} {path}: {status} {body}");
    }
}

#[test]
fn a_world_is_written_asked_and_shown() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let world = folder.path().join("world");
    let size = |key: &str| format!("{key}=24");
    let mut synth = findap();
    synth.args(["data", "synth"]).arg(&world).args(["--tokenizer", "600"]);
    for key in
        ["entities_per_kind", "general_texts", "finance_texts", "general_chats", "finance_chats", "finance_books"]
    {
        synth.args(["--set", &size(key)]);
    }
    crate::tool::Said::from(synth.output().expect("the binary starts")).success();
    assert!(world.join("tokenizer/tokenizer.json").is_file() && world.join("eval/finance_concept.jsonl").is_file());
    run(["data", "synth", "x", "--set", "finance_textz=3"]).refusal(&["finance_textz", "finance_texts"]);

    let results = folder.path().join("results");
    let data = format!("world={}", world.display());
    let output = results.display().to_string();
    let tasks = "finance_concept,finance_sentiment";
    let said = run(["eval", &tiny(), "--tasks", tasks, "--data", &data, "--limit", "3", "--output", &output]).success();
    assert!(said.stdout.contains("finance_sentiment"), "{}", said.stdout);
    run(["compare", &output, &output]).success();
    let required = run(["compare", &output, &output, "--require", "finance >= -100"]).success();
    assert!(required.stdout.contains("supported"), "{}", required.stdout);
    let open = run(["compare", &output, &output, "--require", "all >= 0", "--json"]);
    assert_eq!(open.code, Some(1), "{}", open.stderr);
    assert!(open.stdout.contains("not shown"), "three rows show little: {}", open.stdout);
    run(["compare", &output, &output, "--require", "general >= 0"]).refusal(&["general >= 0", "finance_sentiment"]);
    run(["eval", &tiny(), "--tasks", "finance_sentimnt", "--output", &output]).refusal(&["finance_sentimnt"]);

    let recipe = folder.path().join("recipe.toml");
    let text = format!(
        "schema = 1\n[run]\nname = \"w\"\nfolder = {:?}\n[model]\nbase = {:?}\n[world]\nentities_per_kind = 8\nfinance_texts = 30\n\
         finance_chats = 10\n[[data]]\nname = \"text\"\npath = \"world:finance_text.jsonl\"\nkind = \"text\"\ndomain = \"finance\"\n\
         [[data]]\nname = \"chat\"\npath = \"world:finance_chat.jsonl\"\nkind = \"chat\"\ndomain = \"finance\"\n\
         [[stage]]\nname = \"joint\"\nkind = \"train\"\ntext = [\"text\"]\nchat = [\"chat\"]\nepochs = 1.0\nbatch_tokens = 512\n\
         context_tokens = 256\nlearning_rate = 1e-3\n",
        folder.path().join("run"),
        golden("models/tiny"),
    );
    fs::write(&recipe, text).expect("the recipe is written");
    let recipe = recipe.display().to_string();
    let shown = run(["data", "inspect", &recipe, "--rows", "3"]).success().stdout;
    assert!(
        shown.contains("text row") && shown.contains("<|begin_of_text|>\u{27e6}") && shown.contains("with loss"),
        "{shown}"
    );
    let stats: Value = serde_json::from_str(&run(["data", "stats", &recipe, "--json"]).success().stdout).expect("JSON");
    assert_eq!((&stats["joint"]["sets"][0]["rows"], &stats["joint"]["sets"][1]["rows"]), (&json!(10), &json!(10)));
    let texts = &stats["joint"]["rows"]["sources"][0];
    assert_eq!((&texts["source"], &texts["used"]["rows"]), (&json!("text"), &json!(10)));
    let count = |part: &str| texts[part]["rows"].as_u64().expect("a number");
    assert_eq!(count("downsampled"), count("pieces") - 10);
    for command in [&["data", "pack", &recipe][..], &["data", "stats", &recipe], &["plan", &recipe]] {
        let said = run(command).success().stdout;
        assert!(said.contains("joint: rows of its sources") && said.contains("left out by downsampling"), "{said}");
    }
    let plan: Value = serde_json::from_str(&run(["plan", &recipe, "--json"]).success().stdout).expect("JSON");
    assert_eq!(plan["plan"][0]["sources"], stats["joint"]["rows"]);
}
