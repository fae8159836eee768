//! Rows as the rest of the system sees them.

use crate::model::error::StoreError;
use crate::model::ids::position_of;
use proving_model::{ArtifactRef, BatchId, JobKey, MemoryClass, ProtocolVersion};
use std::collections::HashMap;
use uuid::Uuid;

/// A job that this process holds the lease of.
#[derive(Debug, Clone)]
pub struct LeasedJob {
    /// The row.
    pub id: i64,
    /// The batch.
    pub batch: BatchId,
    /// The place within the batch.
    pub key: JobKey,
    /// Its memory class.
    pub memory_class: MemoryClass,
    /// The version that its batch is proven under.
    pub version: ProtocolVersion,
    /// Who holds the lease.
    pub worker: Uuid,
    /// The token that every later write shows.
    pub token: Uuid,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// Expected peak of its memory, in bytes.
    pub peak_memory_bytes: i64,
    /// Seconds from when it was queued to this lease.
    pub waited_seconds: f64,
    /// Whether workers died with it more than once: it may be what kills them, or have been beside what does. A process that is
    /// careful has one suspect at a time, so that none costs others more than these first deaths.
    pub is_suspect: bool,
    /// The circuit to prove, for basic circuits.
    pub input: Option<ArtifactRef>,
}

/// A job whose output another consumes.
#[derive(Debug, Clone)]
pub struct Predecessor {
    /// Its place within the batch.
    pub key: JobKey,
    /// Its output.
    pub output: ArtifactRef,
}

/// The batch columns of a row.
pub(crate) fn batch_id(chain_id: i64, number: i64) -> Result<BatchId, StoreError> {
    let narrow = |value: i64| {
        u32::try_from(value).map_err(|_| StoreError::Schema(format!("a row has chain or batch {value}")))
    };
    Ok(BatchId { chain_id: narrow(chain_id)?, number: narrow(number)? })
}

/// The artifact columns of a row; `None` unless all are set.
pub(crate) fn artifact(
    key: Option<String>,
    checksum: Option<Vec<u8>>,
    size: Option<i64>,
) -> Result<Option<ArtifactRef>, StoreError> {
    let (Some(key), Some(checksum), Some(size)) = (key, checksum, size) else { return Ok(None) };
    let bad = || StoreError::Schema(format!("the row of artifact {key} has a bad checksum or size"));
    Ok(Some(ArtifactRef {
        checksum: checksum.try_into().map_err(|_| bad())?,
        size_bytes: u64::try_from(size).map_err(|_| bad())?,
        key,
    }))
}

/// A size as the database stores it.
pub(crate) fn size(artifact: &ArtifactRef) -> i64 {
    i64::try_from(artifact.size_bytes).unwrap_or(i64::MAX)
}

/// Batches by their position.
pub(crate) type BatchIds = HashMap<i64, BatchId>;

/// The batch of a job.
///
/// # Errors
/// [`StoreError::Schema`] when there is none at the job's position.
pub(crate) fn batch_of(batches: &BatchIds, job_id: i64) -> Result<BatchId, StoreError> {
    let position = position_of(job_id);
    let found = batches.get(&position).copied();
    found.ok_or_else(|| {
        StoreError::Schema(format!("job {job_id} is of no batch: none has the position {position}"))
    })
}
