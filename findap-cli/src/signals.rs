//! SIGINT and SIGTERM. In a run the first asks for an orderly end and is answered at once, the second ends the process. In a
//! conversation SIGINT ends the reply that is being written.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Set by the first signal.
static STOP: AtomicBool = AtomicBool::new(false);

/// The [`Work`] at hand, as an index of [`ANSWERS`].
static WORK: AtomicUsize = AtomicUsize::new(Work::Preparing as usize);

/// Whether stderr shows a bar, which the answer must not be written into.
static HAS_BAR: AtomicBool = AtomicBool::new(false);

/// What is finished before a run stops.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Preparing,
    Step,
    Pairs,
    Exercises,
    Questions,
}

/// What the first signal is answered with, by [`Work`].
const ANSWERS: [&str; 5] = [
    "stopping as soon as the work at hand can be left; Ctrl-C again stops now\n",
    "finishing the step at hand and saving it; Ctrl-C again stops now\n",
    "finishing the pairs at hand; Ctrl-C again stops now\n",
    "finishing the exercises at hand; Ctrl-C again stops now\n",
    "finishing the questions at hand; Ctrl-C again stops now\n",
];

/// Installs the handlers of a run and returns the flag they set.
pub(crate) fn stop_flag() -> &'static AtomicBool {
    HAS_BAR.store(std::io::stderr().is_terminal(), Ordering::Relaxed);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        install(signal, on_stop);
    }
    &STOP
}

/// Lets a write beyond the limit of a file's size (`ulimit -f`) fail, so that the error names the file, instead of ending the process.
pub(crate) fn make_file_limits_errors() {
    // SAFETY: called before any thread is started; SIG_IGN is a valid disposition for SIGXFSZ.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Says what a signal would have to wait for.
pub(crate) fn set_work(work: Work) {
    WORK.store(work as usize, Ordering::Relaxed);
}

/// Installs the handler of a conversation and returns the flag that Ctrl-C sets; whoever reads it clears it. Pressed again before
/// that, it ends the process.
pub(crate) fn interrupt_flag() -> &'static AtomicBool {
    install(libc::SIGINT, on_interrupt);
    &STOP
}

fn install(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) {
    // SAFETY: both handlers touch atomics and call `signal`, `write` and `_exit`, which are safe in a signal handler.
    unsafe {
        libc::signal(signal, handler as libc::sighandler_t);
    }
}

extern "C" fn on_stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
    if HAS_BAR.load(Ordering::Relaxed) {
        write_error("\n");
    }
    write_error(ANSWERS[WORK.load(Ordering::Relaxed) % ANSWERS.len()]);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: SIG_DFL is a valid disposition; the next signal of either kind ends the process.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

extern "C" fn on_interrupt(_: libc::c_int) {
    if STOP.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` may be called in a signal handler.
        unsafe { libc::_exit(130) }
    }
}

/// Writes to stderr past Rust's lock, which the interrupted thread may hold.
fn write_error(text: &str) {
    // SAFETY: the pointer and the length are those of a static text. That nobody can read it is no reason to fail.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}
