//! Makes a closed world and its tokenizer: `cargo run -p findap-data --example make_world -- FOLDER [KEY=SIZE]...`

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program, not a library")]

use findap_data::world::{WorldConfig, files, generate, train_tokenizer};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        eprintln!("give a folder, then sizes such as general_texts=1000");
        return ExitCode::from(2);
    };
    let mut sizes = serde_json::Map::new();
    for argument in arguments {
        match argument.split_once('=').and_then(|(key, size)| Some((key.to_owned(), size.parse::<u64>().ok()?))) {
            Some((key, size)) => sizes.insert(key, size.into()),
            None => {
                eprintln!("{argument}: not a KEY=SIZE");
                return ExitCode::from(2);
            }
        };
    }
    match make(sizes, Path::new(&folder)) {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn make(
    sizes: serde_json::Map<String, serde_json::Value>,
    folder: &Path,
) -> Result<String, Box<dyn std::error::Error>> {
    let config: WorldConfig = serde_json::from_value(sizes.into())?;
    generate(&config, folder)?;
    let mut summary = String::new();
    let files = files(&config)?;
    for file in &files {
        summary.push_str(&format!("{:6} rows  {}\n", file.rows.len(), file.name));
    }
    let entries = train_tokenizer(&files, 2048, &folder.join("tokenizer"))?;
    summary.push_str(&format!("{entries} tokens in the tokenizer\n"));
    Ok(summary)
}
