//! What operators do to batches. Each is one transaction that says exactly what it changed, or would change.

use crate::chains::{lock_chain, release_next};
use crate::metrics::QueryTimer;
use crate::model::ids_of_batch;
use crate::{JobStore, StoreError};
use proving_model::{BatchId, BatchStatus, JobStatus, Stage};
use serde::Serialize;
use sqlx::{Connection, PgConnection};

/// Whether an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It is undone at its end: what it says is what it would have changed.
    DryRun,
}

/// What a requeue changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Requeued {
    /// Failed jobs that are queued again.
    pub jobs: u64,
}

/// What a cancellation changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
        let _timer = QueryTimer::start("cancel_batch");
        let error = StoreError::database;
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, end) = ids_of_batch(found.position);
        let cancelled = self
            .hot
            .run("cancel_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("cancel_batch"))?;
                lock_chain(&mut transaction, id.chain_id).await?;
                let status: String = sqlx::query_scalar!(
                    "SELECT status FROM batches WHERE chain_id = $1 AND number = $2 FOR UPDATE",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .fetch_one(&mut *transaction)
                .await
                .map_err(error("cancel_batch"))?;
                if status == BatchStatus::Successful.as_str() {
                    return Err(StoreError::Invalid(format!("{id} is proven: there is nothing to cancel")));
                }
                if status == BatchStatus::Cancelled.as_str() {
                    return Ok(Cancelled::default());
                }
                let ended = sqlx::query_scalar!(
                    r#"WITH ended AS (
                           SELECT * FROM prover_jobs
                           WHERE id >= $1 AND id < $2 AND status IN ('waiting_for_proofs', 'queued',
                           'in_progress', 'failed')
                           ORDER BY id FOR UPDATE
                       ), booked AS (
                           INSERT INTO job_attempts
                               (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome,
                               error)
                           SELECT id, attempts, worker_id, lease_token, started_at, now(), 'cancelled',
                                  'the batch was cancelled'
                           FROM ended WHERE status = 'in_progress'
                       )
                       UPDATE prover_jobs j SET
                           status = 'cancelled', worker_id = NULL, lease_token = NULL, finished_at = now()
                       FROM ended WHERE j.id = ended.id
                       RETURNING ended.status"#,
                    first,
                    end
                )
                .fetch_all(&mut *transaction)
                .await
                .map_err(error("cancel_batch: jobs"))?;
                sqlx::query!(
                    "UPDATE batches SET status = 'cancelled', finished_at = now()
                     WHERE chain_id = $1 AND number = $2",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("cancel_batch"))?;
                let starts_next = release_next(&mut transaction, id.chain_id).await?;
                let stopped = ended.iter().filter(|was| *was == JobStatus::InProgress.as_str()).count();
                match mode {
                    Mode::Apply => transaction.commit().await.map_err(error("cancel_batch"))?,
                    Mode::DryRun => transaction.rollback().await.map_err(error("cancel_batch"))?,
                }
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

    /// Gives the failed jobs of a batch new budgets and queues them again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`].
    pub async fn requeue_failed(&self, batch: BatchId, mode: Mode) -> Result<Requeued, StoreError> {
        let _timer = QueryTimer::start("requeue_failed");
        let error = StoreError::database;
        let (chain_id, number) = (i64::from(batch.chain_id), i64::from(batch.number));
        let found = self.batch(batch).await?.ok_or(StoreError::NoSuchBatch(batch))?;
        let (first, end) = ids_of_batch(found.position);
        self.hot
            .run("requeue_failed", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("requeue_failed"))?;
                let jobs = sqlx::query!(
                    "UPDATE prover_jobs SET
                         status = 'queued', queued_at = now(), not_before = now(), finished_at = NULL,
                         progress = 0, failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0
                     WHERE id >= $1 AND id < $2 AND status = 'failed' AND dependencies_left = 0",
                    first,
                    end
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("requeue_failed"))?
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
                .await
                .map_err(error("requeue_failed"))?;
                match mode {
                    Mode::Apply => transaction.commit().await.map_err(error("requeue_failed"))?,
                    Mode::DryRun => transaction.rollback().await.map_err(error("requeue_failed"))?,
                }
                if mode == Mode::Apply && jobs > 0 {
                    Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
                }
                Ok(Requeued { jobs })
            })
            .await
    }
}
