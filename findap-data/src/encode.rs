//! Records to documents with loss masks.
//!
//! Text: one begin token (where the tokenizer's own file puts one before a text) and one end token per document; a longer text is cut
//! into consecutive pieces that leave room for both, each with its own begin and end; loss on every token but the begin token. A
//! document ends with the end token also where none begins it, so that packed documents are told apart. Conversations: through the
//! chat template, loss on assistant turns; longer than the context is dropped and counted, never cut. Source: FinDAP,
//! arXiv:2501.04961 and its released code (utils/data.py).

use crate::batch::TokenizedRow;
use crate::chat_template::ChatTemplate;
use crate::error::{DataError, RecordProblem, TemplateProblem, TokenizerProblem};
use crate::message::{Message, Role};
use crate::readers::{Conversation, Kind, Record, Turns};
use crate::tokenizer::Tokenizer;

/// The parts that turn records into documents.
#[derive(Debug, Clone, Copy)]
pub struct RecordEncoder<'a> {
    /// Text to ids.
    pub tokenizer: &'a Tokenizer,
    /// Conversations to text; without one, prompts and answers are plain text.
    pub template: Option<&'a ChatTemplate>,
    /// Longest document in tokens.
    pub context_tokens: usize,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Documents, each at most `context_tokens` long.
    Documents(Vec<TokenizedRow>),
    /// A conversation, at most `context_tokens` long.
    Conversation {
        /// Its tokens.
        document: TokenizedRow,
        /// Replies behind which the template writes no end-of-turn token: of these, a model does not learn where to stop.
        num_unended_replies: usize,
    },
    /// One row of documents to be kept together.
    PackedRow(Vec<TokenizedRow>),
    /// Longer than the context.
    TooLong {
        /// All its tokens.
        num_tokens: usize,
        /// The context that would hold it: of a pair, the tokens of its longer document.
        longest: usize,
    },
    /// Nothing to learn: no text, no answer, or a single token.
    Empty,
    /// A pair whose answers are the same, as text or as tokens.
    EqualAnswers,
}

/// A better and a worse answer to one prompt, as ids. A document is `prompt` followed by one answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PreferenceRow {
    /// Ids of the prompt, up to where the answers begin.
    pub prompt: Vec<u32>,
    /// Ids of the better answer with its end token, unless it goes on with a turn.
    pub chosen: Vec<u32>,
    /// Ids of the worse answer, likewise.
    pub rejected: Vec<u32>,
    /// One flag per token of `chosen`: is it a target? Of an answer of several turns only the assistant's are.
    pub chosen_mask: Vec<bool>,
    /// As `chosen_mask`, for `rejected`.
    pub rejected_mask: Vec<bool>,
}

impl PreferenceRow {
    /// Prompt and chosen answer, prompt and rejected answer; the assistant's tokens of the answers are the targets.
    pub fn documents(&self) -> [TokenizedRow; 2] {
        [(&self.chosen, &self.chosen_mask), (&self.rejected, &self.rejected_mask)].map(|(answer, mask)| TokenizedRow {
            ids: [self.prompt.as_slice(), answer].concat(),
            mask: [vec![false; self.prompt.len()].as_slice(), mask].concat(),
        })
    }

    /// Two whole documents, parted where the prompt ends, which both begin with as far as `prompt` goes.
    fn parted(prompt: &[u32], chosen: TokenizedRow, rejected: TokenizedRow) -> PreferenceRow {
        let shared = num_shared(prompt, &chosen.ids).min(num_shared(prompt, &rejected.ids));
        PreferenceRow {
            prompt: chosen.ids[..shared].to_vec(),
            chosen: chosen.ids[shared..].to_vec(),
            rejected: rejected.ids[shared..].to_vec(),
            chosen_mask: chosen.mask[shared..].to_vec(),
            rejected_mask: rejected.mask[shared..].to_vec(),
        }
    }
}

