//! The programs with devices: the emulated driver of `gpu-prover`, named as the system's would be found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(feature = "gpu")]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};
use test_support::programs::{Scene, output, program, stderr, stdout};

/// The emulated driver's library, compiled once.
fn emulated_driver() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libemulated_cuda.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu-prover/kernels/emulator.cpp");
        let mut compiler = Command::new(std::env::var("CXX").unwrap_or("g++".to_owned()));
        compiler.args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", "-o"]);
        let compiled = compiler.args([&library, &source]).status().expect("a C++ compiler");
        assert!(compiled.success());
        library
    })
}

fn with_devices(count: &str) -> Command {
    let mut command = program("prover");
    command.env("ROUNDHOUSE_CUDA_DRIVER", emulated_driver()).env("EMULATED_DEVICES", count);
    command
}

#[test]
fn gpu_check_shows_each_device_and_what_its_self_test_took() {
    let result = output(with_devices("2").args(["gpu", "check", "--json", "--max-allocation=67108864"]));
    assert!(result.status.success(), "{}", stderr(&result));
    let found: Value = serde_json::from_str(&stdout(&result)).unwrap();
    let devices = found["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2, "{found:#}");
    for device in devices {
        assert_eq!((&device["self_test"], &device["arena_bytes"]), (&"passed".into(), &67_108_864.into()));
        assert!(device["self_test_seconds"]["hashing"].as_f64().unwrap() > 0.0, "{device:#}");
    }
    let text = stdout(&output(with_devices("1").args(["gpu", "check", "-m", "67108864"])));
    assert!(text.contains("emulated device 0") && text.contains("self-test passed:"), "{text}");
    let small = output(with_devices("1").args(["gpu", "check", "-m", "1000000"]));
    assert_eq!(small.status.code(), Some(1));
    assert!(stdout(&small).contains("self-test failed") && stderr(&small).contains("--max-allocation"));
}

#[test]
fn a_circuit_is_measured_on_a_device_beside_the_cpu() {
    let arguments = ["bench", "circuit", "--log-size=5", "--rounds=1", "--device=0", "--json"];
    let result = output(with_devices("1").args(arguments));
    assert!(result.status.success(), "{}", stderr(&result));
    let found: Value = serde_json::from_str(&stdout(&result)).unwrap();
    let device = &found["circuits"][0]["device"];
    assert!(
        device["seconds"].as_f64().unwrap() > 0.0 && device["memory_bytes"].as_u64().unwrap() > 0,
        "{found:#}"
    );
    // An emulated multiprocessor of 1 GHz makes 6 M permutations a second, its memory moves 8 GB.
    let permutations = found["circuits"][0]["permutations"].as_f64().unwrap();
    let floor = device["floors"]["hashing"].as_f64().unwrap();
    assert!((floor * 6.079e6 / permutations - 1.0).abs() < 0.01, "{floor} s for {permutations}");
}

#[tokio::test]
async fn devices_that_are_not_there_are_refused_before_anything_is_done() {
    let scene = Scene::new(&[]).await;
    for (count, device, words) in [
        ("0", "all", "the CUDA driver sees no device"),
        ("1", "0,3", "cuDeviceGet failed on device 3"),
        ("1", "first", "\"first\" is neither cpu nor all"),
    ] {
        let mut command = scene.program("prover");
        command.env("ROUNDHOUSE_CUDA_DRIVER", emulated_driver()).env("EMULATED_DEVICES", count);
        command.env("EMULATED_MEMORY", "100000000").args(["run", "--component=circuit-prover"]);
        let result = output(command.arg(format!("--device={device}")).arg("--max-allocation=67108864"));
        assert_eq!(result.status.code(), Some(2), "{}", stderr(&result));
        assert!(stderr(&result).contains(words), "{words}: {}", stderr(&result));
    }
    let mut command = scene.program("prover");
    command.env("ROUNDHOUSE_CUDA_DRIVER", "/nowhere/libcuda.so.1");
    let result = output(command.args(["run", "--component=circuit-prover", "--device=all"]));
    assert_eq!(result.status.code(), Some(2));
    assert!(stderr(&result).contains("there is no CUDA driver"), "{}", stderr(&result));
}
