//! The small JSON files of a model directory, read without trusting them.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use findap_data::plain_words::plain_words;
use serde_json::{Map, Value};

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