impl RecordEncoder<'_> {
    /// Documents of a training record.
    ///
    /// # Errors
    /// [`RecordError`]: a problem of the record itself, to which the caller adds file and line, or of tokenizer and template.
    pub fn documents(&self, record: &Record, kind: Kind) -> Result<Outcome, RecordError> {
        let wrong_kind =
            || Err(RecordError::Record(RecordProblem::WrongKind { want: kind.name(), got: record.name() }));
        match (kind, record) {
            (Kind::Text, Record::Text(text)) => Ok(self.text(text)?),
            (_, Record::Empty) => Ok(Outcome::Empty),
            (Kind::Text, Record::Conversation(conversation)) => {
                let joined: Vec<&str> = conversation.messages.iter().map(|message| message.content.as_str()).collect();
                Ok(self.text(&joined.join("\n"))?)
            }
            (Kind::Text, Record::PromptCompletion { prompt, completion }) => {
                Ok(self.text(&format!("{prompt}\n{completion}"))?)
            }
            (Kind::Chat, Record::Conversation(conversation)) => Ok(self.conversation(conversation)?),
            (Kind::Chat, Record::PromptCompletion { prompt, completion }) => {
                Ok(self.prompt_completion(prompt, completion)?)
            }
            (Kind::Tokenized | Kind::Text | Kind::Chat, Record::Tokenized(row)) => {
                self.check_ids(&row.ids)?;
                Ok(self.bounded(row.clone()))
            }
            (Kind::Packed, Record::Packed(rows)) => {
                for row in rows {
                    self.check_ids(&row.ids)?;
                }
                let num_tokens: usize = rows.iter().map(TokenizedRow::len).sum();
                if num_tokens > self.context_tokens {
                    return Ok(Outcome::TooLong { num_tokens, longest: num_tokens });
                }
                Ok(if num_tokens == 0 { Outcome::Empty } else { Outcome::PackedRow(rows.clone()) })
            }
            (Kind::Preference, Record::Preference { chosen, rejected, .. })
                if is_blank(chosen) || is_blank(rejected) =>
            {
                Ok(Outcome::Empty)
            }
            (Kind::Preference, Record::Preference { chosen, rejected, .. }) if chosen == rejected => {
                Ok(Outcome::EqualAnswers)
            }
            (Kind::Preference, _) => {
                let pair = self.preference(record)?;
                let longest = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
                let num_tokens = 2 * pair.prompt.len() + pair.chosen.len() + pair.rejected.len();
                if [&pair.prompt, &pair.chosen, &pair.rejected].iter().any(|part| part.is_empty()) {
                    return Ok(Outcome::Empty);
                }
                if pair.chosen == pair.rejected {
                    return Ok(Outcome::EqualAnswers);
                }
                if [&pair.chosen_mask, &pair.rejected_mask].iter().any(|mask| !mask.contains(&true)) {
                    return Ok(Outcome::Empty);
                }
                Ok(match longest > self.context_tokens {
                    true => Outcome::TooLong { num_tokens, longest },
                    false => Outcome::PackedRow(pair.documents().into()),
                })
            }
            _ => wrong_kind(),
        }
    }

    /// Ids of a preference record.
    ///
    /// # Errors
    /// As [`RecordEncoder::documents`].
    pub fn preference(&self, record: &Record) -> Result<PreferenceRow, RecordError> {
        match record {
            Record::TokenizedPair { prompt, chosen, rejected } => {
                for ids in [prompt, chosen, rejected] {
                    self.check_ids(ids)?;
                }
                Ok(PreferenceRow {
                    prompt: prompt.clone(),
                    chosen: chosen.clone(),
                    rejected: rejected.clone(),
                    chosen_mask: vec![true; chosen.len()],
                    rejected_mask: vec![true; rejected.len()],
                })
            }
            Record::Preference { prompt, chosen, rejected, is_continued: false, .. } => {
                Ok(self.preference_of_turns(prompt, chosen, rejected)?)
            }
            Record::Preference { prompt, chosen, rejected, is_continued: true, .. } => {
                Ok(self.preference_within_a_turn(prompt, chosen, rejected)?)
            }
            other => {
                let (want, got) = (Kind::Preference.name(), other.name());
                Err(RecordError::Record(RecordProblem::WrongKind { want, got }))
            }
        }
    }

    fn text(&self, text: &str) -> Result<Outcome, DataError> {
        if text.trim().is_empty() {
            return Ok(Outcome::Empty);
        }
        let ids = self.tokenizer.encode(text, false)?;
        let (prefix, eos) = (self.tokenizer.text_prefix(), self.tokenizer.eos());
        let ends = prefix.len() + usize::from(eos.is_some());
        let piece_tokens = self.context_tokens.saturating_sub(ends).max(1);
        let documents = ids
            .chunks(piece_tokens)
            .map(|piece| {
                let ids: Vec<u32> = prefix.iter().chain(piece).copied().chain(eos).collect();
                // Nothing stands before the first token to foretell it from.
                let unlearnt = prefix.len().max(1);
                let mask = (0..ids.len()).map(|token| token >= unlearnt).collect();
                TokenizedRow { ids, mask }
            })
            .filter(|row| row.len() > 1)
            .collect::<Vec<_>>();
        Ok(if documents.is_empty() { Outcome::Empty } else { Outcome::Documents(documents) })
    }

    fn conversation(&self, conversation: &Conversation) -> Result<Outcome, DataError> {
        let template = self.require_template()?;
        let messages = &conversation.messages;
        let is_learnt = |message: usize| {
            messages[message].role == Role::Assistant && conversation.unlearnt.binary_search(&message).is_err()
        };
        let mut learnt = (0..messages.len()).filter(|&message| is_learnt(message)).peekable();
        if learnt.peek().is_none() || learnt.any(|message| messages[message].content.trim().is_empty()) {
            return Ok(Outcome::Empty);
        }
        if let Some(num_tokens) = template.num_tokens_beyond(self.tokenizer, messages, self.context_tokens)? {
            return Ok(Outcome::TooLong { num_tokens, longest: num_tokens });
        }
        let (row, num_unended_replies) = template.encode_and_count_unended(self.tokenizer, messages, is_learnt)?;
        Ok(match self.bounded(row) {
            Outcome::Documents(mut documents) if documents.len() == 1 => {
                Outcome::Conversation { document: documents.remove(0), num_unended_replies }
            }
            other => other,
        })
    }

    fn prompt_completion(&self, prompt: &str, completion: &str) -> Result<Outcome, DataError> {
        if completion.trim().is_empty() {
            return Ok(Outcome::Empty);
        }
        if self.template.is_some() {
            return self.conversation(&vec![Message::user(prompt), Message::assistant(completion)].into());
        }
        let (prompt, completion) = self.plain_pair(prompt, completion)?;
        let mut mask = vec![false; prompt.len()];
        mask.resize(prompt.len() + completion.len(), true);
        let ids = [prompt, completion].concat();
        Ok(self.bounded(TokenizedRow { ids, mask }))
    }

    /// Tokenises prompt and answer together, as they will be read, and cuts where the answer's first byte is.
    fn plain_pair(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<u32>), DataError> {
        let whole = self.tokenizer.encode_with_ranges(&format!("{prompt}{completion}"))?;
        let num_prompt = whole.partition_point(|(_, range)| range.end <= prompt.len());
        let prefix = self.tokenizer.text_prefix().iter().copied();
        let eos = self.tokenizer.eos();
        let prompt_ids = prefix.chain(whole[..num_prompt].iter().map(|(id, _)| *id)).collect();
        let completion_ids = whole[num_prompt..].iter().map(|(id, _)| *id).chain(eos).collect();
        Ok((prompt_ids, completion_ids))
    }

    fn preference_of_turns(
        &self,
        prompt: &Turns,
        chosen: &Turns,
        rejected: &Turns,
    ) -> Result<PreferenceRow, DataError> {
        match (self.template, prompt, chosen, rejected) {
            (None, Turns::Text(prompt), Turns::Text(chosen), Turns::Text(rejected)) => {
                let whole = |answer: &str| -> Result<TokenizedRow, DataError> {
                    let (prompt, answer) = self.plain_pair(prompt, answer)?;
                    let ids = [prompt, answer].concat();
                    Ok(TokenizedRow { mask: vec![true; ids.len()], ids })
                };
                let prompt = self.tokenizer.encode(prompt, true)?;
                Ok(PreferenceRow::parted(&prompt, whole(chosen)?, whole(rejected)?))
            }
            (Some(template), ..) => {
                let prompt = as_messages(prompt, Message::user);
                let whole = |answer: &Turns| -> Result<TokenizedRow, DataError> {
                    let answer = as_messages(answer, Message::assistant);
                    let is_one_turn = answer.len() == 1;
                    let messages = [prompt.clone(), answer].concat();
                    let is_answer = |message| message >= prompt.len();
                    let mut row = template.encode_conversation_where(self.tokenizer, &messages, is_answer)?;
                    if is_one_turn {
                        // All behind the prompt is the answer, what the template writes behind its end token too.
                        row.mask.fill(true);
                    }
                    Ok(row)
                };
                let opening = template.encode_prompt(self.tokenizer, &prompt)?;
                Ok(PreferenceRow::parted(&opening, whole(chosen)?, whole(rejected)?))
            }
            (None, ..) => Err(DataError::Template { path: "(none)".into(), problem: TemplateProblem::Missing }),
        }
    }

    /// Answers that go on with the prompt's last turn and do not end it. Prompt and answer are tokenised in one piece, as the model would
    /// have written them. Where a token lies across the border between them, or the answer changes how the prompt's last words are cut
    /// into tokens, both answers begin with the first such token.
    fn preference_within_a_turn(
        &self,
        prompt: &Turns,
        chosen: &Turns,
        rejected: &Turns,
    ) -> Result<PreferenceRow, DataError> {
        let template = self.require_template()?;
        let mut messages = as_messages(prompt, Message::user);
        let begun = messages.pop().map_or_else(String::new, |begun| begun.content);
        let whole = |answer: &Turns| -> Result<(TokenizedRow, usize), DataError> {
            let goes_on: String =
                as_messages(answer, Message::assistant).into_iter().map(|turn| turn.content).collect();
            let messages = [messages.clone(), vec![Message::assistant(format!("{begun}{goes_on}"))]].concat();
            let (ids, num_before) = template.encode_unended(self.tokenizer, &messages, begun.len())?;
            Ok((TokenizedRow { mask: vec![true; ids.len()], ids }, num_before))
        };
        let ((chosen, num_before), (rejected, _)) = (whole(chosen)?, whole(rejected)?);
        let prompt = chosen.ids[..num_before].to_vec();
        Ok(PreferenceRow::parted(&prompt, chosen, rejected))
    }

    fn require_template(&self) -> Result<&ChatTemplate, DataError> {
        self.template.ok_or_else(|| DataError::Template { path: "(none)".into(), problem: TemplateProblem::Missing })
    }

    fn bounded(&self, mut row: TokenizedRow) -> Outcome {
        if row.len() > self.context_tokens {
            return Outcome::TooLong { num_tokens: row.len(), longest: row.len() };
        }
        if let Some(first) = row.mask.first_mut() {
            *first = false;
        }
        if row.num_loss_tokens() == 0 { Outcome::Empty } else { Outcome::Documents(vec![row]) }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), RecordError> {
        let vocab_size = self.tokenizer.vocab_size();
        match ids.iter().find(|&&id| id as usize >= vocab_size) {
            Some(&id) => Err(RecordError::Record(RecordProblem::IdOutOfRange { id, vocab_size })),
            None => Ok(()),
        }
    }
}

