//! The emulated driver (`kernels/emulator.cpp`): the real host code and the real kernels, on the host's processor.

// Not every test uses all of it.
#![allow(dead_code, unreachable_pub)]

use gpu_prover::device::Device;
use gpu_prover::driver;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The kernels' sources.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Compiles the emulated driver, with what is replaced in the kernels' sources; returns the library.
pub fn emulator(name: &str, replaced: &[(&str, &str, &str)]) -> PathBuf {
    let sources = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&sources).unwrap();
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut text = fs::read_to_string(&path).unwrap();
        for (_, from, to) in replaced.iter().filter(|(of, ..)| *of == file) {
            assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}");
            text = text.replace(from, to);
        }
        fs::write(sources.join(file), text).unwrap();
    }
    let library = sources.join("libemulated_cuda.so");
    let output = Command::new(std::env::var("CXX").unwrap_or("g++".to_owned()))
        .args(["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"])
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &sources.join("emulator.cpp")])
        .output()
        .expect("a C++ compiler (g++, or what CXX names)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// What the tests' arenas have.
pub const ARENA: usize = 256 << 20;

/// An emulated device, in this process.
pub fn device(test: &str) -> Device {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| driver::use_library(&emulator(test, &[])).unwrap());
    Device::open_with(0, Some(ARENA), b"emulated").unwrap()
}
