//! Runs the whole demonstration: what it shows must be true.

use std::collections::BTreeMap;
use std::path::Path;

use findap_data::{Capability, Domain};
use findap_eval::report::RunFolder;
use findap_eval::table::capability_lines;
use serde_json::Value;

use crate::tool::{Said, findap};

/// Scores in percent by stage, domain and capability.
type Scores = BTreeMap<(String, Domain, Capability), f64>;

fn scores(run: &RunFolder) -> Scores {
    let mut scores = Scores::new();
    for line in capability_lines(&run.scores) {
        for (stage, score) in run.scores.iter().zip(&line.stages) {
            if let Some(score) = score {
                scores.insert((stage.stage.clone(), line.domain, line.capability), 100.0 * score.score);
            }
        }
    }
    scores
}

/// Runs `recipes/demo.toml` with a seed other than the one it was made with. To leave room for other seeds, the margins are half of
/// the rise that was measured, and twice the fall (docs/demo-study.md).
#[test]
fn the_demonstration_learns_finance_and_keeps_the_rest() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = findap();
    command
        .current_dir(&root)
        .args(["run", "recipes/demo.toml", "--set", "run.seed=5", "--run-dir"])
        .arg(folder.path());
    let said = Said::from(command.output().expect("the binary starts")).success();
    for word in ["report.html", "align/model", "chat"] {
        assert!(said.stdout.contains(word), "{}", said.stdout);
    }

    // What the end proposes to ask, the model answers as it says.
    let mut lines = said.stdout.lines().skip_while(|line| !line.starts_with("ask "));
    let (ask, answer) = (lines.next().expect("a question"), lines.next().expect("its answer"));
    let question = ask.split('"').nth(1).expect("a quoted question");
    let model = folder.path().join("align/model").display().to_string();
    let reply = crate::tool::run(["generate", &model, "--prompt", question]).success().stdout;
    assert!(answer.contains(&format!("\"{}\"; base said", reply.trim())), "{reply} against {answer}");

    let run = RunFolder::read(folder.path()).expect("the run folder");
    let scores = scores(&run);
    let score = |stage: &str, domain: Domain, capability: Capability| scores[&(stage.to_owned(), domain, capability)];
    let mean = |stage: &str, domain: Domain| {
        let all = Capability::ALL.map(|capability| score(stage, domain, capability));
        all.iter().sum::<f64>() / 4.0
    };
    let shown = || said.stdout.clone();
    for (capability, margin) in [(Capability::Concept, 10.0), (Capability::Task, 25.0), (Capability::Reasoning, 24.0)] {
        for stage in ["group2", "align"] {
            let rise = score(stage, Domain::Finance, capability) - score("base", Domain::Finance, capability);
            assert!(rise >= margin, "finance {} rose by {rise:.1} only after {stage}\n{}", capability.name(), shown());
        }
    }
    let fall = mean("base", Domain::General) - mean("group2", Domain::General);
    assert!(fall <= 5.0, "the general scores fell by {fall:.1}\n{}", shown());

    let kinds = |kind: &str| run.preferences.iter().filter(|pair| pair["kind"] == kind).count();
    assert!(kinds("fap") >= 10 && kinds("scp") >= 5, "{} and {} pairs", kinds("fap"), kinds("scp"));
    let statistics: Value = Value::Object(run.distillation.clone());
    assert_eq!(statistics["unjudged"], 0);
    assert_eq!(statistics["fap_pairs"], kinds("fap"));
}
