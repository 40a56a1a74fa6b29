//! Weights from and to a Hugging Face directory, adapters from and to one of PEFT.
//!
//! Reading trusts nothing: only regular files inside the directory are opened, headers are checked by the safetensors crate,
//! and every shape is compared with the configuration before a number is read. Writing is whole or absent: a sibling
//! directory is filled, synced and renamed.

mod adapter;
mod read;
mod shard;
mod write;

use std::path::{Path, PathBuf};

use findap_tensor::{Device, Dtype};

use crate::adapter_folder::{Followed, follow};
use crate::config::Config;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::foreign::WEIGHTS;

pub use self::adapter::ADAPTER_WEIGHTS;

/// Options of writing a model.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Storage format of the weights.
    pub dtype: Dtype,
    /// A new file is begun before this many bytes of tensors.
    pub max_shard_bytes: usize,
    /// The directory from which tokenizer, chat template and generation settings are copied.
    pub carry_from: Option<PathBuf>,
}

const SINGLE: &str = WEIGHTS[0];
const INDEX: &str = WEIGHTS[1];

impl Decoder {
    /// Reads a Hugging Face directory. `dtype` is the format in memory: f32 or f64 to train, bf16 to run with half the
    /// memory. A directory of an adapter in PEFT's layout is its base with the adapter merged.
    ///
    /// # Errors
    /// Any [`ModelError`] but `TooLong`; each names the file or the tensor.
    pub fn load(directory: &Path, dtype: Dtype) -> Result<Decoder, ModelError> {
        Decoder::load_to(&Device::Cpu, directory, dtype)
    }

    /// Reads a Hugging Face directory into the memory of `device`, a part of a tensor at a time; `dtype` is f32 or bf16.
    ///
    /// # Errors
    /// As [`Decoder::load`]; [`ModelError::Device`].
    pub fn load_to(device: &Device, directory: &Path, dtype: Dtype) -> Result<Decoder, ModelError> {
        let Followed { base, adapter } = follow(directory)?;
        let mut model = read::load_weights(device, &base, Config::load(&base)?, dtype)?;
        if let Some(adapter) = adapter {
            model.load_adapter(&adapter)?;
            model.merge_adapter()?;
        }
        Ok(model)
    }
}
