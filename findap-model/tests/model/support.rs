//! Golden files, temporary model folders, and safetensors files that break one rule each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::{Dtype as FileDtype, SafeTensors};
use serde_json::{Value, json};

/// The golden numbers of the tiny model.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden").join(path)
}

/// A golden JSON file.
pub(crate) fn golden_json(path: &str) -> Value {
    let text = fs::read_to_string(golden(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The tensors of a golden file, widened to f64.
pub(crate) fn golden_tensors(path: &str) -> BTreeMap<String, Vec<f64>> {
    read_tensors(&golden(path))
}

/// The tensors of a safetensors file, widened to f64.
pub(crate) fn read_tensors(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let widen = |dtype: FileDtype, data: &[u8]| -> Vec<f64> {
        match dtype {
            FileDtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
            FileDtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            FileDtype::BF16 => data.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
            other => panic!("{}: dtype {other:?}", path.display()),
        }
    };
    file.iter().map(|(name, view)| (name.to_string(), widen(view.dtype(), view.data()))).collect()
}

/// Token ids of a JSON list.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

/// The largest absolute difference.
pub(crate) fn max_difference(left: &[f64], right: &[f64]) -> f64 {
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A copy of a golden model folder that a test may spoil.
pub(crate) fn copy_of(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_files(&golden(&format!("models/{model}")), folder.path());
    folder
}

/// Copies the files of one folder into another.
pub(crate) fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

/// Changes `config.json` of a folder.
pub(crate) fn edit_config(folder: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&folder.join("config.json"), edit);
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&fs::read_to_string(path).expect("the file")).expect("JSON");
    edit(&mut value);
    fs::write(path, value.to_string()).expect("the file");
}

/// The bytes of a safetensors file: length, header, data.
pub(crate) fn safetensors_bytes(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// The header and the data of a safetensors file.
pub(crate) fn split_safetensors(bytes: &[u8]) -> (Value, Vec<u8>) {
    let len = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).expect("a header"), bytes[8 + len..].to_vec())
}

/// A header with one f32 tensor of two numbers, for files that are refused before their names matter.
pub(crate) fn small_header() -> Value {
    json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})
}
