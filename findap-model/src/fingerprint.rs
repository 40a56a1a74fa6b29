//! The fingerprint of a model directory.

use std::fs;
use std::path::Path;

use findap_data::files::{file_sha256, hex};
use sha2::{Digest, Sha256};

use crate::adapter_folder::{Followed, follow};
use crate::error::ModelError;
use crate::foreign::ADAPTER;

/// SHA-256, in hex, over the files that decide a model's output: weights, configuration, tokenizer, chat template.
/// For an adapter's directory, those of its base and its own.
///
/// # Errors
/// [`ModelError::Io`]; [`ModelError::NoModel`] and [`ModelError::Json`] for an adapter that cannot be followed.
pub fn fingerprint(directory: &Path) -> Result<String, ModelError> {
    let Followed { base, adapter } = follow(directory)?;
    let of_base = of_files(&base)?;
    match adapter {
        None => Ok(of_base),
        Some(adapter) => Ok(hex(&Sha256::digest(format!("{of_base} {}", of_files(&adapter)?)))),
    }
}

/// SHA-256, in hex, over the files that make tokens of texts and conversations.
///
/// # Errors
/// [`ModelError::Io`].
pub fn tokenizer_fingerprint(directory: &Path) -> Result<String, ModelError> {
    of_chosen_files(directory, |name| OF_TEXTS.contains(&name))
}

const OF_TEXTS: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

fn of_files(directory: &Path) -> Result<String, ModelError> {
    of_chosen_files(directory, |name| {
        name.ends_with(".safetensors")
            || OF_TEXTS.contains(&name)
            || [ADAPTER, "config.json", "generation_config.json"].contains(&name)
    })
}

fn of_chosen_files(directory: &Path, is_chosen: impl Fn(&str) -> bool) -> Result<String, ModelError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    let entries = fs::read_dir(directory).map_err(io(directory))?;
    let names = entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_chosen(name)).collect();
    names.sort_unstable();
    let mut hash = Sha256::new();
    for name in names {
        let path = directory.join(&name);
        hash.update(format!("{name} {}\n", file_sha256(&path).map_err(io(&path))?));
    }
    Ok(hex(&hash.finalize()))
}
