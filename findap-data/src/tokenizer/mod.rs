//! A Hugging Face tokenizer folder: text to ids and back.
//!
//! The work is done by the `tokenizers` crate. This layer adds three things: a panic inside that crate becomes a typed error;
//! text of users and corpora never turns into control tokens; and begin, end and stop ids are gathered from the folder's several
//! config files.
//!
//! Control tokens are the added tokens that are marked as special in `tokenizer.json`, and those that the folder's chat template
//! writes, marked or not. Text is read by a second tokenizer in which each of them begins with one more character, `MARK`: what a
//! chat template writes gets that character before it is read, so that no normalizer, and no flag of a token, can make a control token
//! of anything else. All other rules of the library, such as blanks that a token takes with it, hold as they are.

mod control;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokenizers::{Model as _, Normalizer as _};

pub(crate) use self::control::AddedToken;
use self::control::{AddedTokens, is_written, may_be_composed};
use crate::chat_template::Vocabulary;
use crate::error::{DataError, TokenizerProblem};
use crate::files::hex;
use crate::guard::{self, Panicked};
use crate::model_files::{Configs, TemplateSource, read_limited};
use crate::plain_words::plain_words;

/// Stands before control tokens in the text that [`Tokenizer::protecting`] reads: the last character for private use.
const MARK: char = '\u{10fffd}';

/// Encodes and decodes text as the model's own tokenizer does. Cheap to share between threads by reference.
pub struct Tokenizer {
    path: PathBuf,
    /// As the file says; reads every spelling of an added token as that token.
    with_control: tokenizers::Tokenizer,
    /// Reads the text of control tokens as ordinary text, unless [`MARK`] stands before it.
    protecting: tokenizers::Tokenizer,
    /// What the ids that `protecting` gives to added tokens are in the file.
    original_ids: HashMap<u32, u32>,
    added_tokens: AddedTokens,
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    unknown: Option<u32>,
    text_prefix: Vec<u32>,
    stop_ids: Vec<u32>,
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
        let invalid = |detail: String| fail(TokenizerProblem::Invalid { file: "tokenizer.json".into(), detail });
        let bytes = read_limited(tokenizer_json)?
            .ok_or_else(|| fail(TokenizerProblem::MissingFile { file: "tokenizer.json" }))?;
        let mut with_control = guard("load", || tokenizers::Tokenizer::from_bytes(&bytes))
            .map_err(&fail)?
            .map_err(|error| invalid(error.to_string()))?;
        // Cutting and padding are the packer's business; a stored setting would silently shorten documents.
        with_control.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        with_control.with_padding(None);

        let configs = Configs::read(folder)?;
        let template = folder.map(TemplateSource::find).transpose()?.flatten();
        let template = template.map(|template| Vocabulary::of(&template.text));
        let variables = configs.token_variables();
        let is_written = |text: &str| template.as_ref().is_some_and(|template| is_written(template, &variables, text));
        let added = with_control.get_added_tokens_decoder().into_iter().map(|(id, token)| AddedToken {
            id,
            is_special: token.special,
            is_written: is_written(&token.content),
            is_composed: template.as_ref().is_some_and(|template| may_be_composed(template, &token.content)),
            text: token.content,
        });
        let added_tokens = AddedTokens::new(added.collect()).map_err(|detail| {
            invalid(format!("its added tokens cannot be kept apart from the text of users: {detail}"))
        })?;
        let (protecting, original_ids) = guard("load", || protecting(&with_control, &added_tokens))
            .and_then(|result| {
                result.map_err(|detail| TokenizerProblem::Invalid { file: "tokenizer.json".into(), detail })
            })
            .map_err(&fail)?;

        let vocabulary = with_control.get_vocab(true);
        let vocab_size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
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
        // A config may name ids that only the model's padded vocabulary has: nothing here can write or read them.
        let in_vocabulary = |id: &u32| (*id as usize) < vocab_size;

