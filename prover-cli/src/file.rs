//! `file-info` and `debug-proof`: artifacts as they lie in a folder.

use crate::Output;
use anyhow::Context;
use artifact_store::{HEADER_LEN, Header};
use clap::Args;
use cli_support::{BadInput, ProofSystemArgs, ProofSystems, VerifierArgs, load_keys, verifier_in_words};
use outside::{ReadError, read_limited, read_stream_limited};
use proof_system::{CircuitType, KeyPurpose, ProofSystem, Uncontrolled};
use proving_model::{AggregationRound, ArtifactKind, CircuitId};
use schemars::JsonSchema;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write,
    io::Read,
    path::{Path, PathBuf},
};

/// Largest file of a statement, of whatever proof system.
const STATEMENT_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(crate) struct FileInfoArgs {
    /// An artifact's file.
    file: PathBuf,
    #[command(flatten)]
    system: ProofSystemArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DebugProofArgs {
    /// An artifact's file: a proof, a circuit, or a final proof.
    file: PathBuf,
    /// The round of a circuit's artifact [default: as its key, the end of its path, says].
    #[arg(long, requires = "circuit_id")]
    round: Option<AggregationRound>,
    /// The circuit of a circuit's artifact.
    #[arg(long, requires = "round")]
    circuit_id: Option<i16>,
    /// The statement of a final proof, as `proof fetch` writes it.
    #[arg(long)]
    statement: Option<PathBuf>,
    #[command(flatten)]
    verifier: VerifierArgs,
    /// The key folder [default: the user's cache folder].
    #[arg(long, env = "ROUNDHOUSE_KEYS")]
    keys: Option<PathBuf>,
}

#[derive(Serialize, JsonSchema)]
pub(crate) struct FileInfo {
    kind: &'static str,
    payload_bytes: u64,
    codec: u8,
    schema_version: u16,
    /// BLAKE3 of the payload, as the job store has it too.
    checksum: String,
    /// What the payload tells of itself, by name.
    content: BTreeMap<&'static str, String>,
}

/// A whole artifact of a file: its header and its payload. The header first: what does not begin as an artifact is not read.
fn read(file: &Path) -> anyhow::Result<(Header, Vec<u8>)> {
    let shown = file.display();
    let mut stream = std::fs::File::open(file).with_context(|| format!("cannot read {shown}"))?;
    let start = read_stream_limited((&mut stream).take(HEADER_LEN as u64), HEADER_LEN as u64);
    let start = start.with_context(|| format!("cannot read {shown}"))?;
    let refused = |reason: String| anyhow::anyhow!("{shown} is not a whole artifact: {reason}");
    let header = Header::parse(&start).map_err(refused)?;
    let payload = read_stream_limited(stream, header.size_bytes).map_err(|e| match e {
        ReadError::Endless { most } => refused(format!("its header says {most} bytes and more follow")),
        e => anyhow::anyhow!("cannot read {shown}: {e}"),
    })?;
    header.check_payload(&payload).map_err(refused)?;
    Ok((header, payload))
}

pub(crate) fn info(args: &FileInfoArgs, systems: &ProofSystems, output: Output) -> anyhow::Result<()> {
    let (header, payload) = read(&args.file)?;
    let system = args.system.open(systems)?;
    let content = system.describe(header.kind, &payload).with_context(|| {
        format!(
            "{} is whole, and no {} of {}; is it another proof system's?",
            args.file.display(),
            header.kind,
            system.name()
        )
    })?;
    let info = FileInfo {
        kind: header.kind.as_str(),
        payload_bytes: header.size_bytes,
        codec: header.codec,
        schema_version: header.schema_version,
        checksum: header.checksum.iter().map(|byte| format!("{byte:02x}")).collect(),
        content: content.into_iter().collect(),
    };
    let mut text = format!(
        "{}: a whole {}, {} bytes, schema version {}, BLAKE3 {}\n",
        args.file.display(),
        info.kind,
        info.payload_bytes,
        info.schema_version,
        info.checksum
    );
    for (name, value) in &info.content {
        writeln!(text, "  {name}: {value}")?;
    }
    output.print(&info, &text)
}

/// What a check of an artifact found.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Verdict {
    kind: &'static str,
    /// The circuit, where there is one.
    circuit: Option<String>,
    public_inputs: Vec<String>,
    is_accepted: bool,
    /// The check, or the constraint, that fails.
    reason: Option<String>,
}

