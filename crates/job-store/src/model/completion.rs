//! A completion on its way to the task that commits it.

use crate::model::error::StoreError;
use proving_model::{ArtifactRef, BatchId, JobKey};
use tokio::sync::oneshot;
use uuid::Uuid;

/// A completed attempt, and where its caller waits.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) attempt: Attempt,
    pub(crate) batch: BatchId,
    pub(crate) key: JobKey,
    pub(crate) output: Option<ArtifactRef>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) answer: oneshot::Sender<Result<(), StoreError>>,
}

/// One attempt of one job: the job's id, the lease's token.
pub(crate) type Attempt = (i64, Uuid);
