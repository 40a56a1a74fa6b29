//! Selects the parameters that training changes; the others are frozen and have no gradient and no moments.

use crate::error::ModelError;
use crate::lora::Lora;

/// A selection of parameters by their names in Hugging Face files, or an adapter beside them.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Trainable {
    /// Every parameter.
    #[default]
    All,
    /// This many last blocks, the final norm, and the head where it is a tensor of its own. A head that is the embedding table stays
    /// frozen with it: training it would change what every frozen block reads.
    LastBlocks(usize),
    /// The parameters whose names match one of these patterns, in which `*` stands for any characters: `*.self_attn.*`.
    Names(Vec<String>),
    /// No parameter of the model, but those of an adapter.
    Adapter(Lora),
}

impl Trainable {
    /// Whether the model's parameter of this name is trained, in a model of `num_layers` blocks.
    pub fn is_trained(&self, name: &str, num_layers: usize) -> bool {
        match self {
            Trainable::All => true,
            Trainable::LastBlocks(count) => match block_of(name) {
                Some(block) => block.saturating_add(*count) >= num_layers,
                None => matches!(name, "model.norm.weight" | "lm_head.weight"),
            },
            Trainable::Names(patterns) => patterns.iter().any(|pattern| matches_pattern(pattern, name)),
            Trainable::Adapter(_) => false,
        }
    }

    /// The adapter that is trained, where it is one.
    pub fn lora(&self) -> Option<&Lora> {
        match self {
            Trainable::Adapter(lora) => Some(lora),
            _ => None,
        }
    }

    /// Refuses a selection that does not fit a model with parameters of these `names`.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] as [`Lora::check`]; [`ModelError::Trainable`]: no block or more blocks than there are, no pattern, or a pattern that matches no name.
    pub fn check<'a>(&self, names: impl IntoIterator<Item = &'a str>, num_layers: usize) -> Result<(), ModelError> {
        let refuse = |reason: String| Err(ModelError::Trainable { reason });
        match self {
            Trainable::All => Ok(()),
            Trainable::Adapter(lora) => lora.check(),
            Trainable::LastBlocks(count) if (1..=num_layers).contains(count) => Ok(()),
            Trainable::LastBlocks(count) => {
                refuse(format!("the last {count} blocks are to be trained, and the model has {num_layers}"))
            }
            Trainable::Names(patterns) if patterns.is_empty() => {
                refuse("no name is given, so nothing is trained".into())
            }
            Trainable::Names(patterns) => {
                let names: Vec<&str> = names.into_iter().collect();
                let matches_none = |pattern: &&String| !names.iter().any(|name| matches_pattern(pattern, name));
                match patterns.iter().find(matches_none) {
                    None => Ok(()),
                    Some(pattern) => refuse(format!(
                        "\"{pattern}\" matches no parameter; the whole name has to match, where `*` stands for any characters, and \
                         the names are of the form {}",
                        names.get(1).or(names.first()).copied().unwrap_or("(the model has none)")
                    )),
                }
            }
        }
    }
}

/// The block that a parameter belongs to.
fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// Whether the whole of `text` matches `pattern`; `*` stands for any characters, also none.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 9] = [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.11.self_attn.q_proj.weight",
        "model.layers.11.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ];

    fn trained(trainable: &Trainable) -> Vec<usize> {
        (0..NAMES.len()).filter(|i| trainable.is_trained(NAMES[*i], 12)).collect()
    }

    fn by_names(patterns: &[&str]) -> Trainable {
        Trainable::Names(patterns.iter().map(|pattern| (*pattern).to_owned()).collect())
    }

    #[test]
    fn the_last_blocks_are_trained_with_the_final_norm_and_the_head_but_not_the_embedding() {
        assert_eq!(trained(&Trainable::LastBlocks(1)), [5, 6, 7, 8]);
        assert_eq!(trained(&Trainable::LastBlocks(11)), [3, 4, 5, 6, 7, 8]);
        assert_eq!(trained(&Trainable::LastBlocks(12)), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(trained(&Trainable::All), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn patterns_match_whole_names() {
        assert_eq!(trained(&by_names(&["*.self_attn.*"])), [2, 3, 5]);
        assert_eq!(trained(&by_names(&["model.layers.1.*", "lm_head.weight"])), [3, 4, 8]);
        assert_eq!(trained(&by_names(&["*q_proj*weight"])), [2, 3, 5]);
        assert_eq!(trained(&by_names(&["self_attn", "*self_attn", "model.norm", ""])), [] as [usize; 0]);
        assert_eq!(trained(&by_names(&["**"])).len(), NAMES.len());
    }

    #[test]
    fn a_part_of_a_pattern_is_not_matched_twice() {
        for (pattern, text, want) in [
            ("ab*ba", "aba", false),
            ("ab*ba", "abba", true),
            ("*a*a", "a", false),
            ("*a*a", "aa", true),
            ("a*b*c", "a_b_b_c", true),
            ("a*b*c", "acb", false),
            ("*", "", true),
            ("", "", true),
        ] {
            assert_eq!(matches_pattern(pattern, text), want, "{pattern} on {text}");
        }
    }

    #[test]
    fn a_selection_that_cannot_be_is_refused_with_the_reason() {
        let refusal = |trainable: Trainable| trainable.check(NAMES, 12).unwrap_err().to_string();
        assert!(refusal(Trainable::LastBlocks(13)).contains("the last 13 blocks"));
        assert!(refusal(Trainable::LastBlocks(0)).contains("the model has 12"));
        assert!(refusal(by_names(&[])).contains("nothing is trained"));
        let message = refusal(by_names(&["*.self_attn.*", "*.attention.*"]));
        assert!(message.contains("\"*.attention.*\" matches no parameter") && message.contains(NAMES[1]), "{message}");
        for fine in [Trainable::All, Trainable::LastBlocks(12), by_names(&["*.mlp.*", "lm_head.weight"])] {
            fine.check(NAMES, 12).unwrap();
        }
    }
}
