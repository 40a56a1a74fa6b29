//! Text to token batches: readers, chat templates, token store, mixture, packing, and the closed world.
//!
//! | module | holds |
//! |---|---|
//! | [`capability`] | what data teaches and tasks measure |
//! | [`tokenizer`], [`chat_template`] | text to ids, exactly as the model's own files say |
//! | [`batch`] | the flat batch of documents that a model sees |
//! | [`llm`] | text models behind one seam |
//!
//! Nothing here knows tensors or devices, and nothing prints.

pub mod batch;
pub mod capability;
pub mod chat_template;
pub mod error;
pub mod llm;
pub mod message;
pub mod tokenizer;

pub use batch::{Batch, IGNORE, TokenizedRow};
pub use capability::{Capability, Domain};
pub use chat_template::ChatTemplate;
pub use error::{DataError, Location};
pub use llm::{ChatModel, ChatReply, ChatRequest, LlmError, Sampling};
pub use message::{Message, Role};
pub use tokenizer::Tokenizer;
