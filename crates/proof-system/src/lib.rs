//! What the pipeline asks of a proof system, and nothing more.
//!
//! The components drive a [`ProofSystem`]; they never look into a circuit or a proof. Its methods are the
//! stages of the pipeline: cut the input into basic circuits, synthesise a witness vector, prove it, verify,
//! aggregate proofs round by round, compress. All of them block and compute, none does I/O, and each may be
//! called again with the same arguments after a crash: the results must be interchangeable.
//!
//! - [`tree`] decides which proofs are aggregated together;
//! - [`bare`] runs a whole batch in one thread of control, without queue or store: the reference for speed;
//! - [`conformance`] is the suite that every implementation passes;
//! - [`mock`] is an implementation with costs, sizes, memory and failures set in a file.
//!
//! # A proof system of your own
//!
//! The whole of one, with the suite at its end (`crates/proof-system/examples/sum.rs`):
//!
//! ```
#![doc = include_str!("../examples/sum.rs")]
//! ```

pub mod bare;
pub mod conformance;
pub mod mock;
pub mod tree;

use proving_model::{AggregationRound, ArtifactKind, BatchId, CircuitId, MemoryClass, ProtocolVersion};
use std::{any::Any, path::PathBuf, time::Duration};
use thiserror::Error;

/// Which circuit: its round and its id within the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircuitType {
    /// The round that the circuit belongs to.
    pub round: AggregationRound,
    /// Its id within the round.
    pub id: CircuitId,
}

impl std::fmt::Display for CircuitType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} circuit {}", self.round, self.id)
    }
}

/// One row of a proof system's circuit table.
#[derive(Debug, Clone)]
pub struct CircuitSpec {
    /// Which circuit this describes.
    pub circuit: CircuitType,
    /// A name for people.
    pub name: &'static str,
    /// Which runners may synthesise it.
    pub memory_class: MemoryClass,
    /// Expected time of synthesis and proof on one CPU core; orders the queue, longest first.
    pub expected_cost: Duration,
    /// Expected peak of memory while it is synthesised and proven.
    pub peak_memory_bytes: u64,
}

/// The circuits of a proof system and how many proofs leaves and nodes take at most.
#[derive(Debug, Clone)]
pub struct CircuitTable {
    /// One row a circuit.
    pub circuits: Vec<CircuitSpec>,
    /// Most basic proofs in one leaf; at least 1.
    pub leaf_fan_in: usize,
    /// Most proofs in one node; at least 2.
    pub node_fan_in: usize,
}

impl CircuitTable {
    /// The row of this circuit.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the proof system has no such circuit.
    pub fn get(&self, circuit: CircuitType) -> Result<&CircuitSpec, ProofSystemError> {
        self.circuits.iter().find(|spec| spec.circuit == circuit).ok_or_else(|| {
            ProofSystemError::Invalid(format!(
                "this proof system has no {circuit}; check the protocol version"
            ))
        })
    }

