//! Conversations that stop within the assistant's turn, as while a model writes it.

use super::ChatTemplate;
use super::encode::encode;
use crate::error::{DataError, TemplateProblem};
use crate::message::Message;
use crate::tokenizer::Tokenizer;

impl ChatTemplate {
    /// Ids of a conversation up to the end of its last turn's content, without an end of turn, and how many of them end at or before
    /// the byte `border` of that content.
    ///
    /// As `continue_final_message` of transformers, with one difference: blanks at the end of the content, such as the line break behind
    /// a step, stay where the template would trim a reply, for a model that writes the reply does write them.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_conversation`]; [`TemplateProblem::TurnNotFound`] where the template rewrites the content.
    pub(crate) fn encode_unended(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        border: usize,
    ) -> Result<(Vec<u32>, usize), DataError> {
        let message = messages.len() - 1;
        let content = messages[message].content.as_str();
        let layout = self.layout(tokenizer, messages, false)?;
        let reply = layout.replies[message].clone();
        // Before the words the template may print something of its own, such as an empty reasoning.
        let printed =
            reply.and_then(|reply| layout.text[..reply.end].trim_end().strip_suffix(content.trim()).map(str::len));
        let start = printed.ok_or_else(|| self.fail(TemplateProblem::TurnNotFound { message }))?;
        let end = start + content.trim().len();
        let mut control = self.control_tokens(tokenizer, messages, &layout, false)?;
        control.retain(|(_, range)| range.end <= end);
        let text = format!("{}{}", &layout.text[..start], content.trim_start());
        let leading_blanks = content.len() - content.trim_start().len();
        let border = start + border.saturating_sub(leading_blanks);
        let tokens = encode(tokenizer, &text, &control)?;
        let num_before = tokens.partition_point(|(_, range)| range.end <= border);
        Ok((tokens.into_iter().map(|(id, _)| id).collect(), num_before))
    }
}
