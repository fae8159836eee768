//! The ledger as a [`ProofSystem`].

use crate::circuits::recursion::{
    AGGREGATE_LEN, allocate_leaf, allocate_node, allocate_scheduler, allocate_tip, assign_leaf, assign_node,
    assign_scheduler, assign_tip, key_constants, read_aggregate,
};
use crate::circuits::{
    ChainState, STATE_LEN, configs, public_data, storage_application, transfer_execution, wrap,
};
use crate::decode::{decode, encode, invalid, refusing_panics};
use crate::execution::{BasicInput, Execution, statement_of};
use crate::final_proof;
use crate::input::{LedgerInput, to_cell};
use crate::keys::{CircuitName, KeyError, LedgerKeys};
use crate::{Builder, Circuit, F, Kind, LedgerParams, Proof, Verifier, Witness};
use keystore::{Keystore, Manifest};
use plonk_prover::{CircuitProver, OnCpu};
use plonky2::iop::generator::generate_partial_witness;
use proof_system::{
    BasicCircuit, CircuitSpec, CircuitTable, CircuitType, Control, InputSource, KeyFiles, KeyProgress,
    KeyPurpose, OutputFile, PreparedInput, ProofSystem, ProofSystemError, Rejected, WitnessVector,
};
use proving_model::{AggregationRound, ArtifactKind, BatchId, CircuitId, MemoryClass, ProtocolVersion};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Circuit ids of the recursion tip and of the scheduler.
const TIP: CircuitId = CircuitId(4);
const SCHEDULER: CircuitId = CircuitId(5);
/// The version of statement and circuits that this build proves.
pub const PROTOCOL_VERSION: ProtocolVersion = ProtocolVersion { minor: 2, patch: 0 };
/// How many accounts or transfers are executed between two looks at the cancellation flag.
const CONTROL_INTERVAL: usize = 64;

const MANIFEST: &str = include_str!("../../../keys/manifest.toml");
const VERIFICATION_KEY: &str = include_str!("../../../keys/ledger-verification-key.txt");

/// The reference proof system. Cheap to create: keys are loaded when they are first needed.
#[derive(Debug)]
pub struct LedgerProofSystem {
    keys: LedgerKeys,
    table: CircuitTable,
    verification_key: Option<Vec<u8>>,
    keys_digest: Option<String>,
    prover: Arc<dyn CircuitProver>,
}

/// The input of an aggregating circuit: the proofs, each behind its circuit.
#[derive(Serialize, Deserialize)]
struct AggregateInput {
    batch: BatchId,
    children: Vec<Vec<u8>>,
}

struct LedgerVector {
    circuit: CircuitType,
    values: Vec<Option<F>>,
}

