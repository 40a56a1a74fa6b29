//! `cargo xtask test`: the checks in order, and the closing lines.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ExitCode, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One check.
struct Step {
    name: &'static str,
    work: Work,
}

/// The way in which a check is done.
enum Work {
    /// Runs cargo.
    Cargo(&'static [&'static str]),
    /// Runs cargo, and counts the results that test binaries print.
    Tests(&'static [&'static str]),
    /// Compiles the CUDA kernels for every architecture.
    Kernels,
    /// Builds the documentation and compares the public names of the crates with those agreed on.
    Api,
}

/// The checks, cheapest first. The crate edges are tests of the integration binary: they run before the long tests, and again with
/// them.
const STEPS: [Step; 9] = [
    Step { name: "format", work: Work::Cargo(&["fmt", "--all", "--", "--check"]) },
    Step { name: "clippy", work: Work::Cargo(&["clippy", WORKSPACE, "--all-targets", "--", "-D", "warnings"]) },
    // This is what a machine without a C++ compiler builds, and what the bundle's tests are.
    Step {
        name: "clippy without the emulator",
        work: Work::Cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    },
    // This is what a user has who wants only the CPU's kernels, or only packer and loader.
    Step {
        name: "without default features",
        work: Work::Cargo(&["check", "-p", "findap-kernels", "-p", "findap-data", "--no-default-features"]),
    },
    // Before the tests: it fetches the compiler that some of them use.
    Step { name: "kernels", work: Work::Kernels },
    // The time of the steps behind it is that of the tests alone.
    Step { name: "build of the tests", work: Work::Cargo(&["test", WORKSPACE, "--no-run"]) },
    // The whole workspace is named so that features are unified as in the next step and nothing is built twice.
    Step {
        name: "crate edges",
        work: Work::Cargo(&["test", WORKSPACE, "--test", "it", "--", "edges::", "tidy::", "circles::"]),
    },
    Step { name: "tests", work: Work::Tests(&["test", WORKSPACE, "--no-fail-fast", "--", "--show-output"]) },
    Step { name: "doc and public names", work: Work::Api },
];

/// Stands for the workspace with the emulator of CUDA kernels, where there is a C++ compiler to build it.
const WORKSPACE: &str = "WORKSPACE";

/// Runs every step until one fails, and prints the closing lines either way.
pub(crate) fn run_every_check() -> Result<ExitCode> {
    let mut closing = Closing::default();
    let mut all_passed = true;
    let workspace = super::workspace_with_emulator();
    if workspace.len() == 1 {
        println!("skipped: there is no C++ compiler (c++), so no CUDA kernel runs on the emulator");
    }
    for step in &STEPS {
        let start = Instant::now();
        let passed = match &step.work {
            Work::Cargo(arguments) => run_plain(&announced(step.name, arguments, workspace))?,
            Work::Tests(arguments) => run_tests(&announced(step.name, arguments, workspace), &mut closing)?,
            Work::Kernels => {
                println!("==> {}: cargo xtask kernels", step.name);
                has_succeeded(super::kernels::run(&super::kernels::Arguments::default()))
            }
            Work::Api => {
                println!("==> {}: cargo xtask api", step.name);
                has_succeeded(super::api::run(&super::api::Arguments::default()))
            }
        };
        closing.steps.push((step.name, start.elapsed(), passed));
        println!("==> {}: {} in {:.1} s", step.name, verdict(passed), start.elapsed().as_secs_f64());
        if !passed {
            all_passed = false;
            break;
        }
    }
    if !all_passed && closing.counts.failed == 0 {
        closing.counts.failed = 1; // the step itself: a check that did not pass must not read "0 failed"
    }
    print!("{closing}");
    Ok(if all_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a check succeeded; prints what went wrong if it did not.
fn has_succeeded(result: Result<ExitCode>) -> bool {
    result.inspect_err(|error| println!("{error:#}")).is_ok()
}

fn verdict(passed: bool) -> &'static str {
    if passed { "passed" } else { "FAILED" }
}

/// Prints the cargo command of a step, and returns its arguments.
fn announced(name: &str, arguments: &[&'static str], workspace: &[&'static str]) -> Vec<&'static str> {
    let expand = |argument: &&'static str| if *argument == WORKSPACE { workspace.to_vec() } else { vec![*argument] };
    let arguments: Vec<&str> = arguments.iter().flat_map(expand).collect();
    println!("==> {name}: cargo {}", arguments.join(" "));
    arguments
}

fn run_plain(arguments: &[&str]) -> Result<bool> {
    let status = super::cargo().args(arguments).env("RUSTDOCFLAGS", "-D warnings").status();
    Ok(status.context("cannot start cargo")?.success())
}

