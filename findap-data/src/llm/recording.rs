//! The replies of a recording, to be replayed where nobody is asked.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Mutex;

use super::cassette::{Entry, bad_recording, key};
use super::{ChatModel, ChatReply, ChatRequest, LlmError};
use crate::journal::Journal;

/// Gives the replies that a model gave, at whatever address and with whatever limit of tokens they were asked for. Where it gave several
/// to one request the last counts: it was asked again because those before were not used.
pub struct Recording {
    model: String,
    /// By the key of the request: the place in the file, and the reply.
    replies: HashMap<String, (usize, ChatReply)>,
    /// Names of the model with its addresses, and limits: what a key holds beside the messages.
    askings: BTreeSet<(String, Option<usize>)>,
    notes: Mutex<Vec<String>>,
}

impl Recording {
    /// Reads the replies of the model of this name, without its address, from a file that a [`super::Cassette`] has written.
    ///
    /// # Errors
    /// [`LlmError::BadRecording`].
    pub fn read(path: &Path, model: &str) -> Result<Recording, LlmError> {
        let entries = Journal::read::<Entry>(path).map_err(|error| bad_recording(path, error))?.entries;
        let (mut replies, mut askings, mut num_others) = (HashMap::new(), BTreeSet::new(), 0);
        for (place, entry) in entries.into_iter().enumerate() {
            match entry.model.filter(|name| is_of(name, model)) {
                Some(name) => {
                    askings.insert((name, entry.max_tokens));
                    replies.insert(entry.key, (place, entry.reply));
                }
                None => num_others += 1,
            }
        }
        let note = (num_others > 0)
            .then(|| format!("{num_others} replies in {} are not of {model} and are not replayed", path.display()));
        Ok(Recording { model: model.to_owned(), replies, askings, notes: Mutex::new(note.into_iter().collect()) })
    }

    fn reply(&self, request: &ChatRequest) -> Option<&ChatReply> {
        let key_of = |(name, limit): &(String, Option<usize>)| {
            let mut asked = request.clone();
            asked.sampling.max_tokens = limit.unwrap_or(asked.sampling.max_tokens);
            key(name, &asked)
        };
        let given = self.askings.iter().filter_map(|asking| self.replies.get(&key_of(asking)));
        given.max_by_key(|(place, _)| *place).map(|(_, reply)| reply)
    }
}

/// Whether a recorded name, `model@http://host/v1`, is that of a model.
fn is_of(name: &str, model: &str) -> bool {
    name.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest.starts_with("@http"))
}

impl ChatModel for Recording {
    fn name(&self) -> String {
        self.model.clone()
    }

    fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().expect("invariant: no panic holds the lock"))
    }

    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let missing = LlmError::BadRequest { problem: "it is not among the judge's recorded replies" };
        requests.iter().map(|request| self.reply(request).cloned().ok_or_else(|| missing.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Cassette, Sampling};
    use crate::message::Message;

    /// Replies with its address and the limit.
    struct At(&'static str);

    impl ChatModel for At {
        fn name(&self) -> String {
            self.0.to_owned()
        }

        fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
            let reply = |request: &ChatRequest| format!("{} {}", self.0, request.sampling.max_tokens);
            requests.iter().map(|request| Ok(ChatReply::of_text(reply(request)))).collect()
        }
    }

    #[test]
    fn the_last_reply_of_a_model_counts_at_whatever_address_and_with_whatever_limit_it_was_asked() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tape.jsonl");
        let request = |text: &str, max_tokens: usize| ChatRequest {
            messages: vec![Message::user(text)],
            sampling: Sampling { max_tokens, ..Sampling::default() },
        };
        let ask = |name, text, limit| {
            let tape = Cassette::open(&path, Some(At(name))).expect("open");
            tape.chat(&[request(text, limit)])[0].as_ref().expect("a reply");
        };
        ask("m@http://one/v1", "a", 10);
        ask("m@http://two/v1", "a", 10);
        ask("m@http://one/v1", "b", 20);
        ask("m2@http://one/v1", "c", 20);
        let recording = Recording::read(&path, "m").expect("reads");
        let replies = recording.chat(&[request("a", 99), request("b", 99), request("c", 20)]);
        let text = |index: usize| replies[index].as_ref().expect("a reply").text();
        assert_eq!((text(0), text(1)), ("m@http://two/v1 10", "m@http://one/v1 20"));
        assert!(replies[2].as_ref().is_err_and(LlmError::is_of_request), "another model's");
        assert!(recording.take_notes()[0].contains("1 replies"), "what is not replayed is counted");
    }
}
