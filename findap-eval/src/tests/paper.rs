//! The 35 tasks of the paper, on made-up rows in the published columns and, where they are there, on published rows.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Fields as Columns};
use serde_json::{Value, json};

use super::*;
use crate::dataset;
use crate::prompt::{Ask, Item, PromptOptions, prepare};
use crate::task::{Format, Kind, Similarity};

/// Every task of the paper, those too that are not run.
fn all() -> Vec<Task> {
    Registry::builtin().and_then(|registry| registry.select(["@paper"])).expect("built-in tasks")
}

fn items(task: &Task, root: &Path) -> Vec<Item> {
    let loaded = dataset::load(task, &options(root).data_roots, None, 0).unwrap_or_else(|error| panic!("{error}"));
    prepare(task, &loaded, &fixed(""), PromptOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// What stands before each choice, the choice, and the index of the right one.
fn choices(item: &Item) -> (Vec<(&str, String)>, usize) {
    match &item.ask {
        Ask::Choices { gold, .. } => (item.scored(), *gold),
        Ask::Reply { .. } => panic!("a question with choices"),
    }
}

fn golds(item: &Item) -> &[String] {
    match &item.ask {
        Ask::Reply { golds, .. } => golds,
        Ask::Choices { .. } => panic!("a question with a written answer"),
    }
}

#[test]
fn the_paper_has_35_tasks_of_which_5_are_similar() {
    let tasks = all();
    assert_eq!(tasks.len(), 35);
    let similar: Vec<&str> =
        tasks.iter().filter(|task| task.similarity == Similarity::Similar).map(|task| task.name.as_str()).collect();
    assert_eq!(similar, ["fpb", "ner", "edtsum", "fiqa_sa", "fomc"]);
    for task in &tasks {
        let own = format!("paper.{}", task.similarity.name());
        assert!(task.groups.contains(&own), "{}: {own}", task.name);
    }
}

#[test]
fn each_task_of_the_paper_says_where_it_is_published_and_what_is_doubtful() {
    for task in all() {
        let (published, paper) = (task.published.as_ref().expect(&task.name), task.paper.as_ref().expect(&task.name));
        assert!(!published.at.is_empty() && !published.columns.is_empty(), "{}", task.name);
        assert_eq!(paper.scores.len(), 8, "{}", task.name);
        // A size that is not the published one, to the three digits that the paper prints, is explained.
        let unit = 10_u64.pow(published.num_rows.to_string().len().saturating_sub(3) as u32);
        let is_same = paper.num_rows.abs_diff(published.num_rows) < unit;
        assert!(is_same || paper.doubt.is_some(), "{}: {} and {} rows", task.name, published.num_rows, paper.num_rows);
        assert_eq!(task.judge.is_some(), ["mt_bench", "financebench"].contains(&task.name.as_str()));
        assert_eq!(task.refused, None, "{}", task.name);
    }
}

#[test]
fn chance_is_one_over_the_number_of_answers_and_0_where_guessing_scores_nothing() {
    for task in all() {
        let count = match &task.kind {
            // ARC has some questions with three or five.
            Kind::MultipleChoice(_) if task.name == "arc" => 4,
            Kind::MultipleChoice(_) => choices(&items(&task, &fixtures())[0]).0.len(),
            Kind::Generate(_) if task.headline() != Metric::Acc => 0,
            // The made-up rows have fewer issues than the 33 of the set.
            Kind::Generate(_) if task.name == "mlesg" => 33,
            Kind::Generate(_) => match items(&task, &fixtures())[0].ask {
                Ask::Reply { ref labels, .. } if !labels.is_empty() => labels.len(),
                // The labels that the task names itself, and the letters A to C.
                _ => 3,
            },
        };
        let want = if count == 0 { 0.0 } else { 1.0 / count as f64 };
        assert!((task.chance - want).abs() < 1e-4, "{}: {} is not {want}", task.name, task.chance);
    }
}

/// First question, its choices with what stands before them where that differs, and the right one.
#[test]
fn questions_with_choices_are_asked_as_lm_eval_asks_them() {
    for (name, prompt, scored, gold) in [
        (
            "arc",
            "Question: Which of these melts in a warm room?\nAnswer:",
            &[" a stone", " an ice cube", " a coin", " a cup"][..],
            1,
        ),
        (
            "mathqa",
            "Question: a boat goes 12 miles in 3 hours . how many miles does it go in an hour ?\nAnswer:",
            &[" 3", " 4", " 6", " 9", " none of these"],
            1,
        ),
        (
            "social_iqa",
            "Q: Lia carried the bags of her neighbour up the stairs. How would you describe Lia?\nA:",
            &[" tired of her", " helpful", " in a hurry"],
            1,
        ),
        ("openbookqa", "A lamp that is not plugged in", &[" shines brighter", " stays dark", " gets hot", " hums"], 1),
        (
            "hellaswag",
            "Making tea: A woman fills a kettle with water. She",
            &[" puts it on the stove.", " paints it red.", " throws it out of the window.", " sings to it."],
            0,
        ),
        ("piqa", "Question: To keep bread fresh,\nAnswer:", &[" leave it in the rain.", " wrap it in a cloth."], 1),
        (
            "mmlu",
            "The following are multiple choice questions (with answers) about abstract algebra.\n\nWhich of these is a \
             colour?\nA. green\nB. loud\nC. heavy\nD. early\nAnswer:",
            &[" A", " B", " C", " D"],
            0,
        ),
        (
            "mmlu_finance",
            "The following are multiple choice questions (with answers) about business ethics.\n\n",
            &[" A", " B", " C", " D"],
            1,
        ),
    ] {
        let item = &items(&builtin(&[name])[0], &fixtures())[0];
        let (found, found_gold) = choices(item);
        let is_asked = if prompt.ends_with("\n\n") { item.prompt.starts_with(prompt) } else { item.prompt == prompt };
        assert!(is_asked, "{name}: {:?}", item.prompt);
        assert!(found.iter().all(|(context, _)| *context == item.prompt), "{name}");
        assert_eq!(found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), scored, "{name}");
        assert_eq!(found_gold, gold, "{name}");
    }
}

#[test]
fn odd_rows_of_the_published_files_are_read() {
    let second = |name: &str| items(&builtin(&[name])[0], &fixtures()).remove(1);
    let texts = |item: &Item| choices(item).0.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    // Three choices with numbers for labels.
    let arc = second("arc");
    assert_eq!((texts(&arc), choices(&arc).1), ([" salt", " noise", " water"].map(str::to_owned).to_vec(), 2));
    // A list in quotes, and commas inside of choices.
    let prices =
        ["rs . 1,500", "rs . 1 , 800", "rs . 2,000", "rs . 2,400", "rs . 2,700"].map(|text| format!(" {text}"));
    let mathqa = second("mathqa");
    assert_eq!((texts(&mathqa), choices(&mathqa).1), (prices.to_vec(), 2));
    // A key with white space before it.
    assert_eq!(choices(&second("openbookqa")).1, 3);
    // Marks of WikiHow: as lm-eval's clean-up leaves them.
    let hellaswag = second("hellaswag");
    assert_eq!(hellaswag.prompt, "Home and Garden: How to oil a door. Find the hinge. Look at the side.");
    assert_eq!(
        texts(&hellaswag),
        [" Eat the door.", "Take the door to the sea.. Wait.", "Drop oil on the hinge. Move the door.", "Leave."]
            .map(|text| format!(" {text}"))
    );
}

#[test]
fn winogrande_puts_each_name_into_the_blank_and_scores_what_follows() {
    let task = &builtin(&["winogrande"])[0];
    let items = items(task, &fixtures());
    let rest = || " had one to spare.".to_owned();
    let want =
        vec![("Lia lent Marsh the ladder because Lia", rest()), ("Lia lent Marsh the ladder because Marsh", rest())];
    assert_eq!(choices(&items[0]), (want, 0));
    assert_eq!(choices(&items[1]).1, 1);
    // A solved example is a sentence with the right name; samples come back from their file with what was sent.
    let mut options = options(&fixtures());
    options.num_fewshot = Some(1);
    let model = ScriptedModel::new(|context, _| if context.ends_with("car") { -1.0 } else { -2.0 }, |_| String::new());
    let results = evaluate(&model, std::slice::from_ref(task), &options).expect("runs");
    let sample = &results.tasks[0].samples[1];
    assert_eq!(
        sample.choice(1).expect("two choices"),
        "Lia lent Marsh the ladder because Lia had one to spare.\n\nThe trunk did not fit into the car since the car was too \
         small."
    );
    assert_eq!(sample.outcome.values[&Metric::Acc], 1.0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    results.write(folder.path()).expect("writes");
    assert_eq!(Results::load(folder.path()).expect("loads").tasks[0].samples, results.tasks[0].samples);
}

/// A reply that says the right answer to a row, as a model would.
fn right_reply(task: &Task, item: &Item) -> String {
    let gold = &golds(item)[0];
    match task.name.as_str() {
        "tatqa" => format!("Step by step.\nAnswer: ${gold}"),
        "cfa_challenge" => format!("Because of the horizon.\nSelection: [[{gold}]]"),
        "ectsum" => item.fields["answer"].as_str().expect("marks").to_owned(),
        "edtsum" | "ner" | "nq_open" => gold.clone(),
        _ => format!("The answer is {gold}."),
    }
}

#[test]
fn every_task_of_the_paper_scores_right_answers_and_no_answers() {
    let tasks = builtin(&["@paper"]);
    assert_eq!(tasks.len(), 33, "two more are judged: see `judged`");
    for task in tasks {
        let items = items(&task, &fixtures());
        let (mut replies, mut likely) = (BTreeMap::new(), Vec::new());
        for item in &items {
            match &item.ask {
                Ask::Reply { .. } => drop(replies.insert(item.prompt.clone(), right_reply(&task, item))),
                Ask::Choices { gold, .. } => {
                    let (context, text) = &item.scored()[*gold];
                    likely.push(((*context).to_owned(), text.clone()));
                }
            }
        }
        let knowing = ScriptedModel::new(
            move |context, text| {
                if likely.iter().any(|(c, t)| (c.as_str(), t.as_str()) == (context, text)) { -0.1 } else { -9.0 }
            },
            move |prompt| replies[prompt].clone(),
        );
        let right = evaluate(&knowing, std::slice::from_ref(&task), &options(&fixtures())).expect("runs");
        let metrics = &right.tasks[0].summary.metrics;
        for value in metrics {
            let want = if value.metric == Metric::Missing { 0.0 } else { 1.0 };
            assert!((value.value - want).abs() < 1e-12, "{}: {value:?}", task.name);
        }
        if matches!(task.kind, Kind::Generate(_)) {
            let silent = evaluate(&fixed(""), std::slice::from_ref(&task), &options(&fixtures())).expect("runs");
            let headline = silent.tasks[0].summary.headline();
            assert!(headline.value.abs() < 1e-12, "{}: {headline:?}", task.name);
        }
    }
}

#[test]
fn flare_scores_stand_beside_strict_ones() {
    let score = |task: &str, reply: &'static str| {
        let results = evaluate(&fixed(reply), &builtin(&[task]), &options(&fixtures())).expect("runs");
        [Metric::Acc, Metric::FlareAcc, Metric::Missing].map(|metric| value(&results, task, metric))
    };
    // Of three posts two are Rise; of four clients three are good.
    assert_eq!(score("sm_acl", "I cannot tell."), [0.0, 1.0 / 3.0, 1.0], "no label is Fall");
    assert_eq!(score("sm_acl", "Positive"), [0.0, 2.0 / 3.0, 1.0], "a synonym");
    assert_eq!(score("german", "As an AI I decline."), [0.0, 0.75, 1.0], "no label is good");
    assert_eq!(score("lending_club", "As an AI I decline."), [0.0, 0.0, 1.0], "no default here");
    assert_eq!(score("polish", "I do not know"), [0.0, 0.75, 1.0], "`no` stands in `know`");
    assert_eq!(score("polish", "No"), [0.75, 0.75, 0.0]);
    let results = evaluate(&fixed("No"), &builtin(&["polish"]), &options(&fixtures())).expect("runs");
    assert_eq!(value(&results, "polish", Metric::Mcc), 0.0, "constant answers correlate with nothing");
    let summary = &results.tasks[0].summary;
    assert_eq!(summary.majority, Some(0.75));
    let told = crate::table::notes([summary].into_iter(), 100);
    assert!(told.iter().any(|told| told.ends_with("the most frequent answer: polish 75.0 of 75.0")), "{told:?}");
    let better = |prompt: &str| if prompt.contains("x1: 0.92") { "Yes" } else { "No" }.to_owned();
    let model = ScriptedModel::new(|_, _| 0.0, better);
    let better = evaluate(&model, &builtin(&["polish", "mmlu"]), &options(&fixtures())).expect("runs");
    assert_eq!(crate::table::notes(better.tasks.iter().map(|task| &task.summary), 100), Vec::<String>::new());
    assert!((value(&results, "polish", Metric::FlareMacroF1) - 6.0 / 14.0).abs() < 1e-12);
}

#[test]
fn of_several_right_answers_one_is_enough() {
    let score = |reply: &'static str| {
        let results = evaluate(&fixed(reply), &builtin(&["nq_open"]), &options(&fixtures())).expect("runs");
        let sample = &results.tasks[0].samples[0];
        let values = [Metric::ExactMatch, Metric::TokenF1].map(|metric| sample.outcome.values[&metric]);
        (values, sample.outcome.gold.clone())
    };
    assert_eq!(score(" The town of Calder-Bay"), ([0.0, 4.0 / 7.0], "calder bay / town of calder bay".to_owned()));
    assert_eq!(score(" a Town of calder bay!\nQ: next"), ([1.0, 1.0], "town of calder bay".to_owned()));
    assert_eq!(score(" Calder Bay"), ([1.0, 1.0], "calder bay".to_owned()));
    assert_eq!(score(" Orrin"), ([0.0, 0.0], "calder bay / town of calder bay".to_owned()));
}

