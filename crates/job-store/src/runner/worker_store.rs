//! What workers ask of the store, as a trait: [`JobStore`] is the one that there is, and a simulation brings a model of it.

use crate::batches::add_jobs::Extension;
use crate::batches::find::Batch;
use crate::database::store::JobStore;
use crate::leases::fail::AttemptFailure;
use crate::leases::pick::{PickFilter, Room};
use crate::model::error::StoreError;
use crate::model::rows::{LeasedJob, Predecessor};
use async_trait::async_trait;
use proving_model::{ArtifactRef, BatchId, JobStatus};
use std::{fmt::Debug, time::Duration};
use uuid::Uuid;

/// The store as workers see it. What each method promises is said at [`JobStore`]'s own.
#[async_trait]
pub trait WorkerStore: Debug + Send + Sync + 'static {
    /// As [`JobStore::pick_into`].
    async fn pick_into(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        room: Room,
    ) -> Result<Vec<LeasedJob>, StoreError>;

    /// As [`JobStore::announce_filter`].
    async fn announce_filter(&self, worker: Uuid, filter: &PickFilter) -> Result<(), StoreError>;

    /// As [`JobStore::next_peak_memory`].
    async fn next_peak_memory(&self, filter: &PickFilter, room: Room) -> Result<Option<i64>, StoreError>;

    /// As [`JobStore::batch`].
    async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError>;

    /// As [`JobStore::predecessors`].
    async fn predecessors(&self, job: &LeasedJob) -> Result<Vec<Predecessor>, StoreError>;

    /// As [`JobStore::extend_batch`].
    async fn extend_batch(&self, job: &LeasedJob, extension: &Extension) -> Result<(), StoreError>;

    /// As [`JobStore::complete_measured`].
    async fn complete(
        &self,
        job: &LeasedJob,
        output: Option<&ArtifactRef>,
        peak_memory_bytes: Option<u64>,
    ) -> Result<(), StoreError>;

    /// As [`JobStore::fail`].
    async fn fail(&self, job: &LeasedJob, failure: &AttemptFailure) -> Result<JobStatus, StoreError>;

    /// As [`JobStore::release_because`].
    async fn release(&self, job: &LeasedJob, rest: Duration, reason: Option<&str>) -> Result<(), StoreError>;

    /// As [`JobStore::lose_inputs`].
    async fn lose_inputs(
        &self,
        job: &LeasedJob,
        lost_keys: &[String],
        reason: &str,
    ) -> Result<usize, StoreError>;
}

#[async_trait]
impl WorkerStore for JobStore {
    async fn pick_into(
        &self,
        filter: &PickFilter,
        want: usize,
        worker: Uuid,
        room: Room,
    ) -> Result<Vec<LeasedJob>, StoreError> {
        Self::pick_into(self, filter, want, worker, room).await
    }

    async fn announce_filter(&self, worker: Uuid, filter: &PickFilter) -> Result<(), StoreError> {
        Self::announce_filter(self, worker, filter).await
    }

    async fn next_peak_memory(&self, filter: &PickFilter, room: Room) -> Result<Option<i64>, StoreError> {
        Self::next_peak_memory(self, filter, room).await
    }

    async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        Self::batch(self, id).await
    }

    async fn predecessors(&self, job: &LeasedJob) -> Result<Vec<Predecessor>, StoreError> {
        Self::predecessors(self, job).await
    }

    async fn extend_batch(&self, job: &LeasedJob, extension: &Extension) -> Result<(), StoreError> {
        Self::extend_batch(self, job, extension).await
    }

    async fn complete(
        &self,
        job: &LeasedJob,
        output: Option<&ArtifactRef>,
        peak_memory_bytes: Option<u64>,
    ) -> Result<(), StoreError> {
        self.complete_measured(job, output, peak_memory_bytes).await
    }

    async fn fail(&self, job: &LeasedJob, failure: &AttemptFailure) -> Result<JobStatus, StoreError> {
        Self::fail(self, job, failure).await
    }

    async fn release(&self, job: &LeasedJob, rest: Duration, reason: Option<&str>) -> Result<(), StoreError> {
        self.release_because(job, rest, reason).await
    }

    async fn lose_inputs(
        &self,
        job: &LeasedJob,
        lost_keys: &[String],
        reason: &str,
    ) -> Result<usize, StoreError> {
        Self::lose_inputs(self, job, lost_keys, reason).await
    }
}
