//! The directories that an adapter in PEFT's layout leads to, and what its configuration asks for.
//!
//! An adapter's directory stands for the model that it makes of its base: whatever reads a model directory follows
//! `base_model_name_or_path`, as transformers does. Tokenizer and chat template are the base's; a directory whose own say something else
//! is refused.
//!
//! Reading the configuration is strict. What PEFT would compute otherwise than y = x W^T + b + s (x A^T) B^T with one rank and one scale
//! is refused under the name of its key, and so is a key that is unknown here, unless its value says that it is not in use.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::ModelError;
use crate::files::read_object;
use crate::foreign::{ADAPTER, has_weights};
use crate::lora::{Lora, Targets};

/// A model directory, followed to the weights that it stands for.
pub(crate) struct Followed {
    /// The directory with weights, configuration, tokenizer and chat template.
    pub(crate) base: PathBuf,
    /// The directory of the adapter that is merged into them; none for a plain model.
    pub(crate) adapter: Option<PathBuf>,
}

/// Follows the directory of an adapter to its base; that of a model stays what it is.
///
/// # Errors
/// [`ModelError::NoModel`] for a base that is no directory here or an adapter itself, and for a directory with both a model and an
/// adapter; [`ModelError::Json`] for a configuration that cannot be obeyed.
pub(crate) fn follow(directory: &Path) -> Result<Followed, ModelError> {
    if !directory.join(ADAPTER).exists() {
        return Ok(Followed { base: directory.to_owned(), adapter: None });
    }
    let refuse = |reason: String| Err(ModelError::NoModel { path: directory.to_owned(), reason });
    if has_weights(directory) {
        return refuse(format!(
            "holds both a model and a LoRA or other adapter; remove its weights, or {ADAPTER}, whichever is not meant"
        ));
    }
    let AdapterConfig { base, .. } = AdapterConfig::read(directory)?;
    let Some(base) = base else {
        return refuse(format!("is an adapter whose {ADAPTER} names no `base_model_name_or_path`"));
    };
    if !base.is_dir() {
        return refuse(format!(
            "is an adapter of \"{}\", which is no folder here; download that model (`hf download`), and write its folder into \
             `base_model_name_or_path` of {ADAPTER}, or merge the adapter into it with `findap export FOLDER --adapter {}`",
            base.display(),
            directory.display()
        ));
    }
    if base.join(ADAPTER).exists() {
        // PEFT loads such a pair without a word, and drops the first of the two.
        return refuse(format!(
            "is an adapter of {0}, which is an adapter itself; merge that first (`findap export {0} --output FOLDER`), and write the \
             folder into `base_model_name_or_path` of {ADAPTER}",
            base.display()
        ));
    }
    require_same_text(directory, &base)?;
    Ok(Followed { base, adapter: Some(directory.to_owned()) })
}

/// The directory with the tokenizer and the chat template of a model: its own, or for an adapter that of its base.
///
/// # Errors
/// [`ModelError::NoModel`], [`ModelError::Json`] for an adapter that cannot be followed.
pub fn text_directory(directory: &Path) -> Result<PathBuf, ModelError> {
    Ok(follow(directory)?.base)
}

/// Refuses an adapter that brings another tokenizer or chat template than its base has.
fn require_same_text(adapter: &Path, base: &Path) -> Result<(), ModelError> {
    let differs = |what: &str| {
        let reason = format!(
            "is an adapter with another {what} than its base {} has; merge it with `findap export {0} --adapter {}`, and put its {what} \
             into the folder of the result",
            base.display(),
            adapter.display()
        );
        Err(ModelError::NoModel { path: adapter.to_owned(), reason })
    };
    match (tokenizer(adapter)?, tokenizer(base)?) {
        (Some(own), of_base) if of_base.as_ref() != Some(&own) => return differs("tokenizer.json"),
        _ => {}
    }
    match (template(adapter)?, template(base)?) {
        (Some(own), of_base) if of_base.as_ref() != Some(&own) => differs("chat template"),
        _ => Ok(()),
    }
}

/// The tokenizer of a directory, without what training adds to its file for a time.
fn tokenizer(directory: &Path) -> Result<Option<Map<String, Value>>, ModelError> {
    let path = directory.join("tokenizer.json");
    if !path.exists() {
        return Ok(None);
    }
    let mut tokenizer = read_object(&path, TEXT_LIMIT_BYTES)?;
    tokenizer.retain(|key, _| !["truncation", "padding"].contains(&key.as_str()));
    Ok(Some(tokenizer))
}

