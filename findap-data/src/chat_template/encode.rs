//! Conversations to ids and loss masks.

use std::collections::HashSet;
use std::ops::Range;

use super::ChatTemplate;
use super::layout::Layout;
use crate::batch::TokenizedRow;
use crate::error::{DataError, TemplateProblem};
use crate::message::{Message, Role};
use crate::tokenizer::{AddedToken, Tokenizer};

impl ChatTemplate {
    /// Ids of a conversation that ends where the assistant's next turn begins, for generation.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateProblem::ControlTextRead`] if control tokens cannot be kept apart from contents.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, DataError> {
        let layout = self.layout(tokenizer, messages, true)?;
        let control = self.control_tokens(tokenizer, messages, &layout, true)?;
        Ok(encode(tokenizer, &layout.text, &control)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids and loss mask of a whole conversation: every assistant turn's content and end-of-turn token are targets.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_prompt`]; [`TemplateProblem::TurnNotFound`] if an assistant turn cannot be located.
    pub fn encode_conversation(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<TokenizedRow, DataError> {
        self.encode_conversation_from(tokenizer, messages, 0)
    }

    /// As [`ChatTemplate::encode_conversation`], with loss only on assistant turns at or after message `first_target`.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_conversation`].
    pub fn encode_conversation_from(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        first_target: usize,
    ) -> Result<TokenizedRow, DataError> {
        let layout = self.layout(tokenizer, messages, false)?;
        let control = self.control_tokens(tokenizer, messages, &layout, false)?;
        let ends_of_turn = self.ends_of_turn(tokenizer, messages, &layout, &control)?;
        let mut targets = Vec::new();
        for (message, reply) in layout.replies.iter().enumerate().skip(first_target) {
            if messages[message].role == Role::Assistant {
                let reply = reply.clone().ok_or_else(|| self.fail(TemplateProblem::TurnNotFound { message }))?;
                targets.push(with_end_of_turn(&layout.text, reply, &control, |id| ends_of_turn.contains(&id)));
            }
        }
        targets.sort_by_key(|target| target.start);

        let tokens = encode(tokenizer, &layout.text, &control)?;
        let mut row = TokenizedRow { ids: Vec::with_capacity(tokens.len()), mask: Vec::with_capacity(tokens.len()) };
        let mut next_target = 0;
        for (id, range) in tokens {
            while targets.get(next_target).is_some_and(|target| target.end <= range.start) {
                next_target += 1;
            }
            let is_target = |target: &Range<usize>| range.start < target.end && target.start < range.end;
            row.ids.push(id);
            row.mask.push(targets.get(next_target).is_some_and(is_target));
        }
        Ok(row)
    }

    /// The control tokens of a rendered conversation, ascending: what the template writes. What contents spell is text, but for tokens
    /// that are not special and structure no turn here, in replies: `<think>` and `<tool_call>` are the assistant's own words.
    fn control_tokens<'a>(
        &self,
        tokenizer: &'a Tokenizer,
        messages: &[Message],
        layout: &Layout,
        add_generation_prompt: bool,
    ) -> Result<Vec<(&'a AddedToken, Range<usize>)>, DataError> {
        let mut spellings = tokenizer.added_tokens_in(&layout.text);
        if self.is_content_trusted {
            spellings.retain(|(token, _)| token.is_control());
            return Ok(spellings);
        }
        let owners: Vec<Option<usize>> = spellings.iter().map(|(_, range)| layout.owner(range)).collect();
        let is_reply = |owner: usize| messages[owner].role == Role::Assistant;
        let is_asked = spellings.iter().zip(&owners).any(|((token, _), owner)| !token.is_special && owner.is_some());
        let end_of_turns = match is_asked && add_generation_prompt {
            // What opens the next reply (`<think>`) structures no turn that is there.
            true => num_shared_bytes(&layout.text, &self.render(messages, false)?),
            false => layout.text.len(),
        };
        let written: HashSet<u32> = spellings
            .iter()
            .zip(&owners)
            // What the template writes inside of a reply that it rewrites (`</think>`) is part of that reply.
            .filter(|((_, range), owner)| owner.is_none() && range.start < end_of_turns && !layout.is_in_reply(range))
            .map(|((token, _), _)| token.id)
            .collect();
        for ((token, _), owner) in spellings.iter().zip(&owners) {
            if let Some(message) = *owner
                && !token.is_control()
                && written.contains(&token.id)
            {
                // The tokenizer did not see in the template that it writes this token, and would read it in contents.
                let token = token.text.clone();
                return Err(self.fail(TemplateProblem::ControlTextRead { message, token }));
            }
        }
        let mut owners = owners.into_iter();
        spellings.retain(|(token, _)| match owners.next().flatten() {
            None => true,
            Some(owner) => is_reply(owner) && !token.is_special && !written.contains(&token.id),
        });
        spellings.retain(|(token, _)| token.is_control());
        Ok(spellings)
    }

    /// The tokens that end a turn: those at which generation stops, and the one that the template writes behind a last reply. A token
    /// that only ever stands before the next turn is part of its header.
    fn ends_of_turn(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        layout: &Layout,
        control: &[(&AddedToken, Range<usize>)],
    ) -> Result<HashSet<u32>, DataError> {
        let mut ids: HashSet<u32> = tokenizer.stop_ids().iter().copied().collect();
        let Some(last) = messages.iter().rposition(|message| message.role == Role::Assistant) else {
            return Ok(ids);
        };
        let shorter;
        let (layout, control) = if last + 1 == messages.len() {
            (layout, control)
        } else {
            let messages = &messages[..=last];
            let Ok(layout) = self.layout(tokenizer, messages, false) else {
                // The template wants more messages than that: what it writes behind a last reply cannot be known.
                return Ok(ids);
            };
            let control = self.control_tokens(tokenizer, messages, &layout, false)?;
            shorter = (layout, control);
            (&shorter.0, &shorter.1[..])
        };
        if let Some(reply) = &layout.replies[last]
            && let Some((token, range)) = next_control(&layout.text, reply.end, control)
        {
            let is_last = layout.text[range.end..].trim().is_empty();
            // A template that always opens the next reply may write its header at once.
            if is_last || self.has_generation_prompt {
                ids.insert(token.id);
            }
        }
        Ok(ids)
    }
}

/// The control token behind a place with nothing but blanks between.
fn next_control<'a>(
    text: &str,
    place: usize,
    control: &'a [(&'a AddedToken, Range<usize>)],
) -> Option<&'a (&'a AddedToken, Range<usize>)> {
    let next = control.partition_point(|(_, range)| range.start < place);
    control.get(next).filter(|(_, range)| text[place..range.start].trim().is_empty())
}

fn with_end_of_turn(
    text: &str,
    reply: Range<usize>,
    control: &[(&AddedToken, Range<usize>)],
    ends_turn: impl Fn(u32) -> bool,
) -> Range<usize> {
    match next_control(text, reply.end, control) {
        Some((token, range)) if ends_turn(token.id) => reply.start..range.end,
        _ => reply,
    }
}

fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    control: &[(&AddedToken, Range<usize>)],
) -> Result<Vec<(u32, Range<usize>)>, DataError> {
    let starts: Vec<usize> = control.iter().map(|(_, range)| range.start).collect();
    let mut tokens = tokenizer.encode_with_control(text, &starts)?;
    for (_, range) in &mut tokens {
        // Blanks that a control token takes with it make it no part of the text that they come from.
        let next = control.partition_point(|(_, spelling)| spelling.start < range.start);
        if let Some((_, spelling)) = control.get(next).filter(|(_, spelling)| spelling.start < range.end) {
            *range = spelling.clone();
        }
    }
    Ok(tokens)
}

fn num_shared_bytes(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}
