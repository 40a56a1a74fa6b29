//! The identity of a stage or a measurement: what it is made from, which decides whether it can be continued.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::error::{Change, TrainError};

/// What something is made from, as flat text: keys of the recipe, and fingerprints of model and data.
pub type Identity = BTreeMap<String, String>;

/// The differences between two identities.
pub fn changes(was: &Identity, now: &Identity) -> Vec<Change> {
    let keys: BTreeSet<&String> = was.keys().chain(now.keys()).collect();
    let differ = keys.into_iter().filter(|key| was.get(*key) != now.get(*key));
    differ.map(|key| Change { key: key.clone(), was: was.get(key).cloned(), now: now.get(key).cloned() }).collect()
}

/// Refuses to continue the stage in `folder` if its identity `was` another when it was begun.
pub(crate) fn require_same(folder: &Path, stage: &str, was: &Identity, now: &Identity) -> Result<(), TrainError> {
    let changes = changes(was, now);
    if changes.is_empty() {
        return Ok(());
    }
    Err(TrainError::Changed { folder: folder.into(), stage: stage.to_owned(), changes })
}

/// Writes every value below `value` as text under its full key: `a.b.c`.
pub(crate) fn flatten(key: &str, value: &Value, into: &mut Identity) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, into)),
        other => drop(into.insert(key.to_owned(), other.to_string())),
    }
}
