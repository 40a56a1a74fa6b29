//! `findap generate`: one reply to one prompt.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, Result};
use findap_data::Message;
use findap_data::llm::{ChatModel, ChatRequest};

use super::device::DeviceArguments;
use super::sampling;

/// Answers one prompt, from --prompt or from stdin
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    model: PathBuf,
    /// What to ask; without it the prompt is read from stdin
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Standing instructions before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: sampling::SamplingArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// Print one JSON object instead of the reply alone
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let prompt = match &arguments.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("cannot read the prompt from stdin")?;
            text
        }
    };
    let model = arguments.device.load(&arguments.model)?;
    let mut messages: Vec<Message> = arguments.system.iter().map(Message::system).collect();
    messages.push(Message::user(prompt));
    let request = ChatRequest { messages, sampling: arguments.sampling.to_sampling() };
    let reply = model.chat_one(&request)?;
    let choice = reply.choices.first().context("the model gave no reply")?;
    if arguments.json {
        let value = serde_json::json!({"text": choice.text, "finish_reason": choice.finish_reason});
        println!("{value}");
    } else {
        println!("{}", choice.text);
    }
    Ok(())
}
