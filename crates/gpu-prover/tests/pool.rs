//! Devices that prove for a process, fail, and are replaced by the CPU; on the emulated driver.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod emulated;

use emulated::{ARENA, CHILD, Control, emulator, said};
use gpu_prover::circuit::device_bytes;
use gpu_prover::driver;
use gpu_prover::pool::{Pool, PoolSettings};
use plonk_prover::sample::{Sample, standard_config};
use plonk_prover::{CircuitProver, OnCpu, Unproven};
use plonky2::field::types::Field;
use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};
use vise::{Format, MetricsCollection};

const SETTINGS: PoolSettings =
    PoolSettings { max_allocation: Some(ARENA), patience: Duration::from_secs(60) };
/// Which of the cases below a child is.
const CASE: &str = "GPU_PROVER_TEST_CASE";

fn sample(rows: usize) -> Sample {
    Sample::new(standard_config(), rows).expect("its inputs fit")
}

/// What a case says of the emulated driver, in a process of its own.
fn case(name: &str, variables: &[(&str, &str)]) -> String {
    let library = emulator(&format!("pool-{name}"), &[]);
    said(&library, &[&[(CASE, name)], variables].concat())
}

#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    driver::use_library(Path::new(&path)).unwrap();
    let control = Control::of(Path::new(&path));
    let case = std::env::var(CASE).unwrap();
    let said = match case.as_str() {
        "many" => many(),
        "fails" => fails(&control),
        "behind" => behind(&control),
        "refused" => refused(),
        "unsatisfied" => unsatisfied(),
        "hangs" => hangs(&control),
        "absent" => Pool::open(&[0, 7], SETTINGS).unwrap_err().to_string(),
        "wrong" => wrong(),
        "watched" => watched(),
        other => panic!("{other}"),
    };
    println!("\nsaid: {said}");
}

/// Two devices, four threads that want proofs, two circuits.
fn many() -> String {
    let pool = Pool::open(&[0, 1], SETTINGS).unwrap();
    let samples = [sample(1), sample(30)];
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (pool, samples) = (&pool, &samples);
            scope.spawn(move || {
                for round in 0..3 {
                    let sample = &samples[(thread + round) % 2];
                    let proof = pool.prove(&sample.circuit, sample.values()).unwrap();
                    assert!(proof == OnCpu.prove(&sample.circuit, sample.values()).unwrap());
                }
            });
        }
    });
    let ahead = (0..2).filter(|device| counted(&format!(r#"uploaded_ahead_total{{device="{device}"}}"#)) > 0);
    format!("{} of {} in service, {} uploaded ahead", pool.in_service(), pool.len(), ahead.count())
}

#[test]
fn many_threads_share_the_devices_and_witnesses_are_uploaded_while_others_are_proven() {
    assert_eq!(case("many", &[("EMULATED_DEVICES", "2")]), "2 of 2 in service, 2 uploaded ahead");
}

/// The test above sees a wait that is left out.
#[test]
fn a_witness_that_is_not_waited_for_is_noticed() {
    let waits = "return event->stream ? wait(event->stream.get(), event->at) : (int)SUCCESS;";
    let library =
        emulator("pool-early", &[("emulator.cpp", waits, "return event ? SUCCESS : INVALID_VALUE;")]);
    let said = said(&library, &[(CASE, "many"), ("EMULATED_DEVICES", "2")]);
    assert!(said.starts_with("0 of 2 in service"), "{said}");
}

/// A call fails in the middle of a proof: the CPU makes it, the device is opened again. It fails once more: it is out of service.
fn fails(control: &Control) -> String {
    let pool = Pool::open(&[0], SETTINGS).unwrap();
    let sample = sample(1);
    let expected = OnCpu.prove(&sample.circuit, sample.values()).unwrap();
    let mut states = Vec::new();
    for fails in [false, true, false, true, false] {
        if fails {
            control.fail(30, 700);
        }
        assert!(pool.prove(&sample.circuit, sample.values()).unwrap() == expected);
        states.push(pool.in_service().to_string());
    }
    drop(pool);
    format!("{}, {} live", states.join(" "), live_in_the_end(control))
}

/// What is not released once the devices' threads have closed them.
fn live_in_the_end(control: &Control) -> i64 {
    for _ in 0..100 {
        if control.live() == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    control.live()
}

/// Any call fails while one circuit is proven and another is on its way: both are proven by somebody, and nothing is left.
fn behind(control: &Control) -> String {
    let sample = sample(1);
    let expected = OnCpu.prove(&sample.circuit, sample.values()).unwrap();
    let (mut left, mut outcomes) = (0, BTreeSet::new());
    for call in (1..400).step_by(57) {
        control.fail(0, 0);
        let pool = Pool::open(&[0], SETTINGS).unwrap();
        control.fail(call, 700);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..2 {
                        assert!(pool.prove(&sample.circuit, sample.values()).unwrap() == expected);
                    }
                });
            }
        });
        outcomes.insert(pool.in_service());
        drop(pool);
        left += live_in_the_end(control);
    }
    format!("{left} live, {outcomes:?} in service")
}

