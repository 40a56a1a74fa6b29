//! What a misspelt name was probably meant to be.

/// The candidate spelt most like `word`, if one is near enough to be a likely slip: at most half of the longer word's characters are
/// inserted, deleted, replaced or swapped with their neighbour. Of several equally near, the first in the alphabet.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= word.chars().count().max(candidate.chars().count()) / 2)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_another_word_finds_none() {
        let known = ["learning_rate", "warmup_ratio", "epochs", "seed"];
        for (word, want) in [
            ("learning_rat", Some("learning_rate")),
            ("epcohs", Some("epochs")),
            ("sed", Some("seed")),
            ("warm_up_ratio", Some("warmup_ratio")),
            ("batch", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known).as_deref(), want, "{word}");
        }
        assert_eq!(nearest("word", []), None);
        assert_eq!(nearest("ac", ["ab", "aa"]).as_deref(), Some("aa"));
    }
}
