//! `findap verify`: a finished run made again, and compared with what is there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use findap_train::run::Ended;
use findap_train::run::verification::{self, Compared, Verification};
use serde_json::json;

use super::run;
use crate::terminal;

/// Makes a finished run again from its recipe, data, seeds and recorded judge, and says which bits are equal
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run folder
    run: PathBuf,
    /// Only this stage, from the stored model before it
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> Result<u8> {
    let cannot = || format!("cannot verify {}", arguments.run.display());
    let verification = verification::prepare(&arguments.run, arguments.stage.as_deref()).with_context(cannot)?;
    let place = verification.recipe.folder().display();
    let took = terminal::clock(Duration::from_secs_f64(verification.seconds));
    eprintln!("what took {took} is made again in {place}; the judge is not asked");
    let other_machine = other_machine(&verification);
    if let Some(note) = &other_machine {
        eprintln!("{note}");
    }
    let text = toml::to_string(&verification.recipe).context("a recipe is TOML")?;
    match run::start(&verification.recipe, &text, None, &mut |_| ()) {
        Ok(Ended::Finished(_)) => {}
        Ok(Ended::Interrupted) => return Ok(run::stopped()),
        Err(error) => {
            let changed = verification.changed_files()?;
            let told = if changed.is_empty() { String::new() } else { format!("; {}", changed.join("; ")) };
            return Err(error.context(format!("{}{told}", cannot())));
        }
    }
    let compared = verification.compare()?;
    let differing = compared.iter().filter(|part| part.difference.is_some()).count();
    show(arguments.json, &compared, other_machine.as_deref())?;
    match differing {
        0 => verification.clear()?,
        _ => eprintln!("what was made again is kept in {place}"),
    }
    Ok(u8::from(differing > 0))
}

fn show(as_json: bool, compared: &[Compared], other_machine: Option<&str>) -> Result<()> {
    let differing = compared.iter().filter(|part| part.difference.is_some()).count();
    if as_json {
        let part = |part: &Compared| json!({ "stage": part.stage, "part": part.part, "what": part.what, "difference": part.difference });
        let parts: Vec<_> = compared.iter().map(part).collect();
        let object = json!({ "equal": differing == 0, "parts": parts, "machine": other_machine });
        println!("{}", serde_json::to_string_pretty(&object)?);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = compared
        .iter()
        .map(|part| {
            let found = if part.difference.is_none() { "equal" } else { "DIFFERS" };
            vec![part.stage.clone(), part.part.to_owned(), found.to_owned(), part.what.clone()]
        })
        .collect();
    println!("{}\n", terminal::table_of_words(&["stage", "part", "bits", "compared"], &rows));
    for part in compared {
        if let Some(difference) = &part.difference {
            println!("{} {}: {difference}", part.stage, part.part);
        }
    }
    match differing {
        0 => println!("every bit is equal"),
        _ => println!("{differing} of {} parts differ", compared.len()),
    }
    Ok(())
}

/// Where this machine or program is not that of the run, which may change how sums are rounded.
fn other_machine(verification: &Verification) -> Option<String> {
    let here = run::provenance();
    let differing = ["commit", "processor", "threads"].into_iter().filter_map(|fact| {
        let (was, now) = (verification.provenance.get(fact)?, here.get(fact)?);
        (was != now).then(|| format!("{fact} {was}, here {now}"))
    });
    let differing: Vec<String> = differing.collect();
    (!differing.is_empty())
        .then(|| format!("the run was made elsewhere ({}): bits may differ for that", differing.join("; ")))
}
