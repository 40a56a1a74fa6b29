//! `findap reset`: stages of a run taken back.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use findap_train::run::{made_from, reset};

/// Removes a stage of a run, and the later ones that were made from it, so that `findap run` makes them again
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run folder
    run: PathBuf,
    /// Stage of its recipe
    stage: String,
    /// Remove without asking
    #[arg(long)]
    yes: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    let cannot = || format!("cannot reset {}", arguments.run.display());
    let made = made_from(&arguments.run, &arguments.stage).with_context(cannot)?;
    if made.is_empty() {
        println!("nothing was made by `{}` or after it", arguments.stage);
        return Ok(());
    }
    if !arguments.yes {
        for path in &made {
            eprintln!("  {}", path.display());
        }
        if !std::io::stdin().is_terminal() {
            bail!("these would be removed; give --yes to do it");
        }
        eprint!("remove these? [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("nothing was removed");
        }
    }
    for path in reset(&arguments.run, &arguments.stage).with_context(cannot)? {
        println!("removed {}", path.display());
    }
    Ok(())
}
