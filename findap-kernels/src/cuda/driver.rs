//! The executor that is a device: one context, one stream, and the modules loaded so far.

use std::collections::HashMap;
use std::ffi::CString;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::DriverError;
use cudarc::driver::result as driver;
use cudarc::driver::sys;

use super::arg::{Swizzle, TensorMap, pointers, tensor_maps};
use super::compile::{self, Compiler};
use super::cublaslt::{CublasLt, WORKSPACE_BYTES};
use super::error::CudaError;
use super::executor::{Buffer, Event, Executor, Pinned};
use super::launch::Launch;
use super::probe::{GpuInfo, Probe, message, probe};
use super::source::Source;
use crate::cuda::Product;

/// A device in use. Work goes to one stream, in order; [`Executor::download`] and [`Gpu::synchronize`] wait for it.
pub struct Gpu {
    device: GpuInfo,
    handle: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    compiler: Compiler,
    /// Looked for at the first product.
    cublaslt: OnceLock<Option<CublasLt>>,
    /// Whether every launch is waited for, so that an error is that of its own kernel.
    is_synchronous: bool,
    /// How often the host has waited.
    waits: AtomicU64,
    /// Events that wait to be recorded again.
    events: Mutex<Vec<sys::CUevent>>,
    /// By source file and, for functions, entry point.
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<(&'static str, &'static str), Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// The dynamic shared memory allowed so far; 48 KiB need no permission.
    shared_bytes: u32,
}

/// What a block may have without asking.
const SHARED_BYTES_BY_DEFAULT: u32 = 48 * 1024;

