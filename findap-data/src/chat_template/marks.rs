//! Characters put into contents to find out where a template prints them.

use std::collections::HashSet;
use std::ops::Range;

use crate::message::Message;

/// The second supplementary area for private use, but for the last character, which is the tokenizer's; no text in the wild uses it.
const PRIVATE: Range<char> = '\u{100000}'..'\u{10fffd}';

/// One character for each message, none of which occurs in the conversation.
pub(super) struct Marks {
    of_message: Vec<char>,
}

/// A marked rendering without its marks.
pub(super) struct Unmarked {
    pub(super) text: String,
    /// For each message, where its marks stood.
    pub(super) positions: Vec<Vec<usize>>,
}

impl Marks {
    /// `None` if the conversation has more messages than there are characters left.
    pub(super) fn unused_in(messages: &[Message]) -> Option<Marks> {
        let contents = messages.iter().flat_map(|message| message.content.chars());
        let used: HashSet<char> = contents.filter(|c| PRIVATE.contains(c)).collect();
        let of_message: Vec<char> = PRIVATE.filter(|c| !used.contains(c)).take(messages.len()).collect();
        (of_message.len() == messages.len()).then_some(Marks { of_message })
    }

    /// The content of a message with its mark at these bytes, ascending.
    pub(super) fn put(&self, message: usize, content: &str, positions: &[usize]) -> String {
        let mut marked = content.to_string();
        for &position in positions.iter().rev() {
            marked.insert(position, self.of_message[message]);
        }
        marked
    }

    pub(super) fn remove(&self, rendered: &str) -> Unmarked {
        let mut unmarked = Unmarked {
            text: String::with_capacity(rendered.len()),
            positions: vec![Vec::new(); self.of_message.len()],
        };
        for c in rendered.chars() {
            match PRIVATE.contains(&c).then(|| self.of_message.binary_search(&c)) {
                Some(Ok(message)) => unmarked.positions[message].push(unmarked.text.len()),
                _ => unmarked.text.push(c),
            }
        }
        unmarked
    }
}
