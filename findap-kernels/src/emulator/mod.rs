//! Runs CUDA kernels on the CPU: the very source that a device gets, compiled by the C++ compiler behind other headers.
//!
//! Every CUDA thread is a fiber; a launch runs on the calling thread, one block after the other, and is deterministic. What a
//! device leaves undefined is made visible: memory starts as NaN, every access is checked for bounds and races, asynchronous
//! copies and products happen as early or as late as the rules allow, and threads run in the order asked for. A kernel that is
//! right under all of [`Options::ALL`] does not depend on luck; how fast it is shows only on a device.
//!
//! Not modelled: clusters, grid-wide waits, the order of memory operations between blocks other than by atomics, and the exact
//! rounding of tensor cores.

use std::ffi::{CString, c_char, c_void};
use std::ops::Range;

use crate::cuda::arg::{Arg, TensorMap, pointers, tensor_maps};
use crate::cuda::executor::{Event, Executor, Pinned};
use crate::cuda::launch::Launch;
use crate::cuda::{CudaError, Swizzle};

#[cfg(test)]
mod hopper_tests;
mod queue;
#[cfg(test)]
mod tests;

pub use queue::Queue;

/// In which order threads and blocks run, each until it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// By number.
    Forward,
    /// Last first.
    Reverse,
    /// Shuffled anew in each pass, by the seed.
    Random,
}

/// When asynchronous work happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Completion {
    /// When it is issued: shows what overwrites too early.
    Early,
    /// When something waits for it and nothing else can run: shows what does not wait, or too weakly.
    Late,
}

/// How launches are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Options {
    /// The order of threads and blocks.
    pub order: Order,
    /// When asynchronous copies are done.
    pub copies: Completion,
    /// When products of a warpgroup are done.
    pub products: Completion,
    /// 1 leaves broken rules of the Hopper units unreported, so that only wrong data or a deadlock shows them.
    pub breaks_rules: u32,
    /// The seed of the random order.
    pub seed: u64,
}

impl Options {
    /// Every copy lands at once; threads run by number. The fastest, and the one to debug with.
    pub const PLAIN: Options = Options {
        order: Order::Forward,
        copies: Completion::Early,
        products: Completion::Early,
        breaks_rules: 0,
        seed: 1,
    };

    /// What every case is run under: each kind of mistake shows in at least one of them.
    pub const ALL: [Options; 4] = [
        Options::PLAIN,
        Options {
            order: Order::Reverse,
            copies: Completion::Late,
            products: Completion::Late,
            breaks_rules: 0,
            seed: 2,
        },
        Options {
            order: Order::Random,
            copies: Completion::Late,
            products: Completion::Late,
            breaks_rules: 0,
            seed: 3,
        },
        Options {
            order: Order::Random,
            copies: Completion::Early,
            products: Completion::Late,
            breaks_rules: 0,
            seed: 4,
        },
    ];
}

/// What a launch has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// From one thread to another.
    pub switches: u64,
    /// `__syncthreads` of whole blocks.
    pub barriers: u64,
    /// mma of a warp.
    pub matrix_products: u64,
    /// ldmatrix of a warp.
    pub matrix_loads: u64,
    /// Rows of ldmatrix that wait for another on the same banks.
    pub bank_conflicts: u64,
    /// Tensor copies and bulk copies.
    pub tensor_copies: u64,
    /// wgmma of a warpgroup.
    pub wide_products: u64,
}

/// What a block of Hopper can have.
pub const MAX_SHARED_BYTES: u32 = 227 * 1024;

/// An executor on the CPU that does everything at once. [`Queue`] puts it off, as a device does.
#[derive(Clone, Copy, Debug)]
pub struct Emulator {
    /// How it runs launches.
    pub options: Options,
}

/// A launch as the emulator takes it.
#[repr(C)]
struct Request {
    name: *const c_char,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    num_arguments: u32,
    arguments: *mut *mut c_void,
    kinds: *const Kind,
}

/// What an argument is; the kernel's parameters are held against it.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Pointer,
    Integer4,
    Integer8,
    Float4,
    Float8,
    TensorMap,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        match arg {
            Arg::Address(_) => Kind::Pointer,
            Arg::U32(_) | Arg::I32(_) => Kind::Integer4,
            Arg::U64(_) | Arg::I64(_) => Kind::Integer8,
            Arg::F32(_) => Kind::Float4,
            Arg::F64(_) => Kind::Float8,
            Arg::TensorMap(_) => Kind::TensorMap,
        }
    }
}

unsafe extern "C" {
    fn findap_emulator_allocate(bytes: usize) -> *mut c_void;
    fn findap_emulator_release(begin: *mut c_void);
    fn findap_emulator_launch(
        request: *const Request,
        options: *const Options,
        statistics: *mut Statistics,
        report: *mut c_char,
        report_bytes: usize,
    ) -> bool;
}

