//! `findap chat`: a conversation in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use findap_data::Message;
use findap_data::llm::{ChatRequest, FinishReason};
use findap_model::TextModel;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::device::DeviceArguments;
use super::sampling;
use crate::signals;

const HELP: &str = "\
/reset         starts the conversation over
/system TEXT   sets the standing instructions; without TEXT it takes them away
/exit          leaves, as Ctrl-D does
Ctrl-C stops a reply that is being written, and clears a line that is being typed.";

/// Talks with a model in the terminal; /help lists what can be typed
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
    // A model without a chat template answers no question, so that there is no conversation to begin.
    model.encode_chat(&[Message::user("?")])?;
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut talk = Talk {
        model: &model,
        arguments,
        conversation: Conversation::new(arguments.system.as_deref()),
        interrupted: is_terminal.then(signals::interrupt_flag),
    };
    if is_terminal { talk.with_editor() } else { talk.with_lines() }
}

/// What a typed line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish<'a> {
    Nothing,
    Say(&'a str),
    Help,
    Reset,
    System(&'a str),
    Exit,
    Unknown(&'a str),
}

/// Reads a line. A command is a slash and letters alone, so that a path or a fraction is still something to say.
fn wish(line: &str) -> Wish<'_> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "" => Wish::Nothing,
        "/help" => Wish::Help,
        "/reset" | "/new" => Wish::Reset,
        "/system" => Wish::System(rest.trim()),
        "/exit" | "/quit" => Wish::Exit,
        _ if word.strip_prefix('/').is_some_and(|name| !name.is_empty() && name.chars().all(char::is_alphabetic)) => {
            Wish::Unknown(word)
        }
        _ => Wish::Say(line),
    }
}

/// What has been said.
struct Conversation {
    system: Option<Message>,
    turns: Vec<Message>,
}

impl Conversation {
    fn new(system: Option<&str>) -> Self {
        Self { system: system.map(Message::system), turns: Vec::new() }
    }

    fn messages(&self) -> Vec<Message> {
        self.system.iter().chain(&self.turns).cloned().collect()
    }

    /// Drops the oldest questions with their replies until at most `room` tokens are left, but never the question asked last.
    /// Returns how many turns were dropped.
    fn make_room(&mut self, room: usize, num_tokens: &dyn Fn(&[Message]) -> Result<usize>) -> Result<usize> {
        let before = self.turns.len();
        while self.turns.len() > 2 && num_tokens(&self.messages())? > room {
            self.turns.drain(..2);
        }
        Ok(before - self.turns.len())
    }
}

struct Talk<'a> {
    model: &'a TextModel,
    arguments: &'a Arguments,
    conversation: Conversation,
    /// Set by Ctrl-C; `None` where nobody sits at a terminal.
    interrupted: Option<&'static AtomicBool>,
}

