//! Text to token batches: readers, chat templates, token store, mixture, packing, and the closed world.

pub mod capability;
pub mod message;

pub use capability::{Capability, Domain};
pub use message::{Message, Role};
