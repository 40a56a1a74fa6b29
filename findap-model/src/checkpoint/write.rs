//! A model as a Hugging Face directory, whole or absent.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use findap_tensor::{Arena, Dtype, Tensor};
use half::bf16;
use serde_json::{Map, Value};

use super::{INDEX, SINGLE, SaveOptions};
use crate::adapter_folder::text_directory;
use crate::decoder::Decoder;
use crate::error::ModelError;

/// Files beside the weights that are copied with a model where they exist.
const CARRIED: [&str; 13] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
    "LICENSE.txt",
    "USE_POLICY.md",
    "NOTICE",
];

impl Decoder {
    /// Writes a Hugging Face directory that transformers and vLLM load unchanged. The directory appears whole or not at all;
    /// one that is there already is replaced.
    ///
    /// # Errors
    /// [`ModelError::Io`] naming the file.
    pub fn save(&self, directory: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        replace_directory(directory, |temporary| self.write_files(temporary, options))
    }

    fn write_files(&self, directory: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        let torch_name = match options.dtype {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::Bf16 => "bfloat16",
        };
        if let Some(source) = &options.carry_from {
            let source = text_directory(source)?;
            for file in CARRIED {
                let from = source.join(file);
                if from.is_file() {
                    let to = directory.join(file);
                    let copied = fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all());
                    copied.map_err(|source| ModelError::Io { path: from, source })?;
                }
            }
        }
        write_json(&directory.join("config.json"), &Value::Object(self.config.to_json(torch_name)))?;
        let shards = self.shards(options);
        let mut weight_map = Map::new();
        let mut total_bytes = 0;
        for (i, shard) in shards.iter().enumerate() {
            let file = match shards.len() {
                1 => SINGLE.to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            total_bytes += write_tensors(&directory.join(&file), &self.params, shard, options.dtype)?;
            for &tensor in shard {
                weight_map.insert(self.params.spec().entries()[tensor].name.clone(), file.clone().into());
            }
        }
        if shards.len() > 1 {
            let index = serde_json::json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
            write_json(&directory.join(INDEX), &index)?;
        }
        Ok(())
    }

    /// The tensors of each file, by their index in the spec.
    fn shards(&self, options: &SaveOptions) -> Vec<Vec<usize>> {
        let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
        let mut bytes = 0;
        for (i, entry) in self.params.spec().entries().iter().enumerate() {
            let more = entry.range().len() * options.dtype.size_bytes();
            if bytes > 0 && bytes + more > options.max_shard_bytes {
                shards.push(Vec::new());
                bytes = 0;
            }
            bytes += more;
            shards.last_mut().expect("invariant: there is always a shard").push(i);
        }
        shards
    }
}

/// Writes these tensors of an arena to one file, one in memory at a time; returns the bytes of its tensors.
pub(super) fn write_tensors(path: &Path, arena: &Arena, tensors: &[usize], dtype: Dtype) -> Result<usize, ModelError> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    let mut offset = 0;
    let file_dtype = match dtype {
        Dtype::F32 => "F32",
        Dtype::F64 => "F64",
        Dtype::Bf16 => "BF16",
    };
    for &i in tensors {
        let entry = &arena.spec().entries()[i];
        let end = offset + entry.range().len() * dtype.size_bytes();
        let shape = if entry.is_vector { vec![entry.columns] } else { vec![entry.rows, entry.columns] };
        let value = serde_json::json!({"dtype": file_dtype, "shape": shape, "data_offsets": [offset, end]});
        header.insert(entry.name.clone(), value);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let write = || -> Result<(), ModelError> {
        let mut file = std::io::BufWriter::new(File::create(path).map_err(io)?);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&header).map_err(io)?;
        for &i in tensors {
            let range = arena.spec().entries()[i].range();
            let mut tensor = Tensor::zeros(arena.dtype(), 1, range.len());
            arena.tensor().read(range.start, tensor.slice_mut())?;
            let numbers = tensor.slice().to_f64_vec();
            let mut bytes = Vec::with_capacity(numbers.len() * dtype.size_bytes());
            for x in numbers {
                match dtype {
                    Dtype::F32 => bytes.extend_from_slice(&(x as f32).to_le_bytes()),
                    Dtype::F64 => bytes.extend_from_slice(&x.to_le_bytes()),
                    Dtype::Bf16 => bytes.extend_from_slice(&bf16::from_f64(x).to_le_bytes()),
                }
            }
            file.write_all(&bytes).map_err(io)?;
        }
        file.into_inner().map_err(|e| e.into_error()).and_then(|file| file.sync_all()).map_err(io)
    };
    write()?;
    Ok(offset)
}

/// Lets `fill` write a directory beside `directory`, syncs it and puts it in its place: the directory appears whole or not at all.
pub(super) fn replace_directory(
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let name = directory.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
    let beside = |suffix: &str| directory.with_file_name(format!(".{name}.{suffix}"));
    let (temporary, old) = (beside("incomplete"), beside("replaced"));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { path, source }
    };
    if old.exists() && !directory.exists() {
        // A kill between the two renames below has left the only whole model there.
        fs::rename(&old, directory).map_err(at(&old))?;
    }
    for stale in [&temporary, &old] {
        if stale.exists() {
            fs::remove_dir_all(stale).map_err(at(stale))?;
        }
    }
    fs::create_dir_all(&temporary).map_err(at(&temporary))?;
    fill(&temporary)?;
    File::open(&temporary).and_then(|d| d.sync_all()).map_err(at(&temporary))?;
    if directory.exists() {
        fs::rename(directory, &old).map_err(at(directory))?;
    }
    fs::rename(&temporary, directory).map_err(at(directory))?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(at(&old))?;
    }
    if let Some(parent) = directory.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent).and_then(|d| d.sync_all()).map_err(at(parent))?;
    }
    Ok(())
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| ModelError::Io { path: path.to_owned(), source })
}
