use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use findap_data::llm::{ChatReply, LlmError};
use findap_data::reward_model::ScpVerdict;
use findap_data::world::judge::WorldJudge;
use findap_data::{ChatModel, ChatRequest, Message};

use super::judging::correction_of;
use super::*;
use crate::recipe::{Judge, PairKind, RemoteJudge, ScpForm};

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
        exercises: crate::recipe::Paths::One("run:exercises.jsonl".into()),
        exercise_columns: Default::default(),
        exercise_format: Default::default(),
        samples_per_exercise: 5,
        temperature: 1.0,
        top_p: 1.0,
        max_new_tokens: 64,
        kinds: vec![PairKind::Fap, PairKind::Scp],
        scp_form: ScpForm::default(),
        pairs_per_exercise: 2,
        corrections_per_exercise: 2,
        right_solutions_per_exercise: 2,
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
        unread: None,
        uncorrected: None,
    };
    vec![Sampled { exercise: "e".to_owned(), solutions: texts.iter().map(solution).collect(), problem: None }]
}

fn judge(judge: impl ChatModel + 'static, round: Round, sampled: &mut [Sampled]) -> Result<(), TrainError> {
    let (stage, stop) = (stage(), AtomicBool::new(false));
    let mut bench = Bench::of(&stage, Box::new(judge), &stop);
    bench.judge(round, &[exercise("e")], sampled, &mut |_: Event| {}).map(|is_done| assert!(is_done))
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
    judge(WorldJudge, Round::First, &mut sampled).unwrap();
    let (pairs, statistics) = pairs(&stage(), &exercises, &sampled);
    assert_eq!(
        statistics,
        Statistics {
            exercises: 1,
            unsolved: 0,
            solutions: 5,
            cut_off: 1,
            right: 1,
            wrong: 4,
            unjudged: 0,
            judge_replies: 8,
            unread_replies: 0,
            uncorrected: 1,
            mixed_exercises: 1,
            fap_pairs: 1,
            scp_pairs: 2,
            naive_pairs: 0,
            right_solutions: 1,
            equal_pairs: 0
        }
    );
    let fap = pairs.iter().find(|pair| pair.kind == PairKind::Fap).unwrap();
    assert_eq!((fap.chosen[0].content.as_str(), fap.rejected[0].content.as_str()), (RIGHT, WRONG_LATE));
    let scp: Vec<&Pair> = pairs.iter().filter(|pair| pair.kind == PairKind::Scp).collect();
    let question = exercises[0].question.as_str();
    let begun = |text: &str| vec![Message::user(question), Message::assistant(text)];
    let says = |text: &str| vec![Message::assistant(text)];
    for (pair, [before, right, wrong]) in scp.iter().zip([
        ["coupons: 6*9=54\n", "total: 54+100=154\n", "total: 54+100=155\n"],
        ["", "coupons: 6*9=54\n", "coupons: 6*9=56\n"],
    ]) {
        assert_eq!((&pair.prompt, &pair.chosen, &pair.rejected), (&begun(before), &says(right), &says(wrong)));
        assert_eq!(json!(pair)["continue_final_message"], true);
    }
    assert_eq!(json!(fap).get("continue_final_message"), None);

    // From the same verdicts, the form of the paper.
    let asks = DistillStage { scp_form: ScpForm::Ask, ..stage() };
    let (asking, same) = super::pairs(&asks, &exercises, &sampled);
    assert_eq!(same, statistics);
    let asking: Vec<&Pair> = asking.iter().filter(|pair| pair.kind == PairKind::Scp).collect();
    for (pair, [so_far, right, wrong]) in asking.iter().zip([
        ["\n\ncoupons: 6*9=54", "total: 54+100=154", "total: 54+100=155"],
        ["", "coupons: 6*9=54", "coupons: 6*9=56"],
    ]) {
        assert_eq!(pair.prompt, [Message::user(format!("{question}{so_far}\n\n{NEXT_STEP}"))]);
        assert_eq!((&pair.chosen, &pair.rejected), (&says(right), &says(wrong)));
        assert_eq!(json!(pair).get("continue_final_message"), None);
    }
    assert!(pairs.iter().all(|pair| pair.evidence["reference"].is_string()));
}

