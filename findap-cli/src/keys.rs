//! The keys of a file format, as a list read off its JSON Schema.

use findap_data::spelling::nearest;
use serde_json::Value;

/// One key of a recipe or a task file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    /// The tables that lead to it and its name: `stage.train.learning_rate`.
    pub(crate) path: String,
    /// What may stand there, in words.
    pub(crate) kind: String,
    pub(crate) is_required: bool,
    /// What holds where the key is absent, as TOML; `None` where the text says it or there is nothing to say.
    pub(crate) default: Option<String>,
    /// What it means.
    pub(crate) text: String,
    /// The words that may stand there, each with its meaning.
    pub(crate) words: Vec<(String, String)>,
}

impl Key {
    /// What follows the key's type: `required`, `default 2`, `optional` or, where the text says more, nothing.
    pub(crate) fn presence(&self) -> Option<String> {
        let is_told = ["Default", "xactly one", "t most one"].iter().any(|word| self.text.contains(word));
        match &self.default {
            _ if self.is_required => Some("required".to_owned()),
            Some(default) => Some(format!("default {default}")),
            None if is_told || self.kind == "table" => None,
            None => Some("optional".to_owned()),
        }
    }

    fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }
}

/// Every key that the schema describes, tables before what is in them.
pub(crate) fn keys(schema: &Value) -> Vec<Key> {
    let mut keys = Vec::new();
    collect(schema, "", &mut keys);
    keys
}

fn collect(schema: &Value, path: &str, keys: &mut Vec<Key>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties.iter().filter(|(_, property)| !property["description"].is_null()) {
            let is_required = schema["required"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
            keys.push(key(join(name), property, is_required));
            collect(property, &join(name), keys);
        }
    }
    if schema["items"].is_object() {
        collect(&schema["items"], path, keys);
    }
    for variant in alternatives(schema) {
        match tag(variant) {
            // A table for each word of its tag, such as `stage.train`.
            Some(word) => {
                let mut table = key(join(word), variant, false);
                table.kind = "table".to_owned();
                keys.push(table);
                collect(variant, &join(word), keys);
            }
            None => collect(variant, path, keys),
        }
    }
}

fn key(path: String, schema: &Value, is_required: bool) -> Key {
    let text = schema["description"].as_str().unwrap_or_default();
    let default = schema.get("default").map(toml_text);
    let text = match &default {
        Some(default) => without_default(text, default),
        None => text.strip_suffix("Required.").map_or(text, str::trim_end),
    };
    Key { kind: kind(schema), is_required, default, text: text.to_owned(), words: words(schema), path }
}

/// The text without its last sentence, where that says the default in these words.
fn without_default<'a>(text: &'a str, default: &str) -> &'a str {
    let Some((before, said)) = text.rsplit_once("Default ") else { return text };
    let plain = |text: &str| text.replace(['`', '"'], "");
    let (said, want) = (plain(said), plain(default));
    let said = said.strip_suffix('.').unwrap_or(&said);
    if said == want || (said == "none" && want == "[]") { before.trim_end() } else { text }
}

/// A value as it stands in a recipe.
fn toml_text(value: &Value) -> String {
    match value {
        Value::Number(number) => match number.as_f64().filter(|value| number.is_f64() && value.fract() == 0.0) {
            Some(whole) => format!("{whole}"),
            None if number.is_f64() && number.as_f64().is_some_and(|small| small < 1e-3) => {
                format!("{:e}", number.as_f64().unwrap_or_default())
            }
            None => number.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    let several = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
    several("oneOf").iter().chain(several("anyOf"))
}

/// The word that tells this table from its alternatives.
fn tag(schema: &Value) -> Option<&str> {
    schema["properties"].as_object()?.values().find_map(|property| property["const"].as_str())
}

/// The words that a key may have, or the names of the tables that may stand there, with their meanings.
fn words(schema: &Value) -> Vec<(String, String)> {
    let described = |schema: &Value| schema["description"].as_str().unwrap_or_default().to_owned();
    let word = |variant: &Value| {
        let only = || variant["properties"].as_object().filter(|table| table.len() == 1)?.keys().next().cloned();
        let name = variant["const"].as_str().map(str::to_owned).or_else(only)?;
        Some((name, described(variant)))
    };
    let untagged = |schema: &'_ Value| -> Vec<(String, String)> {
        alternatives(schema).filter(|variant| tag(variant).is_none()).filter_map(word).collect()
    };
    let own = untagged(schema).into_iter().filter(|(_, text)| !text.is_empty());
    own.chain(untagged(&schema["items"])).collect()
}

/// What may stand at a key, in words.
fn kind(schema: &Value) -> String {
    /// More words than this are named below the text only.
    const MOST_NAMED: usize = 4;
    if let Some(word) = schema["const"].as_str() {
        return format!("{word:?}");
    }
    let mut kinds: Vec<String> = Vec::new();
    for variant in alternatives(schema) {
        let kind = if tag(variant).is_some() { "table".to_owned() } else { kind(variant) };
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    if kinds.len() > MOST_NAMED {
        let has_tables = kinds.iter().any(|kind| kind == "table");
        return if has_tables { "word or table" } else { "word" }.to_owned();
    }
    if !kinds.is_empty() {
        return kinds.join(" or ");
    }
    match schema["type"].as_str().unwrap_or_default() {
        "string" => "text".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" if schema["maxItems"].is_number() => {
            format!("list of {} {}s", schema["maxItems"], kind(&schema["items"]))
        }
        "array" => match kind(&schema["items"]).as_str() {
            "text" => "list of texts".to_owned(),
            "table" => "tables".to_owned(),
            "word" => "list of words".to_owned(),
            "word or table" => "list of words and tables".to_owned(),
            other => format!("list of {other}"),
        },
        "object" => "table".to_owned(),
        "" => "anything".to_owned(),
        other => other.to_owned(),
    }
}

/// The keys that `asked` names: a key, a table with all that is in it, or a key wherever it stands. Names of members are passed over,
/// as in `stage.group1.learning_rate`.
///
/// # Errors
/// The names that may have been meant.
pub(crate) fn find<'a>(keys: &'a [Key], asked: &str) -> Result<Vec<&'a Key>, Vec<String>> {
    let asked = asked.trim_matches(['[', ']', '.', ' ']);
    let found = |is_meant: &dyn Fn(&Key) -> bool| -> Option<Vec<&'a Key>> {
        let found: Vec<&Key> = keys.iter().filter(|key| is_meant(key)).collect();
        (!found.is_empty()).then_some(found)
    };
    let below = format!("{asked}.");
    let (behind, inside) = (format!(".{asked}"), format!(".{asked}."));
    let (first, last) = (asked.split('.').next(), asked.rsplit('.').next().unwrap_or_default());
    found(&|key| key.path == asked || key.path.starts_with(&below))
        .or_else(|| found(&|key| key.path.ends_with(&behind) || key.path.contains(&inside)))
        .or_else(|| found(&|key| asked.contains('.') && key.path.split('.').next() == first && key.name() == last))
        .ok_or_else(|| similar(keys, last))
}