    /// The ids of the basic circuits, in the order in which the recursion tip takes their proofs.
    pub fn basic_circuits(&self) -> impl Iterator<Item = CircuitId> + '_ {
        self.circuits
            .iter()
            .filter(|spec| spec.circuit.round == AggregationRound::BasicCircuits)
            .map(|spec| spec.circuit.id)
    }

    /// The one circuit of a round that has only one (recursion tip, scheduler).
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the table has none for that round.
    pub fn single(&self, round: AggregationRound) -> Result<CircuitId, ProofSystemError> {
        self.circuits
            .iter()
            .find(|spec| spec.circuit.round == round)
            .map(|spec| spec.circuit.id)
            .ok_or_else(|| ProofSystemError::Invalid(format!("this proof system has no {round} circuit")))
    }

    /// Checks that `parent` takes proofs of exactly these circuits, in this order. A proof system calls it first in
    /// [`ProofSystem::aggregate`], with the circuits that the proofs were made with.
    ///
    /// | parent | children |
    /// |---|---|
    /// | leaf of id i | 1 to [`leaf_fan_in`](Self::leaf_fan_in) basic circuits of id i |
    /// | node of id i | 2 to [`node_fan_in`](Self::node_fan_in) leaves or nodes of id i |
    /// | recursion tip | one leaf or node of each basic circuit's id, in the table's order |
    /// | scheduler | the recursion tip |
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] names the first child that the parent does not take, or says how many it takes.
    pub fn check_children(
        &self,
        parent: CircuitType,
        children: &[CircuitType],
    ) -> Result<(), ProofSystemError> {
        use AggregationRound::{BasicCircuits, LeafAggregation, NodeAggregation, RecursionTip, Scheduler};
        const AGGREGATED: &[AggregationRound] = &[LeafAggregation, NodeAggregation];
        let invalid = |reason: String| Err(ProofSystemError::Invalid(format!("{parent} takes {reason}")));
        self.get(parent)?;
        // For each child, the rounds and the id that it may have.
        let takes: Vec<(&[AggregationRound], CircuitId)> = match parent.round {
            BasicCircuits => return invalid("no proofs".to_owned()),
            LeafAggregation => vec![(&[BasicCircuits], parent.id); children.len().min(self.leaf_fan_in)],
            NodeAggregation => vec![(AGGREGATED, parent.id); children.len().min(self.node_fan_in)],
            RecursionTip => self.basic_circuits().map(|id| (AGGREGATED, id)).collect(),
            Scheduler => vec![(&[RecursionTip], self.single(RecursionTip)?)],
        };
        let fewest = if parent.round == NodeAggregation { 2 } else { 1 };
        if takes.len() != children.len() || children.len() < fewest {
            return match parent.round {
                LeafAggregation => {
                    invalid(format!("1 to {} proofs, not {}", self.leaf_fan_in, children.len()))
                }
                NodeAggregation => {
                    invalid(format!("2 to {} proofs, not {}", self.node_fan_in, children.len()))
                }
                _ => invalid(format!("{} proofs, not {}", takes.len(), children.len())),
            };
        }
        for (place, (child, (rounds, id))) in children.iter().zip(takes).enumerate() {
            if child.id != id || !rounds.contains(&child.round) {
                return invalid(format!("no proof of {child} as child {}", place + 1));
            }
        }
        Ok(())
    }
}

/// Why a stage did not produce its result. The variants say what the caller may do.
#[derive(Debug, Error)]
pub enum ProofSystemError {
    /// The input, circuit or proof is wrong: trying again gives the same.
    #[error("{0}")]
    Invalid(String),
    /// Something around the computation failed (memory, device, key file): trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// A proof or statement that is not accepted, with the reason as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Rejected(pub String);

/// How a long stage hears that it should stop, and tells how far it is.
pub trait Control: Send + Sync {
    /// Whether the result is no longer wanted. Long stages ask between their steps.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Tells how much of the stage is done, from 0 to 1.
    fn report_progress(&self, _fraction: f32) {}
}

/// A [`Control`] that never stops and does not listen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uncontrolled;

impl Control for Uncontrolled {}

/// One basic circuit, as [`ProofSystem::generate_circuits`] hands it out.
#[derive(Debug, Clone)]
pub struct BasicCircuit {
    /// Which basic circuit.
    pub id: CircuitId,
    /// What [`ProofSystem::synthesize`] needs, encoded by the proof system.
    pub payload: Vec<u8>,
}

/// A circuit with all its wire values. It stays in the process: it is large, and its prover is next door.
pub type WitnessVector = Box<dyn Any + Send>;

/// Where the user's input comes from.
#[derive(Debug, Clone)]
pub struct InputSource {
    /// The input file itself.
    pub path: PathBuf,
    /// The file of the prior state, where the proof system has one; its default lies beside the input.
    pub state_path: Option<PathBuf>,
}

/// A checked input, ready to be stored as the batch's witness input.
#[derive(Debug, Clone)]
pub struct PreparedInput {
    /// The witness input's payload.
    pub payload: Vec<u8>,
    /// One line for people: what is in it.
    pub summary: String,
}

/// A file that goes beside the final proof, such as the statement.
#[derive(Debug, Clone)]
pub struct OutputFile {
    /// File name, without a folder.
    pub name: &'static str,
    /// Content.
    pub content: Vec<u8>,
}

/// What a component needs keys for; it loads no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyPurpose {
    /// To check and aggregate proofs: verification keys alone.
    Aggregate,
    /// To synthesise and prove the circuits of all rounds.
    Prove,
    /// To compress.
    Compress,
}