/// Runs `cargo test`, prints its lines, and gathers each binary's name, result line and skips.
fn run_tests(arguments: &[&str], closing: &mut Closing) -> Result<bool> {
    let mut child = super::cargo()
        .args(arguments)
        .envs(super::kernels::fetched_libraries().map(|folder| ("FINDAP_CUDA_LIB", folder)))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    // Names of binaries come on stderr and their results on stdout; one channel keeps them in the order of arrival.
    let (send, lines) = mpsc::channel();
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let stderr = child.stderr.take().context("cargo has no stderr")?;
    let readers = [forward_lines(stdout, send.clone()), forward_lines(stderr, send)];
    let mut reader = RunnerReader::default();
    for line in lines {
        if let Some(shown) = reader.take(&line, closing) {
            println!("{shown}");
        }
    }
    for handle in readers {
        handle.join().ok();
    }
    std::io::stdout().flush().ok();
    Ok(child.wait().context("cannot wait for cargo")?.success())
}

fn forward_lines(from: impl Read + Send + 'static, to: mpsc::Sender<String>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    })
}

/// Reads the lines of libtest. The output of passing tests is dropped, but for the lines that say what was skipped.
#[derive(Default)]
struct RunnerReader {
    in_successes: bool,
    skips_in_binary: usize,
    skip_counted_for_test: bool,
}

impl RunnerReader {
    /// Reads a line, and returns it if it is to be shown.
    fn take(&mut self, line: &str, closing: &mut Closing) -> Option<String> {
        let trimmed = line.trim();
        if trimmed.starts_with("Running ") || trimmed.starts_with("Doc-tests ") {
            closing.lines.push(trimmed.to_owned());
            return Some(line.to_owned());
        }
        if let Some(result) = trimmed.strip_prefix("test result: ") {
            let mut counts = Counts::of_result(result);
            // A test that found its data or device missing says so and returns: it counts as skipped.
            let skips = self.skips_in_binary.min(counts.passed);
            counts.passed -= skips;
            counts.skipped += skips;
            closing.counts.add(&counts);
            closing.lines.push(format!("  {trimmed}"));
            *self = Self::default();
            return Some(line.to_owned());
        }
        // The summary of the CUDA kernels' cases, which is printed when their binary ends.
        if trimmed.starts_with("kernel ") && !self.in_successes {
            closing.lines.push(format!("  {trimmed}"));
        }
        match trimmed {
            "successes:" => {
                self.in_successes = true;
                return None;
            }
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if !self.in_successes {
            return Some(line.to_owned());
        }
        if trimmed.starts_with("---- ") {
            self.skip_counted_for_test = false;
        } else if trimmed.to_ascii_lowercase().starts_with("skip") {
            if !self.skip_counted_for_test {
                self.skips_in_binary += 1;
                self.skip_counted_for_test = true;
            }
            return Some(format!("  {trimmed}"));
        }
        None
    }
}

#[derive(Default, Debug, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Counts {
    /// Reads `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`.
    fn of_result(result: &str) -> Self {
        let number = |what: &str| {
            let words: Vec<&str> = result.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            words.windows(2).find(|pair| pair[1] == what).and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
        };
        Self { passed: number("passed"), failed: number("failed"), skipped: number("ignored") }
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The closing lines: those of the test runners, the steps with their times, the sum.
#[derive(Default)]
struct Closing {
    lines: Vec<String>,
    steps: Vec<(&'static str, Duration, bool)>,
    counts: Counts,
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        writeln!(f)?;
        for (name, time, passed) in &self.steps {
            writeln!(f, "{name:<12} {:>8.1} s  {}", time.as_secs_f64(), verdict(*passed))?;
        }
        for step in STEPS.iter().skip(self.steps.len()) {
            writeln!(f, "{:<12} {:>10}  not run", step.name, "")?;
        }
        let Counts { passed, failed, skipped } = &self.counts;
        writeln!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_read() {
        let counts =
            Counts::of_result("FAILED. 5 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s");
        assert_eq!(counts, Counts { passed: 5, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_test_that_skips_counts_as_skipped_and_not_as_passed() {
        let mut closing = Closing::default();
        let mut reader = RunnerReader::default();
        let lines = [
            "     Running unittests src/lib.rs (target/debug/deps/x-1)",
            "running 2 tests",
            "test a ... ok",
            "",
            "successes:",
            "",
            "---- a stdout ----",
            "skipped: FINDAP_REAL_DATA is not set",
            "skipped: a second line of the same test",
            "noise of a passing test",
            "",
            "successes:",
            "    a",
            "    b",
            "",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ];
        let shown: Vec<String> = lines.iter().filter_map(|line| reader.take(line, &mut closing)).collect();
        assert_eq!(closing.counts, Counts { passed: 1, failed: 0, skipped: 1 });
        assert!(shown.iter().any(|line| line.contains("FINDAP_REAL_DATA")));
        assert!(!shown.iter().any(|line| line.contains("noise")));
        assert_eq!(closing.lines.len(), 2);
    }

    #[test]
    fn the_last_line_is_the_sum_alone() {
        let closing = Closing { counts: Counts { passed: 3, failed: 0, skipped: 1 }, ..Closing::default() };
        assert_eq!(closing.to_string().lines().last(), Some("3 passed, 0 failed, 1 skipped"));
    }
}
