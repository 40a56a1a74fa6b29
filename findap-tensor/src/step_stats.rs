//! Loss and gradient norm of a step, accumulated on the device that computes them.
//!
//! The optimizer reads them there, to clip the gradients and to leave everything alone where they are not finite. The host reads
//! them when the step is queued, or one step later; it waits for nothing else.

use std::collections::VecDeque;

use findap_kernels::cuda::{Event, Operand, Pinned};
use findap_kernels::preference::PreferenceStats;
use findap_kernels::reduce::{self, cuda};
use findap_kernels::{Dtype, Write};

use crate::device::{Cuda, Device, Memory};
use crate::error::TensorError;
use crate::tensor::Tensor;

/// The sums of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// The loss.
    pub loss: f64,
    /// The terms of a loss that compares answers; 0 for other losses.
    pub terms: PreferenceStats,
    /// The sum of squares of all gradients; finite only if every one is.
    pub squares: f64,
}

impl Sums {
    /// The norm of all gradients together.
    pub fn norm(&self) -> f64 {
        self.squares.sqrt()
    }

    /// Whether loss and gradients are finite, so that the step may be made.
    pub fn are_finite(&self) -> bool {
        self.loss.is_finite() && self.squares.is_finite()
    }
}

/// The sums of the current step, and of closed steps that are not read yet: two at most.
#[derive(Debug)]
pub struct StepStats {
    /// The sums of the current step, for statistics on the host.
    open: Sums,
    closed: VecDeque<Closed>,
    placed: Option<Placed>,
}

#[derive(Debug)]
enum Closed {
    Known(Sums),
    /// A copy on its way to this place of the pinned memory; it is there after the event.
    UnderWay(usize, Event),
}

#[derive(Debug)]
struct Placed {
    /// Loss, terms and sum of squares in f64, and a `u32` that is not 0 once a step was skipped.
    memory: Memory,
    /// Loss, terms and sums of squares of two steps.
    pinned: Option<Pinned>,
    next: usize,
}

const MAX_CLOSED: usize = 2;
const SUMS_BYTES: usize = 8 * (2 + PreferenceStats::LEN);

impl StepStats {
    /// Makes statistics for steps on `device`.
    ///
    /// # Errors
    /// [`TensorError::OutOfMemory`], [`TensorError::Cuda`].
    pub fn new(device: &Device) -> Result<StepStats, TensorError> {
        let placed = match device {
            Device::Cpu => None,
            Device::Cuda(cuda) => {
                let mut memory = cuda.allocate("the sums of a step", SUMS_BYTES + 4)?;
                memory.clear()?;
                let pinned = Some(cuda.executor().allocate_pinned(MAX_CLOSED * SUMS_BYTES)?);
                Some(Placed { memory, pinned, next: 0 })
            }
        };
        Ok(StepStats { open: Sums::default(), closed: VecDeque::with_capacity(MAX_CLOSED), placed })
    }

    /// Begins a step: its sums are 0.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    pub fn begin(&mut self) -> Result<(), TensorError> {
        self.open = Sums::default();
        self.placed.as_mut().map_or(Ok(()), |placed| placed.memory.clear_part(0, SUMS_BYTES))
    }

    /// Sets the loss of the step.
    #[cfg(test)]
    fn set_loss(&mut self, loss: f64) -> Result<(), TensorError> {
        self.open.loss = loss;
        self.placed.as_mut().map_or(Ok(()), |placed| placed.memory.write(0, &loss.to_ne_bytes()))
    }

    /// Adds a part of the loss and of its terms, for statistics on the host.
    pub(crate) fn add(&mut self, loss: f64, terms: &PreferenceStats) {
        self.open.loss += loss;
        self.open.terms.add(terms);
    }

    /// Adds the squares of all numbers of `gradients`.
    ///
    /// # Errors
    /// [`TensorError::OtherDevice`], [`TensorError::Cuda`].
    pub fn add_squares(&mut self, gradients: &Tensor) -> Result<(), TensorError> {
        let view = gradients.all();
        let Some(device) = view.cuda() else {
            self.open.squares += reduce::sum_squares(view.host()?);
            return Ok(());
        };
        let total = self.on(device)?.squares();
        let x = view.on(device)?;
        device.with_scratch(8 * cuda::SUM_SQUARES_SCRATCH_LEN, |address| {
            let scratch = Operand { address, len: cuda::SUM_SQUARES_SCRATCH_LEN, dtype: Dtype::F64 };
            device.run(&cuda::sum_squares(&total, Write::Accumulate, &x, &scratch)?)
        })
    }

    /// Ends the step: [`StepStats::read`] returns its sums after those of the step before. Waits for nothing.
    ///
    /// # Errors
    /// [`TensorError::Cuda`].
    ///
    /// # Panics
    /// If two closed steps have not been read.
    pub fn close(&mut self) -> Result<(), TensorError> {
        assert!(self.closed.len() < MAX_CLOSED, "invariant: a step is read before the next but one is closed");
        let closed = match &mut self.placed {
            None => Closed::Known(self.open),
            Some(Placed { memory, pinned, next }) => {
                let (place, executor) = (*next * SUMS_BYTES, memory.cuda().executor());
                *next = (*next + 1) % MAX_CLOSED;
                let pinned = pinned.as_ref().expect("invariant: there until the drop");
                // SAFETY: the sums are the first bytes of the allocation; nobody looks at the place before its event.
                unsafe { executor.download_pinned(pinned, place..place + SUMS_BYTES, memory.address())? };
                Closed::UnderWay(place, executor.record_event()?)
            }
        };
        self.closed.push_back(closed);
        Ok(())
    }

    /// Reads the sums of the oldest closed step that was not read yet. Waits for that step.
    ///
    /// # Errors
    /// [`TensorError::Cuda`], also for an earlier op that failed on the device.
    ///
    /// # Panics
    /// If there is none.
    pub fn read(&mut self) -> Result<Sums, TensorError> {
        match self.closed.pop_front().expect("invariant: a step is closed before it is read") {
            Closed::Known(sums) => Ok(sums),
            Closed::UnderWay(place, event) => {
                let placed = self.placed.as_ref().expect("invariant: a copy is under way from somewhere");
                placed.memory.cuda().executor().wait(event)?;
                let pinned = placed.pinned.as_ref().expect("invariant: there until the drop");
                let number = |at: usize| {
                    let bytes = pinned.bytes(place + at..place + at + 8);
                    f64::from_ne_bytes(bytes.try_into().expect("invariant: eight bytes"))
                };
                let terms = std::array::from_fn(|i| number(8 * (i + 1)));
                Ok(Sums { loss: number(0), terms: PreferenceStats::from_array(terms), squares: number(SUMS_BYTES - 8) })
            }
        }
    }

    /// The sums of the current step so far, for statistics on the host.
    pub(crate) fn open(&self) -> Sums {
        self.open
    }

    /// The addresses of the sums, for an op on `cuda`.
    pub(crate) fn on(&self, cuda: &Cuda) -> Result<Addresses, TensorError> {
        let placed = self.placed.as_ref().filter(|placed| placed.memory.cuda().is(cuda));
        placed.map(|placed| Addresses(placed.memory.address())).ok_or_else(|| cuda.is_missing())
    }
}

