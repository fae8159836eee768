//! A proof system that proves nothing, with costs, sizes, memory and failures set in a file.
//!
//! For drills, load tests and capacity planning: the pipeline around it is the real one. A mock proof is a digest
//! over what it consumed, so a proof that is lost, swapped or consumed twice still makes the final proof wrong.
//!
//! ```toml
//! fan_in = 32
//! [[circuit]]            # one entry a basic circuit
//! count = 17061          # how many a batch has
//! heavy = false
//! synthesize_ms = 13000
//! prove_ms = 1000
//! proof_bytes = 1000
//! memory_bytes = 1_700_000_000
//! failure_rate = 0.01    # of attempts to prove; retryable
//! [aggregation]          # leaves, nodes, tip, scheduler: the same fields, without a count
//! prove_ms = 1000
//! ```

use crate::{
    BasicCircuit, CircuitSpec, CircuitTable, CircuitType, Control, InputSource, KeyProgress, KeyPurpose,
    OutputFile, PreparedInput, ProofSystem, ProofSystemError, Rejected, WitnessVector,
};
use outside::{read_limited, read_text_limited};
use proving_model::{AggregationRound, ArtifactKind, BatchId, CircuitId, MemoryClass, ProtocolVersion};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Ids of the mock's tip and scheduler circuits.
const TIP: CircuitId = CircuitId(100);
const SCHEDULER: CircuitId = CircuitId(101);
/// Longest stretch of pretended work between two looks at the cancellation flag.
const WORK_SLICE: Duration = Duration::from_millis(20);
/// Most circuits of one kind in a mock batch: ten of the largest batches seen in production.
const COUNT_MAX: u32 = 200_000;
/// Largest mock proof; more would only test the disk.
const PROOF_BYTES_MAX: usize = 64 << 20;
/// Largest configuration file and largest input.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// Longest pretended time: a day.
const PRETENDED_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// What a kind of circuit costs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MockCircuit {
    /// Circuits of this kind in a batch; ignored for aggregation.
    pub count: u32,
    /// Whether only heavy runners take it.
    pub heavy: bool,
    /// Pretended time of synthesis.
    pub synthesize_ms: u64,
    /// Pretended time of proving.
    pub prove_ms: u64,
    /// Size of a proof, at least 64.
    pub proof_bytes: usize,
    /// Memory really allocated and touched while it is synthesised.
    pub memory_bytes: u64,
    /// Share of attempts to prove that fail with a retryable error, from 0 to 1.
    pub failure_rate: f64,
    /// Whether proving panics, always: for drills of poisonous jobs.
    pub panics: bool,
    /// Whether proving ends the process, always: for drills of jobs that kill their workers.
    pub aborts: bool,
}

impl Default for MockCircuit {
    fn default() -> Self {
        Self {
            count: 5,
            heavy: false,
            synthesize_ms: 0,
            prove_ms: 0,
            proof_bytes: 1_000,
            memory_bytes: 0,
            failure_rate: 0.0,
            panics: false,
            aborts: false,
        }
    }
}

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MockConfig {
    /// Most proofs in a leaf or node.
    pub fan_in: usize,
    /// The basic circuits; their ids are 1, 2, 3 …
    pub circuit: Vec<MockCircuit>,
    /// Leaves, nodes, tip and scheduler.
    pub aggregation: MockCircuit,
    /// Pretended time of compression.
    pub compress_ms: u64,
    /// Whether compression makes a final proof of another batch, always: for drills of a proof system that is wrong.
    pub wrong_final_proof: bool,
    /// Seed of the failures: the same seed fails the same attempts of one process.
    pub seed: u64,
}

impl Default for MockConfig {
    fn default() -> Self {
        let heavy = MockCircuit { heavy: true, ..MockCircuit::default() };
        Self {
            fan_in: 4,
            circuit: vec![MockCircuit::default(), heavy, MockCircuit::default()],
            aggregation: MockCircuit::default(),
            compress_ms: 0,
            wrong_final_proof: false,
            seed: 1,
        }
    }
}

