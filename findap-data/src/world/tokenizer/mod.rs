//! The world's tokenizer: byte-level BPE with single digits, shaped like that of Llama 3, whose special tokens are last.

use std::path::Path;

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

use super::{WorldError, WorldFile};

/// Words with the blank before them, single digits, runs of signs, line ends, other blanks.
const SPLIT: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The special tokens in the order of their ids, which follow those of all other tokens.
pub const SPECIAL_TOKENS: [&str; 8] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
];

const CHAT_TEMPLATE: &str = include_str!("../llama3.jinja");

/// Trains a tokenizer of at most `vocab_size` entries on the training texts and conversations of a world and writes
/// `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and `chat_template.jinja` into
/// `folder`. Returns the number of entries. The same world gives the same bytes.
///
/// # Errors
/// [`WorldError::Tokenizer`] where training fails, [`WorldError::Io`] where a file cannot be written.
pub fn train_tokenizer(files: &[WorldFile], vocab_size: usize, folder: &Path) -> Result<usize, WorldError> {
    let tokenizer =
        train(texts_of(files), vocab_size).map_err(|error| WorldError::Tokenizer { reason: error.to_string() })?;
    let json = tokenizer.to_string(true).map_err(|error| WorldError::Tokenizer { reason: error.to_string() })?;
    let special =
        json!({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": "<|finetune_right_pad_id|>"});
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": false,
        "chat_template": CHAT_TEMPLATE,
    });
    for (key, value) in special.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    // Where a model made with this tokenizer ends its turn, for programs that do not ask the tokenizer.
    let ids = |key: &str| special[key].as_str().and_then(|token| tokenizer.token_to_id(token));
    let generation = json!({
        "bos_token_id": ids("bos_token"), "eos_token_id": [ids("eos_token")], "pad_token_id": ids("pad_token"),
    });
    for (name, text) in [
        ("tokenizer.json", json),
        ("generation_config.json", format!("{generation:#}\n")),
        ("tokenizer_config.json", format!("{config:#}\n")),
        ("special_tokens_map.json", format!("{special:#}\n")),
        ("chat_template.jinja", CHAT_TEMPLATE.to_owned()),
    ] {
        let path = folder.join(name);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(|source| WorldError::Io { path: path.clone(), source })?;
    }
    Ok(tokenizer.get_vocab_size(true))
}

/// What a model will read: texts and messages of all files but the evaluation's.
fn texts_of(files: &[WorldFile]) -> Vec<String> {
    let mut texts = Vec::new();
    for row in files.iter().filter(|file| !file.name.starts_with("eval/")).flat_map(|file| &file.rows) {
        texts.extend(row["text"].as_str().map(str::to_owned));
        let messages = row["messages"].as_array().into_iter().flatten();
        texts.extend(messages.filter_map(|message| message["content"].as_str()).map(str::to_owned));
    }
    // The words of the template stand in no row.
    texts.extend(["system", "user", "assistant"].map(|role| format!("{role}\n\n")).into_iter().cycle().take(300));
    texts
}

fn train(texts: Vec<String>, vocab_size: usize) -> tokenizers::Result<Tokenizer> {
    let split = Split::new(SplitPattern::Regex(SPLIT.to_owned()), SplitDelimiterBehavior::Isolated, false)?;
    let byte_level = ByteLevel::new(false, true, false);
    let mut tokenizer = Tokenizer::new(BPE::builder().ignore_merges(true).build()?);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(split),
        PreTokenizerWrapper::ByteLevel(byte_level),
    ])));
    tokenizer.with_decoder(Some(byte_level));
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size - SPECIAL_TOKENS.len())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .min_frequency(2)
        .show_progress(false)
        .build();
    let mut trainer = tokenizers::models::TrainerWrapper::from(trainer);
    tokenizer.train(&mut trainer, texts.into_iter())?;
    let special: Vec<AddedToken> = SPECIAL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(special)?;
    let begin = SPECIAL_TOKENS[0];
    let id = tokenizer.token_to_id(begin).expect("invariant: added above");
    let template =
        TemplateProcessing::builder().try_single(format!("{begin} $A"))?.special_tokens(vec![(begin, id)]).build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests;
