//! Words of answers as SQuAD's own program compares them.

use super::{f1, num_shared};

/// The words of a text in lower case, without ASCII punctuation and without `a`, `an` and `the`.
pub fn squad_words(text: &str) -> Vec<String> {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    text.split_whitespace().filter(|word| !is_article(word)).map(str::to_owned).collect()
}

pub(crate) fn is_article(word: &str) -> bool {
    ["a", "an", "the"].iter().any(|article| word.eq_ignore_ascii_case(article))
}

/// F1 of the words that an answer shares with a right answer, counted with repetition.
pub fn token_f1(gold: &str, predicted: &str) -> f64 {
    let (gold, predicted) = (squad_words(gold), squad_words(predicted));
    f1(num_shared(gold.iter(), predicted.iter()), gold.len(), predicted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    // evaluate-v1.1.py of SQuAD: normalize_answer and f1_score.
    #[test]
    fn words_and_f1_are_those_of_squad() {
        assert_eq!(squad_words("The  Bank of Calder-Bay, a U.S. bank"), ["bank", "of", "calderbay", "us", "bank"]);
        for (gold, predicted, want) in [
            ("14 May 1999", "May 1999", 0.8),
            ("the Orrin Bank", "Orrin bank.", 1.0),
            ("bank bank", "bank", 2.0 / 3.0),
            ("bank", "harbour", 0.0),
            ("bank", "", 0.0),
        ] {
            assert!((token_f1(gold, predicted) - want).abs() < 1e-12, "{gold} / {predicted}");
        }
    }
}
