//! A whole proof system: "these numbers add up to that". A checksum of the claim stands where a real system has a proof; the
//! stages around it are those of a real one. The conformance suite runs in `main`.

use proof_system::{
    BasicCircuit, CircuitSpec, CircuitTable, CircuitType, Control, InputSource, OutputFile, PreparedInput,
    ProofSystem, ProofSystemError, Rejected, WitnessVector,
};
use proving_model::{AggregationRound, BatchId, CircuitId, MemoryClass, ProtocolVersion};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Sum(CircuitTable);

impl Sum {
    pub(crate) fn new() -> Self {
        use AggregationRound::{BasicCircuits, LeafAggregation, NodeAggregation, RecursionTip, Scheduler};
        let rounds = [
            (BasicCircuits, 1),
            (LeafAggregation, 1),
            (NodeAggregation, 1),
            (RecursionTip, 2),
            (Scheduler, 3),
        ];
        let circuits = rounds.map(|(round, id)| CircuitSpec {
            circuit: CircuitType { round, id: CircuitId(id) },
            name: "sum",
            memory_class: MemoryClass::Light,
            expected_cost: Duration::from_millis(1),
            peak_memory_bytes: 1 << 20,
        });
        Self(CircuitTable { circuits: circuits.to_vec(), leaf_fan_in: 4, node_fan_in: 3 })
    }
}

/// What a circuit proves: so much is the sum of these numbers of that input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Claim {
    batch: (u32, u32),
    input: String,
    sum: u64,
}

/// A circuit's payload is its claim. Its proof is the claim with a checksum, the seal.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed {
    circuit: (i16, i16),
    claim: Claim,
    seal: Option<String>,
}

fn invalid(reason: &str) -> ProofSystemError {
    ProofSystemError::Invalid(reason.to_owned())
}

fn encode(circuit: CircuitType, claim: Claim, is_proof: bool) -> Vec<u8> {
    let circuit = (circuit.round.number(), circuit.id.0);
    let text = serde_json::json!([circuit, claim]).to_string();
    let seal = is_proof.then(|| blake3::hash(text.as_bytes()).to_string());
    serde_json::json!(Sealed { circuit, claim, seal }).to_string().into_bytes()
}

/// Reads a payload or a proof. Whatever is not exactly what [`encode`] writes is refused.
fn decode(bytes: &[u8], is_proof: bool) -> Result<(CircuitType, Claim), ProofSystemError> {
    let read: Sealed = serde_json::from_slice(bytes).map_err(|e| invalid(&e.to_string()))?;
    let round =
        AggregationRound::from_number(read.circuit.0).ok_or_else(|| invalid("there is no such round"))?;
    let circuit = CircuitType { round, id: CircuitId(read.circuit.1) };
    match encode(circuit, read.claim.clone(), is_proof) == bytes {
        true => Ok((circuit, read.claim)),
        false => Err(invalid("the seal is broken")),
    }
}

fn numbers(input: &[u8]) -> Result<Vec<u64>, String> {
    let text = std::str::from_utf8(input).map_err(|e| e.to_string())?;
    let lines = text.lines().enumerate();
    lines.map(|(i, line)| line.parse().map_err(|e| format!("line {}: {line:?}: {e}", i + 1))).collect()
}

fn claim(batch: BatchId, input: &[u8], numbers: &[u64]) -> Result<Claim, ProofSystemError> {
    let sum = numbers.iter().try_fold(0_u64, |sum, number| sum.checked_add(*number));
    let sum = sum.ok_or_else(|| invalid("the sum has more than 64 bits"))?;
    Ok(Claim { batch: (batch.chain_id, batch.number), input: blake3::hash(input).to_string(), sum })
}

fn state(claim: &Claim) -> Vec<u8> {
    serde_json::json!(claim).to_string().into_bytes()
}

