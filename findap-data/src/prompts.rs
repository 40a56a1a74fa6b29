//! The four questions that a judge or filter is asked, and strict readers of the answers.
//!
//! The JSON shapes are those of FinDAP (arXiv:2501.04961, figures H.1, H.2, D.1, D.2); the wording is ours. An answer that does
//! not have the shape is an error: a bad answer never becomes a label.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::message::Message;

/// Why an answer cannot be used.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// No JSON object in it.
    #[error("the answer holds no JSON object")]
    NoObject,
    /// More than one JSON object: which one counts is unknown.
    #[error("the answer holds several JSON objects")]
    SeveralObjects,
    /// A field is missing or of another type.
    #[error("the answer's field '{field}' is missing or not {want}")]
    BadField {
        /// The field.
        field: &'static str,
        /// What is expected.
        want: &'static str,
    },
    /// A quotation that is not in the text it should come from.
    #[error("the answer's '{field}' is not found in the solution, or not where it should stand")]
    BadQuotation {
        /// The field.
        field: &'static str,
    },
    /// A correction that changes nothing.
    #[error("the correction is the same as the step it corrects")]
    SameStep,
}

/// The first wrong step of a solution, and what should stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCorrection {
    /// Why.
    pub justification: String,
    /// The solution up to the wrong step, verbatim.
    pub prefix: String,
    /// The wrong step, verbatim.
    pub wrong_step: String,
    /// The step that should stand there.
    pub correction: String,
}

/// Asks whether a proposed answer ends in the reference's final answer (final-answer preference).
pub fn final_answer(question: &str, reference: &str, proposed: &str) -> Vec<Message> {
    vec![
        Message::system(
            "You compare final answers of exam solutions. Do not solve the question yourself. Find the final answer stated in the \
             reference and the one stated in the proposed solution, and compare only these two. If the proposed solution states \
             no final answer, or more than one, it is wrong. Reply with one JSON object and nothing else: {\"Justification\": \
             \"at most 100 words\", \"Correctness\": \"correct\" or \"wrong\"}.",
        ),
        Message::user(format!(
            "### Question\n{question}\n\n### Reference answer\n{reference}\n\n### Proposed answer\n{proposed}"
        )),
    ]
}

/// Reads the reply to [`final_answer`]: is it correct?
///
/// # Errors
/// [`AnswerError`] unless there is exactly one object with `Correctness` of `correct` or `wrong`.
pub fn parse_final_answer(reply: &str) -> Result<bool, AnswerError> {
    let object = only_object(reply)?;
    match object.get("Correctness").and_then(Value::as_str) {
        Some("correct") => Ok(true),
        Some("wrong") => Ok(false),
        _ => Err(AnswerError::BadField { field: "Correctness", want: "'correct' or 'wrong'" }),
    }
}

/// Asks for the first wrong step of a wrong solution and its correction (stepwise corrective preference).
pub fn first_wrong_step(question: &str, reference: &str, incorrect: &str) -> Vec<Message> {
    vec![
        Message::system(
            "You examine a solution that ends in a wrong answer. Find the first step that is wrong; it is an intermediate step, \
             not the final answer. Quote it word for word, quote word for word everything before it, and write the one step that \
             should stand in its place, as the answer to: what is the next reasoning step? Reply with one JSON object and nothing \
             else: {\"Justification\": \"at most 100 words: why the step is wrong, why what precedes it is right, how the correction \
             leads to the reference\", \"First incorrect step\": \"...\", \"Reasoning up to incorrect\": \"...\", \"Step correction\": \
             \"...\"}.",
        ),
        Message::user(format!(
            "### Question\n{question}\n\n### Reference answer\n{reference}\n\n### Incorrect answer\n{incorrect}"
        )),
    ]
}

