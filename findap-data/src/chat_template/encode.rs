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
    /// How many tokens a conversation has, if that is more than `context_tokens`, without a search for its replies.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub(crate) fn num_tokens_beyond(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        context_tokens: usize,
    ) -> Result<Option<usize>, DataError> {
        let text = self.render(messages, false)?;
        // No token is shorter than a byte.
        if text.len() <= context_tokens {
            return Ok(None);
        }
        let num_tokens = tokenizer.encode_rendered(&text)?.len();
        Ok(Some(num_tokens).filter(|&num_tokens| num_tokens > context_tokens))
    }

    /// Ids of a conversation that ends where the assistant's next turn begins, for generation.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; [`TemplateProblem::ControlTextRead`] if control tokens cannot be kept apart from contents.
    pub fn encode_prompt(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<Vec<u32>, DataError> {
        let layout = self.layout(tokenizer, messages, true)?;
        let control = self.control_tokens(tokenizer, messages, &layout, true)?;
        Ok(encode(tokenizer, &layout.text, &control)?.into_iter().map(|(id, _)| id).collect())
    }

    /// Ids and loss mask of a whole conversation: every assistant turn's content and end-of-turn token are targets, or what the
    /// template marks with `{% generation %}`.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_prompt`]; [`TemplateProblem::TurnNotFound`] if an assistant turn cannot be located,
    /// [`TemplateProblem::SpansUnknown`] or [`TemplateProblem::SpanOfNoReply`] if what the template marks cannot.
    pub fn encode_conversation(&self, tokenizer: &Tokenizer, messages: &[Message]) -> Result<TokenizedRow, DataError> {
        self.encode_conversation_where(tokenizer, messages, |_| true)
    }

    /// As [`ChatTemplate::encode_conversation`], with loss only on the assistant turns that `is_target` takes, given the index of
    /// the message.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode_conversation`].
    pub fn encode_conversation_where(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        is_target: impl Fn(usize) -> bool,
    ) -> Result<TokenizedRow, DataError> {
        Ok(self.encode_and_count_unended(tokenizer, messages, is_target)?.0)
    }

    /// As [`ChatTemplate::encode_conversation_where`], and the number of replies behind which no end-of-turn token is learnt.
    pub(crate) fn encode_and_count_unended(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        is_target: impl Fn(usize) -> bool,
    ) -> Result<(TokenizedRow, usize), DataError> {
        let layout = self.layout(tokenizer, messages, false)?;
        let control = self.control_tokens(tokenizer, messages, &layout, false)?;
        let ends_of_turn = self.ends_of_turn(tokenizer, messages, &layout, &control)?;
        let end_of = |reply: &Range<usize>| ends_of_turn.behind(&layout.text, reply.end, &control);
        let is_reply = |message: &usize| messages[*message].role == Role::Assistant;
        let replies = (0..messages.len()).filter(is_reply);
        let (learnt, others): (Vec<usize>, Vec<usize>) = replies.partition(|&message| is_target(message));
        let (targets, num_unended) = match self.marked_spans(messages, &layout.text)? {
            None => self.whole_replies(&layout, &learnt, end_of)?,
            Some(spans) => {
                let spans = if others.is_empty() { spans } else { self.spans_of_replies(&layout, spans, &learnt)? };
                let num_unended = num_unended_in(&layout, &learnt, &spans, end_of);
                (spans, num_unended)
            }
        };

        let tokens = encode(tokenizer, &layout.text, &control)?;
        let mut row = TokenizedRow { ids: Vec::with_capacity(tokens.len()), mask: Vec::with_capacity(tokens.len()) };
        let mut next_target = 0;
        for (id, range) in tokens {
            while targets.get(next_target).is_some_and(|target| target.end <= range.start) {
                next_target += 1;
            }
            row.ids.push(id);
            row.mask.push(targets.get(next_target).is_some_and(|target| do_touch(target, &range)));
        }
        Ok((row, num_unended))
    }

    /// The replies that are learnt with their ends of turn, ascending, and how many have none.
    fn whole_replies(
        &self,
        layout: &Layout,
        learnt: &[usize],
        end_of: impl Fn(&Range<usize>) -> Option<usize>,
    ) -> Result<(Vec<Range<usize>>, usize), DataError> {
        let mut targets = Vec::with_capacity(learnt.len());
        let mut num_unended = 0;
        for &message in learnt {
            let reply = layout.replies[message].as_ref();
            let reply = reply.ok_or_else(|| self.fail(TemplateProblem::TurnNotFound { message }))?;
            let end = end_of(reply);
            num_unended += usize::from(end.is_none());
            targets.push(reply.start..end.unwrap_or(reply.end));
        }
        targets.sort_by_key(|target| target.start);
        Ok((targets, num_unended))
    }

    /// The spans, of those that a template marks, that belong to replies which are learnt.
    fn spans_of_replies(
        &self,
        layout: &Layout,
        mut spans: Vec<Range<usize>>,
        learnt: &[usize],
    ) -> Result<Vec<Range<usize>>, DataError> {
        let is_alone = |span: &&Range<usize>| layout.replies_beside(span).is_empty();
        if let Some(span) = spans.iter().find(is_alone) {
            return Err(self.fail(TemplateProblem::SpanOfNoReply { span: layout.text[span.clone()].to_owned() }));
        }
        spans.retain(|span| layout.replies_beside(span).iter().all(|message| learnt.contains(message)));
        Ok(spans)
    }

    /// The control tokens of a rendered conversation, ascending: what the template writes. What contents spell is text, but for tokens
    /// that are not special and structure no turn here, in replies: `<think>` and `<tool_call>` are the assistant's own words.
    pub(super) fn control_tokens<'a>(
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
        // An ordinary word or blanks in a file's list of added tokens is a token for everybody.
        spellings.retain(|(token, _)| token.is_special || !token.is_ordinary());
        let owners: Vec<Option<usize>> = spellings.iter().map(|(_, range)| layout.owner(range)).collect();
        let is_reply = |owner: usize| messages[owner].role == Role::Assistant;
        let is_asked = spellings.iter().zip(&owners).any(|((token, _), owner)| !token.is_special && owner.is_some());
        let end_of_turns = match is_asked && add_generation_prompt {
            // What opens the next reply (`<think>`) structures no turn that is there.
            true => num_shared_bytes(&layout.text, &self.render(messages, false)?),
            false => layout.text.len(),
        };
        // What stands before all contents may be a text of the template's own, which names tokens as contents do.
        let structure = match is_asked {
            true => self.tokens_between_turns(tokenizer),
            false => HashSet::new(),
        };
        let first_content = layout.first_content();
        let written: HashSet<u32> = spellings
            .iter()
            .zip(&owners)
            .filter(|((token, range), _)| range.start >= first_content || structure.contains(&token.id))
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

    /// The added tokens that the template writes behind the first content of any conversation; none where it refuses a plain one.
    fn tokens_between_turns(&self, tokenizer: &Tokenizer) -> HashSet<u32> {
        const CONTENT: &str = "\u{100000}";
        let turns = [Message::user(CONTENT), Message::assistant(CONTENT), Message::user(CONTENT)];
        // A template that refuses these turns tells nothing by them.
        let Ok(text) = self.render(&turns, false) else { return HashSet::new() };
        let behind = text.split_once(CONTENT).map_or("", |(_, behind)| behind);
        tokenizer.added_tokens_in(behind).into_iter().map(|(token, _)| token.id).collect()
    }

    /// The tokens that end a turn: those at which generation stops, and the one that the template writes behind a last reply. A token
    /// that only ever stands before the next turn is part of its header. Words that the template writes before the end token of a last
    /// reply belong to the end.
    fn ends_of_turn(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        layout: &Layout,
        control: &[(&AddedToken, Range<usize>)],
    ) -> Result<EndsOfTurn, DataError> {
        let mut ends = EndsOfTurn { ids: tokenizer.stop_ids().iter().copied().collect(), words: String::new() };
        let Some(last) = messages.iter().rposition(|message| message.role == Role::Assistant) else {
            return Ok(ends);
        };
        let shorter;
        let (layout, control) = if last + 1 == messages.len() {
            (layout, control)
        } else {
            let messages = &messages[..=last];
            let Ok(layout) = self.layout(tokenizer, messages, false) else {
                // The template wants more messages than that: what it writes behind a last reply cannot be known.
                return Ok(ends);
            };
            let control = self.control_tokens(tokenizer, messages, &layout, false)?;
            shorter = (layout, control);
            (&shorter.0, &shorter.1[..])
        };
        let next = layout.replies[last].as_ref().and_then(|reply| Some((reply, next_control(reply.end, control)?)));
        if let Some((reply, (token, range))) = next {
            let words = &layout.text[reply.end..range.start];
            let is_last = layout.text[range.end..].trim().is_empty();
            // A template that always opens the next reply may write its header at once.
            if is_last || (self.has_generation_prompt && words.trim().is_empty()) {
                ends.ids.insert(token.id);
                ends.words = words.to_string();
            }
        }
        Ok(ends)
    }
}

