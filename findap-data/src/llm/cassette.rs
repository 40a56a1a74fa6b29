//! A recording of a model's replies: JSON lines keyed by the SHA-256 of the model's name and the request.
//!
//! What another model replied is not replayed, nor what was recorded without a name: both are asked anew, and said.
//!
//! Replies are appended as they arrive, so a run that was stopped asks only for what it does not have yet. A reply that is of no
//! use is given back, but not recorded, and one that stands in an old recording is asked for again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::{ChatModel, ChatReply, ChatRequest, LlmError, Usage};
use crate::error::DataError;
use crate::files::sha256;
use crate::journal::Journal;

/// Requests handed to the recorded model at once; after each such group the replies are on disk.
const GROUP: usize = 32;

/// A line of a recording.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) key: String,
    /// [`ChatModel::name`], with the server's address where there is one. Earlier versions did not record it.
    #[serde(default)]
    pub(super) model: Option<String>,
    /// The limit of the request, which is in its key. Earlier versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<usize>,
    pub(super) reply: ChatReply,
}

/// Replays known replies and, where a model is behind it, records new ones.
pub struct Cassette<M> {
    path: PathBuf,
    model: Option<M>,
    /// The name of the model whose replies are replayed.
    replayed: String,
    notes: Mutex<Vec<String>>,
    is_useful: fn(&ChatRequest, &ChatReply) -> bool,
    tape: Mutex<Tape>,
}

struct Tape {
    replies: HashMap<String, ChatReply>,
    /// There where new replies are recorded.
    journal: Option<Journal>,
}

impl<M: ChatModel> Cassette<M> {
    /// Opens a recording, which need not exist when `model` is given. A last line that a kill cut short is no reply.
    ///
    /// # Errors
    /// [`LlmError::BadRecording`] if the file cannot be read or a line is not a recorded reply.
    pub fn open(path: &Path, model: Option<M>) -> Result<Cassette<M>, LlmError> {
        let opened = match model {
            Some(_) => Journal::open::<Entry>(path).map(|(journal, read)| (Some(journal), read)),
            None => Journal::read(path).map(|read| (None, read)),
        };
        let (journal, read) = opened.map_err(|error| bad_recording(path, error))?;
        let names: BTreeSet<&str> = read.entries.iter().filter_map(|entry| entry.model.as_deref()).collect();
        let replayed = match (&model, names.len()) {
            (Some(model), _) => model.name(),
            (None, 0 | 1) => names.iter().copied().collect(),
            (None, _) => {
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                let detail = format!("it has replies of several models ({names}); record each to a file of its own");
                return Err(LlmError::BadRecording { path: path.display().to_string(), detail });
            }
        };
        let notes = Mutex::new(others_note(path, &read.entries, &replayed).into_iter().collect());
        let own = read.entries.into_iter().filter(|entry| entry.model.as_ref() == Some(&replayed));
        let replies = own.map(|entry| (entry.key, entry.reply)).collect();
        Ok(Cassette {
            path: path.to_path_buf(),
            model,
            replayed,
            notes,
            is_useful: |_, _| true,
            tape: Mutex::new(Tape { replies, journal }),
        })
    }

    /// Records only replies of which `is_useful` is true. Without a model behind the recording all that it holds is replayed.
    pub fn only_useful(self, is_useful: fn(&ChatRequest, &ChatReply) -> bool) -> Cassette<M> {
        Cassette { is_useful, ..self }
    }

    /// The key of a request: SHA-256 of the JSON of the model's name and the request, in hex.
    pub fn key(&self, request: &ChatRequest) -> String {
        key(&self.replayed, request)
    }
}

/// The key of a request to the model of this name.
pub(super) fn key(model: &str, request: &ChatRequest) -> String {
    sha256(&serde_json::to_vec(&(model, request)).expect("invariant: requests serialise"))
}

/// The sizes of all requests and replies of a recording; `None` where a model did not say them all.
///
/// # Errors
/// [`LlmError::BadRecording`].
pub fn recorded_usage(path: &Path) -> Result<Option<Usage>, LlmError> {
    let read = Journal::read::<Entry>(path).map_err(|error| bad_recording(path, error))?;
    let add = |sum: Usage, entry: &Entry| {
        entry.reply.usage.map(|usage| Usage {
            prompt_tokens: sum.prompt_tokens + usage.prompt_tokens,
            completion_tokens: sum.completion_tokens + usage.completion_tokens,
        })
    };
    Ok(read.entries.iter().try_fold(Usage { prompt_tokens: 0, completion_tokens: 0 }, add))
}

/// How many replies are not those of `replayed`, and whose; `None` where all are.
fn others_note(path: &Path, entries: &[Entry], replayed: &str) -> Option<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.model.as_deref() != Some(replayed)) {
        *counts.entry(entry.model.as_deref().unwrap_or("a model without a name")).or_default() += 1;
    }
    let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} of {name}")).collect();
    (!counts.is_empty()).then(|| {
        let counts = counts.join(", ");
        format!("the recording {} has replies of others ({counts}); {replayed} is asked anew", path.display())
    })
}

