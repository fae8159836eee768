//! Whole proofs on the emulated driver: those of the processor, and so the library's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod emulated;

use emulated::{ARENA, CHILD, Control, device, emulator, said};
use gpu_prover::DeviceError;
use gpu_prover::circuit::{DeviceCircuit, device_bytes};
use gpu_prover::device::Device;
use gpu_prover::driver;
use plonk_prover::sample::{Sample, other_configs, standard_config};
use plonk_prover::{Proof, Stages};
use plonky2::fri::{FriConfig, FriReductionStrategy};
use plonky2::plonk::circuit_data::CircuitConfig;
use std::path::Path;

fn sample(config: CircuitConfig, rows: usize) -> Sample {
    Sample::new(config, rows).expect("its inputs fit")
}

/// Proves on the device and on the processor, and compares.
fn assert_equal(sample: &Sample) {
    let device = device("emulated-proofs");
    let common = &sample.circuit.common;
    let circuit = DeviceCircuit::new(&device, &sample.circuit).unwrap();
    let kept = device.arena().used;
    let ours = circuit.prove(&sample.witness(), &mut Stages::default()).unwrap();
    assert_eq!(device.arena().used, kept, "what a proof took is given back");
    let expected = sample.prove(&mut Stages::default()).unwrap();
    assert!(ours == expected, "another proof, of 2^{} rows", common.degree_bits());
    let (most, declared) = (device.arena().most_used, device_bytes(common));
    assert!(most <= declared && declared < most + most / 10 + (3 << 20), "{most} bytes, {declared} declared");
    assert!(sample.verifies(ours));
    drop(circuit);
    assert_eq!(device.arena().used, 0, "what a circuit took is given back");
}

#[test]
fn proofs_are_the_processors_at_every_size() {
    for rows in [1, 30, 100, 1_000] {
        assert_equal(&sample(standard_config(), rows));
    }
}

#[test]
fn proofs_are_the_processors_in_every_configuration() {
    for config in other_configs() {
        assert_equal(&sample(config, 60));
    }
}

fn proven(sample: &Sample, arena: usize) -> Result<Proof, DeviceError> {
    let device = Device::open(0, Some(arena))?;
    DeviceCircuit::new(&device, &sample.circuit)?.prove(&sample.witness(), &mut Stages::default())
}

#[test]
fn every_kind_of_gate_is_evaluated_as_the_processor_does() {
    let _loaded = device("emulated-proofs");
    for config in [standard_config(), light_config()] {
        let zoo = Sample::of_every_gate(&config, 2, 110);
        assert!(proven(&zoo, ARENA).unwrap() == zoo.prove(&mut Stages::default()).unwrap());
    }
}

/// With few queries and little work.
fn light_config() -> CircuitConfig {
    let fri_config = FriConfig {
        rate_bits: 3,
        cap_height: 1,
        proof_of_work_bits: 3,
        reduction_strategy: FriReductionStrategy::ConstantArityBits(3, 2),
        num_query_rounds: 2,
    };
    CircuitConfig { security_bits: 9, fri_config, ..standard_config() }
}

#[test]
fn a_proof_of_a_circuit_that_verifies_a_proof_is_the_processors() {
    let verifying = Sample::of_verifying(&sample(light_config(), 20), standard_config());
    assert_equal(&verifying.expect("the proof verifies"));
}

/// Proves, and says whether the proof is the processor's. With `FAILURES` set, has the driver fail at the n-th call, for every n of a small
/// proof.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    driver::use_library(Path::new(&path)).unwrap();
    let control = Control::of(Path::new(&path));
    if std::env::var_os(FAILURES).is_some() {
        println!("\nsaid: {}", with_each_call_failing(&control));
        return;
    }
    let zoo = Sample::of_every_gate(&light_config(), 2, 110);
    let expected = zoo.prove(&mut Stages::default()).unwrap();
    let said = match proven(&zoo, ARENA) {
        Ok(proof) if proof == expected => "all right".to_owned(),
        Ok(_) => "another proof".to_owned(),
        Err(error) => error.to_string(),
    };
    println!("\nsaid: {said}");
}

const FAILURES: &str = "GPU_PROVER_TEST_FAILURES";

fn with_each_call_failing(control: &Control) -> String {
    let zoo = Sample::of_every_gate(&light_config(), 1, 0);
    let expected = zoo.prove(&mut Stages::default()).unwrap();
    let prove = || proven(&zoo, 4 << 20);
    control.fail(0, 0);
    assert!(prove().unwrap() == expected);
    let calls = control.calls();
    let mut failures = 0;
    for call in 1..=calls {
        control.fail(call, 719);
        match prove() {
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.contains("failed on device 0: LaunchFailed, CUDA's code 719"),
                    "call {call}: {text}"
                );
                failures += 1;
            }
            // What is released at the end reports to nobody.
            Ok(proof) => assert!(proof == expected, "call {call}: another proof"),
        }
        assert_eq!(control.live(), 0, "call {call} leaks");
    }
    format!("{failures} of {calls}")
}

#[test]
fn a_driver_that_fails_at_any_call_is_an_error_without_a_leak() {
    let said = said(&emulator("failing-proofs", &[]), &[(FAILURES, "1")]);
    let (failures, calls) = said.split_once(" of ").unwrap();
    let (failures, calls): (u32, u32) = (failures.parse().unwrap(), calls.parse().unwrap());
    // Two streams, the kernels, the memory and the context.
    assert!(calls > 100 && calls - failures <= 6, "{said}");
}

