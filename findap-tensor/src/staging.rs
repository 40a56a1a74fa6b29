//! Bytes on their way to a device: a ring of page-locked memory, from which copies run while the host goes on.

use std::collections::VecDeque;
use std::ops::Range;

use findap_kernels::cuda::{CudaError, Event, Executor, Pinned};

/// Bytes of the largest piece.
pub(crate) const PIECE_BYTES: usize = 2 << 20;
/// Bytes of the ring: room for tens of micro-batches of 8192 tokens, or for eight pieces of a weight file.
const RING_BYTES: usize = 8 * PIECE_BYTES;
/// The most pieces in the ring at once, which bounds the number of events.
const MAX_PIECES: usize = 256;
/// Pieces begin at a multiple of this.
const ALIGNED: usize = 256;

/// A ring of page-locked memory. Pieces go around it in order; a piece waits only for earlier pieces that still occupy its place.
#[derive(Debug, Default)]
pub(crate) struct Staging {
    /// The memory, allocated for the first piece.
    ring: Option<Pinned>,
    next: usize,
    under_way: VecDeque<(Range<usize>, Event)>,
}

impl Staging {
    /// Lets `fill` write `len` bytes and queues their copy to `address`, inside one allocation of the executor.
    ///
    /// # Panics
    /// For more than [`PIECE_BYTES`].
    pub(crate) fn upload<T>(
        &mut self,
        executor: &dyn Executor,
        address: u64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, CudaError> {
        assert!(len <= PIECE_BYTES, "invariant: a piece of {len} bytes is cut");
        let ring = match &mut self.ring {
            Some(ring) => ring,
            empty => empty.insert(executor.allocate_pinned(RING_BYTES)?),
        };
        let start = if self.next + len > RING_BYTES { 0 } else { self.next };
        let place = start..start + len;
        let is_in_the_way = |(other, _): &(Range<usize>, Event)| other.start < place.end && place.start < other.end;
        while self.under_way.len() >= MAX_PIECES || self.under_way.iter().any(is_in_the_way) {
            let (_, event) = self.under_way.pop_front().expect("invariant: the loop runs while there is one");
            executor.wait(event)?;
        }
        let filled = fill(ring.bytes_mut(place.clone()));
        // SAFETY: the caller's address; the piece is not written again before its event was waited for.
        unsafe { executor.upload_pinned(address, ring, place.clone())? };
        self.next = place.end.next_multiple_of(ALIGNED);
        self.under_way.push_back((place, executor.record_event()?));
        Ok(filled)
    }

    /// Waits for the copies and gives the memory back.
    pub(crate) fn release(&mut self, executor: &dyn Executor) {
        // Nothing can be done about failures here, which are those of earlier work.
        for (_, event) in self.under_way.drain(..) {
            let _ = executor.wait(event);
        }
        if let Some(ring) = self.ring.take() {
            // SAFETY: it comes from this executor, and its copies are done.
            unsafe { executor.release_pinned(ring) };
        }
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use findap_kernels::emulator::{Options, Queue};

    use super::*;

    /// The bytes of piece `number`.
    fn piece(number: usize, len: usize) -> Vec<u8> {
        (0..len).map(|i| (number * 31 + i * 7) as u8).collect()
    }

    #[test]
    fn pieces_arrive_whole_and_wait_only_when_the_ring_is_full() {
        let queue = Queue::new(Options::PLAIN);
        let mut staging = Staging::default();
        let lens = [PIECE_BYTES, 3, PIECE_BYTES - 77, 100_000, 1, PIECE_BYTES / 2 + 1];
        let pieces: Vec<Vec<u8>> = (0..40).map(|number| piece(number, lens[number % lens.len()])).collect();
        let mut addresses = Vec::new();
        let mut bytes_before_a_wait = 0;
        for bytes in &pieces {
            let address = queue.allocate(bytes.len()).unwrap();
            staging.upload(&queue, address, bytes.len(), |place| place.copy_from_slice(bytes)).unwrap();
            addresses.push(address);
            if queue.waits() == 0 {
                bytes_before_a_wait += bytes.len();
            }
        }
        assert!(bytes_before_a_wait > RING_BYTES / 2, "{bytes_before_a_wait}");
        assert!(queue.waits() > 0, "{} pieces go around more than once", pieces.len());
        for (bytes, address) in pieces.iter().zip(addresses) {
            let mut got = vec![0; bytes.len()];
            // SAFETY: the allocation has this many bytes, and is used no more.
            unsafe {
                queue.download(address, &mut got).unwrap();
                queue.release(address);
            }
            assert!(got == *bytes, "a piece of {} bytes", bytes.len());
        }
        for _ in 0..2 * MAX_PIECES {
            let address = queue.allocate(4).unwrap();
            staging.upload(&queue, address, 4, |place| place.fill(1)).unwrap();
            // SAFETY: used no more.
            unsafe { queue.release(address) };
        }
        assert!(staging.under_way.len() <= MAX_PIECES);
        staging.release(&queue);
    }
}