#[test]
fn marks_of_sentences_stand_for_the_sentences_and_other_replies_for_themselves() {
    for (reply, want) in [
        ("0\n1\n0", Some("Sales rose to 12 million .")),
        ("1, 1", Some("Good morning .\nSales rose to 12 million .")),
        ("0 0 0", Some("")),
        ("Sales rose.", Some("Sales rose.")),
        ("0\nSales rose.", Some("0\nSales rose.")),
        (" ", None),
    ] {
        let results = evaluate(&fixed(reply), &builtin(&["ectsum"]), &options(&fixtures())).expect("runs");
        assert_eq!(results.tasks[0].samples[0].outcome.predicted.as_deref(), want, "{reply:?}");
    }
}

/// A column of values of one type.
fn column(values: &[Value]) -> ArrayRef {
    match values.iter().find(|value| !value.is_null()) {
        Some(Value::Number(_)) => Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>()),
        Some(Value::Array(_)) => {
            let lists: Vec<&Vec<Value>> = values.iter().map(|value| value.as_array().expect("a list")).collect();
            let items = column(&lists.iter().flat_map(|list| list.iter().cloned()).collect::<Vec<_>>());
            let field = Arc::new(Field::new("item", items.data_type().clone(), true));
            Arc::new(ListArray::new(
                field,
                OffsetBuffer::from_lengths(lists.iter().map(|list| list.len())),
                items,
                None,
            ))
        }
        Some(Value::Object(first)) => {
            let of_key = |key: &String| column(&values.iter().map(|value| value[key].clone()).collect::<Vec<_>>());
            let parts: Vec<ArrayRef> = first.keys().map(of_key).collect();
            let field = |(key, part): (&String, &ArrayRef)| Field::new(key, part.data_type().clone(), true);
            let fields: Columns = first.keys().zip(&parts).map(field).collect();
            Arc::new(StructArray::new(fields, parts, None))
        }
        _ => Arc::new(values.iter().map(Value::as_str).collect::<StringArray>()),
    }
}