        let mut tokenizer = Tokenizer {
            path: tokenizer_json.to_path_buf(),
            vocab_size,
            bos: bos.filter(in_vocabulary),
            eos: eos.filter(in_vocabulary),
            pad: pad.filter(in_vocabulary),
            unknown: unknown_id(&bytes, &vocabulary).map_err(invalid)?,
            text_prefix: Vec::new(),
            stop_ids: stop_ids.into_iter().filter(in_vocabulary).collect(),
            fingerprint: String::new(),
            with_control,
            protecting,
            original_ids,
            added_tokens,
        };
        // Some damaged files load and then fail on the first text.
        tokenizer.encode("a 1 \u{e9}\n", false)?;
        tokenizer.encode_rendered("a 1 \u{e9}\n")?;
        tokenizer.text_prefix = tokenizer.added_before_text()?;
        tokenizer.fingerprint = tokenizer.digest(&bytes, bos, eos);
        if let Some(vocab_size) = configs.model_vocab_size()
            && let Some((id, token)) = tokenizer.first_beyond(vocab_size)
        {
            return Err(fail(TokenizerProblem::BeyondModel { id, token, vocab_size }));
        }
        Ok(tokenizer)
    }

    /// What the file's post-processor puts before a text; transformers asks nothing else, not even `add_bos_token`.
    fn added_before_text(&self) -> Result<Vec<u32>, DataError> {
        let encoding = self.run("encode", || self.with_control.encode_fast("a", true))?;
        let ids = encoding.get_ids().iter().zip(encoding.get_special_tokens_mask());
        Ok(ids.take_while(|(_, is_added)| **is_added == 1).map(|(&id, _)| id).collect())
    }

    /// Hashes all that decides about ids: what is as in most folders (the begin token before text, only special tokens control) adds
    /// nothing.
    fn digest(&self, tokenizer_json: &[u8], bos: Option<u32>, eos: Option<u32>) -> String {
        let mut hasher = Sha256::new();
        hasher.update(tokenizer_json);
        hasher.update(format!("bos {bos:?} eos {eos:?}"));
        if self.text_prefix != Vec::from_iter(bos) {
            hasher.update(format!("before text {:?}", self.text_prefix));
        }
        for token in self.added_tokens.iter().filter(|token| token.is_control() && !token.is_special) {
            hasher.update(format!("control {}", token.id));
        }
        hex(&hasher.finalize())
    }

    /// Ids of ordinary text. Text that spells a control token stays text.
    ///
    /// With `add_prefix` it begins with [`Tokenizer::text_prefix`].
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] if the library refuses or panics, or makes a control token of the text.
    pub fn encode(&self, text: &str, add_prefix: bool) -> Result<Vec<u32>, DataError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_prefix {
            ids.extend(&self.text_prefix);
        }
        if text.is_empty() {
            return Ok(ids);
        }
        let encoding = self.run("encode", || self.protecting.encode_fast(text, false))?;
        for &id in encoding.get_ids() {
            let id = self.original_id(id);
            self.check_is_text(id)?;
            ids.push(id);
        }
        Ok(ids)
    }

    /// Ids of a chat template's output in which every spelling of an added token is that token, whoever wrote it. Adds nothing in
    /// front or behind.
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

    /// As [`Tokenizer::encode`] without prefix, with the byte range of each token in `text`.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_ranges(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        self.encode_with_control(text, &[])
    }

    /// Ids and byte ranges of a text in which control tokens begin at the bytes `control`, ascending, and nowhere else.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub(crate) fn encode_with_control(
        &self,
        text: &str,
        control: &[usize],
    ) -> Result<Vec<(u32, Range<usize>)>, DataError> {
        let mut control = control.to_vec();
        loop {
            let marked = with_marks(text, &control);
            let marks: Vec<usize> = control.iter().enumerate().map(|(n, at)| at + n * MARK.len_utf8()).collect();
            let num_before = |byte: usize| marks.partition_point(|&mark| mark < byte);
            let encoding = self.run("encode", || self.protecting.encode(marked.as_str(), false))?;
            let mut is_read = vec![false; control.len()];
            let mut tokens = ids_and_ranges(&encoding);
            for (id, range) in &mut tokens {
                *id = self.original_id(*id);
                let marks = num_before(range.start)..num_before(range.end);
                *range = range.start - marks.start * MARK.len_utf8()..range.end - marks.end * MARK.len_utf8();
                if self.added_tokens.is_control(*id) && !marks.is_empty() {
                    is_read[marks].fill(true);
                } else {
                    self.check_is_text(*id)?;
                }
            }
            if is_read.iter().all(|&is_read| is_read) {
                return Ok(tokens);
            }
            // Here the library takes the spelling for text, too: the token wants to be a word of its own, or is looked for after
            // normalization, which has put something else there.
            let mut is_read = is_read.into_iter();
            control.retain(|_| is_read.next().unwrap_or(false));
        }
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

    /// What stands before a plain text: the begin token where the tokenizer's own file adds one, as `AutoTokenizer` of transformers
    /// does, else nothing.
    pub fn text_prefix(&self) -> &[u32] {
        &self.text_prefix
    }

    /// Every id at which generation stops, ascending: `eos_token_id` of `generation_config.json` and `config.json`, and `eos`.
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop_ids
    }

    /// Whether `id` is a control token: special, or written by the chat template.
    pub fn is_special(&self, id: u32) -> bool {
        self.added_tokens.is_control(id)
    }

    /// The first token that a text or conversation can come to and that a model of `model_vocab_size` tokens does not have.
    /// Reserved tokens that nobody writes may lie beyond a model's vocabulary.
    fn first_beyond(&self, model_vocab_size: usize) -> Option<(u32, String)> {
        let is_reserved = |id: u32| {
            let is_added_here = self.text_prefix.contains(&id) || self.bos == Some(id) || self.eos == Some(id);
            !is_added_here
                && self.added_tokens.iter().any(|token| token.id == id && token.is_special && !token.is_written)
        };
        let beyond = self.with_control.get_vocab(true).into_iter().filter(|(_, id)| *id as usize >= model_vocab_size);
        beyond.map(|(token, id)| (id, token)).filter(|(id, _)| !is_reserved(*id)).min()
    }

    /// The id of a token given by its exact text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.with_control.token_to_id(token)
    }

    /// The token's own text; for byte-level tokenizers that is the byte alphabet, not readable text.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.with_control.id_to_token(id)
    }

    /// SHA-256 over `tokenizer.json`, the begin and end ids, what stands before text and what the template makes control tokens, in hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Byte ranges in `text` that spell a control token, from left to right.
    pub fn special_ranges(&self, text: &str) -> Vec<Range<usize>> {
        self.added_tokens_in(text).into_iter().filter(|(token, _)| token.is_control()).map(|(_, range)| range).collect()
    }

    /// The added tokens that `text` spells, from left to right.
    pub(crate) fn added_tokens_in(&self, text: &str) -> Vec<(&AddedToken, Range<usize>)> {
        self.added_tokens.spelt_in(text)
    }

    fn original_id(&self, id: u32) -> u32 {
        // All other ids are the model's own.
        self.original_ids.get(&id).copied().unwrap_or(id)
    }

    /// A model's own vocabulary may hold control tokens, and reach them from text. What stands for unknown text is no control token.
    fn check_is_text(&self, id: u32) -> Result<(), DataError> {
        if self.added_tokens.is_control(id) && Some(id) != self.unknown {
            let token = self.id_to_token(id).unwrap_or_else(|| id.to_string());
            return Err(self.fail(TokenizerProblem::ControlTokenInText { token }));
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

fn with_marks(text: &str, positions: &[usize]) -> String {
    let mut marked = String::with_capacity(text.len() + positions.len() * MARK.len_utf8());
    let mut from = 0;
    for &position in positions {
        marked.push_str(&text[from..position]);
        marked.push(MARK);
        from = position;
    }
    marked.push_str(&text[from..]);
    marked
}

/// The same tokenizer with [`MARK`] before every control token, and what its ids of added tokens are in the file.
fn protecting(
    original: &tokenizers::Tokenizer,
    added_tokens: &AddedTokens,
) -> Result<(tokenizers::Tokenizer, HashMap<u32, u32>), String> {
    let as_text = |error: tokenizers::Error| error.to_string();
    let mut protecting = tokenizers::Tokenizer::new(original.get_model().clone());
    protecting.with_normalizer(original.get_normalizer().cloned()).map_err(as_text)?;
    protecting.with_pre_tokenizer(original.get_pre_tokenizer().cloned());
    protecting.with_post_processor(original.get_post_processor().cloned());

    let settings = original.get_added_tokens_decoder();
    let mut tokens = Vec::new();
    for token in added_tokens.iter() {
        let mut added = settings[&token.id].clone();
        if token.is_control() {
            added.content.insert(0, MARK);
            if added.normalized
                && let Some(normalizer) = original.get_normalizer()
            {
                let mut text = tokenizers::NormalizedString::from(added.content.as_str());
                normalizer.normalize(&mut text).map_err(as_text)?;
                if !text.get().contains(MARK) {
                    return Err(format!(
                        "its normalizer removes characters for private use, so that the text of users cannot be kept apart from \
the control token '{}'; set \"normalized\": false for it in added_tokens",
                        token.text
                    ));
                }
            }
        }
        tokens.push((token.id, added));
    }
    protecting.add_tokens(tokens.iter().map(|(_, added)| added.clone())).map_err(as_text)?;

    let mut original_ids = HashMap::new();
    for (id, added) in tokens {
        let new_id = protecting.token_to_id(&added.content).ok_or_else(|| format!("added token {id} is not read"))?;
        let is_model_id = original.get_model().id_to_token(new_id).is_some();
        if new_id != id && is_model_id {
            return Err(format!("its vocabulary skips ids, so that those of added tokens are ambiguous (id {new_id})"));
        }
        original_ids.insert(new_id, id);
    }
    Ok((protecting, original_ids))
}

/// The id of what the model cannot spell; tokenizers of bytes have none.
fn unknown_id(tokenizer_json: &[u8], vocabulary: &HashMap<String, u32>) -> Result<Option<u32>, String> {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        unk_token: Option<String>,
        unk_id: Option<u32>,
    }
    let File { model } = serde_json::from_slice(tokenizer_json).map_err(|error| plain_words(&error.to_string()))?;
    Ok(model.unk_id.or_else(|| vocabulary.get(model.unk_token.as_ref()?).copied()))
}

#[cfg(test)]
mod tests;

/// Calls the tokenizers library, which panics on several crafted files.
fn guard<T>(action: &'static str, work: impl FnOnce() -> T) -> Result<T, TokenizerProblem> {
    guard::guard(work).map_err(|Panicked| TokenizerProblem::LibraryPanic { action })
}
