//! The kernels, on the emulated driver (`kernels/emulator.cpp`): the real host code and the real kernels, on the host's processor,
//! against the library's Rust.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "a test fails by panicking"
)]

use gpu_prover::device::{Device, Digest};
use gpu_prover::driver;
use plonky2::field::goldilocks_field::GoldilocksField as F;
use plonky2::field::types::{Field, Field64, PrimeField64, Sample};
use plonky2::hash::merkle_tree::MerkleTree;
use plonky2::hash::poseidon::{ALL_ROUND_CONSTANTS, PoseidonHash};
use plonky2::util::reverse_bits;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

/// Compiles the emulated driver, with what is replaced in the kernels' sources; returns the library.
fn emulator(name: &str, replaced: &[(&str, &str, &str)]) -> PathBuf {
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

/// The emulated driver, in this process.
fn device() -> Device {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| driver::use_library(&emulator("emulated", &[])).unwrap());
    Device::open_with(0, b"emulated").unwrap()
}

fn residues(count: usize) -> Vec<u64> {
    let edges = [0, 1, F::ORDER - 1, F::ORDER, F::ORDER + 1, u64::MAX, 0xffff_ffff, 1 << 32, 1 << 63];
    (0..count).map(|i| if i % 3 == 0 { edges[i / 3 % edges.len()] } else { F::rand().0 }).collect()
}

/// The library's tree over the same matrix: leaves' digests and cap.
fn expected(columns: &[u64], log_rows: u32, cap_height: u32) -> (MerkleTree<F, PoseidonHash>, usize) {
    let rows = 1 << log_rows;
    let leaf = |leaf: usize| {
        let row = reverse_bits(leaf, log_rows as usize);
        columns.chunks(rows).map(|column| F::from_noncanonical_u64(column[row])).collect()
    };
    (MerkleTree::new((0..rows).map(leaf).collect(), cap_height as usize), rows)
}

fn canonical(hash: plonky2::hash::hash_types::HashOut<F>) -> Digest {
    hash.elements.map(|element| element.to_canonical_u64())
}

#[test]
fn trees_are_those_of_the_library_at_every_size() {
    let device = device();
    for (log_rows, cap_height) in [(0, 0), (1, 0), (1, 1), (2, 1), (5, 0), (7, 4), (8, 3), (12, 4)] {
        for width in [1, 7, 8, 9, 16, 33, 135] {
            if log_rows == 12 && width > 9 {
                continue;
            }
            let columns = residues(width << log_rows);
            let levels = device.merkle_tree(&columns, log_rows, cap_height).unwrap();
            let (tree, rows) = expected(&columns, log_rows, cap_height);
            let what = format!("2^{log_rows} rows of {width}, cap {cap_height}");
            let cap: Vec<Digest> = tree.cap.0.iter().map(|hash| canonical(*hash)).collect();
            assert_eq!(levels.last().unwrap(), &cap, "{what}");
            for leaf in [0, rows / 3, rows - 1] {
                let siblings = tree.prove(leaf).siblings.into_iter().map(canonical);
                for (height, sibling) in siblings.enumerate() {
                    assert_eq!(levels[height][(leaf >> height) ^ 1], sibling, "{what}, leaf {leaf}");
                }
            }
        }
    }
}

/// Each with a library of its own.
const CHILD: &str = "GPU_PROVER_TEST_LIBRARY";

/// What [`child`] says of this library, in a process of its own with these variables.
fn said(library: &Path, variables: &[(&str, String)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, library)
        .envs(variables.iter().map(|(name, value)| (name, value.as_str())))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_once("said: ").unwrap().1.lines().next().unwrap().to_owned()
}

/// Multiplies and makes a tree, and says whether they are right, how many calls that took, and how much was not released.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    driver::use_library(Path::new(&path)).unwrap();
    let tree = Device::open_with(0, b"emulated").and_then(|device| {
        let columns = residues(9 << 5);
        let levels = device.merkle_tree(&columns, 5, 1)?;
        let (tree, _) = expected(&columns, 5, 1);
        Ok(levels.last().unwrap() == &tree.cap.0.iter().map(|hash| canonical(*hash)).collect::<Vec<_>>())
    });
    // SAFETY: the emulated driver's own functions, as it defines them.
    let (calls, live, products) = unsafe {
        let library = libloading::Library::new(&path).unwrap();
        let count = |name: &str| library.get::<extern "C" fn() -> i64>(name.as_bytes()).unwrap()();
        let multiply = library.get::<extern "C" fn(u64, u64) -> u64>(b"emulator_multiply").unwrap();
        let all = residues(100);
        let right = |a: u64, b: u64| {
            multiply(a, b) == (F::from_noncanonical_u64(a) * F::from_noncanonical_u64(b)).to_canonical_u64()
        };
        let products = all.iter().all(|a| all.iter().all(|b| right(*a, *b)));
        (count("emulator_calls"), count("emulator_live"), products)
    };
    let tree = match tree {
        Ok(true) => "right".to_owned(),
        Ok(false) => "wrong".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("\nsaid: products {products}, tree {tree}; {calls} calls, {live} live");
}

