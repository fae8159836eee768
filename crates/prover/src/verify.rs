//! `prover verify`: a final proof against a statement, anywhere.

use clap::Args;
use launch::{BadInput, ProofSystemArgs};
use ledger_circuits::final_proof;
use std::path::{Path, PathBuf};

/// Larger files are refused before they are read.
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
    system: ProofSystemArgs,
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bad = |reason: String| BadInput(format!("cannot read {}: {reason}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.len();
    if size > FILE_BYTES_MAX {
        return Err(bad(format!("it has {size} bytes; {FILE_BYTES_MAX} are allowed")).into());
    }
    Ok(std::fs::read(path).map_err(|e| bad(e.to_string()))?)
}

pub(crate) fn verify(args: &VerifyArgs) -> anyhow::Result<()> {
    let (proof, statement) = (read(&args.proof)?, read(&args.statement)?);
    let verdict = match &args.verification_key {
        Some(path) => {
            let text = String::from_utf8(read(path)?).map_err(|e| BadInput(e.to_string()))?;
            let key = final_proof::key_from_text(&text).map_err(BadInput)?;
            final_proof::verify(&proof, &statement, &key)
        }
        None => args.system.open()?.verify_final(&proof, &statement),
    };
    verdict.map_err(|e| anyhow::anyhow!("{} is refused: {e}", args.proof.display()))?;
    tracing::info!("{} proves {}", args.proof.display(), args.statement.display());
    Ok(())
}