/// Reads the reply to [`first_wrong_step`] about the solution `incorrect`.
///
/// # Errors
/// [`AnswerError`] unless both quotations are verbatim, the step follows directly on the prefix (blanks apart) and the correction
/// differs from it.
pub fn parse_first_wrong_step(reply: &str, incorrect: &str) -> Result<StepCorrection, AnswerError> {
    let object = only_object(reply)?;
    let wrong_step = text(&object, "First incorrect step")?.trim();
    let prefix = object
        .get("Reasoning up to incorrect")
        .and_then(Value::as_str)
        .ok_or(AnswerError::BadField { field: "Reasoning up to incorrect", want: "a text" })?;
    let correction = text(&object, "Step correction")?.trim();
    let prefix = prefix.trim();
    let rest = incorrect
        .trim_start()
        .strip_prefix(prefix)
        .ok_or(AnswerError::BadQuotation { field: "Reasoning up to incorrect" })?;
    if !rest.trim_start().starts_with(wrong_step) {
        return Err(AnswerError::BadQuotation { field: "First incorrect step" });
    }
    if correction == wrong_step {
        return Err(AnswerError::SameStep);
    }
    Ok(StepCorrection {
        justification: text(&object, "Justification")?.to_string(),
        prefix: prefix.to_string(),
        wrong_step: wrong_step.to_string(),
        correction: correction.to_string(),
    })
}

/// Asks how useful a text is for learning finance, 0 to 5.
pub fn quality(passage: &str) -> Vec<Message> {
    vec![
        Message::system(
            "You rate how useful a text is for students of finance. Start at 0 and add one point for each that holds: it helps to \
             learn finance or to prepare for an exam; it deals with finance at all, however briefly; it is coherent and fits a \
             finance course; it is highly relevant, clear and at a student's level, with exercises and solutions; it is outstanding, \
             with detailed reasoning and nothing off the topic. Reply with one JSON object and nothing else: {\"Justification\": \
             \"at most 100 words\", \"Score\": 0 to 5}.",
        ),
        Message::user(format!("### Text\n{passage}")),
    ]
}

/// Reads the reply to [`quality`].
///
/// # Errors
/// [`AnswerError`] unless `Score` is a whole number from 0 to 5.
pub fn parse_quality(reply: &str) -> Result<u8, AnswerError> {
    let object = only_object(reply)?;
    object
        .get("Score")
        .and_then(Value::as_u64)
        .filter(|score| *score <= 5)
        .map(|score| score as u8)
        .ok_or(AnswerError::BadField { field: "Score", want: "a whole number from 0 to 5" })
}

/// An exercise found in a text. Fields that the text does not give hold `N/A`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exercise {
    /// The question, verbatim.
    pub question: String,
    /// The situation it refers to.
    pub scenario: String,
    /// The table it refers to.
    pub exhibit: String,
    /// Its choices.
    pub choices: String,
    /// Its answer as given in the text.
    pub answer: String,
}

/// Asks for the exercises in a part of a book.
pub fn exercises(passage: &str) -> Vec<Message> {
    vec![
        Message::system(
            "You copy exercises out of a text. Copy every question word for word; invent nothing and answer nothing. Repeat a \
             scenario or an exhibit for each question that needs it, so that all lists have the same length; keep tables as \
             they are; write N/A where the text gives nothing. Reply with one JSON object and nothing else: {\"Justification\": \
             \"...\", \"Questions\": [...], \"Scenario\": [...], \"Exhibit\": [...], \"Answer Choices\": [...], \"Answer\": [...]}.",
        ),
        Message::user(format!("### Text\n{passage}")),
    ]
}

/// Reads the reply to [`exercises`] about `passage`.
///
/// # Errors
/// [`AnswerError`] unless the five lists hold texts and have one length, and each question stands in the passage (blanks apart).
pub fn parse_exercises(reply: &str, passage: &str) -> Result<Vec<Exercise>, AnswerError> {
    let object = only_object(reply)?;
    let list = |field: &'static str| -> Result<Vec<String>, AnswerError> {
        let bad = AnswerError::BadField { field, want: "a list of texts as long as the others" };
        let items = object.get(field).and_then(Value::as_array).ok_or(bad.clone())?;
        items.iter().map(|item| item.as_str().map(str::to_string).ok_or(bad.clone())).collect()
    };
    let questions = list("Questions")?;
    let fields = ["Scenario", "Exhibit", "Answer Choices", "Answer"];
    let mut lists = Vec::new();
    for field in fields {
        let items = list(field)?;
        if items.len() != questions.len() {
            return Err(AnswerError::BadField { field, want: "a list of texts as long as the others" });
        }
        lists.push(items.into_iter());
    }
    let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let passage = squeezed(passage);
    questions
        .into_iter()
        .map(|question| {
            if question.trim().is_empty() || !passage.contains(&squeezed(&question)) {
                return Err(AnswerError::BadQuotation { field: "Questions" });
            }
            let mut next = |list: usize| lists[list].next().expect("invariant: the lists have one length");
            Ok(Exercise { scenario: next(0), exhibit: next(1), choices: next(2), answer: next(3), question })
        })
        .collect()
}

