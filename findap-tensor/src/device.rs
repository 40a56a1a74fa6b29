//! The devices on which numbers lie and ops run: the CPU, or a CUDA device.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use findap_kernels::attention::cuda::Target;
use findap_kernels::cuda::Product;
use findap_kernels::cuda::{CudaError, Executor, Gpu, Launch, Operand};
use findap_kernels::{Bf16Isa, Dtype, matmul};

use crate::error::TensorError;
use crate::staging::{PIECE_BYTES, Staging};

/// A place where numbers lie and ops run.
#[derive(Clone, Debug, Default)]
pub enum Device {
    /// This process's memory and processors.
    #[default]
    Cpu,
    /// A CUDA device, or the emulator of one.
    Cuda(Cuda),
}

/// The kind of a device. It decides how much memory work takes, and the device need not be present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// This process's memory and processors.
    Cpu,
    /// A CUDA device.
    Cuda,
}

impl Device {
    /// Its kind.
    pub fn kind(&self) -> DeviceKind {
        match self {
            Device::Cpu => DeviceKind::Cpu,
            Device::Cuda(_) => DeviceKind::Cuda,
        }
    }

    /// Opens the GPU with this number.
    ///
    /// # Errors
    /// [`TensorError::Cuda`] with what is missing.
    pub fn gpu(ordinal: usize) -> Result<Device, TensorError> {
        let gpu = Gpu::open(ordinal)?;
        let multiprocessors = gpu.device().multiprocessors;
        Ok(Device::Cuda(Cuda::new(Box::new(gpu), multiprocessors)))
    }

    /// Makes a device whose kernels run on the CPU, for tests. Queued work runs when the host waits for it.
    #[cfg(feature = "emulator")]
    pub fn emulated(options: findap_kernels::emulator::Options) -> Device {
        Device::Cuda(Cuda::new(Box::new(findap_kernels::emulator::Queue::new(options)), 2))
    }

    /// Makes an emulated device with `max_shared_bytes` of shared memory per block.
    #[cfg(feature = "emulator")]
    pub fn emulated_with_shared_bytes(options: findap_kernels::emulator::Options, max_shared_bytes: u32) -> Device {
        let queue = findap_kernels::emulator::Queue::new(options).with_shared_bytes(max_shared_bytes);
        Device::Cuda(Cuda::new(Box::new(queue), 2))
    }

    /// Count of the times that the host has waited for this device so far; 0 for the CPU.
    pub fn waits(&self) -> u64 {
        match self {
            Device::Cpu => 0,
            Device::Cuda(cuda) => cuda.shared.executor.waits(),
        }
    }

    /// The product name of a GPU, or `the CPU`.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => "the CPU".to_owned(),
            Device::Cuda(cuda) => cuda.shared.executor.name(),
        }
    }

    /// Bytes that may still be allocated on a device; `None` for the CPU and where the device cannot tell.
    pub fn free_bytes(&self) -> Option<usize> {
        match self {
            Device::Cpu => None,
            Device::Cuda(cuda) => cuda.shared.executor.free_bytes(),
        }
    }

    /// Bytes of a device's memory that its ops share as scratch and keep for later ops.
    pub fn scratch_bytes(&self) -> usize {
        match self {
            Device::Cpu => 0,
            Device::Cuda(cuda) => cuda.shared.scratch.lock().unwrap_or_else(PoisonError::into_inner).1,
        }
    }

    /// Whether activations and weights may have this format here.
    ///
    /// # Errors
    /// [`TensorError::NoArithmetic`]; [`TensorError::Kernel`] if the environment names instructions that the CPU does not have.
    pub fn supports(&self, dtype: Dtype) -> Result<(), TensorError> {
        match (self, dtype) {
            (Device::Cpu, Dtype::Bf16) => Ok(Bf16Isa::current().map(|_| ())?),
            (Device::Cpu, Dtype::F32 | Dtype::F64) | (Device::Cuda(_), Dtype::F32 | Dtype::Bf16) => Ok(()),
            (Device::Cuda(_), Dtype::F64) => Err(TensorError::NoArithmetic { device: self.name(), dtype }),
        }
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu, Device::Cpu) => true,
            (Device::Cuda(a), Device::Cuda(b)) => a.is(b),
            _ => false,
        }
    }
}

