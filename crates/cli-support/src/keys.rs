//! A key set on its way from machine to machine, through the object store.

use crate::BadInput;
use artifact_store::{ArtifactError, ArtifactStore};
use futures::{StreamExt, TryStreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use proof_system::{KeyFile, KeyFiles, ProofSystem, ProofSystemError};
use std::sync::Arc;

/// Files that are moved at a time; each is in memory.
const FILES_AT_A_TIME: usize = 3;

/// What became of the files of a key set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MovedKeys {
    /// Files that were moved.
    pub moved: usize,
    /// Files that were where they should go already.
    pub there: usize,
    /// Files that are in neither place.
    pub absent: usize,
}

/// The files of a proof system's key set.
///
/// # Errors
/// [`BadInput`] when it has none that can be handed on.
pub fn key_files(system: &dyn ProofSystem) -> anyhow::Result<&dyn KeyFiles> {
    let name = system.name();
    Ok(system
        .key_files()
        .ok_or_else(|| BadInput(format!("the proof system {name} has no key files that can be handed on")))?)
}

/// Something with a key file that takes its time, in a thread of its own.
async fn in_a_thread<T: Send + 'static>(
    system: &Arc<dyn ProofSystem>,
    work: impl FnOnce(&dyn KeyFiles) -> Result<T, ProofSystemError> + Send + 'static,
) -> anyhow::Result<T> {
    let system = system.clone();
    tokio::task::spawn_blocking(move || Ok(work(key_files(&*system)?)?)).await?
}

fn bar_of(files: &[KeyFile]) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>17} {bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let total = files.iter().map(|file| file.size_bytes).sum();
    crate::bars().add(ProgressBar::new(total).with_style(style).with_prefix("keys"))
}

/// Writes a key set to the object store: what is there already is not written again.
///
/// # Errors
/// [`BadInput`] when a key was not generated yet; the key files', the object store's.
pub async fn publish_keys(
    system: &Arc<dyn ProofSystem>,
    artifacts: &ArtifactStore,
) -> anyhow::Result<MovedKeys> {
    let files = in_a_thread(system, |files| files.list()).await?;
    let bar = bar_of(&files);
    let publish = |file: KeyFile| {
        let bar = &bar;
        async move {
            let name = file.name.clone();
            let Some(bytes) = in_a_thread(system, move |files| files.load(&name)).await? else {
                let text = format!("key {} is not here: `prover keys generate` makes it", file.name);
                return Err(BadInput(text).into());
            };
            let written = artifacts.put_key(&file.blake3, bytes, &|bytes| bar.inc(bytes)).await?;
            if written {
                tracing::info!("published key {} of {} bytes", file.name, file.size_bytes);
            } else {
                bar.inc(file.size_bytes);
            }
            anyhow::Ok(written)
        }
    };
    let mut result = MovedKeys::default();
    let mut published = stream::iter(files.into_iter().map(publish)).buffer_unordered(FILES_AT_A_TIME);
    while let Some(written) = published.try_next().await? {
        if written { result.moved += 1 } else { result.there += 1 }
    }
    bar.finish_and_clear();
    Ok(result)
}

