//! `findap export`: a model folder written again, in another dtype or other shards, or with an adapter merged into it.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use findap_model::Decoder;
use findap_model::checkpoint::SaveOptions;
use findap_tensor::Dtype;

/// Writes a model in another dtype or other shards, or with an adapter merged into it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Model folder (Hugging Face layout)
    model: PathBuf,
    /// LoRA adapter in PEFT's layout, which is merged into the weights; a MODEL that is one itself is merged into its base
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number format of the weights: bf16 or f32
    #[arg(long, value_parser = format, default_value = "bf16")]
    dtype: Format,
    /// Largest file in MiB; larger models are split
    #[arg(long, default_value_t = 5120, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    max_shard_mib: u64,
}

#[derive(Clone, Copy)]
enum Format {
    Bf16,
    F32,
}

/// Reads a format by any of its usual names.
fn format(name: &str) -> Result<Format, String> {
    match name.to_lowercase().as_str() {
        "bf16" | "bfloat16" => Ok(Format::Bf16),
        "f32" | "fp32" | "float32" => Ok(Format::F32),
        "f16" | "fp16" | "float16" | "half" => {
            Err("16-bit floats of this format are not offered, as weights larger than 65504 \
            would be lost; write `bf16`, of the same size, or `f32`, which loses nothing, and convert that"
                .to_owned())
        }
        _ => Err("it is `bf16` or `f32`".to_owned()),
    }
}

pub(crate) fn execute(arguments: &Arguments) -> Result<()> {
    ensure!(!arguments.output.exists(), "{} exists: name a folder that does not", arguments.output.display());
    let mut model = Decoder::load(&arguments.model, Dtype::F32)
        .with_context(|| format!("cannot load the model {}", arguments.model.display()))?;
    if let Some(adapter) = &arguments.adapter {
        model.load_adapter(adapter).with_context(|| format!("cannot load the adapter {}", adapter.display()))?;
        model.merge_adapter()?;
    }
    let dtype = match arguments.dtype {
        Format::Bf16 => Dtype::Bf16,
        Format::F32 => Dtype::F32,
    };
    let options = SaveOptions {
        dtype,
        max_shard_bytes: (arguments.max_shard_mib as usize).saturating_mul(1 << 20),
        carry_from: Some(arguments.model.clone()),
    };
    model.save(&arguments.output, &options)?;
    println!("{}", arguments.output.display());
    Ok(())
}