/// The error in a form that can be cloned, its path once.
pub(super) fn bad_recording(path: &Path, error: DataError) -> LlmError {
    let detail = match error {
        DataError::Io { action, source, .. } => format!("cannot {action} it: {source}"),
        DataError::Record { location, problem, .. } => format!("{location}: {problem}"),
        other => other.to_string(),
    };
    LlmError::BadRecording { path: path.display().to_string(), detail }
}

impl<M: ChatModel> ChatModel for Cassette<M> {
    fn name(&self) -> String {
        match &self.model {
            Some(model) => model.name(),
            None => format!("recording {}", self.path.display()),
        }
    }

    fn take_notes(&self) -> Vec<String> {
        let mut notes = std::mem::take(&mut *self.notes.lock().expect("invariant: no panic holds the lock"));
        notes.extend(self.model.iter().flat_map(ChatModel::take_notes));
        notes
    }

    /// Replies are on disk after each group; what failed is not recorded and is asked again the next time.
    fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
        let keys: Vec<String> = requests.iter().map(|request| self.key(request)).collect();
        let mut tape = self.tape.lock().expect("invariant: no panic holds the lock");
        let Tape { replies, journal } = &mut *tape;
        let is_kept =
            |index: usize, reply: &ChatReply| self.model.is_none() || (self.is_useful)(&requests[index], reply);
        let is_missing = |index: &usize| replies.get(&keys[*index]).is_none_or(|reply| !is_kept(*index, reply));
        let mut missing: Vec<usize> = (0..requests.len()).filter(is_missing).collect();
        missing.sort_by_key(|index| (&keys[*index], *index));
        missing.dedup_by_key(|index| &keys[*index]);
        missing.sort_unstable();
        // An old reply that is of no use must not stand in for the answer that does not come now.
        missing.iter().for_each(|&index| drop(replies.remove(&keys[index])));
        let mut errors: HashMap<&str, LlmError> = HashMap::new();
        let mut useless: HashMap<&str, ChatReply> = HashMap::new();
        for group in missing.chunks(GROUP) {
            let (Some(model), Some(journal)) = (&self.model, &mut *journal) else { break };
            let asked: Vec<ChatRequest> = group.iter().map(|&index| requests[index].clone()).collect();
            let mut entries = Vec::new();
            for (&index, answer) in group.iter().zip(model.chat(&asked)) {
                match answer {
                    Ok(reply) if is_kept(index, &reply) => {
                        let (key, model) = (keys[index].clone(), Some(self.replayed.clone()));
                        let max_tokens = Some(requests[index].sampling.max_tokens);
                        entries.push(Entry { key, model, max_tokens, reply });
                    }
                    Ok(reply) => drop(useless.insert(&keys[index], reply)),
                    Err(error) => drop(errors.insert(&keys[index], error)),
                }
            }
            if let Err(error) = journal.append(&entries) {
                return vec![Err(bad_recording(&self.path, error)); requests.len()];
            }
            replies.extend(entries.into_iter().map(|entry| (entry.key, entry.reply)));
            if errors.values().any(|error| !error.is_of_request()) {
                break;
            }
        }
        // Where the model behind it has failed as a whole, that is the reason for all that were not asked.
        let server_error = errors.values().find(|error| !error.is_of_request()).cloned();
        let reply_to = |key: &String| {
            let known = replies.get(key).or_else(|| useless.get(key.as_str())).cloned();
            known.ok_or_else(|| {
                let reason = errors.get(key.as_str()).or(server_error.as_ref()).cloned();
                let path = self.path.display().to_string();
                reason.unwrap_or_else(|| LlmError::NotRecorded { path, key: key.clone() })
            })
        };
        keys.iter().map(reply_to).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::llm::Sampling;
    use crate::message::Message;

