use std::fs;

use super::*;

fn exercise(id: &str) -> Exercise {
    Exercise {
        id: id.to_owned(),
        question: "A bond pays 6 a year for 9 years and 100 at the end. What does it pay in all?".to_owned(),
        choices: Vec::new(),
        answer: "154".to_owned(),
        steps: vec!["coupons: 6*9=54".to_owned(), "total: 54+100=154".to_owned()],
    }
}

fn stage() -> DistillStage {
    DistillStage {
        name: "distill".to_owned(),
        exercises: "run:exercises.jsonl".into(),
        samples_per_exercise: 5,
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: 64,
        kinds: vec![PairKind::Fap, PairKind::Scp],
        pairs_per_exercise: 2,
        corrections_per_exercise: 2,
        limit: None,
        judge: Judge::default(),
    }
}

fn sampled(texts: &[&str]) -> Vec<Sampled> {
    let solution = |text: &&str| Solution {
        text: (*text).to_owned(),
        is_finished: text.contains("Answer:"),
        verdict: None,
        correction: None,
    };
    vec![Sampled { exercise: "e".to_owned(), solutions: texts.iter().map(solution).collect(), problem: None }]
}

const RIGHT: &str = "coupons: 6*9=54\ntotal: 54+100=154\nAnswer: 154";
const WRONG_LATE: &str = "coupons: 6*9=54\ntotal: 54+100=155\nAnswer: 155";
const WRONG_EARLY: &str = "coupons: 6*9=56\ntotal: 56+100=156\nAnswer: 156";
const TWO_ANSWERS: &str = "coupons: 6*9=54\nAnswer: 154\nAnswer: 155";
const CUT_OFF: &str = "coupons: 6*9=54\ntotal: 54+1";

#[test]
fn pairs_follow_from_solutions_and_verdicts() {
    let exercises = [exercise("e")];
    let texts = [CUT_OFF, RIGHT, WRONG_LATE, WRONG_EARLY, TWO_ANSWERS];
    let mut sampled = sampled(&texts);
    judge_solutions(&WorldJudge, &exercises, &mut sampled).unwrap();
    let (pairs, statistics) = pairs(&stage(), &exercises, &sampled);
    assert_eq!(
        statistics,
        Statistics {
            exercises: 1,
            unsolved: 0,
            solutions: 5,
            right: 1,
            wrong: 4,
            unjudged: 0,
            mixed_exercises: 1,
            fap_pairs: 1,
            scp_pairs: 2
        }
    );
    let fap = pairs.iter().find(|pair| pair.kind == PairKind::Fap).unwrap();
    assert_eq!((fap.chosen[0].content.as_str(), fap.rejected[0].content.as_str()), (RIGHT, WRONG_LATE));
    let scp: Vec<&Pair> = pairs.iter().filter(|pair| pair.kind == PairKind::Scp).collect();
    let all = |pair: &Pair| [&pair.prompt, &pair.chosen, &pair.rejected].map(|turns| turns[0].content.clone());
    let question = &exercises[0].question;
    assert_eq!(
        all(scp[0]),
        [
            format!("{question}\n\ncoupons: 6*9=54\n\n{NEXT_STEP}"),
            "total: 54+100=154".to_owned(),
            "total: 54+100=155".to_owned()
        ]
    );
    assert_eq!(
        all(scp[1]),
        [format!("{question}\n\n{NEXT_STEP}"), "coupons: 6*9=54".to_owned(), "coupons: 6*9=56".to_owned()]
    );
    assert!(pairs.iter().all(|pair| pair.evidence["reference"].is_string()));
}

#[test]
fn an_unreadable_verdict_never_becomes_a_label() {
    struct Mumbling;
    impl ChatModel for Mumbling {
        fn name(&self) -> String {
            "mumbling".to_owned()
        }
        fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
            requests.iter().map(|_| Ok(ChatReply::of_text("It looks right to me."))).collect()
        }
    }
    let exercises = [exercise("e")];
    let mut sampled = sampled(&[RIGHT, WRONG_LATE]);
    judge_solutions(&Mumbling, &exercises, &mut sampled).unwrap();
    let (pairs, statistics) = pairs(&stage(), &exercises, &sampled);
    assert!(pairs.is_empty());
    assert_eq!((statistics.unjudged, statistics.right, statistics.wrong), (2, 0, 0));
}

