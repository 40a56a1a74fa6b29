//! Why a kernel could not be compiled or run, and what to do about it.

use std::path::PathBuf;

use super::probe::Reason;

/// Why a kernel could not be compiled or run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no usable device.
    #[error("{0}; run on a machine with an NVIDIA GPU and its driver, or on the CPU")]
    NoDevice(Reason),
    /// There are devices, but not this one.
    #[error(
        "there is no CUDA device {ordinal}: the driver sees {count}; choose a lower number or change CUDA_VISIBLE_DEVICES"
    )]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The runtime compiler was not found.
    #[error(
        "the CUDA runtime compiler (libnvrtc.so.13 or .12) was not found on the loader's path{}; \
         install it with `pip install nvidia-cuda-nvrtc`, or set FINDAP_CUDA_LIB to the folder that has it",
        among(.searched)
    )]
    NoCompiler {
        /// The folders that were looked into.
        searched: Vec<PathBuf>,
    },
    /// A CUDA library is there but lacks a function or fails without a reason of its own.
    #[error(
        "the CUDA libraries of this machine do not work together: {message}; install a driver and compiler of CUDA 12.8 or later"
    )]
    BrokenLibrary {
        /// What the loader said.
        message: String,
    },
    /// A kernel does not compile: a mistake in this program, or an architecture that the compiler does not know.
    #[error("{file} does not compile for {arch} with NVRTC {version}:\n{log}")]
    Compile {
        /// The source.
        file: &'static str,
        /// Such as `sm_90a`.
        arch: String,
        /// The version of the compiler.
        version: String,
        /// What it said.
        log: String,
    },
    /// The device cannot run the kernel.
    #[error("{file} does not run on {device}, whose compute capability is {}.{}", .capability.0, .capability.1)]
    WrongDevice {
        /// The source.
        file: &'static str,
        /// The product name.
        device: String,
        /// Major and minor.
        capability: (u32, u32),
    },
    /// The memory of the device is used up.
    #[error(
        "the device has {free_bytes} bytes of memory left, {want_bytes} were asked for; use smaller micro-batches or recompute more"
    )]
    OutOfMemory {
        /// Bytes asked for.
        want_bytes: usize,
        /// Bytes left.
        free_bytes: usize,
    },
    /// A block needs more shared memory than the device has for one.
    #[error(
        "{kernel} needs {want_bytes} bytes of shared memory in a block, the device has {limit_bytes}; \
         use a model with smaller heads or rows, or another device"
    )]
    SharedMemory {
        /// The entry point.
        kernel: &'static str,
        /// Dynamic shared memory of a block.
        want_bytes: u32,
        /// What a block can have.
        limit_bytes: u32,
    },
    /// A tensor map breaks a rule of the hardware.
    #[error("{kernel}: tensor map {index}: {rule}")]
    BadTensorMap {
        /// The entry point.
        kernel: &'static str,
        /// Which of its tensor maps.
        index: usize,
        /// The rule.
        rule: &'static str,
    },
    /// The driver refused a call, or an earlier launch has failed.
    #[error("the CUDA driver refused `{call}`{}: {message}; an error of an earlier launch shows here, too", of_kernel(.kernel))]
    Driver {
        /// The driver function.
        call: &'static str,
        /// The entry point, where the call is about one.
        kernel: Option<&'static str>,
        /// Its error by name.
        message: String,
    },
    /// The emulator has found a broken rule, a race, a deadlock or an access out of bounds.
    #[error("{kernel}: {report}")]
    Report {
        /// The entry point.
        kernel: &'static str,
        /// What happened, where.
        report: String,
    },
}

fn among(searched: &[PathBuf]) -> String {
    let folders: Vec<String> = searched.iter().map(|folder| folder.display().to_string()).collect();
    if folders.is_empty() { String::new() } else { format!(", nor in {}", folders.join(", ")) }
}

fn of_kernel(kernel: &Option<&'static str>) -> String {
    kernel.map_or(String::new(), |kernel| format!(" of {kernel}"))
}
