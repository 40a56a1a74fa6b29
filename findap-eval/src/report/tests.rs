use findap_data::store::rows::{Amount, RowsReport, SourceRows};

use super::*;
use crate::dataset::DataRoots;
use crate::engine::run;
use crate::options::Options;
use crate::scripted::ScriptedModel;
use crate::task::Task;

const HOSTILE: &str = "<script>alert(1)</script>\"'&";

/// A run folder as a finished run leaves it, with texts that try to break out of their HTML elements.
fn fixture() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes folders");
        std::fs::write(path, text).expect("writes");
    };
    let resolved = "# <script>alert(2)</script>\n[run]\nname = \"demo\"\n[[stage]]\nname = \"group1\"\n[[stage]]\nname = \"align\"\nkind = \"align\"\nloss = \"ipo\"\n";
    write("resolved.toml", resolved);
    write("provenance.json", &serde_json::json!({ "commit": "abc", "device": { "cpu": HOSTILE } }).to_string());
    let line = |step: i32| {
        format!(
            "{{\"step\": {step}, \"loss\": {}, \"tokens\": 100, \"tokens_per_s\": 5.0}}\n",
            4.0 - f64::from(step) / 50.0
        )
    };
    let steps: String = (1..=50).map(line).collect();
    write("group1/metrics.jsonl", &format!("{steps}{{\"step\": 50, \"dev_loss\": 3.1}}\n{{\"step\": 51, \"lo"));
    let account = SourceRows {
        source: HOSTILE.to_owned(),
        read: 12,
        too_long: Amount { rows: 2, tokens: 4321 },
        pieces: Amount { rows: 10, tokens: 300 },
        used: Amount { rows: 10, tokens: 300 },
        ..SourceRows::default()
    };
    write(
        "group1/mixture.json",
        &serde_json::json!({ "sources": [
        { "name": HOSTILE, "domain": "finance", "rows": 10, "tokens": 300, "loss_tokens": 200 },
        { "name": "chat", "domain": "general", "rows": 10, "tokens": 100, "loss_tokens": 20 } ],
        "rows": RowsReport { sources: vec![account], notes: vec![HOSTILE.to_owned()] } })
        .to_string(),
    );
    write(
        "align/metrics.jsonl",
        "{\"step\":1,\"loss\":0.7,\"reward_margin\":0.0,\"reward_accuracy\":0.5}\n{\"step\":2,\"loss\":0.5,\"reward_margin\":0.4,\"reward_accuracy\":0.9}\n",
    );
    write("preferences.jsonl", &(serde_json::json!({ "kind": "fap", "prompt": [{ "role": "user", "content": HOSTILE }], "chosen": "a", "rejected": "b" }).to_string() + "\n"));
    write(
        "rows.jsonl",
        &format!(
            "{}\n{}\n{}\n",
            serde_json::json!({ "q": HOSTILE, "a": "yes" }),
            serde_json::json!({ "q": "two", "a": "yes" }),
            serde_json::json!({ "q": "three", "a": "no" })
        ),
    );
    let task = |name: &str, domain: &str| {
        let text = format!(
            "schema = 1\nname = \"{name}\"\nversion = 1\ntitle = '{}'\ncapability = \"concept\"\ndomain = \"{domain}\"\nsimilarity = \"similar\"\nlicense = \"Apache-2.0\"\nsource = \"made up\"\nchance = 0.25\nmetrics = [\"exact_match\"]\nchat = true\nprompt = \"{{q}}\"\n[dataset]\npath = \"data:rows.jsonl\"\n[generate]\ngold = \"{{a}}\"\nmax_new_tokens = 4\n",
            "<script>title</script>"
        );
        Task::parse("t.toml", &text).expect("parses")
    };
    let tasks = [task("facts", "finance"), task("places", "general")];
    let options =
        Options { data_roots: DataRoots::from([("data".to_owned(), folder.path().to_owned())]), ..Options::default() };
    for (stage, reply) in [("align", "yes"), ("base", HOSTILE), ("group1", "no")] {
        let model = ScriptedModel::new(|_, _| 0.0, move |_| reply.to_owned());
        let results = run(&model, None, &tasks, &options, &mut |_| true).expect("runs");
        results.write(&folder.path().join("eval").join(stage)).expect("writes");
    }
    folder
}

/// Asserts that every tag is closed by its own, attributes are quoted, and no text holds a bare `<`.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!doctype html>").expect("a doctype");
    while let Some(at) = rest.find('<') {
        rest = &rest[at..];
        let end = rest.find('>').expect("a closed tag");
        let tag = &rest[1..end];
        let name = tag.trim_start_matches('/').trim_end_matches('/').split_whitespace().next().unwrap_or_default();
        assert!(!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric()), "a bare < before {:.40}", rest);
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') && !matches!(name, "meta" | "br") {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn what_was_measured_otherwise_is_told_and_makes_no_verdict() {
    let folder = fixture();
    let page =
        |folder: &std::path::Path| std::fs::read_to_string(write(folder, false).expect("writes")).expect("reads");
    assert!(page(folder.path()).contains("From base to align"));
    let evaluation = folder.path().join("eval/align");
    let entries = std::fs::read_dir(&evaluation).expect("lists").map(|entry| entry.expect("an entry").path());
    let is_result =
        |path: &std::path::PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("results_"));
    let path = entries.into_iter().find(is_result).expect("results");
    let mut results: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("JSON");
    let version = results.pointer_mut("/findap/info/scoring_version").expect("a version");
    *version = serde_json::json!(1);
    std::fs::write(&path, results.to_string()).expect("writes");
    let page = page(folder.path());
    assert!(page.contains("align is not compared with base, as it was measured otherwise"), "{page}");
    assert!(!page.contains("From base to align"));
}