// SAFETY: handles of the driver may be used from any thread that has the context current, which every call below sees to.
unsafe impl Send for Gpu {}
// SAFETY: as above; the maps are behind a lock, and the driver serialises what is queued on a stream.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Takes a device into use. With `FINDAP_SYNC=1` in the environment every launch is waited for: slow, but an error is then
    /// that of the kernel it names.
    ///
    /// # Errors
    /// [`CudaError::NoDevice`], [`CudaError::NoSuchDevice`], [`CudaError::NoCompiler`], [`CudaError::Driver`].
    pub fn open(ordinal: usize) -> Result<Self, CudaError> {
        let devices = match probe() {
            Probe::Ready { devices, .. } => devices,
            Probe::Absent(reason) => return Err(CudaError::NoDevice(reason)),
        };
        let count = devices.len();
        let device = devices.into_iter().nth(ordinal).ok_or(CudaError::NoSuchDevice { ordinal, count })?;
        let compiler = Compiler::find()?;
        let is_synchronous = std::env::var_os("FINDAP_SYNC").is_some_and(|value| value == "1");
        guarded(|| {
            let handle = named("cuDeviceGet", driver::device::get(ordinal as i32))?;
            // SAFETY: `handle` comes from the driver; the context is released once, when this value is dropped.
            let context = named("cuDevicePrimaryCtxRetain", unsafe { driver::primary_ctx::retain(handle) })?;
            // SAFETY: the context was just retained.
            named("cuCtxSetCurrent", unsafe { driver::ctx::set_current(context) })?;
            let stream = named("cuStreamCreate", driver::stream::create(driver::stream::StreamKind::NonBlocking))?;
            Ok(Self {
                device,
                handle,
                context,
                stream,
                compiler,
                cublaslt: OnceLock::new(),
                is_synchronous,
                waits: AtomicU64::new(0),
                events: Mutex::default(),
                loaded: Mutex::default(),
            })
        })
    }

    /// The device.
    pub fn device(&self) -> &GpuInfo {
        &self.device
    }

    /// Waits for everything queued so far.
    ///
    /// # Errors
    /// [`CudaError::Driver`] if any of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.with_context(|| {
            // SAFETY: the stream exists as long as this value.
            named("cuStreamSynchronize", unsafe { driver::stream::synchronize(self.stream) })
        })
    }

    /// Copies between two places on the device, after all launches so far: what kernels that only move numbers are measured by.
    ///
    /// # Errors
    /// [`CudaError::Driver`].
    ///
    /// # Panics
    /// If the sizes differ.
    pub fn copy(&self, to: &Buffer<'_>, from: &Buffer<'_>) -> Result<(), CudaError> {
        assert_eq!(to.len_bytes(), from.len_bytes(), "a copy has the size of its source");
        self.with_context(|| {
            // SAFETY: both allocations have this many bytes, and live until all that is queued is done.
            let result =
                unsafe { driver::memcpy_dtod_async(to.address(), from.address(), from.len_bytes(), self.stream) };
            named("cuMemcpyDtoDAsync", result)
        })
    }

    /// The seconds that the device takes for what `work` queues, by its own clock. Waits for it.
    ///
    /// # Errors
    /// [`CudaError::Driver`], and those of `work`.
    pub fn seconds(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let [begin, end] = [self.event()?, self.event()?];
        self.record(&begin)?;
        work()?;
        self.record(&end)?;
        self.synchronize()?;
        self.with_context(|| {
            // SAFETY: both events exist and have happened.
            let milliseconds =
                named("cuEventElapsedTime", unsafe { driver::event::elapsed(begin.handle, end.handle) })?;
            Ok(f64::from(milliseconds) / 1e3)
        })
    }

    fn event(&self) -> Result<TimingEvent<'_>, CudaError> {
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT;
        let handle = self.with_context(|| named("cuEventCreate", driver::event::create(flags)))?;
        Ok(TimingEvent { gpu: self, handle })
    }

    fn record(&self, event: &TimingEvent<'_>) -> Result<(), CudaError> {
        // SAFETY: the event and the stream exist.
        self.with_context(|| named("cuEventRecord", unsafe { driver::event::record(event.handle, self.stream) }))
    }

    /// The stream, for libraries that queue work beside these kernels.
    pub fn stream(&self) -> sys::CUstream {
        self.stream
    }

    /// Runs a call with the context current in this thread; a missing symbol becomes an error.
    fn with_context<T>(&self, call: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
        guarded(|| {
            // SAFETY: the context is retained as long as this value exists.
            named("cuCtxSetCurrent", unsafe { driver::ctx::set_current(self.context) })?;
            call()
        })
    }

    /// The entry point of a launch, compiled and loaded at its first use.
    fn function(&self, launch: &Launch) -> Result<sys::CUfunction, CudaError> {
        let Launch { source, kernel, shared_bytes, .. } = *launch;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (source.file, kernel);
        let mut function = match loaded.functions.get(&key) {
            Some(function) => *function,
            None => {
                let module = self.module(&mut loaded, source)?;
                let name = CString::new(kernel).expect("invariant: names of kernels have no zero");
                // SAFETY: the module is loaded and stays so.
                let handle = unsafe { driver::module::get_function(module, name) };
                let handle = named_for("cuModuleGetFunction", kernel, handle)?;
                Function { handle, shared_bytes: SHARED_BYTES_BY_DEFAULT }
            }
        };
        if shared_bytes > function.shared_bytes {
            use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as ATTRIBUTE;
            // SAFETY: the function belongs to a loaded module.
            let set =
                unsafe { driver::function::set_function_attribute(function.handle, ATTRIBUTE, shared_bytes as i32) };
            named_for("cuFuncSetAttribute", kernel, set)?;
            function.shared_bytes = shared_bytes;
        }
        loaded.functions.insert(key, function);
        Ok(function.handle)
    }

    fn module(&self, loaded: &mut Loaded, source: &'static Source) -> Result<sys::CUmodule, CudaError> {
        if let Some(module) = loaded.modules.get(source.file) {
            return Ok(*module);
        }
        let capability = self.device.compute_capability;
        if !source.runs_on(capability) {
            return Err(CudaError::WrongDevice { file: source.file, device: self.device.name.clone(), capability });
        }
        let image = self.compiler.cubin(source, &compile::arch(source, capability))?;
        // SAFETY: a whole CUBIN, as the compiler made it.
        let module = named("cuModuleLoadData", unsafe { driver::module::load_data(image.as_ptr().cast()) })?;
        loaded.modules.insert(source.file, module);
        Ok(module)
    }
}

