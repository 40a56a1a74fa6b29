//! Lets the program say from which commit it was built.

use std::process::Command;

fn main() {
    // Written at every commit and checkout; missing where the sources are no clone.
    println!("cargo::rerun-if-changed=../.git/logs/HEAD");
    let described = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let commit = described.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=FINDAP_COMMIT={}", commit.as_deref().map_or("unknown", str::trim));
}
