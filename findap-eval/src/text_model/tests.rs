//! Agreement with lm-eval 0.4.13 on a golden model, sample by sample.

use std::path::{Path, PathBuf};

use findap_model::Dtype;
use serde_json::Value;

use super::*;
use crate::dataset::DataRoots;
use crate::engine::run;
use crate::options::Options;
use crate::prompt::{PromptOptions, prepare_row};
use crate::task::{Metric, Task};

fn golden() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../findap-model/testdata/golden")).to_owned()
}

fn model() -> TextModel {
    TextModel::load(&golden().join("models/tiny"), Dtype::F32).expect("the golden model loads")
}

fn oracle(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden().join("out").join(name)).expect("reads")).expect("JSON")
}

fn tasks(chat: bool) -> [Task; 2] {
    let head = |name: &str, metrics: &str| {
        format!(
            "schema = 1\nname = \"{name}\"\nversion = 1\ncapability = \"concept\"\ndomain = \"finance\"\nsimilarity = \"novel\"\nlicense = \"Apache-2.0\"\nsource = \"golden\"\nchance = 0.0\nmetrics = {metrics}\nchat = {chat}\nfewshot_as_multiturn = {chat}\nprompt = \"Question: {{question}}\\nAnswer:\"\n[dataset]\npath = \"golden:data/{name}.jsonl\"\n"
        )
    };
    let choice = "[multiple_choice]\nchoices_from = \"choices\"\ngold = \"answer\"\n";
    let reply = "[generate]\ngold = \"{answer}\"\nstop = [\"\\n\\n\", \"Question:\"]\nignore_case = true\nmax_new_tokens = 24\n";
    let parse = |text: String| Task::parse("golden", &text).expect("parses");
    [parse(head("finmc", "[\"acc\", \"acc_norm\"]") + choice), parse(head("fingen", "[\"exact_match\"]") + reply)]
}

fn near(found: f64, want: f64) {
    assert!((found - want).abs() <= 1e-5 * want.abs(), "{found} is not within 1e-5 of {want}");
}

fn argmax(values: impl Iterator<Item = f64>) -> Option<usize> {
    values.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(index, _)| index)
}

#[test]
fn plain_prompts_score_as_in_lm_eval() {
    let want = oracle("lmeval_tiny.json");
    let model = model();
    let data_roots = DataRoots::from([("golden".to_owned(), golden())]);
    let options = Options { data_roots, ..Options::default() };
    let results = run(&model, None, &tasks(false), &options, &mut |_| true).expect("runs");
    for (sample, want) in results.tasks[0].samples.iter().zip(want["samples"]["finmc"].as_array().expect("samples")) {
        let crate::sample::Answer::Scores(scores) = &sample.answer else { panic!("a choice has scores") };
        let expected: Vec<f64> =
            want["resps"].as_array().expect("resps").iter().filter_map(|r| r[0].as_f64()).collect();
        for (index, (score, expected)) in scores.iter().zip(&expected).enumerate() {
            assert_eq!(want["args"][index][0].as_str(), Some(sample.prompt.as_str()));
            assert_eq!(want["args"][index][1].as_str(), Some(sample.continuations[index].as_str()));
            near(score.logp, *expected);
            assert_eq!(Some(score.is_greedy), want["resps"][index][1].as_bool());
        }
        assert_eq!(argmax(scores.iter().map(|score| score.logp)), argmax(expected.into_iter()));
        assert_eq!(Some(sample.outcome.values[&Metric::Acc]), want["acc"].as_f64());
        assert_eq!(Some(sample.outcome.values[&Metric::AccNorm]), want["acc_norm"].as_f64());
    }
    for (sample, want) in results.tasks[1].samples.iter().zip(want["samples"]["fingen"].as_array().expect("samples")) {
        let crate::sample::Answer::Reply(reply) = &sample.answer else { panic!("a written answer has a reply") };
        assert_eq!(Some(reply.text.as_str()), want["resps"][0].as_str());
        assert_eq!(Some(sample.outcome.values[&Metric::ExactMatch]), want["exact_match"].as_f64());
    }
    let value = |task: usize, metric: usize| results.tasks[task].summary.metrics[metric].value;
    assert_eq!(Some(value(0, 0)), want["results"]["finmc"]["acc,none"].as_f64());
    assert_eq!(Some(value(0, 1)), want["results"]["finmc"]["acc_norm,none"].as_f64());
    assert_eq!(Some(value(1, 0)), want["results"]["fingen"]["exact_match,none"].as_f64());

    // One request per call gives the same answers.
    let single = Options { requests_per_call: 1, limit: Some(6), ..options };
    let again = run(&model, None, &tasks(false), &single, &mut |_| true).expect("runs");
    for (single, batched) in again.tasks.iter().zip(&results.tasks) {
        for (single, batched) in single.samples.iter().zip(&batched.samples) {
            assert_eq!(single.outcome, batched.outcome);
        }
    }
}

