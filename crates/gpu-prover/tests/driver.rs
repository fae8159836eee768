//! The program with no driver, with one that sees no device, and with drivers that fail: each ends in the error that says so.
//!
//! The driver is looked for once a process, so each case is a process of its own: this test's program again, with `CHILD` set.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod emulated;

use emulated::emulator;
use gpu_prover::driver::{DRIVER_VARIABLE, devices};
use std::{process::Command, sync::OnceLock};

const CHILD: &str = "GPU_PROVER_TEST_CHILD";

/// What a process finds with this driver and these settings of it.
fn found(driver: &str, settings: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, "1")
        .env(DRIVER_VARIABLE, driver)
        .envs(settings.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = text.split_once("found: ").unwrap();
    rest.lines().next().unwrap().to_owned()
}

/// Says what it finds, for [`found`]; alone it does nothing.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        match devices() {
            Ok(devices) => println!("\nfound: {devices:?}"),
            Err(error) => println!("\nfound: {error}"),
        }
    }
}

fn emulated() -> String {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| emulator("emulated-driver", &[]).to_str().unwrap().to_owned()).clone()
}

#[test]
fn without_a_driver_the_program_runs_and_says_so() {
    let found = found("/nowhere/libcuda.so.1", &[]);
    assert!(
        found.starts_with("there is no CUDA driver: ") && found.contains("/nowhere/libcuda.so.1"),
        "{found}"
    );
}

#[test]
fn a_driver_without_a_device_is_told_apart() {
    for settings in [&[("EMULATED_DEVICES", "0")], &[("EMULATED_FAILURE", "cuInit=100")]] {
        let found = found(&emulated(), settings);
        assert!(found.starts_with("the CUDA driver sees no device"), "{found}");
    }
}

#[test]
fn devices_are_found() {
    let found = found(&emulated(), &[("EMULATED_DEVICES", "2"), ("EMULATED_MEMORY", "25769803776")]);
    for part in [
        "major: 12, minor: 0",
        "emulated device 0",
        "emulated device 1",
        "memory_bytes: 25769803776",
        "(9, 0)",
        "multiprocessors: 1",
    ] {
        assert!(found.contains(part), "{part}: {found}");
    }
}

#[test]
fn a_failed_call_is_named_with_its_device_and_the_codes_meaning() {
    let failed = |call: &str, code: i32| {
        found(&emulated(), &[("EMULATED_DEVICES", "1"), ("EMULATED_FAILURE", &format!("{call}={code}"))])
    };
    assert_eq!(failed("cuInit", 3), "cuInit failed: NotInitialized, CUDA's code 3");
    let on_device = failed("cuDeviceGetName", 719);
    assert!(
        on_device.starts_with("cuDeviceGetName failed on device 0: LaunchFailed, CUDA's code 719"),
        "{on_device}"
    );
    // Codes of later drivers.
    let unknown = failed("cuDeviceGetCount", 913);
    assert_eq!(
        unknown,
        "cuDeviceGetCount failed: CUDA's code 913, which this program does not know: the driver is newer"
    );
}

#[test]
fn a_driver_that_lacks_a_function_is_an_error_and_no_crash() {
    // The system's C library is no driver at all.
    let found = found("libc.so.6", &[]);
    assert!(found.starts_with("cuInit failed: SharedObjectSymbolNotFound"), "{found}");
}
