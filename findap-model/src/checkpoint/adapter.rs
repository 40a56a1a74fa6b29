//! Adapters from and to a directory in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Every tensor that the configuration asks for must be there, and no other: PEFT warns of neither and computes with B = 0.

use std::path::Path;

use findap_tensor::Dtype;
use serde_json::{Value, json};

use super::shard::Shard;
use super::write::{replace_directory, write_json, write_tensors};
use crate::adapter_folder::AdapterConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::foreign::ADAPTER;
use crate::layout::Layout;
use crate::lora::Lora;

/// The weights in a PEFT directory.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

impl Decoder {
    /// Reads the adapter in a PEFT directory and puts it beside the weights, in place of one that is there.
    ///
    /// # Errors
    /// [`ModelError::Json`] with the key of `adapter_config.json` that cannot be obeyed; [`ModelError::Tensor`] for one that is missing,
    /// has another shape, or that the configuration has no place for; [`ModelError::Weights`], [`ModelError::Io`],
    /// [`ModelError::Device`].
    pub fn load_adapter(&mut self, directory: &Path) -> Result<(), ModelError> {
        let AdapterConfig { lora, .. } = AdapterConfig::read(directory)?;
        let path = directory.join(ADAPTER_WEIGHTS);
        if !path.exists() && directory.join("adapter_model.bin").exists() {
            let reason = "has adapter_model.bin, a file of PyTorch, which is a program and is not run here; load it with PEFT and call \
                          `save_pretrained`, which writes safetensors";
            return Err(ModelError::NoModel { path: directory.to_owned(), reason: reason.into() });
        }
        let mut shard = Shard::open(directory, ADAPTER_WEIGHTS, &path)?;
        // No memory is taken before every tensor was found once, with the right shape.
        let spec = Layout::new(&self.config).with_adapter(&lora).adapter;
        let mut found = vec![None; spec.entries().len()];
        for (name, stored) in shard.tensors() {
            let Some(index) = spec.entries().iter().position(|entry| entry.name == name) else {
                let reason = format!("is stored, but {ADAPTER} and the model ask for no such tensor");
                return Err(shard.refuses(&name, reason));
            };
            let entry = &spec.entries()[index];
            shard.require(&name, &stored, &[entry.rows, entry.columns], ADAPTER)?;
            found[index] = Some(stored);
        }
        if let Some(missing) = found.iter().position(Option::is_none) {
            let name = spec.entries()[missing].name.clone();
            return Err(ModelError::Tensor { name, reason: format!("is not in {}", path.display()) });
        }
        self.add_zero_adapter(lora)?;
        let mut chunk = Vec::new();
        for (index, stored) in found.iter().flatten().enumerate() {
            shard.read_to(self.trained_params_mut(), index, stored, &mut chunk)?;
        }
        Ok(())
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
