//! The driver and the devices of this machine, found at run time.
//!
//! The driver library is looked for when [`probe`] is called, so one binary serves machines with and without a GPU. Nothing
//! here creates a context.

use std::any::Any;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use cudarc::driver::DriverError;
use cudarc::driver::result as driver;
use cudarc::driver::sys;

/// One CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// Its number for the driver, from 0; `CUDA_VISIBLE_DEVICES` renumbers.
    pub ordinal: usize,
    /// The product name.
    pub name: String,
    /// All of its memory, free or not.
    pub memory_bytes: usize,
    /// Major and minor: (9, 0) is Hopper.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The dynamic shared memory that a block can have at most.
    pub max_shared_bytes: u32,
}

/// What [`probe`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A driver and at least one device.
    Ready {
        /// The newest CUDA that the driver supports, major and minor.
        driver_version: (u32, u32),
        /// The devices, by ordinal.
        devices: Vec<GpuInfo>,
    },
    /// No usable device, and why.
    Absent(Reason),
}

/// Why there is no usable device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The driver library is not installed, or not on the loader's path.
    #[error("no CUDA driver library (libcuda.so.1) on the loader's path")]
    NoLibrary,
    /// The driver is there but sees no device.
    #[error("the CUDA driver sees no device")]
    NoDevice,
    /// The driver refused.
    #[error("the CUDA driver refused `{call}`: {message}")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// Its error by name.
        message: String,
    },
    /// The driver lacks a function that this program needs: it is too old.
    #[error("the CUDA driver is too old or broken: {message}")]
    MissingSymbol {
        /// What the loader said.
        message: String,
    },
}

impl Probe {
    /// The devices; none where CUDA is absent.
    pub fn devices(&self) -> &[GpuInfo] {
        match self {
            Probe::Ready { devices, .. } => devices,
            Probe::Absent(_) => &[],
        }
    }
}

/// Asks the driver for its devices. Never panics; creates no context and leaves the devices as they are.
///
/// # Cost
/// Without a driver, one failed library look-up; with one, its initialisation (tens of milliseconds) at the first call.
pub fn probe() -> Probe {
    // The bindings panic where the library lacks a symbol.
    match catch_unwind(AssertUnwindSafe(ask)) {
        Ok(Ok((driver_version, devices))) if !devices.is_empty() => Probe::Ready { driver_version, devices },
        Ok(Ok(_)) => Probe::Absent(Reason::NoDevice),
        Ok(Err(reason)) => Probe::Absent(reason),
        Err(panic) => Probe::Absent(Reason::MissingSymbol { message: message(&*panic) }),
    }
}

fn ask() -> Result<((u32, u32), Vec<GpuInfo>), Reason> {
    // SAFETY: looks for a library by its public name and runs its initialisers, as any program linked with it does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Reason::NoLibrary);
    }
    match driver::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Err(Reason::NoDevice),
        other => named("cuInit", other)?,
    }
    let mut version: c_int = 0;
    // SAFETY: writes one number to a valid place.
    named("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
    let count = named("cuDeviceGetCount", driver::device::get_count())?;
    let devices = (0..count).map(describe).collect::<Result<Vec<GpuInfo>, Reason>>()?;
    let version = version.unsigned_abs();
    Ok(((version / 1000, version % 1000 / 10), devices))
}

fn describe(ordinal: c_int) -> Result<GpuInfo, Reason> {
    use sys::CUdevice_attribute as Attribute;
    let device = named("cuDeviceGet", driver::device::get(ordinal))?;
    // SAFETY: `device` comes from the driver, here and below.
    let attribute = |attribute| unsafe { driver::device::get_attribute(device, attribute) };
    let attribute = |which| named("cuDeviceGetAttribute", attribute(which)).map(i32::unsigned_abs);
    Ok(GpuInfo {
        ordinal: ordinal.unsigned_abs() as usize,
        name: named("cuDeviceGetName", driver::device::get_name(device))?,
        // SAFETY: as above.
        memory_bytes: named("cuDeviceTotalMem", unsafe { driver::device::total_mem(device) })?,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        max_shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

fn named<T>(call: &'static str, result: Result<T, DriverError>) -> Result<T, Reason> {
    result.map_err(|error| Reason::Driver { call, message: format!("{:?}", error.0) })
}

pub(super) fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_names_devices_or_a_reason() {
        match probe() {
            Probe::Ready { driver_version, devices } => {
                assert!(driver_version.0 >= 11, "{driver_version:?}");
                for (i, device) in devices.iter().enumerate() {
                    assert_eq!(device.ordinal, i);
                    assert!(!device.name.is_empty() && device.memory_bytes > 0 && device.multiprocessors > 0);
                    assert!(device.max_shared_bytes >= 48 * 1024);
                    assert!(device.compute_capability.0 > 0);
                }
            }
            Probe::Absent(reason) => assert!(!reason.to_string().is_empty()),
        }
        assert_eq!(probe(), probe());
    }

    #[test]
    fn a_missing_symbol_is_told_by_its_name() {
        let panic = catch_unwind(|| std::panic::resume_unwind(Box::new("no cuFoo".to_string()))).unwrap_err();
        assert_eq!(message(&*panic), "no cuFoo");
    }
}
