//! One safetensors file, read without trusting it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use findap_data::plain_words::plain_words;
use findap_tensor::tensor::MAX_FILL_BYTES;
use findap_tensor::{Arena, SliceMut};
use half::{bf16, f16};
use safetensors::tensor::{Dtype as FileDtype, Metadata};

use crate::error::ModelError;
use crate::files::shortened;

/// Longest header of a weight file: the limit of the safetensors crate.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// Bytes read and converted at a time. A stored number has at least 2 bytes, and on a device at most 4.
const CHUNK_BYTES: usize = 1 << 20;
const _: () = assert!(2 * CHUNK_BYTES <= MAX_FILL_BYTES);

/// Whether a link leads into the `blobs` folder of a Hugging Face cache, where snapshots keep their contents.
fn is_hub_blob(directory: &Path, target: &Path) -> bool {
    // <cache>/models--owner--name/{snapshots/<commit>, blobs}
    let repository = directory.parent().filter(|p| p.ends_with("snapshots")).and_then(Path::parent);
    repository.is_some_and(|repository| target.parent() == Some(&repository.join("blobs")))
}

/// An open weight file with a checked header.
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    /// Offset of the first number in the file, in bytes.
    data_start: u64,
    header: Metadata,
}

/// A tensor in its file: format, shape and bytes.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) dtype: FileDtype,
    pub(super) shape: Vec<usize>,
    /// First byte of its numbers and the byte behind the last, from the start of the data.
    bytes: (usize, usize),
}

impl Shard {
    /// Opens `name` if it is a regular file in the directory. `named_by` is the file that refers to it.
    pub(super) fn open(directory: &Path, name: &str, named_by: &Path) -> Result<Shard, ModelError> {
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
            .map_err(|error| damaged(format!("has a broken header: {}", shortened(plain_words(&error.to_string())))))?;
        let data_bytes = after_length - header_bytes;
        if header.data_len() as u64 != data_bytes {
            return Err(damaged(format!(
                "has {data_bytes} bytes of numbers, but its header describes {}; was it cut off?",
                header.data_len()
            )));
        }
        Ok(Shard { path, file, data_start: 8 + header_bytes, header })
    }

    pub(super) fn damaged(&self, reason: String) -> ModelError {
        ModelError::Weights { path: self.path.clone(), reason }
    }

    /// The error that refuses `tensor` of this file.
    pub(super) fn refuses(&self, tensor: &str, reason: String) -> ModelError {
        let reason = shortened(format!("{reason} (in {})", self.path.display()));
        ModelError::Tensor { name: shortened(tensor), reason }
    }

    pub(super) fn has(&self, tensor: &str) -> bool {
        self.header.info(tensor).is_some()
    }

    /// Refuses a tensor of another shape than `wanted_by` needs, or of a format that cannot be read.
    pub(super) fn require(
        &self,
        name: &str,
        stored: &Stored,
        want: &[usize],
        wanted_by: &str,
    ) -> Result<(), ModelError> {
        if stored.shape != want {
            let reason = format!("has shape {:?}, but {wanted_by} needs {want:?}", stored.shape);
            return Err(self.refuses(name, reason));
        }
        if !matches!(stored.dtype, FileDtype::F64 | FileDtype::F32 | FileDtype::F16 | FileDtype::BF16) {
            let reason = format!("is stored as {:?}; F64, F32, F16 and BF16 can be read", stored.dtype);
            return Err(self.refuses(name, reason));
        }
        Ok(())
    }

    /// The tensors in the order of their bytes.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, Stored)> {
        self.header.offset_keys().into_iter().map(|name| {
            let info = self.header.info(&name).expect("invariant: the header lists its own names");
            let stored = Stored { dtype: info.dtype, shape: info.shape.clone(), bytes: info.data_offsets };
            (name, stored)
        })
    }

    /// Reads a tensor and converts it; each number is rounded at most once. The file is read and not mapped, so that a file that
    /// shrinks meanwhile is an error and not a signal. A chunk is copied to a device while the next one is read.
    pub(super) fn read_to(
        &mut self,
        params: &mut Arena,
        entry: usize,
        stored: &Stored,
        chunk: &mut Vec<u8>,
    ) -> Result<(), ModelError> {
        chunk.resize(CHUNK_BYTES, 0);
        let spec = Arc::clone(params.spec());
        let entry = &spec.entries()[entry];
        let (mut read_bytes, end) = stored.bytes;
        let mut written = entry.range().start;
        while read_bytes < end {
            let bytes = (end - read_bytes).min(chunk.len());
            self.read_at(read_bytes, &mut chunk[..bytes])?;
            let numbers = bytes * 8 / stored.dtype.bitsize();
            let convert = |out: SliceMut<'_>| convert(out, stored.dtype, &chunk[..bytes]);
            if !params.tensor_mut().write_with(written, numbers, convert)? {
                return Err(self.refuses(
                    &entry.name,
                    "holds numbers that are NaN or infinite, or beyond the format that they are loaded in".into(),
                ));
            }
            read_bytes += bytes;
            written += numbers;
        }
        Ok(())
    }

    /// Reads the numbers of a tensor from `start` on.
    pub(super) fn read_part(&mut self, stored: &Stored, start: usize, out: &mut [f64]) -> Result<(), ModelError> {
        let size_bytes = stored.dtype.bitsize() / 8;
        let mut bytes = vec![0; out.len() * size_bytes];
        self.read_at(stored.bytes.0 + start * size_bytes, &mut bytes)?;
        // What is not finite equals no number that it is compared with.
        convert(SliceMut::F64(out), stored.dtype, &bytes);
        Ok(())
    }

    fn read_at(&mut self, offset: usize, out: &mut [u8]) -> Result<(), ModelError> {
        let read = self.file.seek(SeekFrom::Start(self.data_start + offset as u64));
        let read = read.and_then(|_| self.file.read_exact(out));
        read.map_err(|source| ModelError::Io { path: self.path.clone(), source })
    }
}

/// Widens or rounds stored numbers; returns whether all results are finite.
fn convert(mut out: SliceMut<'_>, dtype: FileDtype, bytes: &[u8]) -> bool {
    fn numbers<const N: usize>(out: &mut SliceMut<'_>, bytes: &[u8], read: impl Fn([u8; N]) -> f64) -> bool {
        let mut finite = true;
        let values = bytes.as_chunks::<N>().0.iter().map(|&b| read(b));
        // A number that is finite where it is stored may overflow the format that it is rounded to.
        match out {
            SliceMut::F32(out) => out.iter_mut().zip(values).for_each(|(y, x)| {
                *y = x as f32;
                finite &= y.is_finite();
            }),
            SliceMut::F64(out) => out.iter_mut().zip(values).for_each(|(y, x)| {
                *y = x;
                finite &= y.is_finite();
            }),
            SliceMut::Bf16(out) => out.iter_mut().zip(values).for_each(|(y, x)| {
                *y = bf16::from_f64(x);
                finite &= y.is_finite();
            }),
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
