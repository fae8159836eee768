//! The driver's library, and functions in it.

use super::DriverError;
use super::forwarders::KNOWN;
use cust::sys::cudaError_enum;
use libloading::Library;
use std::{
    ffi::{OsStr, OsString, c_int, c_uint, c_void},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
    },
};

/// The environment variable that names another library than the system's driver.
pub const DRIVER_VARIABLE: &str = "ROUNDHOUSE_CUDA_DRIVER";

/// The name under which NVIDIA's driver is installed.
const DRIVER: &str = "libcuda.so.1";

/// The newest code that `cust` does not know, 0 for none.
static UNKNOWN: AtomicI32 = AtomicI32::new(0);

/// The last code that the driver returned and `cust` does not know.
pub fn last_unknown_code() -> Option<i32> {
    Some(UNKNOWN.load(Ordering::Relaxed)).filter(|code| *code != 0)
}

static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();

fn load(name: &OsStr) -> Result<Library, String> {
    // SAFETY: the driver's initialisers are what every CUDA program runs; whoever names another library answers for it.
    unsafe { Library::new(name) }.map_err(|e| e.to_string())
}

/// The library; looked for once.
pub(super) fn find() -> Result<&'static Library, &'static str> {
    let named = || std::env::var_os(DRIVER_VARIABLE).unwrap_or_else(|| OsString::from(DRIVER));
    LIBRARY.get_or_init(|| load(&named())).as_ref().map_err(String::as_str)
}

/// Has this process use another library than the system's driver: an emulated one, in tests. To be called before any device is looked for.
///
/// # Errors
/// [`DriverError::NoDriver`] when it cannot be loaded, or a library is in use already.
pub fn use_library(path: &Path) -> Result<(), DriverError> {
    let no_driver = |reason| DriverError::NoDriver { reason };
    let library = load(path.as_os_str()).map_err(no_driver)?;
    LIBRARY.set(Ok(library)).map_err(|_| no_driver("another driver is in use already".to_owned()))
}

/// Whether the driver brings the kernels along: the emulated one does.
pub(crate) fn has_kernels() -> bool {
    // SAFETY: only whether it is there is asked.
    find().is_ok_and(|library| unsafe { library.get::<*const c_void>(b"emulator_calls") }.is_ok())
}

/// A function of the driver, looked up at its first call.
pub(super) struct Function {
    name: &'static str,
    address: OnceLock<Result<usize, cudaError_enum>>,
}

impl Function {
    pub(super) const fn named(name: &'static str) -> Self {
        Self { name, address: OnceLock::new() }
    }

    /// Its address, or the code to answer with.
    pub(super) fn address(&self) -> Result<*const c_void, c_int> {
        let address = self.address.get_or_init(|| {
            let library = find().map_err(|_| cudaError_enum::CUDA_ERROR_NO_DEVICE)?;
            // SAFETY: the address is only taken; the forwarder of that name gives it its type.
            let symbol = unsafe { library.get::<*const c_void>(self.name.as_bytes()) };
            // An older driver does not have all.
            let symbol = symbol.map_err(|_| cudaError_enum::CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND)?;
            Ok((*symbol).expose_provenance())
        });
        (*address).map(std::ptr::with_exposed_provenance).map_err(|code| code as c_int)
    }
}

/// The code, where `cust` knows it.
pub(super) fn known(code: c_int) -> c_int {
    if KNOWN.contains(&code) {
        return code;
    }
    UNKNOWN.store(code, Ordering::Relaxed);
    cudaError_enum::CUDA_ERROR_UNKNOWN as c_int
}

/// Host memory that a device reads by itself, since its pages stay where they are. `cust` does not declare the functions.
#[derive(Debug)]
pub(crate) struct PageLock(Option<*mut c_void>);

impl PageLock {
    /// Locks what is there, for the context at hand. Where that is refused nothing is locked, and copies are as correct.
    pub(crate) fn new(memory: &[u64]) -> Self {
        static REGISTER: Function = Function::named("cuMemHostRegister_v2");
        type Register = unsafe extern "C" fn(*mut c_void, usize, c_uint) -> c_int;
        let begin = memory.as_ptr().cast_mut().cast::<c_void>();
        let is_locked = REGISTER.address().is_ok_and(|address| {
            // SAFETY: CUDA declares it so; the memory is only read, and its pages are there until they are unlocked.
            unsafe {
                std::mem::transmute::<*const c_void, Register>(address)(begin, size_of_val(memory), 0) == 0
            }
        });
        Self(is_locked.then_some(begin))
    }
}

impl Drop for PageLock {
    fn drop(&mut self) {
        static UNREGISTER: Function = Function::named("cuMemHostUnregister");
        type Unregister = unsafe extern "C" fn(*mut c_void) -> c_int;
        if let (Some(begin), Ok(address)) = (self.0, UNREGISTER.address()) {
            // SAFETY: as above; it was locked.
            unsafe { std::mem::transmute::<*const c_void, Unregister>(address)(begin) };
        }
    }
}
