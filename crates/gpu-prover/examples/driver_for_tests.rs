//! A library with some of the driver's functions, for tests: it has as many devices as `FAKE_DEVICES` says, and the function that
//! `FAKE_FAILURE` names (`cuDeviceGetName=719`) returns that code.

// It is called as CUDA's headers declare.
#![allow(unsafe_code, non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::ffi::{c_char, c_int, c_uint};

const SUCCESS: c_int = 0;
const MEMORY_BYTES: usize = 24 << 30;

fn outcome(function: &str) -> c_int {
    let failure = std::env::var("FAKE_FAILURE").unwrap_or_default();
    match failure.split_once('=') {
        Some((name, code)) if name == function => code.parse().unwrap_or(1),
        _ => SUCCESS,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_int {
    outcome("cuInit")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    unsafe { *version = 13_000 };
    outcome("cuDriverGetVersion")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    unsafe { *count = std::env::var("FAKE_DEVICES").ok().and_then(|n| n.parse().ok()).unwrap_or(0) };
    outcome("cuDeviceGetCount")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    unsafe { *device = ordinal };
    outcome("cuDeviceGet")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    let text = format!("Fake {device}\0");
    for (i, byte) in text.bytes().enumerate().take(usize::try_from(length).unwrap_or(0)) {
        unsafe { *name.add(i) = byte.cast_signed() };
    }
    outcome("cuDeviceGetName")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> c_int {
    unsafe { *bytes = MEMORY_BYTES };
    outcome("cuDeviceTotalMem_v2")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> c_int {
    // 75 and 76 are the compute capability, 16 the multiprocessors.
    unsafe {
        *value = match attribute {
            75 => 9,
            76 => 0,
            16 => 132,
            _ => -1,
        };
    }
    outcome("cuDeviceGetAttribute")
}
