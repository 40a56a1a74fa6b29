//! Weights from and to a Hugging Face directory.
//!
//! Reading trusts nothing: only regular files inside the directory are opened, headers are checked by the safetensors crate,
//! and every shape is compared with the configuration before a number is read. Writing is whole or absent: a sibling
//! directory is filled, synced and renamed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use findap_tensor::tensor::MAX_FILL_BYTES;
use findap_tensor::{Arena, ArenaSpec, Device, Dtype, SliceMut, Tensor};
use half::{bf16, f16};
use safetensors::tensor::{Dtype as FileDtype, Metadata};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::decoder::{Decoder, WEIGHTS};
use crate::error::ModelError;
use crate::files::{read_object, shortened};
use crate::layout::Layout;

/// How a model is written.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Storage format of the weights.
    pub dtype: Dtype,
    /// A new file is begun before this many bytes of tensors.
    pub max_shard_bytes: usize,
    /// The directory whose tokenizer, chat template and generation settings are copied along.
    pub carry_from: Option<PathBuf>,
}

/// Files of a model directory that are not weights and go with the model.
const CARRIED: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
    "LICENSE",
];

/// An index larger than this is not an index.
const INDEX_LIMIT_BYTES: u64 = 64 << 20;

/// The header of a weight file is no longer than this: the limit of the safetensors crate.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// Bytes read and converted at a time. A number has at least 2 of them, and at most 4 where it goes to a device.
const CHUNK_BYTES: usize = 1 << 20;
const _: () = assert!(2 * CHUNK_BYTES <= MAX_FILL_BYTES);

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Decoder {
    /// Reads a Hugging Face directory. `dtype` is the format in memory: f32 or f64 to train, bf16 to run with half the
    /// memory.
    ///
    /// # Errors
    /// Any [`ModelError`] but `TooLong`; each names the file or the tensor.
    pub fn load(directory: &Path, dtype: Dtype) -> Result<Decoder, ModelError> {
        load_weights(&Device::Cpu, directory, Config::load(directory)?, dtype)
    }

    /// Reads a Hugging Face directory to the memory of `device`, a part of a tensor at a time; f32 or bf16.
    ///
    /// # Errors
    /// As [`Decoder::load`]; [`ModelError::Device`].
    pub fn load_to(device: &Device, directory: &Path, dtype: Dtype) -> Result<Decoder, ModelError> {
        load_weights(device, directory, Config::load(directory)?, dtype)
    }
}

/// Reads all weights of a directory.
///
/// All headers are read first; only when every tensor of `config` was found once, with the right shape and a dtype that can be
/// read, is memory taken for them. So a small file cannot make this allocate more than its own bytes times the ratio of dtypes.
fn load_weights(device: &Device, directory: &Path, config: Config, dtype: Dtype) -> Result<Decoder, ModelError> {
    let layout = Layout::new(&config);
    let spec = &layout.spec;
    let places: HashMap<&str, usize> = spec.entries().iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect();
    let mut found = vec![false; places.len()];
    let index = directory.join(INDEX);
    let mut shards = Vec::new();
    if index.exists() {
        for (name, expected) in read_index(&index)? {
            let shard = Shard::open(directory, &name, &index)?;
            if let Some(absent) = expected.iter().find(|tensor| shard.header.info(tensor).is_none()) {
                return Err(
                    shard.damaged(format!("lacks tensor `{}`, which the index places in it", shortened(absent)))
                );
            }
            shards.push(shard);
        }
    } else {
        let path = directory.join(SINGLE);
        shards.push(Shard::open(directory, SINGLE, &path)?);
    }
    for shard in &mut shards {
        shard.find_tensors(spec, &places, &mut found)?;
    }
    if let Some(missing) = found.iter().position(|found| !found) {
        let name = spec.entries()[missing].name.clone();
        let hint = if name == "lm_head.weight" { "; is `tie_word_embeddings` right?" } else { "" };
        return Err(ModelError::Tensor {
            name,
            reason: format!("is in no weight file of {}{hint}", directory.display()),
        });
    }
    let mut params = Arena::zeros_on(device, WEIGHTS, Arc::clone(spec), dtype)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for shard in &mut shards {
        shard.read(&mut params, &mut chunk)?;
    }
    Ok(Decoder::new(config, params, layout))
}

/// Files and the tensors they should hold.
fn read_index(index: &Path) -> Result<BTreeMap<String, Vec<String>>, ModelError> {
    let json = |reason: String| ModelError::Json { path: index.to_owned(), reason };
    let mut value = read_object(index, INDEX_LIMIT_BYTES)?;
    let Some(Value::Object(map)) = value.remove("weight_map") else {
        return Err(json("has no object `weight_map`".into()));
    };
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, file) in map {
        let Value::String(file) = file else {
            return Err(json(format!("`weight_map`: the value of `{}` is not a file name", shortened(tensor))));
        };
        files.entry(file).or_default().push(tensor);
    }
    Ok(files)
}

