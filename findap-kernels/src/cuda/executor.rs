//! What can run a launch, a device through its driver or the emulator, and memory that is its own.

use std::ops::Range;

use super::error::CudaError;
use super::launch::Launch;
use super::product::Product;

/// Something that has memory and runs launches on it, in the order given.
pub trait Executor {
    /// What it is, for messages: a product name, or how the emulator is set.
    fn name(&self) -> String;

    /// The compute capability whose kernels it runs, major and minor.
    fn compute_capability(&self) -> (u32, u32);

    /// Memory of its own, aligned to 256 bytes. The contents are undefined.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`]; [`CudaError::Driver`].
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError>;

    /// Bytes that may still be allocated, where the executor can tell.
    fn free_bytes(&self) -> Option<usize> {
        None
    }

    /// Takes memory back after all launches so far.
    ///
    /// # Safety
    /// `address` comes from [`Executor::allocate`] of this executor and is not used again.
    unsafe fn release(&self, address: u64);

    /// Copies bytes to the executor.
    ///
    /// # Safety
    /// That many bytes at `address` belong to one allocation of this executor.
    /// # Errors
    /// [`CudaError::Driver`].
    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError>;

    /// Copies bytes from the executor, after all launches so far.
    ///
    /// # Safety
    /// As [`Executor::upload`].
    /// # Errors
    /// [`CudaError::Driver`], also for a launch before it that failed.
    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Page-locked memory of this process, all 0: copies from and to it run while the host does something else.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    fn allocate_pinned(&self, bytes: usize) -> Result<Pinned, CudaError>;

    /// Takes it back.
    ///
    /// # Safety
    /// It comes from [`Executor::allocate_pinned`] of this executor, and the copies queued with it are done.
    unsafe fn release_pinned(&self, pinned: Pinned);

    /// Queues a copy of those bytes of `from` to the executor.
    ///
    /// # Safety
    /// As [`Executor::upload`]; `from` is one of this executor's, and those bytes do not change before the copy is done: before a
    /// event queued behind it is waited for.
    /// # Errors
    /// [`CudaError::Driver`].
    unsafe fn upload_pinned(&self, address: u64, from: &Pinned, bytes: Range<usize>) -> Result<(), CudaError>;

    /// Queues a copy from the executor to those bytes of `to`.
    ///
    /// # Safety
    /// As [`Executor::upload_pinned`]; those bytes are not read before, either.
    /// # Errors
    /// [`CudaError::Driver`].
    unsafe fn download_pinned(&self, to: &Pinned, bytes: Range<usize>, address: u64) -> Result<(), CudaError>;

    /// A point behind everything queued so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    fn record_event(&self) -> Result<Event, CudaError>;

    /// Returns when everything before the event is done.
    ///
    /// # Errors
    /// [`CudaError::Driver`], also for a launch before it that failed.
    fn wait(&self, event: Event) -> Result<(), CudaError>;

    /// How often the host has had to wait for the executor so far, for whatever reason.
    fn waits(&self) -> u64;

    /// The dynamic shared memory that a block can have at most.
    fn max_shared_bytes(&self) -> u32;

    /// Runs the kernel, or queues it.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and every address among them belongs to this executor and has the numbers that
    /// the kernel reads and writes.
    /// # Errors
    /// [`CudaError::SharedMemory`]; [`CudaError::Report`] of the emulator; [`CudaError::Driver`], [`CudaError::Compile`] and their
    /// like of a device.
    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError>;

    /// Sets bytes to 0, after all launches so far.
    ///
    /// # Safety
    /// As [`Executor::upload`].
    /// # Errors
    /// [`CudaError::Driver`].
    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError>;

    /// Multiplies by a library that is faster than our own kernel; `None` where there is none.
    ///
    /// # Safety
    /// As [`Executor::launch`] of [`crate::matmul::cuda::launch`], which has found the arguments right.
    unsafe fn multiply(&self, _product: &Product) -> Option<Result<(), CudaError>> {
        None
    }
}

/// Page-locked memory of this process. It does not free itself: [`Executor::release_pinned`] does.
#[derive(Debug)]
pub struct Pinned {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: it owns its bytes as a box does, and hands out references by its own borrow.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// # Safety
    /// So many initialised bytes at `start` belong to nobody else until [`Executor::release_pinned`].
    pub(crate) unsafe fn new(start: *mut u8, bytes: usize) -> Self {
        Self { start, bytes }
    }

    /// How many bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes; none of them has a copy under way.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: the bytes are initialised and belong to this value.
        unsafe { std::slice::from_raw_parts(self.address(&range), range.len()) }
    }

    /// The bytes, to be written; none of them has a copy under way.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: as above, and it is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.address(&range), range.len()) }
    }

    /// The address of those bytes.
    ///
    /// # Panics
    /// If they reach past the end.
    pub(crate) fn address(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.bytes, "invariant: a copy stays inside of its memory");
        self.start.wrapping_add(range.start)
    }
}

/// A point in the queue of an executor.
#[derive(Debug)]
#[must_use = "an event is for being waited for"]
pub struct Event(pub(crate) u64);

/// Memory of an executor that frees itself.
pub struct Buffer<'e> {
    executor: &'e dyn Executor,
    address: u64,
    bytes: usize,
}

impl<'e> Buffer<'e> {
    /// Undefined contents.
    ///
    /// # Errors
    /// As [`Executor::allocate`].
    pub fn new(executor: &'e dyn Executor, bytes: usize) -> Result<Self, CudaError> {
        Ok(Self { executor, address: executor.allocate(bytes.max(1))?, bytes })
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// As [`Executor::allocate`] and [`Executor::upload`].
    pub fn holding(executor: &'e dyn Executor, bytes: &[u8]) -> Result<Self, CudaError> {
        let buffer = Self::new(executor, bytes.len())?;
        // SAFETY: the allocation has this many bytes.
        unsafe { executor.upload(buffer.address, bytes)? };
        Ok(buffer)
    }

    /// Where it lies.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// A copy of what it holds.
    ///
    /// # Errors
    /// As [`Executor::download`].
    pub fn to_vec(&self) -> Result<Vec<u8>, CudaError> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: the allocation has this many bytes.
        unsafe { self.executor.download(self.address, &mut bytes)? };
        Ok(bytes)
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: the address is that of the allocation, and this was its only owner.
        unsafe { self.executor.release(self.address) }
    }
}