impl Executor for Gpu {
    fn name(&self) -> String {
        self.device.name.clone()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.device.compute_capability
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.with_context(|| {
            // SAFETY: any size may be asked for.
            match unsafe { driver::malloc_sync(bytes) } {
                Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                    let free_bytes = driver::mem_get_info().map_or(0, |(free, _)| free);
                    Err(CudaError::OutOfMemory { want_bytes: bytes, free_bytes })
                }
                other => named("cuMemAlloc", other),
            }
        })
    }

    fn free_bytes(&self) -> Option<usize> {
        let told = self.with_context(|| named("cuMemGetInfo", driver::mem_get_info()));
        told.ok().map(|(free, _)| free)
    }

    unsafe fn release(&self, address: u64) {
        // Nothing can be done about failures here, which are those of earlier launches.
        let _ = self.synchronize();
        // SAFETY: the address comes from `allocate` and is not used again, and no work that uses it is under way.
        let _ = self.with_context(|| named("cuMemFree", unsafe { driver::free_sync(address) }));
    }

    unsafe fn upload(&self, address: u64, bytes: &[u8]) -> Result<(), CudaError> {
        self.with_context(|| {
            // SAFETY: the bytes at `address` belong to an allocation. The host's bytes are pageable, so the driver has taken
            // them when the call returns, for which it may have waited for the stream.
            named("cuMemcpyHtoDAsync", unsafe { driver::memcpy_htod_async(address, bytes, self.stream) })
        })
    }

    unsafe fn download(&self, address: u64, bytes: &mut [u8]) -> Result<(), CudaError> {
        self.with_context(|| {
            // SAFETY: as above; the host's bytes are not read before the stream has done its work.
            named("cuMemcpyDtoHAsync", unsafe { driver::memcpy_dtoh_async(bytes, address, self.stream) })
        })?;
        self.synchronize()
    }

    unsafe fn clear(&self, address: u64, bytes: usize) -> Result<(), CudaError> {
        self.with_context(|| {
            // SAFETY: the bytes at `address` belong to an allocation.
            named("cuMemsetD8Async", unsafe { driver::memset_d8_async(address, 0, bytes, self.stream) })
        })
    }

    fn allocate_pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        self.with_context(|| {
            // SAFETY: any size may be asked for.
            let start = named("cuMemHostAlloc", unsafe { driver::malloc_host(bytes, 0) })?.cast::<u8>();
            // SAFETY: the allocation has this many bytes, and nobody else knows of it.
            unsafe {
                start.write_bytes(0, bytes);
                Ok(Pinned::new(start, bytes))
            }
        })
    }

    unsafe fn release_pinned(&self, pinned: Pinned) {
        // Nothing can be done about a failure.
        // SAFETY: it comes from `allocate_pinned`, and no copy of it is under way.
        let free = || named("cuMemFreeHost", unsafe { driver::free_host(pinned.address(&(0..0)).cast()) });
        let _ = self.with_context(free);
    }

    unsafe fn upload_pinned(&self, address: u64, from: &Pinned, bytes: Range<usize>) -> Result<(), CudaError> {
        self.with_context(|| {
            // SAFETY: the bytes at `address` belong to an allocation, and those of the host do not change before they are copied.
            let result = unsafe { driver::memcpy_htod_async(address, from.bytes(bytes), self.stream) };
            named("cuMemcpyHtoDAsync", result)
        })
    }

    unsafe fn download_pinned(&self, to: &Pinned, bytes: Range<usize>, address: u64) -> Result<(), CudaError> {
        let start = to.address(&bytes);
        self.with_context(|| {
            // SAFETY: as above; the driver alone touches the host's bytes until the copy is done.
            let result = unsafe {
                let to = std::slice::from_raw_parts_mut(start, bytes.len());
                driver::memcpy_dtoh_async(to, address, self.stream)
            };
            named("cuMemcpyDtoHAsync", result)
        })
    }

    fn record_event(&self) -> Result<Event, CudaError> {
        let free = self.events.lock().unwrap_or_else(PoisonError::into_inner).pop();
        self.with_context(|| {
            let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let event = free.map_or_else(|| named("cuEventCreate", driver::event::create(flags)), Ok)?;
            // SAFETY: the event and the stream exist.
            named("cuEventRecord", unsafe { driver::event::record(event, self.stream) })?;
            Ok(Event(event as u64))
        })
    }

    fn wait(&self, event: Event) -> Result<(), CudaError> {
        let event = event.0 as sys::CUevent;
        let result = self.with_context(|| {
            // SAFETY: the event was made and recorded by `record_event`, here and below.
            match unsafe { driver::event::query(event) } {
                Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => {
                    self.waits.fetch_add(1, Ordering::Relaxed);
                    // SAFETY: as above.
                    named("cuEventSynchronize", unsafe { driver::event::synchronize(event) })
                }
                other => named("cuEventQuery", other),
            }
        });
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        result
    }

    fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    fn max_shared_bytes(&self) -> u32 {
        self.device.max_shared_bytes
    }

    unsafe fn launch(&self, launch: &Launch) -> Result<(), CudaError> {
        launch.check_shared(self.device.max_shared_bytes)?;
        self.with_context(|| {
            let function = self.function(launch)?;
            let maps = tensor_maps(&launch.args).enumerate();
            let encoded = maps.map(|(index, map)| encode(launch.kernel, index, map)).collect::<Result<Vec<_>, _>>()?;
            let mut arguments = pointers(&launch.args, &encoded);
            let Launch { grid, block, shared_bytes, .. } = *launch;
            let (grid, block) = ((grid[0], grid[1], grid[2]), (block[0], block[1], block[2]));
            // SAFETY: the arguments are the kernel's by the contract of this function; the driver copies them before it returns.
            let result =
                unsafe { driver::launch_kernel(function, grid, block, shared_bytes, self.stream, &mut arguments) };
            named_for("cuLaunchKernel", launch.kernel, result)?;
            if self.is_synchronous {
                // SAFETY: the stream exists as long as this value.
                let result = unsafe { driver::stream::synchronize(self.stream) };
                named_for("cuStreamSynchronize", launch.kernel, result)?;
            }
            Ok(())
        })
    }

    unsafe fn multiply(&self, product: &Product) -> Option<Result<(), CudaError>> {
        let library = self.cublaslt.get_or_init(|| {
            let workspace = self.allocate(WORKSPACE_BYTES).ok()?;
            let found = self.with_context(|| Ok(CublasLt::find(workspace))).ok().flatten();
            if found.is_none() {
                // SAFETY: just allocated, and nothing uses it.
                unsafe { self.release(workspace) };
            }
            found
        });
        let library = library.as_ref()?;
        // SAFETY: the operands are the product's by the contract of this function; the stream is this device's.
        let queued = self.with_context(|| Ok(unsafe { library.multiply(product, self.stream.cast()) }));
        let queued = queued.unwrap_or_else(|error| Some(Err(error)))?;
        Some(queued.and_then(|()| if self.is_synchronous { self.synchronize() } else { Ok(()) }))
    }
}