    struct Counting<'a>(&'a AtomicUsize);

    impl ChatModel for Counting<'_> {
        fn name(&self) -> String {
            "counting".into()
        }

        fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
            self.0.fetch_add(requests.len(), Ordering::Relaxed);
            let reply = |request: &ChatRequest| match request.messages[0].content.as_str() {
                "refused" => Err(LlmError::BadRequest { problem: "refused" }),
                text => Ok(ChatReply::of_text(text.to_uppercase())),
            };
            requests.iter().map(reply).collect()
        }
    }

    fn text(reply: &Result<ChatReply, LlmError>) -> &str {
        reply.as_ref().expect("a reply").text()
    }

    fn request(text: &str) -> ChatRequest {
        ChatRequest { messages: vec![Message::user(text)], sampling: Sampling::default() }
    }

    #[test]
    fn recorded_replies_are_not_asked_for_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tape.jsonl");
        let count = AtomicUsize::new(0);
        let open = || Cassette::open(&path, Some(Counting(&count))).expect("open");
        assert_eq!(text(&open().chat(&[request("a"), request("b")])[1]), "B");
        // What a kill in the middle of a write leaves.
        let mut file = std::fs::File::options().append(true).open(&path).expect("open");
        file.write_all(b"{\"key\": \"half").expect("write");
        assert_eq!(text(&open().chat(&[request("b"), request("c")])[1]), "C");
        assert_eq!(text(&open().chat(&[request("c")])[0]), "C");
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_request_that_fails_costs_no_other_its_reply() {
        let folder = tempfile::tempdir().expect("folder");
        let count = AtomicUsize::new(0);
        let open = || Cassette::open(&folder.path().join("tape.jsonl"), Some(Counting(&count))).expect("open");
        let requests = [request("a"), request("refused"), request("b"), request("refused"), request("a")];
        for asked_in_all in [3, 4] {
            let replies = open().chat(&requests);
            assert_eq!([0, 2, 4].map(|index| text(&replies[index])), ["A", "B", "A"]);
            assert!([1, 3].iter().all(|index| matches!(replies[*index], Err(LlmError::BadRequest { .. }))));
            assert_eq!(count.load(Ordering::Relaxed), asked_in_all, "each is asked once, what failed again");
        }
    }

    #[test]
    fn a_reply_of_no_use_is_given_back_and_asked_for_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tape.jsonl");
        let count = AtomicUsize::new(0);
        let open = || Cassette::open(&path, Some(Counting(&count))).expect("open");
        let useful = || open().only_useful(|_, reply| reply.text() != "B");
        for asked_in_all in [2, 3] {
            let replies = useful().chat(&[request("a"), request("b"), request("b")]);
            assert_eq!([0, 1, 2].map(|index| text(&replies[index])), ["A", "B", "B"]);
            assert_eq!(count.load(Ordering::Relaxed), asked_in_all);
        }
        // What an earlier version recorded.
        open().chat(&[request("b")])[0].as_ref().expect("chat");
        assert_eq!(text(&open().chat(&[request("b")])[0]), "B");
        assert_eq!(count.load(Ordering::Relaxed), 4, "recorded");
        assert_eq!(text(&useful().chat(&[request("b")])[0]), "B");
        assert_eq!(count.load(Ordering::Relaxed), 5, "asked again");
    }

    struct Named(&'static str);

    impl ChatModel for Named {
        fn name(&self) -> String {
            self.0.into()
        }

        fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
            requests.iter().map(|_| Ok(ChatReply::of_text(self.0))).collect()
        }
    }

    #[test]
    fn replies_of_one_model_are_not_replayed_as_those_of_another() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tape.jsonl");
        let ask = |name: &'static str| {
            let cassette = Cassette::open(&path, Some(Named(name))).expect("open");
            (text(&cassette.chat(&[request("a")])[0]).to_owned(), cassette.take_notes())
        };
        let num_lines = || std::fs::read_to_string(&path).expect("tape").lines().count();
        // What an earlier version recorded: the key of the request alone.
        let key = sha256(&serde_json::to_vec(&request("a")).expect("JSON"));
        let old = serde_json::json!({"key": key, "reply": ChatReply::of_text("of nobody knows whom")});
        std::fs::write(&path, format!("{old}\n")).expect("write");
        for (name, lines, noted) in [
            ("m@h1", 2, "1 of a model without a name"),
            ("m@h2", 3, "1 of a model without a name, 1 of m@h1"),
            ("n@h2", 4, "1 of m@h1, 1 of m@h2"),
            ("m@h1", 4, "1 of m@h2, 1 of n@h2"),
        ] {
            let (reply, notes) = ask(name);
            assert_eq!((reply.as_str(), num_lines()), (name, lines));
            assert!(notes.len() == 1 && notes[0].contains(noted) && notes[0].contains(name), "{notes:?}");
        }
        let replay = Cassette::<Named>::open(&path, None).map(|_| ()).expect_err("whose?").to_string();
        assert!(replay.contains("several models (m@h1, m@h2, n@h2)"), "{replay}");
    }

    #[test]
    fn a_replay_without_a_model_refuses_what_it_does_not_know() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("tape.jsonl");
        assert!(matches!(Cassette::<Counting<'_>>::open(&path, None), Err(LlmError::BadRecording { .. })));
        let count = AtomicUsize::new(0);
        Cassette::open(&path, Some(Counting(&count))).expect("open").chat(&[request("a")])[0].as_ref().expect("chat");
        let replay = Cassette::<Counting<'_>>::open(&path, None).expect("open");
        assert_eq!(text(&replay.chat(&[request("a")])[0]), "A");
        assert!(matches!(replay.chat(&[request("z")])[0], Err(LlmError::NotRecorded { .. })));
        std::fs::write(&path, "nonsense\n{}\n\n").expect("write");
        assert!(matches!(Cassette::<Counting<'_>>::open(&path, None), Err(LlmError::BadRecording { .. })));
    }
}
