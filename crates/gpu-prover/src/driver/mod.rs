//! CUDA's driver, looked for at run time.
//!
//! `cust` declares the driver's functions and has them linked, and a program that is linked against the driver does not start without
//! one. So the functions are defined here (`forwarders.rs`): each looks up its namesake in the driver's library at its first call, and
//! answers `CUDA_ERROR_NO_DEVICE` where there is no driver. `cust` is linked against an empty library (`no-driver/`) and finds these.
//!
//! A driver that is newer than `cust` may return codes that `cust`'s enumeration lacks, which would be undefined behaviour there: what it
//! does not know becomes `CUDA_ERROR_UNKNOWN`, and [`last_unknown_code`] tells the code itself.

// The driver's functions are foreign code, called as CUDA's headers declare them.
#![allow(unsafe_code)]

mod forwarders;
mod library;

pub use library::{DRIVER_VARIABLE, last_unknown_code, use_library};
pub(crate) use library::{PageLock, has_kernels};

use cust::device::{Device, DeviceAttribute};
use cust::error::CudaError;
use cust::{CudaApiVersion, CudaFlags};
use std::fmt;
use thiserror::Error;

/// Why a device, or all of them, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DriverError {
    /// There is no driver.
    #[error("there is no CUDA driver: {reason}. Install NVIDIA's driver, or prove on the CPU (--device cpu)")]
    NoDriver {
        /// What the system's loader said.
        reason: String,
    },
    /// The driver sees no device.
    #[error(
        "the CUDA driver sees no device: check `nvidia-smi`, and CUDA_VISIBLE_DEVICES, which hides devices"
    )]
    NoDevice,
    /// The program has no kernels.
    #[error(
        "this program was built without nvcc, and has no kernels: build it where CUDA's nvcc is (NVCC names it)"
    )]
    NoKernels,
    /// The memory that was taken of the device does not suffice.
    #[error(
        "{asked} bytes do not fit device {device}'s arena of {size} bytes, where {free} are free in one piece: prove smaller circuits \
         there, or give it more (--max-allocation)"
    )]
    ArenaFull {
        /// Which device.
        device: u32,
        /// What was asked for, in bytes.
        asked: usize,
        /// The longest free range, in bytes.
        free: usize,
        /// All of it, in bytes.
        size: usize,
    },
    /// A call failed.
    #[error("{call} failed{}: {meaning}", device.map_or(String::new(), |device| format!(" on device {device}")))]
    Failed {
        /// The driver's function.
        call: &'static str,
        /// Which device it was asked about.
        device: Option<u32>,
        /// What the code means.
        meaning: String,
    },
}

impl DriverError {
    pub(crate) fn of(call: &'static str, device: Option<u32>) -> impl FnOnce(CudaError) -> Self {
        move |error| {
            if let Err(reason) = library::find() {
                return Self::NoDriver { reason: reason.to_owned() };
            }
            match (error, last_unknown_code()) {
                (CudaError::NoDevice, _) => Self::NoDevice,
                (CudaError::UnknownError, Some(code)) => Self::Failed {
                    call,
                    device,
                    meaning: format!(
                        "CUDA's code {code}, which this program does not know: the driver is newer"
                    ),
                },
                // Its text is the driver's to give, and a driver that fails may not.
                (error, _) => {
                    Self::Failed { call, device, meaning: format!("{error:?}, CUDA's code {}", error as u32) }
                }
            }
        }
    }
}

/// A version of CUDA, as drivers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// Before the point.
    pub major: i32,
    /// After it.
    pub minor: i32,
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, from 0.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// All of its memory, in bytes.
    pub memory_bytes: usize,
    /// Its compute capability: 9.0 is Hopper's.
    pub compute_capability: (i32, i32),
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// The newest CUDA that the driver supports.
    pub driver: CudaVersion,
    /// At least one.
    pub devices: Vec<DeviceInfo>,
}

/// Looks for devices. Makes no context and allocates nothing on them.
///
/// # Errors
/// [`DriverError`].
pub fn devices() -> Result<Devices, DriverError> {
    cust::init(CudaFlags::empty()).map_err(DriverError::of("cuInit", None))?;
    let version = CudaApiVersion::get().map_err(DriverError::of("cuDriverGetVersion", None))?;
    let count = Device::num_devices().map_err(DriverError::of("cuDeviceGetCount", None))?;
    if count == 0 {
        return Err(DriverError::NoDevice);
    }
    let devices = (0..count).map(device_info).collect::<Result<_, _>>()?;
    Ok(Devices { driver: CudaVersion { major: version.major(), minor: version.minor() }, devices })
}

fn device_info(ordinal: u32) -> Result<DeviceInfo, DriverError> {
    let failed = |call| DriverError::of(call, Some(ordinal));
    let device = Device::get_device(ordinal).map_err(failed("cuDeviceGet"))?;
    let attribute = |attribute| device.get_attribute(attribute).map_err(failed("cuDeviceGetAttribute"));
    Ok(DeviceInfo {
        ordinal,
        name: device.name().map_err(failed("cuDeviceGetName"))?,
        memory_bytes: device.total_memory().map_err(failed("cuDeviceTotalMem"))?,
        compute_capability: (
            attribute(DeviceAttribute::ComputeCapabilityMajor)?,
            attribute(DeviceAttribute::ComputeCapabilityMinor)?,
        ),
        multiprocessors: attribute(DeviceAttribute::MultiprocessorCount)?,
    })
}