#[test]
fn naive_pairs_set_the_reference_over_what_the_policy_wrote() {
    let mut sampled = sampled(&[CUT_OFF, RIGHT, TWO_ANSWERS, WRONG_LATE, WRONG_EARLY]);
    judge(WorldJudge, Round::First, &mut sampled).unwrap();
    let stage = DistillStage { kinds: vec![PairKind::Naive], ..stage() };
    let (pairs, statistics) = pairs(&stage, &[exercise("e")], &sampled);
    let texts: Vec<[&str; 2]> =
        pairs.iter().map(|pair| [pair.chosen[0].content.as_str(), pair.rejected[0].content.as_str()]).collect();
    assert_eq!(texts, [[RIGHT, TWO_ANSWERS], [RIGHT, WRONG_LATE]], "none that is cut off or the reference itself");
    assert_eq!((statistics.naive_pairs, statistics.fap_pairs, statistics.scp_pairs), (2, 0, 0));
}

/// Blank lines between steps, blanks around the solution and a last step without an answer stay what the policy wrote.
#[test]
fn a_step_goes_on_with_the_solution_as_the_policy_wrote_it() {
    for (text, want) in [
        ("coupons: 6*9=54\n\ntotal: 54+100=155\n\nAnswer: 155", ["coupons: 6*9=54\n\n", "total: 54+100=155\n\n"]),
        (" \n coupons: 6*9=54\n  total: 54+100=155\nAnswer: 155", ["coupons: 6*9=54\n  ", "total: 54+100=155\n"]),
        ("coupons: 6*9=54\ntotal: 54+100=155", ["coupons: 6*9=54\n", "total: 54+100=155\n"]),
    ] {
        let mut sampled = sampled(&[RIGHT, text]);
        sampled[0].solutions[1].is_finished = true;
        judge(WorldJudge, Round::First, &mut sampled).unwrap();
        let (pairs, _) = pairs(&stage(), &[exercise("e")], &sampled);
        let scp = pairs.iter().find(|pair| pair.kind == PairKind::Scp).expect(text);
        assert_eq!([scp.prompt[1].content.as_str(), scp.rejected[0].content.as_str()], want, "{text:?}");
    }
}

