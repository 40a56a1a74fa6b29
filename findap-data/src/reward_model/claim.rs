//! What a judge's prose says of a solution, to be held against its verdict.
//!
//! A judge weighs one thing after the other, so that the last clause that judges counts. This knows some thirty words and no grammar:
//! it may find doubt where there is none, which costs a pair.

use super::Correctness::{self, Correct, Wrong};

/// Words of a sentence that supposes what need not be.
const SUPPOSING: [&str; 8] =
    ["if", "unless", "suppose", "supposing", "assume", "assuming", "imagine", "hypothetically"];
const OPEN: [&str; 4] = ["whether", "would", "could", "might"];
/// Words behind which another clause begins.
const TURNS: [&str; 8] = ["but", "yet", "however", "although", "though", "while", "whereas", "nevertheless"];
const NEGATIONS: [&str; 12] =
    ["not", "no", "never", "none", "nothing", "neither", "nor", "cannot", "without", "hardly", "fails", "fail"];
/// What these are said to be, the final answer need not be.
const OTHERS: [&str; 14] = [
    "method",
    "approach",
    "working",
    "step",
    "steps",
    "reasoning",
    "calculation",
    "calculations",
    "formula",
    "logic",
    "procedure",
    "setup",
    "arithmetic",
    "reference",
];
/// Behind these, `right` and `correct` tell which answer is meant and judge none.
const NOUNS: [&str; 12] = [
    "answer", "answers", "option", "choice", "letter", "value", "result", "one", "figure", "number", "solution",
    "final",
];

/// Whether a text's last clause that judges says something else than this verdict.
pub(super) fn contradicts(text: &str, verdict: Correctness) -> bool {
    sentences(text)
        .filter(|sentence| !words(sentence).any(|word| SUPPOSING.contains(&word) || OPEN.contains(&word)))
        .flat_map(|sentence| clauses(&sentence))
        .map(|clause| claims(&clause))
        .filter(|claims| !claims.is_empty())
        .last()
        .is_some_and(|claims| claims.iter().any(|claim| *claim != verdict))
}

/// Whether the last sentence of a text supposes something, also as `were it so` and `had it been`.
pub(super) fn ends_in_supposition(text: &str) -> bool {
    sentences(text).last().is_some_and(|sentence| {
        let is_turned = words(&sentence).next().is_some_and(|first| ["were", "had"].contains(&first));
        is_turned || words(&sentence).any(|word| SUPPOSING.contains(&word))
    })
}

/// The sentences that have words, in lower case. The point of `7.5` ends none.
fn sentences(text: &str) -> impl Iterator<Item = String> {
    // What is quoted is not said.
    let said: String = text.split(['"', '\u{201c}', '\u{201d}']).step_by(2).collect::<Vec<_>>().join(" ");
    let text = said.to_lowercase().replace('\u{2019}', "'").replace(['!', '?', '\n'], ". ");
    let sentences: Vec<String> = text.split(". ").map(str::to_owned).collect();
    sentences.into_iter().filter(|sentence| words(sentence).next().is_some())
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty())
}

/// The words of each clause of a sentence.
fn clauses(sentence: &str) -> Vec<Vec<String>> {
    let mut clauses = Vec::new();
    for part in sentence.split([',', ';', ':', '(', ')']) {
        clauses.push(Vec::new());
        for word in words(part) {
            if TURNS.contains(&word) {
                clauses.push(Vec::new());
            }
            clauses.last_mut().expect("invariant: one was pushed").push(word.to_owned());
        }
    }
    clauses
}

fn claims(clause: &[String]) -> Vec<Correctness> {
    let claim = |at: usize| {
        let before = &clause[at.saturating_sub(3)..at];
        let is_negated = before.iter().any(|word| NEGATIONS.contains(&word.as_str()) || word.ends_with("n't"));
        // `The reference says A is correct`, but not `it matches the reference`.
        if clause[..at].iter().any(|word| OTHERS.contains(&word.as_str())) {
            return None;
        }
        let next = clause.get(at + 1).map_or("", String::as_str);
        let said = match clause[at].as_str() {
            // `6 x 9 equals 54` is a calculation.
            "equal" | "equals" if is_negated => Some(Correct),
            "correct" | "right" if NOUNS.contains(&next) => None,
            "correct" | "right" | "correctly" | "match" | "matches" | "matching" | "agree" | "agrees" | "same"
            | "identical" | "equivalent" | "accurate" => Some(Correct),
            "wrong" | "incorrect" | "incorrectly" | "wrongly" | "mistaken" | "mistake" | "error" | "differ"
            | "differs" | "different" | "mismatch" | "inaccurate" | "disagree" | "disagrees" | "false" | "invalid"
            | "missing" => Some(Wrong),
            _ => None,
        }?;
        Some(match (said, is_negated) {
            (Correct, true) | (Wrong, false) => Wrong,
            (Correct, false) | (Wrong, true) => Correct,
        })
    };
    (0..clause.len()).filter_map(claim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_clause_that_judges_is_held_against_the_verdict() {
        for (text, says) in [
            ("The proposed answer is wrong since it adds the fee twice.", Some(Wrong)),
            ("The proposed answer isn't correct.", Some(Wrong)),
            ("It gives the wrong result.", Some(Wrong)),
            ("Both say 7.5. They match exactly.", Some(Correct)),
            ("There is no error in it", Some(Correct)),
            ("The steps are right, but the final answers differ.", Some(Wrong)),
            ("The forms differ, yet both values are the same", Some(Correct)),
            ("Step 1 is correct.\nStep 2 is wrong.", None),
            ("The method is correct, but no final answer is given", None),
            ("It says B while the reference says A is correct.", None),
            ("It matches the reference.", Some(Correct)),
            ("The final answer is missing", Some(Wrong)),
            ("The claim is false.", Some(Wrong)),
            ("**Verdict:** incorrect", Some(Wrong)),
            ("The correct answer is A, the right option of the list.", None),
            ("54 does not equal 55", Some(Wrong)),
            ("6 x 9 equals 54", None),
            ("If they were the same, it would be correct.", None),
            ("I look whether it is correct.", None),
            ("The solution says \"this is correct\" of itself", None),
            ("Reference: A. Proposed: B.", None),
            ("", None),
        ] {
            let found = [Correct, Wrong].map(|verdict| contradicts(text, verdict));
            let want = says.map_or([false, false], |says| [says == Wrong, says == Correct]);
            assert_eq!(found, want, "{text}");
        }
        let both = "It is both right and wrong";
        assert_eq!([Correct, Wrong].map(|verdict| contradicts(both, verdict)), [true, true]);
    }
}
