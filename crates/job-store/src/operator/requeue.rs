//! Gives failed jobs new budgets.

use crate::database::store::JobStore;
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::operator::mode::{Mode, end};
use proving_model::{BatchId, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a requeue changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Requeued {
    /// Failed jobs that are queued again.
    pub jobs: u64,
}

impl JobStore {
    /// Gives the failed jobs of a batch new budgets and queues them again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`].
    pub async fn requeue_failed(&self, batch: BatchId, mode: Mode) -> Result<Requeued, StoreError> {
        let (chain_id, number) = (i64::from(batch.chain_id), i64::from(batch.number));
        let found = self.batch(batch).await?.ok_or(StoreError::NoSuchBatch(batch))?;
        let (first, past) = ids_of_batch(found.position);
        self.hot
            .run("requeue_failed", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let jobs = sqlx::query!(
                    "UPDATE jobs SET
                         status = 'queued', queued_at = now(), not_before = now(), finished_at = NULL,
                         progress = 0, failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0
                     WHERE id >= $1 AND id < $2 AND status = 'failed' AND dependencies_left = 0",
                    first,
                    past
                )
                .execute(&mut *transaction)
                .await?
                .rows_affected();
                sqlx::query!(
            "UPDATE batches SET status = CASE WHEN status = 'failed' THEN 'in_progress' ELSE status END,
                 error = CASE WHEN status = 'failed' THEN NULL ELSE error END,
                 finished_at = CASE WHEN status = 'failed' THEN NULL ELSE finished_at END
             WHERE chain_id = $1 AND number = $2",
            chain_id,
            number
        )
                .execute(&mut *transaction)
                .await?;
                end(transaction, mode, "requeue_failed").await?;
                if mode == Mode::Apply && jobs > 0 {
                    Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
                }
                Ok(Requeued { jobs })
            })
            .await
    }
}