/// A tensor map as the emulated kernel takes it.
#[repr(C, align(64))]
struct EncodedMap {
    address: u64,
    element_bytes: u32,
    rank: u32,
    dims: [u64; 5],
    strides: [u64; 4],
    box_dims: [u32; 5],
    swizzle: Swizzle,
}

impl EncodedMap {
    /// Dimensions that do not count have the size 1.
    fn new(map: &TensorMap) -> Self {
        let counts = |i: usize| i < map.rank as usize;
        Self {
            address: map.address,
            element_bytes: map.element_bytes,
            rank: map.rank,
            dims: std::array::from_fn(|i| if counts(i) { map.dims[i] } else { 1 }),
            strides: std::array::from_fn(|i| if counts(i + 1) { map.strides[i] } else { 0 }),
            box_dims: std::array::from_fn(|i| if counts(i) { map.box_dims[i] } else { 1 }),
            swizzle: map.swizzle,
        }
    }
}

impl Emulator {
    /// As [`Executor::launch`], and says what was done.
    ///
    /// # Safety
    /// As [`Executor::launch`]. Arguments and accesses to memory are checked; what a kernel computes from them is not.
    /// # Errors
    /// [`CudaError::Report`], [`CudaError::BadTensorMap`].
    pub unsafe fn launch_counted(&self, launch: &Launch) -> Result<Statistics, CudaError> {
        let kernel = launch.kernel;
        for (index, map) in tensor_maps(&launch.args).enumerate() {
            map.check().map_err(|rule| CudaError::BadTensorMap { kernel, index, rule })?;
        }
        let encoded: Vec<EncodedMap> = tensor_maps(&launch.args).map(EncodedMap::new).collect();
        let mut arguments = pointers(&launch.args, &encoded);
        let name = CString::new(kernel).expect("invariant: names of kernels have no zero");
        let kinds: Vec<Kind> = launch.args.iter().map(Kind::of).collect();
        let request = Request {
            name: name.as_ptr(),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            num_arguments: kinds.len() as u32,
            arguments: arguments.as_mut_ptr(),
            kinds: kinds.as_ptr(),
        };
        let mut statistics = Statistics::default();
        let mut report = vec![0u8; 4096];
        // SAFETY: every pointer is valid for the call, and the arguments are held against the kernel's parameters before use.
        let is_well = unsafe {
            findap_emulator_launch(
                &raw const request,
                &raw const self.options,
                &raw mut statistics,
                report.as_mut_ptr().cast(),
                report.len(),
            )
        };
        if is_well {
            return Ok(statistics);
        }
        let length = report.iter().position(|&byte| byte == 0).unwrap_or(report.len());
        Err(CudaError::Report { kernel, report: String::from_utf8_lossy(&report[..length]).into_owned() })
    }
}

impl Executor for Emulator {
    fn name(&self) -> String {
        format!("the emulator with {:?}", self.options)
    }

    fn compute_capability(&self) -> (u32, u32) {
        (9, 0)
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        // SAFETY: any size may be asked for.
        let address = unsafe { findap_emulator_allocate(bytes) } as u64;
        if address == 0 { Err(CudaError::OutOfMemory { want_bytes: bytes, free_bytes: 0 }) } else { Ok(address) }
    }

    unsafe fn release(&self, address: u64) {
        // SAFETY: the address comes from `allocate`.
        unsafe { findap_emulator_release(address as *mut c_void) }
    }

    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        // SAFETY: the bytes at `address` belong to an allocation, which no Rust reference points into.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        let memory = Box::leak(vec![0u128; bytes.div_ceil(16)].into_boxed_slice());
        // SAFETY: the bytes were just made and belong to nobody else.
        Ok(unsafe { Pinned::new(memory.as_mut_ptr().cast(), bytes) })
    }

    unsafe fn release_pinned(&self, pinned: Pinned) {
        let (start, len) = (pinned.address(&(0..0)).cast::<u128>(), pinned.len_bytes().div_ceil(16));
        // SAFETY: the box that `allocate_pinned` has leaked.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, len)) });
    }

    unsafe fn upload_pinned(&self, address: u64, from: &Pinned, bytes: Range<usize>) -> Result<(), CudaError> {
        // SAFETY: the same contract.
        unsafe { self.upload(address, from.bytes(bytes)) }
    }

    unsafe fn download_pinned(&self, to: &Pinned, bytes: Range<usize>, address: u64) -> Result<(), CudaError> {
        // SAFETY: the bytes at `address` belong to an allocation, and nobody else touches those of `to`.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, to.address(&bytes), bytes.len()) };
        Ok(())
    }

    fn record_event(&self) -> Result<Event, CudaError> {
        Ok(Event(0))
    }

    fn wait(&self, _event: Event) -> Result<(), CudaError> {
        Ok(())
    }

    fn waits(&self) -> u64 {
        0
    }

    fn max_shared_bytes(&self) -> u32 {
        MAX_SHARED_BYTES
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        launch.check_shared(MAX_SHARED_BYTES)?;
        // SAFETY: the same contract.
        unsafe { self.launch_counted(launch) }.map(drop)
    }
}
