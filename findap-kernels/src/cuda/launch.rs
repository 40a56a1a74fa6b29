//! One run of one kernel as a value, and what can run it: a device through its driver, or the emulator.

use std::ffi::c_void;
use std::ops::Range;

use super::error::CudaError;
use super::source::Source;
use crate::matmul::cuda::Product;

/// One run of one kernel. A family's `cuda.rs` makes it from checked arguments; an [`Executor`] runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The source that has the kernel.
    pub source: &'static Source,
    /// The entry point.
    pub kernel: &'static str,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// One for each parameter of the kernel, in its order and of its type.
    pub args: Vec<Arg>,
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer: an address of the executor that runs the launch, or 0.
    Address(u64),
    /// `u32`.
    U32(u32),
    /// `i32` or `int`.
    I32(i32),
    /// `u64`.
    U64(u64),
    /// `i64`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// `const __grid_constant__ TensorMap`.
    TensorMap(TensorMap),
}

/// What a tensor copy of Hopper needs to know of a tensor: where it lies and which boxes are copied from it.
///
/// Dimensions go from the innermost outwards. Sizes that the hardware refuses are refused when the launch is run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorMap {
    /// Of the first number; a multiple of 16.
    pub address: u64,
    /// Bytes of a number: 2 for bf16, 4 for f32.
    pub element_bytes: u32,
    /// How many dimensions count, 1 to 5.
    pub rank: u32,
    /// Numbers along each dimension.
    pub dims: [u64; 5],
    /// Bytes from one number to the next along each dimension but the innermost; multiples of 16.
    pub strides: [u64; 4],
    /// Numbers of a box along each dimension, at most 256.
    pub box_dims: [u32; 5],
    /// How the 16-byte chunks of a box are placed in shared memory.
    pub swizzle: Swizzle,
}

/// Which bits of a shared address are exchanged, so that columns of a box fall on different banks. The numbers are those of
/// the descriptors of wgmma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Swizzle {
    /// None.
    None = 0,
    /// Within 128 bytes.
    Bytes128 = 1,
    /// Within 64 bytes.
    Bytes64 = 2,
    /// Within 32 bytes.
    Bytes32 = 3,
}

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

impl Launch {
    /// Refuses what a block cannot have.
    ///
    /// # Errors
    /// [`CudaError::SharedMemory`].
    pub(crate) fn check_shared(&self, limit_bytes: u32) -> Result<(), CudaError> {
        if self.shared_bytes <= limit_bytes {
            return Ok(());
        }
        Err(CudaError::SharedMemory { kernel: self.kernel, want_bytes: self.shared_bytes, limit_bytes })
    }
}

/// Pointers to each argument, as `cuLaunchKernel` takes them; tensor maps are those that the executor has `encoded`, in order.
pub(crate) fn pointers<T>(args: &[Arg], encoded: &[T]) -> Vec<*mut c_void> {
    let mut encoded = encoded.iter();
    let pointer = |arg: &Arg| match arg {
        Arg::Address(x) | Arg::U64(x) => std::ptr::from_ref(x).cast(),
        Arg::U32(x) => std::ptr::from_ref(x).cast(),
        Arg::I32(x) => std::ptr::from_ref(x).cast(),
        Arg::I64(x) => std::ptr::from_ref(x).cast(),
        Arg::F32(x) => std::ptr::from_ref(x).cast(),
        Arg::F64(x) => std::ptr::from_ref(x).cast(),
        Arg::TensorMap(_) => std::ptr::from_ref(encoded.next().expect("invariant: every map is encoded")).cast(),
    };
    args.iter().map(pointer).map(|pointer: *const c_void| pointer.cast_mut()).collect()
}

/// The tensor maps among the arguments.
pub(crate) fn tensor_maps(args: &[Arg]) -> impl Iterator<Item = &TensorMap> {
    args.iter().filter_map(|arg| match arg {
        Arg::TensorMap(map) => Some(map),
        _ => None,
    })
}

impl TensorMap {
    /// The rules of `cuTensorMapEncodeTiled`, which says only that some value is invalid.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let rank = self.rank as usize;
        let span_bytes = match self.swizzle {
            Swizzle::None => u32::MAX,
            Swizzle::Bytes128 => 128,
            Swizzle::Bytes64 => 64,
            Swizzle::Bytes32 => 32,
        };
        let claim = |holds: bool, else_say| if holds { Ok(()) } else { Err(else_say) };
        claim((1..=5).contains(&rank), "the rank is not in 1..=5")?;
        claim(self.address.is_multiple_of(16), "the address is not a multiple of 16")?;
        let strides = self.strides[..rank - 1].iter().all(|s| s.is_multiple_of(16) && *s < 1 << 40);
        claim(strides, "a stride is not a multiple of 16 below 2^40")?;
        claim(self.dims[..rank].iter().all(|d| (1..=1 << 32).contains(d)), "a dimension is not in 1..=2^32")?;
        claim(self.box_dims[..rank].iter().all(|b| (1..=256).contains(b)), "a side of the box is not in 1..=256")?;
        let row_bytes = self.box_dims[0] * self.element_bytes;
        claim(row_bytes.is_multiple_of(16), "the innermost side of the box is not a multiple of 16 bytes")?;
        claim(row_bytes <= span_bytes, "the innermost side of the box is wider than the swizzle")
    }
}
