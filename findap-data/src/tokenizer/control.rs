//! Added tokens in text: where they are spelt, and which of them control the conversation.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::chat_template::Vocabulary;

/// A token of `added_tokens` in `tokenizer.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) text: String,
    /// `special` in `tokenizer.json`.
    pub(crate) is_special: bool,
    /// Whether the folder's chat template writes it.
    pub(crate) is_written: bool,
    /// Whether the template may put it together from what stands around its word and something else ([`may_be_composed`]).
    pub(crate) is_composed: bool,
}

impl AddedToken {
    /// Whether it is a word, a number or blanks, made of nothing but letters, digits and blanks: such a token shortens text, and marks nothing in it.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.text.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || c == '_')
    }

    /// Control tokens structure conversations: text that spells one never becomes one.
    pub(crate) fn is_control(&self) -> bool {
        self.is_special || ((self.is_written || self.is_composed) && !self.is_ordinary())
    }
}

/// All added tokens of a tokenizer.
pub(crate) struct AddedTokens {
    tokens: Vec<AddedToken>,
    control_ids: HashSet<u32>,
    automaton: AhoCorasick,
}

impl AddedTokens {
    /// Makes the search for these tokens. The longest of those that begin at one place is meant, as the tokenizers library has it.
    pub(crate) fn new(mut tokens: Vec<AddedToken>) -> Result<AddedTokens, String> {
        tokens.retain(|token| !token.text.is_empty());
        tokens.sort_by_key(|token| token.id);
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| &token.text))
            .map_err(|error| error.to_string())?;
        let control_ids = tokens.iter().filter(|token| token.is_control()).map(|token| token.id).collect();
        Ok(AddedTokens { tokens, control_ids, automaton })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.control_ids.contains(&id)
    }

    /// The added tokens that a text spells, from left to right.
    pub(crate) fn spelt_in(&self, text: &str) -> Vec<(&AddedToken, Range<usize>)> {
        self.automaton.find_iter(text).map(|found| (&self.tokens[found.pattern()], found.range())).collect()
    }
}

/// Whether a template writes a token: literally, by one of its variables, or put together from the name of a role
/// (`'<|' + message.role + '|>'`). To take a token for written that is not costs nothing but that its text stays text.
pub(crate) fn is_written(template: &Vocabulary, variables: &[(String, Vec<String>)], token: &str) -> bool {
    let by_variable =
        |(field, tokens): &(String, Vec<String>)| tokens.iter().any(|other| other == token) && template.names(field);
    let by_role = |role: &&str| {
        token.split_once(role).is_some_and(|(before, after)| {
            !before.is_empty()
                && !after.is_empty()
                && template.names("role")
                && template.prints(before)
                && template.prints(after)
        })
    };
    template.prints(token)
        || variables.iter().any(by_variable)
        || ["system", "user", "assistant", "tool"].iter().any(by_role)
}

/// Whether a template prints what stands before and behind the words of a token, and so may write it with whatever it makes of a role
/// (`'<|' + names[message.role] + '|>'`).
pub(crate) fn may_be_composed(template: &Vocabulary, token: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    token.find(is_word).zip(token.rfind(is_word)).is_some_and(|(first, last)| {
        let after = token[last..].trim_start_matches(is_word);
        first > 0 && !after.is_empty() && template.prints(&token[..first]) && template.prints(after)
    })
}
