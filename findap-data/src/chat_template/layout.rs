//! Where a template prints the content of each message.
//!
//! A message is found by rendering the conversation a second time with marks around its content: where the text is the same but for
//! the marks, they tell the place. A template that looks into contents or rewrites them (reasoning cut from earlier replies) prints
//! something else then. Such a reply is found between what the template prints before and behind it for a reply of one character;
//! and the control tokens that such a message spells are found by a mark inside of each.

use std::ops::Range;

use super::ChatTemplate;
use super::marks::{Marks, Unmarked};
use crate::error::{DataError, TemplateProblem};
use crate::message::{Message, Role};
use crate::tokenizer::Tokenizer;

/// A rendered conversation, and what of it came from where.
pub(super) struct Layout {
    pub(super) text: String,
    /// For each message that is an assistant's and was found: its content as it is printed.
    pub(super) replies: Vec<Option<Range<usize>>>,
    /// Pieces of `text` that are contents, each with its message, ascending.
    contents: Vec<(Range<usize>, usize)>,
    /// Places inside of control tokens that contents spell, each with its message.
    spelt: Vec<(usize, usize)>,
}

/// Whether a mark goes outside or inside of the blanks around a content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Outside,
    Inside,
}

/// Outside first, so that outer blanks count where the template prints them; inside, marks survive a trim.
const PLACEMENTS: [[Side; 2]; 4] = [
    [Side::Outside, Side::Outside],
    [Side::Outside, Side::Inside],
    [Side::Inside, Side::Outside],
    [Side::Inside, Side::Inside],
];

impl Layout {
    pub(super) fn is_in_reply(&self, piece: &Range<usize>) -> bool {
        self.replies.iter().flatten().any(|reply| reply.start <= piece.start && piece.end <= reply.end)
    }

    /// Whose content a piece of the text touches.
    pub(super) fn owner(&self, piece: &Range<usize>) -> Option<usize> {
        let next = self.contents.partition_point(|(content, _)| content.end <= piece.start);
        let touching = self.contents[next..].iter().find(|(content, _)| !content.is_empty());
        match touching {
            Some((content, message)) if content.start < piece.end => Some(*message),
            _ => self
                .spelt
                .iter()
                .find(|(place, _)| piece.start < *place && *place < piece.end)
                .map(|(_, message)| *message),
        }
    }
}

impl ChatTemplate {
    /// # Errors
    /// As [`ChatTemplate::render`], and [`TemplateProblem::ControlTextRead`].
    pub(super) fn layout(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Layout, DataError> {
        let marks = Marks::unused_in(messages)
            .ok_or_else(|| self.fail(TemplateProblem::LimitExceeded { limit: "number of messages" }))?;
        let search = Search {
            template: self,
            messages,
            add_generation_prompt,
            text: self.render(messages, add_generation_prompt)?,
            marks,
        };
        search.layout(tokenizer)
    }
}

/// One conversation that is rendered again and again with marks in it.
struct Search<'a> {
    template: &'a ChatTemplate,
    messages: &'a [Message],
    add_generation_prompt: bool,
    text: String,
    marks: Marks,
}

