//! Typed, checksummed artifacts over an object store.
//!
//! Machines hand each other everything through here, and the row in the job store says which artifact counts. An
//! attempt writes under a name of its own ([`job_artifact_key`] ends in the lease's token), so no attempt overwrites another's.
//!
//! An artifact is a header of fixed size and a payload:
//!
//! ```text
//! magic "RHART" (5) | header version (1) | kind (1) | codec (1) | schema version (2, LE) | payload length (8, LE)
//! | BLAKE3 of the payload (32)
//! ```
//!
//! Every read checks all of it, and the checksum against the row's. What fails is [`ArtifactError::Missing`] or
//! [`ArtifactError::Corrupt`]: whoever made the artifact makes it again. [`ArtifactError::Unavailable`] is the store's own
//! trouble: try later.

mod keys;
mod metrics;
mod options;
mod remote;

pub use keys::Moved;
pub use options::{VARIABLES, Variable};
pub use remote::fetch;

use bytes::Bytes;
use futures::TryStreamExt;
use metrics::{ARTIFACT_METRICS, Action, Reason};
use object_store::{
    ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, memory::InMemory, path::Path,
    prefix::PrefixStore,
};
use outside::{shown, with_urls_shown};
use proving_model::{ArtifactKind, ArtifactRef, BatchId, JobKey};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Instant, SystemTime},
};
use thiserror::Error;
use tokio::sync::Semaphore;
use url::Url;
use uuid::Uuid;

/// What a check writes, and reads.
const CHECKED: &[u8] = b"check";
const MAGIC: &[u8; 5] = b"RHART";
const HEADER_VERSION: u8 = 1;
/// The payload's codec: bytes that the proof system encodes, bincode inside.
const CODEC: u8 = 1;
const SCHEMA_VERSION: u16 = 1;
/// Length of the header.
pub const HEADER_LEN: usize = 5 + 1 + 1 + 1 + 2 + 8 + 32;
/// Largest payload: a witness input of the largest batch has room to spare.
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 30;
/// Transfers in flight: a slow store makes its callers wait instead of filling memory.
const TRANSFERS_MAX: usize = 16;

/// Why an artifact was not read or written.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// It is not there: whoever made it must make it again.
    #[error("artifact {key} is missing from {store}")]
    Missing {
        /// Its key.
        key: String,
        /// The store.
        store: String,
    },
    /// It is there and damaged: whoever made it must make it again.
    #[error("artifact {key} in {store} is corrupt: {reason}")]
    Corrupt {
        /// Its key.
        key: String,
        /// The store.
        store: String,
        /// What is wrong.
        reason: String,
    },
    /// The store cannot be reached or refuses: try again later.
    #[error("cannot {action} artifact {key} in {store}: {reason}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// The artifact.
        key: String,
        /// The store.
        store: String,
        /// What the store said.
        reason: String,
    },
    /// The URL names no store.
    #[error("{url} is not an object store: {reason}")]
    BadUrl {
        /// The URL, as [`outside::shown`] shows it.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The artifact's kind.
    pub kind: ArtifactKind,
    /// The payload's codec.
    pub codec: u8,
    /// The payload's schema.
    pub schema_version: u16,
    /// The payload's length in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the payload.
    pub checksum: [u8; 32],
}

