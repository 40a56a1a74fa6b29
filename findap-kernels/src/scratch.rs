//! Working memory of a thread: grows once, then every call reuses it.

use std::cell::RefCell;

use crate::aligned::Aligned;
use crate::dtype::Real;

/// Runs `body` with a buffer of `len` numbers whose contents are whatever an earlier call left.
#[inline(always)]
pub(crate) fn with_scratch<T: Real, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        static WORDS: RefCell<Aligned<u64>> = const { RefCell::new(Aligned::EMPTY) };
    }
    // Taken out while in use: a thread that waits inside `body` may run another task, which then gets a buffer of its own.
    let mut words = WORDS.replace(Aligned::EMPTY);
    let needed = words.at_least((len * size_of::<T>()).div_ceil(size_of::<u64>()));
    // SAFETY: the words hold at least `len` numbers; a line is aligned for f64, and every bit pattern is a valid number.
    let result = body(unsafe { std::slice::from_raw_parts_mut(needed.as_mut_ptr().cast::<T>(), len) });
    WORDS.with_borrow_mut(|kept| {
        if kept.len() < words.len() {
            *kept = words;
        }
    });
    result
}