/// What ends a turn.
struct EndsOfTurn {
    ids: HashSet<u32>,
    /// What the template writes between a last reply and its end token.
    words: String,
}

impl EndsOfTurn {
    /// Where the end-of-turn token ends that stands behind a reply, with nothing but blanks or the template's words between.
    fn behind(&self, text: &str, reply_end: usize, control: &[(&AddedToken, Range<usize>)]) -> Option<usize> {
        let (token, range) = next_control(reply_end, control)?;
        let between = &text[reply_end..range.start];
        let is_end = self.ids.contains(&token.id) && (between.trim().is_empty() || between == self.words);
        is_end.then_some(range.end)
    }
}

/// How many replies are learnt by these spans and not their ends of turn.
fn num_unended_in(
    layout: &Layout,
    learnt: &[usize],
    spans: &[Range<usize>],
    end_of: impl Fn(&Range<usize>) -> Option<usize>,
) -> usize {
    let is_unended = |reply: &&Range<usize>| {
        let is_marked = |end: usize| spans.iter().any(|span| span.start < end && end <= span.end);
        spans.iter().any(|span| do_touch(span, reply)) && !end_of(reply).is_some_and(is_marked)
    };
    learnt.iter().filter_map(|&message| layout.replies[message].as_ref()).filter(is_unended).count()
}

/// The control token behind a place.
fn next_control<'a>(
    place: usize,
    control: &'a [(&'a AddedToken, Range<usize>)],
) -> Option<&'a (&'a AddedToken, Range<usize>)> {
    control.get(control.partition_point(|(_, range)| range.start < place))
}

pub(super) fn encode(
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

fn do_touch(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn num_shared_bytes(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count()
}
