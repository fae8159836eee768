//! The suite that every proof system passes: call [`check`] from a test of your crate.
//!
//! It runs one batch through all stages and holds what the pipeline relies on: circuits come in the same order
//! each time, every stage's result is accepted by the next one and by `verify`, damage is refused, and a final
//! proof verifies against its own statement alone.

use crate::{
    CircuitType, Control, ProofSystem, ProofSystemError, Uncontrolled, bare,
    tree::{AggregationTree, TreeNode},
};
use proving_model::{AggregationRound, BatchId};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs the whole suite; panics with the rule that is broken.
///
/// `first` and `second` are witness inputs of two different batches, small enough for a test.
///
/// # Panics
/// When the proof system breaks a rule.
#[allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test suite fails by panicking")]
pub fn check(system: &dyn ProofSystem, first: &[u8], second: &[u8]) {
    let batches = [BatchId { chain_id: 3, number: 17 }, BatchId { chain_id: 4, number: 18 }];
    circuits_come_in_the_same_order(system, batches[0], first);
    generation_stops_when_asked(system, batches[0], first);
    nonsense_is_refused(system, batches[0]);
    proofs_are_checked(system, batches[0], first);

    let final_proofs: Vec<(Vec<u8>, Vec<u8>)> = [first, second]
        .iter()
        .zip(batches)
        .map(|(input, batch)| {
            // Unwrap safety: a test suite fails by panicking.
            let run =
                bare::prove_batch(system, batch, input, &Uncontrolled).expect("a valid batch is proven");
            let statement = system.outputs(batch, input).expect("a valid batch has outputs").remove(0);
            (run.final_proof, statement.content)
        })
        .collect();
    for (i, (proof, _)) in final_proofs.iter().enumerate() {
        for (j, (_, statement)) in final_proofs.iter().enumerate() {
            let verdict = system.verify_final(proof, statement);
            assert_eq!(verdict.is_ok(), i == j, "final proof {i} against statement {j}: {verdict:?}");
        }
    }
    let (proof, statement) = &final_proofs[0];
    for position in (0..proof.len()).step_by((proof.len() / 16).max(1)) {
        let mut damaged = proof.clone();
        damaged[position] ^= 1;
        assert!(system.verify_final(&damaged, statement).is_err(), "byte {position} flipped is accepted");
    }
    assert!(system.verify_final(&proof[..proof.len() - 1], statement).is_err(), "a cut proof is accepted");
    assert!(system.verify_final(&[], statement).is_err(), "an empty proof is accepted");
    assert!(system.verify_final(proof, b"{}").is_err(), "an empty statement is accepted");
}

#[allow(clippy::unwrap_used, reason = "a test suite fails by panicking")]
fn collect(system: &dyn ProofSystem, batch: BatchId, input: &[u8]) -> Vec<(TreeNode, Vec<u8>)> {
    // Unwrap safety: a test suite fails by panicking.
    let mut tree = AggregationTree::new(system.circuit_table()).unwrap();
    let mut circuits = Vec::new();
    system
        .generate_circuits(
            batch,
            input,
            &mut |circuit| {
                circuits.push((tree.push(circuit.id).0, circuit.payload));
                true
            },
            &Uncontrolled,
        )
        // Unwrap safety: a test suite fails by panicking.
        .unwrap();
    circuits
}

fn circuits_come_in_the_same_order(system: &dyn ProofSystem, batch: BatchId, input: &[u8]) {
    let once = collect(system, batch, input);
    assert!(!once.is_empty(), "a batch without circuits");
    assert_eq!(once, collect(system, batch, input), "circuits differ between two calls");
    for (node, _) in &once {
        let circuit = CircuitType { round: node.round, id: node.circuit_id };
        assert!(system.circuit_table().get(circuit).is_ok(), "{circuit} is not in the table");
    }
}

fn generation_stops_when_asked(system: &dyn ProofSystem, batch: BatchId, input: &[u8]) {
    let mut calls = 0;
    let result = system.generate_circuits(
        batch,
        input,
        &mut |_| {
            calls += 1;
            false
        },
        &Uncontrolled,
    );
    assert!(matches!(result, Err(ProofSystemError::Cancelled)) && calls == 1, "{result:?} after {calls}");
    struct Stop(AtomicUsize);
    impl Control for Stop {
        fn is_cancelled(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed);
            true
        }
    }
    let stop = Stop(AtomicUsize::new(0));
    let result = system.generate_circuits(batch, input, &mut |_| true, &stop);
    assert!(matches!(result, Err(ProofSystemError::Cancelled)), "cancellation is not heard: {result:?}");
}

fn nonsense_is_refused(system: &dyn ProofSystem, batch: BatchId) {
    let nonsense = b"not what you expect".as_slice();
    let result = system.generate_circuits(batch, nonsense, &mut |_| true, &Uncontrolled);
    assert!(matches!(result, Err(ProofSystemError::Invalid(_))), "a nonsense input gives {result:?}");
    for spec in &system.circuit_table().circuits {
        let result = system.synthesize(spec.circuit, nonsense, &Uncontrolled);
        assert!(matches!(result, Err(ProofSystemError::Invalid(_))), "{}: a nonsense circuit", spec.circuit);
        assert!(system.verify(spec.circuit, nonsense).is_err(), "{}: a nonsense proof", spec.circuit);
        if spec.circuit.round != AggregationRound::BasicCircuits {
            let result = system.aggregate(batch, spec.circuit, &[nonsense.to_vec()], &Uncontrolled);
            assert!(matches!(result, Err(ProofSystemError::Invalid(_))), "{}: nonsense proofs", spec.circuit);
            let result = system.aggregate(batch, spec.circuit, &[], &Uncontrolled);
            assert!(matches!(result, Err(ProofSystemError::Invalid(_))), "{}: no proofs", spec.circuit);
        }
        let result = system.prove(spec.circuit, Box::new(7_u8), &Uncontrolled);
        assert!(matches!(result, Err(ProofSystemError::Invalid(_))), "{}: a foreign vector", spec.circuit);
    }
}

#[allow(clippy::unwrap_used, reason = "a test suite fails by panicking")]
fn proofs_are_checked(system: &dyn ProofSystem, batch: BatchId, input: &[u8]) {
    let (node, payload) = collect(system, batch, input).remove(0);
    let circuit = CircuitType { round: node.round, id: node.circuit_id };
    // Unwrap safety: a test suite fails by panicking.
    let vector = system.synthesize(circuit, &payload, &Uncontrolled).unwrap();
    let proof = system.prove(circuit, vector, &Uncontrolled).unwrap();
    system.verify(circuit, &proof).unwrap();
    let mut damaged = proof.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    assert!(system.verify(circuit, &damaged).is_err(), "a damaged proof is accepted");
    for spec in &system.circuit_table().circuits {
        if spec.circuit != circuit {
            assert!(
                system.verify(spec.circuit, &proof).is_err(),
                "{circuit}'s proof passes as {}",
                spec.circuit
            );
        }
    }
}
