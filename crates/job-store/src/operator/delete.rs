//! Deletes batches that are over.

use crate::batches::chains::{lock_chain, release_next};
use crate::batches::lock::lock_batch;
use crate::batches::remove::remove_batch;
use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::operator::mode::{Mode, end};
use proving_model::{BatchId, BatchStatus, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a deletion removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Deleted {
    /// Jobs, wherever they were.
    pub jobs: i64,
    /// Whether the next batch of a strict chain may start now.
    pub starts_next: bool,
}

impl JobStore {
    /// Deletes a batch that is over, with its jobs and the log of their attempts. The job monitor collects its artifacts; its
    /// number is free again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that is not over; [`StoreError::Database`].
    pub async fn delete_batch(&self, id: BatchId, mode: Mode) -> Result<Deleted, StoreError> {
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let deleted = self
            .reports
            .run("delete_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                lock_chain(&mut transaction, id.chain_id).await?;
                let status = lock_batch(&mut transaction, found.position).await?;
                if status.is_none_or(|status| matches!(status, BatchStatus::Queued | BatchStatus::InProgress))
                {
                    return Err(StoreError::Invalid(format!("{id} is not over: cancel it first")));
                }
                let jobs = remove_batch(&mut transaction, id, found.position).await?;
                let starts_next = release_next(&mut transaction, id.chain_id).await?;
                end(transaction, mode, "delete_batch").await?;
                Ok(Deleted { jobs, starts_next })
            })
            .await?;
        if mode == Mode::Apply {
            // Jobs of a failed batch may have run still.
            self.waker.revoke();
            if deleted.starts_next {
                self.waker.wake(Stage::WitnessGeneration);
            }
        }
        Ok(deleted)
    }
}
