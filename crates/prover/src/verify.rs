//! `prover verify`: a final proof against a statement, anywhere.

use anyhow::ensure;
use clap::Args;
use cli_support::{BadInput, ProofSystems, VerifierArgs, verifier_in_words};
use ledger_circuits::{STATEMENT_BYTES_MAX, final_proof};
use outside::read_limited;
use std::path::{Path, PathBuf};

/// What the files of proof systems other than the ledger may have; the ledger has its own limits.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The final proof, `proof.bin`.
    proof: PathBuf,
    /// The statement that it should prove, `statement.json`.
    #[arg(long)]
    statement: PathBuf,
    /// A verification key's file [default: the key that this program ships].
    #[arg(long)]
    verification_key: Option<PathBuf>,
    #[command(flatten)]
    system: VerifierArgs,
}

fn read(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let bad = |e| BadInput(format!("cannot read {}: {e}", path.display()));
    Ok(read_limited(path, bytes_max).map_err(bad)?)
}

/// Reads a verification key from its file, once its circuit is seen to be of the shipped key's shape.
fn foreign_key(path: &Path, shipped: &[u8]) -> anyhow::Result<Vec<u8>> {
    let bad = |reason: String| BadInput(format!("cannot use {}: {reason}", path.display()));
    let text = String::from_utf8(read(path, final_proof::KEY_FILE_BYTES_MAX as u64)?)
        .map_err(|e| bad(e.to_string()))?;
    let key = final_proof::key_from_text(&text).map_err(bad)?;
    final_proof::check_foreign_key(&key, shipped).map_err(|e| bad(e.to_string()))?;
    Ok(key)
}

pub(crate) fn verify(args: &VerifyArgs, systems: &ProofSystems) -> anyhow::Result<()> {
    let is_ledger = args.system.proof_system == "ledger";
    let [proof_bytes_max, statement_bytes_max] = if is_ledger {
        [final_proof::PROOF_BYTES_MAX as u64, STATEMENT_BYTES_MAX as u64]
    } else {
        [FILE_BYTES_MAX; 2]
    };
    let proof = read(&args.proof, proof_bytes_max)?;
    let statement = read(&args.statement, statement_bytes_max)?;
    let system = args.system.open(systems)?;
    let refused = |e| anyhow::anyhow!("{} is refused: {e}", args.proof.display());
    let verifier = match &args.verification_key {
        None => {
            system.verify_final(&proof, &statement).map_err(refused)?;
            verifier_in_words(&*system)
        }
        Some(path) => {
            ensure!(is_ledger, BadInput("--verification-key is for --proof-system=ledger".to_owned()));
            let shipped = ledger_circuits::shipped_verification_key()?;
            let key = foreign_key(path, &shipped)?;
            final_proof::verify(&proof, &statement, &key).map_err(refused)?;
            if key == shipped {
                verifier_in_words(&*system)
            } else {
                let digest = blake3::hash(&key).to_hex();
                tracing::warn!(
                    "the verification key in {} is not the one that this program ships: whoever made it may have \
                     made it for other circuits",
                    path.display()
                );
                format!(
                    "proof system {}, version {}, verification key {digest} (BLAKE3) of {}, not the shipped one",
                    system.name(),
                    system.protocol_version(),
                    path.display()
                )
            }
        }
    };
    tracing::info!("{} proves {}", args.proof.display(), args.statement.display());
    tracing::info!("verified with {verifier}");
    Ok(())
}
