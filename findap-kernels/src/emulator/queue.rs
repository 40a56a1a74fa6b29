//! A device with a stream, as late as one may be: work is queued, and runs when the host waits for it.
//!
//! So what the host reads too early is old, what it overwrites too early is wrong, and every wait is counted.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Emulator, MAX_SHARED_BYTES, Options};
use crate::cuda::CudaError;
use crate::cuda::executor::{Event, Executor, Pinned};
use crate::cuda::launch::Launch;

/// An executor on the CPU that puts everything off.
#[derive(Debug)]
pub struct Queue {
    emulator: Emulator,
    max_shared_bytes: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    work: VecDeque<Work>,
    /// Pieces of work that have been done.
    done: u64,
    waits: u64,
    /// The error of the first piece that failed; nothing runs behind it.
    failure: Option<CudaError>,
}

#[derive(Debug)]
enum Work {
    Launch(Launch),
    /// Copies of bytes that the driver has taken.
    Upload(u64, Vec<u8>),
    /// Copies from bytes that the host has promised to leave alone, by their place.
    UploadPinned(u64, Range<usize>),
    DownloadPinned(Range<usize>, u64),
    Clear(u64, usize),
}

impl Queue {
    /// Runs launches as `options` say, with the shared memory of a Hopper device.
    pub fn new(options: Options) -> Self {
        Self { emulator: Emulator { options }, max_shared_bytes: MAX_SHARED_BYTES, state: Mutex::default() }
    }

    /// This queue on a device that has `max_shared_bytes` of shared memory for a block.
    pub fn with_shared_bytes(self, max_shared_bytes: u32) -> Self {
        Self { max_shared_bytes, ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, work: Work) -> Result<(), CudaError> {
        self.state().work.push_back(work);
        Ok(())
    }

    /// Does the work before `end`; counts as a wait if there was any.
    fn run(&self, end: Option<u64>) -> Result<(), CudaError> {
        let mut state = self.state();
        let end = end.unwrap_or(state.done + state.work.len() as u64);
        state.waits += u64::from(state.done < end);
        while state.done < end {
            let Some(work) = state.work.pop_front() else { break };
            state.done += 1;
            if state.failure.is_none() {
                state.failure = self.work(work).err();
            }
        }
        state.failure.clone().map_or(Ok(()), Err)
    }

    fn work(&self, work: Work) -> Result<(), CudaError> {
        let bytes = |range: Range<usize>| (range.start as *mut u8, range.len());
        // SAFETY: whoever queued the work has promised what the emulator asks for, until the work is done.
        unsafe {
            match work {
                Work::Launch(launch) => self.emulator.launch(&launch),
                Work::Upload(address, bytes) => self.emulator.upload(address, &bytes),
                Work::UploadPinned(address, range) => {
                    let (start, len) = bytes(range);
                    self.emulator.upload(address, std::slice::from_raw_parts(start, len))
                }
                Work::DownloadPinned(range, address) => {
                    let (start, len) = bytes(range);
                    self.emulator.download(address, std::slice::from_raw_parts_mut(start, len))
                }
                Work::Clear(address, bytes) => self.emulator.clear(address, bytes),
            }
        }
    }
}

impl Executor for Queue {
    fn name(&self) -> String {
        self.emulator.name()
    }

    fn compute_capability(&self) -> (u32, u32) {
        // what has less shared memory than Hopper does not run its kernels
        if self.max_shared_bytes < MAX_SHARED_BYTES { (8, 6) } else { self.emulator.compute_capability() }
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.emulator.allocate(bytes)
    }

    unsafe fn release(&self, address: u64) {
        // Nothing can be done about failures here, which are those of earlier launches.
        let _ = self.run(None);
        // SAFETY: the same contract.
        unsafe { self.emulator.release(address) }
    }

    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.push(Work::Upload(address, bytes.to_vec()))
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.run(None)?;
        // SAFETY: the same contract.
        unsafe { self.emulator.download(address, bytes) }
    }

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.push(Work::Clear(address, bytes))
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        self.emulator.allocate_pinned(bytes)
    }

    unsafe fn release_pinned(&self, pinned: Pinned) {
        // SAFETY: the same contract.
        unsafe { self.emulator.release_pinned(pinned) }
    }

    unsafe fn upload_pinned(&self, address: u64, from: &Pinned, bytes: Range<usize>) -> Result<(), CudaError> {
        self.push(Work::UploadPinned(address, places(from, &bytes)))
    }

    unsafe fn download_pinned(&self, to: &Pinned, bytes: Range<usize>, address: u64) -> Result<(), CudaError> {
        self.push(Work::DownloadPinned(places(to, &bytes), address))
    }

    fn record_event(&self) -> Result<Event, CudaError> {
        let state = self.state();
        Ok(Event(state.done + state.work.len() as u64))
    }

    fn wait(&self, event: Event) -> Result<(), CudaError> {
        self.run(Some(event.0))
    }

    fn waits(&self) -> u64 {
        self.state().waits
    }

    fn max_shared_bytes(&self) -> u32 {
        self.max_shared_bytes
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        launch.check_shared(self.max_shared_bytes)?;
        self.push(Work::Launch(launch.clone()))
    }
}