fn text<'a>(object: &'a Map<String, Value>, field: &'static str) -> Result<&'a str, AnswerError> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.trim().is_empty())
        .ok_or(AnswerError::BadField { field, want: "a text" })
}

/// The one JSON object of a reply, bare or between words or a code fence.
fn only_object(reply: &str) -> Result<Map<String, Value>, AnswerError> {
    const MAX_STARTS: usize = 64;
    let mut found = None;
    let mut at = 0;
    for _ in 0..MAX_STARTS {
        let Some(start) = reply[at..].find('{') else { break };
        let start = at + start;
        let mut stream = serde_json::Deserializer::from_str(&reply[start..]).into_iter::<Map<String, Value>>();
        match stream.next() {
            Some(Ok(object)) => {
                if found.replace(object).is_some() {
                    return Err(AnswerError::SeveralObjects);
                }
                at = start + stream.byte_offset();
            }
            _ => at = start + 1,
        }
    }
    found.ok_or(AnswerError::NoObject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_verdicts_become_labels() {
        assert_eq!(parse_final_answer("{\"Justification\": \"same\", \"Correctness\": \"correct\"}"), Ok(true));
        assert_eq!(parse_final_answer("```json\n{\"Correctness\": \"wrong\"}\n```"), Ok(false));
        for bad in [
            "",
            "correct",
            "{\"Correctness\": \"Correct!\"}",
            "{\"Correctness\": true}",
            "{\"Correctness\": \"correct\"",
            "{\"Correctness\": \"correct\"} {\"Correctness\": \"wrong\"}",
            "{{{{{{",
            "{\"Score\": 5}",
        ] {
            assert!(parse_final_answer(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_quality("Here: {\"Justification\": \"x\", \"Score\": 4}"), Ok(4));
        for bad in ["{\"Score\": 6}", "{\"Score\": -1}", "{\"Score\": \"4\"}", "{\"Score\": 4.5}", "{\"Score\": NaN}"] {
            assert!(parse_quality(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn corrections_must_quote_the_solution() {
        let solution = "Add 2 and 3.\nThat is 6.\nSo the answer is 6.";
        let reply = |prefix: &str, step: &str, correction: &str| {
            serde_json::json!({"Justification": "j", "First incorrect step": step, "Reasoning up to incorrect": prefix, "Step correction": correction}).to_string()
        };
        let good = parse_first_wrong_step(&reply("Add 2 and 3.", "That is 6.", "That is 5."), solution).expect("good");
        assert_eq!(
            (good.prefix.as_str(), good.wrong_step.as_str(), good.correction.as_str()),
            ("Add 2 and 3.", "That is 6.", "That is 5.")
        );
        assert!(parse_first_wrong_step(&reply("", "Add 2 and 3.", "Add 2 and 4."), solution).is_ok());
        assert!(matches!(
            parse_first_wrong_step(&reply("Add two.", "That is 6.", "x"), solution),
            Err(AnswerError::BadQuotation { .. })
        ));
        assert!(matches!(
            parse_first_wrong_step(&reply("Add 2 and 3.", "So the", "x"), solution),
            Err(AnswerError::BadQuotation { .. })
        ));
        assert_eq!(
            parse_first_wrong_step(&reply("Add 2 and 3.", "That is 6.", "That is 6."), solution),
            Err(AnswerError::SameStep)
        );
        assert!(matches!(
            parse_first_wrong_step(&reply("Add 2 and 3.", "That is 6.", ""), solution),
            Err(AnswerError::BadField { .. })
        ));
    }

    #[test]
    fn exercises_must_stand_in_the_text() {
        let reply = |question: &str, answers: &[&str]| {
            serde_json::json!({"Justification": "j", "Questions": [question], "Scenario": ["N/A"], "Exhibit": ["N/A"], "Answer Choices": ["A. 1"], "Answer": answers}).to_string()
        };
        assert_eq!(
            parse_exercises(&reply("What is\na bond?", &["A"]), "1. What is a bond? A. 1").expect("good")[0].answer,
            "A"
        );
        assert!(parse_exercises(&reply("What is a share?", &["A"]), "1. What is a bond?").is_err());
        assert!(parse_exercises(&reply("What is a bond?", &[]), "1. What is a bond?").is_err());
    }
}