impl Search<'_> {
    fn layout(self, tokenizer: &Tokenizer) -> Result<Layout, DataError> {
        let all: Vec<usize> = (0..self.messages.len()).collect();
        let mut contents: Vec<Option<Vec<Range<usize>>>> = match self.contents_of(&all) {
            Some(contents) => contents.into_iter().map(Some).collect(),
            None => all.iter().map(|&message| self.contents_of(&[message]).map(|mut found| found.remove(0))).collect(),
        };
        let mut replies = vec![None; self.messages.len()];
        let mut spelt = Vec::new();
        for (message, places) in contents.iter_mut().enumerate() {
            let is_reply = self.messages[message].role == Role::Assistant;
            match places {
                Some(places) if !is_reply || places.len() == 1 => {
                    replies[message] = places.first().filter(|_| is_reply).cloned();
                }
                // Not printed, or more than once: no place is that of the reply.
                Some(_) => {}
                None => {
                    replies[message] = is_reply.then(|| self.rewritten_reply(message)).flatten();
                    spelt.extend(self.spelt_by(tokenizer, message)?);
                }
            }
        }
        let mut contents: Vec<(Range<usize>, usize)> = contents
            .into_iter()
            .enumerate()
            .flat_map(|(message, places)| places.into_iter().flatten().map(move |place| (place, message)))
            .collect();
        contents.sort_by_key(|(place, _)| (place.start, place.end));
        Ok(Layout { text: self.text, replies, contents, spelt })
    }

    /// Where the contents of these messages are printed, one list for each; `None` if marks round them change what is printed.
    fn contents_of(&self, which: &[usize]) -> Option<Vec<Vec<Range<usize>>>> {
        let has_outer_blanks = which.iter().any(|&message| {
            let content = &self.messages[message].content;
            self.messages[message].role == Role::Assistant && content.trim().len() < content.len()
        });
        let placements = if has_outer_blanks { &PLACEMENTS[..] } else { &PLACEMENTS[3..] };
        placements.iter().find_map(|placement| {
            let unmarked = self.render_marked(which, |message| {
                // What control tokens touch decides for others than replies, and blanks are none.
                let sides = if self.messages[message].role == Role::Assistant { *placement } else { PLACEMENTS[3] };
                ends(&self.messages[message].content, sides).to_vec()
            })?;
            let is_closed = |&message: &usize| unmarked.positions[message].len() % 2 == 0;
            if unmarked.text != self.text || !which.iter().all(is_closed) {
                return None;
            }
            let places =
                |&message: &usize| unmarked.positions[message].chunks(2).map(|pair| pair[0]..pair[1]).collect();
            Some(which.iter().map(places).collect())
        })
    }

    /// The conversation with marks in these messages. A template that refuses marks tells nothing by them.
    fn render_marked(&self, which: &[usize], positions: impl Fn(usize) -> Vec<usize>) -> Option<Unmarked> {
        let mut marked = self.messages.to_vec();
        for &message in which {
            marked[message].content = self.marks.put(message, &self.messages[message].content, &positions(message));
        }
        let rendered = self.template.render(&marked, self.add_generation_prompt).ok()?;
        Some(self.marks.remove(&rendered))
    }

    /// What is printed for a reply between the text that stands before and behind any reply in its place. Where the template writes
    /// something of its own before a short reply (empty reasoning), the reply begins where generation would.
    fn rewritten_reply(&self, message: usize) -> Option<Range<usize>> {
        let mut probe = self.messages.to_vec();
        probe[message].content = self.marks.put(message, "", &[0]);
        // A template that refuses the probe leaves the reply unknown; the caller names it.
        let probe = self.marks.remove(&self.template.render(&probe, self.add_generation_prompt).ok()?);
        let [place] = probe.positions[message][..] else { return None };
        let (before, behind) = probe.text.split_at(place);
        let end = self.text.len() - self.text.ends_with(behind).then_some(behind.len())?;
        let opening = || self.template.render(&self.messages[..message], true).ok();
        let starts = [Some(before.to_string()), opening()];
        let is_start = |start: &String| start.len() <= end && self.text.starts_with(start.as_str());
        let start = starts.into_iter().flatten().find(is_start)?.len();
        Some(start..end)
    }

    /// Places inside of the control tokens that this message spells and the template prints. What a template looks for in replies is
    /// part of its language for replies, and stays what it makes of it; nobody else may speak it.
    fn spelt_by(&self, tokenizer: &Tokenizer, message: usize) -> Result<Vec<(usize, usize)>, DataError> {
        let Message { role, content, .. } = &self.messages[message];
        let spellings = tokenizer.added_tokens_in(content);
        let mut ids: Vec<u32> =
            spellings.iter().filter(|(token, _)| token.is_control()).map(|(token, _)| token.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut places = Vec::new();
        for id in ids {
            let of_token = || spellings.iter().filter(|(token, _)| token.id == id);
            let inside = |range: &Range<usize>| {
                let first_char = content[range.clone()].chars().next().map_or(0, char::len_utf8);
                range.start + first_char
            };
            let unmarked = self.render_marked(&[message], |_| of_token().map(|(_, range)| inside(range)).collect());
            match unmarked.filter(|unmarked| unmarked.text == self.text) {
                Some(unmarked) => places.extend(unmarked.positions[message].iter().map(|&place| (place, message))),
                None if *role == Role::Assistant => {}
                None => {
                    let token = of_token().map(|(token, _)| token.text.clone()).next().unwrap_or_default();
                    return Err(self.template.fail(TemplateProblem::ControlTextRead { message, token }));
                }
            }
        }
        Ok(places)
    }
}

fn ends(content: &str, [start, end]: [Side; 2]) -> [usize; 2] {
    let inner_start = content.len() - content.trim_start().len();
    let inner_end = content.trim_end().len().max(inner_start);
    [if start == Side::Outside { 0 } else { inner_start }, if end == Side::Outside { content.len() } else { inner_end }]
}