impl Header {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([HEADER_VERSION, self.kind as u8, self.codec]);
        bytes.extend(self.schema_version.to_le_bytes());
        bytes.extend(self.size_bytes.to_le_bytes());
        bytes.extend(self.checksum);
        bytes
    }

    /// Reads a header alone, [`HEADER_LEN`] bytes; the payload behind it is not looked at.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn parse(header: &[u8]) -> Result<Self, String> {
        if header.len() != HEADER_LEN {
            return Err(format!("it has {} bytes, fewer than a header", header.len()));
        }
        let [m0, m1, m2, m3, m4, version, kind, codec, s0, s1, rest @ ..] = header else {
            return Err("its header is cut short".to_owned());
        };
        if [*m0, *m1, *m2, *m3, *m4] != *MAGIC {
            return Err("it does not start as an artifact".to_owned());
        }
        if (*version, *codec) != (HEADER_VERSION, CODEC) {
            return Err(format!("its header version is {version} and its codec {codec}; known is 1 of each"));
        }
        let schema_version = u16::from_le_bytes([*s0, *s1]);
        if schema_version != SCHEMA_VERSION {
            return Err(format!("its schema version is {schema_version}; known is {SCHEMA_VERSION}"));
        }
        let kind = ArtifactKind::ALL
            .get(usize::from(*kind))
            .copied()
            .ok_or_else(|| format!("its kind is {kind}, which is none"))?;
        let mut size = [0; 8];
        let mut checksum = [0; 32];
        size.copy_from_slice(&rest[..8]);
        checksum.copy_from_slice(&rest[8..]);
        let size_bytes = u64::from_le_bytes(size);
        if size_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("its header says {size_bytes} bytes; {PAYLOAD_BYTES_MAX} are allowed"));
        }
        Ok(Self { kind, codec: *codec, schema_version, size_bytes, checksum })
    }

    /// Checks that a payload is the header's.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), String> {
        if self.size_bytes != payload.len() as u64 {
            return Err(format!("its header says {} bytes and {} follow", self.size_bytes, payload.len()));
        }
        if *blake3::hash(payload).as_bytes() != self.checksum {
            return Err("its checksum does not match".to_owned());
        }
        Ok(())
    }

    /// Reads a header and checks the payload behind it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn check(artifact: &[u8]) -> Result<(Self, &[u8]), String> {
        let Some((header, payload)) = artifact.split_at_checked(HEADER_LEN) else {
            return Err(format!("it has {} bytes, fewer than a header", artifact.len()));
        };
        let header = Self::parse(header)?;
        header.check_payload(payload)?;
        Ok((header, payload))
    }
}

/// The key of an attempt's output: `{kind}/{chain}/{batch}/{round}/{circuit}/{depth}/{sequence}-{token}`.
#[must_use]
pub fn job_artifact_key(kind: ArtifactKind, batch: BatchId, job: &JobKey, token: Uuid) -> String {
    format!(
        "{kind}/{}/{}/{}/{}/{}/{}-{token}",
        batch.chain_id,
        batch.number,
        job.round.number(),
        job.circuit_id,
        job.depth,
        job.sequence
    )
}

/// The key of a batch's witness input; its content is in its name, so inserting a batch twice writes it once.
#[must_use]
pub fn witness_input_key(batch: BatchId, payload: &[u8]) -> String {
    format!(
        "{}/{}/{}/{}",
        ArtifactKind::WitnessInput,
        batch.chain_id,
        batch.number,
        blake3::hash(payload).to_hex()
    )
}

/// What a removal took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Artifacts.
    pub artifacts: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An object store. Clones share it.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    store: Arc<dyn ObjectStore>,
    name: String,
    folder: Option<PathBuf>,
    transfers: Arc<Semaphore>,
}

impl ArtifactStore {
    /// Opens the store of a URL: `file:///folder` (created where it is not yet), `memory:`, `s3://bucket/prefix`,
    /// `gs://bucket/prefix`, `az://container/prefix`; a plain path is a folder. Credentials come from the environment, from
    /// [`VARIABLES`] and no others; a URL that holds some is refused.
    ///
    /// # Errors
    /// [`ArtifactError::BadUrl`].
    pub fn open(url: &str) -> Result<Self, ArtifactError> {
        let bad = |reason: String| remote::bad_url(url, &reason);
        if !url.contains(':') {
            return Self::folder(url.as_ref()).map_err(|e| bad(e.to_string()));
        }
        let parsed = Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if parsed.scheme() == "file" {
            let path = parsed.to_file_path().map_err(|()| bad("it names no local folder".to_owned()))?;
            return Self::folder(&path).map_err(|e| bad(e.to_string()));
        }
        if parsed.scheme() == "memory" {
            return Ok(Self::new(Arc::new(InMemory::new()), "memory".to_owned()));
        }
        remote::check_no_credentials(&parsed).map_err(bad)?;
        let (store, prefix) = remote::store_of(&parsed).map_err(bad)?;
        Ok(Self::new(Arc::new(PrefixStore::new(store, prefix)), shown(url)))
    }