/// Whether a link leads into the `blobs` folder of a Hugging Face cache, where snapshots keep their contents.
fn is_hub_blob(directory: &Path, target: &Path) -> bool {
    // <cache>/models--owner--name/{snapshots/<commit>, blobs}
    let repository = directory.parent().filter(|p| p.ends_with("snapshots")).and_then(Path::parent);
    repository.is_some_and(|repository| target.parent() == Some(&repository.join("blobs")))
}

/// An open weight file with a checked header.
struct Shard {
    path: PathBuf,
    file: File,
    /// Where the numbers begin.
    data_start: u64,
    header: Metadata,
    /// The tensors to read: place in the spec, stored dtype, first and last byte of the data. In the order of the file.
    tensors: Vec<(usize, FileDtype, (usize, usize))>,
}

impl Shard {
    /// Opens `name` if it is a regular file in the directory. `named_by` is the file that asks for it.
    fn open(directory: &Path, name: &str, named_by: &Path) -> Result<Shard, ModelError> {
        let outside = || ModelError::OutsideDirectory { index: named_by.to_owned(), name: shortened(name) };
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
            return Err(outside());
        }
        let path = directory.join(name);
        let io = |source| ModelError::Io { path: path.clone(), source };
        let directory = directory.canonicalize().map_err(io)?;
        let target = path.canonicalize().map_err(io)?;
        if target.parent() != Some(&directory) && !is_hub_blob(&directory, &target) {
            return Err(outside());
        }
        let damaged = |reason: String| ModelError::Weights { path: path.clone(), reason };
        let metadata = fs::metadata(&target).map_err(io)?;
        if !metadata.is_file() {
            return Err(damaged("is not a regular file".into()));
        }
        let mut file = File::open(&target).map_err(io)?;
        let Some(after_length) = metadata.len().checked_sub(8) else {
            return Err(damaged(format!("has {} bytes; a safetensors file has at least 8", metadata.len())));
        };
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(io)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_LIMIT_BYTES.min(after_length) {
            return Err(damaged(format!(
                "claims a header of {header_bytes} bytes; the file has {} and the limit is {HEADER_LIMIT_BYTES}",
                metadata.len()
            )));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("has a broken header: {}", shortened(error))))?;
        let data_bytes = after_length - header_bytes;
        if header.data_len() as u64 != data_bytes {
            return Err(damaged(format!(
                "has {data_bytes} bytes of numbers, but its header describes {}; was it cut off?",
                header.data_len()
            )));
        }
        Ok(Shard { path, file, data_start: 8 + header_bytes, header, tensors: Vec::new() })
    }

    fn damaged(&self, reason: String) -> ModelError {
        ModelError::Weights { path: self.path.clone(), reason }
    }

    /// Checks the tensors that the model needs and notes where they are. Others are left alone: tied heads and rotary
    /// buffers are repeated in some files.
    fn find_tensors(
        &mut self,
        spec: &ArenaSpec,
        places: &HashMap<&str, usize>,
        found: &mut [bool],
    ) -> Result<(), ModelError> {
        for name in self.header.offset_keys() {
            let Some(&place) = places.get(name.as_str()) else { continue };
            let entry = &spec.entries()[place];
            let info = self.header.info(&name).expect("invariant: the header lists its own names");
            let want: &[usize] = if entry.is_vector { &[entry.columns] } else { &[entry.rows, entry.columns] };
            let reason = if info.shape != want {
                format!("has shape {:?} in {}, but config.json needs {want:?}", info.shape, self.path.display())
            } else if !matches!(info.dtype, FileDtype::F64 | FileDtype::F32 | FileDtype::F16 | FileDtype::BF16) {
                format!("is stored as {:?}; F64, F32, F16 and BF16 can be read", info.dtype)
            } else if std::mem::replace(&mut found[place], true) {
                format!("is in two weight files, the second is {}", self.path.display())
            } else {
                self.tensors.push((place, info.dtype, info.data_offsets));
                continue;
            };
            return Err(ModelError::Tensor { name, reason: shortened(reason) });
        }
        Ok(())
    }

    /// Reads and converts the numbers; each is rounded once at most. Read, not mapped: a file that shrinks meanwhile is an
    /// error and not a signal. What goes to a device is copied there while the next chunk is read.
    fn read(&mut self, params: &mut Arena, chunk: &mut [u8]) -> Result<(), ModelError> {
        let spec = Arc::clone(params.spec());
        for &(place, dtype, (start, end)) in &self.tensors {
            let io = |source| ModelError::Io { path: self.path.clone(), source };
            let entry = &spec.entries()[place];
            self.file.seek(SeekFrom::Start(self.data_start + start as u64)).map_err(io)?;
            let (mut read_bytes, mut written) = (start, entry.range().start);
            while read_bytes < end {
                let bytes = (end - read_bytes).min(chunk.len());
                self.file.read_exact(&mut chunk[..bytes]).map_err(io)?;
                let numbers = bytes * 8 / dtype.bitsize();
                let convert = |place: SliceMut<'_>| convert(place, dtype, &chunk[..bytes]);
                if !params.tensor_mut().write_with(written, numbers, convert)? {
                    let reason = format!("holds NaN or infinite numbers in {}", self.path.display());
                    return Err(ModelError::Tensor { name: entry.name.clone(), reason });
                }
                read_bytes += bytes;
                written += numbers;
            }
        }
        Ok(())
    }
}

