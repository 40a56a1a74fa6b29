//! Starts the binary and checks what it printed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The golden models, inputs and numbers.
pub(crate) fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../findap-model/testdata/golden").join(path)
}

/// A command that starts the binary.
pub(crate) fn findap() -> Command {
    Command::new(env!("CARGO_BIN_EXE_findap"))
}

/// The output and exit code of a run of the binary.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the binary to its end.
pub(crate) fn run<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Said {
    findap().args(arguments).output().expect("the binary starts").into()
}

impl Said {
    /// The output of a run that must succeed.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts exit code 1, no panic, and that the message holds each of the words.
    #[track_caller]
    pub(crate) fn refusal(self, words: &[&str]) -> Self {
        let context = format!("stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(1), "{context}");
        assert!(!self.stderr.contains("panicked"), "{context}");
        for word in words {
            assert!(self.stderr.contains(word), "the message does not say {word:?}\n{context}");
        }
        self
    }
}