/// Keys whose name holds `word` or is spelt most like it, of each name the first.
fn similar(keys: &[Key], word: &str) -> Vec<String> {
    let near = nearest(word, keys.iter().map(Key::name));
    let is_like = |name: &str| (word.len() > 2 && name.contains(word)) || near.as_deref() == Some(name);
    let mut names: Vec<&str> = Vec::new();
    let mut paths = Vec::new();
    for key in keys.iter().filter(|key| is_like(key.name())) {
        if !names.contains(&key.name()) {
            names.push(key.name());
            paths.push(key.path.clone());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Vec<Key> {
        keys(&findap_train::recipe::schema())
    }

    #[test]
    fn every_key_says_what_it_means_and_what_holds_without_it() {
        let task = keys(&findap_eval::task::schema());
        assert!(recipe().len() > 100 && task.len() > 50, "{} and {} keys", recipe().len(), task.len());
        for key in recipe().iter().chain(&task) {
            assert!(key.text.len() > 3 && key.text.trim_end().ends_with(['.', ':']), "{}: {:?}", key.path, key.text);
            // A default that the text names must be the one that serde takes, or it stays in the text.
            let says_another = key.default.is_some() && key.text.contains("Default ");
            assert!(!says_another, "{} has the default {:?}, and its text: {}", key.path, key.default, key.text);
            assert!(!key.is_required || !key.text.contains("Default"), "{}", key.path);
            assert!(key.is_required || !key.text.contains("Required."), "{} is not required", key.path);
        }
    }

    #[test]
    fn a_key_is_found_by_its_path_its_name_and_the_name_of_a_member() {
        let keys = recipe();
        let paths = |asked: &str| -> Vec<String> {
            find(&keys, asked).map(|found| found.iter().map(|key| key.path.clone()).collect()).unwrap_or_default()
        };
        assert_eq!(paths("stage.train.learning_rate"), ["stage.train.learning_rate"]);
        let both = ["stage.train.learning_rate", "stage.align.learning_rate"];
        assert_eq!(paths("learning_rate"), both);
        assert_eq!(paths("stage.group1.learning_rate"), both);
        assert_eq!(paths("data.news.path"), ["data.path"]);
        assert_eq!(paths("judge.url"), ["stage.distill.judge.url", "eval.judge.url"]);
        assert!(paths("judge").contains(&"stage.distill.judge.url".to_owned()));
        assert!(paths("[stage.distill]").contains(&"stage.distill.exercises".to_owned()));
        assert!(paths("[[data]]").iter().all(|path| path.starts_with("data")));
        assert_eq!(find(&keys, "lerning_rate").unwrap_err(), ["stage.train.learning_rate"]);
        assert!(find(&keys, "warmup").unwrap_err().contains(&"stage.train.warmup_ratio".to_owned()));
        assert!(find(&keys, "zzzzzzzzzzzzzzzz").unwrap_err().is_empty());
    }

    #[test]
    fn a_key_has_its_type_default_and_words() {
        let keys = recipe();
        let one = |path: &str| find(&keys, path).unwrap()[0].clone();
        let told = |path: &str| format!("{}; {}", one(path).kind, one(path).presence().unwrap_or_default());
        assert_eq!(told("stage.train.learning_rate"), "number; required");
        assert_eq!(told("stage.train.betas"), "list of 2 numbers; default [0.9, 0.95]");
        assert_eq!(told("stage.train.epsilon"), "number; default 1e-8");
        assert_eq!(told("stage.align.nll_weight"), "number; default 1");
        assert_eq!(told("data.path"), "text or list of texts; required");
        assert_eq!(told("model.compute"), "\"bf16\" or \"f32\" or \"f64\"; default \"f32\"");
        assert_eq!(told("stage.train.text"), "list of texts; default []");
        assert_eq!(told("stage.train.epochs"), "number; ");
        assert_eq!(told("world.finance_texts"), "integer; default 5000");
        assert_eq!(one("stage.train.join").words[0].0, "joint");
    }
}
