//! Cancels batches.

use crate::batches::chains::{lock_chain, release_next};
use crate::database::store::JobStore;
use crate::leases::attempts::{self, Outcome};
use crate::model::error::StoreError;
use crate::model::ids::ids_of_batch;
use crate::operator::mode::{Mode, end};
use proving_model::{BatchId, BatchStatus, JobStatus, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// What a cancellation changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Cancelled {
    /// Jobs that will not run, and did not.
    pub jobs_dropped: u64,
    /// Jobs that ran, and are told to stop.
    pub jobs_stopped: u64,
    /// Whether the next batch of a strict chain may start now.
    pub starts_next: bool,
}

impl JobStore {
    /// Cancels a batch: nothing more of it runs, and what runs is told to stop at once. Outputs stay until the batch leaves the
    /// archive. A batch that is cancelled already stays so, and nothing is changed.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that is proven; [`StoreError::Database`].
    pub async fn cancel_batch(&self, id: BatchId, mode: Mode) -> Result<Cancelled, StoreError> {
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(found.position);
        let cancelled = self
            .hot
            .run("cancel_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                lock_chain(&mut transaction, id.chain_id).await?;
                let status: String = sqlx::query_scalar!(
                    "SELECT status FROM batches WHERE chain_id = $1 AND number = $2 FOR UPDATE",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .fetch_one(&mut *transaction)
                .await?;
                if status == BatchStatus::Successful.as_str() {
                    return Err(StoreError::Invalid(format!("{id} is proven: there is nothing to cancel")));
                }
                if status == BatchStatus::Cancelled.as_str() {
                    return Ok(Cancelled::default());
                }
                let ended = sqlx::query!(
                    "SELECT id, status FROM jobs
                     WHERE id >= $1 AND id < $2
                       AND status IN ('waiting_for_proofs', 'queued', 'in_progress', 'failed')
                     ORDER BY id FOR UPDATE",
                    first,
                    past
                )
                .fetch_all(&mut *transaction)
                .await?;
                let ids: Vec<i64> = ended.iter().map(|row| row.id).collect();
                let reason = Some("the batch was cancelled");
                attempts::log(&mut transaction, &ids, Outcome::Cancelled, reason).await?;
                sqlx::query!(
                    "UPDATE jobs SET status = 'cancelled', worker_id = NULL, lease_token = NULL, finished_at = now()
                     WHERE id = ANY($1)",
                    &ids
                )
                .execute(&mut *transaction)
                .await?;
                sqlx::query!(
                    "UPDATE batches SET status = 'cancelled', finished_at = now()
                     WHERE chain_id = $1 AND number = $2",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .execute(&mut *transaction)
                .await?;
                let starts_next = release_next(&mut transaction, id.chain_id).await?;
                let stopped = ended.iter().filter(|row| row.status == JobStatus::InProgress.as_str()).count();
                end(transaction, mode, "cancel_batch").await?;
                Ok(Cancelled {
                    jobs_dropped: (ended.len() - stopped) as u64,
                    jobs_stopped: stopped as u64,
                    starts_next,
                })
            })
            .await?;
        if mode == Mode::Apply {
            if cancelled.jobs_stopped > 0 {
                self.waker.revoke();
            }
            if cancelled.starts_next {
                self.waker.wake(Stage::WitnessGeneration);
            }
        }
        Ok(cancelled)
    }
}
