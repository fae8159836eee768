//! Whole proofs on the emulated driver: those of the processor, and so the library's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    unsafe_code,
    reason = "a test fails by panicking"
)]

mod emulated;

use emulated::device;
use gpu_prover::circuit::{DeviceCircuit, DeviceError};
use gpu_prover::device::Device;
use plonk_prover::Stages;
use plonk_prover::sample::{Sample, standard_config};
use plonky2::fri::{FriConfig, FriReductionStrategy};
use plonky2::iop::witness::PartialWitness;
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::circuit_data::CircuitConfig;
use plonky2::plonk::config::PoseidonGoldilocksConfig as C;

fn sample(config: CircuitConfig, rows: usize) -> Sample {
    Sample::new(config, rows).expect("its inputs fit")
}

/// Proves on the device and on the processor, and compares.
fn assert_equal(device: &Device, sample: &Sample) {
    let (prover_data, common) = (&sample.circuit.prover_only, &sample.circuit.common);
    let circuit = DeviceCircuit::new(device, prover_data, common).unwrap();
    let kept = device.arena().used;
    let ours = circuit.prove(&sample.witness(), &mut Stages::default()).unwrap();
    assert_eq!(device.arena().used, kept, "what a proof took is given back");
    let expected = sample.prove(&mut Stages::default()).unwrap();
    assert!(ours == expected, "another proof, of 2^{} rows", common.degree_bits());
    assert!(sample.verifies(ours));
    drop(circuit);
    assert_eq!(device.arena().used, 0, "what a circuit took is given back");
}

#[test]
fn proofs_are_the_processors_at_every_size() {
    let device = device("emulated-proofs");
    for rows in [1, 30, 100, 1_000] {
        assert_equal(&device, &sample(standard_config(), rows));
    }
}

#[test]
fn proofs_are_the_processors_in_every_configuration() {
    let device = device("emulated-proofs");
    let fri = |rate_bits: usize, cap_height, reduction_strategy| FriConfig {
        rate_bits,
        cap_height,
        reduction_strategy,
        num_query_rounds: 93_usize.div_ceil(rate_bits),
        proof_of_work_bits: 7,
    };
    for (num_routed_wires, fri_config) in [
        (80, fri(6, 4, FriReductionStrategy::ConstantArityBits(4, 5))),
        (37, fri(8, 0, FriReductionStrategy::MinSize(None))),
        (80, fri(4, 2, FriReductionStrategy::Fixed(vec![1, 2, 3]))),
        (80, fri(3, 0, FriReductionStrategy::Fixed(vec![]))),
    ] {
        assert_equal(
            &device,
            &sample(CircuitConfig { num_routed_wires, fri_config, ..standard_config() }, 60),
        );
    }
}

/// A circuit that verifies a proof has all kinds of gates.
#[test]
fn a_proof_of_a_circuit_that_verifies_a_proof_is_the_processors() {
    use plonky2::iop::witness::WitnessWrite;
    let inner = sample(standard_config(), 60);
    let proof = inner.prove(&mut Stages::default()).unwrap();
    let mut builder = CircuitBuilder::new(standard_config());
    let target = builder.add_virtual_proof_with_pis(&inner.circuit.common);
    let key = builder.constant_verifier_data::<C>(&inner.circuit.verifier_only);
    builder.verify_proof::<C>(&target, &key, &inner.circuit.common);
    builder.register_public_inputs(&target.public_inputs);
    let mut inputs = PartialWitness::new();
    inputs.set_proof_with_pis_target(&target, &proof).expect("set once");
    let outer = Sample::of(builder.build::<C>(), inputs).unwrap();
    let gates: Vec<String> = outer.circuit.common.gates.iter().map(|gate| gate.0.id()).collect();
    println!("{}", gates.join("\n"));
    assert_equal(&device("emulated-proofs"), &outer);
}

#[test]
fn what_does_not_fit_the_arena_is_said_and_takes_nothing() {
    let _loaded = device("emulated-proofs");
    let sample = sample(standard_config(), 100);
    let (prover_data, common) = (&sample.circuit.prover_only, &sample.circuit.common);
    let mut refused = 0;
    for kilobytes in [1, 64, 512, 1_024, 2_048, 3_072] {
        let device = Device::open_with(0, Some(kilobytes << 10), b"emulated").unwrap();
        let proven = DeviceCircuit::new(&device, prover_data, common)
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
