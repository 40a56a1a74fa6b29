//! The `findap` command: arguments to library calls to the terminal, and nothing else.
//!
//! Progress goes to stderr, results to stdout. Exit codes: 0 done, 1 failure, 2 usage.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program: printing is its work

mod commands;
mod files;
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "findap",
    version,
    about = "Adapts Llama-family models to a domain, and measures what changed",
    after_help = "Start with: findap score MODEL --input F.jsonl --output F.jsonl",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Plan(commands::plan::Arguments),
    Score(commands::score::Arguments),
    Eval(commands::eval::Arguments),
    Compare(commands::compare::Arguments),
    Report(commands::report::Arguments),
    Generate(commands::generate::Arguments),
    Chat(commands::chat::Arguments),
    Serve(commands::serve::Arguments),
    Export(commands::export::Arguments),
    Doctor(commands::doctor::Arguments),
}

impl Command {
    /// Whether the work goes on when nobody reads what it prints: training and serving do.
    fn outlives_its_reader(&self) -> bool {
        matches!(self, Command::Serve(_))
    }
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !command.outlives_its_reader() {
        restore_broken_pipe();
    }
    let result = match command {
        Command::Compare(arguments) => commands::compare::execute(&arguments),
        Command::Plan(arguments) => commands::plan::execute(&arguments),
        Command::Score(arguments) => commands::score::execute(&arguments),
        Command::Eval(arguments) => commands::eval::execute(&arguments),
        Command::Generate(arguments) => commands::generate::execute(&arguments),
        Command::Chat(arguments) => commands::chat::execute(&arguments),
        Command::Serve(arguments) => commands::serve::execute(&arguments),
        Command::Export(arguments) => commands::export::execute(&arguments),
        Command::Report(arguments) => commands::report::execute(&arguments),
        Command::Doctor(arguments) => commands::doctor::execute(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Lets a closed pipe end the program quietly, as it ends other command-line tools; Rust's start-up code ignores the signal.
fn restore_broken_pipe() {
    // SAFETY: called before any thread is started; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
