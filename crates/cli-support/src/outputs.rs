//! The files that a proven batch ends as.

use crate::BadInput;
use private_folder::{FolderError, OutputFolder};
use proof_system::{ProofSystem, verify_outputs};
use proving_model::BatchId;
use std::path::{Path, PathBuf};

/// The final proof's file.
const PROOF_FILE: &str = "proof.bin";

/// Where a batch's files go unless told otherwise.
#[must_use]
pub fn default_output_folder(batch: BatchId) -> PathBuf {
    PathBuf::from(format!("proofs/{}-{}", batch.chain_id, batch.number))
}

/// That a new proof may be written to this folder; changes nothing. In a folder that the program made, or was given empty, files are
/// replaced, and in another one never.
///
/// # Errors
/// [`BadInput`] when another proof is there.
pub fn check_output_folder(folder: &Path) -> anyhow::Result<()> {
    if OutputFolder::is_taken(folder, PROOF_FILE) {
        let text = format!(
            "{} is there already, in a folder that is not Roundhouse's: move it away, or name another folder with --out",
            folder.join(PROOF_FILE).display()
        );
        return Err(BadInput(text).into());
    }
    Ok(())
}

/// Writes a final proof and what goes beside it, after verifying it as anybody else would.
///
/// # Errors
/// When the proof does not verify (nothing is written), a file cannot be written, or a file of the user's would be replaced ([`BadInput`]).
pub fn write_outputs(
    proof: &[u8],
    system: &dyn ProofSystem,
    batch: BatchId,
    witness_input: &[u8],
    folder: &Path,
) -> anyhow::Result<()> {
    let files = verify_outputs(system, batch, witness_input, proof)?;
    let refused = |error| match error {
        FolderError::NotOurs { .. } => anyhow::Error::from(BadInput(format!("{error} (--out)"))),
        FolderError::Io { .. } => error.into(),
    };
    let output = OutputFolder::open(folder).map_err(refused)?;
    let files = files.iter().map(|file| (file.name, file.content.as_slice()));
    for (name, content) in files.chain([(PROOF_FILE, proof)]) {
        output.write(name, content).map_err(refused)?;
    }
    tracing::info!(
        "verified; {} holds the proof of {} bytes and its statement",
        folder.display(),
        proof.len()
    );
    Ok(())
}
