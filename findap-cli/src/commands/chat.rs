//! `findap chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use findap_data::Message;
use findap_data::llm::{ChatModel, ChatRequest};

use super::device::DeviceArguments;
use super::sampling;

/// Talks with a model in the terminal
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    model: PathBuf,
    /// Standing instructions
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: sampling::SamplingArguments,
    #[command(flatten)]
    device: DeviceArguments,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let model = arguments.device.load(&arguments.model)?;
    let opening: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    let mut messages = opening.clone();
    let shows_prompt = std::io::stdin().is_terminal();
    if shows_prompt {
        eprintln!("/new starts over, /quit or Ctrl-D leaves.");
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if shows_prompt {
            eprint!("{} ", console::style(">").bold());
            std::io::stderr().flush().ok();
        }
        let Some(line) = lines.next() else { break };
        let line = line.context("cannot read from stdin")?;
        match line.trim() {
            "" => continue,
            "/quit" => break,
            "/new" => {
                messages.clone_from(&opening);
                continue;
            }
            _ => {}
        }
        messages.push(Message::user(line));
        let request = ChatRequest { messages: messages.clone(), sampling: arguments.sampling.to_sampling() };
        match model.chat_one(&request) {
            Ok(reply) => {
                let text = reply.text().to_owned();
                println!("{text}");
                messages.push(Message::assistant(text));
            }
            // A conversation that has grown too long is no reason to lose it.
            Err(error) => {
                messages.pop();
                eprintln!("error: {error}\n/new starts over");
            }
        }
    }
    Ok(())
}
