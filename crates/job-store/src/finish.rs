//! The ends of an attempt: complete, fail, release, give back for a lost input. Each shows the lease's token and
//! changes exactly one row, or is [`StoreError::LeaseLost`].

use crate::metrics::{QueryTimer, STORE_METRICS};
use crate::model::size;
use crate::{JobStore, LeasedJob, StoreError};
use proving_model::{AggregationRound, ArtifactRef, JobStatus, Stage};
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

type Transaction<'a> = sqlx::Transaction<'a, sqlx::Postgres>;

impl JobStore {
    /// Completes a job: it becomes successful with this output, its successor misses one less, the batch moves on.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn complete(&self, job: &LeasedJob, output: Option<&ArtifactRef>) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("complete");
        let error = StoreError::database;
        let mut transaction = self.pool.begin().await.map_err(error("complete"))?;
        let successor = sqlx::query_scalar!(
            "UPDATE prover_jobs SET
                 status = 'successful', finished_at = now(), progress = 1, error = NULL,
                 worker_id = NULL, lease_token = NULL, lease_expires_at = NULL,
                 output_key = $3, output_checksum = $4, output_size_bytes = $5
             WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'
             RETURNING successor_id",
            job.id,
            job.token,
            output.map(|artifact| artifact.key.clone()),
            output.map(|artifact| artifact.checksum.to_vec()),
            output.map(size)
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(error("complete"))?
        .ok_or(StoreError::LeaseLost { job_id: job.id })?;
        finish_attempt(&mut transaction, job, "successful", None).await?;
        let mut woken = None;
        if let Some(successor) = successor {
            woken = unlock(&mut transaction, successor).await?;
        }
        if job.key.stage == Stage::Compression {
            finish_batch(&mut transaction, job, output).await?;
        }
        if job.key.stage == Stage::WitnessGeneration && job.key.round == AggregationRound::BasicCircuits {
            woken = requeue_if_circuits_are_missing(&mut transaction, job).await?.or(woken);
        }
        transaction.commit().await.map_err(error("complete"))?;
        if let Some(stage) = woken {
            self.waker.wake(stage);
        }
        Ok(())
    }

    /// Ends an attempt that failed: back to the queue after a rest, or failed for good, with its batch.
    /// Returns the job's new state.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn fail(&self, job: &LeasedJob, failure: &AttemptFailure) -> Result<JobStatus, StoreError> {
        let _timer = QueryTimer::start("fail");
        let error = StoreError::database;
        let mut transaction = self.pool.begin().await.map_err(error("fail"))?;
        let row = sqlx::query!(
            r#"UPDATE prover_jobs SET
                   status = CASE WHEN $3 OR failures + $4 >= $6 OR timeouts + $5 >= $7
                                 THEN 'failed' ELSE 'queued' END,
                   failures = failures + $4, timeouts = timeouts + $5, error = $8,
                   queued_at = now(), finished_at = now(),
                   not_before = now() + make_interval(
                       secs => least($9 * power(2, least(failures + timeouts, 20)), $10)),
                   worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
               WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'
               RETURNING status, failures, timeouts"#,
            job.id,
            job.token,
            failure.kind == FailureKind::Fatal,
            i32::from(failure.kind != FailureKind::TimedOut),
            i32::from(failure.kind == FailureKind::TimedOut),
            self.policy.failures_max,
            self.policy.timeouts_max,
            failure.error,
            self.policy.backoff_first.as_secs_f64(),
            self.policy.backoff_longest.as_secs_f64()
        )
        .fetch_optional(&mut *transaction)
        .await
        .map_err(error("fail"))?
        .ok_or(StoreError::LeaseLost { job_id: job.id })?;
        let outcome = if failure.kind == FailureKind::TimedOut { "timed_out" } else { "failed" };
        finish_attempt(&mut transaction, job, outcome, Some(&failure.error)).await?;
        let status: JobStatus = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
        if status == JobStatus::Failed {
            let reason = format!(
                "{} failed for good after {} failures and {} timeouts: {}",
                job.key, row.failures, row.timeouts, failure.error
            );
            fail_batch(&mut transaction, job.batch, &reason).await?;
        }
        transaction.commit().await.map_err(error("fail"))?;
        Ok(status)
    }

    /// Hands a job back, at no cost in attempts: it is queued, and may be picked after a rest.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`]; nothing is changed then.
    pub async fn release(&self, job: &LeasedJob, rest: Duration) -> Result<(), StoreError> {
        let _timer = QueryTimer::start("release");
        let error = StoreError::database;
        let mut transaction = self.pool.begin().await.map_err(error("release"))?;
        let changed = sqlx::query!(
            "UPDATE prover_jobs SET status = 'queued', queued_at = now(), progress = 0,
                 not_before = now() + make_interval(secs => $3),
                 worker_id = NULL, lease_token = NULL, lease_expires_at = NULL
             WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'",
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
        finish_attempt(&mut transaction, job, "released", None).await?;
        transaction.commit().await.map_err(error("release"))?;
        self.waker.wake(job.key.stage);
        Ok(())
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
        let mut transaction = self.pool.begin().await.map_err(error("lose_inputs"))?;
        let is_own_input = job.input.as_ref().is_some_and(|input| lost_keys.contains(&input.key));
        // The producers first: a job's row is always locked before its successor's, here as in `complete`.
        let producers = if is_own_input {
            self.requeue_generator(&mut transaction, job, reason).await?
        } else {
            self.requeue_producers(&mut transaction, job, lost_keys, reason).await?
        };
        if producers == 0 {
            return Err(StoreError::Invalid(format!(
                "no job can make the lost artifacts {} again: {reason}",
                lost_keys.join(", ")
            )));
        }
        let changed = sqlx::query!(
            "UPDATE prover_jobs SET status = 'waiting_for_proofs', dependencies_left = $3, error = $4,
                 worker_id = NULL, lease_token = NULL, lease_expires_at = NULL, progress = 0,
                 input_key = CASE WHEN $5 THEN NULL ELSE input_key END,
                 input_checksum = CASE WHEN $5 THEN NULL ELSE input_checksum END,
                 input_size_bytes = CASE WHEN $5 THEN NULL ELSE input_size_bytes END
             WHERE id = $1 AND lease_token = $2 AND status = 'in_progress'",
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
        finish_attempt(&mut transaction, job, "input_lost", Some(reason)).await?;
        transaction.commit().await.map_err(error("lose_inputs"))?;
        STORE_METRICS.inputs_lost.inc();
        Stage::ALL.iter().for_each(|stage| self.waker.wake(*stage));
        Ok(producers)
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
            "UPDATE prover_jobs SET status = 'queued', queued_at = now(), not_before = now(),
                 finished_at = NULL, progress = 0, regenerations = regenerations + 1, error = $3,
                 output_key = NULL, output_checksum = NULL, output_size_bytes = NULL
             WHERE successor_id = $1 AND output_key = ANY($2) AND status = 'successful' AND regenerations < $4",
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
            r#"UPDATE prover_jobs SET
                   status = CASE WHEN status = 'successful' THEN 'queued' ELSE status END,
                   queued_at = now(), finished_at = NULL, regenerations = regenerations + 1, error = $3
               WHERE chain_id = $1 AND batch_number = $2 AND aggregation_round = 0
                 AND stage = 'witness_generation' AND regenerations < $4
                 AND status IN ('successful', 'queued', 'in_progress')"#,
            i64::from(job.batch.chain_id),
            i64::from(job.batch.number),
            reason,
            self.policy.regenerations_max
        )
        .execute(&mut **transaction)
        .await
        .map_err(StoreError::database("lose_inputs: requeue generator"))?;
        Ok(usize::try_from(row.rows_affected()).unwrap_or(usize::MAX))
    }
}