impl Drop for StepStats {
    fn drop(&mut self) {
        let Some(Placed { memory, pinned, .. }) = &mut self.placed else { return };
        let executor = memory.cuda().executor();
        for closed in self.closed.drain(..) {
            if let Closed::UnderWay(_, event) = closed {
                // Nothing can be done about a failure, which is that of earlier work.
                let _ = executor.wait(event);
            }
        }
        if let Some(pinned) = pinned.take() {
            // SAFETY: it comes from this executor, and its copies are done.
            unsafe { executor.release_pinned(pinned) };
        }
    }
}

/// The addresses of the sums in the memory of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses(u64);

impl Addresses {
    pub(crate) fn loss(self) -> Operand {
        Operand { address: self.0, len: 1, dtype: Dtype::F64 }
    }

    pub(crate) fn terms(self) -> Operand {
        Operand { address: self.0 + 8, len: PreferenceStats::LEN, dtype: Dtype::F64 }
    }

    pub(crate) fn squares(self) -> Operand {
        Operand { address: self.0 + SUMS_BYTES as u64 - 8, ..self.loss() }
    }

    /// The address of the `u32` that says that a step was skipped.
    pub(crate) fn skipped(self) -> u64 {
        self.0 + SUMS_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Vec<Device> {
        #[cfg(feature = "emulator")]
        let emulated = [Device::emulated(findap_kernels::emulator::Options::PLAIN)];
        #[cfg(not(feature = "emulator"))]
        let emulated = [];
        [Device::Cpu].into_iter().chain(emulated).chain(Device::gpu(0)).collect()
    }

    #[test]
    fn each_step_is_read_once_in_order_with_one_wait() {
        for device in devices() {
            let mut stats = StepStats::new(&device).unwrap();
            let mut gradients = Tensor::zeros_on(&device, "a test", Dtype::F32, 1, 8).unwrap();
            let mut step = |stats: &mut StepStats, loss: f64, gradient: f32| {
                gradients.write(2, (&[gradient][..]).into()).unwrap();
                stats.begin().unwrap();
                stats.set_loss(loss).unwrap();
                stats.add_squares(&gradients).unwrap();
                stats.close().unwrap();
            };
            step(&mut stats, 1.5, 3.0);
            step(&mut stats, f64::NAN, 4.0);
            let first = stats.read().unwrap();
            assert_eq!(
                (first, first.norm(), first.are_finite()),
                (Sums { loss: 1.5, terms: PreferenceStats::default(), squares: 9.0 }, 3.0, true)
            );
            step(&mut stats, 2.5, f32::INFINITY);
            let before = device.waits();
            let second = stats.read().unwrap();
            assert!(second.loss.is_nan() && second.squares == 16.0 && !second.are_finite());
            let third = stats.read().unwrap();
            assert!(third.loss == 2.5 && !third.are_finite());
            assert!(device.waits() <= before + 2, "one wait for each at most");
            step(&mut stats, 0.5, 1.0); // not read: the statistics wait for it when they are dropped
        }
    }
}
