//! The small JSON files of a model directory, read without trusting them, and the directory's fingerprint.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use findap_data::files::{file_sha256, hex};
use findap_data::plain_words::plain_words;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::ModelError;

/// Reads the object in a JSON file of at most `limit_bytes`. Pipes and devices are refused unopened; deep nesting is an error.
pub(crate) fn read_object(path: &Path, limit_bytes: u64) -> Result<Map<String, Value>, ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let json = |reason: String| ModelError::Json { path: path.to_owned(), reason };
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(json("is not a regular file".into()));
    }
    if metadata.len() > limit_bytes {
        return Err(json(format!("has {} bytes; at most {limit_bytes} are read", metadata.len())));
    }
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(limit_bytes).read_to_end(&mut bytes)).map_err(io)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(json("is not a JSON object".into())),
        Err(error) => Err(json(format!("is not JSON: {}", plain_words(&error.to_string())))),
    }
}

/// Cuts a message of another crate to a length that a terminal can show: hostile files have names of megabytes.
pub(crate) fn shortened(message: impl ToString) -> String {
    const LIMIT_CHARS: usize = 300;
    let message = message.to_string();
    match message.char_indices().nth(LIMIT_CHARS) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message,
    }
}

/// SHA-256, in hex, over the files that decide a model's output: weights, configuration, tokenizer, chat template.
///
/// # Errors
/// [`ModelError::Io`].
pub fn fingerprint(directory: &Path) -> Result<String, ModelError> {
    of_files(directory, |name| {
        name.ends_with(".safetensors") || name == "config.json" || name == "generation_config.json" || is_of_text(name)
    })
}

/// SHA-256 of the files of a model folder that make tokens of texts and conversations, hex.
///
/// # Errors
/// As [`fingerprint`].
pub fn tokenizer_fingerprint(directory: &Path) -> Result<String, ModelError> {
    of_files(directory, is_of_text)
}

fn is_of_text(name: &str) -> bool {
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"].contains(&name)
}

fn of_files(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<String, ModelError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    let entries = fs::read_dir(directory).map_err(io(directory))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_wanted(name)).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let path = directory.join(&name);
        hash.update(format!("{name} {}\n", file_sha256(&path).map_err(io(&path))?));
    }
    Ok(hex(&hash.finalize()))
}