#[test]
fn right_solutions_are_finished_different_and_so_many_of_an_exercise_as_the_recipe_allows() {
    let short = "total: 54+100=154\nAnswer: 154";
    let mut sampled = sampled(&[WRONG_LATE, RIGHT, RIGHT, CUT_OFF, short, "Answer: 154"]);
    judge(WorldJudge, Round::First, &mut sampled).unwrap();
    let of = |most: usize| {
        let stage = DistillStage { right_solutions_per_exercise: most, ..stage() };
        let solutions = right_solutions(&stage, &[exercise("e")], &sampled);
        assert_eq!(super::pairs(&stage, &[exercise("e")], &sampled).1.right_solutions, solutions.len());
        solutions.into_iter().map(|solution| solution.messages[1].content.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(9), [RIGHT, short, "Answer: 154"]);
    assert_eq!(of(2), [RIGHT, short]);
    assert_eq!(of(0), [""; 0]);
    sampled[0].solutions[4].is_finished = false;
    let solutions = right_solutions(&stage(), &[exercise("e")], &sampled);
    assert_eq!(solutions[1].messages, [Message::user(exercise("e").question), Message::assistant("Answer: 154")]);
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
    judge(Mumbling, Round::First, &mut sampled).unwrap();
    let (pairs, statistics) = pairs(&stage(), &exercises, &sampled);
    assert!(pairs.is_empty());
    assert_eq!((statistics.unjudged, statistics.right, statistics.wrong), (2, 0, 0));
    assert_eq!((statistics.unread_replies, statistics.judge_replies), (2, 2));
    let unread = unread_note(&statistics, &sampled).unwrap();
    assert!(
        unread.starts_with("2 of 2 replies of the judge could not be read; the first: there is no JSON object"),
        "{unread}"
    );
    assert!(unread.ends_with("\"It looks right to me.\""), "{unread}");
    let problem = nothing_came_out("pair", &statistics, Some(unread));
    assert!(problem.contains("Repair the judge") && !problem.contains("train longer"), "{problem}");
    assert!(nothing_came_out("pair", &statistics, None).contains("sample more"));
    assert!(nothing_came_out("pair", &Statistics { cut_off: 1, ..statistics }, None).contains("`max_new_tokens`"));
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
    let mut of_two = sampled(&[RIGHT, WRONG_LATE]);
    judge(Refusing("Answer: 155"), Round::First, &mut of_two).unwrap();
    let verdicts: Vec<bool> = of_two[0].solutions.iter().map(|solution| solution.verdict.is_some()).collect();
    assert_eq!(verdicts, [true, false]);
    assert!(of_two[0].solutions[1].unread.as_ref().unwrap().contains("too long"));
    let mut fresh = sampled(&[RIGHT, WRONG_LATE]);
    let error = judge(Refusing("Question"), Round::First, &mut fresh).unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
    judge(Refusing("Question"), Round::Again, &mut of_two).expect("one that is refused again must not hold up the run");
}

#[test]
fn a_correction_must_stand_in_the_solution() {
    let of = |wrong: &str, before: &str, right: &str| {
        let verdict = ScpVerdict {
            justification: String::new(),
            first_incorrect_step: wrong.to_owned(),
            reasoning_up_to_incorrect: before.to_owned(),
            step_correction: right.to_owned(),
        };
        correction_of(verdict, WRONG_LATE).map(|verdict| verdict.first_incorrect_step)
    };
    let (first, second, right) = ("coupons: 6*9=54", "total: 54+100=155", "total: 54+100=154");
    for (wrong, before) in [(second, "coupons: 6*9=54\n"), ("2", first), ("Step 2.", first), (" line #2:", first)] {
        assert_eq!(of(wrong, before, right).as_deref(), Ok(second), "{wrong}");
    }
    assert_eq!(of(first, "", right).as_deref(), Ok(first));
    for (wrong, before, right, problem) in [
        ("total: 54+100=157", first, right, "does not follow"),
        (second, "something else", right, "not the solution's beginning"),
        ("total: 54+100=15", first, right, "does not follow"),
        ("", "", "", "no wrong step"),
        (second, first, " ", "corrects nothing"),
        (first, "", first, "the step itself"),
        ("2", first, second, "the step itself"),
        ("0", "", right, "step 0"),
        ("1", first, right, "step 1"),
        ("3", first, right, "step 3"),
        ("3", "coupons: 6*9=54\ntotal: 54+100=155", right, "the final answer"),
        ("Answer: 155", "coupons: 6*9=54\ntotal: 54+100=155", right, "the final answer"),
        ("answer: 155", "coupons: 6*9=54\ntotal: 54+100=155", right, "the final answer"),
        ("total: 54+100=155\n**Answer:** 155", first, right, "the final answer"),
        ("7", WRONG_LATE, right, "step 7"),
    ] {
        let error = of(wrong, before, right).expect_err(wrong);
        assert!(error.contains(problem), "{wrong} after {before} gave {error}");
    }
}

/// A judge that says both of one text, and a correction that is the step itself, teach nothing.
#[test]
fn what_is_chosen_over_itself_is_no_pair() {
    let mut sampled = sampled(&[RIGHT, RIGHT]);
    judge(WorldJudge, Round::First, &mut sampled).unwrap();
    let second = &mut sampled[0].solutions[1];
    second.text = format!("{RIGHT}\n");
    second.verdict.as_mut().unwrap().correctness = findap_data::reward_model::Correctness::Wrong;
    second.correction = Some(ScpVerdict {
        justification: String::new(),
        first_incorrect_step: "coupons: 6*9=54 ".to_owned(),
        reasoning_up_to_incorrect: String::new(),
        step_correction: "coupons: 6*9=54".to_owned(),
    });
    let (pairs, statistics) = pairs(&stage(), &[exercise("e")], &sampled);
    assert_eq!((pairs.len(), statistics.fap_pairs, statistics.scp_pairs, statistics.equal_pairs), (0, 0, 0, 2));
}

/// Corrections are paid for only where they can become a pair.
#[test]
fn no_correction_is_asked_for_what_was_cut_off() {
    let mut of_two = sampled(&[CUT_OFF, WRONG_LATE]);
    judge(WorldJudge, Round::First, &mut of_two).unwrap();
    let corrected: Vec<bool> = of_two[0].solutions.iter().map(|solution| solution.correction.is_some()).collect();
    assert_eq!(corrected, [false, true]);
    assert!(of_two[0].solutions.iter().all(|solution| !judging::is_open(&stage(), solution)));
}

/// A judge at a server that answers by a function of the request's number, from 1, and its body. It ends with the process.
fn serve(answer: impl Fn(usize, &str) -> String + Send + 'static) -> Judge {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = answer(index + 1, &String::from_utf8(body).unwrap());
            let body = json!({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]}).to_string();
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                .unwrap();
        }
    });
    let (model, key_env, max_tokens) = ("judge".to_owned(), None, 64);
    Judge::Remote(RemoteJudge {
        url,
        model,
        key_env,
        max_tokens,
        max_tokens_field: None,
        temperature: None,
        recorded: None,
    })
}

