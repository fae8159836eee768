//! The suite that every proof system passes: call [`check`] from a test of your crate.
//!
//! It runs one batch through all stages and holds what the pipeline relies on: circuits come in the same order
//! each time, every stage's result is accepted by the next one and by `verify`, damage is refused, a circuit aggregates
//! only what [`CircuitTable::check_children`](crate::CircuitTable::check_children) lets it, and a final proof verifies against
//! its own statement alone.

use crate::{
    CircuitType, Control, ProofSystem, ProofSystemError, Uncontrolled, bare,
    tree::{AggregationTree, Group, TreeNode},
};
use proving_model::{AggregationRound, BatchId};
use std::collections::BTreeMap;
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

    let mut aggregations = Aggregations::default();
    let final_proofs: Vec<(Vec<u8>, Vec<u8>)> = [first, second]
        .iter()
        .zip(batches)
        .map(|(input, batch)| {
            let mut observe = |group: &Group, proofs: &[Vec<u8>]| {
                if batch == batches[0] {
                    aggregations.observe(group, proofs);
                }
            };
            // Unwrap safety: a test suite fails by panicking.
            let run = bare::prove_batch_observed(system, batch, input, &Uncontrolled, &mut observe)
                .expect("a valid batch is proven");
            let statement = system.outputs(batch, input).expect("a valid batch has outputs").remove(0);
            (run.final_proof, statement.content)
        })
        .collect();
    only_its_own_children_are_aggregated(system, batches[0], &aggregations);
    only_a_final_proof_is_final(system, &aggregations, &final_proofs[0].1);
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

/// The aggregations of one batch: one of each circuit, and one proof of each circuit that is aggregated.
#[derive(Default)]
struct Aggregations {
    of_circuit: BTreeMap<CircuitType, (Vec<CircuitType>, Vec<Vec<u8>>)>,
    proof_of: BTreeMap<CircuitType, Vec<u8>>,
}

impl Aggregations {
    fn observe(&mut self, group: &Group, proofs: &[Vec<u8>]) {
        let children: Vec<CircuitType> = group.children.iter().map(|child| child.circuit()).collect();
        for (child, proof) in children.iter().zip(proofs) {
            self.proof_of.entry(*child).or_insert_with(|| proof.clone());
        }
        self.of_circuit.entry(group.parent.circuit()).or_insert((children, proofs.to_vec()));
    }
}

/// The stages from [`ProofSystem::aggregate`] to [`ProofSystem::prove`] refuse proofs that the circuit does not take: of another
/// circuit, one too few or too many, or in another order.
#[allow(clippy::panic, reason = "a test suite fails by panicking")]
fn only_its_own_children_are_aggregated(
    system: &dyn ProofSystem,
    batch: BatchId,
    aggregations: &Aggregations,
) {
    let refuses = |parent: CircuitType, proofs: &[Vec<u8>], what: &str| {
        let prove = || {
            let payload = system.aggregate(batch, parent, proofs, &Uncontrolled)?;
            let vector = system.synthesize(parent, &payload, &Uncontrolled)?;
            system.prove(parent, vector, &Uncontrolled)
        };
        match prove() {
            Err(ProofSystemError::Invalid(_)) => {}
            Err(other) => panic!("{parent} over {what}: {other:?} instead of Invalid"),
            Ok(_) => panic!("{parent} aggregates {what}"),
        }
    };
    let table = system.circuit_table();
    for (parent, (children, proofs)) in &aggregations.of_circuit {
        for (foreign, proof) in &aggregations.proof_of {
            let mut kinds = children.clone();
            kinds[0] = *foreign;
            if table.check_children(*parent, &kinds).is_err() {
                let mut proofs = proofs.clone();
                proofs[0].clone_from(proof);
                refuses(*parent, &proofs, &format!("a proof of {foreign} as its first child"));
            }
        }
        if matches!(parent.round, AggregationRound::RecursionTip | AggregationRound::Scheduler) {
            refuses(*parent, &proofs[1..], "all its children but the first");
            refuses(*parent, &[proofs, &proofs[..1]].concat(), "its children and the first once more");
            if proofs.len() > 1 {
                let mut doubled = proofs.clone();
                doubled[1].clone_from(&proofs[0]);
                refuses(*parent, &doubled, "its first child in the second's place too");
                let mut swapped = proofs.clone();
                swapped.swap(0, 1);
                refuses(*parent, &swapped, "its first two children in each other's place");
            }
        }
    }
}

/// No proof of an earlier round passes as the final one, nor does its compression.
fn only_a_final_proof_is_final(system: &dyn ProofSystem, aggregations: &Aggregations, statement: &[u8]) {
    for (circuit, proof) in &aggregations.proof_of {
        let verdict = system.verify_final(proof, statement);
        assert!(verdict.is_err(), "a proof of {circuit} passes as the final one");
        if circuit.round != AggregationRound::Scheduler {
            let compressed = system.compress(proof, &Uncontrolled);
            let is_refused = compressed.is_err_and(|e| matches!(e, ProofSystemError::Invalid(_)));
            assert!(is_refused, "a proof of {circuit} is compressed");
        }
    }
}

fn circuits_come_in_the_same_order(system: &dyn ProofSystem, batch: BatchId, input: &[u8]) {
    let once = collect(system, batch, input);
    assert!(!once.is_empty(), "a batch without circuits");
    assert_eq!(once, collect(system, batch, input), "circuits differ between two calls");
    for (node, _) in &once {
        let circuit = node.circuit();
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
    let circuit = node.circuit();
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
