//! What the engine needs from a language model, and the token arithmetic that makes two harnesses agree.

use findap_data::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::extract::{answer_start, closes_reasoning, opens_reasoning};

/// Which tokens are the continuation's, where a token of context and continuation together spans the border.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenBorder {
    /// The model reads the tokens of both together, as it has in training, and each that holds some of the continuation is scored.
    #[default]
    Joint,
    /// As lm-eval: the model reads the context's own tokens, and behind them those of both together beyond their number, which are
    /// scored. What a token that spans the border has of the continuation is then read and scored nowhere.
    LmEval,
}

/// A continuation to be scored after a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScoreRequest {
    /// Text before, with special tokens where a chat template wrote them; may be empty.
    pub context: String,
    /// Text to be scored; not empty.
    pub continuation: String,
    /// Whether the context was written by a chat template: special tokens in it count and no BOS is added.
    pub is_rendered: bool,
    /// Where the continuation begins.
    pub border: TokenBorder,
}

/// The score of a continuation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Sum of the log-probabilities of its tokens, natural logarithm.
    pub logp: f64,
    /// Whether each of its tokens is the likeliest at its place.
    pub is_greedy: bool,
}

/// A prompt to be continued greedily.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateRequest {
    /// The prompt, with special tokens where a chat template wrote them.
    pub prompt: String,
    /// Whether it was written by a chat template: special tokens in it count and no BOS is added.
    pub is_rendered: bool,
    /// The reply ends before the first of these.
    pub stop: Vec<String>,
    /// The reply ends after this many tokens.
    pub max_new_tokens: usize,
}

/// A written reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenReply")]
pub struct Reply {
    /// What was written, up to the first stop text.
    pub text: String,
    /// Whether it ends at the most tokens that it may have; `None` where that is not known.
    pub is_cut_off: Option<bool>,
    /// The turns behind it, where a task goes on with the conversation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Turn>,
}

/// A further turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The whole text before the reply, earlier turns included.
    pub prompt: String,
    /// Tokens that the prompt lost at its beginning.
    pub num_cut_tokens: usize,
    /// What was written.
    pub text: String,
    /// As [`Reply::is_cut_off`].
    pub is_cut_off: Option<bool>,
}

impl Reply {
    /// A reply without further turns.
    pub fn new(text: impl Into<String>, is_cut_off: Option<bool>) -> Self {
        Self { text: text.into(), is_cut_off, further: Vec::new() }
    }
}

/// A reply on disk. Earlier versions kept the text alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenReply {
    Text(String),
    Whole {
        text: String,
        is_cut_off: Option<bool>,
        #[serde(default)]
        further: Vec<Turn>,
    },
}

impl From<WrittenReply> for Reply {
    fn from(written: WrittenReply) -> Self {
        match written {
            WrittenReply::Text(text) => Self::new(text, None),
            WrittenReply::Whole { text, is_cut_off, further } => Self { text, is_cut_off, further },
        }
    }
}

/// A language model as evaluation sees it: text in, log-probabilities or text out.
///
/// Answers must not depend on how requests are grouped into calls.
pub trait LanguageModel {
    /// A name for results: usually the folder.
    fn name(&self) -> String;

    /// Tokens that one sequence may hold.
    fn max_tokens(&self) -> usize;

    /// What identifies weights and tokenizer: kept answers count for this model alone.
    ///
    /// # Errors
    /// [`EvalError::Model`] where that cannot be read.
    fn fingerprint(&self) -> Result<String, EvalError>;

    /// Number format and kind of device, such as `bf16 on cuda`: answers in another are other answers.
    fn precision(&self) -> String;

    /// The date that the chat template tells in every prompt, `2026-11-28`; `None` where it tells none.
    fn template_date(&self) -> Option<String>;

    /// The text of a conversation up to where the assistant's reply begins.
    ///
    /// # Errors
    /// [`EvalError::Model`] where the model has no chat template or the template refuses the messages.
    fn render_chat(&self, messages: &[Message]) -> Result<String, EvalError>;

    /// How many tokens [`score`](Self::score) leaves out at the beginning of the context, because context and continuation
    /// are longer than the model reads.
    ///
    /// # Errors
    /// [`EvalError::ContinuationTooLong`], [`EvalError::Model`].
    fn num_cut_to_score(&self, request: &ScoreRequest) -> Result<usize, EvalError>;

    /// How many tokens [`generate`](Self::generate) leaves out at the beginning of the prompt, so that the reply has room.
    ///
    /// # Errors
    /// [`EvalError::NoRoomForPrompt`], [`EvalError::Model`].
    fn num_cut_to_generate(&self, request: &GenerateRequest) -> Result<usize, EvalError>;

