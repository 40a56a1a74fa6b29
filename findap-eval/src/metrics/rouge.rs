//! ROUGE: how much of a text's words, pairs of words or order of words another text has. Lower case, letters and digits only, as
//! `rouge_score` counts.

use super::stem::stem;
use super::{f1, num_shared};

/// F1 of the words that two texts share, counted with repetition; by their stems where asked for.
pub fn rouge1(gold: &str, predicted: &str, by_stem: bool) -> f64 {
    of_runs(gold, predicted, by_stem, 1)
}

/// F1 of the pairs of neighbouring words that two texts share.
pub fn rouge2(gold: &str, predicted: &str, by_stem: bool) -> f64 {
    of_runs(gold, predicted, by_stem, 2)
}

/// F1 of the longest sequence of words, not necessarily neighbours, that two texts have in the same order.
pub fn rouge_l(gold: &str, predicted: &str, by_stem: bool) -> f64 {
    let (gold, predicted) = (words(gold, by_stem), words(predicted, by_stem));
    f1(longest_common(&gold, &predicted), gold.len(), predicted.len())
}

fn of_runs(gold: &str, predicted: &str, by_stem: bool, length: usize) -> f64 {
    let (gold, predicted) = (words(gold, by_stem), words(predicted, by_stem));
    let (gold, predicted) = (gold.windows(length), predicted.windows(length));
    f1(num_shared(gold.clone(), predicted.clone()), gold.count(), predicted.count())
}

fn words(text: &str, by_stem: bool) -> Vec<String> {
    let text = text.to_lowercase();
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    // Short words are left as they are.
    parts.map(|word| if by_stem && word.len() > 3 { stem(word) } else { word.to_owned() }).collect()
}

fn longest_common(one: &[String], other: &[String]) -> usize {
    // best[j]: of the words of `one` so far and the first j of `other`.
    let mut best = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (index, candidate) in other.iter().enumerate() {
            let above = best[index + 1];
            best[index + 1] = if word == candidate { diagonal + 1 } else { above.max(best[index]) };
            diagonal = above;
        }
    }
    best[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    // rouge_score 0.1.2, RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=...).score(gold, predicted), fmeasure.
    #[test]
    fn rouge_equals_rouge_score() {
        for (gold, predicted, plain, by_stem) in [
            ("The cat sat on the mat.", "the cat, the dog", [0.6, 0.25, 0.6], [0.6, 0.25, 0.6]),
            ("", "", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
            ("same words", "Same words!", [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]),
            (
                "Harbour revenues increased sharply, and the directors were expecting dividends.",
                "Revenue of harbours increases; a director expects the dividend",
                [0.10526315789473685, 0.0, 0.10526315789473685],
                [0.7368421052631577, 0.0, 0.5263157894736842],
            ),
            (
                "Orders rose by 12.5% in Calder Bay",
                "In Calder Bay the orders have risen 12.5 percent",
                [0.6666666666666665, 0.375, 0.33333333333333326],
                [0.6666666666666665, 0.375, 0.33333333333333326],
            ),
            ("one", "one two three one", [0.4, 0.0, 0.4], [0.4, 0.0, 0.4]),
            (
                "na\u{ef}ve caf\u{e9} owners",
                "naive cafe owner",
                [0.0, 0.0, 0.0],
                [0.28571428571428575, 0.0, 0.28571428571428575],
            ),
        ] {
            for (want, is_stemmed) in [(plain, false), (by_stem, true)] {
                let found = [rouge1, rouge2, rouge_l].map(|rouge| rouge(gold, predicted, is_stemmed));
                let is_near = found.iter().zip(want).all(|(found, want): (&f64, f64)| (found - want).abs() < 1e-12);
                assert!(is_near, "{gold} / {predicted}, stems {is_stemmed}: {found:?} is not {want:?}");
            }
        }
    }
}
