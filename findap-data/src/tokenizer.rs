//! A Hugging Face tokenizer folder: text to ids and back.
//!
//! The work is done by the `tokenizers` crate. This layer adds three things: a panic inside that crate becomes a typed error;
//! text of users and corpora never turns into control tokens (only [`Tokenizer::encode_rendered`] reads them, for the output of
//! a chat template); and begin, end and stop ids are gathered from the folder's several config files.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::error::{DataError, TokenizerProblem};
use crate::files::hex;

/// No tokenizer in use is near this size.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Encodes and decodes text as the model's own tokenizer does. Cheap to share between threads by reference.
pub struct Tokenizer {
    path: PathBuf,
    /// Reads the text of special tokens as control tokens.
    with_control: tokenizers::Tokenizer,
    /// Reads the text of special tokens as ordinary text.
    plain: tokenizers::Tokenizer,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    stop_ids: Vec<u32>,
    special_ids: HashSet<u32>,
    special_pattern: Option<Regex>,
    fingerprint: String,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("vocab_size", &self.vocab_size)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Loads `tokenizer.json` from a model folder, and the special ids from `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json` and `config.json` where they exist.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if a file is missing, too large, damaged, or names a token that is not in the vocabulary.
    pub fn load(folder: &Path) -> Result<Tokenizer, DataError> {
        Self::from_parts(&folder.join("tokenizer.json"), Some(folder))
    }

    /// Loads a lone `tokenizer.json`; begin and end tokens are unknown unless it is named so in the file's folder.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_file(tokenizer_json: &Path) -> Result<Tokenizer, DataError> {
        Self::from_parts(tokenizer_json, None)
    }

    fn from_parts(tokenizer_json: &Path, folder: Option<&Path>) -> Result<Tokenizer, DataError> {
        let fail = |problem| DataError::Tokenizer { path: tokenizer_json.to_path_buf(), problem };
        let bytes = read_limited(tokenizer_json)?
            .ok_or_else(|| fail(TokenizerProblem::MissingFile { file: "tokenizer.json" }))?;
        let mut with_control =
            guard("load", || tokenizers::Tokenizer::from_bytes(&bytes)).map_err(&fail)?.map_err(|error| {
                fail(TokenizerProblem::Invalid { file: "tokenizer.json".into(), detail: error.to_string() })
            })?;
        // Cutting and padding are the packer's business; a stored setting would silently shorten documents.
        with_control.with_truncation(None).map_err(|error| {
            fail(TokenizerProblem::Invalid { file: "tokenizer.json".into(), detail: error.to_string() })
        })?;
        with_control.with_padding(None);
        let mut plain = with_control.clone();
        plain.set_encode_special_tokens(true);

        let vocabulary = with_control.get_vocab(true);
        let vocab_size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let special: Vec<(u32, String)> = with_control
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| (id, token.content))
            .collect();

        let configs = Configs::read(folder)?;
        let id_of = |field: &'static str| -> Result<Option<u32>, DataError> {
            match configs.token(field) {
                None => Ok(None),
                Some(token) => vocabulary
                    .get(token)
                    .map(|&id| Some(id))
                    .ok_or_else(|| fail(TokenizerProblem::UnknownSpecialToken { field, token: token.to_string() })),
            }
        };
        let bos = id_of("bos_token")?.or_else(|| configs.ids("bos_token_id").first().copied());
        let eos = id_of("eos_token")?.or_else(|| configs.ids("eos_token_id").first().copied());
        let pad = id_of("pad_token")?;
        let mut stop_ids: BTreeSet<u32> = configs.ids("eos_token_id").into_iter().collect();
        stop_ids.extend(eos);
        let in_vocabulary = |id: &u32| (*id as usize) < vocab_size;

        let mut hasher = Sha256::new();
        hasher.update(&bytes);
        hasher.update(format!("bos {bos:?} eos {eos:?}"));

        let tokenizer = Tokenizer {
            path: tokenizer_json.to_path_buf(),
            vocab_size,
            bos: bos.filter(in_vocabulary),
            eos: eos.filter(in_vocabulary),
            pad: pad.filter(in_vocabulary),
            stop_ids: stop_ids.into_iter().filter(in_vocabulary).collect(),
            special_ids: special.iter().map(|(id, _)| *id).collect(),
            special_pattern: special_pattern(special.iter().map(|(_, token)| token.as_str())),
            fingerprint: hex(&hasher.finalize()),
            with_control,
            plain,
        };
        // Some damaged files load and then fail on the first text.
        tokenizer.encode("a 1 \u{e9}\n", false)?;
        tokenizer.encode_rendered("a 1 \u{e9}\n")?;
        Ok(tokenizer)
    }

    /// Ids of ordinary text. Text that spells a special token stays text.
    ///
    /// With `add_bos` the begin token, where the tokenizer has one, comes first.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the library refuses or panics.
    pub fn encode(&self, text: &str, add_bos: bool) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_bos {
            ids.extend(self.bos);
        }
        if text.is_empty() {
            return Ok(ids);
        }
        let encoding = self.run("encode", || self.plain.encode_fast(text, false))?;
        self.check_plain(encoding.get_ids())?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(ids)
    }

    /// Ids of a chat template's output: special tokens in it are control tokens. Adds nothing in front or behind.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding = self.run("encode", || self.with_control.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Tokenizer::encode_rendered`], with the byte range of each token in `text`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered_with_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        let encoding = self.run("encode", || self.with_control.encode(text, false))?;
        Ok(ids_and_ranges(&encoding))
    }

    /// As [`Tokenizer::encode`] without begin token, with the byte range of each token in `text`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        let encoding = self.run("encode", || self.plain.encode(text, false))?;
        self.check_plain(encoding.get_ids())?;
        Ok(ids_and_ranges(&encoding))
    }

    /// Text of ids; ids outside of the vocabulary print nothing.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.run("decode", || self.with_control.decode(ids, skip_special))
    }

    /// One above the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token that begins a document.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a document (`eos_token` of `tokenizer_config.json`).
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The padding token, for formats that need one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Every id at which generation stops, ascending: `eos_token_id` of `generation_config.json` and `config.json`, and `eos`.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.contains(&id)
    }

    /// The id of a token given by its exact text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.with_control.token_to_id(token)
    }

    /// The token's own text; for byte-level tokenizers that is the byte alphabet, not readable text.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.with_control.id_to_token(id)
    }

    /// SHA-256 over `tokenizer.json` and the begin and end ids, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Byte ranges in `text` that spell a special token, from left to right.
    pub fn special_ranges(&self, text: &str) -> Vec<Range<usize>> {
        self.special_pattern
            .as_ref()
            .map(|pattern| pattern.find_iter(text).map(|found| found.range()).collect())
            .unwrap_or_default()
    }

    fn check_plain(&self, ids: &[u32]) -> Result<(), DataError> {
        if self.special_ids.is_empty() {
            return Ok(());
        }
        let unknown = match self.plain.get_model() {
            tokenizers::ModelWrapper::BPE(model) => {
                model.get_unk_token().as_ref().and_then(|token| self.plain.token_to_id(token))
            }
            _ => None,
        };
        let smallest = self.special_ids.iter().min().copied().unwrap_or(u32::MAX);
        for &id in ids {
            if id >= smallest && self.special_ids.contains(&id) && Some(id) != unknown {
                return Err(
                    self.fail(TokenizerProblem::ControlTokenInText { token: self.id_to_token(id).unwrap_or_default() })
                );
            }
        }
        Ok(())
    }

    fn run<T>(&self, action: &'static str, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
        guard(action, work)
            .map_err(|problem| self.fail(problem))?
            .map_err(|error| self.fail(TokenizerProblem::Refused { action, detail: error.to_string() }))
    }

    fn fail(&self, problem: TokenizerProblem) -> DataError {
        DataError::Tokenizer { path: self.path.clone(), problem }
    }
}