/// Reads from the object store what this machine has not of a key set. What is there and is not the key, or cannot be read, is told, and counts as
/// absent.
///
/// # Errors
/// The key files'.
pub async fn fetch_keys(
    system: &Arc<dyn ProofSystem>,
    artifacts: &ArtifactStore,
) -> anyhow::Result<MovedKeys> {
    let (here, missing): (Vec<_>, Vec<_>) =
        in_a_thread(system, |files| files.list()).await?.into_iter().partition(|file| file.is_here);
    let bar = bar_of(&missing);
    let fetch = |file: KeyFile| {
        let bar = &bar;
        async move {
            let KeyFile { name, blake3, size_bytes, .. } = file;
            let bytes = match artifacts.get_key(&blake3, size_bytes, &|bytes| bar.inc(bytes)).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Ok(false),
                // It can be generated: what is not there, or may not be read, ends nobody.
                Err(e @ ArtifactError::Corrupt { .. }) => {
                    tracing::warn!(
                        "key {name} is not taken from the object store: {e}. Remove it there, and publish again"
                    );
                    return Ok(false);
                }
                Err(e) => {
                    tracing::warn!("key {name} cannot be fetched: {e}");
                    return Ok(false);
                }
            };
            let stored = name.clone();
            in_a_thread(system, move |files| files.store(&stored, &bytes)).await?;
            tracing::info!("fetched key {name} of {size_bytes} bytes");
            anyhow::Ok(true)
        }
    };
    let mut result = MovedKeys { there: here.len(), ..MovedKeys::default() };
    let mut fetched = stream::iter(missing.into_iter().map(fetch)).buffer_unordered(FILES_AT_A_TIME);
    while let Some(is_fetched) = fetched.try_next().await? {
        if is_fetched { result.moved += 1 } else { result.absent += 1 }
    }
    bar.finish_and_clear();
    Ok(result)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use keystore::{KeyEntry, Keystore, Manifest};
    use ledger_circuits::{LedgerParams, LedgerProofSystem};
    use std::collections::BTreeMap;
    use std::path::Path;

    /// Larger than a part, smaller than one, and empty.
    fn contents() -> BTreeMap<String, Vec<u8>> {
        let bytes = |length: u32| (0..length).map(|i| i.to_le_bytes()[1] ^ i.to_le_bytes()[0]).collect();
        [("large", 20_000_000), ("small", 3), ("empty", 0)]
            .map(|(name, length)| (name.to_owned(), bytes(length)))
            .into()
    }

    /// A key set of these files in this folder, as one that ships.
    fn set(folder: &Path, of: &BTreeMap<String, Vec<u8>>) -> Arc<dyn ProofSystem> {
        let entry = |bytes: &Vec<u8>| KeyEntry {
            blake3: blake3::hash(bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
        };
        let keys = of.iter().map(|(name, bytes)| (name.clone(), entry(bytes))).collect();
        let store = Keystore::new(folder.to_owned(), Some(Manifest { keys }));
        Arc::new(LedgerProofSystem::with_params(LedgerParams::default(), store))
    }

    #[tokio::test]
    async fn a_key_set_goes_from_machine_to_machine_and_a_changed_file_is_not_taken() {
        let scratch = tempfile::tempdir().unwrap();
        let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
        let artifacts = ArtifactStore::open(&scratch.path().join("artifacts").to_string_lossy()).unwrap();
        let ours = contents();
        let publisher = set(&here, &ours);

        let refused = publish_keys(&publisher, &artifacts).await.unwrap_err().to_string();
        assert!(refused.contains("is not here: `prover keys generate` makes it"), "{refused}");
        for (name, bytes) in &ours {
            publisher.key_files().unwrap().store(name, bytes).unwrap();
        }
        let published = publish_keys(&publisher, &artifacts).await.unwrap();
        assert_eq!(published, MovedKeys { moved: 3, ..MovedKeys::default() });
        let again = publish_keys(&publisher, &artifacts).await.unwrap();
        assert_eq!(again, MovedKeys { there: 3, ..MovedKeys::default() });

        let fetcher = set(&there, &ours);
        let fetched = fetch_keys(&fetcher, &artifacts).await.unwrap();
        assert_eq!(fetched, MovedKeys { moved: 3, ..MovedKeys::default() });
        for (name, bytes) in &ours {
            assert_eq!(fetcher.key_files().unwrap().load(name).unwrap().as_ref(), Some(bytes), "{name}");
        }

        // What is missing is fetched, what is there stays, and what somebody changed in the store is not the key.
        std::fs::remove_file(there.join("small.key")).unwrap();
        std::fs::remove_file(there.join("large.key")).unwrap();
        let digest = blake3::hash(&ours["large"]).to_hex();
        let object = scratch.path().join("artifacts").join("keys").join(digest.as_str());
        let mut changed = ours["large"].clone();
        changed[19_000_000] ^= 1;
        std::fs::write(&object, &changed).unwrap();
        let fetched = fetch_keys(&fetcher, &artifacts).await.unwrap();
        assert_eq!(fetched, MovedKeys { moved: 1, there: 1, absent: 1 });
        std::fs::write(&object, &changed[..100]).unwrap();
        let fetched = fetch_keys(&fetcher, &artifacts).await.unwrap();
        assert_eq!(fetched, MovedKeys { there: 2, absent: 1, ..MovedKeys::default() });
        // A file that was left half written in the store is written again.
        let published = publish_keys(&publisher, &artifacts).await.unwrap();
        assert_eq!(published, MovedKeys { moved: 1, there: 2, ..MovedKeys::default() });
        assert_eq!(fetch_keys(&fetcher, &artifacts).await.unwrap().moved, 1);
    }
}
