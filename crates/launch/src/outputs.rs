//! The files that a proven batch ends as.

use anyhow::Context;
use proof_system::{ProofSystem, verify_outputs};
use proving_model::BatchId;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where a batch's files go unless told otherwise.
#[must_use]
pub fn default_output_folder(batch: BatchId) -> PathBuf {
    PathBuf::from(format!("proofs/{}-{}", batch.chain_id, batch.number))
}

/// Writes a final proof and what goes beside it, after verifying it as anybody else would.
///
/// # Errors
/// When the proof does not verify (nothing is written), or a file cannot be written.
pub fn write_outputs(
    proof: &[u8],
    system: &dyn ProofSystem,
    batch: BatchId,
    witness_input: &[u8],
    folder: &Path,
) -> anyhow::Result<()> {
    let files = verify_outputs(system, batch, witness_input, proof)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let files = files.iter().map(|file| (file.name, file.content.as_slice()));
    for (name, content) in files.chain([("proof.bin", proof)]) {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    tracing::info!(
        "verified; {} holds the proof of {} bytes and its statement",
        folder.display(),
        proof.len()
    );
    Ok(())
}
