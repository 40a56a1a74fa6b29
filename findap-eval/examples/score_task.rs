//! Scores a built-in task with a scripted model: no weights, no network.
//!
//! `cargo run -p findap-eval --example score_task`

use std::path::Path;

use findap_eval::dataset::DataRoots;
use findap_eval::scripted::ScriptedModel;
use findap_eval::{EvalError, Options, Registry, run};

#[allow(clippy::print_stdout)] // an example shows what it found
fn main() -> Result<(), EvalError> {
    // A model that calls every sentence with a loss in it negative, and everything else neutral.
    let model = ScriptedModel::new(
        |_context, _continuation| -1.0,
        |prompt| if prompt.contains("loss") { "Negative." } else { "Neutral." }.to_owned(),
    );
    let tasks = Registry::builtin()?.select(["fpb"])?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let options = Options { data_roots: DataRoots::from([("data".to_owned(), folder)]), ..Options::default() };
    let results = run(&model, None, &tasks, &options, &mut |_progress| true)?;
    for task in &results.tasks {
        println!("{} on {} rows:", task.summary.title, task.summary.num_rows);
        for metric in &task.summary.metrics {
            let error = metric.stderr.map_or("-".to_owned(), |error| format!("{error:.3}"));
            println!("  {:12} {:.3} +- {error}", metric.metric.name(), metric.value);
        }
    }
    Ok(())
}
