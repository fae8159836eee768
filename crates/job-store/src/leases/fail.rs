//! Ends an attempt that failed.

use crate::batches::progress::fail_batch;
use crate::database::store::JobStore;
use crate::database::text::stored;
use crate::leases::attempts::{Outcome, log_own};
use crate::model::error::StoreError;
use crate::model::rows::LeasedJob;
use proving_model::JobStatus;
use sqlx::{Connection, PgConnection};

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
        let text = stored(&failure.error);
        self.hot
            .run("fail", async |connection: &mut PgConnection| {
                let mut transaction = connection.begin().await?;
                let outcome = match failure.kind {
                    FailureKind::TimedOut => Outcome::TimedOut,
                    FailureKind::Retryable | FailureKind::Fatal => Outcome::Failed,
                };
                log_own(&mut transaction, job, outcome, Some(&text)).await?;
                let row = sqlx::query!(
                    r#"UPDATE jobs SET
                           status = CASE WHEN $3 OR failures + $4 >= $6 OR timeouts + $5 >= $7
                                         THEN 'failed' ELSE 'queued' END,
                           failures = least(failures + $4, 1000000000), timeouts = least(timeouts + $5, 1000000000), error = $8,
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
                .fetch_one(&mut *transaction)
                .await?;
                let status: JobStatus = row.status.parse().map_err(|e| StoreError::Schema(format!("{e}")))?;
                if status == JobStatus::Failed {
                    let reason = format!(
                        "{} failed for good after {} failures and {} timeouts: {}",
                        job.key, row.failures, row.timeouts, text
                    );
                    fail_batch(&mut transaction, job.batch, &reason).await?;
                }
                transaction.commit().await?;
                Ok(status)
            })
            .await
    }
}
