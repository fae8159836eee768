//! Proofs made here are the library's, for every kind of gate and configuration that the ledger's circuits have.

#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use plonk_prover::sample::{Sample, other_configs, standard_config};
use plonk_prover::{ProveError, Stages, prove};
use plonky2::field::goldilocks_field::GoldilocksField as F;
use plonky2::field::types::Field;
use plonky2::gates::noop::NoopGate;
use plonky2::iop::witness::PartialWitness;
use plonky2::plonk::circuit_builder::CircuitBuilder;
use plonky2::plonk::circuit_data::CircuitConfig;
use plonky2::plonk::config::PoseidonGoldilocksConfig as C;

const D: usize = 2;

fn sample(config: CircuitConfig, rows: usize) -> Sample {
    Sample::new(config, rows).expect("its inputs fit")
}

/// Proves twice and compares.
fn assert_equal(sample: &Sample) {
    let ours = sample.prove(&mut Stages::default()).expect("the witness satisfies the circuit");
    // The library takes any proof of work that a thread finds; one thread alone finds the smallest.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    let theirs = alone.install(|| sample.prove_by_library()).expect("the witness satisfies the circuit");
    assert!(ours == theirs, "another proof, of 2^{} rows", sample.circuit.common.degree_bits());
    assert_eq!(ours.to_bytes(), theirs.to_bytes());
    assert!(sample.verifies(ours));
}

#[test]
fn proofs_are_the_librarys_at_every_size() {
    for rows in [1, 30, 100, 1_000] {
        assert_equal(&sample(standard_config(), rows));
    }
}

#[test]
fn proofs_are_the_librarys_in_every_configuration() {
    for config in other_configs() {
        assert_equal(&sample(config, 60));
    }
}

#[test]
fn a_proof_of_a_circuit_that_verifies_a_proof_is_the_librarys() {
    let inner = sample(standard_config(), 60);
    assert_equal(&inner);
    assert_equal(&Sample::of_verifying(&inner, standard_config()).expect("the proof verifies"));
}

#[test]
fn proving_twice_gives_the_same_bytes() {
    let sample = sample(standard_config(), 60);
    let prove = || sample.prove(&mut Stages::default()).expect("it satisfies the circuit").to_bytes();
    assert_eq!(prove(), prove());
}

#[test]
fn a_witness_that_does_not_satisfy_the_circuit_gives_no_proof_that_verifies() {
    // With a quotient of 7 pieces on 8 times the points, and of 8, where every value is one of some polynomial.
    for max_quotient_degree_factor in [7, 8] {
        let sample = sample(CircuitConfig { max_quotient_degree_factor, ..standard_config() }, 60);
        let (prover_data, common) = (&sample.circuit.prover_only, &sample.circuit.common);
        let honest = sample.witness();
        let is_noticed = |place: usize| {
            let mut witness = honest.clone();
            witness.values[place] = honest.values[place].map(|value| value + F::ONE);
            match prove(prover_data, common, &witness) {
                Err(error) => {
                    assert_eq!((error, max_quotient_degree_factor), (ProveError::Unsatisfied, 7));
                    true
                }
                Ok(proof) => !sample.verifies(proof),
            }
        };
        assert!(sample.verifies(prove(prover_data, common, &honest).expect("it satisfies the circuit")));
        for input in &prover_data.public_inputs {
            let index = input.index(honest.num_wires, honest.degree);
            assert!(is_noticed(prover_data.representative_map[index]), "{input:?}");
        }
        // Of the others some are in no constraint.
        let set: Vec<usize> = (0..honest.values.len()).filter(|i| honest.values[*i].is_some()).collect();
        let others = set.iter().step_by(set.len() / 12);
        assert!(others.filter(|place| is_noticed(**place)).count() >= 6);
    }
}

#[test]
fn what_it_does_not_have_is_said() {
    let refused = |builder: CircuitBuilder<F, D>| {
        let sample = Sample::of(builder.build::<C>(), PartialWitness::new()).expect("it has no inputs");
        match sample.prove(&mut Stages::default()) {
            Err(ProveError::Unsupported(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    let mut blinded = CircuitBuilder::new(CircuitConfig::standard_recursion_zk_config());
    blinded.add_gate(NoopGate, vec![]);
    assert!(refused(blinded).contains("zero knowledge"));
    let mut looking_up = CircuitBuilder::new(standard_config());
    let table = looking_up.add_lookup_table_from_pairs(std::sync::Arc::new(vec![(0, 1), (1, 2)]));
    let one = looking_up.one();
    looking_up.add_lookup_from_index(one, table);
    assert!(refused(looking_up).contains("lookup"));
}
