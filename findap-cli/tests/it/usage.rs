//! Help, exit codes, and which stream says what.

use crate::tool::{findap, run};

#[test]
fn usage_errors_exit_with_2_and_say_so_on_stderr() {
    for arguments in [vec!["nonsense"], vec![], vec!["compare"], vec!["doctor", "--nonsense"]] {
        let said = run(&arguments);
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.stderr);
        assert!(said.stdout.is_empty(), "{arguments:?}");
        assert!(said.stderr.contains("Usage: findap"), "{arguments:?}: {}", said.stderr);
    }
}

#[test]
fn help_names_every_command_and_exits_with_0() {
    let help = run(["--help"]).success().stdout;
    for command in ["plan", "compare", "report", "doctor"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}\n{help}");
        let own = run([command, "--help"]).success().stdout;
        assert!(own.contains("Usage: findap"), "{own}");
    }
}

/// Every command, and the commands of a command, as `findap help` names them.
fn every_command() -> Vec<Vec<String>> {
    let names = |help: &str| -> Vec<String> {
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        // what goes on from the line before is indented further
        let entries = listed.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
        entries.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    };
    let mut commands = vec![Vec::new()];
    for name in names(&run(["--help"]).success().stdout) {
        let inner = names(&run([name.as_str(), "--help"]).success().stdout);
        commands.extend(inner.into_iter().filter(|inner| inner != "help").map(|inner| vec![name.clone(), inner]));
        commands.push(vec![name]);
    }
    commands
}

#[test]
fn every_help_fits_into_80_columns() {
    let commands = every_command();
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands {
        let help = run(command.iter().map(String::as_str).chain(["--help"])).success().stdout;
        let long: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "findap {} --help\n{}", command.join(" "), long.join("\n"));
    }
    for topic in ["recipe", "task"] {
        let help = run(["help", topic]).success().stdout;
        let long: Vec<&str> = help.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(help.lines().count() > 200 && long.is_empty(), "{}", long.join("\n"));
    }
}

#[test]
fn help_explains_commands_and_keys() {
    assert_eq!(run(["help"]).success().stdout.trim(), run(["--help"]).success().stdout.trim());
    assert_eq!(run(["help", "eval"]).success().stdout.trim(), run(["eval", "--help"]).success().stdout.trim());
    let inner = run(["help", "data", "stats"]).success().stdout;
    assert!(inner.contains("Usage: findap data stats"), "{inner}");
    let key = run(["help", "recipe", "stage.train.learning_rate"]).success().stdout;
    assert_eq!(key, "stage.train.learning_rate\n    number; required\n    Peak learning rate, >= 0.\n");
    run(["help", "recipe", "lerning_rate"]).refusal(&["lerning_rate", "stage.train.learning_rate"]);
    run(["help", "nonsense"]).refusal(&["nonsense", "findap help"]);
    run(["help", "eval", "--json"]).refusal(&["recipe"]);
    for topic in ["recipe", "task"] {
        let schema = run(["help", topic, "--json"]).success().stdout;
        let schema: serde_json::Value = serde_json::from_str(&schema).expect("a JSON Schema");
        assert!(schema["properties"]["schema"].is_object() && schema["$schema"].is_string());
    }
}

#[test]
fn tasks_are_listed_within_80_columns_and_described_one_by_one() {
    let listed = run(["tasks"]).success().stdout;
    let table: Vec<&str> = listed.lines().filter(|line| line.starts_with('|')).collect();
    assert!(table.len() > 20 && table.iter().all(|line| line.chars().count() <= 80), "{listed}");
    assert!(listed.contains("finance_concept") && listed.contains("@finance.concept"), "{listed}");
    let few = run(["tasks", "@finance.concept"]).success().stdout;
    assert!(few.contains("finance_concept") && !few.contains("gsm8k"), "{few}");
    let one = run(["tasks", "gsm8k"]).success().stdout;
    for word in ["licence", "exact_match", "{question}", "--data"] {
        assert!(one.contains(word), "{word}: {one}");
    }
    run(["tasks", "gsm8"]).refusal(&["gsm8k"]);
}

#[test]
fn help_is_quick() {
    let start = std::time::Instant::now();
    for _ in 0..10 {
        run(["--help"]).success();
    }
    // The bound is loose, for busy machines: the promise is that nothing is loaded or probed before the arguments are read.
    assert!(start.elapsed().as_secs_f64() < 5.0, "{:?} for ten", start.elapsed());
}

#[test]
fn doctor_speaks_json() {
    let said = run(["doctor", "--json"]).success();
    let value: serde_json::Value = serde_json::from_str(&said.stdout).expect("one JSON object");
    assert!(value["cores"].as_u64().is_some_and(|cores| cores > 0));
    assert!(value["device"].as_str().is_some_and(|device| device == "cpu" || device.starts_with("cuda:")));
}

#[test]
fn a_missing_evaluation_is_named() {
    run(["compare", "no/such/before", "no/such/after"]).refusal(&["no/such/before"]);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    // `findap ... | head -0`: the reader is gone before the first line.
    let mut child = findap()
        .arg("doctor")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