    fn folder(path: &std::path::Path) -> Result<Self, Box<dyn std::error::Error>> {
        // Witness inputs are in it, and what a batch leaves is removed from it: it is private, and nothing of the user's is in it.
        private_folder::claim(path)?;
        // Written under a temporary name, synced and renamed: a reader sees a whole artifact or none, after a crash too.
        let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true).with_automatic_cleanup(true);
        let folder = Some(path.to_owned());
        Ok(Self { folder, ..Self::new(Arc::new(store), path.display().to_string()) })
    }

    fn new(store: Arc<dyn ObjectStore>, name: String) -> Self {
        // There from the start: an increase is seen only from a value on.
        for reason in [Reason::Missing, Reason::Corrupt, Reason::Unavailable] {
            ARTIFACT_METRICS.errors[&reason].inc_by(0);
        }
        Self { store, name, folder: None, transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }

    /// The store's name for people; holds no secret.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that are free where artifacts are written; `None` unless that is a folder of this machine.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(self.folder.as_deref()?).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Writes, reads and removes a small object: what a component needs of the store, before it takes a job.
    ///
    /// # Errors
    /// [`ArtifactError::Unavailable`] says what cannot be done.
    pub async fn check(&self) -> Result<(), ArtifactError> {
        let key = format!("check/{}", Uuid::new_v4());
        let path = Path::from(key.as_str());
        let failed = |action: &'static str| {
            let key = key.clone();
            move |e: object_store::Error| self.unavailable(action, &key, &e.to_string())
        };
        self.store.put(&path, PutPayload::from_static(CHECKED)).await.map_err(failed("write"))?;
        let found = self.store.get(&path).await.map_err(failed("read"))?;
        let read = remote::read_stream(found.into_stream(), CHECKED.len() as u64).await;
        if read.map_err(failed("read"))?.as_deref() != Some(CHECKED) {
            return Err(self.unavailable("read", &key, "it is not what was written"));
        }
        self.store.delete(&path).await.map_err(failed("remove"))
    }

    /// Writes an artifact; when this returns, it is durable.
    ///
    /// # Errors
    /// [`ArtifactError::Unavailable`].
    pub async fn put(
        &self,
        kind: ArtifactKind,
        key: String,
        payload: &[u8],
    ) -> Result<ArtifactRef, ArtifactError> {
        let begun = Instant::now();
        let written = self.write(kind, key, payload).await;
        measure(Action::Write, begun, written.as_ref().map(|artifact| artifact.size_bytes));
        written
    }

    async fn write(
        &self,
        kind: ArtifactKind,
        key: String,
        payload: &[u8],
    ) -> Result<ArtifactRef, ArtifactError> {
        let checksum = *blake3::hash(payload).as_bytes();
        let size_bytes = payload.len() as u64;
        if size_bytes > PAYLOAD_BYTES_MAX {
            let reason = format!("it has {size_bytes} bytes; {PAYLOAD_BYTES_MAX} are allowed");
            return Err(self.unavailable("write", &key, &reason));
        }
        let header = Header { kind, codec: CODEC, schema_version: SCHEMA_VERSION, size_bytes, checksum };
        let whole = Bytes::from([header.to_bytes().as_slice(), payload].concat());
        let _permit = self.transfers.acquire().await;
        self.store
            .put(&Path::from(key.as_str()), PutPayload::from_bytes(whole))
            .await
            .map_err(|e| self.unavailable("write", &key, &e.to_string()))?;
        Ok(ArtifactRef { key, checksum, size_bytes })
    }

    /// Reads an artifact and checks that it is the one that the row names.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`], [`ArtifactError::Corrupt`] or [`ArtifactError::Unavailable`].
    pub async fn get(&self, kind: ArtifactKind, artifact: &ArtifactRef) -> Result<Vec<u8>, ArtifactError> {
        let begun = Instant::now();
        let read = self.read(kind, artifact).await;
        measure(Action::Read, begun, read.as_ref().map(|payload| payload.len() as u64));
        read
    }

    async fn read(&self, kind: ArtifactKind, artifact: &ArtifactRef) -> Result<Vec<u8>, ArtifactError> {
        let key = &artifact.key;
        let _permit = self.transfers.acquire().await;
        let missing = || ArtifactError::Missing { key: key.clone(), store: self.name.clone() };
        let corrupt =
            |reason: String| ArtifactError::Corrupt { key: key.clone(), store: self.name.clone(), reason };
        let found = match self.store.get(&Path::from(key.as_str())).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Err(missing()),
            Err(e) => return Err(self.unavailable("read", key, &e.to_string())),
        };
        // The size first: nothing of an unexpected size is read into memory.
        if artifact.size_bytes > PAYLOAD_BYTES_MAX {
            let size = artifact.size_bytes;
            return Err(corrupt(format!(
                "the job store says that it has {size} bytes; an artifact has {PAYLOAD_BYTES_MAX} at most"
            )));
        }
        let expected = artifact.size_bytes + HEADER_LEN as u64;
        if found.meta.size != expected {
            return Err(corrupt(format!("it has {} bytes, not {expected}", found.meta.size)));
        }
        // A server that says one size and sends another is not believed either.
        let bytes = remote::read_stream(found.into_stream(), expected).await;
        let bytes = bytes.map_err(|e| self.unavailable("read", key, &e.to_string()))?;
        let bytes = bytes.ok_or_else(|| corrupt(format!("it has more than {expected} bytes")))?;
        let (header, payload) = Header::check(&bytes).map_err(corrupt)?;
        if header.kind != kind {
            return Err(corrupt(format!("it is a {}, not a {kind}", header.kind)));
        }
        if header.checksum != artifact.checksum {
            return Err(corrupt("it is whole, and not the one that the job store names".to_owned()));
        }
        Ok(payload.to_vec())
    }

    /// Removes what attempts wrote for a batch: circuits and proofs, and of a batch that is `older_than` an instant also its input and
    /// its final proof, as far as they are older. Removing what is gone already is no error.
    ///
    /// # Errors
    /// [`ArtifactError::Unavailable`]; some may be removed then, and a second call removes the rest.
    pub async fn remove_batch(
        &self,
        batch: BatchId,
        older_than: Option<SystemTime>,
    ) -> Result<Removed, ArtifactError> {
        let mut removed = Removed::default();
        let kinds = ArtifactKind::ALL.iter().filter(|kind| {
            older_than.is_some() || matches!(kind, ArtifactKind::Circuit | ArtifactKind::Proof)
        });
        for kind in kinds {
            let prefix = format!("{kind}/{}/{}", batch.chain_id, batch.number);
            let failed = |e: object_store::Error| self.unavailable("remove", &prefix, &e.to_string());
            let mut found = self.store.list(Some(&Path::from(prefix.as_str())));
            while let Some(object) = found.try_next().await.map_err(failed)? {
                if older_than.is_some_and(|time| SystemTime::from(object.last_modified) >= time) {
                    continue;
                }
                match self.store.delete(&object.location).await {
                    Ok(()) => {
                        removed.artifacts += 1;
                        removed.bytes += object.size;
                    }
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        Ok(removed)
    }

    fn unavailable(&self, action: &'static str, key: &str, reason: &str) -> ArtifactError {
        // An endpoint's URL comes from the environment, and may hold a password.
        let reason = with_urls_shown(reason);
        ArtifactError::Unavailable { action, key: key.to_owned(), store: self.name.clone(), reason }
    }
}

fn measure(action: Action, begun: Instant, transferred: Result<u64, &ArtifactError>) {
    ARTIFACT_METRICS.transfer_time[&action].observe(begun.elapsed());
    match transferred {
        Ok(bytes) => drop(ARTIFACT_METRICS.transferred[&action].inc_by(bytes)),
        Err(e) => {
            let reason = match e {
                ArtifactError::Missing { .. } => Reason::Missing,
                ArtifactError::Corrupt { .. } => Reason::Corrupt,
                ArtifactError::Unavailable { .. } | ArtifactError::BadUrl { .. } => Reason::Unavailable,
            };
            ARTIFACT_METRICS.errors[&reason].inc();
        }
    }
}