impl ProofSystem for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }
    fn circuit_table(&self) -> &CircuitTable {
        &self.0
    }
    fn protocol_version(&self) -> ProtocolVersion {
        ProtocolVersion { minor: 1, patch: 0 }
    }
    fn verification_keys_digest(&self) -> String {
        blake3::hash(b"sum needs no keys").to_string()
    }
    fn read_input(&self, source: &InputSource) -> Result<PreparedInput, Rejected> {
        let place = source.path.display();
        let payload =
            std::fs::read(&source.path).map_err(|e| Rejected(format!("cannot read {place}: {e}")))?;
        let count = numbers(&payload).map_err(|e| Rejected(format!("{place}: {e}")))?.len();
        Ok(PreparedInput { payload, summary: format!("{count} numbers") })
    }
    fn generate_circuits(
        &self,
        batch: BatchId,
        input: &[u8],
        emit: &mut dyn FnMut(BasicCircuit) -> bool,
        control: &dyn Control,
    ) -> Result<(), ProofSystemError> {
        let circuit = CircuitType { round: AggregationRound::BasicCircuits, id: CircuitId(1) };
        for numbers in numbers(input).map_err(|e| invalid(&e))?.chunks(4) {
            let payload = encode(circuit, claim(batch, input, numbers)?, false);
            if control.is_cancelled() || !emit(BasicCircuit { id: circuit.id, payload }) {
                return Err(ProofSystemError::Cancelled);
            }
        }
        Ok(())
    }
    fn aggregate(
        &self,
        _: BatchId,
        circuit: CircuitType,
        proofs: &[Vec<u8>],
        _: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        let read: Result<Vec<_>, _> = proofs.iter().map(|proof| decode(proof, true)).collect();
        let (circuits, claims): (Vec<_>, Vec<_>) = read?.into_iter().unzip();
        self.0.check_children(circuit, &circuits)?;
        let mut whole = Claim { sum: 0, ..claims[0].clone() };
        for child in claims {
            let is_one_input = child == Claim { sum: child.sum, ..whole.clone() };
            let sum = whole.sum.checked_add(child.sum).filter(|_| is_one_input);
            whole.sum = sum
                .ok_or_else(|| invalid("the proofs are of two inputs, or their sum has more than 64 bits"))?;
        }
        Ok(encode(circuit, whole, false))
    }
    fn synthesize(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        _: &dyn Control,
    ) -> Result<WitnessVector, ProofSystemError> {
        match decode(payload, false)? {
            (of, claim) if of == circuit => Ok(Box::new((of, claim))),
            (of, _) => Err(invalid(&format!("a payload of {of}"))),
        }
    }
    fn prove(
        &self,
        circuit: CircuitType,
        vector: WitnessVector,
        _: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        match vector.downcast::<(CircuitType, Claim)>() {
            Ok(vector) if vector.0 == circuit => Ok(encode(circuit, vector.1, true)),
            _ => Err(invalid(&format!("not a vector of {circuit}"))),
        }
    }
    fn verify(&self, circuit: CircuitType, proof: &[u8]) -> Result<(), Rejected> {
        match decode(proof, true).map_err(|e| Rejected(e.to_string()))? {
            (of, _) if of == circuit => Ok(()),
            (of, _) => Err(Rejected(format!("a proof of {of}"))),
        }
    }
    fn public_inputs(&self, proof: &[u8]) -> Result<(CircuitType, Vec<String>), Rejected> {
        let (circuit, claim) = decode(proof, true).map_err(|e| Rejected(e.to_string()))?;
        Ok((circuit, vec![claim.sum.to_string()]))
    }
    fn compress(&self, proof: &[u8], _: &dyn Control) -> Result<Vec<u8>, ProofSystemError> {
        match decode(proof, true)? {
            (of, _) if of.round == AggregationRound::Scheduler => Ok(proof.to_vec()),
            (of, _) => Err(invalid(&format!("a proof of {of}"))),
        }
    }
    fn verify_final(&self, proof: &[u8], statement: &[u8]) -> Result<(), Rejected> {
        let (circuit, claim) = decode(proof, true).map_err(|e| Rejected(e.to_string()))?;
        let is_proven = circuit.round == AggregationRound::Scheduler && state(&claim) == statement;
        is_proven.then_some(()).ok_or_else(|| Rejected("the proof is not one of this statement".to_owned()))
    }
    fn outputs(&self, batch: BatchId, input: &[u8]) -> Result<Vec<OutputFile>, ProofSystemError> {
        let whole = claim(batch, input, &numbers(input).map_err(|e| invalid(&e))?)?;
        Ok(vec![OutputFile { name: "statement.json", content: state(&whole) }])
    }
}

pub(crate) fn main() {
    let many: String = (0..100).map(|number| format!("{number}\n")).collect();
    proof_system::conformance::check(&Sum::new(), many.as_bytes(), b"1\n2\n3");
}