impl From<KeyError> for ProofSystemError {
    fn from(error: KeyError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The verification key of final proofs that this program ships.
///
/// # Errors
/// [`ProofSystemError::Unavailable`] when it is damaged.
pub fn shipped_verification_key() -> Result<Vec<u8>, ProofSystemError> {
    final_proof::key_from_text(VERIFICATION_KEY).map_err(ProofSystemError::Unavailable)
}

impl LedgerProofSystem {
    /// The ledger that this program ships: its parameters, its manifest and its verification key.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when the shipped manifest or key is damaged.
    pub fn shipped(keys_folder: &Path) -> Result<Self, ProofSystemError> {
        let unavailable = |e: String| ProofSystemError::Unavailable(e);
        let manifest =
            Manifest::parse("keys/manifest.toml", MANIFEST).map_err(|e| unavailable(e.to_string()))?;
        let mut system = Self::with_params(
            LedgerParams::default(),
            Keystore::new(keys_folder.join("ledger"), Some(manifest.clone())),
        );
        system.verification_key = Some(shipped_verification_key()?);
        system.keys_digest = Some(digest_of(&manifest));
        Ok(system)
    }

    /// A ledger of other sizes, with keys of its own.
    #[must_use]
    pub fn with_params(params: LedgerParams, keystore: Keystore) -> Self {
        let table = circuit_table(&params);
        let keys = LedgerKeys::new(params, keystore);
        Self { keys, table, verification_key: None, keys_digest: None, prover: Arc::new(OnCpu) }
    }

    /// Has this one prove its circuits, the wraps too.
    #[must_use]
    pub fn proven_by(mut self, prover: Arc<dyn CircuitProver>) -> Self {
        self.prover = prover;
        self
    }

    /// The key set.
    #[must_use]
    pub fn keys(&self) -> &LedgerKeys {
        &self.keys
    }

    /// The verification key of final proofs, as bytes.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when it has to be generated and cannot be.
    pub fn final_verification_key(&self) -> Result<Vec<u8>, ProofSystemError> {
        match &self.verification_key {
            Some(key) => Ok(key.clone()),
            None => Ok(self.keys.final_verification_key()?),
        }
    }

    fn name_of(&self, circuit: CircuitType) -> Result<CircuitName, ProofSystemError> {
        self.table.get(circuit)?;
        let kind = Kind::from_circuit_id(circuit.id);
        match (circuit.round, kind) {
            (AggregationRound::BasicCircuits, Some(kind)) => Ok(CircuitName::Basic(kind)),
            (AggregationRound::LeafAggregation, Some(kind)) => Ok(CircuitName::Leaf(kind)),
            (AggregationRound::NodeAggregation, Some(_)) => Ok(CircuitName::Node),
            (AggregationRound::RecursionTip, _) => Ok(CircuitName::Tip),
            (AggregationRound::Scheduler, _) => Ok(CircuitName::Scheduler),
            _ => Err(invalid(format!("the ledger has no {circuit}"))),
        }
    }

    fn circuit(&self, circuit: CircuitType) -> Result<Arc<Circuit>, ProofSystemError> {
        Ok(self.keys.circuit(self.name_of(circuit)?)?)
    }

    fn verifier(&self, circuit: CircuitType) -> Result<Arc<Verifier>, ProofSystemError> {
        Ok(self.keys.verifier(self.name_of(circuit)?)?)
    }

    /// Reads a proof of this circuit and verifies it.
    fn open(&self, circuit: CircuitType, bytes: &[u8]) -> Result<Proof, String> {
        let (found, body) = split_header(bytes)?;
        if found != circuit {
            return Err(format!("it is a proof of {found}, not of {circuit}"));
        }
        let verifier = self.verifier(circuit).map_err(|e| e.to_string())?;
        let proof = refusing_panics("it cannot be read", || {
            let proof = Proof::from_bytes(body.to_vec(), &verifier.common)?;
            anyhow::ensure!(proof.to_bytes() == body, "it is not in canonical form");
            Ok(proof)
        })?;
        refusing_panics("it does not verify", || verifier.verify(proof.clone()))?;
        self.check_public_inputs(circuit, &verifier, &proof)?;
        Ok(proof)
    }

    /// What a verifier outside the circuits must check of a leaf's or node's public inputs.
    fn check_public_inputs(
        &self,
        circuit: CircuitType,
        verifier: &Verifier,
        proof: &Proof,
    ) -> Result<(), String> {
        let is_node = circuit.round == AggregationRound::NodeAggregation;
        if is_node || circuit.round == AggregationRound::LeafAggregation {
            let (kind, _, _) = read_aggregate(&proof.public_inputs).ok_or("its public inputs are too few")?;
            if kind.circuit_id() != circuit.id {
                return Err(format!("it aggregates circuit {}, not {}", kind.circuit_id(), circuit.id));
            }
        }
        if is_node && proof.public_inputs[AGGREGATE_LEN..] != key_constants(&verifier.verifier_only) {
            return Err("it carries another node key than its own".to_owned());
        }
        Ok(())
    }

    /// Opens the children of an aggregating circuit: each is of a circuit that this one takes.
    fn open_children(
        &self,
        circuit: CircuitType,
        children: &[Vec<u8>],
    ) -> Result<Vec<(bool, Proof)>, ProofSystemError> {
        let params = self.keys.params();
        let most = match circuit.round {
            AggregationRound::LeafAggregation => params.leaf_fan_in,
            AggregationRound::NodeAggregation => params.node_fan_in,
            AggregationRound::RecursionTip => Kind::ALL.len(),
            AggregationRound::Scheduler => 1,
            AggregationRound::BasicCircuits => 0,
        };
        if children.is_empty() || children.len() > most {
            return Err(invalid(format!("{circuit} takes 1 to {most} proofs, not {}", children.len())));
        }
        let mut opened = Vec::with_capacity(children.len());
        for (i, bytes) in children.iter().enumerate() {
            let reject = |reason: String| invalid(format!("proof {} of {circuit}: {reason}", i + 1));
            let (found, _) = split_header(bytes).map_err(reject)?;
            let is_node = found.round == AggregationRound::NodeAggregation;
            let is_leaf = found.round == AggregationRound::LeafAggregation;
            let fits = match circuit.round {
                AggregationRound::BasicCircuits => false,
                AggregationRound::LeafAggregation => {
                    found.round == AggregationRound::BasicCircuits && found.id == circuit.id
                }
                AggregationRound::NodeAggregation => (is_leaf || is_node) && found.id == circuit.id,
                AggregationRound::RecursionTip => {
                    (is_leaf || is_node) && found.id == Kind::ALL[i].circuit_id()
                }
                AggregationRound::Scheduler => found.round == AggregationRound::RecursionTip,
            };
            if !fits {
                return Err(reject(format!("a proof of {found} does not belong here")));
            }
            opened.push((is_node, self.open(found, bytes).map_err(reject)?));
        }
        check_chain(circuit, &opened)?;
        Ok(opened)
    }

    fn assign(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        witness: &mut Witness,
    ) -> Result<(), ProofSystemError> {
        let name = self.name_of(circuit)?;
        let params = *self.keys.params();
        let mut builder = Builder::new(configs::recursion_config());
        if let CircuitName::Basic(kind) = name {
            let assigned = match kind {
                Kind::TransferExecution => {
                    let targets = transfer_execution::allocate(&mut builder, &params);
                    transfer_execution::assign(&targets, &decode(payload, circuit)?, witness)
                }
                Kind::StorageApplication => {
                    let targets = storage_application::allocate(&mut builder, &params);
                    storage_application::assign(&targets, &decode(payload, circuit)?, witness)
                }
                Kind::PublicData => {
                    let targets = public_data::allocate(&mut builder, &params);
                    public_data::assign(&targets, &decode(payload, circuit)?, witness)
                }
            };
            return assigned.map_err(invalid);
        }
        let input: AggregateInput = decode(payload, circuit)?;
        let children = self.open_children(circuit, &input.children)?;
        self.assign_children(name, input.batch, children, witness)
    }

    /// Assigns an aggregating circuit over proofs, each with whether it is a node's. What the proofs are worth is for the
    /// circuit to say.
    pub(crate) fn assign_children(
        &self,
        name: CircuitName,
        batch: BatchId,
        children: Vec<(bool, Proof)>,
        witness: &mut Witness,
    ) -> Result<(), ProofSystemError> {
        let params = self.keys.params();
        let mut builder = Builder::new(configs::recursion_config());
        let node = self.keys.verifier(CircuitName::Node)?;
        let node_key = key_constants(&node.verifier_only);
        let assigned = match name {
            CircuitName::Leaf(kind) => {
                let basic = self.keys.verifier(CircuitName::Basic(kind))?;
                let targets = allocate_leaf(&mut builder, &basic.common, params.leaf_fan_in);
                let proofs: Vec<Proof> = children.into_iter().map(|(_, proof)| proof).collect();
                assign_leaf(&targets, &proofs, &node_key, witness)
            }
            CircuitName::Node => {
                let targets = allocate_node(&mut builder, &node.common, params.node_fan_in);
                assign_node(&targets, &children, &node_key, witness)
            }
            CircuitName::Tip => assign_tip(&allocate_tip(&mut builder, &node.common), &children, witness),
            _ => {
                let tip = self.keys.verifier(CircuitName::Tip)?;
                let targets = allocate_scheduler(&mut builder, &tip.common);
                assign_scheduler(&targets, &children[0].1, batch, witness)
            }
        };
        assigned.map_err(invalid)
    }

    /// Proves one wrap.
    fn wrap(&self, name: CircuitName, inner: &Verifier, proof: &Proof) -> Result<Proof, ProofSystemError> {
        let circuit = self.keys.circuit(name)?;
        let mut builder = Builder::new(circuit.common.config.clone());
        let targets = wrap::allocate(&mut builder, &inner.common);
        let mut witness = Witness::new();
        wrap::assign(&targets, proof, &mut witness).map_err(invalid)?;
        refusing_panics("the wrap cannot be proven", || {
            let witness = generate_partial_witness(witness, &circuit.prover_only, &circuit.common)?;
            Ok(self.prover.prove(&circuit, witness.values)?)
        })
        .map_err(invalid)
    }

    fn decode_input(&self, payload: &[u8]) -> Result<LedgerInput, ProofSystemError> {
        LedgerInput::decode(payload, self.keys.params()).map_err(invalid)
    }
}

/// The digest of all verification keys: that of the manifest's entries.
fn digest_of(manifest: &Manifest) -> String {
    blake3::hash(manifest.to_toml().as_bytes()).to_hex().to_string()
}

/// That each child starts where the one before it ended: the circuit would refuse too, but without a sentence.
fn check_chain(circuit: CircuitType, children: &[(bool, Proof)]) -> Result<(), ProofSystemError> {
    let at = match circuit.round {
        AggregationRound::LeafAggregation => 0,
        AggregationRound::NodeAggregation => 1,
        _ => return Ok(()),
    };
    let state =
        |proof: &Proof, at: usize| ChainState::from_elements(&proof.public_inputs[at..at + STATE_LEN]);
    for (i, pair) in children.windows(2).enumerate() {
        if state(&pair[0].1, at + STATE_LEN) != state(&pair[1].1, at) {
            return Err(invalid(format!(
                "proof {} of {circuit} does not start where the one before ends",
                i + 2
            )));
        }
    }
    Ok(())
}

/// A stored proof is its circuit (round, id: one byte each), then plonky2's bytes.
fn split_header(bytes: &[u8]) -> Result<(CircuitType, &[u8]), String> {
    let [round, id, body @ ..] = bytes else {
        return Err("it is too short for a proof".to_owned());
    };
    let round = AggregationRound::from_number(i16::from(*round)).ok_or("it is not a proof of the ledger")?;
    Ok((CircuitType { round, id: CircuitId(i16::from(*id)) }, body))
}

fn with_header(circuit: CircuitType, proof: &Proof) -> Vec<u8> {
    let mut bytes = vec![circuit.round.number() as u8, circuit.id.0 as u8];
    bytes.extend(proof.to_bytes());
    bytes
}

/// The circuit table. Costs were measured on 2 cores with the default parameters; memory is what a proof takes at most. Both give way to
/// what is learned of each circuit.
fn circuit_table(params: &LedgerParams) -> CircuitTable {
    let spec = |round, id, name, heavy, milliseconds: u64, megabytes: u64| CircuitSpec {
        circuit: CircuitType { round, id },
        name,
        memory_class: if heavy { MemoryClass::Heavy } else { MemoryClass::Light },
        expected_cost: Duration::from_millis(milliseconds),
        peak_memory_bytes: megabytes << 20,
    };
    let mut circuits = Vec::new();
    for kind in Kind::ALL {
        let id = kind.circuit_id();
        let is_storage = kind == Kind::StorageApplication;
        let (cost, memory) = if is_storage { (2_000, 400) } else { (500, 100) };
        circuits.push(spec(AggregationRound::BasicCircuits, id, kind.name(), is_storage, cost, memory));
        circuits.push(spec(AggregationRound::LeafAggregation, id, "leaf", true, 4_000, 700));
        circuits.push(spec(AggregationRound::NodeAggregation, id, "node", true, 4_000, 700));
    }
    circuits.push(spec(AggregationRound::RecursionTip, TIP, "recursion-tip", true, 4_000, 700));
    circuits.push(spec(AggregationRound::Scheduler, SCHEDULER, "scheduler", false, 3_000, 500));
    CircuitTable { circuits, leaf_fan_in: params.leaf_fan_in, node_fan_in: params.node_fan_in }
}

impl ProofSystem for LedgerProofSystem {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn circuit_table(&self) -> &CircuitTable {
        &self.table
    }

    fn protocol_version(&self) -> ProtocolVersion {
        PROTOCOL_VERSION
    }

    fn verification_keys_digest(&self) -> String {
        self.keys_digest.clone().unwrap_or_else(|| {
            let params = format!("{:?}", self.keys.params());
            blake3::hash(params.as_bytes()).to_hex().to_string()
        })
    }

    fn load_keys(&self, purpose: KeyPurpose, progress: KeyProgress<'_>) -> Result<(), ProofSystemError> {
        self.keys.generate(progress)?;
        let is_wrap = |name: &CircuitName| matches!(name, CircuitName::FirstWrap | CircuitName::SecondWrap);
        let (wraps, others): (Vec<_>, Vec<_>) = CircuitName::ALL.into_iter().partition(is_wrap);
        match purpose {
            KeyPurpose::Aggregate => {
                for name in others {
                    self.keys.verifier(name)?;
                }
            }
            KeyPurpose::Prove => self.keys.load(&others)?,
            KeyPurpose::Compress => self.keys.load(&wraps)?,
        }
        Ok(())
    }

    fn key_files(&self) -> Option<&dyn KeyFiles> {
        Some(&self.keys)
    }

    fn read_input(&self, source: &InputSource) -> Result<PreparedInput, Rejected> {
        let accounts =
            source.state_path.clone().unwrap_or_else(|| LedgerInput::default_accounts(&source.path));
        let input = LedgerInput::read(&source.path, &accounts, self.keys.params())?;
        let summary =
            format!("{} transfers, {} opening accounts", input.transfers.len(), input.accounts.len());
        Ok(PreparedInput { payload: input.encode(), summary })
    }

    fn generate_circuits(
        &self,
        _batch: BatchId,
        witness_input: &[u8],
        emit: &mut dyn FnMut(BasicCircuit) -> bool,
        control: &dyn Control,
    ) -> Result<(), ProofSystemError> {
        let input = self.decode_input(witness_input)?;
        let mut execution = Execution::new(*self.keys.params(), &input.accounts).map_err(invalid)?;
        let mut hand_out = |circuits: Vec<BasicInput>| -> Result<(), ProofSystemError> {
            for circuit in circuits {
                let id = circuit.kind().circuit_id();
                if control.is_cancelled() || !emit(BasicCircuit { id, payload: encode(&circuit)? }) {
                    return Err(ProofSystemError::Cancelled);
                }
            }
            Ok(())
        };
        for (i, (from, to, amount)) in input.transfers.iter().enumerate() {
            if i % CONTROL_INTERVAL == 0 {
                if control.is_cancelled() {
                    return Err(ProofSystemError::Cancelled);
                }
                control.report_progress(i as f32 / input.transfers.len() as f32);
            }
            hand_out(execution.apply(from, to, *amount).map_err(invalid)?)?;
        }
        hand_out(execution.finish())
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
        self.open_children(circuit, proofs)?;
        encode(&AggregateInput { batch, children: proofs.to_vec() })
    }

    fn synthesize(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        control: &dyn Control,
    ) -> Result<WitnessVector, ProofSystemError> {
        let mut witness = Witness::new();
        self.assign(circuit, payload, &mut witness)?;
        if control.is_cancelled() {
            return Err(ProofSystemError::Cancelled);
        }
        let data = self.circuit(circuit)?;
        let values = refusing_panics("the witness does not satisfy the circuit", || {
            Ok(generate_partial_witness(witness, &data.prover_only, &data.common)?.values)
        })
        .map_err(invalid)?;
        Ok(Box::new(LedgerVector { circuit, values }))
    }

    fn prove(
        &self,
        circuit: CircuitType,
        vector: WitnessVector,
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError> {
        let vector = vector
            .downcast::<LedgerVector>()
            .map_err(|_| invalid("the witness vector is not one of the ledger"))?;
        if vector.circuit != circuit {
            return Err(invalid(format!("a witness vector of {}, not of {circuit}", vector.circuit)));
        }
        if control.is_cancelled() {
            return Err(ProofSystemError::Cancelled);
        }
        let data = self.circuit(circuit)?;
        let values = vector.values;
        let proof =
            refusing_panics("the circuit cannot be proven", || Ok(self.prover.prove(&data, values)?))
                .map_err(invalid)?;
        Ok(with_header(circuit, &proof))
    }

    fn verify(&self, circuit: CircuitType, proof: &[u8]) -> Result<(), Rejected> {
        self.open(circuit, proof).map(drop).map_err(Rejected)
    }

    fn describe(&self, kind: ArtifactKind, payload: &[u8]) -> Result<Vec<(&'static str, String)>, Rejected> {
        Ok(match kind {
            ArtifactKind::WitnessInput => {
                let input = LedgerInput::decode(payload, self.keys.params())?;
                let moved: u128 = input.transfers.iter().map(|(.., amount)| u128::from(*amount)).sum();
                vec![
                    ("accounts", input.accounts.len().to_string()),
                    ("transfers", input.transfers.len().to_string()),
                    ("amount moved", moved.to_string()),
                ]
            }
            // A circuit's payload does not say of which circuit it is: its job's row does, and its key.
            ArtifactKind::Circuit => Vec::new(),
            ArtifactKind::Proof => vec![("circuit", split_header(payload).map_err(Rejected)?.0.to_string())],
            ArtifactKind::FinalProof => {
                let key = self.final_verification_key().map_err(|e| Rejected(e.to_string()))?;
                let inputs = final_proof::public_inputs(payload, &key)?;
                vec![("public inputs", inputs.join(" "))]
            }
        })
    }

    fn public_inputs(&self, proof: &[u8]) -> Result<(CircuitType, Vec<String>), Rejected> {
        let (circuit, body) = split_header(proof).map_err(Rejected)?;
        let verifier = self.verifier(circuit).map_err(|e| Rejected(e.to_string()))?;
        let proof =
            refusing_panics("it cannot be read", || Proof::from_bytes(body.to_vec(), &verifier.common))
                .map_err(Rejected)?;
        Ok((circuit, proof.public_inputs.iter().map(ToString::to_string).collect()))
    }

    fn compress(&self, scheduler_proof: &[u8], control: &dyn Control) -> Result<Vec<u8>, ProofSystemError> {
        let circuit = CircuitType { round: AggregationRound::Scheduler, id: SCHEDULER };
        let proof = self.open(circuit, scheduler_proof).map_err(invalid)?;
        let scheduler = self.keys.verifier(CircuitName::Scheduler)?;
        let first = self.wrap(CircuitName::FirstWrap, &scheduler, &proof)?;
        if control.is_cancelled() {
            return Err(ProofSystemError::Cancelled);
        }
        control.report_progress(0.5);
        let first_verifier = self.keys.verifier(CircuitName::FirstWrap)?;
        let second = self.wrap(CircuitName::SecondWrap, &first_verifier, &first)?;
        let verifier = self.keys.verifier(CircuitName::SecondWrap)?;
        final_proof::encode(second, &verifier).map_err(invalid)
    }

    fn verify_final(&self, final_proof: &[u8], statement: &[u8]) -> Result<(), Rejected> {
        let key = self.final_verification_key().map_err(|e| Rejected(e.to_string()))?;
        final_proof::verify(final_proof, statement, &key)
    }

    fn final_verification_key_digest(&self) -> Option<String> {
        let key = self.final_verification_key().ok()?;
        Some(blake3::hash(&key).to_hex().to_string())
    }

    fn outputs(&self, batch: BatchId, witness_input: &[u8]) -> Result<Vec<OutputFile>, ProofSystemError> {
        let input = self.decode_input(witness_input)?;
        let statement = statement_of(*self.keys.params(), batch, &input).map_err(invalid)?;
        let mut after = csv::Writer::from_writer(Vec::new());
        after.write_record(["account", "balance"]).map_err(invalid)?;
        for (name, balance) in input.balances_after(self.keys.params()).map_err(invalid)? {
            after.write_record([&*to_cell(&name), &balance.to_string()]).map_err(invalid)?;
        }
        Ok(vec![
            OutputFile { name: "statement.json", content: statement.to_json() },
            OutputFile { name: "accounts-after.csv", content: after.into_inner().map_err(invalid)? },
        ])
    }
}
