//! What operators do to batches, jobs and workers. Each is one transaction that says exactly what it changed, or would change.

use crate::chains::{lock_chain, release_next};
use crate::connections::Transaction;
use crate::metrics::QueryTimer;
use crate::model::{GENERATOR, batch_id, ids_of_batch, job_key, position_of};
use crate::text::stored;
use crate::{JobStore, StoreError};
use proving_model::{BatchId, BatchStatus, JobStatus, Stage};
use schemars::JsonSchema;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

/// Whether an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It is undone at its end: what it says is what it would have changed.
    DryRun,
}

/// What a requeue changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Requeued {
    /// Failed jobs that are queued again.
    pub jobs: u64,
}

/// What a quarantine, or its end, changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct JobChange {
    /// The job's state before.
    pub was: String,
    /// Its state now.
    pub is: String,
}

/// What a deletion removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Deleted {
    /// Jobs, wherever they were.
    pub jobs: i64,
    /// Whether the next batch of a strict chain may start now.
    pub starts_next: bool,
}

/// A worker that is to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Drained {
    /// Its id.
    pub worker: Uuid,
    /// What it finishes first, or hands back.
    pub jobs_held: i64,
}

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
        let _timer = QueryTimer::start("cancel_batch");
        let error = StoreError::database;
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(found.position);
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
                    past
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

    /// Gives the failed jobs of a batch new budgets and queues them again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`].
    pub async fn requeue_failed(&self, batch: BatchId, mode: Mode) -> Result<Requeued, StoreError> {
        let _timer = QueryTimer::start("requeue_failed");
        let error = StoreError::database;
        let (chain_id, number) = (i64::from(batch.chain_id), i64::from(batch.number));
        let found = self.batch(batch).await?.ok_or(StoreError::NoSuchBatch(batch))?;
        let (first, past) = ids_of_batch(found.position);
        self.hot
            .run("requeue_failed", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("requeue_failed"))?;
                let jobs = sqlx::query!(
                    "UPDATE prover_jobs SET
                         status = 'queued', queued_at = now(), not_before = now(), finished_at = NULL,
                         progress = 0, failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0
                     WHERE id >= $1 AND id < $2 AND status = 'failed' AND dependencies_left = 0",
                    first,
                    past
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
                end(transaction, mode, "requeue_failed").await?;
                if mode == Mode::Apply && jobs > 0 {
                    Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
                }
                Ok(Requeued { jobs })
            })
            .await
    }

    /// Takes a job out of circulation, whatever it does now: it fails with this reason, and stays so until it is released. Its batch goes on
    /// as far as it can without it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`]; [`StoreError::Invalid`] for one that is over or failed already; [`StoreError::Database`].
    pub async fn quarantine_job(
        &self,
        job_id: i64,
        reason: &str,
        mode: Mode,
    ) -> Result<JobChange, StoreError> {
        let _timer = QueryTimer::start("quarantine_job");
        let reason = &*stored(reason);
        let error = StoreError::database;
        let was = self
            .hot
            .run("quarantine_job", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("quarantine_job"))?;
                let was = sqlx::query_scalar!(
                    r#"WITH held AS (
                           SELECT * FROM prover_jobs
                           WHERE id = $1 AND status IN ('waiting_for_proofs', 'queued',
                           'in_progress') FOR UPDATE
                       ), booked AS (
                           INSERT INTO job_attempts
                               (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome,
                               error)
                           SELECT id, attempts, worker_id, lease_token, started_at, now(), 'cancelled', $2
                           FROM held WHERE status = 'in_progress'
                       )
                       UPDATE prover_jobs j SET
                           status = 'failed', error = $2, finished_at = now(), worker_id = NULL,
                           lease_token = NULL
                       FROM held WHERE j.id = held.id
                       RETURNING held.status"#,
                    job_id,
                    reason
                )
                .fetch_optional(&mut *transaction)
                .await
                .map_err(error("quarantine_job"))?;
                end(transaction, mode, "quarantine_job").await?;
                Ok(was)
            })
            .await?;
        let Some(was) = was else {
            return Err(self
                .not_in_state(job_id, "only what waits, is queued or runs can be quarantined")
                .await?);
        };
        if mode == Mode::Apply && was == JobStatus::InProgress.as_str() {
            self.waker.revoke();
        }
        Ok(JobChange { was, is: JobStatus::Failed.as_str().to_owned() })
    }

    /// Gives a failed job, quarantined or not, new budgets: it is queued again, or waits for what it still misses. A batch that
    /// had failed goes on, once none of its jobs is failed.
    ///
    /// # Errors
    /// [`StoreError::NoSuchJob`]; [`StoreError::Invalid`] for one that is not failed; [`StoreError::Database`].
    pub async fn release_job(&self, job_id: i64, mode: Mode) -> Result<JobChange, StoreError> {
        let _timer = QueryTimer::start("release_job");
        let error = StoreError::database;
        let (first, past) = ids_of_batch(position_of(job_id));
        let is = self
            .hot
            .run("release_job", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("release_job"))?;
                let is = sqlx::query_scalar!(
                    r#"UPDATE prover_jobs SET
                           status = CASE WHEN dependencies_left = 0 THEN 'queued' ELSE 'waiting_for_proofs' END,
                           queued_at = now(), not_before = now(), finished_at = NULL, progress = 0,
                           failures = 0, worker_deaths = 0, timeouts = 0, regenerations = 0
                       WHERE id = $1 AND status = 'failed'
                       RETURNING status"#,
                    job_id
                )
                .fetch_optional(&mut *transaction)
                .await
                .map_err(error("release_job"))?;
                sqlx::query!(
                    "UPDATE batches b SET status = 'in_progress', error = NULL, finished_at = NULL
                     WHERE position = $1 AND status = 'failed' AND NOT EXISTS (
                         SELECT FROM prover_jobs j WHERE j.id >= $2 AND j.id < $3 AND j.status = 'failed')",
                    position_of(job_id),
                    first,
                    past
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("release_job"))?;
                let mut is = is;
                // What it waited for may have come while it was out of circulation, and nobody told it.
                if job_key(job_id)? == GENERATOR
                    && let Some(chain_id) = chain_of(&mut transaction, job_id).await?
                    && release_next(&mut transaction, chain_id).await?
                {
                    is = is.map(|_| JobStatus::Queued.as_str().to_owned());
                }
                end(transaction, mode, "release_job").await?;
                Ok(is)
            })
            .await?;
        let Some(is) = is else {
            return Err(self.not_in_state(job_id, "only a failed job can be released").await?);
        };
        if mode == Mode::Apply {
            self.waker.wake(job_key(job_id)?.stage);
        }
        Ok(JobChange { was: JobStatus::Failed.as_str().to_owned(), is })
    }

    /// Deletes a batch that is over, with its jobs and the books of their attempts. The job monitor collects its artifacts; its
    /// number is free again.
    ///
    /// # Errors
    /// [`StoreError::NoSuchBatch`]; [`StoreError::Invalid`] for one that is not over; [`StoreError::Database`].
    pub async fn delete_batch(&self, id: BatchId, mode: Mode) -> Result<Deleted, StoreError> {
        let _timer = QueryTimer::start("delete_batch");
        let error = StoreError::database;
        let found = self.batch(id).await?.ok_or(StoreError::NoSuchBatch(id))?;
        let (first, past) = ids_of_batch(found.position);
        let deleted = self
            .reports
            .run("delete_batch", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("delete_batch"))?;
                lock_chain(&mut transaction, id.chain_id).await?;
                let batch = sqlx::query!(
                    "DELETE FROM batches WHERE position = $1 AND status NOT IN ('queued', 'in_progress')",
                    found.position
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("delete_batch: batch"))?;
                if batch.rows_affected() == 0 {
                    return Err(StoreError::Invalid(format!("{id} is not over: cancel it first")));
                }
                let jobs = sqlx::query_scalar!(
                    r#"WITH hot AS (DELETE FROM prover_jobs WHERE id >= $1 AND id < $2 RETURNING 1),
                            old AS (DELETE FROM prover_jobs_archive WHERE id >= $1 AND id < $2 RETURNING 1)
                       SELECT (SELECT count(*) FROM hot) + (SELECT count(*) FROM old) AS "jobs!""#,
                    first,
                    past
                )
                .fetch_one(&mut *transaction)
                .await
                .map_err(error("delete_batch: jobs"))?;
                sqlx::query!("DELETE FROM job_attempts WHERE job_id >= $1 AND job_id < $2", first, past)
                    .execute(&mut *transaction)
                    .await
                    .map_err(error("delete_batch: attempts"))?;
                sqlx::query!(
                    "INSERT INTO deleted_batches (chain_id, number) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                    i64::from(id.chain_id),
                    i64::from(id.number)
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("delete_batch: artifacts"))?;
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

    /// Asks a worker to finish what it runs, take nothing more, and stop. It is given no lease from here on, and hears of it at once.
    /// Returns what it holds now. Asked again, it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when no such worker lives; [`StoreError::Database`].
    pub async fn drain_worker(&self, worker: Uuid, mode: Mode) -> Result<Drained, StoreError> {
        let _timer = QueryTimer::start("drain_worker");
        let error = StoreError::database;
        let jobs_held = self
            .hot
            .run("drain_worker", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("drain_worker"))?;
                let jobs_held = sqlx::query_scalar!(
                    r#"UPDATE workers SET drain_asked_at = coalesce(drain_asked_at, now())
                       WHERE id = $1 AND stopped_at IS NULL AND expires_at > now()
                       RETURNING (SELECT count(*) FROM prover_jobs j
                                  WHERE j.worker_id = $1 AND j.status = 'in_progress') AS "jobs_held!""#,
                    worker
                )
                .fetch_optional(&mut *transaction)
                .await
                .map_err(error("drain_worker"))?;
                end(transaction, mode, "drain_worker").await?;
                Ok(jobs_held)
            })
            .await?;
        let Some(jobs_held) = jobs_held else {
            return Err(StoreError::Invalid(format!(
                "no worker {worker} lives: see `prover_cli status workers`"
            )));
        };
        if mode == Mode::Apply {
            self.waker.revoke();
        }
        Ok(Drained { worker, jobs_held })
    }

    /// Why an operation found no job in the state that it wants.
    async fn not_in_state(&self, job_id: i64, rule: &str) -> Result<StoreError, StoreError> {
        let status = self
            .reports
            .run("operate: look at the job", async |connection: &mut PgConnection| {
                sqlx::query_scalar!(r#"SELECT status AS "status!" FROM jobs WHERE id = $1"#, job_id)
                    .fetch_optional(connection)
                    .await
                    .map_err(StoreError::database("operate: look at the job"))
            })
            .await?;
        Ok(match status {
            Some(status) => StoreError::Invalid(format!("job {job_id} is {status}: {rule}")),
            None => StoreError::NoSuchJob(job_id),
        })
    }
}

/// The chain of a job's batch.
async fn chain_of(transaction: &mut Transaction<'_>, job_id: i64) -> Result<Option<u32>, StoreError> {
    let chain_id = sqlx::query_scalar!("SELECT chain_id FROM prover_jobs WHERE id = $1", job_id)
        .fetch_optional(&mut **transaction)
        .await
        .map_err(StoreError::database("operate: the job's chain"))?;
    chain_id.map(|chain_id| Ok(batch_id(chain_id, 0)?.chain_id)).transpose()
}

/// Ends an operation's transaction as its mode says.
pub(crate) async fn end(
    transaction: Transaction<'_>,
    mode: Mode,
    action: &'static str,
) -> Result<(), StoreError> {
    let ended = match mode {
        Mode::Apply => transaction.commit().await,
        Mode::DryRun => transaction.rollback().await,
    };
    ended.map_err(StoreError::database(action))
}