/// A reply that the server refuses costs that solution its label, a server that refuses all ends the stage.
#[test]
fn one_refused_request_is_no_end() {
    struct Refusing(&'static str);
    impl ChatModel for Refusing {
        fn name(&self) -> String {
            "refusing".to_owned()
        }
        fn chat(&self, requests: &[ChatRequest]) -> Vec<Result<ChatReply, LlmError>> {
            let reply = |request: &ChatRequest| match request.messages[0].content.contains(self.0) {
                true => Err(LlmError::BadRequest { problem: "too long" }),
                false => WorldJudge.chat_one(request),
            };
            requests.iter().map(reply).collect()
        }
    }
    let exercises = [exercise("e")];
    let mut of_two = sampled(&[RIGHT, WRONG_LATE]);
    judge_solutions(&Refusing("Answer: 155"), &exercises, &mut of_two).unwrap();
    let verdicts: Vec<bool> = of_two[0].solutions.iter().map(|solution| solution.verdict.is_some()).collect();
    assert_eq!(verdicts, [true, false]);
    let error = judge_solutions(&Refusing("Question"), &exercises, &mut of_two).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn a_correction_must_stand_in_the_solution() {
    let verdict = |wrong: &str, before: &str, right: &str| ScpVerdict {
        justification: String::new(),
        first_incorrect_step: wrong.to_owned(),
        reasoning_up_to_incorrect: before.to_owned(),
        step_correction: right.to_owned(),
    };
    assert!(is_correction_of(&verdict("total: 54+100=155", "coupons: 6*9=54\n", "total: 54+100=154"), WRONG_LATE));
    assert!(is_correction_of(&verdict("coupons: 6*9=56", "", "coupons: 6*9=54"), WRONG_EARLY));
    assert!(!is_correction_of(&verdict("total: 54+100=157", "coupons: 6*9=54\n", "total: 54+100=154"), WRONG_LATE));
    assert!(!is_correction_of(&verdict("total: 54+100=155", "something else", "total: 54+100=154"), WRONG_LATE));
    assert!(!is_correction_of(&verdict("", "", ""), WRONG_LATE));
    assert!(!is_correction_of(&verdict("coupons: 6*9=54", "", "coupons: 6*9=54"), WRONG_LATE), "no correction at all");
}

#[test]
fn samples_are_continued_after_the_last_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let whole = format!("{}\n", json!(sampled(&[RIGHT])[0]));
    let cut_inside_a_character = [whole.as_bytes(), b"{\"exercise\": \"\xe2\x82"].concat();
    fs::write(&path, cut_inside_a_character).unwrap();
    fs::write(folder.path().join("exercises.jsonl"), format!("{}\n", json!(exercise("e")))).unwrap();
    let context = DistillContext {
        folder: folder.path(),
        run_folder: folder.path(),
        model: Path::new("not asked, since nothing is left to sample"),
        device: &Device::Cpu,
        dtype: Dtype::F32,
        seed: 3,
        time_seconds: 1_700_000_000,
    };
    let mut notes = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Note(note) = event {
            notes.push(note);
        }
    };
    let result = run(&stage(), &context, &mut observer, &AtomicBool::new(false));
    assert!(matches!(result, Err(TrainError::NothingToTrain { .. })), "no verdict, no pair: {result:?}");
    assert!(notes[0].contains("line 2 of samples.jsonl"), "{notes:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    fs::write(&path, format!("nonsense\n{whole}")).unwrap();
    let error = run(&stage(), &context, &mut |_: Event| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

/// A policy that knows nothing solves nothing, so the stage ends in an error; what it has sampled stays.
#[cfg(feature = "emulator")]
#[test]
fn a_policy_on_a_device_draws_what_it_draws_on_the_cpu() {
    use findap_tensor::EmulatorOptions;
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let samples = |device: &Device| {
        let folder = tempfile::tempdir().unwrap();
        let line = json!({"id": "e", "question": "What is a bond?", "answer": "154"});
        fs::write(folder.path().join("exercises.jsonl"), format!("{line}\n")).unwrap();
        let stage = DistillStage { samples_per_exercise: 3, max_new_tokens: 5, top_p: 0.9, ..stage() };
        let (run_folder, dtype) = (folder.path(), Dtype::F32);
        let (seed, time_seconds) = (3, 1_700_000_000);
        let context = DistillContext { folder: run_folder, run_folder, model, device, dtype, seed, time_seconds };
        let result = run(&stage, &context, &mut |_: Event| {}, &AtomicBool::new(false));
        assert!(matches!(result, Err(TrainError::NothingToTrain { .. })), "{result:?}");
        Journal::read::<Sampled>(&folder.path().join("samples.jsonl")).unwrap().entries
    };
    let on_cpu = samples(&Device::Cpu);
    assert_eq!(on_cpu[0].solutions.len(), 3);
    assert_eq!(samples(&Device::emulated(EmulatorOptions::PLAIN)), on_cpu);
}

/// Runs were made with these seeds: what they sampled must be sampled again.
#[test]
fn small_seeds_of_runs_keep_the_solutions_they_had() {
    let before = |seed: u64, exercise: u64| (seed << 20).wrapping_add(exercise) & 0xffff_ffff;
    for (seed, exercise) in [(0, 0), (1, 0), (1, 359), (7, 1), (4095, 0), (4095, (1 << 20) - 1)] {
        assert_eq!(exercise_seed(seed, exercise), before(seed, exercise), "{seed}, {exercise}");
    }
}

#[test]
fn no_two_runs_or_exercises_sample_from_one_stream() {
    let seeds = [0, 1, 2, 4095]
        .into_iter()
        .flat_map(|seed| [0, 1, 2, 3, 1 << 20, 1 << 32, 1 << 51].map(|page| (page << 12) + seed));
    let exercises = [0, 1, 2, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 1 << 21, 1 << 32];
    let mut streams = BTreeSet::new();
    let mut count = 0;
    for seed in seeds {
        for exercise in exercises {
            for sample in 0..64u64 {
                count += 1;
                streams.insert(exercise_seed(seed, exercise).wrapping_add(sample << 32));
            }
        }
    }
    assert_eq!(streams.len(), count);
}