/// Widens or rounds stored numbers; tells whether all are finite.
fn convert(mut out: SliceMut<'_>, dtype: FileDtype, bytes: &[u8]) -> bool {
    fn numbers<const N: usize>(out: &mut SliceMut<'_>, bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> bool {
        let mut finite = true;
        let values = bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).inspect(|x| finite &= x.is_finite());
        match out {
            SliceMut::F32(out) => out.iter_mut().zip(values).for_each(|(y, x)| *y = x as f32),
            SliceMut::F64(out) => out.iter_mut().zip(values).for_each(|(y, x)| *y = x),
            SliceMut::Bf16(out) => out.iter_mut().zip(values).for_each(|(y, x)| *y = bf16::from_f64(x)),
        }
        finite
    }
    match dtype {
        FileDtype::F64 => numbers(&mut out, bytes, f64::from_le_bytes),
        FileDtype::F32 => numbers(&mut out, bytes, |b| f64::from(f32::from_le_bytes(b))),
        FileDtype::BF16 => numbers(&mut out, bytes, |b| bf16::from_le_bytes(b).to_f64()),
        FileDtype::F16 => numbers(&mut out, bytes, |b| f16::from_le_bytes(b).to_f64()),
        _ => unreachable!("tensors of other dtypes are refused when they are found"),
    }
}

impl Decoder {
    /// Writes a Hugging Face directory that transformers and vLLM load unchanged. The directory appears whole or not at all;
    /// one that is there already is replaced.
    ///
    /// # Errors
    /// [`ModelError::Io`] naming the file.
    pub fn save(&self, directory: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        let name = directory.file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy().into_owned());
        let beside = |suffix: &str| directory.with_file_name(format!(".{name}.{suffix}"));
        let (temporary, old) = (beside("incomplete"), beside("replaced"));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| ModelError::Io { path, source }
        };
        for stale in [&temporary, &old] {
            if stale.exists() {
                fs::remove_dir_all(stale).map_err(at(stale))?;
            }
        }
        fs::create_dir_all(&temporary).map_err(at(&temporary))?;
        self.write_files(&temporary, options)?;
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

    fn write_files(&self, directory: &Path, options: &SaveOptions) -> Result<(), ModelError> {
        let torch_name = match options.dtype {
            Dtype::F32 => "float32",
            Dtype::F64 => "float64",
            Dtype::Bf16 => "bfloat16",
        };
        if let Some(source) = &options.carry_from {
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
                1 => "model.safetensors".to_owned(),
                n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
            };
            total_bytes += self.write_shard(&directory.join(&file), shard, options.dtype)?;
            for &tensor in shard {
                weight_map.insert(self.params.spec().entries()[tensor].name.clone(), file.clone().into());
            }
        }
        if shards.len() > 1 {
            let index = serde_json::json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
            write_json(&directory.join("model.safetensors.index.json"), &index)?;
        }
        Ok(())
    }

    /// The tensors of each file, by their place in the spec.
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

    /// Writes one file, one tensor in memory at a time; returns the bytes of its tensors.
    fn write_shard(&self, path: &Path, shard: &[usize], dtype: Dtype) -> Result<usize, ModelError> {
        let mut header = Map::new();
        header.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
        let mut offset = 0;
        let file_dtype = match dtype {
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            Dtype::Bf16 => "BF16",
        };
        for &i in shard {
            let entry = &self.params.spec().entries()[i];
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
            for &i in shard {
                let range = self.params.spec().entries()[i].range();
                let mut tensor = Tensor::zeros(self.params.dtype(), 1, range.len());
                self.params.tensor().read(range.start, tensor.slice_mut())?;
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
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create(path)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().map_err(|source| ModelError::Io { path: path.to_owned(), source })
}