fn write_parquet(path: &Path, rows: &[Value]) {
    let keys = rows[0].as_object().expect("an object").keys();
    let columns = keys.map(|key| (key, column(&rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>())));
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = fs::File::create(path).expect("creates");
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).expect("opens");
    writer.write(&batch).expect("writes");
    writer.close().expect("closes");
}

/// Copies a folder; a file of lines named as a split becomes two shards, named as on the hub.
fn copy_as_shards(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        match name.strip_suffix(".jsonl").filter(|split| ["test", "validation"].contains(split)) {
            _ if entry.is_dir() => copy_as_shards(&entry, &to.join(name)),
            None => drop(fs::copy(&entry, to.join(name)).expect("copies")),
            Some(split) => {
                let text = fs::read_to_string(&entry).expect("reads");
                let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
                for (index, rows) in [&rows[..1], &rows[1..]].into_iter().enumerate() {
                    write_parquet(&to.join(format!("{split}-{index:05}-of-00002.parquet")), rows);
                }
            }
        }
    }
}

#[test]
fn shards_of_parquet_as_on_the_hub_hold_the_same_questions() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    copy_as_shards(&fixtures(), folder.path());
    let as_auto: Vec<Task> =
        builtin(&["@paper"]).into_iter().filter(|task| task.dataset.format == Format::Auto).collect();
    assert_eq!(as_auto.len(), 30);
    for task in &as_auto {
        let shown = |root: &Path| -> Vec<String> {
            items(task, root).iter().map(|item| format!("{} {:?} {}", item.row_id, item.ask, item.prompt)).collect()
        };
        assert_eq!(shown(folder.path()), shown(&fixtures()), "{}", task.name);
    }
    // A shard that is not there is no smaller benchmark.
    fs::remove_file(folder.path().join("piqa/data/validation-00000-of-00002.parquet")).expect("removes");
    let error = evaluate(&fixed(""), &builtin(&["piqa"]), &options(folder.path())).expect_err("a shard is missing");
    assert!(error.to_string().contains("lacks the shard validation-00000-of-00002"), "{error}");
}