fn ids_and_ranges(encoding: &tokenizers::Encoding) -> Vec<(u32, Range<usize>)> {
    encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(start, end))| (id, start..end)).collect()
}

/// Several crafted files make the tokenizers crate panic instead of returning an error.
fn guard<T>(action: &'static str, work: impl FnOnce() -> T) -> Result<T, TokenizerProblem> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| TokenizerProblem::LibraryPanic { action })
}

/// Longest first, so that a token which is the beginning of another does not hide it.
fn special_pattern<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Regex> {
    let mut tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
    tokens.sort_by_key(|token| (std::cmp::Reverse(token.len()), *token));
    if tokens.is_empty() {
        return None;
    }
    let alternatives: Vec<String> = tokens.into_iter().map(regex::escape).collect();
    Regex::new(&alternatives.join("|")).ok()
}

/// The small JSON files beside `tokenizer.json`, in the order of who is asked first.
pub(crate) struct Configs {
    files: Vec<Value>,
}

impl Configs {
    pub(crate) fn read(folder: Option<&Path>) -> Result<Configs, DataError> {
        let mut files = Vec::new();
        for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json"] {
            let Some(folder) = folder else { break };
            let path = folder.join(name);
            let Some(bytes) = read_limited(&path)? else {
                continue;
            };
            let value = serde_json::from_slice(&bytes).map_err(|error| DataError::Tokenizer {
                path: folder.to_path_buf(),
                problem: TokenizerProblem::Invalid { file: name.into(), detail: error.to_string() },
            })?;
            files.push(value);
        }
        Ok(Configs { files })
    }

    /// A special token, written as a string or as `{"content": ...}`.
    pub(crate) fn token(&self, field: &str) -> Option<&str> {
        self.files.iter().find_map(|file| {
            let value = file.get(field)?;
            value.as_str().or_else(|| value.get("content")?.as_str())
        })
    }

    /// One id or a list of ids, from the first file that has the field.
    fn ids(&self, field: &str) -> Vec<u32> {
        let to_id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        self.files
            .iter()
            .find_map(|file| match file.get(field)? {
                Value::Array(list) => Some(list.iter().filter_map(to_id).collect()),
                value => to_id(value).map(|id| vec![id]),
            })
            .unwrap_or_default()
    }
}

/// The bytes of a file, or `None` where there is none.
pub(crate) fn read_limited(path: &Path) -> Result<Option<Vec<u8>>, DataError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(DataError::io("read", path, error)),
    };
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !metadata.is_file() {
        return Err(DataError::Tokenizer {
            path: path.to_path_buf(),
            problem: TokenizerProblem::Invalid { file: name(), detail: "not a regular file".into() },
        });
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(DataError::Tokenizer {
            path: path.to_path_buf(),
            problem: TokenizerProblem::TooLarge { file: name(), bytes: metadata.len(), limit_bytes: MAX_FILE_BYTES },
        });
    }
    std::fs::read(path).map(Some).map_err(|error| DataError::io("read", path, error))
}
