//! The small files of a model folder that tokenizer and chat template share.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{DataError, TokenizerProblem};
use crate::plain_words::plain_words;

/// No tokenizer in use is near this size.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The variables of templates that nearly all folders have.
pub(crate) const COMMON_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];
/// The one variable of templates that is a list of tokens.
pub(crate) const ADDITIONAL_TOKENS: &str = "additional_special_tokens";

/// The small JSON files beside `tokenizer.json`, in the order of who is asked first.
pub(crate) struct Configs {
    files: Vec<Value>,
    /// `tokenizer_config.json` and `special_tokens_map.json`, which are the first of `files`, too.
    of_tokens: Vec<Value>,
    /// `config.json`, which is the last of `files`, too.
    model: Option<Value>,
}

impl Configs {
    pub(crate) fn read(folder: Option<&Path>) -> Result<Configs, DataError> {
        let Some(folder) = folder else { return Ok(Configs { files: Vec::new(), of_tokens: Vec::new(), model: None }) };
        let mut files = Vec::new();
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            files.extend(read_json(&folder.join(name))?);
        }
        let of_tokens = files.clone();
        files.extend(read_json(&folder.join("generation_config.json"))?);
        let model = read_json(&folder.join("config.json"))?;
        files.extend(model.clone());
        Ok(Configs { files, of_tokens, model })
    }

    /// A special token, written as a string or as `{"content": ...}`.
    pub(crate) fn token(&self, field: &str) -> Option<&str> {
        self.files.iter().find_map(|file| text_of_token(file.get(field)?))
    }

    /// The variables of a chat template that stand for tokens, as in transformers: every `*_token` of `tokenizer_config.json` and
    /// `special_tokens_map.json`, and `additional_special_tokens`, which alone is a list.
    pub(crate) fn token_variables(&self) -> Vec<(String, Vec<String>)> {
        let mut fields: BTreeSet<&str> = BTreeSet::from(COMMON_TOKENS);
        for file in &self.of_tokens {
            fields.extend(file.as_object().into_iter().flat_map(|pairs| pairs.keys().map(String::as_str)));
        }
        fields.retain(|field| field.ends_with("_token"));
        let mut variables: Vec<(String, Vec<String>)> = fields
            .into_iter()
            .filter_map(|field| Some((field.to_string(), vec![self.token(field)?.to_string()])))
            .collect();
        let additional = self.of_tokens.iter().find_map(|file| file.get(ADDITIONAL_TOKENS)?.as_array());
        if let Some(tokens) = additional {
            let tokens = tokens.iter().filter_map(text_of_token).map(str::to_string).collect();
            variables.push((ADDITIONAL_TOKENS.to_string(), tokens));
        }
        variables
    }

    /// `vocab_size` of the model's own `config.json`.
    pub(crate) fn model_vocab_size(&self) -> Option<usize> {
        self.model.as_ref()?.get("vocab_size")?.as_u64().and_then(|size| usize::try_from(size).ok())
    }

    /// One id or a list of ids, from the first file that has the field. Negative numbers stand for "none" in old configs.
    pub(crate) fn ids(&self, field: &str) -> Vec<u32> {
        let to_id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let from_file = |file: &Value| match file.get(field)? {
            Value::Array(list) => Some(list.iter().filter_map(to_id).collect()),
            value => to_id(value).map(|id| vec![id]),
        };
        // No file has it: there is no such token, which is what an empty list says.
        self.files.iter().find_map(from_file).unwrap_or_default()
    }
}

/// A token written as a string or as `{"content": ...}`.
fn text_of_token(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A chat template as it stands in a model folder.
pub(crate) struct TemplateSource {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl TemplateSource {
    /// `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`: a string, or a list of `{name, template}` of which
    /// `default` is taken.
    pub(crate) fn find(folder: &Path) -> Result<Option<TemplateSource>, DataError> {
        let path = folder.join("chat_template.jinja");
        if let Some(bytes) = read_limited(&path)? {
            let text = String::from_utf8(bytes).map_err(|_| invalid(&path, "is not UTF-8".into()))?;
            return Ok(Some(TemplateSource { path, text }));
        }
        let path = folder.join("tokenizer_config.json");
        let Some(config) = read_json(&path)? else { return Ok(None) };
        let unusable = |detail: &str| Err(invalid(&path, format!("chat_template {detail}")));
        let text = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(list)) => {
                let default = list.iter().find(|entry| entry["name"] == "default");
                match default.and_then(|entry| entry["template"].as_str()) {
                    Some(text) => text.to_string(),
                    None => {
                        let names: Vec<&str> = list.iter().filter_map(|entry| entry["name"].as_str()).collect();
                        return unusable(&format!(
                            "is a list of templates, none of them named \"default\" (there are: {}); write the one that is meant into \
                             chat_template.jinja beside it",
                            names.join(", ")
                        ));
                    }
                }
            }
            Some(_) => return unusable("is neither a string nor a list of {name, template}"),
        };
        Ok(Some(TemplateSource { path, text }))
    }
}

fn read_json(path: &Path) -> Result<Option<Value>, DataError> {
    let Some(bytes) = read_limited(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| invalid(path, plain_words(&error.to_string())))
}

fn invalid(path: &Path, detail: String) -> DataError {
    let folder = path.parent().unwrap_or(path).to_path_buf();
    DataError::Tokenizer { path: folder, problem: TokenizerProblem::Invalid { file: name_of(path), detail } }
}

/// The bytes of a file, or `None` where there is none.
pub(crate) fn read_limited(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataError::io("read", path, error)),
    };
    if !metadata.is_file() {
        return Err(DataError::Tokenizer {
            path: path.to_path_buf(),
            problem: TokenizerProblem::Invalid { file: name_of(path), detail: "not a regular file".into() },
        });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(DataError::Tokenizer {
            path: path.to_path_buf(),
            problem: TokenizerProblem::TooLarge {
                file: name_of(path),
                bytes: metadata.len(),
                limit_bytes: MAX_FILE_BYTES,
            },
        });
    }
    std::fs::read(path).map(Some).map_err(|error| DataError::io("read", path, error))
}

/// For messages only, so that a name that is not UTF-8 may be approximate.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