#[test]
fn rows_lie_in_one_of_the_places_that_a_task_names() {
    // The name of a folder is no pattern.
    let folder = tempfile::Builder::new().prefix("set[1]*").tempdir().expect("a temporary folder");
    let evaluate = || evaluate(&fixed("Rise"), &builtin(&["sm_acl"]), &options(folder.path()));
    let error = evaluate().expect_err("nothing").to_string();
    assert!(error.contains("FinEval/SM-ACL/test*") && error.contains("nor at data:flare-sm-acl/**/test*"), "{error}");
    let other = folder.path().join("flare-sm-acl/data");
    fs::create_dir_all(&other).expect("a folder");
    fs::copy(fixtures().join("FinEval/SM-ACL/test.jsonl"), other.join("test.jsonl")).expect("copies");
    assert_eq!(evaluate().expect("runs").tasks[0].summary.num_rows, 3);
    let first = folder.path().join("FinEval/SM-ACL");
    fs::create_dir_all(&first).expect("a folder");
    fs::copy(other.join("test.jsonl"), first.join("test.jsonl")).expect("copies");
    let error = evaluate().expect_err("two places").to_string();
    assert!(error.contains("flare-sm-acl/**/test* is there, too"), "{error}");
}

#[test]
#[allow(clippy::print_stderr)] // the notice of a skipped test
fn tasks_of_the_paper_read_published_rows() {
    let Some(root) = std::env::var_os("FINDAP_REAL_DATA").map(PathBuf::from) else {
        eprintln!("skipped: FINDAP_REAL_DATA is not set, so the tasks of the paper were tried on made-up rows only");
        return;
    };
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    // As they lie there.
    let winogrande = items(&builtin(&["winogrande"])[0], &root);
    assert_eq!((winogrande.len(), choices(&winogrande[0]).1), (200, 1));
    assert_eq!(choices(&winogrande[0]).0[1].1, " always got the easier cases.");
    let nq_open = items(&builtin(&["nq_open"])[0], &root);
    assert_eq!((nq_open.len(), golds(&nq_open[0]).len()), (200, 2));
    let mt_bench = all().into_iter().find(|task| task.name == "mt_bench").expect("a task");
    let loaded = dataset::load(&mt_bench, &options(&root).data_roots, None, 0).expect("reads");
    assert_eq!((loaded.rows.len(), loaded.rows[0].fields["turns"].as_array().map(Vec::len)), (80, Some(2)));

    // Put into the columns of the hub from what the samples have.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, rows: Vec<Value>| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).expect("writes");
    };
    let row = |line: &str| serde_json::from_str::<Value>(line).expect("a row");
    let piqa = read("piqa/valid.jsonl");
    let labels = read("piqa/valid-labels.lst");
    let with_label = |(line, label): (&str, &str)| {
        let mut row = row(line);
        row["label"] = row_label(label);
        row
    };
    write("piqa/validation.jsonl", piqa.lines().zip(labels.lines()).map(with_label).collect());
    let lines = read("hellaswag/hellaswag_val_full_first200.txt");
    let scene = |part: &[&str]| {
        let (activity, context) = part[0].split_once(": ").expect("an activity");
        json!({ "activity_label": activity, "ctx_a": context, "ctx_b": "", "label": part[1], "endings": part[2..] })
    };
    let lines: Vec<&str> = lines.lines().collect();
    write("hellaswag/validation.jsonl", lines.chunks(6).map(scene).collect());
    let german = row(&read("cra_german/flare_german_desc_write_out_info.json"));
    let client = |record: &Value| {
        let prompt = record["prompt_0"].as_str().expect("a prompt");
        let query = prompt.trim_start_matches("Human: \n").split("\n\nAssistant").next();
        json!({ "query": query, "answer": record["truth"], "choices": ["good", "bad"] })
    };
    write("flare-german/test.jsonl", german.as_array().expect("a list").iter().map(client).collect());
    let mathqa = row(&read("llm_adapters_commonsense/mathqa_test.json"));
    let problem = |record: &Value| {
        let (problem, options) =
            record["instruction"].as_str().and_then(|text| text.split_once(" The options: ")).expect("options");
        let letters = regex::Regex::new(r"\b([A-E]) \)").expect("a pattern");
        let options = letters.replace_all(options, |found: &regex::Captures| found[0].to_lowercase());
        let correct = record["answer"].as_str().expect("a letter").to_lowercase();
        json!({ "Problem": problem, "options": options, "correct": correct })
    };
    write("math_qa/test.jsonl", mathqa.as_array().expect("a list").iter().map(problem).collect());

    let names = ["piqa", "hellaswag", "german", "mathqa"];
    let results = evaluate(&fixed("good"), &builtin(&names), &options(folder.path())).expect("runs");
    for task in &results.tasks {
        assert_eq!(task.summary.num_rows, 200, "{}", task.summary.name);
    }
    for item in items(&builtin(&["mathqa"])[0], folder.path()) {
        let (found, _) = choices(&item);
        let is_clean = |text: &String| !text.contains(['[', ']']) && !text.ends_with([',', '\'']);
        assert!(found.len() == 5 && found.iter().all(|(_, text)| is_clean(text)), "{found:?}");
    }
    // Of the 200 clients of the published test set 132 are good, and a constant answer correlates with nothing.
    let good = value(&results, "german", Metric::Acc);
    assert_eq!((good, value(&results, "german", Metric::Mcc)), (0.66, 0.0));
    assert_eq!(value(&results, "german", Metric::FlareAcc), good);
}

fn row_label(text: &str) -> Value {
    json!(text.trim().parse::<u64>().expect("a label"))
}
