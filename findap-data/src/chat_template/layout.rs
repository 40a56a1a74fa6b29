//! Where a template prints the content of each message.
//!
//! A message is found by rendering the conversation a second time with marks around its content: where the text is the same but for
//! the marks, they tell the place. A template that looks into contents or rewrites them (reasoning cut from earlier replies) prints
//! something else then. Such a reply is found between what the template prints before and behind it for a reply of one character;
//! and the control tokens that such a message spells are found by a mark inside of each. Messages are marked together as far as that
//! goes, so that a long conversation is rendered a few times.

use std::cell::Cell;
use std::collections::BTreeMap;
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

/// Messages that may be rendered to find the replies of one conversation: some seconds.
const MAX_RENDERED_MESSAGES: usize = 1_000_000;

impl Layout {
    /// Where the first content begins that is printed.
    pub(super) fn first_content(&self) -> usize {
        self.contents.first().map_or(self.text.len(), |(content, _)| content.start)
    }

    pub(super) fn is_in_reply(&self, piece: &Range<usize>) -> bool {
        self.replies.iter().flatten().any(|reply| reply.start <= piece.start && piece.end <= reply.end)
    }

    /// The replies that a span of the text touches; where it touches no content at all, the one before it or else behind it, if no
    /// other content stands between.
    pub(super) fn replies_beside(&self, span: &Range<usize>) -> Vec<usize> {
        let replies = self.replies.iter().enumerate().filter_map(|(message, reply)| Some((reply.clone()?, message)));
        let replies: Vec<(Range<usize>, usize)> = replies.collect();
        let pieces = || self.contents.iter().chain(&replies);
        let mut beside: Vec<usize> = pieces()
            .filter(|(piece, _)| piece.start < span.end && span.start < piece.end)
            .map(|(_, message)| *message)
            .collect();
        if beside.is_empty() {
            let before = pieces().filter(|(piece, _)| piece.end <= span.start).max_by_key(|(piece, _)| piece.end);
            let behind = pieces().filter(|(piece, _)| piece.start >= span.end).min_by_key(|(piece, _)| piece.start);
            let neighbours = before.into_iter().chain(behind).map(|(_, message)| *message);
            beside = neighbours.filter(|&message| self.replies[message].is_some()).take(1).collect();
        }
        beside.retain(|&message| self.replies[message].is_some());
        beside
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
    /// As [`ChatTemplate::render`], [`TemplateProblem::SystemNotPrinted`], and [`TemplateProblem::ControlTextRead`].
    pub(super) fn layout(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Layout, DataError> {
        let marks = Marks::unused_in(messages)
            .ok_or_else(|| self.fail(TemplateProblem::LimitExceeded { limit: "number of messages" }))?;
        let text = self.render(messages, add_generation_prompt)?;
        self.check_system(messages, &text)?;
        let search = Search {
            template: self,
            messages,
            add_generation_prompt,
            text,
            marks,
            num_rendered: Cell::new(messages.len()),
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
    /// Messages rendered so far, over all renderings.
    num_rendered: Cell<usize>,
}

impl Search<'_> {
    fn layout(self, tokenizer: &Tokenizer) -> Result<Layout, DataError> {
        let mut contents: Vec<Option<Vec<Range<usize>>>> = vec![None; self.messages.len()];
        self.find_contents((0..self.messages.len()).collect(), &mut contents)?;
        let mut replies = vec![None; self.messages.len()];
        let mut rewritten = Vec::new();
        for (message, places) in contents.iter().enumerate() {
            match places.as_deref() {
                Some([place]) if self.is_reply(message) => replies[message] = Some(place.clone()),
                // A reply that is not printed, or more than once, has no place.
                Some(_) => {}
                None => rewritten.push(message),
            }
        }
        let spelt = self.spelt_by(tokenizer, &rewritten)?;
        rewritten.retain(|&message| self.is_reply(message));
        self.find_rewritten_replies(&rewritten, &contents, &mut replies)?;
        let mut contents: Vec<(Range<usize>, usize)> = contents
            .into_iter()
            .enumerate()
            .flat_map(|(message, places)| places.into_iter().flatten().map(move |place| (place, message)))
            .collect();
        contents.sort_by_key(|(place, _)| (place.start, place.end));
        Ok(Layout { text: self.text, replies, contents, spelt })
    }

    fn is_reply(&self, message: usize) -> bool {
        self.messages[message].role == Role::Assistant
    }

    /// Finds where the contents of these messages are printed, one list for each; a message that the template rewrites stays `None`.
    /// Where marks change what is printed, the messages that are to blame are found by halving.
    fn find_contents(
        &self,
        mut unfound: Vec<usize>,
        contents: &mut [Option<Vec<Range<usize>>>],
    ) -> Result<(), DataError> {
        let has_outer_blanks = unfound.iter().any(|&message| {
            let content = &self.messages[message].content;
            self.is_reply(message) && content.trim().len() < content.len()
        });
        let mut is_told = true;
        for placement in if has_outer_blanks { &PLACEMENTS[..] } else { &PLACEMENTS[3..] } {
            let unmarked = self.render_marked(&unfound, |message| {
                // What control tokens touch decides for others than replies, and blanks are none.
                let sides = if self.is_reply(message) { *placement } else { PLACEMENTS[3] };
                ends(&self.messages[message].content, sides).to_vec()
            })?;
            let Some(unmarked) = unmarked.filter(|unmarked| unmarked.text == self.text) else {
                is_told = false;
                continue;
            };
            unfound.retain(|&message| {
                let positions = &unmarked.positions[message];
                let is_closed = positions.len() % 2 == 0;
                if is_closed {
                    contents[message] = Some(positions.chunks(2).map(|pair| pair[0]..pair[1]).collect());
                }
                !is_closed
            });
            if unfound.is_empty() {
                return Ok(());
            }
        }
        if is_told || unfound.len() == 1 {
            return Ok(());
        }
        let (mut first, mut second): (Vec<usize>, Vec<usize>) =
            unfound.into_iter().partition(|&message| self.is_reply(message));
        if first.is_empty() || second.is_empty() {
            first.append(&mut second);
            second = first.split_off(first.len() / 2);
        }
        self.find_contents(first, contents)?;
        self.find_contents(second, contents)
    }

    /// The conversation with marks in these messages. A template that refuses marks tells nothing by them.
    fn render_marked(
        &self,
        which: &[usize],
        positions: impl Fn(usize) -> Vec<usize>,
    ) -> Result<Option<Unmarked>, DataError> {
        let mut marked = self.messages.to_vec();
        for &message in which {
            marked[message].content = self.marks.put(message, &self.messages[message].content, &positions(message));
        }
        Ok(self.try_render(&marked, self.add_generation_prompt)?.map(|rendered| self.marks.remove(&rendered)))
    }

    /// What a template makes of changed messages, or `None` where it refuses them.
    fn try_render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Option<String>, DataError> {
        self.num_rendered.set(self.num_rendered.get() + messages.len());
        if self.num_rendered.get() > MAX_RENDERED_MESSAGES {
            return Err(self.template.fail(TemplateProblem::LimitExceeded { limit: "work of finding the replies" }));
        }
        Ok(self.template.render(messages, add_generation_prompt).ok())
    }

    /// Finds the replies that the template rewrites: what is printed between the text that stands before and behind any reply in
    /// their place. All are first replaced by marks at once; each then lies between its neighbours, whose places are known.
    fn find_rewritten_replies(
        &self,
        rewritten: &[usize],
        contents: &[Option<Vec<Range<usize>>>],
        replies: &mut [Option<Range<usize>>],
    ) -> Result<(), DataError> {
        let mut unfound = rewritten.to_vec();
        if unfound.len() > 1 {
            let mut probe = self.messages.to_vec();
            for (message, turn) in probe.iter_mut().enumerate() {
                turn.content = match (rewritten.binary_search(&message), contents[message].as_deref()) {
                    (Ok(_), _) => self.marks.put(message, "", &[0]),
                    (_, Some([_])) => self.marks.put(message, &turn.content, &ends(&turn.content, PLACEMENTS[3])),
                    _ => continue,
                };
            }
            if let Some(rendered) = self.try_render(&probe, self.add_generation_prompt)? {
                let probe = self.marks.remove(&rendered);
                unfound.retain(|&message| {
                    replies[message] = self.between_neighbours(message, &probe, contents);
                    replies[message].is_none()
                });
            }
        }
        for message in unfound {
            replies[message] = self.rewritten_reply(message)?;
        }
        Ok(())
    }

    /// A rewritten reply that both its neighbours in the conversation tell by their places, or `None`.
    fn between_neighbours(
        &self,
        message: usize,
        probe: &Unmarked,
        contents: &[Option<Vec<Range<usize>>>],
    ) -> Option<Range<usize>> {
        let [place] = probe.positions[message][..] else { return None };
        let neighbour = |neighbour: Option<usize>| match (contents.get(neighbour?)?.as_deref(), neighbour?) {
            (Some([here]), neighbour) if !here.is_empty() => match probe.positions[neighbour][..] {
                [start, end] if self.text[here.clone()] == probe.text[start..end] => Some((here.clone(), start..end)),
                _ => None,
            },
            _ => None,
        };
        let (before, before_in_probe) = match message {
            0 => (0..0, 0..0),
            _ => neighbour(message.checked_sub(1))?,
        };
        let whole = (self.text.len()..self.text.len(), probe.text.len()..probe.text.len());
        let (behind, behind_in_probe) = match message + 1 == self.messages.len() {
            true => whole,
            false => neighbour(Some(message + 1))?,
        };
        let lead = probe.text.get(before_in_probe.end..place)?;
        let tail = probe.text.get(place..behind_in_probe.start)?;
        let gap = self.text.get(before.end..behind.start)?;
        let is_framed = gap.len() >= lead.len() + tail.len() && gap.starts_with(lead) && gap.ends_with(tail);
        is_framed.then(|| before.end + lead.len()..behind.start - tail.len())
    }

    /// One rewritten reply. Where the template writes something of its own before a short reply (empty reasoning), the reply begins
    /// where generation would.
    fn rewritten_reply(&self, message: usize) -> Result<Option<Range<usize>>, DataError> {
        let mut probe = self.messages.to_vec();
        probe[message].content = self.marks.put(message, "", &[0]);
        // A template that refuses the probe leaves the reply unknown; the caller names it.
        let Some(rendered) = self.try_render(&probe, self.add_generation_prompt)? else { return Ok(None) };
        let probe = self.marks.remove(&rendered);
        let [place] = probe.positions[message][..] else { return Ok(None) };
        let (before, behind) = probe.text.split_at(place);
        if !self.text.ends_with(behind) {
            return Ok(None);
        }
        let end = self.text.len() - behind.len();
        let is_start = |start: &str| start.len() <= end && self.text.starts_with(start);
        if is_start(before) {
            return Ok(Some(before.len()..end));
        }
        let opening = self.try_render(&self.messages[..message], true)?;
        let unopened = self.try_render(&self.messages[..message], false)?;
        // Where both are the same, the template opens no reply when it is asked to, and its header would be learnt.
        let start = opening.filter(|opening| unopened.as_ref() != Some(opening) && is_start(opening));
        Ok(start.map(|opening| opening.len()..end))
    }

    /// Places inside of the control tokens that these messages spell and the template prints. Special tokens stay text in a reply;
    /// other tokens of a rewritten reply, and what a template looks for in replies, are part of its language for replies and stay what
    /// it makes of them; nobody else may speak it.
    fn spelt_by(&self, tokenizer: &Tokenizer, which: &[usize]) -> Result<Vec<(usize, usize)>, DataError> {
        let mut spellings: BTreeMap<u32, BTreeMap<usize, Vec<Range<usize>>>> = BTreeMap::new();
        for &message in which {
            for (token, range) in tokenizer.added_tokens_in(&self.messages[message].content) {
                if token.is_special || (token.is_control() && !self.is_reply(message)) {
                    spellings.entry(token.id).or_default().entry(message).or_default().push(range);
                }
            }
        }
        let mut places = Vec::new();
        for of_token in spellings.values() {
            if let Some(unmarked) = self.render_marked_inside(of_token)? {
                let of_message =
                    |&message: &usize| unmarked.positions[message].iter().map(move |&place| (place, message));
                places.extend(of_token.keys().flat_map(of_message));
                continue;
            }
            for (&message, ranges) in of_token {
                let one = BTreeMap::from([(message, ranges.clone())]);
                match self.render_marked_inside(&one)? {
                    Some(unmarked) => places.extend(unmarked.positions[message].iter().map(|&place| (place, message))),
                    None if self.is_reply(message) => {}
                    None => {
                        let token = self.messages[message].content[ranges[0].clone()].to_string();
                        return Err(self.template.fail(TemplateProblem::ControlTextRead { message, token }));
                    }
                }
            }
        }
        Ok(places)
    }

    /// The conversation with a mark inside of each of these spellings, unless that changes what is printed.
    fn render_marked_inside(
        &self,
        spellings: &BTreeMap<usize, Vec<Range<usize>>>,
    ) -> Result<Option<Unmarked>, DataError> {
        let which: Vec<usize> = spellings.keys().copied().collect();
        let unmarked = self.render_marked(&which, |message| {
            let inside = |range: &Range<usize>| {
                let first_char = self.messages[message].content[range.clone()].chars().next().map_or(0, char::len_utf8);
                range.start + first_char
            };
            spellings[&message].iter().map(inside).collect()
        })?;
        Ok(unmarked.filter(|unmarked| unmarked.text == self.text))
    }
}

fn ends(content: &str, [start, end]: [Side; 2]) -> [usize; 2] {
    let inner_start = content.len() - content.trim_start().len();
    let inner_end = content.trim_end().len().max(inner_start);
    [if start == Side::Outside { 0 } else { inner_start }, if end == Side::Outside { content.len() } else { inner_end }]
}