/// Bytes of page-locked memory by their addresses.
fn places(pinned: &Pinned, bytes: &Range<usize>) -> Range<usize> {
    let start = pinned.address(bytes) as usize;
    start..start + bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::{Needs, Operand, Source};
    use crate::dtype::Dtype;
    use crate::reduce::cuda::add;

    static NONE: Source = Source { file: "none", text: "", needs: Needs::Ampere };

    fn f32s(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    #[test]
    fn work_is_done_in_order_when_it_is_waited_for() {
        let queue = Queue::new(Options::PLAIN);
        let mut pinned = queue.allocate_pinned(64).unwrap();
        let address = queue.allocate(32).unwrap();
        let operand = |offset| Operand { address: address + offset, len: 4, dtype: Dtype::F32 };
        let launch = add(&operand(0), &operand(16)).unwrap();
        // SAFETY: every copy stays inside of both allocations, and the kernel's operands are the halves of one.
        unsafe {
            pinned
                .bytes_mut(0..32)
                .copy_from_slice(&[1.0f32, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0].map(f32::to_ne_bytes).concat());
            queue.upload_pinned(address, &pinned, 0..32).unwrap();
            queue.launch(&launch).unwrap();
            queue.download_pinned(&pinned, 32..48, address).unwrap();
            let event = queue.record_event().unwrap();
            queue.launch(&launch).unwrap();
            assert_eq!((f32s(pinned.bytes(32..48)), queue.waits()), (vec![0.0; 4], 0), "nothing has run");
            queue.wait(event).unwrap();
            assert_eq!((f32s(pinned.bytes(32..48)), queue.waits()), (vec![11.0, 22.0, 33.0, 44.0], 1));
            let again = queue.record_event().unwrap();
            let mut bytes = [0; 16];
            queue.download(address, &mut bytes).unwrap();
            assert_eq!((f32s(&bytes), queue.waits()), (vec![21.0, 42.0, 63.0, 84.0], 2));
            queue.wait(again).unwrap();
            assert_eq!(queue.waits(), 2, "it was done");
            // what the host overwrites too early is wrong
            queue.upload_pinned(address, &pinned, 0..32).unwrap();
            pinned.bytes_mut(0..32).fill(0);
            queue.download(address, &mut bytes).unwrap();
            assert_eq!(f32s(&bytes), [0.0; 4]);
            queue.release(address);
            queue.release_pinned(pinned);
        }
    }

    #[test]
    fn a_failure_shows_at_the_next_wait_and_at_every_one_after() {
        let queue = Queue::new(Options::PLAIN);
        let launch =
            Launch { source: &NONE, kernel: "none", grid: [1; 3], block: [1; 3], shared_bytes: 0, args: Vec::new() };
        // SAFETY: there is no such kernel.
        unsafe { queue.launch(&launch).unwrap() };
        for _ in 0..2 {
            let event = queue.record_event().unwrap();
            assert!(matches!(queue.wait(event), Err(CudaError::Report { kernel: "none", .. })));
        }
    }

    #[test]
    fn a_block_that_needs_too_much_shared_memory_is_refused() {
        let queue = Queue::new(Options::PLAIN).with_shared_bytes(99 * 1024);
        let launch = |shared_bytes| Launch {
            source: &NONE,
            kernel: "none",
            grid: [1; 3],
            block: [1; 3],
            shared_bytes,
            args: Vec::new(),
        };
        // SAFETY: there is no such kernel.
        let error = unsafe { queue.launch(&launch(99 * 1024 + 1)) }.unwrap_err();
        let want = CudaError::SharedMemory { kernel: "none", want_bytes: 99 * 1024 + 1, limit_bytes: 99 * 1024 };
        assert_eq!(error, want);
        assert!(
            error.to_string().contains("101377 bytes of shared memory") && error.to_string().contains("use a model")
        );
        // SAFETY: as above.
        unsafe { queue.launch(&launch(99 * 1024)).unwrap() };
    }
}
