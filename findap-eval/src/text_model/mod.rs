//! [`LanguageModel`] for a model directory: the token arithmetic of lm-eval's Hugging Face model on our own decoder.

use std::ops::Range;

use findap_data::{DataError, Message, Tokenizer};
use findap_model::{DeviceKind, Sampling, StopReason, TextModel};

use crate::error::EvalError;
use crate::model::{
    GenerateRequest, LanguageModel, Reply, Score, ScoreRequest, TokenBorder, cut_at_stop, fit_context,
    move_trailing_space, stop_place,
};

impl LanguageModel for TextModel {
    fn name(&self) -> String {
        self.directory().display().to_string()
    }

    fn max_tokens(&self) -> usize {
        TextModel::max_tokens(self)
    }

    /// The fingerprint of its directory.
    fn fingerprint(&self) -> Result<String, EvalError> {
        findap_model::fingerprint(self.directory()).map_err(|error| failed(self, "identify", &error))
    }

    fn precision(&self) -> String {
        let params = &self.decoder().params;
        let device = match params.device().kind() {
            DeviceKind::Cpu => "cpu",
            DeviceKind::Cuda => "cuda",
        };
        format!("{} on {device}", params.dtype())
    }

    fn template_date(&self) -> Option<String> {
        TextModel::template_date(self)
    }

    fn render_chat(&self, messages: &[Message]) -> Result<String, EvalError> {
        TextModel::render_chat(self, messages).map_err(|error| failed(self, "render a conversation", &error))
    }

    fn num_cut_to_score(&self, request: &ScoreRequest) -> Result<usize, EvalError> {
        fit_pair(self, request).map(|fitted| fitted.num_cut)
    }

    fn num_cut_to_generate(&self, request: &GenerateRequest) -> Result<usize, EvalError> {
        fit_prompt(self, request).map(|(_, num_cut)| num_cut)
    }

    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Score>, EvalError> {
        let pair = |request| fit_pair(self, request).map(|fitted| (fitted.context, fitted.continuation));
        let pairs = requests.iter().map(pair).collect::<Result<Vec<_>, EvalError>>()?;
        let scores = TextModel::score(self, &pairs).map_err(|error| failed(self, "score continuations", &error))?;
        Ok(scores.into_iter().map(|score| Score { logp: score.logp, is_greedy: score.is_greedy }).collect())
    }

    fn generate(&self, requests: &[GenerateRequest]) -> Result<Vec<Reply>, EvalError> {
        let prompts = requests
            .iter()
            .map(|request| {
                Ok(findap_model::GenerateRequest {
                    prompt: fit_prompt(self, request)?.0,
                    max_new: request.max_new_tokens,
                    sampling: Sampling::GREEDY,
                    seed: 0,
                    stop_ids: self.tokenizer().stop_ids().to_vec(),
                })
            })
            .collect::<Result<Vec<_>, EvalError>>()?;
        let stops: Vec<&[String]> = requests.iter().map(|request| request.stop.as_slice()).collect();
        let is_end = |index: usize, text: &str| stop_place(text, &requests[index]).is_some();
        let generated =
            self.generate_until(&prompts, &stops, &is_end).map_err(|error| failed(self, "generate replies", &error))?;
        generated
            .iter()
            .zip(requests)
            .map(|(generated, request)| {
                let text = self.decode(generated).map_err(|error| failed(self, "decode", &error))?;
                let is_cut_off = generated.stop == StopReason::Length;
                Ok(Reply::new(cut_at_stop(&text, request), Some(is_cut_off)))
            })
            .collect()
    }
}

/// The tokens of a request that the model reads.
struct FittedPair {
    context: Vec<u32>,
    continuation: Vec<u32>,
    num_cut: usize,
}

fn fit_pair(model: &TextModel, request: &ScoreRequest) -> Result<FittedPair, EvalError> {
    let max_tokens = TextModel::max_tokens(model);
    let (context, continuation) =
        tokenize(model.tokenizer(), request).map_err(|error| failed(model, "tokenize", &error))?;
    if continuation.is_empty() {
        return Err(EvalError::NoContinuationToken {
            place: String::new(),
            continuation: request.continuation.clone(),
        });
    }
    match fit_context(&context, &continuation, max_tokens) {
        Ok(kept) => Ok(FittedPair { num_cut: context.len() - kept.len(), context: kept, continuation }),
        Err(tokens) => {
            let text = request.continuation.chars().take(60).collect();
            Err(EvalError::ContinuationTooLong { tokens, max_tokens, text })
        }
    }
}

/// The prompt's last tokens, as many as leave room for the reply, and the number of those before them.
fn fit_prompt(model: &TextModel, request: &GenerateRequest) -> Result<(Vec<u32>, usize), EvalError> {
    let max_tokens = TextModel::max_tokens(model);
    let Some(room) = max_tokens.checked_sub(request.max_new_tokens).filter(|room| *room > 0) else {
        return Err(EvalError::NoRoomForPrompt {
            task: String::new(),
            max_new_tokens: request.max_new_tokens,
            max_tokens,
        });
    };
    let ids = encode(model.tokenizer(), &request.prompt, request.is_rendered)
        .map_err(|error| failed(model, "tokenize", &error))?;
    let num_cut = ids.len().saturating_sub(room);
    Ok((ids[num_cut..].to_vec(), num_cut))
}

fn failed(model: &TextModel, operation: &'static str, reason: &dyn std::fmt::Display) -> EvalError {
    EvalError::Model { model: LanguageModel::name(model), operation, reason: reason.to_string() }
}

/// Text of a template carries its own special tokens; plain text gets a BOS where the tokenizer's own file adds one, and none of its
/// own.
fn encode(tokenizer: &Tokenizer, text: &str, is_rendered: bool) -> Result<Vec<u32>, DataError> {
    if is_rendered { tokenizer.encode_rendered(text) } else { tokenizer.encode(text, true) }
}

/// Tokens of context and continuation. A context without a token becomes the one token that texts of the model begin with.
fn tokenize(tokenizer: &Tokenizer, request: &ScoreRequest) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let (context, continuation) = move_trailing_space(&request.context, &request.continuation);
    let whole = format!("{context}{continuation}");
    let (mut context, continuation) = match request.border {
        TokenBorder::LmEval if !context.is_empty() => {
            let mut whole = encode(tokenizer, &whole, request.is_rendered)?;
            let context = encode(tokenizer, &context, request.is_rendered)?;
            let continuation = whole.split_off(context.len().min(whole.len()));
            (context, continuation)
        }
        TokenBorder::LmEval | TokenBorder::Joint => {
            let (prefix, tokens) = match request.is_rendered {
                true => (&[][..], tokenizer.encode_rendered_with_ranges(&whole)?),
                false => (tokenizer.text_prefix(), tokenizer.encode_with_ranges(&whole)?),
            };
            let border = tokens.partition_point(|(_, range)| range.end <= context.len());
            let ids = |tokens: &[(u32, Range<usize>)]| tokens.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            ([prefix, &ids(&tokens[..border])].concat(), ids(&tokens[border..]))
        }
    };
    if context.is_empty() {
        context.extend(tokenizer.bos().or(tokenizer.eos()));
    }
    Ok((context, continuation))
}

#[cfg(test)]
mod tests;
