//! Text to token batches: readers, chat templates, token store, mixture, packing, and the closed world.
//!
//! | module | holds |
//! |---|---|
//! | [`capability`] | what data teaches and tasks measure |
//! | [`tokenizer`], [`chat_template`] | text to ids, exactly as the model's own files say |
//! | [`batch`] | the flat batch of documents that a model sees |
//! | [`readers`], [`encode`], [`store`] | files to records to documents to a memory-mapped token store |
//! | [`mixture`], [`packer`], [`loader`] | which rows, in which contexts, in which optimizer step |
//! | [`llm`] | text models behind one seam |
//! | [`files`] | files that are whole or not there, and their hashes |
//! | [`journal`] | files of JSON lines that survive a kill |
//! | [`inspect`] | rows as a person wants to see them |
//! | [`plain_words`] | what parsers say, in words of people who do not know Rust |
//! | [`spelling`] | what a misspelt name was probably meant to be |
//! | [`reward_model`] | what a generative reward model is asked, and its verdicts |
//! | [`world`] | the closed world: facts, texts, conversations, exercises, held-out questions |
//!
//! Nothing here knows tensors or devices, and nothing prints.

pub mod batch;
pub mod capability;
pub mod chat_template;
pub mod encode;
pub mod error;
pub mod files;
mod guard;
pub mod inspect;
pub mod journal;
pub mod llm;
pub mod loader;
pub mod message;
pub mod mixture;
mod model_files;
pub mod packer;
pub mod plain_words;
pub mod readers;
pub mod reward_model;
pub mod schema;
mod shuffle;
pub mod spelling;
pub mod store;
pub mod tokenizer;
pub mod world;

pub use batch::{Batch, IGNORE, TokenizedRow};
pub use capability::{Capability, Domain};
pub use chat_template::ChatTemplate;
pub use error::{DataError, Location};
pub use llm::{ChatModel, ChatReply, ChatRequest, LlmError, Sampling};
pub use loader::{Fill, Length, Loader, LoaderOptions, LoaderState, MicroBatch, Step};
pub use message::{Message, Role};
pub use mixture::{Join, Mixture, MixtureReport, RowRef};
pub use packer::{Strategy, pack};
pub use readers::{Format, Kind, ReadOptions, Record};
pub use store::{Source, TokenStore};
pub use tokenizer::Tokenizer;

/// The program of the README, which is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeProgram;
