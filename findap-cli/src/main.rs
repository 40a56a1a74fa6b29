//! The `findap` command.
fn main() {}
