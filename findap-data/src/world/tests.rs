use std::collections::BTreeMap;

use super::judge::WorldJudge;
use super::*;
use crate::llm::{ChatModel, ChatRequest, LlmError, Sampling};
use crate::reward_model::{Correctness, FapVerdict, ScpVerdict, fap_prompt, parse_verdict, scp_prompt};
use crate::{Message, Role};

fn small() -> WorldConfig {
    WorldConfig {
        entities_per_kind: 16,
        finance_entities_per_kind: 16,
        general_texts: 300,
        finance_texts: 300,
        general_chats: 300,
        finance_chats: 300,
        finance_books: 40,
        finance_exercises: 60,
        distill_exercises: 30,
        dev_rows: 20,
        eval_items: 40,
        ..WorldConfig::default()
    }
}

fn by_name(files: &[WorldFile]) -> BTreeMap<&str, &[Value]> {
    files.iter().map(|file| (file.name.as_str(), file.rows.as_slice())).collect()
}

/// All text of a row that a model may read in training.
fn readable(row: &Value) -> String {
    match row["messages"].as_array() {
        Some(messages) => {
            messages.iter().filter_map(|message| message["content"].as_str()).collect::<Vec<_>>().join("\n")
        }
        None => row["text"].as_str().or_else(|| row["question"].as_str()).unwrap_or_default().to_owned(),
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, seed| {
        let paths = generate(&WorldConfig { seed, ..small() }, &folder.path().join(name)).unwrap();
        paths.iter().map(|path| std::fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    let first = write("first", 1);
    assert_eq!(first, write("again", 1));
    assert_ne!(first, write("other", 2));
}

#[test]
fn sizes_change_no_facts_and_no_other_file() {
    let larger = files(&WorldConfig { general_texts: 350, ..small() }).unwrap();
    let plain = files(&small()).unwrap();
    for (large, small) in larger.iter().zip(&plain) {
        assert_eq!(large.name, small.name);
        if large.name == "general_text.jsonl" {
            assert_eq!(large.rows[..small.rows.len()], small.rows[..]);
        } else {
            assert_eq!(large.rows, small.rows, "{}", large.name);
        }
    }
}

#[test]
fn entities_are_split_once_and_names_are_unique() {
    let config = small();
    let all: Vec<Population> = general_half(&config).into_iter().chain(finance_half(&config)).collect();
    let names: BTreeSet<&str> = all.iter().flat_map(|half| &half.entities).map(|entity| entity.name.as_str()).collect();
    assert_eq!(names.len(), all.iter().map(|half| half.entities.len()).sum::<usize>());
    for population in &all {
        let total = population.entities.len();
        assert_eq!(population.of(Split::Test).len(), total * 3 / 8);
        assert_eq!(population.of(Split::Dev).len(), total / 8);
    }
}

#[test]
fn every_fact_has_eight_wordings_and_six_values_or_more() {
    for attribute in KINDS.iter().flat_map(|kind| kind.attributes) {
        let wordings: BTreeSet<&str> = attribute.wordings().collect();
        assert!(wordings.len() >= 8, "{}", attribute.label);
        assert!(wordings.iter().all(|wording| wording.contains("{e}") && wording.contains("{v}")));
        assert_eq!(attribute.values.iter().collect::<BTreeSet<_>>().len(), attribute.values.len());
        assert!(attribute.values.len() >= 6);
    }
}

#[test]
fn conversations_name_no_entity_of_the_evaluation() {
    let config = small();
    let files = files(&config).unwrap();
    let held_out: Vec<String> = general_half(&config)
        .iter()
        .chain(&finance_half(&config))
        .filter(|population| population.kind.noun != "term")
        .flat_map(|population| population.of(Split::Test))
        .map(|entity| entity.name.clone())
        .collect();
    for file in files.iter().filter(|file| !file.name.starts_with("eval/") && !file.name.contains("_text")) {
        for row in &file.rows {
            let text = readable(row);
            for name in &held_out {
                assert!(!text.contains(name.as_str()), "{}: {name} in {text}", file.name);
            }
        }
    }
}

#[test]
fn no_question_of_the_evaluation_stands_in_training() {
    let files = files(&small()).unwrap();
    let seen = user_turns(&files[..12]);
    for file in files.iter().filter(|file| file.name.starts_with("eval/") && !file.name.ends_with("_chat.jsonl")) {
        assert!(!file.rows.is_empty(), "{}", file.name);
        for row in &file.rows {
            assert!(!seen.contains(row["question"].as_str().unwrap()), "{}: {row}", file.name);
        }
    }
}

#[test]
fn every_held_out_fact_is_told_in_the_texts() {
    let config = small();
    let files = files(&config).unwrap();
    let named = by_name(&files);
    for (texts, questions) in
        [("general_text.jsonl", "eval/general_concept.jsonl"), ("finance_text.jsonl", "eval/finance_concept.jsonl")]
    {
        let texts: Vec<String> = named[texts].iter().map(|row| readable(row).to_lowercase()).collect();
        for row in named[questions] {
            let parts = ["entity", "answer"].map(|key| row[key].as_str().unwrap().to_lowercase());
            assert!(texts.iter().any(|text| parts.iter().all(|part| text.contains(part.as_str()))), "{row}");
        }
    }
}

#[test]
fn finance_texts_hold_no_general_matter() {
    let config = small();
    let files = files(&config).unwrap();
    let general = general_half(&config);
    let entities = general.iter().flat_map(|population| &population.entities).map(|entity| entity.name.clone());
    let people = names::PEOPLE.iter().map(|name| (*name).to_owned());
    let words: Vec<String> = entities.chain(people).collect();
    for name in ["finance_text.jsonl", "finance_text_dev.jsonl", "finance_books.jsonl"] {
        for row in by_name(&files)[name] {
            let text = readable(row);
            let tokens: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
            for word in &words {
                let is_there =
                    if word.contains(' ') { text.contains(word.as_str()) } else { tokens.contains(word.as_str()) };
                assert!(!is_there, "{name}: {word} in {text}");
            }
        }
    }
}

#[test]
fn wrong_options_are_values_of_the_same_attribute_and_the_right_one_is_among_them() {
    let files = files(&small()).unwrap();
    for row in by_name(&files)["eval/finance_concept.jsonl"] {
        let label = row["attribute"].as_str().unwrap();
        let attribute =
            KINDS.iter().flat_map(|kind| kind.attributes).find(|attribute| attribute.label == label).unwrap();
        let choices: Vec<&str> = row["choices"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(choices.iter().collect::<BTreeSet<_>>().len(), 4);
        assert!(choices.iter().all(|choice| attribute.values.contains(choice)));
        assert_eq!(row["answer"].as_str(), Some(choices[row["gold"].as_u64().unwrap() as usize]));
    }
}

fn all_exercises(files: &[WorldFile]) -> Vec<Exercise> {
    let with_steps = files.iter().flat_map(|file| &file.rows).filter(|row| row.get("steps").is_some());
    with_steps.map(|row| serde_json::from_value(row.clone()).unwrap()).collect()
}

#[test]
fn steps_of_exercises_hold_and_lead_to_the_answer() {
    let exercises = all_exercises(&files(&small()).unwrap());
    assert!(exercises.len() > 150);
    for exercise in exercises {
        let options = exercise.steps.iter().filter(|step| step.starts_with("option: ")).count();
        let sums = exercise.steps.iter().take(exercise.steps.len() - options);
        let sums: Vec<Sum> = sums.map(|step| Sum::parse(step).unwrap()).collect();
        assert!(sums.iter().all(Sum::holds), "{exercise:?}");
        let result = sums.last().unwrap().result.to_string();
        match options {
            0 => assert_eq!(exercise.answer, result),
            _ => {
                let at = exercise::LETTERS.iter().position(|letter| *letter == exercise.answer).unwrap();
                assert_eq!(exercise.choices[at], result, "{exercise:?}");
                assert_eq!(exercise.choices.iter().collect::<BTreeSet<_>>().len(), 3);
            }
        }
        assert!((2..=6).contains(&sums.len()));
    }
}

fn fap(exercise: &Exercise, proposed: &str) -> Correctness {
    let reply = WorldJudge.reply(&fap_prompt(&exercise.question, &exercise.solution(), proposed)).unwrap();
    parse_verdict::<FapVerdict>(&reply).unwrap().correctness
}

#[test]
fn only_one_right_final_answer_is_correct() {
    for exercise in all_exercises(&files(&small()).unwrap()) {
        let solution = exercise.solution();
        assert_eq!(fap(&exercise, &solution), Correctness::Correct);
        assert_eq!(fap(&exercise, &format!("{solution}.")), Correctness::Correct);
        for wrong in [
            String::new(),
            exercise.steps.join("\n"),
            format!("{solution}\nAnswer: {}", exercise.answer),
            format!("Answer: {} or Z", exercise.answer),
            "Answer: Z".to_owned(),
            "Answer:".to_owned(),
        ] {
            assert_eq!(fap(&exercise, &wrong), Correctness::Wrong, "{wrong}");
        }
    }
}

fn scp(exercise: &Exercise, incorrect: &str) -> ScpVerdict {
    let reply = WorldJudge.reply(&scp_prompt(&exercise.question, &exercise.solution(), incorrect)).unwrap();
    parse_verdict(&reply).unwrap()
}

#[test]
fn the_first_wrong_step_and_its_correction_are_exact() {
    for exercise in all_exercises(&files(&small()).unwrap()) {
        for at in 0..exercise.steps.len() {
            let mut steps = exercise.steps.clone();
            // This step and all later ones are wrong: only the first of them is named.
            for step in &mut steps[at..] {
                step.push('7');
            }
            let incorrect = format!("{}\nAnswer: Z", steps.join("\n"));
            let verdict = scp(&exercise, &incorrect);
            let prefix: String = exercise.steps[..at].iter().map(|step| format!("{step}\n")).collect();
            assert_eq!(verdict.first_incorrect_step, steps[at]);
            assert_eq!(verdict.reasoning_up_to_incorrect, prefix);
            assert_eq!(verdict.step_correction, exercise.steps[at]);
            assert!(incorrect.starts_with(&format!("{prefix}{}", steps[at])));
        }
        let only_answer_wrong = format!("{}\nAnswer: Z", exercise.steps.join("\n"));
        assert_eq!(scp(&exercise, &only_answer_wrong).first_incorrect_step, "");
    }
}

#[test]
fn other_words_for_a_right_step_are_not_wrong() {
    let exercise = Exercise {
        id: "one".to_owned(),
        question: "What is the profit?".to_owned(),
        choices: Vec::new(),
        answer: "9".to_owned(),
        steps: vec!["revenue: 3*5=15".to_owned(), "profit: 15-6=9".to_owned()],
    };
    let verdict = scp(&exercise, "all sales: 5*3=15\nprofit: 15-5=10\nAnswer: 10");
    assert_eq!(verdict.first_incorrect_step, "profit: 15-5=10");
    assert_eq!(verdict.step_correction, "profit: 15-6=9");
    assert!(WorldJudge.reply("What is the profit?").is_err());
}

#[test]
fn the_judge_is_a_chat_model() {
    let request = |content: String| ChatRequest {
        messages: vec![Message { role: Role::User, content }],
        sampling: Sampling::default(),
    };
    let asked = request(fap_prompt("What is 2+2?", "2+2=4\nAnswer: 4", "Answer: 4"));
    let reply = WorldJudge.chat_one(&asked).unwrap();
    let verdict: FapVerdict = parse_verdict(reply.text()).unwrap();
    assert_eq!(verdict.correctness, Correctness::Correct);
    assert!(matches!(WorldJudge.chat_one(&request("Hello!".to_owned())), Err(LlmError::BadRequest { .. })));
}

#[test]
fn sums_are_read_and_checked() {
    for (line, holds) in [
        ("profit: 63-14=49", true),
        ("63-14=48", false),
        ("units: 27/3=9.", true),
        ("7/2=3", false),
        ("7/0=0", false),
        ("-3+5=2", true),
        ("9223372036854775807*2=0", false),
    ] {
        assert_eq!(Sum::parse(line).map(|sum| sum.holds()), Some(holds), "{line}");
    }
    for line in ["", "Answer: B", "3=3", "a*b=c", "1+2"] {
        assert_eq!(Sum::parse(line), None, "{line}");
    }
}

#[test]
fn a_size_that_leaves_a_part_empty_is_named() {
    let error = files(&WorldConfig { entities_per_kind: 3, ..small() }).unwrap_err();
    assert_eq!(error.to_string(), "world: entities_per_kind must be at least 8, but is 3");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(generate(&small(), &file), Err(WorldError::Io { .. })));
}

/// A world without cases has no trace of them, and its other files are the same with them.
#[test]
fn cases_change_no_other_file_and_their_steps_hold() {
    let plain = files(&small()).unwrap();
    let with = files(&WorldConfig { finance_cases: 40, distill_cases: 30, ..small() }).unwrap();
    let names = |files: &[WorldFile]| files.iter().map(|file| file.name.clone()).collect::<BTreeSet<_>>();
    let added: Vec<String> = names(&with).difference(&names(&plain)).cloned().collect();
    assert_eq!(
        added,
        ["cases.jsonl", "eval/finance_case.jsonl", "eval/finance_case_harder.jsonl", "finance_cases.jsonl"]
    );
    let (plain, with) = (by_name(&plain), by_name(&with));
    assert!(plain.iter().all(|(name, rows)| with[name] == *rows), "another file has changed");
    assert!(!json!(small()).to_string().contains("cases"), "a world without cases is written down as before");
    let exercises = |name: &str| -> Vec<Exercise> {
        with[name].iter().map(|row| serde_json::from_value(row.clone()).unwrap()).collect()
    };
    let (usual, harder) = (exercises("cases.jsonl"), exercises("eval/finance_case_harder.jsonl"));
    for (exercises, steps) in [(&usual, 4..=7), (&exercises("eval/finance_case.jsonl"), 4..=7), (&harder, 5..=7)] {
        for exercise in exercises {
            let sums: Vec<Sum> = exercise.steps.iter().map(|step| Sum::parse(step).unwrap()).collect();
            assert!(sums.iter().all(Sum::holds) && steps.contains(&sums.len()), "{exercise:?}");
            assert_eq!(exercise.answer, sums.last().unwrap().result.to_string());
            assert_eq!(fap(exercise, &exercise.solution()), Correctness::Correct);
        }
    }
    assert_eq!(with["finance_cases.jsonl"].len(), 40);
    let held_out: BTreeSet<String> = harder.iter().map(|exercise| exercise.question.clone()).collect();
    assert!(usual.iter().all(|exercise| !held_out.contains(&exercise.question)));
    assert!(usual.iter().any(|exercise| exercise.question.contains("shares | price")), "no table");
}
