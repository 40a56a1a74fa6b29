//! Recognises what people give in place of a Hugging Face folder of plain weights, and says what to do about it.

use std::fs;
use std::path::Path;

/// The file that marks an adapter's folder.
pub(crate) const ADAPTER: &str = "adapter_config.json";

/// The weights of a model: in one file, or the index of several.
pub(crate) const WEIGHTS: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];

const CONVERT: &str = "load it with transformers and call `save_pretrained`, which writes safetensors";
const QUANTISED: &str = "quantised weights are not supported; use the folder of the model they were made from";

/// Describes what a path without `config.json` or weights holds; `None` where nothing known is found.
pub(crate) fn folder(path: &Path) -> Option<String> {
    let Ok(metadata) = fs::metadata(path) else {
        let parts = path.to_str().map(|text| text.split('/').filter(|part| !part.is_empty()).count());
        let looks_like_hub_id = path.is_relative()
            && parts == Some(2)
            && !path.starts_with(".")
            // a path into a folder that is here is mistyped
            && path.parent().is_some_and(|owner| !owner.exists());
        return looks_like_hub_id.then(|| {
            let id = path.display();
            format!(
                "is no folder; a model of the Hugging Face hub is downloaded first: `hf download {id} --local-dir {id}`"
            )
        });
    };
    if metadata.is_file() {
        let name = path.file_name()?.to_str()?;
        return Some(match file(name) {
            Some(reason) => format!("is a file: {reason}"),
            None if name == "config.json" || name.ends_with(".safetensors") => "is a file; give its folder".into(),
            None => "is a file; the folder of a Hugging Face model is needed".into(),
        });
    }
    let mut names: Vec<String> =
        // an entry that cannot be listed or whose name is not UTF-8 is none of the files looked for
        fs::read_dir(path).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    if let Some((name, reason)) = names.iter().find_map(|name| Some((name, file(name)?))) {
        return Some(format!("has no weights in safetensors, but {name}: {reason}"));
    }
    let below = names.iter().filter(|name| path.join(name).is_dir());
    let candidates = below.flat_map(|name| {
        let folder = path.join(name);
        let deeper = if name == "snapshots" { fs::read_dir(&folder).ok() } else { None };
        let deeper = deeper.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        [folder].into_iter().chain(deeper).collect::<Vec<_>>()
    });
    let mut models = candidates.filter(|folder| folder.join("config.json").is_file());
    models.next().map(|model| format!("is no model folder itself; did you mean {}?", model.display()))
}

/// Whether a directory has weights of a model of its own.
pub(crate) fn has_weights(directory: &Path) -> bool {
    WEIGHTS.iter().any(|name| directory.join(name).exists())
}

/// Describes a file of another weight format, by its name.
fn file(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let reason = if ends(&[".gguf", ".ggml"]) {
        "GGUF, the format of llama.cpp; use the Hugging Face folder that it was made from".into()
    } else if name.starts_with("consolidated") && ends(&[".pth", ".safetensors"]) {
        "the layout of Meta or Mistral, not of Hugging Face; use the folder with `config.json` and model.safetensors"
            .into()
    } else if ends(&[".bin", ".pt", ".pth", ".ckpt"]) && name != "training_args.bin" {
        format!("weights of PyTorch, which are programs and are not run here; {CONVERT}")
    } else if ends(&[".h5", ".msgpack", ".onnx", ".nemo"]) {
        format!("weights for another framework; {CONVERT}")
    } else {
        return None;
    };
    Some(reason)
}

/// Whether a tensor's name shows that the weights are in a form that is not read here.
pub(crate) fn is_of_another_format(tensor: &str) -> bool {
    is_quantised(tensor) || is_adapter(tensor)
}

fn is_quantised(tensor: &str) -> bool {
    const ENDS: [&str; 14] = [
        ".qweight",
        ".qzeros",
        ".scales",
        ".g_idx",
        ".weight_packed",
        ".weight_scale",
        ".weight_scale_inv",
        ".input_scale",
        ".weight_zero_point",
        ".weight_shape",
        ".SCB",
        ".absmax",
        ".quant_map",
        ".quant_state.bitsandbytes__nf4",
    ];
    ENDS.iter().any(|end| tensor.ends_with(end))
}

fn is_adapter(tensor: &str) -> bool {
    [".lora_A", ".lora_B", ".lora_magnitude_vector", ".base_layer."].iter().any(|part| tensor.contains(part))
}

/// Why a stored tensor that the configuration has no place for is refused.
pub(crate) fn tensor(name: &str) -> String {
    if is_quantised(name) {
        format!("is quantised; {QUANTISED}")
    } else if is_adapter(name) {
        "belongs to a LoRA adapter; merge it into its base model (`merge_and_unload` of peft)".into()
    } else if name.ends_with(".bias") {
        "is stored, but config.json asks for no such bias; are `model_type`, `attention_bias` and `mlp_bias` right?"
            .into()
    } else if name.contains(".q_norm.") || name.contains(".k_norm.") {
        "is stored, but norms of queries and keys are those of Qwen 3; is `model_type` right?".into()
    } else if name.contains(".experts.") {
        "is stored: mixtures of experts are not supported".into()
    } else {
        "is stored, but config.json asks for no such tensor; without it this would be another model. Correct config.json, or \
         remove the tensor if it is of no use"
            .into()
    }
}