    /// Scores continuations, in the order of the requests.
    ///
    /// # Errors
    /// [`EvalError::ContinuationTooLong`], [`EvalError::Model`].
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Score>, EvalError>;

    /// Continues prompts greedily, in the order of the requests; a reply ends before its first stop text, and no more is written.
    ///
    /// # Errors
    /// [`EvalError::NoRoomForPrompt`], [`EvalError::Model`].
    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Reply>, EvalError>;
}

/// Moves white space at the end of the context to the continuation, where tokenizers join it to the next word.
pub fn move_trailing_space(context: &str, continuation: &str) -> (String, String) {
    let kept = context.trim_end();
    (kept.to_owned(), format!("{}{continuation}", &context[kept.len()..]))
}

/// Drops tokens of the context from the left until context and continuation fit. The last token of the continuation is
/// only predicted, never read, so `max_tokens + 1` tokens fit.
///
/// # Errors
/// The number of tokens of the continuation where it does not fit alone with one token before it.
pub fn fit_context(context: &[u32], continuation: &[u32], max_tokens: usize) -> Result<Vec<u32>, usize> {
    if continuation.len() > max_tokens {
        return Err(continuation.len());
    }
    let room = max_tokens + 1 - continuation.len();
    Ok(context[context.len().saturating_sub(room)..].to_vec())
}

/// Where the first of the request's stop texts stands in a reply, whole or growing. In a conversation those count that stand in its
/// answer, not in the reasoning and the white space before it.
pub fn stop_place(reply: &str, request: &GenerateRequest) -> Option<usize> {
    let start = match request.is_rendered {
        true if opens_reasoning(&request.prompt) && !closes_reasoning(reply) => return None,
        true => answer_start(reply),
        false => 0,
    };
    let end = request.stop.iter().filter_map(|stop| reply[start..].find(stop.as_str())).min()?;
    Some(start + end)
}

/// Cuts a reply before the first of the request's stop texts that [counts](stop_place).
pub fn cut_at_stop<'a>(reply: &'a str, request: &GenerateRequest) -> &'a str {
    &reply[..stop_place(reply, request).unwrap_or(reply.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_space_moves_to_the_continuation() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(move_trailing_space("Q: x\nA:", " yes"), pair("Q: x\nA:", " yes"));
        assert_eq!(move_trailing_space("Q: x\nA: ", "yes"), pair("Q: x\nA:", " yes"));
        assert_eq!(move_trailing_space("x\n\n", "yes"), pair("x", "\n\nyes"));
        assert_eq!(move_trailing_space("", "yes"), pair("", "yes"));
    }

    #[test]
    fn long_contexts_lose_their_beginning() {
        assert_eq!(fit_context(&[1, 2, 3], &[4, 5], 8), Ok(vec![1, 2, 3]));
        assert_eq!(fit_context(&[1, 2, 3], &[4, 5], 4), Ok(vec![1, 2, 3]));
        assert_eq!(fit_context(&[1, 2, 3], &[4, 5], 3), Ok(vec![2, 3]));
        assert_eq!(fit_context(&[1, 2, 3], &[4, 5], 2), Ok(vec![3]));
        assert_eq!(fit_context(&[1, 2, 3], &[4, 5], 1), Err(2));
    }

    #[test]
    fn replies_end_before_the_earliest_stop_string() {
        let mut request = GenerateRequest {
            prompt: String::new(),
            is_rendered: false,
            stop: vec!["\n\n".to_owned(), "Question:".to_owned()],
            max_new_tokens: 1,
        };
        assert_eq!(cut_at_stop("yes Question: x\n\n", &request), "yes ");
        assert_eq!(cut_at_stop("no stop", &request), "no stop");
        assert_eq!(cut_at_stop("\n\nyes", &request), "");
        request.is_rendered = true;
        for (reply, want) in [
            ("yes Question: x\n\n", "yes "),
            ("\n\nyes\n\nno", "\n\nyes"),
            ("<think>a\n\nb</think>\n\nyes\n\nno", "<think>a\n\nb</think>\n\nyes"),
            ("a\n\nb</think>yes\n\nno", "a\n\nb</think>yes"),
            ("<think>a\n\nb", "<think>a\n\nb"),
        ] {
            assert_eq!(cut_at_stop(reply, &request), want, "{reply:?}");
        }
        // Reasoning that the prompt opens lasts until the reply closes it.
        request.prompt = "<user>x</user><think>\n".to_owned();
        for (reply, want) in [("a\n\nb", "a\n\nb"), ("a\n\nb</think>yes\n\nno", "a\n\nb</think>yes")] {
            assert_eq!(cut_at_stop(reply, &request), want, "{reply:?}");
        }
        request.prompt = "<user><think></user><think></think>".to_owned();
        assert_eq!(cut_at_stop("yes\n\nno", &request), "yes");
    }
}
