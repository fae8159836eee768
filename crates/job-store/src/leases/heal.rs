//! Heals lost artifacts: whoever made them makes them again.

use crate::database::connections::Transaction;
use crate::database::metrics::STORE_METRICS;
use crate::database::store::JobStore;
use crate::database::text::stored;
use crate::leases::attempts::{Outcome, log_own};
use crate::leases::put_back::run_again;
use crate::model::error::StoreError;
use crate::model::ids::{generator_id, position_of};
use crate::model::rows::LeasedJob;
use proving_model::Stage;
use sqlx::{Connection, PgConnection};

impl JobStore {
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
        let reason = &*stored(reason);
        self.hot
            .run("lose_inputs", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
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
                               SELECT FROM jobs WHERE id = $1 AND lease_token = $2) AS "is_held!""#,
                        job.id,
                        job.token
                    )
                    .fetch_one(&mut *transaction)
                    .await?;
                    if !is_held {
                        return Err(StoreError::LeaseLost { job_id: job.id });
                    }
                    return Err(StoreError::Invalid(format!(
                        "no job can make the lost artifacts {} again: {reason}",
                        lost_keys.join(", ")
                    )));
                }
                log_own(&mut transaction, job, Outcome::InputLost, Some(reason)).await?;
                sqlx::query!(
                    "UPDATE jobs SET status = 'waiting_for_proofs', dependencies_left = $3,
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
                .await?;
                transaction.commit().await?;
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
        let lost = sqlx::query_scalar!(
            "SELECT id FROM jobs
             WHERE id = ANY((SELECT predecessor_ids FROM jobs WHERE id = $1)::int8[])
               AND output_key = ANY($2) AND status = 'successful' AND regenerations < $3
             ORDER BY id FOR UPDATE",
            job.id,
            lost_keys,
            self.policy.regenerations_max
        )
        .fetch_all(&mut **transaction)
        .await?;
        let requeued = run_again(transaction, &lost, 1, Some(reason)).await?;
        Ok(usize::try_from(requeued).unwrap_or(usize::MAX))
    }

    /// Queues the batch's witness generator again, which wrote the circuit that was lost. One that still runs, or
    /// waits to, will find the gap when it completes.
    async fn requeue_generator(
        &self,
        transaction: &mut Transaction<'_>,
        job: &LeasedJob,
        reason: &str,
    ) -> Result<usize, StoreError> {
        let generator = generator_id(position_of(job.id))?;
        // One that succeeded runs again; one that does not run yet, or still does, finds the gap itself.
        let found = sqlx::query_scalar!(
            r#"SELECT status = 'successful' AS "is_successful!" FROM jobs
               WHERE id = $1 AND regenerations < $2 AND status IN ('successful', 'queued', 'in_progress')
               FOR UPDATE"#,
            generator,
            self.policy.regenerations_max
        )
        .fetch_optional(&mut **transaction)
        .await?;
        match found {
            None => return Ok(0),
            Some(true) => drop(run_again(transaction, &[generator], 1, Some(reason)).await?),
            Some(false) => {
                sqlx::query!(
                    "UPDATE jobs SET queued_at = now(), regenerations = regenerations + 1, error = $2 WHERE id = $1",
                    generator,
                    reason
                )
                .execute(&mut **transaction)
                .await?;
            }
        }
        Ok(1)
    }
}
