//! The JSON Schema of a file format that serde reads: keys, types, defaults, and the doc comments as descriptions.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The JSON Schema of `T` as it is written in TOML, without references inside.
pub fn of<T: JsonSchema>(title: &str) -> Value {
    // Draft 7 is what editors of TOML know.
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    schema["title"] = title.into();
    schema
}

/// Removes what TOML has not (null) and what readers of a description do not need (links of rustdoc, breaks of lines).
fn simplify(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(simplify),
        Value::Object(object) => {
            remove_null(object);
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = plain(text);
            }
            object.values_mut().for_each(simplify);
        }
        _ => {}
    }
}

fn remove_null(object: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            object["type"] = only.clone();
        }
    }
    let Some(Value::Array(any)) = object.get_mut("anyOf") else { return };
    any.retain(|one| one["type"] != "null");
    if let [Value::Object(only)] = &any[..] {
        let only = only.clone();
        object.remove("anyOf");
        // The description of the key stands above the one of its type.
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

/// A doc comment as running text: one line a paragraph, and [`Name`] without its brackets.
fn plain(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n").replace("[`", "`").replace("`]", "`")
}