#[test]
fn broken_kernels_are_found() {
    let said_of = |name: &str, replaced: &[(&str, &str, &str)]| said(&emulator(name, replaced), &[]);
    assert_eq!(said_of("whole-proofs", &[]), "all right");
    let (gates, mixing) = ("gates.cuh", "constraints.cuh");
    let (permutation, openings) = ("permutation.cuh", "openings.cuh");
    let all = [
        (gates, "product(wire(p, 4 * i + 2), addend_factor)", "wire(p, 4 * i + 2)"),
        (gates, "scale(wires(p, 8 * i + 4), addend_factor)", "wires(p, 8 * i + 4)"),
        (gates, "emit(mix, subtract(wires(p, 6 * i + 4), computed))", "emit(mix, wires(p, 6 * i + 4))"),
        (gates, "digit < gate.b", "digit + 1 < gate.b"),
        (gates, "subtract(constant(p, i), wire(p, i))", "subtract(wire(p, i), constant(p, i))"),
        (gates, "subtract(wire(p, i), p.public_inputs_hash[i])", "wire(p, i)"),
        (gates, "add(add(index, index), wire(p, own_bits + i))", "add(index, wire(p, own_bits + i))"),
        (gates, "subtract(list[2 * k + 1], list[2 * k])", "list[2 * k + 1]"),
        (gates, "first_sum = 6 + gate.a * gate.b", "first_sum = 6 + gate.a"),
        (gates, "table[points + i]", "table[i]"),
        (gates, "all = multiply(all, factor)", "all = factor"),
        (gates, "            value = own_value;\n", ""),
        (gates, "product(swap, subtract(swap, 1))", "product(swap, swap)"),
        (gates, "return input;", "return computed;"),
        (gates, "state[0], first_partial + round", "state[0], first_partial + round / 2"),
        (gates, "first + WIDTH * round + i", "first + WIDTH * round"),
        (gates, "constants + round * WIDTH", "constants"),
        (mixing, "has_others ? subtract(0xffffffffull, selector) : 1", "1 + 0 * has_others"),
        (mixing, "subtract(zs[(u64)c << log_all], 1)", "zs[(u64)c << log_all]"),
        (mixing, "((t + 1) & mask)", "(t & mask)"),
        (mixing, "            before = after;\n", ""),
        (mixing, "q.cosets[3 * coset + 2]", "q.cosets[3 * coset + 1]"),
        (mixing, "matrix[k * cosets + j]", "matrix[j]"),
        (permutation, "product(beta_x, ks[wire])", "beta_x"),
        (
            permutation,
            "inverted = product(inverted, denominators[step])",
            "inverted = product(inverted, before[step])",
        ),
        (permutation, "products[threadIdx.x - 1];", "products[threadIdx.x];"),
        (permutation, "distance *= 2) {\n        __syncthreads();", "distance *= 2) {"),
        (permutation, ": 1;\n        __syncthreads();", ": 1;"),
        (permutation, "i >= count || block == 0", "i < count || block == 0"),
        (permutation, "running[row * steps - 1]", "running[row * steps]"),
        (openings, "square = multiply(square, square)", "square = multiply(square, result)"),
        (openings, "half /= 2) {\n        __syncthreads();", "half /= 2) {"),
        (openings, "if (!is_first) own", "if (is_first) own"),
        (openings, "inverse(subtract({x, 0}, o.point))", "subtract({x, 0}, o.point)"),
        (openings, "(t << o.rate_bits) | coset", "place"),
        (openings, "reverse_bits(element >> 1, arity_bits)", "(u64)(element >> 1)"),
        (openings, "scale(sum, inverse_arity)", "scale(sum, 1)"),
        (openings, "scale(ratio, inverse_roots[m])", "scale(ratio, inverse_roots[0])"),
        (openings, "challenge >> (64 - bits) == 0", "challenge >> (64 - bits) != 0"),
    ];
    // Two at a time.
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(broken) = all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let (_, from, to) = broken;
                    let number = all.iter().position(|other| other == broken).unwrap();
                    let said = said_of(&format!("broken-proofs-{number}"), &[*broken]);
                    assert_ne!(said, "all right", "{from:?} as {to:?}");
                }
            });
        }
    });
}

#[test]
fn what_does_not_fit_the_arena_is_said_and_takes_nothing() {
    let _loaded = device("emulated-proofs");
    let sample = sample(standard_config(), 100);
    let mut refused = 0;
    for kilobytes in [1, 64, 512, 1_024, 2_048, 3_072] {
        let device = Device::open(0, Some(kilobytes << 10)).unwrap();
        let proven = DeviceCircuit::new(&device, &sample.circuit)
            .and_then(|circuit| circuit.prove(&sample.witness(), &mut Stages::default()));
        if let Err(error) = proven {
            let text = error.to_string();
            assert!(
                matches!(error, DeviceError::Driver(_)) && text.contains("do not fit device 0's arena"),
                "{text}"
            );
            refused += 1;
        }
        assert_eq!(device.arena().used, 0);
    }
    assert!(refused >= 3, "{refused}");
}