/// The chat template of a directory, as it is written.
fn template(directory: &Path) -> Result<Option<Value>, ModelError> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        let text = fs::read_to_string(&path).map_err(|source| ModelError::Io { path, source })?;
        return Ok(Some(Value::String(text)));
    }
    let path = directory.join("tokenizer_config.json");
    let mut config = if path.exists() { read_object(&path, TEXT_LIMIT_BYTES)? } else { Map::new() };
    Ok(config.remove("chat_template").filter(|template| !template.is_null()))
}

/// A tokenizer larger than this is none.
const TEXT_LIMIT_BYTES: u64 = 256 << 20;

/// A configuration larger than this is none.
const CONFIG_LIMIT_BYTES: u64 = 1 << 20;

/// Keys that decide how an adapter begins and is trained, or describe it, but not what it computes.
const WITHOUT_EFFECT: [&str; 11] = [
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "layers_pattern", // only beside `layers_to_transform`
    "lora_dropout",
    "megatron_core", // only beside `megatron_config`
    "peft_version",
    "qalora_group_size", // only beside `use_qalora`
    "revision",
    "runtime_config",
];

/// The configuration in an adapter's directory.
pub(crate) struct AdapterConfig {
    pub(crate) lora: Lora,
    /// The model that the adapter was trained beside, as the configuration names it.
    base: Option<PathBuf>,
}

impl AdapterConfig {
    /// Reads `adapter_config.json`.
    pub(crate) fn read(directory: &Path) -> Result<AdapterConfig, ModelError> {
        let path = directory.join(ADAPTER);
        let config = read_object(&path, CONFIG_LIMIT_BYTES)?;
        let base = config.get("base_model_name_or_path").and_then(Value::as_str).filter(|name| !name.is_empty());
        let base = base.map(PathBuf::from);
        Ok(AdapterConfig { lora: lora(&config).map_err(|reason| ModelError::Json { path, reason })?, base })
    }
}

/// The adapter that a configuration describes, or why it cannot be had.
fn lora(config: &Map<String, Value>) -> Result<Lora, String> {
    let refuse = |key: &str, why: &str| {
        let value = config.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        Err(format!("`{key}` is {value}; {why}"))
    };
    if config.get("peft_type").and_then(Value::as_str).is_none_or(|kind| !kind.eq_ignore_ascii_case("lora")) {
        return refuse("peft_type", "only \"LORA\" is supported");
    }
    let Some(rank) = config.get("r").and_then(Value::as_u64).filter(|rank| *rank >= 1) else {
        return refuse("r", "it must be a whole number, at least 1");
    };
    let Some(alpha) = config.get("lora_alpha").and_then(Value::as_f64) else {
        return refuse("lora_alpha", "it must be a number");
    };
    let targets = match config.get("target_modules") {
        Some(Value::String(all)) if all == "all-linear" => Targets::ALL,
        Some(Value::Array(names)) => {
            let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
            let Some(names) = names else { return refuse("target_modules", "it must be a list of names") };
            let names = names.into_iter().map(|name| {
                let in_block = name.strip_prefix("self_attn.").or_else(|| name.strip_prefix("mlp."));
                in_block.unwrap_or(name)
            });
            Targets::from_names(names).map_err(|error| format!("`target_modules`: {error}"))?
        }
        _ => return refuse("target_modules", "a list of names or \"all-linear\" is supported"),
    };
    for (key, value) in config {
        let is_neutral = match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(table) => table.is_empty(),
            _ => false,
        };
        match (key.as_str(), value) {
            ("peft_type" | "r" | "lora_alpha" | "target_modules" | "use_rslora", _) => {}
            ("bias", Value::String(bias)) if bias == "none" => {}
            ("task_type", Value::String(task)) if task.eq_ignore_ascii_case("causal_lm") => {}
            // others change the weights beside the adapter
            ("init_lora_weights", Value::Bool(_)) => {}
            ("init_lora_weights", Value::String(kind))
                if ["gaussian", "eva", "orthogonal"].contains(&kind.as_str()) => {}
            (key, _) if is_neutral || WITHOUT_EFFECT.contains(&key) => {}
            (key, _) => return refuse(key, "this is not supported; merge the adapter with PEFT (`merge_and_unload`)"),
        }
    }
    let is_rank_stabilized = match config.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(is_rank_stabilized)) => *is_rank_stabilized,
        Some(_) => return refuse("use_rslora", "it must be true or false"),
    };
    let lora = Lora { rank: rank as usize, alpha, targets, is_rank_stabilized };
    lora.check().map_err(|error| error.to_string())?;
    Ok(lora)
}