/// Reports key generation: circuits built so far, circuits in all, name of the one at hand.
pub type KeyProgress<'a> = &'a (dyn Fn(usize, usize, &str) + Sync);

/// A file of a key set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    /// The key's name.
    pub name: String,
    /// BLAKE3 of the file, in hexadecimal digits.
    pub blake3: String,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it is on this machine; nobody has looked into it.
    pub is_here: bool,
}

/// The files of a key set whose digests come with the program.
pub trait KeyFiles: Send + Sync {
    /// All of them, by name.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when the folder cannot be read.
    fn list(&self) -> Result<Vec<KeyFile>, ProofSystemError>;

    /// A file's bytes; `None` when it is not here.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when it is not the file that its digest names.
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>, ProofSystemError>;

    /// Takes a file that was made elsewhere.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when it is not the file that its digest names, or cannot be written.
    fn store(&self, name: &str, bytes: &[u8]) -> Result<(), ProofSystemError>;
}

/// A proof system: everything that the pipeline does not know about proving.
///
/// | method | called by | keys that are loaded | must refuse |
/// |---|---|---|---|
/// | [`read_input`](Self::read_input) | `prove`, `insert-batch` | none | a wrong file, with its place |
/// | [`generate_circuits`](Self::generate_circuits) | witness generator, once a batch | [`Aggregate`](KeyPurpose::Aggregate) | a payload that is no witness input |
/// | [`aggregate`](Self::aggregate) | witness generator, for each leaf, node, tip and scheduler | [`Aggregate`](KeyPurpose::Aggregate) | proofs that do not verify, and all that [`CircuitTable::check_children`] refuses |
/// | [`synthesize`](Self::synthesize) | witness-vector generators, many threads at once | [`Prove`](KeyPurpose::Prove) | a payload of another circuit, or one that its circuit does not satisfy |
/// | [`prove`](Self::prove) | circuit prover | [`Prove`](KeyPurpose::Prove) | a vector of another circuit |
/// | [`compress`](Self::compress) | compressor | [`Compress`](KeyPurpose::Compress) | a proof that is not the scheduler's |
/// | [`verify_final`](Self::verify_final), [`outputs`](Self::outputs) | compressor, `verify`, `proof fetch` | none | a proof of any other statement |
/// | [`verify`](Self::verify), [`describe`](Self::describe), [`public_inputs`](Self::public_inputs) | `file-info`, `debug-proof` | none or [`Aggregate`](KeyPurpose::Aggregate) | bytes that are no proof of that circuit |
///
/// - **Ids.** A leaf and a node have the id of the basic circuit whose proofs they cover. A proof's bytes say of which circuit it is.
/// - **Limits.** Ids are 0 to 255, depths 0 to 31; a batch has at most 2^20 circuits of a kind and a depth, and an artifact at most 1 GiB.
/// - **Again.** After a crash any call may be made again with the same arguments, on another machine. The two results need not be the same
///   bytes, but each must do wherever the other does.
/// - **Threads.** All methods may be called from many threads at once.
pub trait ProofSystem: std::fmt::Debug + Send + Sync + 'static {
    /// Name of the implementation, as in configuration and in labels.
    fn name(&self) -> &'static str;

    /// The circuits, and how many proofs an aggregation takes.
    fn circuit_table(&self) -> &CircuitTable;

    /// The protocol version that this build proves.
    fn protocol_version(&self) -> ProtocolVersion;

    /// A digest of all verification keys; batches of another digest are not this build's to prove.
    fn verification_keys_digest(&self) -> String;

    /// Makes sure that the keys for a purpose are in memory; generates the key set where it never was. A proof system without
    /// keys has nothing to do.
    ///
    /// # Errors
    /// [`ProofSystemError::Unavailable`] when key files cannot be read, written, or are not what they should be.
    fn load_keys(&self, _purpose: KeyPurpose, _progress: KeyProgress<'_>) -> Result<(), ProofSystemError> {
        Ok(())
    }

    /// The files of its key set, where their digests come with the program: such a set can be handed from machine to machine.
    fn key_files(&self) -> Option<&dyn KeyFiles> {
        None
    }

    /// Reads and checks a user's input. Nothing is written.
    ///
    /// # Errors
    /// [`Rejected`] names file, line and field of the first mistake.
    fn read_input(&self, source: &InputSource) -> Result<PreparedInput, Rejected>;

    /// Cuts a witness input into basic circuits and hands them to `emit` as they come, in an order that is
    /// the same at every call. When `emit` answers false, stops with [`ProofSystemError::Cancelled`].
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the payload is not a witness input of this system.
    fn generate_circuits(
        &self,
        batch: BatchId,
        witness_input: &[u8],
        emit: &mut dyn FnMut(BasicCircuit) -> bool,
        control: &dyn Control,
    ) -> Result<(), ProofSystemError>;

    /// Makes the circuit that aggregates `proofs`, in their order. `circuit.round` is leaf, node, tip or scheduler.
    /// It refuses every proof of a circuit that [`CircuitTable::check_children`] refuses.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when a proof is not one that this circuit takes.
    fn aggregate(
        &self,
        batch: BatchId,
        circuit: CircuitType,
        proofs: &[Vec<u8>],
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError>;

    /// Computes all wire values of a circuit.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the payload does not satisfy the circuit.
    fn synthesize(
        &self,
        circuit: CircuitType,
        payload: &[u8],
        control: &dyn Control,
    ) -> Result<WitnessVector, ProofSystemError>;

    /// Proves a witness vector and verifies the proof before it returns it.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the vector is not one of this circuit, or its proof does not verify.
    fn prove(
        &self,
        circuit: CircuitType,
        vector: WitnessVector,
        control: &dyn Control,
    ) -> Result<Vec<u8>, ProofSystemError>;

    /// Checks a proof of any round.
    ///
    /// # Errors
    /// [`Rejected`] when it is not a proof of that circuit.
    fn verify(&self, circuit: CircuitType, proof: &[u8]) -> Result<(), Rejected>;

    /// What an artifact's payload tells of itself without any key, for people: names and values. By default nothing.
    ///
    /// # Errors
    /// [`Rejected`] when it is not a payload of that kind.
    fn describe(
        &self,
        _kind: ArtifactKind,
        _payload: &[u8],
    ) -> Result<Vec<(&'static str, String)>, Rejected> {
        Ok(Vec::new())
    }

    /// The circuit that a proof says that it is of, and its public inputs in words. It is read, not verified.
    ///
    /// # Errors
    /// [`Rejected`] when it cannot be read.
    fn public_inputs(&self, proof: &[u8]) -> Result<(CircuitType, Vec<String>), Rejected>;

    /// Wraps the scheduler's proof into the small final proof.
    ///
    /// # Errors
    /// As [`ProofSystem::prove`].
    fn compress(&self, scheduler_proof: &[u8], control: &dyn Control) -> Result<Vec<u8>, ProofSystemError>;

    /// Checks a final proof against a statement, as [`ProofSystem::outputs`] writes it. Loads no proving keys.
    ///
    /// # Errors
    /// [`Rejected`] says in a sentence what is wrong.
    fn verify_final(&self, final_proof: &[u8], statement: &[u8]) -> Result<(), Rejected>;

    /// BLAKE3 digest, in hexadecimal digits, of the verification key that [`ProofSystem::verify_final`] uses; `None` where the
    /// proof system has no such key.
    fn final_verification_key_digest(&self) -> Option<String> {
        None
    }

    /// The files that go beside the final proof; the first is the statement.
    ///
    /// # Errors
    /// [`ProofSystemError::Invalid`] when the payload is not a witness input of this system.
    fn outputs(&self, batch: BatchId, witness_input: &[u8]) -> Result<Vec<OutputFile>, ProofSystemError>;
}

/// The files that go beside a batch's final proof, the statement first, once the proof verifies against it.
///
/// # Errors
/// [`ProofSystemError::Invalid`] when the proof is not one of this batch's statement.
pub fn verify_outputs(
    system: &dyn ProofSystem,
    batch: BatchId,
    witness_input: &[u8],
    final_proof: &[u8],
) -> Result<Vec<OutputFile>, ProofSystemError> {
    let files = system.outputs(batch, witness_input)?;
    let invalid = |reason: String| {
        ProofSystemError::Invalid(format!(
            "the final proof of {batch} does not verify against the statement of its witness input: {reason}"
        ))
    };
    let statement = files.first().ok_or_else(|| invalid("the proof system has no statement".to_owned()))?;
    system.verify_final(final_proof, &statement.content).map_err(|e| invalid(e.to_string()))?;
    Ok(files)
}