impl MockConfig {
    /// Reads the file and checks its ranges.
    ///
    /// # Errors
    /// [`Rejected`] names the file, and the line or the field that is wrong.
    pub fn from_file(path: &Path) -> Result<Self, Rejected> {
        let text = read_text_limited(path, CONFIG_BYTES_MAX)
            .map_err(|e| Rejected(format!("cannot read the mock's file {}: {e}", path.display())))?;
        let config: Self = toml::from_str(&text).map_err(|e| Rejected(format!("{}: {e}", path.display())))?;
        config.check().map_err(|reason| Rejected(format!("{}: {reason}", path.display())))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.fan_in < 2 {
            return Err(format!("fan_in is {}, and a tree needs at least 2", self.fan_in));
        }
        if self.circuit.is_empty() || self.circuit.len() > 64 {
            return Err(format!("there are {} [[circuit]] entries; allowed are 1 to 64", self.circuit.len()));
        }
        if self.compress_ms > PRETENDED_MS_MAX {
            return Err(format!("compress_ms is {}; allowed are 0 to {PRETENDED_MS_MAX}", self.compress_ms));
        }
        for (i, circuit) in self.circuit.iter().chain([&self.aggregation]).enumerate() {
            let place = format!("[[circuit]] entry {}", i + 1);
            for (name, time) in [("synthesize_ms", circuit.synthesize_ms), ("prove_ms", circuit.prove_ms)] {
                if time > PRETENDED_MS_MAX {
                    return Err(format!("{place}: {name} is {time}; allowed are 0 to {PRETENDED_MS_MAX}"));
                }
            }
            if circuit.count == 0 || circuit.count > COUNT_MAX {
                return Err(format!("{place}: count is {}; allowed are 1 to {COUNT_MAX}", circuit.count));
            }
            if !(64..=PROOF_BYTES_MAX).contains(&circuit.proof_bytes) {
                return Err(format!(
                    "{place}: proof_bytes is {}; allowed are 64 to {PROOF_BYTES_MAX}",
                    circuit.proof_bytes
                ));
            }
            if !(0.0..=1.0).contains(&circuit.failure_rate) {
                return Err(format!("{place}: failure_rate is {}; allowed are 0 to 1", circuit.failure_rate));
            }
        }
        Ok(())
    }
}

/// The mock itself.
#[derive(Debug)]
pub struct MockProofSystem {
    config: MockConfig,
    table: CircuitTable,
    attempts: AtomicU64,
}

#[derive(Serialize, Deserialize)]
struct MockPayload {
    batch: BatchId,
    round: i16,
    id: i16,
    sequence: u32,
    children: Vec<[u8; 32]>,
}

struct MockVector {
    circuit: CircuitType,
    payload: MockPayload,
    _memory: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct MockProof {
    round: i16,
    id: i16,
    digest: [u8; 32],
    padding: Vec<u8>,
    seal: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct MockStatement {
    chain_id: u32,
    batch_number: u32,
    digest: String,
}

impl MockProofSystem {
    /// A mock with these costs. The configuration must have passed [`MockConfig::from_file`]'s checks, or be the
    /// default with fields changed within their ranges.
    #[must_use]
    pub fn new(config: MockConfig) -> Self {
        let spec = |round, id: CircuitId, name, costs: &MockCircuit| CircuitSpec {
            circuit: CircuitType { round, id },
            name,
            memory_class: if costs.heavy { MemoryClass::Heavy } else { MemoryClass::Light },
            expected_cost: Duration::from_millis(costs.synthesize_ms + costs.prove_ms),
            peak_memory_bytes: costs.memory_bytes,
        };
        let mut circuits = Vec::new();
        for (i, costs) in config.circuit.iter().enumerate() {
            let id = CircuitId(i16::try_from(i + 1).unwrap_or(i16::MAX));
            circuits.push(spec(AggregationRound::BasicCircuits, id, "mock basic", costs));
            circuits.push(spec(AggregationRound::LeafAggregation, id, "mock leaf", &config.aggregation));
            circuits.push(spec(AggregationRound::NodeAggregation, id, "mock node", &config.aggregation));
        }
        circuits.push(spec(AggregationRound::RecursionTip, TIP, "mock tip", &config.aggregation));
        circuits.push(spec(AggregationRound::Scheduler, SCHEDULER, "mock scheduler", &config.aggregation));
        let table = CircuitTable { circuits, leaf_fan_in: config.fan_in, node_fan_in: config.fan_in };
        Self { config, table, attempts: AtomicU64::new(0) }
    }

    fn costs(&self, circuit: CircuitType) -> Result<&MockCircuit, ProofSystemError> {
        self.table.get(circuit)?;
        Ok(match circuit.round {
            AggregationRound::BasicCircuits => {
                let index = usize::try_from(circuit.id.0 - 1).unwrap_or(usize::MAX);
                self.config.circuit.get(index).unwrap_or(&self.config.aggregation)
            }
            _ => &self.config.aggregation,
        })
    }

    /// Whether this attempt is one of the share that fails; the sequence is fixed by the seed.
    fn attempt_fails(&self, rate: f64) -> bool {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::hash(&[self.config.seed.to_le_bytes(), attempt.to_le_bytes()].concat());
        let mut first = [0; 4];
        first.copy_from_slice(&hash.as_bytes()[..4]);
        f64::from(u32::from_le_bytes(first)) / f64::from(u32::MAX) < rate
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ProofSystemError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|e| ProofSystemError::Invalid(format!("cannot encode: {e}")))
}

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8], what: &str) -> Result<T, ProofSystemError> {
    let config = bincode::config::standard().with_limit::<PROOF_BYTES_MAX>();
    match bincode::serde::decode_from_slice(bytes, config) {
        Ok((value, read)) if read == bytes.len() => Ok(value),
        Ok((_, read)) => {
            Err(ProofSystemError::Invalid(format!("{what} ends at byte {read} of {}", bytes.len())))
        }
        Err(e) => Err(ProofSystemError::Invalid(format!("not {what}: {e}"))),
    }
}

