//! The emulated driver (`kernels/emulator.cpp`): the real host code and the real kernels, on the host's processor.

// Not every test uses all of it.
#![allow(dead_code, unreachable_pub, unsafe_code, clippy::unwrap_used, clippy::expect_used)]

use gpu_prover::device::Device;
use gpu_prover::driver;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

const STRICT: &[&str] = &["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"];

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
        .args(["-std=c++17", "-O2", "-shared", "-fPIC"])
        // What is broken may warn.
        .args(if replaced.is_empty() { STRICT } else { &[] })
        .arg("-o")
        .args([&library, &sources.join("emulator.cpp")])
        .output()
        .expect("a C++ compiler (g++, or what CXX names)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}

/// What the tests' arenas have.
pub const ARENA: usize = 256 << 20;

/// Has the tests that need no emulator run on the system's driver and a real device (`scripts/gpu-acceptance`).
const ON_A_DEVICE: &str = "GPU_PROVER_TEST_ON_A_DEVICE";

/// An emulated device, in this process.
pub fn device(test: &str) -> Device {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        if std::env::var_os(ON_A_DEVICE).is_none() {
            driver::use_library(&emulator(test, &[])).unwrap();
        }
    });
    Device::open(0, Some(ARENA)).unwrap()
}

/// Names the emulated driver's library to a test's program that is run as a process of its own.
pub const CHILD: &str = "GPU_PROVER_TEST_LIBRARY";

/// What the test `child` of this program says of this library, in a process of its own with these variables.
pub fn said(library: &Path, variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, library)
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_once("said: ").unwrap().1.lines().next().unwrap().to_owned()
}

/// The emulated driver's own functions.
pub struct Control {
    library: libloading::Library,
}

impl Control {
    /// Of the library that this process uses.
    pub fn of(path: &Path) -> Self {
        // SAFETY: loading it runs nothing.
        Self { library: unsafe { libloading::Library::new(path) }.unwrap() }
    }

    fn function<T: Copy>(&self, name: &str) -> T {
        // SAFETY: the functions are of the types that the methods below ask for.
        *unsafe { self.library.get::<T>(name.as_bytes()) }.unwrap()
    }

    /// Calls of the driver since it was told to fail, or from the beginning.
    pub fn calls(&self) -> i64 {
        self.function::<extern "C" fn() -> i64>("emulator_calls")()
    }

    /// What is not released.
    pub fn live(&self) -> i64 {
        self.function::<extern "C" fn() -> i64>("emulator_live")()
    }

    /// Makes the n-th call from now on fail.
    pub fn fail(&self, call: i64, code: i32) {
        self.function::<extern "C" fn(i64, i32)>("emulator_fail")(call, code);
    }

    /// Makes the n-th call from now on hang.
    pub fn hang(&self, call: i64) {
        self.fail(call, -1);
    }

    /// The kernels' product.
    pub fn multiply(&self, a: u64, b: u64) -> u64 {
        self.function::<extern "C" fn(u64, u64) -> u64>("emulator_multiply")(a, b)
    }
}
