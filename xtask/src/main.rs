//! The chores of this workspace: `cargo xtask train`, `test`, `bench`, `api`, `guide`, `kernels`, `bundle`, `study`.
//!
//! The crate depends on nothing internal, so that it builds in seconds and cannot be broken by the crates it checks.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program: printing is its work

mod align_study;
mod api;
mod bench;
mod bundle;
mod guide;
mod kernels;
mod profile;
mod results;
mod study;
mod test;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of this workspace", version)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Build in release mode and run recipes/demo.toml; further arguments go to `findap run`
    Train {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        further: Vec<String>,
    },
    /// Run every check that CI runs, cheapest first; stops at the first that fails
    Test,
    /// Time kernels, training steps, generation and scoring on this CPU
    Bench(bench::Arguments),
    /// Build the documentation and compare the public names of the library crates with those agreed on
    Api(api::Arguments),
    /// Write the chapters of the user guide that `findap help` prints
    Guide,
    /// Compile every CUDA kernel, without a GPU, and compare registers and spills with the snapshot
    Kernels(kernels::Arguments),
    /// Make a folder that tests and measures a GPU machine on which nothing is installed but the driver
    Bundle(bundle::Arguments),
    /// Run the demonstration's recipes with several seeds and write docs/demo-study.md, or docs/alignment-study.md
    Study(study::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().chore {
        Chore::Train { further } => {
            eprintln!("building findap, which takes a few minutes the first time");
            build(&["--quiet", "--bin", "findap"])
                .and_then(|()| become_command(built("findap").args(["run", "recipes/demo.toml"]).args(further)))
        }
        Chore::Api(arguments) => api::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Bundle(arguments) => bundle::run(&arguments),
        Chore::Guide => guide::write(),
        Chore::Kernels(arguments) => kernels::run(&arguments),
        Chore::Study(arguments) => study::run(&arguments),
        Chore::Test => test::run_every_check(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Cargo's arguments for the whole workspace, with the emulator of CUDA kernels where there is a C++ compiler to build it.
fn workspace_with_emulator() -> &'static [&'static str] {
    let compiler = Command::new("c++").arg("--version").output();
    match compiler.is_ok_and(|output| output.status.success()) {
        true => &["--workspace", "--features", "findap-train/emulator"],
        false => &["--workspace"],
    }
}

/// A command for the cargo that started us, in the workspace root.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    // Cargo's variables about this package do not concern those it now builds, and make some build scripts run again.
    for (name, _) in std::env::vars_os() {
        let told = name.to_string_lossy();
        if told.starts_with("CARGO_PKG_") || told.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Builds in release mode. The whole workspace is named so that features are unified alike whatever is asked for.
fn build(what: &[&str]) -> anyhow::Result<()> {
    let status =
        cargo().args(["build", "--release", "--workspace"]).args(what).status().context("cannot start cargo")?;
    ensure!(status.success(), "it does not build");
    Ok(())
}

/// A program that [`build`] made, started in the workspace root.
fn built(name: &str) -> Command {
    let mut command = Command::new(target_folder().join("release").join(name));
    command.current_dir(workspace_root());
    command
}

fn target_folder() -> PathBuf {
    workspace_root().join(std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from))
}

fn workspace_root() -> PathBuf {
    let here =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Runs a command, and returns what it prints without the white space around it.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Replaces this process, so that signals reach the command and its exit code is ours.
fn become_command(command: &mut Command) -> anyhow::Result<ExitCode> {
    let error = command.exec();
    Err(anyhow::Error::new(error).context(format!("cannot start {}", command.get_program().display())))
}
