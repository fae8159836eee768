//! Where a batch's input comes from: a file, a URL, or standard input.

use anyhow::Context;
use artifact_store::ArtifactError;
use cli_support::BadInput;
use outside::{read_stream_limited, shown};
use proof_system::{InputSource, PreparedInput, ProofSystem};
use std::path::PathBuf;

/// Larger inputs are refused before they are kept; the same as a file may have.
const INPUT_BYTES_MAX: u64 = 64 << 20;
/// Names standard input.
const STANDARD_INPUT: &str = "-";

/// Reads and checks an input. What comes from elsewhere is kept in a folder of its own while it is read, and messages name it as the user
/// did.
///
/// # Errors
/// [`BadInput`], with its place.
pub(crate) async fn read(
    system: &dyn ProofSystem,
    input: &str,
    accounts: Option<&str>,
) -> anyhow::Result<PreparedInput> {
    let folder = tempfile::tempdir().context("no folder can be made for the input")?;
    let mut renamed = Vec::new();
    let mut keep = |given: &str, name: &str, bytes: Option<Vec<u8>>| -> anyhow::Result<PathBuf> {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes)
                .with_context(|| format!("cannot keep {} in {}", shown(given), path.display()))?;
        }
        renamed.push((path.display().to_string(), shown(given)));
        Ok(path)
    };
    let path = match from_elsewhere(input).await? {
        Some(bytes) => keep(input, "input", Some(bytes))?,
        None => PathBuf::from(input),
    };
    let state_path = match (accounts, beside(input)) {
        (Some(accounts), _) => Some(match from_elsewhere(accounts).await? {
            Some(bytes) => keep(accounts, "accounts", Some(bytes))?,
            None => PathBuf::from(accounts),
        }),
        // Whether it is missed is for the proof system to say.
        (None, Some(url)) => Some(keep(&url, "accounts", where_there_are_any(&url).await)?),
        (None, None) => (input == STANDARD_INPUT).then(|| PathBuf::from("accounts.csv")),
    };
    let source = InputSource { path, state_path };
    system.read_input(&source).map_err(|e| {
        let words = renamed.iter().fold(e.to_string(), |text, (path, given)| text.replace(path, given));
        BadInput(words).into()
    })
}

/// Where the accounts of an input by URL are, when nobody says.
fn beside(input: &str) -> Option<String> {
    let (folder, _) = input.split_once("://").and_then(|_| input.rsplit_once('/'))?;
    Some(format!("{folder}/accounts.csv"))
}

/// The accounts of that URL, which nobody named.
async fn where_there_are_any(url: &str) -> Option<Vec<u8>> {
    match artifact_store::fetch(url, INPUT_BYTES_MAX).await {
        Ok(bytes) => Some(bytes),
        Err(ArtifactError::Missing { .. }) => None,
        Err(error) => {
            tracing::warn!("no accounts are read beside the input: {error}");
            None
        }
    }
}

/// The bytes of what is no file of this machine.
async fn from_elsewhere(given: &str) -> anyhow::Result<Option<Vec<u8>>> {
    if given == STANDARD_INPUT {
        let bytes = read_stream_limited(std::io::stdin().lock(), INPUT_BYTES_MAX);
        return Ok(Some(bytes.map_err(|e| BadInput(format!("cannot read standard input: {e}")))?));
    }
    if given.contains("://") {
        let bytes = artifact_store::fetch(given, INPUT_BYTES_MAX).await;
        return Ok(Some(bytes.map_err(|e| BadInput(format!("{} cannot be read: {e}", shown(given))))?));
    }
    Ok(None)
}
