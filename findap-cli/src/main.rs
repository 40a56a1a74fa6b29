//! The `findap` command: turns arguments into library calls and results into terminal output, and does nothing else.
//!
//! Progress goes to stderr, results to stdout. Exit codes: 0 done, 1 failure, 2 usage, 130 stopped by a signal with
//! what was done saved.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program: printing is its work

mod commands;
mod keys;
mod signals;
mod survey;
mod terminal;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "findap",
    version,
    about = "Adapts Llama-family models to a domain, and measures what changed",
    after_help = "\
Start with `findap run recipes/demo.toml`, or with `findap init` for your own
model and data. `findap help recipe [KEY]` explains the keys of a recipe.",
    max_term_width = 80,
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Init(commands::init::Arguments),
    Run(commands::run::Arguments),
    Plan(commands::plan::Arguments),
    Rehearse(commands::rehearse::Arguments),
    Data(commands::data::Arguments),
    Train(commands::run::TrainArguments),
    Distill(commands::run::DistillArguments),
    Score(commands::score::Arguments),
    Eval(commands::eval::Arguments),
    Tasks(commands::tasks::Arguments),
    Compare(commands::compare::Arguments),
    Report(commands::report::Arguments),
    Generate(commands::generate::Arguments),
    Chat(commands::chat::Arguments),
    Serve(commands::serve::Arguments),
    Export(commands::export::Arguments),
    Reset(commands::reset::Arguments),
    Verify(commands::verify::Arguments),
    Doctor(commands::doctor::Arguments),
    Help(commands::help::Arguments),
}

impl Command {
    /// Whether the command continues when nobody reads what it prints, as training and serving do.
    fn outlives_its_reader(&self) -> bool {
        matches!(
            self,
            Command::Run(_) | Command::Train(_) | Command::Distill(_) | Command::Serve(_) | Command::Verify(_)
        )
    }
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    if !command.outlives_its_reader() {
        restore_broken_pipe();
    }
    signals::make_file_limits_errors();
    // The main thread of a server waits for connections and computes nothing.
    if !matches!(command, Command::Serve(_)) {
        use_this_thread_too();
    }
    let result = match command {
        Command::Run(arguments) => return exit(commands::run::execute(&arguments)),
        Command::Train(arguments) => return exit(commands::run::execute_train(&arguments)),
        Command::Distill(arguments) => return exit(commands::run::execute_distill(&arguments)),
        Command::Rehearse(arguments) => return exit(commands::rehearse::execute(&arguments)),
        Command::Verify(arguments) => return exit(commands::verify::execute(&arguments)),
        Command::Data(arguments) => commands::data::execute(&arguments),
        Command::Help(arguments) => commands::help::execute(&arguments, Arguments::command()),
        Command::Init(arguments) => commands::init::execute(&arguments),
        Command::Compare(arguments) => return exit(commands::compare::execute(&arguments)),
        Command::Tasks(arguments) => commands::tasks::execute(&arguments),
        Command::Reset(arguments) => commands::reset::execute(&arguments),
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
    exit(result.map(|()| 0))
}

fn exit(result: anyhow::Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            terminal::print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Adds the main thread to the pool, so that operations need no hand-over to another thread.
fn use_this_thread_too() {
    // This fails only where a pool exists already, which is then used as it is.
    rayon::ThreadPoolBuilder::new().use_current_thread().build_global().ok();
}

/// Lets a closed pipe end the program quietly, as it ends other command-line tools; Rust's start-up code ignores the signal.
fn restore_broken_pipe() {
    // SAFETY: called before any thread is started; SIG_DFL is a valid disposition for SIGPIPE.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
