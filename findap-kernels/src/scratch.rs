//! Working memory of a thread: grows once, then every call reuses it.

use std::cell::RefCell;

use crate::dtype::Real;

/// Bytes of a cache line: a buffer starts at one, so that no vector of it lies across two.
const LINE_BYTES: usize = 64;

/// Runs `body` with a buffer of `len` numbers whose contents are whatever an earlier call left.
#[inline(always)]
pub(crate) fn with_scratch<T: Real, R>(len: usize, body: impl FnOnce(&mut [T]) -> R) -> R {
    thread_local! {
        static WORDS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out while in use: a thread that waits inside `body` may run another task, which then gets a buffer of its own.
    let mut words = WORDS.take();
    let needed = (len * size_of::<T>() + LINE_BYTES).div_ceil(size_of::<u64>());
    if words.len() < needed {
        words.resize(needed, 0);
    }
    let start = words.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(LINE_BYTES).min(LINE_BYTES);
    // SAFETY: behind the skipped bytes, at most a line, the words hold at least `len` numbers; a line is aligned for f64, and
    // every bit pattern is a valid number.
    let result = body(unsafe { std::slice::from_raw_parts_mut(start.add(skipped).cast::<T>(), len) });
    WORDS.with_borrow_mut(|kept| {
        if kept.len() < words.len() {
            *kept = words;
        }
    });
    result
}