/// A stage in this folder whose exercises are all sampled: the policy is not there and must not be needed.
fn with_nothing_to_sample(folder: &Path) -> DistillContext<'_> {
    DistillContext {
        folder,
        run_folder: folder,
        trained: [true, false],
        model: Path::new("not asked, since nothing is left to sample"),
        device: &Device::Cpu,
        dtype: Dtype::F32,
        seed: 3,
        time_seconds: 1_700_000_000,
    }
}

/// Two solutions, the second wrong, whose verdicts could not be read.
#[test]
fn a_repaired_judge_is_asked_again_about_what_could_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    fs::write(&path, format!("{}\n", json!(sampled(&[RIGHT, WRONG_LATE])[0]))).unwrap();
    fs::write(folder.path().join("exercises.jsonl"), format!("{}\n", json!(exercise("e")))).unwrap();
    let context = with_nothing_to_sample(folder.path());
    let notes = std::cell::RefCell::new(Vec::new());
    let run = |judge: Judge| {
        let mut observer = |event: Event| {
            if let Event::Note(note) = event {
                notes.borrow_mut().push(note);
            }
        };
        run(&DistillStage { judge, ..stage() }, &context, &mut observer, &AtomicBool::new(false))
    };
    let num_recorded = || fs::read_to_string(folder.path().join("judge.jsonl")).unwrap().lines().count();

    let error = run(serve(|_, _| "No\u{1b}[31m.".to_owned())).unwrap_err().to_string();
    assert!(error.contains("2 of 2 replies of the judge could not be read; the first:"), "{error}");
    assert!(error.contains("No\\u{1b}[31m.") && !error.contains("train longer"), "{error}");
    assert_eq!(num_recorded(), 0, "what cannot be read is not recorded");
    assert!(notes.borrow().iter().any(|note| note.contains("makes no label")), "{notes:?}");

    let verdict = |body: &str| if body.contains("155") { "wrong" } else { "correct" };
    let half = move |_: usize, body: &str| match body.contains("First incorrect step") {
        true => "I cannot".to_owned(),
        false => json!({"Correctness": verdict(body)}).to_string(),
    };
    assert!(run(serve(half)).unwrap(), "a pair of final answers comes out");
    assert_eq!(num_recorded(), 2);
    let last = notes.borrow().last().cloned().unwrap();
    assert!(
        last.contains("1 of 3 replies of the judge could not be read; the first:") && last.ends_with("\"I cannot\""),
        "{last}"
    );

    let corrects = |_: usize, body: &str| {
        assert!(body.contains("First incorrect step"), "only the correction is missing: {body}");
        json!({
            "First incorrect step": "total: 54+100=155",
            "Reasoning up to incorrect": "coupons: 6*9=54",
            "Step correction": "total: 54+100=154",
        })
        .to_string()
    };
    assert!(run(serve(corrects)).unwrap());
    let read = Journal::read::<Sampled>(&path).unwrap().entries;
    assert_eq!(read.len(), 1);
    assert!(
        read[0].solutions.iter().all(|solution| !judging::is_open(&stage(), solution) && solution.unread.is_none())
    );
    let statistics = fs::read_to_string(folder.path().join("statistics.json")).unwrap();
    let statistics: serde_json::Value = serde_json::from_str(&statistics).unwrap();
    assert_eq!(
        (&statistics["fap_pairs"], &statistics["scp_pairs"], &statistics["unread_replies"]),
        (&json!(1), &json!(1), &json!(0))
    );
}

