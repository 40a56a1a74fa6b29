//! Calls into the tokenizers library, which panics on several crafted files instead of returning an error.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use crate::error::TokenizerProblem;

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Turns a panic of `work` into an error, and keeps it from the terminal: the error says what is to be said.
pub(super) fn guard<T>(action: &'static str, work: impl FnOnce() -> T) -> Result<T, TokenizerProblem> {
    silence_guarded_panics();
    let was_guarded = IS_GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    // What the panic said is about the library's inside; which file and action is in the error.
    result.map_err(|_| TokenizerProblem::LibraryPanic { action })
}

/// The hook of panics belongs to the process: ours is put before the one that is there, once, and passes on all other panics.
fn silence_guarded_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                previous(panic);
            }
        }));
    });
}