/// A CUDA device in use; copies of the value are the same device. Work is queued in order; reading from the device waits for it.
#[derive(Clone)]
pub struct Cuda {
    shared: Arc<Shared>,
}

struct Shared {
    executor: Box<dyn Executor + Send + Sync>,
    target: Target,
    /// Address and bytes of the ops' scratch memory. It grows to the largest need, which the first step shows.
    scratch: Mutex<(u64, usize)>,
    /// The ring in which bytes wait to be copied to the device.
    staging: Mutex<Staging>,
}

impl Shared {
    fn allocate(&self, purpose: &'static str, bytes: usize) -> Result<u64, TensorError> {
        self.executor.allocate(bytes.max(1)).map_err(|error| match error {
            CudaError::OutOfMemory { want_bytes, free_bytes } => {
                TensorError::OutOfMemory { purpose, want_bytes, free_bytes }
            }
            other => TensorError::Cuda(other),
        })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let (address, bytes) = *self.scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 {
            // SAFETY: allocated by `with_scratch` and used no more.
            unsafe { self.executor.release(address) };
        }
        self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).release(&*self.executor);
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cuda").field(&self.shared.executor.name()).finish()
    }
}

impl Cuda {
    fn new(executor: Box<dyn Executor + Send + Sync>, multiprocessors: u32) -> Cuda {
        let target = Target::of(executor.compute_capability(), multiprocessors, executor.max_shared_bytes());
        let (scratch, staging) = (Mutex::default(), Mutex::default());
        Cuda { shared: Arc::new(Shared { executor, target, scratch, staging }) }
    }

    /// Whether both are one device.
    pub(crate) fn is(&self, other: &Cuda) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The error for an operand that should have been put on this device first.
    pub(crate) fn is_missing(&self) -> TensorError {
        TensorError::OtherDevice { wanted: format!("{self:?}"), found: "the CPU".to_owned() }
    }

    pub(crate) fn executor(&self) -> &(dyn Executor + Send + Sync) {
        &*self.shared.executor
    }

    /// The attention kernels that the device runs.
    pub(crate) fn target(&self) -> Target {
        self.shared.target
    }

    /// Allocates memory of undefined contents.
    pub(crate) fn allocate(&self, purpose: &'static str, bytes: usize) -> Result<Memory, TensorError> {
        Ok(Memory { cuda: self.clone(), address: self.shared.allocate(purpose, bytes)?, bytes })
    }

    /// Queues launches whose operands were borrowed from memory of this device for the call.
    pub(crate) fn run(&self, launches: &[Launch]) -> Result<(), TensorError> {
        for launch in launches {
            // SAFETY: the families' launchers have made the arguments from operands of this device and checked their lengths
            // and formats; indices were checked when they were written to the device. Memory is released in the order of
            // the queue, and so after this.
            unsafe { self.shared.executor.launch(launch)? };
        }
        Ok(())
    }

    /// Queues a product: by the device's library where there is one, else by our own kernel.
    pub(crate) fn multiply(&self, product: &Product) -> Result<(), TensorError> {
        let launch = matmul::cuda::launch(product)?;
        // SAFETY: as in `run`; the launcher has found the arguments right.
        match unsafe { self.shared.executor.multiply(product) } {
            Some(result) => Ok(result?),
            None => self.run(&[launch]),
        }
    }