fn pretend_to_work(duration: Duration, control: &dyn Control) -> Result<(), ProofSystemError> {
    let end = Instant::now() + duration;
    loop {
        if control.is_cancelled() {
            return Err(ProofSystemError::Cancelled);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(WORK_SLICE));
    }
}

fn seal(proof: &MockProof) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"roundhouse mock proof");
    hasher.update(&proof.round.to_le_bytes());
    hasher.update(&proof.id.to_le_bytes());
    hasher.update(&proof.digest);
    hasher.update(&proof.padding);
    *hasher.finalize().as_bytes()
}

fn open(circuit: CircuitType, bytes: &[u8]) -> Result<MockProof, ProofSystemError> {
    let proof: MockProof = decode(bytes, "a mock proof")?;
    if (proof.round, proof.id) != (circuit.round.number(), circuit.id.0) {
        return Err(ProofSystemError::Invalid(format!("the proof is not one of {circuit}")));
    }
    if proof.seal != seal(&proof) {
        return Err(ProofSystemError::Invalid("the mock proof's seal is broken".to_owned()));
    }
    Ok(proof)
}

fn circuit_of(round: i16, id: i16) -> Result<CircuitType, Rejected> {
    let round = AggregationRound::from_number(round)
        .ok_or_else(|| Rejected(format!("it is of round {round}, which is none")))?;
    Ok(CircuitType { round, id: CircuitId(id) })
}

/// The digest that a payload's proof will carry.
fn digest_of(payload: &MockPayload) -> Result<[u8; 32], ProofSystemError> {
    Ok(*blake3::hash(&encode(payload)?).as_bytes())
}

impl ProofSystem for MockProofSystem {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn circuit_table(&self) -> &CircuitTable {
        &self.table
    }

    fn protocol_version(&self) -> ProtocolVersion {
        ProtocolVersion { minor: 0, patch: 1 }
    }

    fn verification_keys_digest(&self) -> String {
        blake3::hash(b"roundhouse mock keys").to_hex().to_string()
    }

    fn load_keys(&self, _: KeyPurpose, _: KeyProgress<'_>) -> Result<(), ProofSystemError> {
        Ok(())
    }

    fn read_input(&self, source: &InputSource) -> Result<PreparedInput, Rejected> {
        let payload = read_limited(&source.path, INPUT_BYTES_MAX)
            .map_err(|e| Rejected(format!("cannot read {}: {e}", source.path.display())))?;
        if !payload.starts_with(b"mock") {
            return Err(Rejected(format!(
                "{}: the mock's input starts with the word mock",
                source.path.display()
            )));
        }
        let summary = format!("{} bytes for the mock", payload.len());
        Ok(PreparedInput { payload, summary })
    }

    fn generate_circuits(
        &self,
        batch: BatchId,
        witness_input: &[u8],
        emit: &mut dyn FnMut(BasicCircuit) -> bool,
        control: &dyn Control,
    ) -> Result<(), ProofSystemError> {
        if !witness_input.starts_with(b"mock") {
            return Err(ProofSystemError::Invalid(
                "not a mock input: it starts with the word mock".to_owned(),
            ));
        }
        let input = *blake3::hash(witness_input).as_bytes();
        for (i, costs) in self.config.circuit.iter().enumerate() {
            let id = CircuitId(i16::try_from(i + 1).unwrap_or(i16::MAX));
            for sequence in 0..costs.count {
                if control.is_cancelled() {
                    return Err(ProofSystemError::Cancelled);
                }
                let payload = MockPayload { batch, round: 0, id: id.0, sequence, children: vec![input] };
                if !emit(BasicCircuit { id, payload: encode(&payload)? }) {
                    return Err(ProofSystemError::Cancelled);
                }
            }
        }
        Ok(())
    }