/// Checks a proof, or whether a circuit can be satisfied; the exit status is 1 where not.
pub(crate) fn debug_proof(
    args: &DebugProofArgs,
    systems: &ProofSystems,
    output: Output,
) -> anyhow::Result<()> {
    let (header, payload) = read(&args.file)?;
    let system = args.verifier.open_with_keys(systems, args.keys.clone())?;
    let mut verdict = Verdict {
        kind: header.kind.as_str(),
        circuit: None,
        public_inputs: Vec::new(),
        is_accepted: false,
        reason: None,
    };
    let checked = match header.kind {
        ArtifactKind::Proof => {
            load_keys(&*system, KeyPurpose::Aggregate)?;
            check_proof(&*system, &payload, &mut verdict)
        }
        ArtifactKind::Circuit => {
            let circuit = circuit_of(args)?;
            verdict.circuit = Some(circuit.to_string());
            load_keys(&*system, KeyPurpose::Prove)?;
            system.synthesize(circuit, &payload, &Uncontrolled).map(drop).map_err(|e| e.to_string())
        }
        ArtifactKind::FinalProof => {
            let path = args.statement.as_ref().ok_or_else(|| {
                BadInput("a final proof is checked against a statement: name it with --statement".to_owned())
            })?;
            let statement = read_limited(path, STATEMENT_BYTES_MAX)
                .with_context(|| format!("cannot read {}", path.display()))?;
            system.verify_final(&payload, &statement).map_err(|e| e.to_string())
        }
        ArtifactKind::WitnessInput => {
            return Err(BadInput("a witness input proves nothing: see file-info".to_owned()).into());
        }
    };
    verdict.is_accepted = checked.is_ok();
    verdict.reason = checked.err();
    let mut text = format!("{}\n{}: a {}", verifier_in_words(&*system), args.file.display(), header.kind);
    if let Some(circuit) = &verdict.circuit {
        write!(text, " of {circuit}")?;
    }
    match &verdict.reason {
        None => writeln!(text, ", accepted")?,
        Some(reason) => writeln!(text, ", refused: {reason}")?,
    }
    if !verdict.public_inputs.is_empty() {
        writeln!(text, "  public inputs: {}", verdict.public_inputs.join(" "))?;
    }
    output.print(&verdict, &text)?;
    anyhow::ensure!(verdict.is_accepted, "{} is refused", args.file.display());
    Ok(())
}

fn check_proof(system: &dyn ProofSystem, payload: &[u8], verdict: &mut Verdict) -> Result<(), String> {
    let (circuit, public_inputs) = system.public_inputs(payload).map_err(|e| e.to_string())?;
    verdict.circuit = Some(circuit.to_string());
    verdict.public_inputs = public_inputs;
    system.verify(circuit, payload).map_err(|e| e.to_string())
}

/// The circuit that a circuit's artifact is of: as given, or as its key says, `…/ROUND/CIRCUIT/DEPTH/SEQUENCE-TOKEN`.
fn circuit_of(args: &DebugProofArgs) -> anyhow::Result<CircuitType> {
    if let (Some(round), Some(id)) = (args.round, args.circuit_id) {
        return Ok(CircuitType { round, id: CircuitId(id) });
    }
    let mut parts = args.file.iter().rev().skip(2).map(|part| part.to_str()?.parse::<i16>().ok());
    let (id, round) = (parts.next().flatten(), parts.next().flatten());
    match (id, round.and_then(AggregationRound::from_number)) {
        (Some(id), Some(round)) => Ok(CircuitType { round, id: CircuitId(id) }),
        _ => Err(BadInput(format!(
            "{} does not lie where its key says of which circuit it is: name it with --round and --circuit-id",
            args.file.display()
        ))
        .into()),
    }
}