/// The examples that lm-eval drew are read back from its prompts; rendering, scores and replies must then agree.
#[test]
fn chat_prompts_with_two_examples_score_as_in_lm_eval() {
    let want = oracle("lmeval_tiny_chat_fs2.json");
    let model = model();
    let roots = DataRoots::from([("golden".to_owned(), golden())]);
    for (task, name) in tasks(true).iter().zip(["finmc", "fingen"]) {
        let loaded = crate::dataset::load(task, &roots, None, 0).expect("loads");
        for (row, want) in loaded.rows.iter().zip(want["samples"][name].as_array().expect("samples")) {
            let prompt = want["args"][0][0].as_str().expect("a prompt");
            let questions: Vec<&str> = prompt
                .split("Question: ")
                .skip(1)
                .filter_map(|part| part.split("\nAnswer:<|eot_id|>").next())
                .collect();
            let examples: Vec<_> = questions[..2]
                .iter()
                .map(|question| {
                    let is_asked = |row: &&crate::dataset::Row| row.fields["question"].as_str() == Some(question);
                    loaded.rows.iter().find(is_asked).expect("a row")
                })
                .collect();
            let item = prepare_row(task, row, &examples, &model, PromptOptions::default()).expect("renders");
            assert_eq!(item.prompt, prompt);
            match &item.ask {
                crate::prompt::Ask::Choices { texts, prefix, .. } => {
                    let request = |text: &String| ScoreRequest {
                        context: item.prompt.clone(),
                        continuation: format!("{prefix}{text}"),
                        is_rendered: true,
                        border: TokenBorder::default(),
                    };
                    let requests: Vec<ScoreRequest> = texts.iter().map(request).collect();
                    let scores = LanguageModel::score(&model, &requests).expect("scores");
                    for (index, score) in scores.iter().enumerate() {
                        near(score.logp, want["resps"][index][0].as_f64().expect("a score"));
                        assert_eq!(Some(score.is_greedy), want["resps"][index][1].as_bool());
                    }
                    let sample = crate::sample::grade(task, &item, crate::sample::Answer::Scores(scores));
                    assert_eq!(Some(sample.outcome.values[&Metric::Acc]), want["acc"].as_f64());
                    assert_eq!(Some(sample.outcome.values[&Metric::AccNorm]), want["acc_norm"].as_f64());
                }
                crate::prompt::Ask::Reply { .. } => {
                    let request = GenerateRequest {
                        prompt: item.prompt.clone(),
                        is_rendered: true,
                        stop: vec!["\n\n".to_owned(), "Question:".to_owned()],
                        max_new_tokens: 24,
                    };
                    let replies = LanguageModel::generate(&model, &[request]).expect("replies");
                    assert_eq!(Some(replies[0].text.as_str()), want["resps"][0].as_str());
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_or_cut_from_the_left() {
    let model = model();
    let max_tokens = LanguageModel::max_tokens(&model);
    let score = |context: String, continuation: String| {
        LanguageModel::score(
            &model,
            &[ScoreRequest { context, continuation, is_rendered: false, border: TokenBorder::default() }],
        )
    };
    let long = "profit ".repeat(max_tokens);
    assert!(matches!(score("x".to_owned(), long.clone()), Err(EvalError::ContinuationTooLong { .. })));
    let cut = score(format!("a{long}"), " rose".to_owned()).expect("scores");
    assert_eq!(
        cut,
        score(format!("b{long}"), " rose".to_owned()).expect("scores"),
        "only the end of the context counts"
    );
    assert!(score(String::new(), "rose".to_owned()).expect("an empty context")[0].logp < 0.0);
    let generate = |max_new_tokens| {
        let request = GenerateRequest { prompt: long.clone(), is_rendered: false, stop: Vec::new(), max_new_tokens };
        LanguageModel::generate(&model, &[request])
    };
    assert!(matches!(generate(max_tokens), Err(EvalError::NoRoomForPrompt { .. })));
    let num_cut = |prompt: &str| {
        let request =
            GenerateRequest { prompt: prompt.to_owned(), is_rendered: false, stop: Vec::new(), max_new_tokens: 4 };
        LanguageModel::num_cut_to_generate(&model, &request).expect("counts")
    };
    let num_tokens = encode(model.tokenizer(), &long, false).expect("tokens").len();
    assert_eq!(num_cut(&long), num_tokens + 4 - max_tokens);
    assert_eq!(num_cut("profit"), 0);
    let num_cut = |context: &str| {
        let request = ScoreRequest {
            context: context.to_owned(),
            continuation: " rose".to_owned(),
            is_rendered: false,
            border: TokenBorder::default(),
        };
        let num_continuation = tokenize(model.tokenizer(), &request).expect("tokens").1.len();
        (LanguageModel::num_cut_to_score(&model, &request).expect("counts"), num_continuation)
    };
    let context = long.trim_end();
    let num_context = encode(model.tokenizer(), context, false).expect("tokens").len();
    let (cut, num_continuation) = num_cut(context);
    // The last token is predicted, never read.
    assert_eq!(cut, num_context + num_continuation - max_tokens - 1);
    assert_eq!(num_cut("profit").0, 0);
    assert!(generate(4).is_ok());
}

#[test]
fn a_stop_text_ends_the_generation_and_not_the_text_alone() {
    let model = model();
    let request = |stop: &[&str]| GenerateRequest {
        prompt: "Question: what is a bond?\nAnswer:".to_owned(),
        is_rendered: false,
        stop: stop.iter().map(|text| (*text).to_owned()).collect(),
        max_new_tokens: 60,
    };
    let generate = |request: GenerateRequest| LanguageModel::generate(&model, &[request]).expect("replies").remove(0);
    let whole = generate(request(&[]));
    assert_eq!(whole.is_cut_off, Some(true));
    // What the model writes in the middle of its reply, whatever that is.
    let middle: Vec<char> = whole.text.chars().collect();
    let stop: String = middle[middle.len() / 2..middle.len() / 2 + 3].iter().collect();
    let place = whole.text.find(&stop).expect("it is there");
    let stopped = generate(request(&[&stop]));
    assert_eq!((stopped.text.as_str(), stopped.is_cut_off), (&whole.text[..place], Some(false)));

    let ids = encode(model.tokenizer(), &request(&[]).prompt, false).expect("tokens");
    let asked = findap_model::GenerateRequest {
        prompt: ids,
        max_new: 60,
        sampling: Sampling::GREEDY,
        seed: 0,
        stop_ids: Vec::new(),
    };
    let stops = [stop.clone()];
    let ended = model.generate_until(std::slice::from_ref(&asked), &[&stops], &|_, _| true).expect("tokens").remove(0);
    assert_eq!(ended.stop, StopReason::Stop);
    let text_of = |num_tokens: usize| model.tokenizer().decode(&ended.ids[..num_tokens], true).expect("text");
    assert!(text_of(ended.ids.len()).contains(&stop) && !text_of(ended.ids.len() - 1).contains(&stop));
    let refused = model.generate_until(&[asked], &[&stops], &|_, _| false).expect("tokens").remove(0);
    assert_eq!((refused.ids.len(), refused.stop), (60, StopReason::Length), "who watches decides");
}

#[test]
fn a_token_across_the_border_is_read_as_the_task_says_and_never_scored_as_nothing() {
    let model = model();
    let tokens = |text: &str| encode(model.tokenizer(), text, false).expect("tokens");
    let split = |context: &str, continuation: &str, border| {
        let (context, continuation) = (context.to_owned(), continuation.to_owned());
        tokenize(model.tokenizer(), &ScoreRequest { context, continuation, is_rendered: false, border })
            .expect("tokens")
    };
    // A blank behind a number begins a token: nothing is joined there.
    assert_eq!(split("a 1", " bond", TokenBorder::Joint), split("a 1", " bond", TokenBorder::LmEval));
    let words = ["profit", "the price of the bond", "company", "shares", "interest"];
    let mut joined = words.iter().flat_map(|word| (1..word.len()).map(|at| word.split_at(at)));
    let (before, after) = joined
        .find(|(before, after)| tokens(&format!("{before}{after}"))[..tokens(before).len()] != tokens(before))
        .expect("some word is one token, and its beginning another");
    let after = format!("{after} rose");
    let whole = tokens(&format!("{before}{after}"));
    let (context, continuation) = split(before, &after, TokenBorder::Joint);
    assert_eq!([context.as_slice(), &continuation].concat(), whole);
    let text = |ids: &[u32]| model.tokenizer().decode(ids, true).expect("text");
    assert!(before.starts_with(&text(&context)) && text(&context) != before, "the token across it is scored");
    let (context, continuation) = split(before, &after, TokenBorder::LmEval);
    assert_eq!((context.clone(), continuation.as_slice()), (tokens(before), &whole[context.len()..]));

    let mut parts = words
        .iter()
        .flat_map(|word| (2..=word.len()).flat_map(move |end| (1..end).map(move |at| (&word[..at], &word[at..end]))));
    let (before, after) = parts
        .find(|(before, after)| tokens(&format!("{before}{after}")).len() == tokens(before).len())
        .expect("some part of a word is one token, and so is its beginning");
    let request = ScoreRequest {
        context: before.to_owned(),
        continuation: (*after).to_owned(),
        is_rendered: false,
        border: TokenBorder::LmEval,
    };
    let outcome = LanguageModel::score(&model, &[request]);
    assert!(matches!(&outcome, Err(EvalError::NoContinuationToken { continuation, .. }) if continuation == after));
}