#[test]
fn no_circuit_is_lost_behind_one_that_a_device_failed_at() {
    assert_eq!(case("behind", &[]), "0 live, {1} in service");
}

#[test]
fn a_device_that_fails_is_opened_once_more_and_then_out_of_service() {
    assert_eq!(case("fails", &[]), "1 1 1 0 0, 0 live");
}

/// A circuit that does not fit is the CPU's, and the device stays in service. Of two that fit, but not together, one is put out for the other.
fn refused() -> String {
    let (large, medium, small) = (sample(1_000), sample(200), sample(100));
    let arena = device_bytes(&medium.circuit.common);
    let pool = Pool::open(&[0], PoolSettings { max_allocation: Some(arena), ..SETTINGS }).unwrap();
    for sample in [&large, &small, &medium, &small, &large, &medium] {
        let proof = pool.prove(&sample.circuit, sample.values()).unwrap();
        assert!(sample.verifies(proof));
    }
    let proven = counted(r#"circuits_total{device="0",outcome="proven"}"#);
    format!("{} in service, {proven} proven", pool.in_service())
}

/// A counter of devices.
fn counted(name: &str) -> u64 {
    let text = metrics();
    let found = text.lines().find_map(|line| line.strip_prefix("device_")?.strip_prefix(name));
    found.map_or(0, |count| count.trim().parse().unwrap())
}

/// What `/metrics` shows.
fn metrics() -> String {
    let mut text = String::new();
    MetricsCollection::default().collect().encode(&mut text, Format::OpenMetrics).unwrap();
    text
}

#[test]
fn what_does_not_fit_a_device_is_proven_by_the_cpu() {
    assert_eq!(case("refused", &[]), "1 in service, 4 proven");
}

/// Values that do not satisfy the circuit are no device's fault.
fn unsatisfied() -> String {
    let pool = Pool::open(&[0], SETTINGS).unwrap();
    let sample = sample(1);
    let mut values = sample.values();
    let input = sample.circuit.prover_only.public_inputs[0];
    let place = input.index(sample.circuit.common.config.num_wires, sample.circuit.common.degree());
    let place = sample.circuit.prover_only.representative_map[place];
    values[place] = values[place].map(|value| value + plonky2::field::goldilocks_field::GoldilocksField::ONE);
    let unproven = pool.prove(&sample.circuit, values).unwrap_err();
    assert!(matches!(unproven, Unproven::Unverified(_)), "{unproven}");
    format!("{} in service", pool.in_service())
}

#[test]
fn a_witness_that_does_not_satisfy_its_circuit_is_not_the_devices_fault() {
    assert_eq!(case("unsatisfied", &[]), "1 in service");
}

/// A driver that does not answer.
fn hangs(control: &Control) -> String {
    let pool = Pool::open(&[0], PoolSettings { patience: Duration::from_secs(5), ..SETTINGS }).unwrap();
    let sample = sample(1);
    control.hang(30);
    let proof = pool.prove(&sample.circuit, sample.values()).unwrap();
    assert!(sample.verifies(proof));
    format!("{} in service", pool.in_service())
}

#[test]
fn a_device_that_hangs_is_out_of_service() {
    assert_eq!(case("hangs", &[]), "0 in service");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let said = case("absent", &[]);
    assert!(said.contains("cuDeviceGet failed on device 7: InvalidDevice"), "{said}");
}

/// A kernel that computes something else is found by the self-test.
fn wrong() -> String {
    Pool::open(&[0], SETTINGS).unwrap_err().to_string()
}

#[test]
fn a_device_that_proves_wrongly_is_not_opened() {
    let library = emulator("pool-wrong", &[("openings.cuh", "scale(sum, inverse_arity)", "scale(sum, 1)")]);
    let said = said(&library, &[(CASE, "wrong")]);
    assert_eq!(said, "device 0 proves wrongly: its self-test is not what the CPU proves");
}

/// The management library is asked, and what devices did is counted.
fn watched() -> String {
    let pool = Pool::open(&[0], SETTINGS).unwrap();
    let sample = sample(1);
    pool.prove(&sample.circuit, sample.values()).unwrap();
    for _ in 0..100 {
        let text = metrics();
        let has = |line: &str| text.lines().any(|found| found == line);
        if has(r#"device_xid_errors_total{device="0"} 1"#) {
            for line in [
                r#"device_temperature_celsius{device="0"} 42.0"#,
                r#"device_power_watts{device="0"} 300.0"#,
                r#"device_memory_used_bytes{device="0"} 7516192768"#,
                r#"device_in_service{device="0"} 1"#,
                r#"device_circuits_total{device="0",outcome="proven"} 1"#,
                r#"device_arena_size_bytes{device="0"} 268435456"#,
            ] {
                assert!(has(line), "{line}: {text}");
            }
            return "all told".to_owned();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    "nothing told".to_owned()
}

#[test]
fn devices_are_watched_and_what_they_do_is_counted() {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libemulated_nvml.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated/nvml.cpp");
    let mut compiler = Command::new(std::env::var("CXX").unwrap_or("g++".to_owned()));
    assert!(compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap().success());
    assert_eq!(case("watched", &[("ROUNDHOUSE_NVML", library.to_str().unwrap())]), "all told");
}