    /// Runs `queue` with the address of `bytes` of scratch memory, which nothing else touches meanwhile.
    pub(crate) fn with_scratch<T>(
        &self,
        bytes: usize,
        queue: impl FnOnce(u64) -> Result<T, TensorError>,
    ) -> Result<T, TensorError> {
        let mut scratch = self.shared.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        if scratch.1 < bytes {
            let (address, old_bytes) = std::mem::take(&mut *scratch);
            if old_bytes > 0 {
                // SAFETY: allocated here before; what is queued on it runs before it is released.
                unsafe { self.shared.executor.release(address) };
            }
            *scratch = (self.shared.allocate("scratch", bytes)?, bytes);
        }
        queue(scratch.0)
    }

    /// Sets the numbers of an operand to 0.
    pub(crate) fn clear(&self, operand: &Operand) -> Result<(), TensorError> {
        let bytes = operand.len * operand.dtype.size_bytes();
        // SAFETY: the operand was borrowed from memory of this device, to be written, for the call.
        unsafe { self.shared.executor.clear(operand.address, bytes) }.map_err(TensorError::from)
    }
}

/// Memory of a device that frees itself.
#[derive(Debug)]
pub(crate) struct Memory {
    cuda: Cuda,
    address: u64,
    bytes: usize,
}

impl Memory {
    pub(crate) fn cuda(&self) -> &Cuda {
        &self.cuda
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Copies `bytes` to `offset` bytes behind the start, without waiting for queued work. The slice may be reused when this returns.
    ///
    /// # Panics
    /// If they reach past the end.
    pub(crate) fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), TensorError> {
        let mut pieces = bytes.chunks(PIECE_BYTES).enumerate();
        pieces.try_for_each(|(i, piece)| {
            self.write_with(offset + i * PIECE_BYTES, piece.len(), |place| place.copy_from_slice(piece))
        })
    }

    /// Lets `fill` write `len` bytes, which are copied to `offset` bytes behind the start.
    ///
    /// # Panics
    /// If they reach past the end or are more than [`PIECE_BYTES`].
    pub(crate) fn write_with<T>(
        &mut self,
        offset: usize,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, TensorError> {
        assert!(offset + len <= self.bytes, "invariant: a copy stays inside of its memory");
        let Shared { executor, staging, .. } = &*self.cuda.shared;
        let mut staging = staging.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(staging.upload(&**executor, self.address + offset as u64, len, fill)?)
    }

    /// Copies to `bytes` from `offset` bytes behind the start, after everything queued so far.
    ///
    /// # Panics
    /// If they reach past the end.
    pub(crate) fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), TensorError> {
        assert!(offset + bytes.len() <= self.bytes, "invariant: a copy stays inside of its memory");
        // SAFETY: the bytes belong to this allocation.
        unsafe { self.cuda.shared.executor.download(self.address + offset as u64, bytes) }.map_err(TensorError::from)
    }

    /// Allocates other memory with the same contents.
    pub(crate) fn copy(&self) -> Result<Memory, TensorError> {
        let mut bytes = vec![0; self.bytes];
        self.read(0, &mut bytes)?;
        let mut copy = self.cuda.allocate("a copy", self.bytes)?;
        copy.write(0, &bytes)?;
        Ok(copy)
    }

    /// Sets everything to 0.
    pub(crate) fn clear(&mut self) -> Result<(), TensorError> {
        self.clear_part(0, self.bytes)
    }

    /// Sets `bytes` bytes to 0, from `offset` bytes behind the start on.
    ///
    /// # Panics
    /// If they reach past the end.
    pub(crate) fn clear_part(&mut self, offset: usize, bytes: usize) -> Result<(), TensorError> {
        assert!(offset + bytes <= self.bytes, "invariant: zeros stay inside of their memory");
        // SAFETY: the bytes are those of this allocation.
        unsafe { self.cuda.shared.executor.clear(self.address + offset as u64, bytes) }.map_err(TensorError::from)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the address is that of the allocation, and this was its only owner.
        unsafe { self.cuda.shared.executor.release(self.address) }
    }
}