    fn aggregate(
        &self,
        batch: BatchId,
        circuit: CircuitType,
        proofs: &[Vec<u8>],
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        if control.is_cancelled() {
            return Err(ProofSystemError::Cancelled);
        }
        let mut circuits = Vec::with_capacity(proofs.len());
        let mut children = Vec::with_capacity(proofs.len());
        for proof in proofs {
            let proof: MockProof = decode(proof, "a mock proof")?;
            if proof.seal != seal(&proof) {
                return Err(ProofSystemError::Invalid("a child's seal is broken".to_owned()));
            }
            circuits.push(circuit_of(proof.round, proof.id).map_err(|e| ProofSystemError::Invalid(e.0))?);
            children.push(proof.digest);
        }
        self.table.check_children(circuit, &circuits)?;
        encode(&MockPayload { batch, round: circuit.round.number(), id: circuit.id.0, sequence: 0, children })
    }

    fn synthesize(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        control: &dyn Control,
    ) -> Result<WitnessVector, ProofSystemError> {
        let costs = self.costs(circuit)?;
        let payload: MockPayload = decode(payload, "a mock circuit")?;
        if (payload.round, payload.id) != (circuit.round.number(), circuit.id.0) {
            return Err(ProofSystemError::Invalid(format!("the payload is not one of {circuit}")));
        }
        let memory = vec![1; usize::try_from(costs.memory_bytes).unwrap_or(usize::MAX)];
        pretend_to_work(Duration::from_millis(costs.synthesize_ms), control)?;
        Ok(Box::new(MockVector { circuit, payload, _memory: memory }))
    }

    #[allow(clippy::panic, reason = "the drill of a poisonous job is a panic")]
    fn prove(
        &self,
        circuit: CircuitType,
        vector: WitnessVector,
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        let costs = self.costs(circuit)?;
        let vector = vector
            .downcast::<MockVector>()
            .map_err(|_| ProofSystemError::Invalid("not a mock witness vector".to_owned()))?;
        if vector.circuit != circuit {
            return Err(ProofSystemError::Invalid(format!("a vector of {}, not {circuit}", vector.circuit)));
        }
        pretend_to_work(Duration::from_millis(costs.prove_ms), control)?;
        if costs.panics {
            panic!("the mock panics, as its file asks");
        }
        if costs.aborts {
            std::process::abort();
        }
        if self.attempt_fails(costs.failure_rate) {
            return Err(ProofSystemError::Unavailable("the mock fails, as its file asks".to_owned()));
        }
        let mut proof = MockProof {
            round: circuit.round.number(),
            id: circuit.id.0,
            digest: digest_of(&vector.payload)?,
            padding: vec![0; costs.proof_bytes],
            seal: [0; 32],
        };
        proof.seal = seal(&proof);
        encode(&proof)
    }

    fn verify(&self, circuit: CircuitType, proof: &[u8]) -> Result<(), Rejected> {
        open(circuit, proof).map(drop).map_err(|e| Rejected(e.to_string()))
    }

    fn describe(&self, kind: ArtifactKind, payload: &[u8]) -> Result<Vec<(&'static str, String)>, Rejected> {
        let rejected = |e: ProofSystemError| Rejected(e.to_string());
        Ok(match kind {
            ArtifactKind::WitnessInput => vec![("text", String::from_utf8_lossy(payload).trim().to_owned())],
            ArtifactKind::Circuit => {
                let circuit: MockPayload = decode(payload, "a mock circuit").map_err(rejected)?;
                vec![
                    ("batch", circuit.batch.to_string()),
                    ("circuit", circuit_of(circuit.round, circuit.id)?.to_string()),
                    ("proofs aggregated", circuit.children.len().to_string()),
                ]
            }
            ArtifactKind::Proof => vec![("circuit", self.public_inputs(payload)?.0.to_string())],
            ArtifactKind::FinalProof => {
                let (digest, _): ([u8; 32], [u8; 32]) =
                    decode(payload, "a mock final proof").map_err(rejected)?;
                vec![("digest", blake3::Hash::from_bytes(digest).to_hex().to_string())]
            }
        })
    }

    fn public_inputs(&self, proof: &[u8]) -> Result<(CircuitType, Vec<String>), Rejected> {
        let proof: MockProof = decode(proof, "a mock proof").map_err(|e| Rejected(e.to_string()))?;
        let digest = blake3::Hash::from_bytes(proof.digest).to_hex().to_string();
        Ok((circuit_of(proof.round, proof.id)?, vec![digest]))
    }

