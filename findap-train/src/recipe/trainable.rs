//! `trainable` of a stage, as it is written: `"all"`, `{ last_blocks = 4 }` or `{ names = ["*.self_attn.*"] }`.

use findap_data::plain_words::plain_words;
use findap_model::Trainable;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::Value;

const FORMS: &str = "write \"all\", { last_blocks = 4 } or { names = [\"*.self_attn.*\"] }";

/// The table; exactly one of the keys.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    #[serde(skip_serializing_if = "Option::is_none")]
    last_blocks: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    names: Option<Vec<String>>,
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Trainable, D::Error> {
    let refuse = |problem: &str| Err(D::Error::custom(format!("{problem}; {FORMS}")));
    match Value::deserialize(deserializer)? {
        Value::String(word) if word == "all" => Ok(Trainable::All),
        Value::Table(table) => match table.try_into() {
            Ok(Selection { last_blocks: Some(count @ 1..), names: None }) => Ok(Trainable::LastBlocks(count)),
            Ok(Selection { last_blocks: None, names: Some(names) }) if !names.is_empty() => Ok(Trainable::Names(names)),
            Ok(Selection { last_blocks: None, names: Some(_) } | Selection { last_blocks: Some(0), names: None }) => {
                refuse("nothing would be trained")
            }
            Ok(_) => refuse("give exactly one of `last_blocks` and `names`"),
            // The reader of the recipe knows better what an unknown key was meant to be.
            Err(error) if error.message().starts_with("unknown field") => refuse(error.message().trim()),
            Err(error) => refuse(&plain_words(error.message())),
        },
        other => refuse(&format!("{other} is no selection of parameters")),
    }
}

pub(super) fn serialize<S: Serializer>(trainable: &Trainable, serializer: S) -> Result<S::Ok, S::Error> {
    let (last_blocks, names) = match trainable {
        Trainable::All => return serializer.serialize_str("all"),
        Trainable::LastBlocks(count) => (Some(*count), None),
        Trainable::Names(names) => (None, Some(names.clone())),
        Trainable::Adapter(_) => return Err(S::Error::custom("an adapter is written as `lora`, not as `trainable`")),
    };
    Selection { last_blocks, names }.serialize(serializer)
}

pub(super) fn schema(_: &mut SchemaGenerator) -> Schema {
    let table = |key: &str, value: serde_json::Value| serde_json::json!({ "type": "object", "properties": { key: value }, "required": [key], "additionalProperties": false });
    json_schema!({
        "anyOf": [
            { "const": "all" },
            table("last_blocks", serde_json::json!({ "type": "integer", "minimum": 1 })),
            table("names", serde_json::json!({ "type": "array", "items": { "type": "string" } })),
        ]
    })
}

/// The default is not written down, so that a stage begun before there was this key can be resumed.
pub(super) fn is_default(trainable: &Trainable) -> bool {
    *trainable == Trainable::All
}