impl Talk<'_> {
    /// Talks with someone at a terminal.
    fn with_editor(&mut self) -> Result<()> {
        eprintln!("/help lists what can be typed; Ctrl-D leaves.");
        let mut editor = DefaultEditor::new().context("cannot use the terminal")?;
        loop {
            // Before the line, not after it: while it is typed Ctrl-C is a key, and from its end on it is meant for the reply.
            if let Some(flag) = self.interrupted {
                flag.store(false, Ordering::Relaxed);
            }
            match editor.readline("> ") {
                Ok(line) => {
                    // A line that is not kept in the history is a loss too small to speak of.
                    editor.add_history_entry(line.as_str()).ok();
                    if !self.hear(&line) {
                        return Ok(());
                    }
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
    }

    /// Answers the lines of a file or a pipe.
    fn with_lines(&mut self) -> Result<()> {
        for line in std::io::stdin().lock().lines() {
            if !self.hear(&line.context("cannot read from stdin")?) {
                break;
            }
        }
        Ok(())
    }

    /// Does what a line asks for; `false` where it asks to leave.
    fn hear(&mut self, line: &str) -> bool {
        match wish(line) {
            Wish::Nothing => {}
            Wish::Help => eprintln!("{HELP}"),
            Wish::Reset => self.conversation.turns.clear(),
            Wish::System(text) => self.conversation.system = (!text.is_empty()).then(|| Message::system(text)),
            Wish::Exit => return false,
            Wish::Unknown(word) => eprintln!("there is no command {word}; /help lists those there are"),
            Wish::Say(text) => {
                self.conversation.turns.push(Message::user(text));
                // A question that cannot be answered is no reason to lose the conversation.
                if let Err(error) = self.reply() {
                    self.conversation.turns.pop();
                    eprintln!("error: {error:#}\n/reset starts over");
                }
            }
        }
        true
    }

    /// Writes the reply to the question asked last.
    fn reply(&mut self) -> Result<()> {
        let (model, sampling) = (self.model, self.arguments.sampling.to_sampling());
        let limit = model.max_tokens();
        let room = limit - sampling.max_tokens.min(limit / 4);
        let num_tokens = |messages: &[Message]| Ok(model.encode_chat(messages)?.len());
        let dropped = self.conversation.make_room(room, &num_tokens)?;
        if dropped > 0 {
            note(&format!(
                "the conversation is longer than the {limit} tokens of the model: its {dropped} oldest turns are dropped"
            ));
        }
        let messages = self.conversation.messages();
        let has_room = num_tokens(&messages)? + sampling.max_tokens <= limit;
        let request = ChatRequest { messages, sampling };
        let mut shown = String::new();
        let choice = model.reply_while(&request, &mut |text| {
            if self.interrupted.is_some() {
                show_more(&mut shown, text);
            }
            !self.is_interrupted()
        })?;
        match choice.text.strip_prefix(&shown) {
            Some(rest) => println!("{rest}"),
            // Some tokenizers write a text otherwise once they know its end.
            None => println!("\n{}", choice.text),
        }
        if self.interrupted.is_some_and(|flag| flag.swap(false, Ordering::Relaxed)) {
            note("stopped");
        } else if choice.finish_reason == FinishReason::Length {
            let why = if has_room { "--max-tokens".to_owned() } else { format!("the {limit} tokens of the model") };
            note(&format!("the reply ends here because of {why}"));
        }
        self.conversation.turns.push(Message::assistant(choice.text));
        Ok(())
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// Prints what `text` has more than what was shown, up to a character that is not whole yet.
fn show_more(shown: &mut String, text: &str) {
    let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    if let Some(more) = whole.strip_prefix(shown.as_str()) {
        print!("{more}");
        // Who does not read the reply as it grows reads it when it is done.
        std::io::stdout().flush().ok();
        whole.clone_into(shown);
    }
}

fn note(text: &str) {
    eprintln!("{}", console::style(format!("({text})")).for_stderr().dim());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_what_is_said() {
        for (line, want) in [
            ("  ", Wish::Nothing),
            (" What is a bond? ", Wish::Say("What is a bond?")),
            ("/help", Wish::Help),
            ("/reset", Wish::Reset),
            ("/new", Wish::Reset),
            ("/system  Be brief. ", Wish::System("Be brief.")),
            ("/system", Wish::System("")),
            ("/exit", Wish::Exit),
            ("/quit", Wish::Exit),
            ("/rest", Wish::Unknown("/rest")),
            ("/ is what?", Wish::Say("/ is what?")),
            ("/etc/hosts is what?", Wish::Say("/etc/hosts is what?")),
        ] {
            assert_eq!(wish(line), want, "{line:?}");
        }
    }

    #[test]
    fn the_oldest_turns_make_room_and_the_question_stays() {
        let num_words =
            |messages: &[Message]| Ok(messages.iter().map(|message| message.content.split_whitespace().count()).sum());
        for (room, left) in [(9, 5), (8, 3), (6, 3), (5, 1), (0, 1)] {
            let mut conversation = Conversation::new(Some("be brief"));
            for (question, reply) in [("a", "b c"), ("d", "e")] {
                conversation.turns.extend([Message::user(question), Message::assistant(reply)]);
            }
            conversation.turns.push(Message::user("f g"));
            assert_eq!(conversation.make_room(room, &num_words).expect("counts"), 5 - left, "{room}");
            assert_eq!(conversation.turns.len(), left, "{room}");
            assert_eq!(conversation.turns.last().expect("the question").content, "f g");
            assert_eq!(conversation.messages()[0].content, "be brief");
        }
    }
}