/// A point in the stream whose time the device tells.
struct TimingEvent<'g> {
    gpu: &'g Gpu,
    handle: sys::CUevent,
}

impl Drop for TimingEvent<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure.
        // SAFETY: made by `Gpu::event`, and destroyed once.
        let _ = self.gpu.with_context(|| named("cuEventDestroy", unsafe { driver::event::destroy(self.handle) }));
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let library = self.cublaslt.take().flatten();
        // Failures here are those of earlier launches, which nobody waits for any more.
        let _ = self.with_context(|| {
            // SAFETY: the stream, the modules and the context were made by this value and are used no more.
            unsafe {
                named("cuStreamSynchronize", driver::stream::synchronize(self.stream))?;
                if let Some(library) = library {
                    named("cuMemFree", driver::free_sync(library.workspace()))?;
                }
                named("cuStreamDestroy", driver::stream::destroy(self.stream))?;
                for event in self.events.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                    named("cuEventDestroy", driver::event::destroy(event))?;
                }
                let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
                for module in loaded.modules.values() {
                    named("cuModuleUnload", driver::module::unload(*module))?;
                }
                named("cuDevicePrimaryCtxRelease", driver::primary_ctx::release(self.handle))
            }
        });
    }
}

fn encode(kernel: &'static str, index: usize, map: &TensorMap) -> Result<sys::CUtensorMap, CudaError> {
    map.check().map_err(|rule| CudaError::BadTensorMap { kernel, index, rule })?;
    let dtype = match map.element_bytes {
        2 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        4 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        _ => return Err(CudaError::BadTensorMap { kernel, index, rule: "a number has neither 2 nor 4 bytes" }),
    };
    let swizzle = match map.swizzle {
        Swizzle::None => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Bytes128 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        Swizzle::Bytes64 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Bytes32 => sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
    };
    let element_strides = [1u32; 5];
    let mut encoded = std::mem::MaybeUninit::<sys::CUtensorMap>::zeroed();
    // SAFETY: every array has at least `rank` entries (strides: one fewer), and the result is a valid place of its type.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            dtype,
            map.rank,
            map.address as *mut _,
            map.dims.as_ptr(),
            map.strides.as_ptr(),
            map.box_dims.as_ptr(),
            element_strides.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    named_for("cuTensorMapEncodeTiled", kernel, result.result())?;
    // SAFETY: zeroes are a valid value of this array of numbers, and the call has written it.
    Ok(unsafe { encoded.assume_init() })
}

fn named<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T, CudaError> {
    result.map_err(|error| CudaError::Driver { call, kernel: None, message: format!("{:?}", error.0) })
}

fn named_for<T>(call: &'static str, kernel: &'static str, result: Result<T, DriverError>) -> Result<T, CudaError> {
    result.map_err(|error| CudaError::Driver { call, kernel: Some(kernel), message: format!("{:?}", error.0) })
}

/// The bindings panic where the library lacks a symbol.
fn guarded<T>(call: impl FnOnce() -> Result<T, CudaError>) -> Result<T, CudaError> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(CudaError::BrokenLibrary { message: message(&*panic) }))
}
