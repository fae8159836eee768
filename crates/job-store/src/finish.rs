//! The ends of an attempt other than success (`commit.rs`): fail, release, give back for a lost input. Each shows the lease's token and
//! changes exactly one row, or is [`StoreError::LeaseLost`].

use crate::connections::Transaction;
use crate::metrics::{QueryTimer, STORE_METRICS};
use crate::model::{generator_id, position_of};
use crate::text::stored;
use crate::{JobStore, LeasedJob, StoreError};
use proving_model::{JobStatus, Stage};
use sqlx::{Connection, PgConnection};
use std::time::Duration;

/// What an attempt's failure is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The job reported it; another attempt may succeed.
    Retryable,
    /// No attempt will ever succeed: the job fails at once.
    Fatal,
    /// It took too long.
    TimedOut,
}

/// A failed attempt.
#[derive(Debug, Clone)]
pub struct AttemptFailure {
    /// What it is charged to.
    pub kind: FailureKind,
    /// The error's whole text.
    pub error: String,
}

impl JobStore {
    /// Ends an attempt that failed: back to the queue after a rest, or failed for good, with its batch.
    /// Returns the job's new state.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn fail(&self, job: &LeasedJob, failure: &AttemptFailure) -> Result<JobStatus, StoreError> {
        let _timer = QueryTimer::start("fail");
        let error = StoreError::database;
        let text = stored(&failure.error);
        self.hot
            .run("fail", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("fail"))?;
                let row = sqlx::query!(
                    r#"UPDATE prover_jobs SET
                           status = CASE WHEN $3 OR failures + $4 >= $6 OR timeouts + $5 >= $7
                                         THEN 'failed' ELSE 'queued' END,
                           failures = failures + $4, timeouts = timeouts + $5, error = $8,
                           queued_at = now(), finished_at = now(),
                           not_before = now() + make_interval(
                               secs => least($9 * power(2, least(failures + timeouts, 20)), $10)),
                           worker_id = NULL, lease_token = NULL
                       WHERE id = $1 AND lease_token = $2
                       RETURNING status, failures, timeouts"#,
                    job.id,
                    job.token,
                    failure.kind == FailureKind::Fatal,
                    i32::from(failure.kind != FailureKind::TimedOut),
                    i32::from(failure.kind == FailureKind::TimedOut),
                    self.policy.failures_max,
                    self.policy.timeouts_max,
                    &*text,
                    self.policy.backoff_first.as_secs_f64(),
                    self.policy.backoff_longest.as_secs_f64()
                )
                .fetch_optional(&mut *transaction)
                .await
                .map_err(error("fail"))?
                .ok_or(StoreError::LeaseLost { job_id: job.id })?;
                let outcome = if failure.kind == FailureKind::TimedOut { "timed_out" } else { "failed" };
                record_attempt(&mut transaction, job, outcome, Some(&text)).await?;
                let status: JobStatus = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
                if status == JobStatus::Failed {
                    let reason = format!(
                        "{} failed for good after {} failures and {} timeouts: {}",
                        job.key, row.failures, row.timeouts, text
                    );
                    fail_batch(&mut transaction, job.batch, &reason).await?;
                }
                transaction.commit().await.map_err(error("fail"))?;
                Ok(status)
            })
            .await
    }

    /// Hands a job back, at no cost in attempts: it is queued, and may be picked after a rest.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn release(&self, job: &LeasedJob, rest: Duration) -> Result<(), StoreError> {
        self.release_because(job, rest, None).await
    }

    /// As [`JobStore::release`], with the reason for the books.
    ///
    /// # Errors
    /// As [`JobStore::release`].
    pub async fn release_because(
        &self,
        job: &LeasedJob,
        rest: Duration,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("release");
        let error = StoreError::database;
        self.hot
            .run("release", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("release"))?;
                let changed = sqlx::query!(
                    "UPDATE prover_jobs SET status = 'queued', queued_at = now(), progress = 0,
                         not_before = now() + make_interval(secs => $3),
                         worker_id = NULL, lease_token = NULL
                     WHERE id = $1 AND lease_token = $2",
                    job.id,
                    job.token,
                    rest.as_secs_f64()
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("release"))?
                .rows_affected();
                if changed != 1 {
                    return Err(StoreError::LeaseLost { job_id: job.id });
                }
                record_attempt(&mut transaction, job, "released", reason).await?;
                transaction.commit().await.map_err(error("release"))?;
                self.waker.wake(job.key.stage);
                Ok(())
            })
            .await
    }

    /// Heals a job whose input artifacts are missing or corrupt: those that made them are queued again, and the job waits
    /// for them, at no cost in attempts. Returns how many jobs run again.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] when nobody made the artifact (a batch's witness input) or it was lost too often: fail the
    /// job then. [`StoreError::LeaseLost`] as everywhere.
    pub async fn lose_inputs(
        &self,
        job: &LeasedJob,
        lost_keys: &[String],
        reason: &str,
    ) -> Result<usize, StoreError> {
        let _timer = QueryTimer::start("lose_inputs");
        let error = StoreError::database;
        let reason = &*stored(reason);
        self.hot
            .run("lose_inputs", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await.map_err(error("lose_inputs"))?;
                let is_own_input = job.input.as_ref().is_some_and(|input| lost_keys.contains(&input.key));
                // The producers first: a job's row is always locked before its successor's, here as in `complete`.
                let producers = if is_own_input {
                    self.requeue_generator(&mut transaction, job, reason).await?
                } else {
                    self.requeue_producers(&mut transaction, job, lost_keys, reason).await?
                };
                if producers == 0 {
                    let is_held = sqlx::query_scalar!(
                        r#"SELECT EXISTS (
                               SELECT FROM prover_jobs WHERE id = $1 AND lease_token = $2) AS "is_held!""#,
                        job.id,
                        job.token
                    )
                    .fetch_one(&mut *transaction)
                    .await
                    .map_err(error("lose_inputs"))?;
                    if !is_held {
                        return Err(StoreError::LeaseLost { job_id: job.id });
                    }
                    return Err(StoreError::Invalid(format!(
                        "no job can make the lost artifacts {} again: {reason}",
                        lost_keys.join(", ")
                    )));
                }
                let changed = sqlx::query!(
                    "UPDATE prover_jobs SET status = 'waiting_for_proofs', dependencies_left = $3,
                         error = $4,
                         worker_id = NULL, lease_token = NULL, progress = 0,
                         input_key = CASE WHEN $5 THEN NULL ELSE input_key END,
                         input_checksum = CASE WHEN $5 THEN NULL ELSE input_checksum END,
                         input_size_bytes = CASE WHEN $5 THEN NULL ELSE input_size_bytes END
                     WHERE id = $1 AND lease_token = $2",
                    job.id,
                    job.token,
                    i32::try_from(producers).unwrap_or(i32::MAX),
                    reason,
                    is_own_input
                )
                .execute(&mut *transaction)
                .await
                .map_err(error("lose_inputs"))?
                .rows_affected();
                if changed != 1 {
                    return Err(StoreError::LeaseLost { job_id: job.id });
                }
                record_attempt(&mut transaction, job, "input_lost", Some(reason)).await?;
                transaction.commit().await.map_err(error("lose_inputs"))?;
                STORE_METRICS.inputs_lost.inc();
                Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
                Ok(producers)
            })
            .await
    }

    /// Queues the jobs again whose outputs were lost.
    async fn requeue_producers(
        &self,
        transaction: &mut Transaction<'_>,
        job: &LeasedJob,
        lost_keys: &[String],
        reason: &str,
    ) -> Result<usize, StoreError> {
        let requeued = sqlx::query!(
            "WITH lost AS (
                 SELECT * FROM prover_jobs
                 WHERE id = ANY((SELECT predecessor_ids FROM prover_jobs WHERE id = $1)::int8[])
                   AND output_key = ANY($2) AND status = 'successful' AND regenerations < $4
                 ORDER BY id FOR UPDATE
             ), booked AS (
                 INSERT INTO job_attempts
                     (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome,
                      peak_memory_bytes)
                 SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful',
                        measured_memory_bytes
                 FROM lost
             )
             UPDATE prover_jobs j SET status = 'queued', queued_at = now(), not_before = now(),
                 finished_at = NULL, progress = 0, regenerations = j.regenerations + 1, error = $3,
                 completed_by = NULL, completed_token = NULL, measured_memory_bytes = NULL,
                 output_key = NULL, output_checksum = NULL, output_size_bytes = NULL
             FROM lost WHERE j.id = lost.id",
            job.id,
            lost_keys,
            reason,
            self.policy.regenerations_max
        )
        .execute(&mut **transaction)
        .await
        .map_err(StoreError::database("lose_inputs: requeue producers"))?;
        Ok(usize::try_from(requeued.rows_affected()).unwrap_or(usize::MAX))
    }

    /// Queues the batch's witness generator again, which wrote the circuit that was lost. One that still runs, or
    /// waits to, will find the gap when it completes.
    async fn requeue_generator(
        &self,
        transaction: &mut Transaction<'_>,
        job: &LeasedJob,
        reason: &str,
    ) -> Result<usize, StoreError> {
        let row = sqlx::query!(
            "WITH generator AS (
                 SELECT * FROM prover_jobs
                 WHERE id = $1 AND regenerations < $3 AND status IN ('successful', 'queued', 'in_progress')
                 FOR UPDATE
             ), booked AS (
                 INSERT INTO job_attempts
                     (job_id, attempt, worker_id, lease_token, started_at, finished_at, outcome,
                      peak_memory_bytes)
                 SELECT id, attempts, completed_by, completed_token, started_at, finished_at, 'successful',
                        measured_memory_bytes
                 FROM generator WHERE status = 'successful'
             )
             UPDATE prover_jobs j SET
                 status = CASE WHEN j.status = 'successful' THEN 'queued' ELSE j.status END,
                 queued_at = now(), finished_at = NULL, regenerations = j.regenerations + 1, error = $2,
                 completed_by = NULL, completed_token = NULL, measured_memory_bytes = NULL
             FROM generator WHERE j.id = generator.id",
            generator_id(position_of(job.id))?,
            reason,
            self.policy.regenerations_max
        )
        .execute(&mut **transaction)
        .await
        .map_err(StoreError::database("lose_inputs: requeue generator"))?;
        Ok(usize::try_from(row.rows_affected()).unwrap_or(usize::MAX))
    }
}

/// Writes how an attempt ended, in the transaction that ended it. (`commit.rs` writes those that succeeded, many at once.)
async fn record_attempt(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
    outcome: &str,
    error: Option<&str>,
) -> Result<(), StoreError> {
    let error = error.map(stored);
    sqlx::query!(
        "INSERT INTO job_attempts (job_id, attempt, worker_id, lease_token, started_at, finished_at,
             outcome, error)
         SELECT id, $2, $3, $4, started_at, now(), $5, $6 FROM prover_jobs WHERE id = $1",
        job.id,
        job.attempt,
        job.worker,
        job.token,
        outcome,
        error.as_deref()
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("record_attempt"))?;
    Ok(())
}

pub(crate) async fn fail_batch(
    transaction: &mut Transaction<'_>,
    batch: proving_model::BatchId,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE batches SET status = 'failed', error = $3, finished_at = now()
         WHERE chain_id = $1 AND number = $2 AND status IN ('queued', 'in_progress')",
        i64::from(batch.chain_id),
        i64::from(batch.number),
        &*stored(reason)
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("fail_batch"))?;
    Ok(())
}
