//! Adapters from and to a directory in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Reading is strict. What PEFT would compute otherwise than y = x W^T + b + s (x A^T) B^T with one rank and one scale is refused under
//! the name of its key, and so is a key that is unknown here, unless its value says that it is not in use. Every tensor that the
//! configuration asks for must be there, and no other: PEFT warns of neither and computes with B = 0.

use std::path::Path;
use std::sync::Arc;

use findap_tensor::Dtype;
use serde_json::{Map, Value, json};

use super::shard::Shard;
use super::write::{replace_directory, write_json, write_tensors};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::files::read_object;
use crate::foreign::ADAPTER;
use crate::lora::{Lora, Targets};

/// The weights in a PEFT directory.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

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

/// Reads `adapter_config.json` of a directory.
fn read_config(directory: &Path) -> Result<Lora, ModelError> {
    let path = directory.join(ADAPTER);
    let config = read_object(&path, CONFIG_LIMIT_BYTES)?;
    lora(&config).map_err(|reason| ModelError::Json { path, reason })
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

impl Decoder {
    /// Reads the adapter in a PEFT directory and puts it beside the weights, in place of one that is there.
    ///
    /// # Errors
    /// [`ModelError::Json`] with the key of `adapter_config.json` that cannot be obeyed; [`ModelError::Tensor`] for one that is missing,
    /// has another shape, or that the configuration has no place for; [`ModelError::Weights`], [`ModelError::Io`],
    /// [`ModelError::Device`].
    pub fn load_adapter(&mut self, directory: &Path) -> Result<(), ModelError> {
        let lora = read_config(directory)?;
        let path = directory.join(ADAPTER_WEIGHTS);
        if !path.exists() && directory.join("adapter_model.bin").exists() {
            let reason = "has adapter_model.bin, a file of PyTorch, which is a program and is not run here; load it with PEFT and call \
                          `save_pretrained`, which writes safetensors";
            return Err(ModelError::NoModel { path: directory.to_owned(), reason: reason.into() });
        }
        let mut shard = Shard::open(directory, ADAPTER_WEIGHTS, &path)?;
        self.add_adapter(lora, 0)?;
        let spec = Arc::clone(self.trained_params().spec());
        let mut found = vec![false; spec.entries().len()];
        let (tensors, mut chunk): (Vec<_>, _) = (shard.tensors().collect(), Vec::new());
        for (name, stored) in tensors {
            let Some(index) = spec.entries().iter().position(|entry| entry.name == name) else {
                let reason = format!("is stored, but {ADAPTER} and the model ask for no such tensor");
                return Err(shard.refuses(&name, reason));
            };
            let entry = &spec.entries()[index];
            shard.require(&name, &stored, &[entry.rows, entry.columns], ADAPTER)?;
            shard.read_to(self.trained_params_mut(), index, &stored, &mut chunk)?;
            found[index] = true;
        }
        match found.iter().position(|found| !found) {
            None => Ok(()),
            Some(missing) => {
                let name = spec.entries()[missing].name.clone();
                Err(ModelError::Tensor { name, reason: format!("is not in {}", path.display()) })
            }
        }
    }

    /// Writes the model's adapter as a PEFT directory, which names `base` as the model that it belongs to. The directory appears whole
    /// or not at all; one that is there already is replaced.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for a model without one; [`ModelError::Io`]; [`ModelError::Device`].
    pub fn save_adapter(&self, directory: &Path, base: &Path) -> Result<(), ModelError> {
        let Some(lora) = self.lora() else {
            return Err(ModelError::Adapter { reason: "the model has none to be saved".into() });
        };
        replace_directory(directory, |temporary| {
            let params = self.trained_params();
            let tensors: Vec<usize> = (0..params.spec().entries().len()).collect();
            let dtype = if params.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
            write_tensors(&temporary.join(ADAPTER_WEIGHTS), params, &tensors, dtype)?;
            write_json(&temporary.join(ADAPTER), &config_json(&lora, base))
        })
    }
}

/// The configuration that PEFT reads, with every key that it has no default for.
fn config_json(lora: &Lora, base: &Path) -> Value {
    let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as u64) } else { json!(lora.alpha) };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": lora.targets.names().collect::<Vec<_>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "modules_to_save": null,
        "init_lora_weights": true,
        "use_rslora": lora.is_rank_stabilized,
        "use_dora": false,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": null,
        "layers_pattern": null,
        "revision": null,
        "auto_mapping": null,
    })
}
