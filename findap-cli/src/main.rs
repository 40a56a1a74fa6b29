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
    after_help = "Start with: findap run recipes/demo.toml",
    max_term_width = 100
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Doctor(commands::doctor::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
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