pub(crate) async fn finish_attempt(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
    outcome: &str,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE job_attempts SET finished_at = now(), outcome = $3, error = $4
         WHERE job_id = $1 AND lease_token = $2",
        job.id,
        job.token,
        outcome,
        error
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("finish_attempt"))?;
    Ok(())
}

/// One proof less to wait for. Returns the stage to wake when that was the last.
async fn unlock(transaction: &mut Transaction<'_>, successor: i64) -> Result<Option<Stage>, StoreError> {
    let row = sqlx::query!(
        "UPDATE prover_jobs SET
             dependencies_left = dependencies_left - 1,
             status = CASE WHEN status = 'waiting_for_proofs' AND dependencies_left = 1
                           THEN 'queued' ELSE status END,
             queued_at = CASE WHEN dependencies_left = 1 THEN now() END
         WHERE id = $1
         RETURNING status, stage",
        successor
    )
    .fetch_one(&mut **transaction)
    .await
    .map_err(StoreError::database("complete: unlock the successor"))?;
    let is_queued = row.status == JobStatus::Queued.as_str();
    Ok(if is_queued { row.stage.parse().ok() } else { None })
}

async fn finish_batch(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
    output: Option<&ArtifactRef>,
) -> Result<(), StoreError> {
    let output =
        output.ok_or_else(|| StoreError::Invalid("a compression completes with a final proof".to_owned()))?;
    sqlx::query!(
        "UPDATE batches SET status = 'successful', finished_at = now(), error = NULL,
             final_proof_key = $3, final_proof_checksum = $4, final_proof_size_bytes = $5
         WHERE chain_id = $1 AND number = $2",
        i64::from(job.batch.chain_id),
        i64::from(job.batch.number),
        output.key,
        output.checksum.as_slice(),
        size(output)
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("complete: finish the batch"))?;
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
        reason
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("fail_batch"))?;
    Ok(())
}

/// A circuit whose artifact was lost while its generator still ran, or after it handed the circuit out for good:
/// the generator runs again at once.
async fn requeue_if_circuits_are_missing(
    transaction: &mut Transaction<'_>,
    job: &LeasedJob,
) -> Result<Option<Stage>, StoreError> {
    let requeued = sqlx::query!(
        "UPDATE prover_jobs SET status = 'queued', queued_at = now(), finished_at = NULL, progress = 0
         WHERE id = $1 AND EXISTS (
             SELECT 1 FROM prover_jobs c
             WHERE c.chain_id = $2 AND c.batch_number = $3 AND c.aggregation_round = 0
               AND c.stage = 'circuit_proof' AND c.status = 'waiting_for_proofs' AND c.input_key IS NULL)",
        job.id,
        i64::from(job.batch.chain_id),
        i64::from(job.batch.number)
    )
    .execute(&mut **transaction)
    .await
    .map_err(StoreError::database("complete: look for lost circuits"))?;
    Ok((requeued.rows_affected() == 1).then_some(Stage::WitnessGeneration))
}
