//! Rows as the rest of the system sees them.

use crate::StoreError;
use proving_model::{AggregationRound, ArtifactRef, BatchId, CircuitId, JobKey, MemoryClass, Stage};
use std::time::Duration;
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
    /// The token that every later write shows.
    pub token: Uuid,
    /// Which attempt this is, from 1.
    pub attempt: i32,
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

/// How often a job may fail before it is failed for good, each cause counted apart, and how long it rests between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures that the job reported.
    pub failures_max: i32,
    /// Deaths of its worker; one more and the job is quarantined as a killer of workers.
    pub worker_deaths_max: i32,
    /// Attempts that took too long.
    pub timeouts_max: i32,
    /// Times that its output was lost and it ran again.
    pub regenerations_max: i32,
    /// Rest after the first failure; it doubles with each.
    pub backoff_first: Duration,
    /// Longest rest.
    pub backoff_longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            failures_max: 3,
            worker_deaths_max: 5,
            timeouts_max: 2,
            regenerations_max: 10,
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(60),
        }
    }
}

/// The key columns of a row.
pub(crate) fn job_key(
    round: i16,
    stage: &str,
    circuit_id: i16,
    depth: i16,
    sequence: i32,
) -> Result<JobKey, StoreError> {
    let round = AggregationRound::from_number(round)
        .ok_or_else(|| StoreError::Schema(format!("a row has aggregation round {round}")))?;
    let stage = stage.parse::<Stage>().map_err(|e| StoreError::Schema(e.to_string()))?;
    Ok(JobKey { round, stage, circuit_id: CircuitId(circuit_id), depth, sequence })
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
