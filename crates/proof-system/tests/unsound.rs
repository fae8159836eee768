//! The conformance suite refuses proof systems with one flaw each.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use proof_system::mock::{MockConfig, MockProofSystem};
use proof_system::{
    BasicCircuit, CircuitTable, CircuitType, Control, InputSource, OutputFile, PreparedInput, ProofSystem,
    ProofSystemError, Rejected, WitnessVector, conformance,
};
use proving_model::{AggregationRound, BatchId, CircuitId, ProtocolVersion};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// A leaf takes proofs of any circuit.
    LeafOfAnything,
    /// A node takes proofs of any circuit.
    NodeOfAnything,
    /// The tip does without a child.
    TipWithoutAChild,
    /// The tip takes a child twice.
    TipWithADoubledChild,
    /// The tip takes its children in any order.
    TipInAnyOrder,
    /// The scheduler takes proofs of any circuit.
    SchedulerOfAnything,
    /// The compressor wraps proofs of any circuit.
    CompressesAnything,
    /// A proof of any circuit is accepted as a final one.
    AnyProofIsFinal,
}

/// The mock, with a flaw: what the mock refuses, it answers with what it made of the right proofs.
#[derive(Debug)]
struct Flawed {
    mock: MockProofSystem,
    flaw: Flaw,
    honest: Mutex<BTreeMap<Option<CircuitType>, Vec<u8>>>,
}

impl Flawed {
    fn overlooks(&self, parent: CircuitType, proofs: &[Vec<u8>]) -> bool {
        let children: Vec<CircuitType> =
            proofs.iter().filter_map(|proof| self.mock.public_inputs(proof).ok()).map(|(of, _)| of).collect();
        let kinds = self.mock.circuit_table().basic_circuits().count();
        let are_aggregated = children.iter().all(|child| {
            matches!(child.round, AggregationRound::LeafAggregation | AggregationRound::NodeAggregation)
        });
        let distinct: BTreeSet<CircuitId> = children.iter().map(|child| child.id).collect();
        children.len() == proofs.len()
            && match (self.flaw, parent.round) {
                (Flaw::LeafOfAnything, AggregationRound::LeafAggregation)
                | (Flaw::NodeOfAnything, AggregationRound::NodeAggregation)
                | (Flaw::SchedulerOfAnything, AggregationRound::Scheduler) => !children.is_empty(),
                (Flaw::TipWithoutAChild, AggregationRound::RecursionTip) => {
                    !children.is_empty() && children.len() < kinds
                }
                (Flaw::TipWithADoubledChild, AggregationRound::RecursionTip) => {
                    distinct.len() < children.len()
                }
                (Flaw::TipInAnyOrder, AggregationRound::RecursionTip) => {
                    children.len() == kinds && distinct.len() == kinds && are_aggregated
                }
                _ => false,
            }
    }

    /// Keeps what the mock made of the right proofs, and answers with it where the flaw overlooks the wrong ones.
    fn answer(
        &self,
        circuit: Option<CircuitType>,
        honest: Result<Vec<u8>, ProofSystemError>,
        is_overlooked: bool,
    ) -> Result<Vec<u8>, ProofSystemError> {
        let mut known = self.honest.lock().unwrap();
        match honest {
            Ok(made) => {
                known.insert(circuit, made.clone());
                Ok(made)
            }
            Err(_) if is_overlooked => Ok(known[&circuit].clone()),
            Err(e) => Err(e),
        }
    }
}

impl ProofSystem for Flawed {
    fn name(&self) -> &'static str {
        "flawed"
    }
    fn circuit_table(&self) -> &CircuitTable {
        self.mock.circuit_table()
    }
    fn protocol_version(&self) -> ProtocolVersion {
        self.mock.protocol_version()
    }
    fn verification_keys_digest(&self) -> String {
        self.mock.verification_keys_digest()
    }
    fn read_input(&self, source: &InputSource) -> Result<PreparedInput, Rejected> {
        self.mock.read_input(source)
    }
    fn generate_circuits(
        &self,
        batch: BatchId,
        witness_input: &[u8],
        emit: &mut dyn FnMut(BasicCircuit) -> bool,
        control: &dyn Control,
    ) -> Result<(), ProofSystemError> {
        self.mock.generate_circuits(batch, witness_input, emit, control)
    }
    fn aggregate(
        &self,
        batch: BatchId,
        circuit: CircuitType,
        proofs: &[Vec<u8>],
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        let honest = self.mock.aggregate(batch, circuit, proofs, control);
        self.answer(Some(circuit), honest, self.overlooks(circuit, proofs))
    }
    fn synthesize(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        control: &dyn Control,
    ) -> Result<WitnessVector, ProofSystemError> {
        self.mock.synthesize(circuit, payload, control)
    }
    fn prove(
        &self,
        circuit: CircuitType,
        vector: WitnessVector,
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        self.mock.prove(circuit, vector, control)
    }
    fn verify(&self, circuit: CircuitType, proof: &[u8]) -> Result<(), Rejected> {
        self.mock.verify(circuit, proof)
    }
    fn public_inputs(&self, proof: &[u8]) -> Result<(CircuitType, Vec<String>), Rejected> {
        self.mock.public_inputs(proof)
    }
    fn compress(&self, proof: &[u8], control: &dyn Control) -> Result<Vec<u8>, ProofSystemError> {
        let honest = self.mock.compress(proof, control);
        self.answer(None, honest, self.flaw == Flaw::CompressesAnything)
    }
    fn verify_final(&self, final_proof: &[u8], statement: &[u8]) -> Result<(), Rejected> {
        let is_any_proof = self.mock.public_inputs(final_proof).is_ok();
        match self.flaw {
            Flaw::AnyProofIsFinal if is_any_proof => Ok(()),
            _ => self.mock.verify_final(final_proof, statement),
        }
    }
    fn outputs(&self, batch: BatchId, witness_input: &[u8]) -> Result<Vec<OutputFile>, ProofSystemError> {
        self.mock.outputs(batch, witness_input)
    }
}

/// What the suite says of a system with this flaw; `None` when it passes.
fn verdict(flaw: Flaw) -> Option<String> {
    let mock = MockProofSystem::new(MockConfig::default());
    let flawed = Flawed { mock, flaw, honest: Mutex::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| conformance::check(&flawed, b"mock one", b"mock two")));
    outcome.err().map(|panic| *panic.downcast::<String>().unwrap())
}

#[test]
fn a_proof_system_with_any_of_these_flaws_is_refused() {
    assert_eq!(verdict(Flaw::None), None);
    for (flaw, words) in [
        (Flaw::LeafOfAnything, "as its first child"),
        (Flaw::NodeOfAnything, "as its first child"),
        (Flaw::TipWithoutAChild, "all its children but the first"),
        (Flaw::TipWithADoubledChild, "first child"),
        (Flaw::TipInAnyOrder, "in each other's place"),
        (Flaw::SchedulerOfAnything, "as its first child"),
        (Flaw::CompressesAnything, "is compressed"),
        (Flaw::AnyProofIsFinal, "passes as the final one"),
    ] {
        let verdict = verdict(flaw).unwrap_or_else(|| panic!("the suite overlooks {flaw:?}"));
        assert!(verdict.contains(words), "{flaw:?}: {verdict}");
    }
}