    fn compress(&self, scheduler_proof: &[u8], control: &dyn Control) -> Result<Vec<u8>, ProofSystemError> {
        let circuit = CircuitType { round: AggregationRound::Scheduler, id: SCHEDULER };
        let proof = open(circuit, scheduler_proof)?;
        pretend_to_work(Duration::from_millis(self.config.compress_ms), control)?;
        let mut digest = proof.digest;
        if self.config.wrong_final_proof {
            digest[0] ^= 1;
        }
        encode(&(digest, *blake3::hash(&digest).as_bytes()))
    }

    fn verify_final(&self, final_proof: &[u8], statement: &[u8]) -> Result<(), Rejected> {
        let (digest, check): ([u8; 32], [u8; 32]) =
            decode(final_proof, "a mock final proof").map_err(|e| Rejected(e.to_string()))?;
        if *blake3::hash(&digest).as_bytes() != check {
            return Err(Rejected("the mock final proof is damaged".to_owned()));
        }
        let statement: MockStatement =
            serde_json::from_slice(statement).map_err(|e| Rejected(format!("not a mock statement: {e}")))?;
        if statement.digest != blake3::Hash::from_bytes(digest).to_hex().as_str() {
            return Err(Rejected("the mock final proof is not one of this statement".to_owned()));
        }
        Ok(())
    }

    /// Computes the digest of the whole tree from the input alone, as an independent check of the pipeline.
    fn outputs(&self, batch: BatchId, witness_input: &[u8]) -> Result<Vec<OutputFile>, ProofSystemError> {
        let mut tree = crate::tree::AggregationTree::new(&self.table)?;
        let mut digests = std::collections::HashMap::new();
        let mut groups = Vec::new();
        let mut failure = None;
        self.generate_circuits(
            batch,
            witness_input,
            &mut |circuit| {
                let (node, filled) = tree.push(circuit.id);
                groups.extend(filled);
                match decode::<MockPayload>(&circuit.payload, "a mock circuit").and_then(|p| digest_of(&p)) {
                    Ok(digest) => digests.insert(node, digest),
                    Err(e) => {
                        failure = Some(e);
                        return false;
                    }
                };
                true
            },
            &crate::Uncontrolled,
        )
        .map_err(|e| failure.take().unwrap_or(e))?;
        groups.extend(tree.finish()?);
        let mut last = [0; 32];
        for group in groups {
            let children = group.children.iter().filter_map(|child| digests.remove(child)).collect();
            let node = group.parent;
            last = digest_of(&MockPayload {
                batch,
                round: node.round.number(),
                id: node.circuit_id.0,
                sequence: 0,
                children,
            })?;
            digests.insert(node, last);
        }
        let statement = MockStatement {
            chain_id: batch.chain_id,
            batch_number: batch.number,
            digest: blake3::Hash::from_bytes(last).to_hex().to_string(),
        };
        let content = serde_json::to_vec_pretty(&statement)
            .map_err(|e| ProofSystemError::Invalid(format!("cannot write the statement: {e}")))?;
        Ok(vec![OutputFile { name: "statement.json", content }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Uncontrolled;

    #[test]
    fn passes_the_conformance_suite() {
        crate::conformance::check(&MockProofSystem::new(MockConfig::default()), b"mock one", b"mock two");
    }

    #[test]
    fn fails_the_set_share_of_attempts() {
        let mut config = MockConfig::default();
        config.circuit[0].failure_rate = 0.25;
        let mock = MockProofSystem::new(config);
        let fails = (0..4000).filter(|_| mock.attempt_fails(0.25)).count();
        assert!((800..1200).contains(&fails), "{fails} of 4000");
        assert!((0..100).all(|_| mock.attempt_fails(1.0)) && !(0..100).any(|_| mock.attempt_fails(0.0)));
    }

    #[test]
    fn a_bad_file_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mock.toml");
        for (text, word) in [
            ("fan_in = 1", "fan_in"),
            ("nonsense = 1", "nonsense"),
            ("[[circuit]]\nfailure_rate = 2.0", "failure_rate"),
            ("[[circuit]]\nprove_ms = -1", "line 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = MockConfig::from_file(&path).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("mock.toml"), "{text}: {error}");
        }
        std::fs::write(&path, "[[circuit]]\ncount = 3\nheavy = true").unwrap();
        let mock = MockProofSystem::new(MockConfig::from_file(&path).unwrap());
        let batch = BatchId { chain_id: 0, number: 1 };
        assert_eq!(crate::bare::prove_batch(&mock, batch, b"mock", &Uncontrolled).unwrap().proven.len(), 6);
    }
}