#[test]
fn broken_kernels_are_found() {
    let said_of = |name: &str, replaced: &[(&str, &str, &str)]| said(&emulator(name, replaced), &[]);
    assert!(said_of("whole", &[]).starts_with("products true, tree right; "));
    let (field, hash, tree) = ("goldilocks.cuh", "poseidon.cuh", "kernels.cu");
    for (name, file, from, to, found) in [
        ("no-borrow", field, "less -= EPSILON", "(void)0", "products false"),
        ("no-carry", field, "sum += EPSILON;\n    return", "(void)0;\n    return", "products false"),
        ("matrix", hash, "13, 13, 39", "13, 13, 38", "tree wrong"),
        ("diagonal", hash, "low[0] * 8", "low[0] * 7", "tree wrong"),
        ("rounds", hash, "FULL_ROUNDS_AT_EACH_END 4", "FULL_ROUNDS_AT_EACH_END 3", "tree wrong"),
        ("no-domain", tree, "state[RATE] = width + 1", "state[RATE] = width", "tree wrong"),
        ("order", tree, "reverse_bits(row, log_rows)", "row", "tree wrong"),
        ("last-column", tree, "begin + i < width", "begin + i + 1 < width", "tree wrong"),
    ] {
        let said = said_of(name, &[(file, from, to)]);
        assert!(said.contains(found), "{name}: {said}");
    }
}

#[test]
fn a_driver_that_fails_at_any_call_is_an_error_without_a_leak() {
    let library = emulator("failing", &[]);
    let whole = said(&library, &[]);
    let (_, rest) = whole.split_once("; ").unwrap();
    let (calls, _) = rest.split_once(" calls, 0 live").unwrap();
    let calls: u32 = calls.parse().unwrap();
    assert!(calls > 15, "{whole}");
    let mut failures = 0;
    for call in 1..=calls {
        let said = said(&library, &[("EMULATED_FAILURE", format!("{call}:719"))]);
        assert!(said.ends_with(" 0 live"), "call {call}: {said}");
        let is_named = said.contains("failed on device 0: LaunchFailed, CUDA's code 719");
        // What is released at the end reports to nobody.
        assert!(is_named || said.contains("tree right"), "call {call}: {said}");
        failures += u32::from(is_named);
    }
    assert!(failures > calls / 2, "{failures} of {calls}");
}

#[test]
fn too_large_a_matrix_is_out_of_memory() {
    let library = emulator("small", &[]);
    let said = said(&library, &[("EMULATED_MEMORY", "1000".to_owned())]);
    assert!(
        said.contains("tree cuMemAlloc failed on device 0: OutOfMemory") && said.ends_with(" 0 live"),
        "{said}"
    );
}

#[test]
fn the_constants_are_the_librarys() {
    let mut text = String::from(
        "// Poseidon's round constants, by round. Written by tests/kernels.rs (UPDATE_CONSTANTS=1).\n\n\
         __constant__ u64 ROUND_CONSTANTS[ROUNDS * WIDTH] = {\n",
    );
    for round in ALL_ROUND_CONSTANTS.chunks(6) {
        let line: Vec<String> = round.iter().map(|constant| format!("{constant:#018x}ull")).collect();
        let _ = writeln!(text, "    {},", line.join(", "));
    }
    text.push_str("};\n");
    let path = folder().join("poseidon_constants.inc");
    if std::env::var_os("UPDATE_CONSTANTS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap() == text, "{} is not current", path.display());
}

#[test]
fn the_emulated_driver_has_every_kernel() {
    let kernels = fs::read_to_string(folder().join("kernels.cu")).unwrap();
    let emulator = fs::read_to_string(folder().join("emulator.cpp")).unwrap();
    let names = kernels.split("__global__ void ").skip(1).map(|rest| rest.split('(').next().unwrap());
    for name in names {
        assert!(emulator.contains(&format!("KERNEL({name})")), "{name}");
    }
}