#[test]
fn the_page_is_well_formed_escaped_and_alone() {
    let folder = fixture();
    let path = write(folder.path(), false).expect("writes");
    let page = std::fs::read_to_string(path).expect("reads");
    assert_well_formed(&page);
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;alert(1)"));
    for outside in ["http://", "https://", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(outside), "the page loads {outside}");
    }
    assert!(page.contains("<td>ipo</td>"), "the table of training names the loss");
    assert!(page.contains("rows longer than the context left out") && page.contains("4321"));
    let sections = ["scores", "training", "mixture", "distillation", "tasks", "samples", "reproduce"];
    let places: Vec<usize> =
        sections.iter().map(|id| page.find(&format!("<section id=\"{id}\">")).expect(id)).collect();
    assert!(places.is_sorted());
}

#[test]
fn stages_stand_in_the_order_they_ran() {
    let folder = fixture();
    let run = RunFolder::read(folder.path()).expect("reads");
    assert_eq!(run.scores.iter().map(|stage| stage.stage.as_str()).collect::<Vec<_>>(), ["base", "group1", "align"]);
    assert_eq!(
        run.logs.iter().map(|log| (log.stage.as_str(), log.series("loss").len())).collect::<Vec<_>>(),
        [("group1", 50), ("align", 2)]
    );
    let page = html(folder.path(), false).expect("a page");
    // 0 of 3, 1 of 3, 2 of 3; the standard error of 2 of 3 is 0.333. Three questions show nothing.
    let cell = "66.7 <small>&plusmn;33.3</small><br><span class=\"same\">&asymp; +66.7</span> <small>";
    assert!(page.contains(cell) && page.contains("shows no clear change (95% interval"), "differences and errors");
    assert!(page.contains("now right"));
}

#[test]
fn the_terminal_table_has_one_row_per_capability_and_domain() {
    let folder = fixture();
    let run = RunFolder::read(folder.path()).expect("reads");
    let lines = crate::table::capability_lines(&run.scores);
    let table = crate::table::text_table(&run.scores, &lines);
    assert_eq!(table.header, ["measured", "n", "chance", "base", "group1", "align", "+-"]);
    let want = ["finance concept", "3", "25.0", "0.0", "33.3 (+33.3)", "66.7 (+66.7)", "33.3"];
    assert_eq!(table.rows[1], want);
    assert_eq!(table.rows.len(), 2);
    let tasks = crate::table::text_table(&run.scores, &crate::table::task_lines(&run.scores));
    assert_eq!(tasks.rows[0][0], "<script>title</script> (exact_match)");
}

#[test]
fn an_unfinished_run_has_a_page_that_says_how_far_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes folders");
        std::fs::write(path, text).expect("writes");
    };
    let stages = [("a", "train"), ("b", "train"), ("c", "distill"), ("d", "align")];
    let recipe = stages.map(|(name, kind)| format!("[[stage]]\nname = \"{name}\"\nkind = \"{kind}\"\n")).concat();
    write("resolved.toml", &format!("{recipe}[eval]\nstages = [\"base\", \"a\"]\n"));
    write("a/done.json", "{}");
    write(
        "b/metrics.jsonl",
        "{\"step\": 1200, \"loss\": 2.0, \"tokens\": 1234567}\n{\"step\": 1200, \"dev_loss\": 2.0}\n",
    );
    write("b/mixture.json", "{\"sources\": [], \"steps\": 2400}");
    write("c/samples.jsonl", "{}\n{}\n");
    let want =
        "a is done; b is at step 1,200 of 2,400; c has sampled 2 exercises; d is to come; not evaluated yet: base, a.";
    let stopped = html(folder.path(), false).expect("a page");
    assert_well_formed(&stopped);
    assert!(stopped.contains(&format!("Unfinished: {want}")) && !stopped.contains("refresh"), "{stopped}");
    assert!(stopped.contains("1,234,567"), "the tokens really trained on");
    let running = html(folder.path(), true).expect("a page");
    assert_well_formed(&running);
    assert!(running.contains("As of ") && running.contains(&format!("UTC, running: {want}")), "{running}");
    for (stage, _) in stages {
        write(&format!("{stage}/done.json"), "{}");
    }
    write("resolved.toml", &recipe);
    let done = html(folder.path(), false).expect("a page");
    assert!(!done.contains("Unfinished"), "{done}");
}

#[test]
fn a_folder_that_is_no_run_or_holds_a_broken_log_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = html(folder.path(), false).expect_err("no run").to_string();
    assert!(error.contains("no run folder") && error.contains("resolved.toml"), "{error}");
    assert!(matches!(html(&folder.path().join("none"), false), Err(EvalError::Io { .. })));
    std::fs::create_dir_all(folder.path().join("g")).expect("makes a folder");
    std::fs::write(folder.path().join("g/metrics.jsonl"), "{\"step\": 1, \"loss\": 2}\nnot json\n").expect("writes");
    let error = html(folder.path(), false).expect_err("a broken log").to_string();
    assert!(error.contains("metrics.jsonl") && error.contains("line 2"), "{error}");
}

#[test]
fn pairs_are_counted_once() {
    let folder = fixture();
    std::fs::create_dir_all(folder.path().join("distill")).expect("makes a folder");
    let statistics = "{\"exercises\": 1500, \"fap_pairs\": 1, \"equal_pairs\": 0}";
    std::fs::write(folder.path().join("distill/statistics.json"), statistics).expect("writes");
    let page = html(folder.path(), false).expect("a page");
    let count = |text: &str| page.to_lowercase().matches(text).count();
    assert_eq!((count(">fap pairs<"), count(">equal pairs<"), count(">1,500<")), (1, 1, 1));
}
