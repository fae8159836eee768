//! The programs with devices: the emulated driver of `gpu-prover`, named as the system's would be found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![cfg(feature = "gpu")]

use gpu_prover::driver;
use gpu_prover::pool::{Pool, PoolSettings};
use ledger_circuits::{CircuitProver, LedgerProofSystem};
use plonk_prover::{Circuit, OnCpu, Proof, Unproven};
use plonky2::field::goldilocks_field::GoldilocksField;
use proof_system::{CircuitType, InputSource, KeyPurpose, ProofSystem, Uncontrolled};
use proving_model::{AggregationRound, BatchId};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};
use test_support::programs::{Scene, compile_library, output, program, stderr, stdout};
use vise::{Format, MetricsCollection};

/// The emulated driver's library, compiled once.
fn emulated_driver() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libemulated_cuda.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gpu-prover/kernels/emulator.cpp");
        compile_library(&source, &library);
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
    // An emulated multiprocessor of 1 GHz makes 9.6 M permutations a second, its memory moves 8 GB.
    let permutations = found["circuits"][0]["permutations"].as_f64().unwrap();
    let roofline = device["rooflines"]["hashing"].as_f64().unwrap();
    assert!((roofline * 9.552e6 / permutations - 1.0).abs() < 0.01, "{roofline} s for {permutations}");
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

/// As `/metrics` has it.
fn proven_on_devices() -> u64 {
    let mut text = String::new();
    MetricsCollection::default().collect().encode(&mut text, Format::OpenMetrics).unwrap();
    let mut counts = text
        .lines()
        .filter_map(|line| line.strip_prefix(r#"device_circuits_total{device="0",outcome="proven"} "#));
    counts.next().map_or(0, |count| count.trim().parse().unwrap())
}

/// Proves twice, and compares.
#[derive(Debug)]
struct OnBoth(Pool);

impl CircuitProver for OnBoth {
    fn prove(&self, circuit: &Arc<Circuit>, values: Vec<Option<GoldilocksField>>) -> Result<Proof, Unproven> {
        let before = proven_on_devices();
        let proof = self.0.prove(circuit, values.clone())?;
        assert_eq!(proven_on_devices(), before + 1, "the CPU has proven it");
        assert!(proof == OnCpu.prove(circuit, values)?, "another proof than the CPU's");
        Ok(proof)
    }
}

#[test]
fn the_ledgers_own_circuits_are_proven_on_a_device_as_on_the_cpu() {
    driver::use_library(emulated_driver()).unwrap();
    let settings = PoolSettings { max_allocation: Some(400 << 20), ..PoolSettings::default() };
    let pool = Pool::open(&[0], settings).unwrap();
    let keys = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    let system = LedgerProofSystem::shipped(&keys).unwrap().proven_by(Arc::new(OnBoth(pool)));
    system.load_keys(KeyPurpose::Prove, &|_, _, _| ()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ledger/transfers.csv");
    let input = system.read_input(&InputSource { path, state_path: None }).unwrap();
    let batch = BatchId { chain_id: 1, number: 1 };
    let mut proven = Vec::new();
    let mut prove = |circuit: proof_system::BasicCircuit| {
        let kind = CircuitType { round: AggregationRound::BasicCircuits, id: circuit.id };
        let vector = system.synthesize(kind, &circuit.payload, &Uncontrolled).unwrap();
        system.prove(kind, vector, &Uncontrolled).unwrap();
        proven.push(circuit.id);
        true
    };
    system.generate_circuits(batch, &input.payload, &mut prove, &Uncontrolled).unwrap();
    assert_eq!(proven.len(), 3, "one of each kind: {proven:?}");
}