#[test]
fn samples_are_continued_after_the_last_whole_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let mut judged = sampled(&[RIGHT]);
    judge(WorldJudge, Round::First, &mut judged).unwrap();
    let whole = format!("{}\n", json!(judged[0]));
    let cut_inside_a_character = [whole.as_bytes(), b"{\"exercise\": \"\xe2\x82"].concat();
    fs::write(&path, cut_inside_a_character).unwrap();
    fs::write(folder.path().join("exercises.jsonl"), format!("{}\n", json!(exercise("e")))).unwrap();
    let context = with_nothing_to_sample(folder.path());
    let mut notes = Vec::new();
    let mut observer = |event: Event| {
        if let Event::Note(note) = event {
            notes.push(note);
        }
    };
    let result = run(&stage(), &context, &mut observer, &AtomicBool::new(false));
    assert!(matches!(result, Err(TrainError::NothingToTrain { .. })), "nothing wrong, no pair: {result:?}");
    assert!(notes[0].contains("line 2 of samples.jsonl"), "{notes:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), whole);
    fs::write(&path, format!("nonsense\n{whole}")).unwrap();
    let error = run(&stage(), &context, &mut |_: Event| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

/// The same question under two ids: each has draws of its own, which neither the order of the file nor its neighbours change.
/// A distillation of a model in one folder, whose pairs are to be trained on.
fn context<'a>(folder: &'a Path, model: &'a Path, device: &'a Device, seed: u64) -> DistillContext<'a> {
    let (run_folder, trained, dtype, time_seconds) = (folder, [true, false], Dtype::F32, 1_700_000_000);
    DistillContext { folder, run_folder, trained, model, device, dtype, seed, time_seconds }
}

#[test]
fn an_exercise_is_sampled_the_same_wherever_it_stands_and_no_two_share_their_draws() {
    let model = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden/models/tiny"));
    let samples = |ids: &[&str], seed: u64| {
        let folder = tempfile::tempdir().unwrap();
        let lines: String = ids.iter().map(|id| format!("{}\n", json!(exercise(id)))).collect();
        fs::write(folder.path().join("exercises.jsonl"), lines).unwrap();
        let stage = DistillStage { samples_per_exercise: 3, max_new_tokens: 6, ..stage() };
        let result = run(
            &stage,
            &context(folder.path(), model, &Device::Cpu, seed),
            &mut |_: Event| {},
            &AtomicBool::new(false),
        );
        assert!(matches!(result, Err(TrainError::NothingToTrain { .. })), "a policy that knows nothing: {result:?}");
        let read = Journal::read::<Sampled>(&folder.path().join("samples.jsonl")).unwrap().entries;
        let texts = |sampled: Sampled| sampled.solutions.into_iter().map(|solution| solution.text).collect::<Vec<_>>();
        read.into_iter().map(|sampled| (sampled.exercise.clone(), texts(sampled))).collect::<BTreeMap<_, _>>()
    };
    let both = samples(&["ab", "ba"], 3);
    assert_eq!(samples(&["ba", "ab"], 3), both);
    assert_eq!(samples(&["ba"], 3)["ba"], both["ba"]);
    let texts: Vec<String> = both.into_values().chain(samples(&["ab", "ba"], 4).into_values()).flatten().collect();
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), 12, "{texts:?}");
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
        let result =
            run(&stage, &context(folder.path(), model, device, 3), &mut |_: Event| {}, &AtomicBool::new(false));
        assert!(matches!(result, Err(TrainError::NothingToTrain { .. })), "{result:?}");
        Journal::read::<Sampled>(&folder.path().join("samples.jsonl")).unwrap().entries
    };
    let on_cpu = samples(&Device::Cpu);
    assert_eq!(on_cpu[0].solutions.len(), 3);
    assert_eq!(samples(&Device::emulated(EmulatorOptions::PLAIN)), on_cpu);
}