/// A problem of the record itself, or of the tools.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The record; the caller knows its place.
    #[error(transparent)]
    Record(#[from] RecordProblem),
    /// Tokenizer or template.
    #[error(transparent)]
    Tool(DataError),
}

impl From<DataError> for RecordError {
    /// A template that refuses a conversation is a problem of that record, which the caller can name.
    fn from(error: DataError) -> Self {
        use TemplateProblem::{ControlTextRead, LimitExceeded, Render, SpanOfNoReply, SpansUnknown, TurnNotFound};
        match error {
            DataError::Template {
                problem:
                    Render { .. }
                    | LimitExceeded { .. }
                    | TurnNotFound { .. }
                    | ControlTextRead { .. }
                    | SpansUnknown
                    | SpanOfNoReply { .. },
                ..
            }
            | DataError::Tokenizer { problem: TokenizerProblem::ControlTokenInText { .. }, .. } => {
                Self::Record(RecordProblem::Refused { detail: error.to_string() })
            }
            error => Self::Tool(error),
        }
    }
}

impl RecordError {
    /// Adds the place of the record.
    pub fn at(self, path: &std::path::Path, location: crate::Location) -> DataError {
        match self {
            RecordError::Record(problem) => DataError::Record { path: path.to_path_buf(), location, problem },
            RecordError::Tool(error) => error,
        }
    }
}

fn as_messages(turns: &Turns, speaker: impl Fn(String) -> Message) -> Vec<Message> {
    match turns {
        Turns::Text(text) => vec![speaker(text.clone())],
        Turns::Messages(messages) => messages.clone(),
    }
}

/// Whether an answer of a pair says nothing.
fn is_blank(answer: &Turns) -> bool {
    match answer {
        Turns::Text(text) => text.trim().is_empty(),
        Turns::Messages(messages) => messages.iter().all(|message| message.content.trim().is_empty()),
    }
}

fn num_shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
