//! All weights of a Hugging Face directory: every tensor the model has, and no tensor it has no place for.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use findap_tensor::{Arena, Device, Dtype};
use serde_json::Value;

use super::shard::{Shard, Stored};
use super::{INDEX, SINGLE};
use crate::config::Config;
use crate::decoder::{Decoder, WEIGHTS};
use crate::error::ModelError;
use crate::files::{read_object, shortened};
use crate::foreign;
use crate::layout::Layout;

/// An index larger than this is not an index.
const INDEX_LIMIT_BYTES: u64 = 64 << 20;

const HEAD: &str = "lm_head.weight";

/// Reads all weights of a directory.
///
/// All headers are read first; only when every tensor of `config` was found once, with the right shape and a dtype that can be
/// read, is memory taken for them. So memory never exceeds the bytes of the files times the ratio of dtypes.
pub(super) fn load_weights(
    device: &Device,
    directory: &Path,
    config: Config,
    dtype: Dtype,
) -> Result<Decoder, ModelError> {
    let layout = Layout::new(&config);
    let spec = &layout.spec;
    let mut shards = open_shards(directory)?;
    let tensors = Tensors::find(&shards, &layout, directory)?;
    if let Some(head) = &tensors.tied_head {
        let embedding = tensors.locations.iter().find(|location| location.entry == layout.embedding.index());
        check_tied_head(&mut shards, head, embedding.expect("invariant: all tensors were found"))?;
    }
    let mut params = Arena::zeros_on(device, WEIGHTS, Arc::clone(spec), dtype)?;
    let mut chunk = Vec::new();
    for location in &tensors.locations {
        shards[location.shard].read_to(&mut params, location.entry, &location.stored, &mut chunk)?;
    }
    Ok(Decoder::new(config, params, layout))
}

/// The place in the files where a tensor is stored.
struct Location {
    /// Index of the tensor in the arena's order.
    entry: usize,
    /// Index of its file among the open ones.
    shard: usize,
    stored: Stored,
}

/// Where the files hold each tensor of a model.
struct Tensors {
    /// One location for each tensor of the arena, ordered by file and by the bytes in it.
    locations: Vec<Location>,
    /// The head that a file holds though the configuration ties it to the embedding.
    tied_head: Option<Location>,
}

impl Tensors {
    /// Finds every tensor of the model once, with the right shape and a dtype that can be read, and refuses files with others:
    /// a model without them would be another one.
    fn find(shards: &[Shard], layout: &Layout, directory: &Path) -> Result<Tensors, ModelError> {
        let entries = layout.spec.entries();
        let by_name: HashMap<&str, usize> = entries.iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect();
        let is_tied = !by_name.contains_key(HEAD);
        let mut found = vec![false; entries.len()];
        let mut tensors = Tensors { locations: Vec::new(), tied_head: None };
        let mut unknown = None;
        for (shard, file) in shards.iter().enumerate() {
            for (name, stored) in file.tensors() {
                let entry = match by_name.get(name.as_str()) {
                    Some(&entry) => entry,
                    None if is_tied && name == HEAD => layout.embedding.index(),
                    None if is_rotary_buffer(&name) => continue,
                    None => {
                        let refused = || file.refuses(&name, foreign::tensor(&name));
                        if foreign::is_of_another_format(&name) {
                            return Err(refused());
                        }
                        unknown.get_or_insert_with(refused);
                        continue;
                    }
                };
                let (rows, columns) = (entries[entry].rows, entries[entry].columns);
                let want: &[usize] = if entries[entry].is_vector { &[columns] } else { &[rows, columns] };
                file.require(&name, &stored, want, "config.json")?;
                let is_repeated = match is_tied && name == HEAD {
                    true => tensors.tied_head.replace(Location { entry, shard, stored }).is_some(),
                    false => {
                        tensors.locations.push(Location { entry, shard, stored });
                        std::mem::replace(&mut found[entry], true)
                    }
                };
                if is_repeated {
                    return Err(file.refuses(&name, "is in two weight files, of which this is the second".into()));
                }
            }
        }
        if let Some(missing) = found.iter().position(|found| !found) {
            let name = entries[missing].name.clone();
            let hint = if name == HEAD { "; is `tie_word_embeddings` right?" } else { "" };
            let beside = unknown.map_or_else(String::new, |unknown| format!("; of no use there is {unknown}"));
            let reason = format!("is in no weight file of {}{hint}{beside}", directory.display());
            return Err(ModelError::Tensor { name, reason });
        }
        unknown.map_or(Ok(tensors), Err)
    }
}

/// The rotary tables that old versions of transformers stored; they follow from the configuration.
fn is_rotary_buffer(name: &str) -> bool {
    let buffers = ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached"];
    buffers.iter().any(|buffer| name.ends_with(buffer))
}

/// Refuses a stored head that differs from the embedding to which the configuration ties it. Source: transformers 5 takes the
/// stored head then, version 4 the embedding.
fn check_tied_head(shards: &mut [Shard], head: &Location, embedding: &Location) -> Result<(), ModelError> {
    const PART: usize = 1 << 16;
    let len: usize = embedding.stored.shape.iter().product();
    let [mut stored, mut wanted] = [vec![0.0; PART], vec![0.0; PART]];
    for start in (0..len).step_by(PART) {
        let part = PART.min(len - start);
        shards[head.shard].read_part(&head.stored, start, &mut stored[..part])?;
        shards[embedding.shard].read_part(&embedding.stored, start, &mut wanted[..part])?;
        if stored[..part] != wanted[..part] {
            let reason = "differs from model.embed_tokens.weight, but config.json says `tie_word_embeddings`: true; set it to \
                          false if this head is meant, or remove the tensor";
            return Err(shards[head.shard].refuses(HEAD, reason.into()));
        }
    }
    Ok(())
}

/// Opens the weight files of a directory and reads their headers.
fn open_shards(directory: &Path) -> Result<Vec<Shard>, ModelError> {
    let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
    if !foreign::has_weights(directory)
        && let Some(reason) = foreign::folder(directory)
    {
        return Err(ModelError::NoModel { path: directory.to_owned(), reason });
    }
    if !index.exists() {
        return Ok(vec![Shard::open(directory, SINGLE, &single)?]);
    }
    let files = read_index(&index)?;
    if single.exists() && !files.contains_key(SINGLE) {
        let reason = format!(
            "beside it is {INDEX} with other files, and both may hold a model; remove the one that is not meant \
             (transformers reads {SINGLE})"
        );
        return Err(ModelError::Weights { path: single, reason });
    }
    let mut shards = Vec::new();
    for (name, expected) in files {
        let shard = Shard::open(directory, &name, &index)?;
        if let Some(absent) = expected.iter().find(|tensor| !shard.has(tensor)) {
            return Err(shard.damaged(format!("lacks tensor `{}`, which the index places in it", shortened(absent))));
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// Reads the index: the files and the tensors each should hold.
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
